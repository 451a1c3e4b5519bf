//! Where records lie in a network of more than twenty nodes, whatever some of them say and do.

use std::time::Duration;

use futures::future::join_all;
use libp2p::identity::Keypair;
use swarmdex::config::{Config, Role};
use swarmdex::node::Source;
use swarmdex_protocols::PeerId;
use swarmdex_protocols::mirror::Provider;

use crate::forger::{Forger, Named};
use crate::harness::{TestNode, lose, tcp_address, until};

const FILES: u8 = 10;

/// Nothing is published a second time while a test runs.
fn once(config: &mut Config) {
    config.dht.republish = Duration::from_secs(1800);
}

async fn network(peers: usize, change: impl Fn(&mut Config) + Copy) -> (TestNode, Vec<TestNode>) {
    let master = TestNode::start(Role::Master, change).await;
    let mut all = Vec::new();
    for _ in 0..peers {
        all.push(TestNode::peer_with(&master, change).await);
    }
    for node in &all {
        until("the nodes know each other", async || {
            (node.status().await.unwrap().dht.nodes as usize >= peers - 4).then_some(())
        })
        .await;
    }
    (master, all)
}

/// Has a node share some files.
async fn share(owner: &TestNode, tree: &str) {
    (0..FILES).for_each(|number| drop(owner.file(&format!("{tree}/{tree} {number}"), &[number])));
    owner.share(vec![owner.dir.path().join("files").join(tree)], None).outcome().await.unwrap();
}

/// Waits until so many of these nodes store each name, in the mean.
async fn stored(nodes: &[TestNode], names: u64, copies: u64) {
    until("all is stored", async || {
        let mut stored = 0;
        for node in nodes {
            stored += node.status().await.unwrap().dht.records;
        }
        (stored >= copies * names).then_some(())
    })
    .await;
}

async fn all_found(reader: &TestNode, tree: &str) {
    for number in 0..FILES {
        let found = reader.lookup(&format!("{tree} {number}")).await.unwrap();
        assert!(found.certified && found.source == Source::Dht, "{found:?}");
    }
}

/// A third of all nodes store nothing, and name themselves, the asker, one node, twenty that are not there, or some far away.
#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_although_a_third_of_all_nodes_lies_about_the_others_and_stores_nothing() {
    let (master, mut peers) = network(24, once).await;
    let nowhere = |count: usize| {
        let dead = || Provider { peer: PeerId::random(), addresses: vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()] };
        (0..count).map(|_| dead()).collect::<Vec<_>>()
    };
    let one = Provider { peer: peers[3].ready().peer_id, addresses: vec![tcp_address(&peers[3])] };
    let lies =
        [Named::Itself(20), Named::Asker, Named::Nodes(vec![one]), Named::Nodes(nowhere(20)), Named::Nodes(nowhere(3))];
    let mut forgers = Vec::new();
    for number in 0..12 {
        let forger = Forger::start(Keypair::generate_ed25519()).await;
        forger.name(lies[number % lies.len()].clone());
        forger.agree();
        for node in peers.iter().chain([&master]) {
            forger.connect(&tcp_address(node)).await;
        }
        forgers.push(forger);
    }
    for node in &peers {
        until("the forgers are among them", async || (node.status().await.unwrap().dht.nodes >= 30).then_some(()))
            .await;
    }
    let owner = peers.remove(0);
    share(&owner, "kept").await;
    // Of the twenty closest nodes of 37 some eight are forgers.
    stored(&peers, u64::from(FILES), 9).await;
    lose(&master, &peers).await;
    for reader in peers.iter().step_by(6) {
        all_found(reader, "kept").await;
    }
}

/// Half of the network starts again while what two owners share is being published.
#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_network_that_starts_again_in_the_middle_of_a_sweep_ends_with_every_record() {
    let (master, mut peers) = network(24, once).await;
    let owner = peers.remove(0);
    share(&owner, "before").await;
    let half = peers.split_off(12);
    let again = half.into_iter().map(|node| async {
        // A port of QUIC is not free at once.
        let listen = vec![tcp_address(&node)];
        node.abandon();
        TestNode::try_start(Role::Peer, node.into_dir().await, |config| {
            once(config);
            config.listen = listen;
            config.master = master.ready().listen;
        })
        .await
        .unwrap()
    });
    let (restarted, ()) = tokio::join!(join_all(again), share(&owner, "during"));
    peers.extend(restarted);
    stored(&peers, 2 * u64::from(FILES), 15).await;
    lose(&master, &peers).await;
    for reader in peers.iter().step_by(8) {
        all_found(reader, "before").await;
        all_found(reader, "during").await;
    }
}
