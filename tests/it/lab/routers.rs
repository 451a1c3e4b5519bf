//! Nodes behind routers and firewalls: found out, told, and downloaded from all the same.

use tempfile::TempDir;

use super::{Lab, Router};
use crate::harness::{Process, code, file, noise, process_joined as joined, stderr};

const MASTER: [&str; 3] = ["--no-mdns", "--master", "/ip4/10.77.0.1/tcp/4747"];

fn reachable(node: &Process, peer: &Process) -> Option<bool> {
    let peers = node.json(&["peers"]);
    let found = peers.as_array().unwrap().iter().find(|other| other["peer_id"] == peer.peer_id().as_str()).cloned();
    found?["reachable"].as_bool()
}

/// A peer behind a router makes connections and takes none in. The master finds that out; those who want its files have it
/// connect to them; and what it has connected to stays connected for a while, without the master as well.
fn behind(kind: Router, name: &str) {
    let Some(mut lab) = Lab::with_filters(name) else { return };
    let (outside, inside) = (lab.network("10.77.0"), lab.network("10.88.0"));
    let [at_master, at_ben, at_cleo] = [1, 3, 4].map(|number| lab.host(&outside, number));
    let at_anna = lab.host(&inside, 2);
    lab.router(&inside, &outside, kind, &[&at_anna]);
    let folder = TempDir::new().unwrap();
    let mut master = at_master.start("master", folder.path(), &["--no-mdns"]);
    let shared = ["first", "second", "third"].map(|name| file(folder.path(), name, &noise(7, 600_000)));
    let share: Vec<_> = shared.iter().flat_map(|path| ["--share", path.as_str()]).collect();
    let anna = at_anna.start("peer", folder.path(), &[&share[..], &MASTER].concat());
    let [ben, cleo] = [at_ben, at_cleo].map(|host| host.start("peer", folder.path(), &MASTER));
    [&anna, &ben, &cleo].into_iter().for_each(joined);
    anna.until(&["status"], |status| status["reachable"] == false);
    anna.until_log("behind a router or a firewall");
    ben.until(&["status"], |status| status["reachable"] == true);
    assert_eq!((reachable(&master, &anna), reachable(&cleo, &ben)), (Some(false), Some(true)));
    let found = cleo.until(&["lookup", "first"], |found| found["certified"] == true);
    assert_eq!(found["holders"][0]["reachable"], false);
    let text = String::from_utf8_lossy(&cleo.command(&["peers"]).stdout).into_owned();
    assert!(text.contains("behind a router or firewall"), "{text}");

    let get = |node: &Process, name: &str| {
        let out = folder.path().join(format!("{name}-{}", node.pid()));
        let got = node.command(&["get", name, "-o", out.to_str().unwrap()]);
        assert_eq!(code(&got), 0, "{name}: {}", stderr(&got));
        assert!(std::fs::read(out).unwrap() == noise(7, 600_000));
    };
    get(&ben, "first");
    get(&cleo, "first");
    // Those who fetched from it lately stay connected, and go on without the master.
    master.kill();
    ben.until(&["status"], |status| status["master"]["state"] == "unreachable");
    std::fs::remove_file(folder.path().join(format!("first-{}", ben.pid()))).unwrap();
    get(&ben, "second");
}

#[test]
fn a_peer_behind_address_translation_is_downloaded_from() {
    behind(Router::Nat, "nat");
}

#[test]
fn a_peer_behind_a_firewall_is_downloaded_from() {
    behind(Router::Firewall, "wall");
}

/// Two networks with a router between them that passes everything on: nothing is special.
#[test]
fn two_networks_are_one_by_multiaddrs() {
    let Some(mut lab) = Lab::new("two") else { return };
    let (outside, inside) = (lab.network("10.77.0"), lab.network("10.88.0"));
    let [at_master, at_ben] = [1, 3].map(|number| lab.host(&outside, number));
    let at_anna = lab.host(&inside, 2);
    lab.router(&inside, &outside, Router::Plain, &[&at_anna]);
    let folder = TempDir::new().unwrap();
    let _master = at_master.start("master", folder.path(), &["--no-mdns"]);
    let shared = file(folder.path(), "name", &noise(8, 600_000));
    let anna = at_anna.start("peer", folder.path(), &[&["--share", &shared][..], &MASTER].concat());
    let ben = at_ben.start("peer", folder.path(), &MASTER);
    joined(&ben);
    anna.until(&["status"], |status| status["reachable"] == true);
    let out = folder.path().join("out");
    let got = ben.command(&["get", "name", "-o", out.to_str().unwrap()]);
    assert_eq!(code(&got), 0, "{}", stderr(&got));
}

/// Both are behind routers of their own: that does not work yet, and is said within seconds.
#[test]
fn two_peers_behind_routers_are_told_why_it_fails() {
    let Some(mut lab) = Lab::with_filters("both") else { return };
    let (outside, left, right) = (lab.network("10.77.0"), lab.network("10.88.0"), lab.network("10.99.0"));
    let (at_master, at_anna, at_ben) = (lab.host(&outside, 1), lab.host(&left, 2), lab.host(&right, 3));
    lab.router(&left, &outside, Router::Nat, &[&at_anna]);
    lab.router_at(&right, &outside, 253, Router::Nat, &[&at_ben]);
    let folder = TempDir::new().unwrap();
    let _master = at_master.start("master", folder.path(), &["--no-mdns"]);
    let shared = file(folder.path(), "name", &noise(7, 600_000));
    let anna = at_anna.start("peer", folder.path(), &[&["--share", &shared][..], &MASTER].concat());
    let ben = at_ben.start("peer", folder.path(), &MASTER);
    joined(&ben);
    for node in [&anna, &ben] {
        node.until(&["status"], |status| status["reachable"] == false);
    }
    ben.until(&["lookup", "name"], |found| found["holders"][0]["reachable"] == false);
    let begin = std::time::Instant::now();
    let out = folder.path().join("out");
    let got = ben.command(&["get", "name", "-o", out.to_str().unwrap()]);
    let (took, said) = (begin.elapsed(), stderr(&got));
    assert_eq!(code(&got), 5, "{said}");
    assert!(took < std::time::Duration::from_secs(8), "{took:?}");
    for part in [anna.peer_id().as_str(), "is behind a router or a firewall", "10.88.0.2/tcp/"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// A host has more interfaces that lead nowhere from elsewhere (bridges, tunnels) than a message has room for addresses, all listed
/// before the one that works.
#[test]
fn twenty_dead_addresses_beside_a_live_one_do_not_hide_it() {
    let Some(mut lab) = Lab::with_filters("dead") else { return };
    let network = lab.network("10.77.0");
    let [at_master, at_anna, at_ben] = [1, 2, 3].map(|number| lab.host(&network, number));
    at_anna.ip(&["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    for number in 1..=20 {
        at_anna.ip(&["addr", "add", &format!("10.66.{number}.1/24"), "dev", "eth0"]);
    }
    at_anna.ip(&["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    at_anna.ip(&["route", "replace", "default", "dev", "eth0", "src", "10.77.0.2"]);
    at_anna.filter(
        "table inet dead {\n chain into {\n type filter hook input priority 0\n ip daddr 10.66.0.0/16 drop\n }\n}\n",
    );
    let folder = TempDir::new().unwrap();
    let mut master = at_master.start("master", folder.path(), &["--no-mdns"]);
    let shared = ["first", "second"].map(|name| file(folder.path(), name, &noise(7, 600_000)));
    let share: Vec<_> = shared.iter().flat_map(|path| ["--share", path.as_str()]).collect();
    let anna = at_anna.start("peer", folder.path(), &[&share[..], &MASTER].concat());
    let ben = at_ben.start("peer", folder.path(), &MASTER);
    [&anna, &ben].into_iter().for_each(joined);
    anna.until(&["status"], |status| status["reachable"] == true);
    let get = |name: &str| {
        let (begin, out) = (std::time::Instant::now(), folder.path().join(format!("{name}-got")));
        let got = ben.command(&["get", name, "--no-reshare", "-o", out.to_str().unwrap()]);
        assert_eq!(code(&got), 0, "{name}: {}", stderr(&got));
        assert!(begin.elapsed() < std::time::Duration::from_secs(8), "{name}: {:?}", begin.elapsed());
    };
    get("first");
    ben.until(&["lookup", "second"], |found| found["certified"] == true);
    // What the DHT tells of it leads there as well.
    master.kill();
    ben.until(&["status"], |status| status["master"]["state"] == "unreachable");
    get("second");
}
