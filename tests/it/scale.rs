//! Networks of many real nodes, for `benches/network`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use swarmdex::config::{Config, Role};
use swarmdex::node::{MasterState, Source};

use crate::harness::{TestNode, until};

/// Names of each node, and lookups in each round.
const NAMES: usize = 20;
const LOOKUPS: usize = 1500;

fn change(config: &mut Config) {
    // As by default, but for what many nodes on one machine would only wait for.
    config.lease = swarmdex::config::LeaseConfig::default();
    config.limits.connections_per_ip = 100_000;
    config.limits.memory_mib = 1 << 20;
    config.listen.truncate(1);
}

fn sorted<T: Ord>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort();
    values
}

/// Seconds of processor that this process took, and MiB that it holds.
fn used() -> (f64, u64) {
    let field = |text: &str, number: usize| text.split_whitespace().nth(number).unwrap().parse::<u64>().unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let pages = field(&std::fs::read_to_string("/proc/self/statm").unwrap(), 1);
    // Clock ticks of a hundredth of a second, pages of 4 KiB.
    ((field(after, 11) + field(after, 12)) as f64 / 100.0, pages / 256)
}

async fn wait_for<T>(nodes: &[TestNode], what: &str, accept: impl Fn(&swarmdex::node::Status) -> Option<T>) -> Vec<T> {
    let mut all = Vec::new();
    for node in nodes {
        let end = Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(value) = accept(&node.status().await.unwrap()) {
                all.push(value);
                break;
            }
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    all
}

/// Prints where records lie, what they are found with when half of the network dies, and what a node costs at rest.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a benchmark: benches/network"]
async fn a_network_loses_its_master_and_half_of_its_nodes() {
    let count: usize = std::env::var("NODES").map_or(50, |text| text.parse().unwrap());
    let begin = Instant::now();
    let master = TestNode::start(Role::Master, change).await;
    let starts = (1..count).map(async |number| {
        let peer = TestNode::peer_with(&master, change).await;
        (0..NAMES).for_each(|name| drop(peer.file(&format!("tree/{number} {name}"), &number.to_le_bytes())));
        peer.share(vec![peer.dir.path().join("files/tree")], None).outcome().await.unwrap();
        peer
    });
    let peers: Vec<_> = stream::iter(starts).buffer_unordered(16).collect().await;
    println!("{count} nodes: joined and shared {NAMES} names each after {:.1} s", begin.elapsed().as_secs_f64());
    wait_for(&peers, "everything is published", |status| {
        let mirror = status.dht.mirror;
        (!mirror.changing && mirror.records > 0).then_some(())
    })
    .await;
    // Until nothing moves any more.
    let mut before = (0, 0);
    loop {
        let stored = wait_for(&peers, "status", |status| Some((status.dht.records, status.dht.providers))).await;
        let sum = stored.iter().fold((0, 0), |sum, node| (sum.0 + node.0, sum.1 + node.1));
        if sum == before {
            break;
        }
        before = sum;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    println!("  settled after {:.1} s", begin.elapsed().as_secs_f64());
    let all = wait_for(&peers, "status", |status| Some(status.clone())).await;
    let records = sorted(all.iter().map(|status| status.dht.records));
    let queries: u64 = all.iter().map(|status| status.dht.closest_queries).sum();
    let copies = records.iter().sum::<u64>() as f64 / ((count - 1) * NAMES) as f64;
    println!(
        "  records at a node: min {} median {} max {}; {copies:.1} copies a name; {:.1} closest-node queries a node",
        records[0],
        records[records.len() / 2],
        records[records.len() - 1],
        queries as f64 / all.len() as f64
    );
    // Idle connections are closed after a minute.
    tokio::time::sleep(Duration::from_secs(75)).await;
    let (from, at) = (used().0, Instant::now());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let (to, memory) = used();
    let rest = (to - from) / at.elapsed().as_secs_f64() / count as f64;
    let connections = wait_for(&peers, "status", |status| Some(status.connected)).await;
    let connections = sorted(connections);
    println!(
        "  at rest: {} connections a node (median; most {}), {:.2} % of a core, {:.1} MiB",
        connections[connections.len() / 2],
        connections[connections.len() - 1],
        100.0 * rest,
        memory as f64 / count as f64
    );
    let order: Vec<_> = {
        let mut order: Vec<_> = (0..peers.len()).collect();
        order.sort_by_key(|number| peers[*number].ready().peer_id);
        order
    };
    master.abandon();
    let (dead, alive) = order.split_at(peers.len() / 2);
    dead.iter().for_each(|number| peers[*number].abandon());
    for number in alive {
        until("the master is missed", async || {
            matches!(peers[*number].status().await.unwrap().master, MasterState::Unreachable { .. }).then_some(())
        })
        .await;
    }
    let mut missing = BTreeSet::new();
    for round in 1..=2 {
        let (mut times, mut requests, mut wrong) = (Vec::new(), Vec::new(), 0);
        for number in 0..LOOKUPS.min(alive.len() * NAMES) {
            let owner = &peers[alive[number % alive.len()]];
            let reader = &peers[alive[(number * 7 + round) % alive.len()]];
            let shared = owner.shared().await.unwrap();
            let name = shared[(number / alive.len()) % NAMES].entry.name.clone();
            let sent = reader.status().await.unwrap().dht.lookup_requests;
            let begin = Instant::now();
            match reader.lookup(name.as_str()).await {
                Ok(found) if found.source == Source::Dht => {
                    times.push(begin.elapsed());
                    requests.push(reader.status().await.unwrap().dht.lookup_requests - sent);
                }
                other => {
                    wrong += 1;
                    if missing.insert(name.clone()) && missing.len() <= 3 {
                        println!("  {name}: {other:?}");
                    }
                }
            }
        }
        let (times, requests) = (sorted(times), sorted(requests));
        println!(
            "  round {round}: {} of {} found; lookup p50 {:.3} s, p99 {:.3} s, median requests {} (log2 of the nodes: {:.1})",
            times.len(),
            times.len() + wrong,
            times[times.len() / 2].as_secs_f64(),
            times[times.len() * 99 / 100].as_secs_f64(),
            requests[requests.len() / 2],
            (count as f64).log2()
        );
    }
}
