//! Networks that fall apart and come together again, and networks of many hosts.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Lab;
use crate::harness::{Process, file, noise, process_joined as joined};

const MASTER: [&str; 3] = ["--no-mdns", "--master", "/ip4/10.77.0.1/tcp/4747"];

fn owner(node: &Process, name: &str) -> Option<String> {
    let output = node.command(&["lookup", name, "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(found["owner"].as_str()?.to_owned())
}

/// Two sides of a network give one name to two owners, one by the master and one by a claim. When they meet again one of them has it,
/// everywhere, within seconds; and the other is told.
#[test]
fn a_partition_heals_and_a_name_has_one_owner() {
    let Some(mut lab) = Lab::new("apart") else { return };
    let network = lab.network("10.77.0");
    let hosts = [1, 2, 3, 4, 5].map(|number| lab.host(&network, number));
    let folder = TempDir::new().unwrap();
    let master = hosts[0].start("master", folder.path(), &["--no-mdns"]);
    let peers: Vec<_> = hosts[1..].iter().map(|host| host.start("peer", folder.path(), &MASTER)).collect();
    peers.iter().for_each(joined);
    for peer in &peers {
        peer.until(&["status"], |status| status["dht"]["nodes"].as_u64() >= Some(4));
    }
    network.split(&hosts[3..], true);
    for peer in &peers[2..] {
        peer.until(&["status"], |status| status["master"]["state"] == "unreachable");
    }
    let share = |node: &Process, side: &str| {
        node.json(&["share", &file(folder.path(), &format!("{side}/both"), side.as_bytes())])["entries"][0].clone()
    };
    assert_eq!(share(&peers[0], "here")["standing"], "certified");
    assert_eq!(share(&peers[2], "there")["standing"], "claimed");
    assert_eq!(owner(&peers[3], "both"), Some(peers[2].peer_id()));
    network.split(&hosts[3..], false);
    let healed = Instant::now();
    let all = [&master, &peers[0], &peers[1], &peers[2], &peers[3]];
    let one = Some(peers[0].peer_id());
    while !all.iter().all(|node| owner(node, "both") == one) {
        assert!(healed.elapsed() < Duration::from_secs(30), "{:?}", all.map(|node| owner(node, "both")));
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("one owner {:?} after the network came together", healed.elapsed());
    peers[2].until(&["ls"], |names| names[0]["standing"] == "conflict");
}

/// Hosts on one switch that find each other by themselves: all join, and what they say at rest is little.
#[test]
fn many_hosts_on_one_switch_are_quiet() {
    const HOSTS: u8 = 16;
    const REST: Duration = Duration::from_secs(10);
    let Some(mut lab) = Lab::new("many") else { return };
    let network = lab.network("10.77.0");
    let hosts: Vec<_> = (1..=HOSTS).map(|number| lab.host(&network, number)).collect();
    let folder = TempDir::new().unwrap();
    for host in &hosts {
        // Times of a real network.
        host.settings(folder.path(), "[lease]\nlease_seconds = 30\n");
    }
    let shared = file(folder.path(), "name", &noise(1, 300_000));
    let _master = hosts[0].start("master", folder.path(), &["--share", &shared]);
    let peers: Vec<_> = hosts[1..].iter().map(|host| host.start("peer", folder.path(), &[])).collect();
    peers.iter().for_each(joined);
    let out = folder.path().join("out");
    peers[0].json(&["get", "name", "-o", out.to_str().unwrap()]);
    // What they tell each other when they come is over when a stretch of time is quiet.
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let before = network.bytes();
        std::thread::sleep(REST);
        let each = (network.bytes() - before) as f64 / REST.as_secs_f64() / f64::from(HOSTS);
        println!("{each:.0} bytes a second from each host");
        if each < 5000.0 {
            break;
        }
        assert!(Instant::now() < deadline, "{each:.0} bytes a second from each of {HOSTS} hosts at rest");
    }
}
