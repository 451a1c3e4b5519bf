//! The network without its master: real nodes over loopback.

use std::time::Duration;

use swarmdex::config::{Config, Role};
use swarmdex::node::{Source, Standing};
use swarmdex::{Error, Node};
use tempfile::TempDir;

use crate::harness::{TestNode, alone, found, gone, joined, lose, noise, published, tcp_address, until};

/// A network of a master and so many peers.
async fn network(peers: usize, change: impl Fn(&mut Config) + Copy) -> (TestNode, Vec<TestNode>) {
    let change = |config: &mut Config| {
        config.dht.republish = Duration::from_secs(2);
        change(config);
    };
    let master = TestNode::start(Role::Master, |config| change(config)).await;
    let mut all = Vec::new();
    for _ in 0..peers {
        all.push(TestNode::peer_with(&master, |config| change(config)).await);
    }
    // Nodes that do not know each other yet have only the master to ask.
    for node in all.iter().chain([&master]) {
        until("the nodes know each other", async || {
            (node.status().await.unwrap().dht.nodes >= (peers as u64).min(10)).then_some(())
        })
        .await;
    }
    (master, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_search_and_download_go_on_without_the_master() {
    let (master, peers) = network(5, |_| {}).await;
    let bytes = noise(1, 3_000_000);
    peers[0].file("tree/climate/data 2024.bin", &bytes);
    peers[0].share(vec![peers[0].dir.path().join("files/tree")], None).outcome().await.unwrap();
    peers[1].share_file("notes.txt", b"notes").await;
    published(&peers[0]).await;
    published(&peers[1]).await;
    let certified = peers[2].lookup("notes.txt").await.unwrap();
    assert_eq!((certified.source, certified.certified), (Source::Master, true));
    lose(&master, &peers).await;
    for peer in &peers {
        let found = peer.lookup("notes.txt").await.unwrap();
        assert_eq!((found.source, found.certified, &found.entry), (Source::Dht, true, &certified.entry));
    }
    let entries = peers[3].search("dat 2024", 10).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["climate/data 2024.bin"]);
    assert_eq!(peers[4].search("", 10).await.unwrap().len(), 2);
    let got = peers[4].fetch_below("climate").await.unwrap();
    assert_eq!(std::fs::read(&got.files[0].path).unwrap(), bytes);
    assert!(matches!(peers[3].lookup("nobody's").await, Err(Error::NotFound { .. })));
}

/// How a node's own name stands.
async fn standing(node: &Node, name: &str) -> Option<Standing> {
    let shared = node.shared().await.unwrap();
    shared.into_iter().find(|shared| shared.entry.name.as_str() == name).map(|shared| shared.standing)
}

/// Starts the master again, where it was.
async fn back(dir: TempDir, listen: swarmdex_protocols::Multiaddr) -> TestNode {
    TestNode::try_start(Role::Master, dir, |config| config.listen = vec![listen]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_one_two_and_three_nodes_work_without_their_master() {
    for peers in 1..=3 {
        let (master, peers) = network(peers, |_| {}).await;
        for (number, peer) in peers.iter().enumerate() {
            peer.share_file(&format!("file {number}"), &[number as u8]).await;
            published(peer).await;
        }
        lose(&master, &peers).await;
        for peer in &peers {
            assert_eq!(peer.search("file", 10).await.unwrap().len(), peers.len());
            for number in 0..peers.len() {
                let found = peer.lookup(&format!("file {number}")).await.unwrap();
                assert!(found.certified && found.source == Source::Dht);
            }
        }
        let fresh = peers[0].file("fresh", b"fresh");
        let report = peers[0].share(vec![fresh], None).outcome().await.unwrap();
        assert_eq!(report.entries[0].standing, Standing::Claimed, "{report:?}");
        for peer in &peers {
            assert!(!peer.lookup("fresh").await.unwrap().certified);
        }
    }
}

/// A node that is alone in the world says what it misses, and knows its own names.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_any_other_says_so() {
    let (master, mut peers) = network(1, |_| {}).await;
    peers[0].share_file("mine", b"x").await;
    lose(&master, &peers).await;
    assert!(peers[0].lookup("mine").await.unwrap().certified);
    let dir = peers.remove(0).into_dir().await;
    let listen = tcp_address(&master);
    let peer = TestNode::try_start(Role::Peer, dir, |config| config.master = vec![listen]).await.unwrap();
    alone(&peer).await;
    assert!(peer.lookup("mine").await.unwrap().certified, "also after a restart");
    let error = peer.lookup("other").await.unwrap_err();
    assert_eq!(error.kind(), swarmdex::node::ErrorKind::Unreachable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_certified_when_the_master_is_back_and_the_loser_is_told() {
    let (master, peers) = network(6, |_| {}).await;
    let listen = tcp_address(&master);
    peers[0].share_file("taken", b"before").await;
    published(&peers[0]).await;
    lose(&master, &peers).await;
    // Against a live certificate, and against a live claim.
    let path = peers[1].file("taken", b"other");
    let report = peers[1].share(vec![path], None).outcome().await.unwrap();
    let owner = peers[0].ready().peer_id;
    assert_eq!(report.entries[0].standing, Standing::Conflict { conflict_owner: owner });
    let path = peers[2].file("new", b"first");
    assert_eq!(peers[2].share(vec![path], None).outcome().await.unwrap().entries[0].standing, Standing::Claimed);
    assert_eq!(peers[2].status().await.unwrap().shared.claimed, 1);
    let path = peers[3].file("new", b"second");
    let report = peers[3].share(vec![path], None).outcome().await.unwrap();
    let claimant = peers[2].ready().peer_id;
    assert_eq!(report.entries[0].standing, Standing::Conflict { conflict_owner: claimant });
    let found = peers[4].lookup("new").await.unwrap();
    assert_eq!((found.entry.owner, found.certified), (claimant, false));
    assert_eq!(peers[5].search("new", 10).await.unwrap().len(), 1);
    let got = peers[4].fetch("new").await.unwrap();
    assert_eq!(std::fs::read(got.path).unwrap(), b"first");

    let claimed = found.entry.version;
    let master = back(master.into_dir().await, listen).await;
    for peer in &peers {
        joined(peer).await;
    }
    until("the claim is certified", async || {
        (standing(&peers[2], "new").await == Some(Standing::Certified)).then_some(())
    })
    .await;
    let certified = master.lookup("new").await.unwrap();
    assert_eq!((certified.entry.owner, certified.certified), (claimant, true));
    assert!(certified.entry.version > claimed);
    assert_eq!(standing(&peers[3], "new").await, Some(Standing::Conflict { conflict_owner: claimant }));
    assert!(peers[3].dir.path().join("files/new").exists(), "the loser keeps its file");
    assert_eq!(master.lookup("taken").await.unwrap().entry.owner, owner);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_revoke_while_the_master_is_down_and_it_learns_of_it() {
    let (master, peers) = network(4, |_| {}).await;
    let listen = tcp_address(&master);
    peers[0].share_file("kept", b"kept").await;
    peers[0].share_file("given up", b"gone").await;
    published(&peers[0]).await;
    lose(&master, &peers).await;
    peers[0].revoke(vec!["given up".to_owned()]).await.unwrap();
    for peer in &peers {
        gone(peer, "given up").await;
        assert!(peer.lookup("kept").await.unwrap().certified);
    }
    // Free: another may claim it, and the owner's claim, taken back, frees it again.
    let path = peers[1].file("given up", b"anew");
    assert_eq!(peers[1].share(vec![path], None).outcome().await.unwrap().entries[0].standing, Standing::Claimed);
    peers[1].revoke(vec!["given up".to_owned()]).await.unwrap();
    gone(&peers[2], "given up").await;
    let master = back(master.into_dir().await, listen).await;
    for peer in &peers {
        joined(peer).await;
    }
    gone(&master, "given up").await;
    assert!(master.lookup("kept").await.unwrap().certified);
}

/// The same key, an empty database: names and versions come back from what peers prove.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_without_its_disk_rebuilds_the_index() {
    let (master, peers) = network(4, |_| {}).await;
    let listen = tcp_address(&master);
    let mut before = Vec::new();
    for (number, peer) in peers.iter().enumerate() {
        peer.share_file(&format!("file {number}"), &[number as u8]).await;
        before.push(master.lookup(&format!("file {number}")).await.unwrap().entry);
        published(peer).await;
    }
    lose(&master, &peers).await;
    // One owner is away when the master comes back, and another would have its name.
    peers[3].abandon();
    let dir = master.into_dir().await;
    for file in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join("data").join(file));
    }
    let path = peers[0].file("file 3", b"usurped");
    let usurped = peers[0].share(vec![path], None).outcome().await.unwrap();
    let owner = before[3].owner;
    assert_eq!(usurped.entries[0].standing, Standing::Conflict { conflict_owner: owner });
    let master = back(dir, listen).await;
    for peer in &peers[..3] {
        joined(peer).await;
    }
    for entry in &before[..3] {
        let kept = found(&master, entry.name.as_str()).await.entry;
        assert_eq!((kept.owner, kept.content), (entry.owner, entry.content));
        assert!(kept.version > entry.version, "above whatever was said of it before");
    }
    assert_eq!(standing(&peers[0], "file 3").await, Some(Standing::Conflict { conflict_owner: owner }));
    assert_eq!(master.lookup("file 3").await.unwrap().entry.owner, owner, "kept for its owner, for one lease");
    peers[1].share_file("later", b"x").await;
    let later = master.lookup("later").await.unwrap().entry.version;
    assert!(before.iter().all(|entry| entry.version < later));
    // The owner does not come back.
    gone(&master, "file 3").await;
}

/// A peer that is restarted while there is no master knows its certificates and its neighbours.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_without_a_master_is_back_in_the_network() {
    let (master, mut peers) = network(4, |_| {}).await;
    peers[0].share_file("mine", b"mine").await;
    peers[1].share_file("theirs", b"theirs").await;
    published(&peers[0]).await;
    let nodes = peers[0].dir.path().join("data/nodes-swarmdex");
    // The master and three others.
    let written = || std::fs::read_to_string(&nodes).map_or(0, |text| text.lines().count());
    until("the neighbours are written down", async || (written() == 4).then_some(())).await;
    lose(&master, &peers).await;
    let listen = tcp_address(&master);
    let dir = peers.remove(0).into_dir().await;
    let peer = TestNode::try_start(Role::Peer, dir, |config| config.master = vec![listen]).await.unwrap();
    alone(&peer).await;
    until("the neighbours are there", async || peer.lookup("theirs").await.ok()).await;
    assert_eq!(standing(&peer, "mine").await, Some(Standing::Unconfirmed));
    assert_eq!(peers[1].lookup("mine").await.unwrap().entry.owner, peer.ready().peer_id);
    let got = peers[2].fetch("mine").await.unwrap();
    assert_eq!(std::fs::read(got.path).unwrap(), b"mine");
}

/// A file that changes while no master can be told: its owner's word on it stands above the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_without_a_master_is_claimed_anew() {
    let (master, peers) = network(3, |_| {}).await;
    let listen = tcp_address(&master);
    let path = peers[0].share_file("file", b"one").await;
    published(&peers[0]).await;
    lose(&master, &peers).await;
    std::fs::write(&path, b"another").unwrap();
    let report = peers[0].share(vec![path], None).outcome().await.unwrap();
    assert_eq!(report.entries[0].standing, Standing::Claimed);
    let claimed = peers[1].lookup("file").await.unwrap();
    assert_eq!((claimed.certified, claimed.entry.size), (false, 7));
    assert_eq!(std::fs::read(peers[2].fetch("file").await.unwrap().path).unwrap(), b"another");
    let master = back(master.into_dir().await, listen).await;
    joined(&peers[0]).await;
    let certified = until("the new content is certified", async || {
        master.lookup("file").await.ok().filter(|found| found.entry.size == 7)
    })
    .await;
    assert!(certified.certified && certified.entry.version > claimed.entry.version);
}
