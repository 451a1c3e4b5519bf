//! How nodes connect: from which port, to which addresses, and how soon they know that nobody is there.

use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{
    Process, TestNode, address, code, file, found, host, noise, process_joined as joined, stderr, tcp_address,
};
use crate::lan::Lan;

const MASTER: [&str; 3] = ["--no-mdns", "--master", "/ip4/10.77.0.1/tcp/4747"];
/// What a user waits for at most before he is told that a holder cannot be reached.
const SOON: Duration = Duration::from_secs(8);

/// A node listens on one address, and another program has that port on another one: its connections leave from
/// another port, and do not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_elsewhere_is_not_in_the_way() {
    let master = TestNode::master().await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    // Over TCP alone: QUIC has ports of its own.
    let peer = TestNode::peer_with(&master, |config| {
        config.listen = vec![address(&format!("/ip4/{}/tcp/{port}", host()))];
        config.master = vec![tcp_address(&master)];
    })
    .await;
    peer.share_file("name", b"x").await;
    found(&master, "name").await;
}

/// Nodes with the times of a real network: a holder that falls silent is a member for a while yet.
fn slow_leases(folder: &Path, lan: &Lan) {
    for host in &lan.hosts {
        host.settings(folder, "[lease]\nlease_seconds = 60\n");
    }
}

fn get(node: &Process, name: &str, folder: &Path) -> (Output, Duration) {
    let out = folder.join(format!("{name}.out"));
    let begin = Instant::now();
    let got = node.command(&["get", name, "-o", out.to_str().unwrap()]);
    let took = begin.elapsed();
    println!("get {name}: {took:?} {}", stderr(&got));
    (got, took)
}

/// A holder whose host takes everything in and sends nothing: who it is, since when it is silent and what was tried is said within
/// seconds, sooner the next time, and forgotten when it is back.
#[test]
fn a_holder_that_does_not_answer_is_named_within_seconds() {
    let Some(lan) = Lan::new("mute", 3) else { return };
    let folder = TempDir::new().unwrap();
    slow_leases(folder.path(), &lan);
    let _master = lan.start(0, "master", folder.path(), &["--no-mdns"]);
    let shared = file(folder.path(), "name", &noise(1, 300_000));
    let anna = lan.start(1, "peer", folder.path(), &[&["--share", &shared][..], &MASTER].concat());
    anna.until(&["ls"], |entries| entries.to_string().contains("certified"));
    lan.hosts[1].mute(true);
    let ben = lan.start(2, "peer", folder.path(), &MASTER);
    joined(&ben);
    let (got, took) = get(&ben, "name", folder.path());
    assert_eq!(code(&got), 5);
    assert!(took < SOON, "{took:?}");
    let said = stderr(&got);
    for part in ["name", &anna.peer_id(), "has not answered for", "10.77.0.2/tcp/", "/quic-v1", "try again later"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (got, took) = get(&ben, "name", folder.path());
    assert_eq!(code(&got), 5);
    assert!(took < SOON / 2, "what failed a moment ago is not waited for: {took:?}");
    lan.hosts[1].mute(false);
    let (got, _) = get(&ben, "name", folder.path());
    assert_eq!(code(&got), 0, "{}", stderr(&got));
}

/// The same for a holder that falls silent while a connection to it stands.
#[test]
fn a_holder_that_falls_silent_on_a_connection_is_named_within_seconds() {
    let Some(lan) = Lan::new("hush", 3) else { return };
    let folder = TempDir::new().unwrap();
    slow_leases(folder.path(), &lan);
    let _master = lan.start(0, "master", folder.path(), &["--no-mdns"]);
    let [first, second] =
        [("first", 2), ("second", 3)].map(|(name, seed)| file(folder.path(), name, &noise(seed, 300_000)));
    let share = ["--share", &first, "--share", &second];
    let anna = lan.start(1, "peer", folder.path(), &[&share[..], &MASTER].concat());
    let ben = lan.start(2, "peer", folder.path(), &MASTER);
    joined(&ben);
    ben.until(&["search", "second"], |entries| entries.as_array().is_some_and(|entries| entries.len() == 1));
    assert_eq!(code(&get(&ben, "first", folder.path()).0), 0);
    lan.hosts[1].mute(true);
    let (got, took) = get(&ben, "second", folder.path());
    assert_eq!(code(&got), 5);
    assert!(took < SOON, "{took:?}");
    let said = stderr(&got);
    assert!(said.contains(&anna.peer_id()) && said.contains("has not answered for"), "{said}");
}

/// A holder that is gone, and whose host says so.
#[test]
fn a_holder_that_is_gone_is_named_at_once() {
    let folder = TempDir::new().unwrap();
    let master = Process::start("master", &folder.path().join("master"), &[]);
    let at = master.address();
    let shared = file(folder.path(), "name", &noise(1, 300_000));
    let mut anna = Process::start("peer", &folder.path().join("anna"), &["--share", &shared, "--master", &at]);
    let ben = Process::start("peer", &folder.path().join("ben"), &["--master", &at]);
    joined(&ben);
    ben.until(&["search", "name"], |entries| entries.as_array().is_some_and(|entries| entries.len() == 1));
    let (name, began) = (anna.peer_id(), Instant::now());
    anna.kill();
    let (got, took) = get(&ben, "name", folder.path());
    // The lease of four seconds may be over on a busy machine.
    if began.elapsed() < Duration::from_secs(4) {
        assert_eq!(code(&got), 5);
        assert!(stderr(&got).contains(&name), "{}", stderr(&got));
    }
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A peer on the master's own host, known there by its loopback addresses: others are not told of these.
#[test]
fn loopback_addresses_are_told_on_their_host_alone() {
    let Some(lan) = Lan::new("here", 2) else { return };
    let folder = TempDir::new().unwrap();
    let master = lan.start(0, "master", folder.path(), &["--no-mdns"]);
    let shared = file(folder.path(), "name", &noise(1, 300_000));
    let here = ["--no-mdns", "--master", "/ip4/127.0.0.1/tcp/4747"];
    let anna = lan.start(0, "peer", &folder.path().join("anna"), &[&["--share", &shared][..], &here].concat());
    let carl = lan.start(0, "peer", &folder.path().join("carl"), &here);
    let ben = lan.start(1, "peer", folder.path(), &MASTER);
    [&anna, &carl, &ben].into_iter().for_each(joined);
    let addresses = |node: &Process| {
        let found = node.until(&["lookup", "name"], |found| found["certified"] == true);
        assert_eq!(found["owner"], anna.peer_id());
        found["holders"][0]["addresses"].to_string()
    };
    let (near, far) = (addresses(&carl), addresses(&ben));
    assert!(near.contains("127.0.0.1") && near.contains("10.77.0.1"), "{near}");
    assert!(!far.contains("127.0.0.1") && !far.contains("::1") && far.contains("10.77.0.1"), "{far}");
    let members = ben.json(&["peers"]).to_string();
    assert!(!members.contains("127.0.0.1") && !members.contains("fe80"), "{members}");
    assert_eq!(code(&get(&ben, "name", folder.path()).0), 0);
    assert_eq!(code(&get(&carl, "name", &folder.path().join("carl")).0), 0);
    drop(master);
}
