//! Losing the master, and half of the network, in the midst of everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use swarmdex::Node;
use swarmdex::config::{Config, Role};
use swarmdex::node::{GetRequest, Source};
use tempfile::TempDir;

use crate::harness::{
    Process, TestNode, address, alone, file, joined, made, noise, process_joined, published, tcp_address, until,
};
use crate::stranger::Stranger;

/// How long lookups and downloads took, by the phase that they began in.
#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<Duration>>);

impl Times {
    fn percentile(&self, phase: &str, percent: usize) -> Duration {
        let mut times = self.0.get(phase).cloned().unwrap_or_default();
        times.sort();
        times.get(times.len() * percent / 100).or(times.last()).copied().unwrap_or_default()
    }

    fn print(&self) {
        for (phase, times) in &self.0 {
            let [median, most, longest] = [50, 99, 100].map(|percent| self.percentile(phase, percent));
            println!(
                "{phase}: {} lookups and downloads, median {median:?}, 99th percentile {most:?}, longest {longest:?}",
                times.len()
            );
        }
    }
}

/// Nineteen peers look up and download while their master, a process of its own, is killed. No attempt fails.
async fn outage(operations: usize) -> Times {
    const PEERS: usize = 19;
    const OWNERS: usize = 5;
    const FILES: usize = 8;
    let folder = TempDir::new().unwrap();
    let mut master = Process::start("master", folder.path(), &[]);
    let listen = address(&master.address());
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let listen = listen.clone();
        let peer = TestNode::start(Role::Peer, |config| {
            config.master = vec![listen];
            config.dht.republish = Duration::from_secs(5);
        })
        .await;
        joined(&peer).await;
        peers.push(peer);
    }
    for (owner, peer) in peers[..OWNERS].iter().enumerate() {
        for file in 0..FILES {
            peer.file(&format!("tree/{owner}-{file}"), &noise((owner * FILES + file) as u64, 200_000));
        }
        peer.share(vec![peer.dir.path().join("files/tree")], None).outcome().await.unwrap();
    }
    for peer in &peers {
        until("the nodes know each other", async || (peer.status().await.unwrap().dht.nodes >= 15).then_some(())).await;
    }
    for peer in &peers[..OWNERS] {
        published(peer).await;
    }
    let (next, killed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let killed_at = Arc::new(std::sync::OnceLock::new());
    let readers = peers[OWNERS..OWNERS + 6].iter().map(|peer| {
        let (node, output) = (peer.node.clone(), peer.output());
        let (next, killed, killed_at) = (next.clone(), killed.clone(), killed_at.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= operations {
                    return times;
                }
                let name = format!("{}-{}", number % OWNERS, (number / OWNERS) % FILES);
                let begin = Instant::now();
                let before = !killed.load(Ordering::Relaxed);
                // Every tenth is a download to a place of its own.
                if number % 10 == 0 {
                    let request = GetRequest { name, output: output.join(number.to_string()), recursive: false };
                    let got = node.get(request).outcome().await.unwrap_or_else(|error| panic!("{number}: {error}"));
                    assert_eq!(got.files[0].bytes, 200_000);
                } else {
                    let found = node.lookup(&name).await.unwrap_or_else(|error| panic!("{number}: {error}"));
                    assert!(found.certified);
                }
                let since: Option<Duration> = killed_at.get().map(|at: &Instant| begin.saturating_duration_since(*at));
                let phase = match since {
                    None => "1 before",
                    Some(since) if before || since < Duration::from_secs(1) => "2 during",
                    Some(_) => "3 after",
                };
                times.push((phase, begin.elapsed()));
                // Spread over some seconds, so that each phase has its part.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    while next.load(Ordering::Relaxed) < operations / 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    master.kill();
    killed_at.set(Instant::now()).unwrap();
    killed.store(true, Ordering::Relaxed);
    let mut times = Times::default();
    for reader in readers {
        for (phase, time) in reader.await.unwrap() {
            times.0.entry(phase).or_default().push(time);
        }
    }
    assert_eq!(peers[PEERS - 1].lookup("0-0").await.unwrap().source, Source::Dht);
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_midst_of_a_thousand_lookups_and_downloads_fails_none() {
    outage(1000).await.print();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: benches/outage"]
async fn distribution_before_during_and_after_the_loss_of_the_master() {
    let times = outage(3000).await;
    times.print();
    for phase in times.0.keys() {
        assert!(times.percentile(phase, 99) < Duration::from_millis(500), "{phase}");
    }
}

/// Of a hundred nodes fifty die. What the others own is found at the first attempt, then and after every record
/// would have been forgotten if its owner did not publish it again.
#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_hundred_nodes_die_and_every_name_of_the_others_is_found() {
    const PEERS: usize = 99;
    let change = |config: &mut swarmdex::config::Config| {
        // An hour of record life and its third, as by default, in a shorter hour.
        config.dht.lifetime = Duration::from_secs(36);
        config.dht.republish = Duration::from_secs(12);
        config.lease.ping_interval = Duration::from_secs(5);
        config.lease.lease = Duration::from_secs(30);
        config.listen.truncate(1);
    };
    let master = TestNode::start(Role::Master, change).await;
    let mut peers = Vec::new();
    while peers.len() < PEERS {
        let some = (peers.len()..PEERS).take(9).map(async |number| {
            let peer = TestNode::peer_with(&master, change).await;
            peer.share_file(&format!("name {number}"), format!("{number}").as_bytes()).await;
            peer
        });
        peers.extend(futures::future::join_all(some).await);
    }
    for peer in &peers {
        published(peer).await;
    }
    // Which ones die does not depend on anything that the test could know: their keys decide.
    let mut order: Vec<_> = (0..PEERS).collect();
    order.sort_by_key(|number| peers[*number].ready().peer_id);
    master.abandon();
    let (dead, alive) = order.split_at(PEERS / 2);
    for number in dead {
        peers[*number].abandon();
    }
    for number in alive {
        alone(&peers[*number]).await;
    }
    for round in 0..2 {
        for (index, owner) in alive.iter().enumerate() {
            let reader = alive[(index * 7 + round + 1) % alive.len()];
            let found = peers[reader].lookup(&format!("name {owner}")).await;
            let found = found.unwrap_or_else(|error| panic!("round {round}, {owner}: {error}"));
            assert!(found.certified && found.source == Source::Dht);
        }
        if round == 0 {
            // Four times published is more than one lifetime.
            let mut before = BTreeMap::new();
            for number in alive {
                before.insert(*number, peers[*number].status().await.unwrap().dht.mirror);
            }
            // Fifty nodes in one process take their time: each repetition is waited for by itself.
            for (times, number) in (1..=4).flat_map(|times| alive.iter().map(move |number| (times, number))) {
                until("everything is published again and again", async || {
                    let mirror = peers[*number].status().await.unwrap().dht.mirror;
                    (mirror.sent >= before[number].sent + times * mirror.records).then_some(())
                })
                .await;
            }
        }
    }
}

/// Names of one peer in a network of fifty nodes: how many closest-nodes queries their publication takes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: benches/mirror"]
async fn ten_thousand_names_in_a_network_of_fifty_nodes() {
    const NAMES: usize = 10_000;
    let change = |config: &mut swarmdex::config::Config| {
        config.lease.ping_interval = Duration::from_secs(5);
        config.lease.lease = Duration::from_secs(30);
        config.listen.truncate(1);
    };
    let master = TestNode::start(Role::Master, change).await;
    let mut peers = Vec::new();
    while peers.len() < 49 {
        peers.push(TestNode::peer_with(&master, change).await);
    }
    let owner = &peers[0];
    for number in 0..NAMES {
        owner.file(&format!("tree/{}/file {number}", number / 100), &number.to_le_bytes());
    }
    let queries = async |node: &Node| node.status().await.unwrap().dht.closest_queries;
    let (before, begin) = ((queries(&master).await, queries(owner).await), Instant::now());
    owner.share(vec![owner.dir.path().join("files/tree")], None).outcome().await.unwrap();
    println!("{NAMES} names hashed and certified in {:?}", begin.elapsed());
    let all = until("the master has published every name", async || {
        let mut stored = 0;
        for peer in &peers {
            stored += peer.status().await.unwrap().dht.records;
        }
        let mirror = owner.status().await.unwrap().dht.mirror;
        // Names are due at their owner later; words and contents are published by it now.
        (stored > NAMES as u64 * 18 && mirror.published + NAMES as u64 >= mirror.records).then_some(stored)
    })
    .await;
    let (of_master, of_owner) = (queries(&master).await - before.0, queries(owner).await - before.1);
    let records = owner.status().await.unwrap().dht.mirror.records;
    println!("mirrored after {:?}: {all} copies of {NAMES} names, {records} records of the owner", begin.elapsed());
    println!("closest-nodes queries: {of_master} for the names, {of_owner} for words and contents");
    println!("queries for each name: 1 / {:.0}", NAMES as f64 / (of_master + of_owner) as f64);
    assert!((of_master + of_owner) * 20 <= NAMES as u64);
}

/// Master failure: a thundering herd. A thousand members, without any pause of their own, are back at the same moment.
/// Each is let in by one message, and whoever looks up meanwhile waits little.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_peers_that_rejoin_at_once_do_not_overload_the_master() {
    const MEMBERS: usize = 1000;
    let roomy = |config: &mut Config| {
        config.limits.connections_per_ip = 2 * MEMBERS;
        config.lease.lease = Duration::from_secs(60);
        // Pings of so many on two processors are not what this is about.
        config.lease.ping_interval = Duration::from_secs(20);
    };
    let master = TestNode::start(Role::Master, roomy).await;
    let address = tcp_address(&master);
    let anna = TestNode::peer_with(&master, roomy).await;
    anna.share_file("name", b"x").await;
    let members: Vec<_> =
        futures::stream::iter(0..MEMBERS).map(|_| Stranger::start()).buffer_unordered(16).collect().await;
    let join_all = async || {
        let id = master_id(&members[0], &address).await;
        let joining = members.iter().map(|member| async {
            // As many connections shake hands at a time as the master allows: the rest come again.
            while member.connect(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            member.join(id).await
        });
        futures::future::join_all(joining).await
    };
    join_all().await;
    let count = async |node: &Node| node.status().await.unwrap().index.unwrap().peers;
    assert_eq!(count(&master).await, MEMBERS as u64 + 2);

    let id = master.ready().peer_id;
    futures::future::join_all(members.iter().map(|member| member.disconnect(id))).await;
    let back = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (node, back) = (anna.node.clone(), back.clone());
        async move {
            let mut longest = Duration::ZERO;
            while !back.load(Ordering::Relaxed) {
                let begin = Instant::now();
                node.lookup("name").await.unwrap();
                longest = longest.max(begin.elapsed());
            }
            longest
        }
    });
    let joined = tokio::time::timeout(Duration::from_secs(60), join_all()).await.unwrap();
    back.store(true, Ordering::Relaxed);
    assert!(joined.iter().all(|joined| joined.unchanged), "nobody has to announce anything again");
    let longest = reader.await.unwrap();
    assert!(longest < Duration::from_secs(5), "a lookup took {longest:?}");
    assert_eq!(count(&master).await, MEMBERS as u64 + 2);
}

async fn master_id(stranger: &Stranger, address: &swarmdex_protocols::Multiaddr) -> swarmdex_protocols::PeerId {
    until("the master is there", async || stranger.connect(address).await.ok()).await
}

/// An owner and a reader whose clocks differ by an hour, and a mirror whose clock is right: certificates, and claims made without the
/// master, are stored, found and believed.
#[test]
fn clocks_that_differ_by_an_hour_hide_nothing() {
    let works = std::process::Command::new("faketime").args(["-f", "+30m", "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("SKIPPED: no faketime on this machine");
        return;
    }
    let folder = TempDir::new().unwrap();
    let place = |name: &str| made(folder.path(), name);
    let mut master = Process::start("master", &place("master"), &[]);
    let at = ["--master", &master.address()];
    let early = Process::start_with_clock("-30m", "peer", &place("early"), &at);
    let late = Process::start_with_clock("+30m", "peer", &place("late"), &at);
    let right = Process::start("peer", &place("right"), &at);
    let all = [&early, &late, &right];
    all.into_iter().for_each(process_joined);
    for (node, name) in [(&early, "by early"), (&late, "by late"), (&right, "by right")] {
        let shared = node.json(&["share", &file(folder.path(), &format!("files/{name}"), name.as_bytes())]);
        assert_eq!(shared["entries"][0]["standing"], "certified", "{name}");
    }
    for node in all {
        node.until(&["status"], |status| status["dht"]["records"].as_u64() >= Some(3));
    }
    master.kill();
    for node in all {
        node.until(&["status"], |status| status["master"]["state"] == "unreachable");
    }
    for node in all {
        for name in ["by early", "by late", "by right"] {
            let found = node.until(&["lookup", name], |found| found["source"] == "dht" || found["certified"] == true);
            assert_eq!(found["certified"], true, "{name}");
        }
    }
    for (owner, name) in [(&early, "claimed early"), (&late, "claimed late")] {
        let shared = owner.json(&["share", &file(folder.path(), &format!("files/{name}"), name.as_bytes())]);
        assert_eq!(shared["entries"][0]["standing"], "claimed", "{name}");
        for node in all {
            node.until(&["lookup", name], |found| found["owner"] == owner.peer_id().as_str());
        }
    }
    let out = folder.path().join("out");
    early.json(&["get", "claimed late", "-o", out.to_str().unwrap()]);
    assert_eq!(std::fs::read(out).unwrap(), b"claimed late");
}
