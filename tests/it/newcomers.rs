//! Nodes that come, come back or are cut off: what they hold of the mirror, and what can be said without them.

use std::time::Duration;

use swarmdex::Error;
use swarmdex::config::{Config, Role};
use tempfile::TempDir;

use crate::harness::{DEADLINE, Process, TestNode, alone, code, joined, until};

/// Nothing is published a second time while a test runs.
fn once(config: &mut Config) {
    config.dht.republish = Duration::from_secs(1800);
}

async fn held(node: &TestNode) -> (u64, u64) {
    let dht = node.status().await.unwrap().dht;
    (dht.records, dht.providers)
}

/// A master and so many peers that know each other, the first two with some shared files each, which are at all nodes.
async fn network(peers: usize) -> (TestNode, Vec<TestNode>) {
    let master = TestNode::start(Role::Master, once).await;
    let mut all = Vec::new();
    for _ in 0..peers {
        all.push(TestNode::peer_with(&master, once).await);
    }
    for node in all.iter().chain([&master]) {
        until("the nodes know each other", async || {
            (node.status().await.unwrap().dht.nodes == peers as u64).then_some(())
        })
        .await;
    }
    for (owner, peer) in all.iter().enumerate().take(2) {
        (0..FILES).for_each(|number| drop(peer.file(&format!("tree/{owner} {number}"), &[owner as u8, number])));
        peer.share(vec![peer.dir.path().join("files/tree")], None).outcome().await.unwrap();
    }
    // What a master says itself is in its index: whether it is in its part of the mirror as well is no matter.
    for node in &all {
        whole(node).await;
    }
    (master, all)
}

const FILES: u8 = 30;

/// Waits until a node holds everything that the two owners said.
async fn whole(node: &TestNode) {
    // Names; and contents, words and their beginnings, each node's own key.
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let (records, providers) = held(node).await;
        if records == 2 * u64::from(FILES) && providers > 2 * u64::from(FILES) {
            return;
        }
        let what = format!("{records} records and {providers} keys of two owners");
        assert!(tokio::time::Instant::now() < end, "a node holds {what}: {:?}", node.status().await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_or_starts_again_holds_every_record_of_a_small_network() {
    let (master, mut peers) = network(4).await;
    let newcomer = TestNode::peer_with(&master, once).await;
    whole(&newcomer).await;
    // What it had stored is forgotten with its process.
    let dir = peers.pop().unwrap().stop().await;
    let listen = master.ready().listen;
    let back = TestNode::try_start(Role::Peer, dir, |config| {
        once(config);
        config.master = listen;
    });
    let back = back.await.unwrap();
    joined(&back).await;
    whole(&back).await;
    // The newcomer is enough to find everything.
    master.abandon();
    peers.iter().skip(1).for_each(|peer| peer.abandon());
    let found = until("it is found", async || newcomer.lookup("0 7").await.ok()).await;
    assert_eq!(found.entry.owner, peers[0].ready().peer_id);
}

/// A process that is stopped is cut off: it keeps what it knew, and learns what it missed.
#[test]
fn a_node_that_was_cut_off_learns_what_it_missed() {
    let folder = TempDir::new().unwrap();
    let place = |name: &str| {
        let place = folder.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("extra.toml"), "[dht]\nrepublish_seconds = 1800\n").unwrap();
        place
    };
    let master = Process::start("master", &place("master"), &[]);
    let start = |name: &str| Process::start("peer", &place(name), &["--master", &master.address()]);
    let (owner, other) = (start("owner"), start("other"));
    let status = ["status"];
    for node in [&master, &owner, &other] {
        node.until(&status, |status| status["dht"]["nodes"] == 2);
    }
    other.signal("STOP");
    owner.until(&status, |status| status["dht"]["nodes"] == 1);
    let file = folder.path().join("missed");
    std::fs::write(&file, "missed").unwrap();
    assert_eq!(code(&owner.command(&["share", file.to_str().unwrap()])), 0);
    owner.until(&status, |status| status["dht"]["published"] == status["dht"]["publications"]);
    other.signal("CONT");
    other.until(&status, |status| status["dht"]["records"] == 1);
}

/// In a large network those who published what lies in a newcomer's part may not know it, or be gone: its neighbours tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_over_what_its_neighbours_hold_although_the_owner_and_the_master_are_gone() {
    const PEERS: usize = 27;
    let master = TestNode::start(Role::Master, once).await;
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        peers.push(TestNode::peer_with(&master, once).await);
    }
    for node in &peers {
        until("the nodes know each other", async || {
            (node.status().await.unwrap().dht.nodes as usize >= PEERS - 3).then_some(())
        })
        .await;
    }
    let owner = peers.remove(0);
    (0..FILES).for_each(|number| drop(owner.file(&format!("tree/file {number}"), &[number])));
    owner.share(vec![owner.dir.path().join("files/tree")], None).outcome().await.unwrap();
    // Twenty of them store each name.
    until("all is stored", async || {
        let mut stored = 0;
        for node in &peers {
            stored += held(node).await.0;
        }
        (stored >= 18 * u64::from(FILES)).then_some(())
    })
    .await;
    let (listen, bootstrap) = (master.ready().listen, peers[0].ready().listen);
    master.abandon();
    owner.abandon();
    let newcomer = TestNode::start(Role::Peer, |config| {
        once(config);
        config.master = listen;
        config.bootstrap = bootstrap;
    })
    .await;
    // Of 26 nodes that live it is among the twenty closest to most keys; some that died still count. Of one in a hundred newcomers
    // twenty nodes are in the other half of the key space, and then it is close to none of the keys there.
    let mut last = (0, 0);
    until("it took over its part", async || {
        last = held(&newcomer).await;
        (last.0 >= u64::from(FILES) / 4 && last.1 >= u64::from(FILES) / 4).then_some(())
    })
    .await;
    let (records, _) = last;
    let before = newcomer.status().await.unwrap().dht.lookup_requests;
    for number in 0..FILES {
        assert!(newcomer.lookup(&format!("file {number}")).await.unwrap().certified);
    }
    let asked = newcomer.status().await.unwrap().dht.lookup_requests - before;
    assert!(asked <= 6 * u64::from(FILES), "{asked} questions for {FILES} names, of which it had {records}");
}

/// Of seven nodes three are cut off, the master among them: what they know nobody else can deny.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_not_denied_while_many_nodes_are_silent() {
    let (master, mut peers) = network(6).await;
    let (listen, asker) = (master.ready().listen, peers.remove(0));
    master.abandon();
    alone(&asker).await;
    // The master alone is not missed: the mirror is there for what it knew.
    until("it is not there", async || {
        matches!(asker.lookup("nobody's").await, Err(Error::NotFound { .. })).then_some(())
    })
    .await;
    let cut = peers.split_off(3);
    cut.iter().for_each(|peer| peer.abandon());
    until("nobody can say", async || {
        matches!(asker.lookup("nobody's").await, Err(Error::Unsure { of, silent, .. }) if silent <= of).then_some(())
    })
    .await;
    until("nor whether something matches", async || {
        matches!(asker.search("nobody's", 10).await, Err(Error::Unsure { .. })).then_some(())
    })
    .await;
    assert!(asker.lookup("1 3").await.unwrap().certified, "what is known is told");
    assert_eq!(asker.search("1 3", 10).await.unwrap().len(), 1);
    let error = asker.lookup("nobody's").await.unwrap_err();
    assert!(error.kind().exit_code() == 5 && error.to_string().contains("nobody can say"), "{error}");
    let mut back = Vec::new();
    for peer in cut {
        let start = TestNode::try_start(Role::Peer, peer.into_dir().await, |config| {
            once(config);
            config.master = listen.clone();
            config.bootstrap = asker.ready().listen;
        });
        back.push(start.await.unwrap());
    }
    until("it is not there again", async || {
        matches!(asker.lookup("nobody's").await, Err(Error::NotFound { .. })).then_some(())
    })
    .await;
}
