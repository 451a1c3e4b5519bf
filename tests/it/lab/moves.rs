//! A download survives what happens to its path: addresses that change, paths that carry nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Host, Lab};
use crate::harness::{Process, file, noise, process_joined as joined, program};

/// How soon a transfer goes on when the new path is there: five seconds on a quiet machine.
const SOON: Duration = Duration::from_secs(12);
const MASTER: [&str; 3] = ["--no-mdns", "--master", "/ip4/10.77.0.1/tcp/4747"];
const SIZE: usize = 40_000_000;

/// A master, an owner and a downloader, each on its host, the owner with a slow link.
struct Three {
    hosts: [Host; 3],
    nodes: [Process; 3],
    folder: TempDir,
    _lab: Lab,
}

impl Three {
    fn new(name: &str) -> Option<Self> {
        let mut lab = Lab::with_filters(name)?;
        let network = lab.network("10.77.0");
        let hosts = [1, 2, 3].map(|number| lab.host(&network, number));
        hosts[1].rate(40);
        let folder = TempDir::new().unwrap();
        for host in &hosts {
            // Times of a real network: nothing is noticed by a lease that is over in a moment.
            host.settings(folder.path(), "[lease]\nlease_seconds = 30\n");
        }
        let shared = file(folder.path(), "big", &noise(1, SIZE));
        let nodes = [
            hosts[0].start("master", folder.path(), &["--no-mdns"]),
            hosts[1].start("peer", folder.path(), &[&["--share", &shared][..], &MASTER].concat()),
            hosts[2].start("peer", folder.path(), &MASTER),
        ];
        joined(&nodes[2]);
        nodes[2].until(&["search", "big"], |entries| entries.as_array().is_some_and(|entries| entries.len() == 1));
        Some(Self { hosts, nodes, folder, _lab: lab })
    }

    fn begin(&self) -> Get {
        let out = self.folder.path().join("out");
        let child = program()
            .args(["get", "big", "-o", out.to_str().unwrap(), "--data-dir"])
            .arg(&self.nodes[2].data)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Get { child, out, shared: self.folder.path().join("big") }
    }

    /// Waits until the downloader has so many bytes; how long that took.
    fn until_bytes(&self, bytes: u64) -> Duration {
        let begin = Instant::now();
        self.nodes[2].until(&["status"], |status| status["downloaded_bytes"].as_u64() >= Some(bytes));
        begin.elapsed()
    }

    fn bytes(&self) -> u64 {
        self.nodes[2].json(&["status"])["downloaded_bytes"].as_u64().unwrap()
    }

    /// Waits until the transfer goes on: more comes than was under way.
    fn goes_on(&self, what: &str) {
        let took = self.until_bytes(self.bytes() + 1_500_000);
        println!("{what}: goes on after {took:?}");
        assert!(took < SOON, "{what}: {took:?}");
    }
}

/// A download under way.
struct Get {
    child: Child,
    out: PathBuf,
    shared: PathBuf,
}

impl Get {
    fn ends_well(self) {
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |path: &Path| std::fs::read(path).unwrap();
        assert!(read(&self.out) == read(&self.shared));
    }
}

/// The owner's address changes, again and again, while it is downloaded from.
#[test]
fn an_owner_that_moves_is_followed() {
    let Some(three) = Three::new("owner") else { return };
    let get = three.begin();
    for (from, to) in [(2, 22), (22, 23), (23, 24)] {
        three.goes_on("before the owner's move");
        three.hosts[1].change_address(from, to);
        three.goes_on("the owner moved");
    }
    get.ends_well();
    let log = three.nodes[1].log();
    assert!(log.contains("this host has lost an address"), "{log}");
}

/// The downloader's own address changes, again and again.
#[test]
fn a_downloader_that_moves_goes_on() {
    let Some(three) = Three::new("down") else { return };
    let get = three.begin();
    for (from, to) in [(3, 33), (33, 34), (34, 35)] {
        three.goes_on("before the downloader's move");
        three.hosts[2].change_address(from, to);
        three.goes_on("the downloader moved");
    }
    get.ends_well();
}

/// Both ends of the path change their addresses at the same time.
#[test]
fn both_ends_move_at_once() {
    let Some(three) = Three::new("both") else { return };
    let get = three.begin();
    three.goes_on("before the move");
    three.hosts[1].change_address(2, 22);
    three.hosts[2].change_address(3, 33);
    three.goes_on("both moved");
    get.ends_well();
}

/// The link carries small packets and no large ones over TCP, from one moment on: pings are answered, and no data comes. There is
/// another path, over QUIC.
#[test]
fn a_path_that_carries_pings_alone_is_given_up_for_another() {
    let Some(three) = Three::new("small") else { return };
    let get = three.begin();
    three.goes_on("before");
    three.hosts[1].filter(
        "table inet small { chain out { type filter hook output priority 0; meta l4proto tcp meta length > 600 drop; } }",
    );
    three.goes_on("no large packet passes over TCP");
    get.ends_well();
    let log = three.nodes[2].log();
    assert!(log.contains("nothing comes over the connection"), "{log}");
}

/// The owner's uplink is full of chunks for nodes that take all they can get, the master among them, over the very connection by which
/// the owner renews its lease: pings and renewals go ahead of them.
#[test]
fn an_uplink_full_of_uploads_costs_nobody_its_lease() {
    let Some(mut lab) = Lab::with_filters("full") else { return };
    let network = lab.network("10.77.0");
    let hosts = [1, 2, 3, 4, 5].map(|number| lab.host(&network, number));
    hosts[1].rate(2);
    let folder = TempDir::new().unwrap();
    for host in &hosts {
        host.settings(folder.path(), "[lease]\nlease_seconds = 8\nping_interval_seconds = 2\n");
    }
    let shared = file(folder.path(), "big", &noise(2, 3_000_000));
    let master = hosts[0].start("master", folder.path(), &["--no-mdns"]);
    let owner = hosts[1].start("peer", folder.path(), &[&["--share", &shared][..], &MASTER].concat());
    let others: Vec<_> = hosts[2..].iter().map(|host| host.start("peer", folder.path(), &MASTER)).collect();
    others.iter().for_each(joined);
    master.until(&["search", "big"], |entries| entries.as_array().is_some_and(|entries| entries.len() == 1));
    let gets: Vec<_> = others
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let out = folder.path().join(format!("out{number}"));
            let arguments = ["get", "big", "-o", out.to_str().unwrap(), "--data-dir"];
            program().args(arguments).arg(&node.data).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for get in gets {
        let output = get.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // Then over the very connection that carries the lease, for longer than the lease.
    let out = folder.path().join("last");
    let arguments = ["get", "big", "--no-reshare", "-o", out.to_str().unwrap(), "--data-dir"];
    let get = program().args(arguments).arg(&master.data).output().unwrap();
    assert!(get.status.success(), "{}", String::from_utf8_lossy(&get.stderr));
    for log in [master.log(), owner.log()] {
        for word in ["evicted", "cannot be reached"] {
            assert!(!log.contains(word), "{word}: {log}");
        }
    }
}

/// Whoever moves every ten seconds is downloaded from all the same.
#[test]
fn an_owner_that_never_stays_is_followed() {
    let Some(three) = Three::new("often") else { return };
    three.hosts[1].rate(8);
    let get = three.begin();
    for number in 30..34 {
        let since = Instant::now();
        three.hosts[1].change_address(if number == 30 { 2 } else { number - 1 }, number);
        three.goes_on("the owner moved");
        // The pause is what is tried.
        std::thread::sleep(Duration::from_secs(10).saturating_sub(since.elapsed()));
    }
    three.hosts[1].rate(100);
    get.ends_well();
}

/// Packets come in another order than they left in, by many places.
#[test]
fn a_path_that_reorders_is_no_broken_path() {
    let Some(three) = Three::new("order") else { return };
    three.hosts[1].lanes([30, 10]);
    let get = three.begin();
    get.ends_well();
    let log = three.nodes[2].log();
    assert!(!log.contains("nothing comes over the connection"), "{log}");
}

/// Nothing comes back from the downloader for five seconds, twice; and for a while the owner's link has a hundredth of its rate.
#[test]
fn a_path_that_fails_for_a_while_is_used_again() {
    let Some(three) = Three::new("while") else { return };
    let get = three.begin();
    for _ in 0..2 {
        three.goes_on("before the silence");
        three.hosts[2].mute(true);
        std::thread::sleep(Duration::from_secs(5));
        three.hosts[2].mute(false);
        three.goes_on("after the silence");
    }
    three.hosts[1].rate(1);
    std::thread::sleep(Duration::from_secs(5));
    three.hosts[1].rate(40);
    three.goes_on("after a slow time");
    get.ends_well();
}

/// A node that passes nothing on still fetches from all who have the content: the owner's link is slow, and another has it whole.
#[test]
fn who_passes_nothing_on_finds_other_holders_all_the_same() {
    let Some(mut lab) = Lab::new("keep") else { return };
    let network = lab.network("10.77.0");
    let hosts = [1, 2, 3, 4].map(|number| lab.host(&network, number));
    let folder = TempDir::new().unwrap();
    let shared = file(folder.path(), "big", &noise(3, 8_000_000));
    let _master = hosts[0].start("master", folder.path(), &["--no-mdns"]);
    let owner = hosts[1].start("peer", folder.path(), &[&["--share", &shared][..], &MASTER].concat());
    let holder = hosts[2].start("peer", folder.path(), &MASTER);
    let keeper = hosts[3].start("peer", folder.path(), &[&["--no-reshare"][..], &MASTER].concat());
    [&holder, &keeper].into_iter().for_each(joined);
    let get = |node: &Process, name: &str| {
        node.until(&["lookup", "big"], |found| found["certified"] == true);
        let out = folder.path().join(name);
        node.json(&["get", "big", "-o", out.to_str().unwrap()]);
    };
    get(&holder, "first");
    hosts[1].rate(4);
    let sent = |node: &Process| node.json(&["status"])["uploaded_bytes"].as_u64().unwrap();
    let before = (sent(&owner), sent(&holder));
    get(&keeper, "second");
    let (by_owner, by_holder) = (sent(&owner) - before.0, sent(&holder) - before.1);
    assert!(by_holder > by_owner, "{by_owner} bytes by the owner, {by_holder} by the other");
}
