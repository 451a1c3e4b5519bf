//! What nodes store of each other follows what lives: withdrawn where it ended, and asked about where it should be.

use std::time::Duration;

use swarmdex::Node;
use swarmdex::config::{Config, Role};
use swarmdex_protocols::Keypair;

use crate::forger::Forger;
use crate::harness::{TestNode, alone, joined, published, tcp_address, until};

/// A master and peers that know each other.
async fn network(peers: usize, change: impl Fn(&mut Config) + Copy) -> (TestNode, Vec<TestNode>) {
    let master = TestNode::start(Role::Master, |config| change(config)).await;
    let mut all = Vec::new();
    for _ in 0..peers {
        all.push(TestNode::peer_with(&master, |config| change(config)).await);
    }
    for node in all.iter().chain([&master]) {
        known(node, peers).await;
    }
    (master, all)
}

async fn known(node: &Node, others: usize) {
    until("the nodes know each other", async || {
        (node.status().await.unwrap().dht.nodes >= others as u64).then_some(())
    })
    .await;
}

/// Pairs of a key and a node that a node stores.
async fn pairs(node: &Node) -> u64 {
    node.status().await.unwrap().dht.providers
}

/// Waits until a node of a network of so many stores so many pairs, and one for each node that it has heard of so far: each
/// is found under a key of its own.
async fn until_pairs(node: &Node, what: &str, nodes: usize, count: u64) {
    let range = count + 1..=count + nodes as u64;
    until(what, async || range.contains(&pairs(node).await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_and_words_that_leave_a_share_are_withdrawn_everywhere() {
    let (master, peers) = network(3, |_| {}).await;
    peers[0].share_file("kept", b"kept").await;
    // The content, the word, its beginning and the empty word.
    for node in peers.iter().chain([&master]) {
        until_pairs(node, "the first name is found", 4, 4).await;
    }
    let path = peers[0].share_file("given up", b"one").await;
    for node in peers.iter().chain([&master]) {
        // The content, two words, and the beginning of one of them.
        until_pairs(node, "the second name is found", 4, 8).await;
    }
    // Again and again another content: what was before leaves nothing behind.
    for number in 0..5u8 {
        std::fs::write(&path, [number; 9]).unwrap();
        peers[0].share(vec![path.clone()], None).outcome().await.unwrap();
    }
    peers[0].revoke(vec!["given up".to_owned()]).await.unwrap();
    for node in peers.iter().chain([&master]) {
        until_pairs(node, "what was given up is withdrawn", 4, 4).await;
    }
    assert_eq!(peers[1].search("kept", 10).await.unwrap().len(), 1);
    until("withdrawals are no records", async || {
        (peers[0].status().await.unwrap().dht.mirror.records == 6).then_some(())
    })
    .await;
}

/// A node that stores for others comes back with an empty memory: it is filled long before all is published again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarts_is_filled_before_the_next_publication() {
    let (master, mut peers) = network(3, |config| config.dht.republish = Duration::from_secs(120)).await;
    for name in ["one", "two", "three"] {
        peers[0].share_file(name, name.as_bytes()).await;
    }
    // Without a master owners publish their certificates at once.
    master.abandon();
    alone(&peers[0]).await;
    published(&peers[0]).await;
    let (entrance, gone) = (tcp_address(&peers[0]), tcp_address(&master));
    until("the names and the nodes are found at the other one", async || {
        let stored = peers[1].status().await.unwrap().dht;
        // The keys of three names, and those of the nodes themselves, which nobody's publication waits for.
        (stored.records == 3 && stored.providers >= 10 + 3).then_some(())
    })
    .await;
    let sent = peers[0].status().await.unwrap().dht.mirror.sent;
    let dir = peers.remove(1).into_dir().await;
    let restarted = TestNode::try_start(Role::Peer, dir, |config| {
        config.dht.republish = Duration::from_secs(120);
        (config.bootstrap, config.master) = (vec![entrance], vec![gone]);
    })
    .await
    .unwrap();
    until("the node holds the names again", async || {
        let dht = restarted.status().await.unwrap().dht;
        (dht.records == 3 && dht.providers > 10).then_some(())
    })
    .await;
    assert_eq!(peers[0].status().await.unwrap().dht.mirror.sent, sent, "and nothing was published again");
}

/// An owner whose share changed while it was down does not know what it said before: the nodes tell it.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_restarts_withdraws_what_it_no_longer_shares() {
    let change = |config: &mut Config| config.dht.republish = Duration::from_secs(8);
    let (master, mut peers) = network(2, change).await;
    peers[0].share_file("kept", b"kept").await;
    let path = peers[0].share_file("lost", b"lost").await;
    until_pairs(&peers[1], "both names are found", 3, 7).await;
    let listen = tcp_address(&master);
    peers[0].abandon();
    let dir = peers.remove(0).into_dir().await;
    std::fs::remove_file(path).unwrap();
    let owner = TestNode::try_start(Role::Peer, dir, |config| {
        change(config);
        config.master = vec![listen];
    })
    .await
    .unwrap();
    joined(&owner).await;
    for node in [&peers[0], &master] {
        until_pairs(node, "what is gone is withdrawn", 3, 4).await;
    }
}

/// One that says to hold nothing, whatever it was sent, costs its records once more in each round, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_about_what_it_holds_costs_bounded_work() {
    let (_master, peers) = network(2, |config| config.dht.republish = Duration::from_secs(8)).await;
    let forger = Forger::start(Keypair::generate_ed25519()).await;
    forger.connect(&tcp_address(&peers[0])).await;
    known(&peers[0], 3).await;
    for number in 0..10 {
        peers[0].share_file(&format!("name {number}"), &[number]).await;
    }
    let heard =
        until("the forger was asked several times", async || Some(forger.heard()).filter(|heard| heard.checks >= 6))
            .await;
    let mirror = peers[0].status().await.unwrap().dht.mirror;
    // Two questions a round: before what it lacks is sent, and after. The master publishes the names, too.
    let most = mirror.sent + heard.checks * mirror.records + 10;
    assert!(heard.records <= most, "{heard:?}, {mirror:?}");
    assert_eq!(peers[1].lookup("name 3").await.unwrap().entry.owner, peers[0].ready().peer_id);
}
