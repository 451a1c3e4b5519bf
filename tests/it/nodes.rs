//! Honest nodes over loopback: what each promise of the contract comes to.

use std::time::{Duration, Instant};

use futures::FutureExt;
use swarmdex::config::Role;
use swarmdex::node::{ErrorKind, GetRequest, MasterState, PeerState, Source, Standing};
use swarmdex::{Config, Error, Node};
use swarmdex_protocols::{ContentId, Multiaddr, PeerId};
use tempfile::TempDir;

use crate::harness::{TestNode, address, config, found, free_ports, gone, joined, noise, tcp_address, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_shared_found_and_fetched() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(1, 3_000_000);
    anna.share_file("climate data 2024.bin", &bytes).await;

    let entries = ben.search("2024 CLIM", 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].name.as_str(), "climate data 2024.bin");
    let lookup = ben.lookup("climate data 2024.bin").await.unwrap();
    assert_eq!(lookup.entry.content, ContentId::of(&bytes));
    assert_eq!((lookup.certified, lookup.source), (true, Source::Master));
    assert_eq!(lookup.holders[0].peer_id, anna.ready().peer_id);

    let got = ben.fetch("climate data 2024.bin").await.unwrap();
    assert_eq!(std::fs::read(&got.path).unwrap(), bytes);
    assert_eq!((got.bytes, got.verified, got.sources), (3_000_000, true, vec![anna.ready().peer_id]));
    assert_eq!(ben.leftovers(), ["climate data 2024.bin"]);
}

/// A large share takes more memory than the limit, and its owner is to find its master again all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_too_much_memory_joins() {
    let master = TestNode::master().await;
    let full = TestNode::peer_with(&master, |config| config.limits.memory_mib = 1).await;
    full.share_file("a", b"a").await;
    assert!(found(&master, "a").await.certified);
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_alone_and_ipv6_alone_work() {
    for listen in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"] {
        let change = |config: &mut swarmdex::Config| config.listen = vec![address(listen)];
        let master = TestNode::start(Role::Master, change).await;
        let (anna, ben) = (TestNode::peer_with(&master, change).await, TestNode::peer_with(&master, change).await);
        let bytes = noise(2, 5_000_000);
        anna.share_file("file", &bytes).await;
        let got = ben.fetch("file").await.unwrap();
        assert_eq!(std::fs::read(got.path).unwrap(), bytes, "{listen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_files_and_files_at_chunk_borders_arrive() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for (number, length) in [0, 1, 1024, 262_143, 262_144, 262_145, 1_048_576, 1_048_577].into_iter().enumerate() {
        let bytes = noise(number as u64, length);
        let name = format!("file-{length}");
        anna.share_file(&name, &bytes).await;
        let got = ben.fetch(&name).await.unwrap();
        assert_eq!(std::fs::read(got.path).unwrap(), bytes, "{length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_arrives_with_its_structure() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for name in ["tree/a.txt", "tree/deep/er/b.txt", "tree/Case", "tree/case", "tree/with space/é.txt"] {
        anna.file(name, name.as_bytes());
    }
    let folder = anna.dir.path().join("files/tree");
    let report = anna.share(vec![folder], Some("my lab".to_owned())).outcome().await.unwrap();
    assert_eq!((report.entries.len(), report.skipped.len()), (5, 0), "{report:?}");
    anna.share_file("elsewhere", b"no").await;

    let report = ben.fetch_below("my lab").await.unwrap();
    assert_eq!((report.files.len(), report.failed.len()), (5, 0), "{report:?}");
    for name in ["a.txt", "deep/er/b.txt", "Case", "case", "with space/é.txt"] {
        let text = std::fs::read_to_string(ben.output().join(name)).unwrap();
        assert_eq!(text, format!("tree/{name}"));
    }
    // A second time every target exists: what is as it should be counts, what is not is reported and not touched.
    std::fs::write(ben.output().join("case"), "mine is").unwrap();
    let again = ben.fetch_below("my lab/").await.unwrap();
    assert_eq!((again.files.len(), again.failed.len()), (4, 1), "{again:?}");
    assert!(again.files.iter().all(|file| file.sources.is_empty()));
    assert_eq!(again.failed[0].kind, ErrorKind::Storage);
    assert_eq!(std::fs::read_to_string(ben.output().join("case")).unwrap(), "mine is");
    let nothing = ben.fetch_below("none").await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_shares_and_fetches_like_any_peer() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    master.share_file("from the master", b"abc").await;
    anna.share_file("from anna", b"def").await;
    assert_eq!(std::fs::read(anna.fetch("from the master").await.unwrap().path).unwrap(), b"abc");
    assert_eq!(std::fs::read(master.fetch("from anna").await.unwrap().path).unwrap(), b"def");
    assert_eq!(master.status().await.unwrap().master, MasterState::Own);
}

/// Index / names: two peers register one name at the same instant from two connections.
#[tokio::test(flavor = "multi_thread")]
async fn two_peers_register_one_name_at_the_same_instant() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for round in 0..10 {
        let name = format!("name {round}");
        let (a, b) = (anna.file(&name, b"anna's"), ben.file(&name, b"ben's"));
        let (mut share_a, mut share_b) = (anna.share(vec![a], None), ben.share(vec![b], None));
        let (a, b) = tokio::join!(share_a.outcome(), share_b.outcome());
        let standings = [a.unwrap().entries.remove(0).standing, b.unwrap().entries.remove(0).standing];
        let ids = [anna.ready().peer_id, ben.ready().peer_id];
        let winner = standings.iter().position(|standing| *standing == Standing::Certified).unwrap();
        assert_eq!(standings[1 - winner], Standing::Conflict { conflict_owner: ids[winner] });
        assert_eq!(master.lookup(&name).await.unwrap().entry.owner, ids[winner]);
    }
}

/// Index / names: peer B revokes A's name: refused.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_revokes_and_then_the_name_is_free_at_once() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("name", b"anna's").await;
    assert_eq!(ben.revoke(vec!["name".to_owned()]).await.unwrap_err().kind(), ErrorKind::NotFound);
    let revoked = anna.revoke(vec!["name".to_owned()]).await.unwrap();
    assert!(revoked[0].acknowledged);
    assert_eq!(ben.lookup("name").await.unwrap_err().kind(), ErrorKind::NotFound);
    ben.share_file("name", b"ben's").await;
    assert_eq!(anna.lookup("name").await.unwrap().entry.owner, ben.ready().peer_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_changes_what_its_name_stands_for_and_the_version_rises() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("name", b"first").await;
    let first = anna.lookup("name").await.unwrap().entry;
    anna.share_file("name", b"second").await;
    let second = anna.lookup("name").await.unwrap().entry;
    assert!(second.version > first.version);
    assert_eq!(second.content, ContentId::of(b"second"));
    assert_eq!(anna.shared().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_suspect_then_evicted_and_told_what_was_taken_when_it_returns() {
    // Long enough for a busy machine to see a peer between suspicion and eviction.
    let master = TestNode::start(Role::Master, |config| config.lease.lease = Duration::from_secs(12)).await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for name in ["kept", "taken"] {
        anna.share_file(name, name.as_bytes()).await;
    }
    let id = anna.ready().peer_id;
    // The other end of a cable that is cut: no farewell.
    anna.abandon();
    until("the peer is suspect", async || {
        let peers = master.peers().await.unwrap();
        peers.iter().any(|peer| peer.peer_id == id && peer.state == PeerState::Suspect).then_some(())
    })
    .await;
    gone(&ben, "taken").await;
    assert!(master.peers().await.unwrap().iter().all(|peer| peer.peer_id != id));
    ben.share_file("taken", b"ben's now").await;

    let dir = anna.into_dir().await;
    let addresses = master.ready().listen;
    let anna = TestNode::try_start(Role::Peer, dir, |config| config.master = addresses).await.unwrap();
    joined(&anna).await;
    assert_eq!(anna.ready().peer_id, id);
    found(&ben, "kept").await;
    let shared = anna.shared().await.unwrap();
    let standing = |name: &str| shared.iter().find(|entry| entry.entry.name.as_str() == name).unwrap().standing.clone();
    assert_eq!(standing("kept"), Standing::Certified);
    assert_eq!(standing("taken"), Standing::Conflict { conflict_owner: ben.ready().peer_id });
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_in_order_frees_names_at_once() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("name", b"x").await;
    anna.stop().await;
    assert_eq!(ben.lookup("name").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(master.peers().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_makes_the_master_probe_and_a_peer_that_answers_stays() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("name", b"x").await;
    for _ in 0..5 {
        let reported = ben.report(anna.ready().peer_id).await;
        assert!(reported.is_ok(), "{reported:?}");
    }
    assert_eq!(ben.report(PeerId::random()).await.unwrap_err().kind(), ErrorKind::NotFound);
    // Longer than a lease: a report alone evicts nobody.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(ben.lookup("name").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_from_the_next_holder() {
    let master = TestNode::master().await;
    let bytes = noise(3, 4_000_000);
    let (anna, ben, cleo) =
        (TestNode::peer(&master).await, TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("by anna", &bytes).await;
    ben.share_file("by ben", &bytes).await;
    // Anna is listed first as the owner of the name, and does not answer.
    anna.abandon();
    let lookup = cleo.lookup("by anna").await.unwrap();
    assert_eq!(lookup.holders.len(), 2);
    let got = cleo.fetch("by anna").await.unwrap();
    assert_eq!(got.sources, [ben.ready().peer_id]);
    assert_eq!(std::fs::read(got.path).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_master_knows_its_names_and_an_unchanged_share_is_not_sent_again() {
    let master = TestNode::master().await;
    let listen = vec![tcp_address(&master)];
    let anna = TestNode::peer(&master).await;
    for number in 0..50 {
        anna.file(&format!("folder/{number}"), &[number]);
    }
    let folder = anna.dir.path().join("files/folder");
    anna.share(vec![folder], None).outcome().await.unwrap();
    let before = anna.lookup("7").await.unwrap().entry;

    let dir = master.stop().await;
    until("the peer notices", async || {
        matches!(anna.status().await.unwrap().master, MasterState::Unreachable { .. }).then_some(())
    })
    .await;
    let alone = anna.lookup("7").await.unwrap();
    assert_eq!((alone.source, alone.certified, &alone.entry), (Source::Dht, true, &before), "it has proof of it");
    let master = TestNode::try_start(Role::Master, dir, |config| config.listen = listen).await.unwrap();
    // Before the peer is back, its names are there, and it is suspect.
    assert_eq!(master.lookup("7").await.unwrap().entry, before);
    joined(&anna).await;
    let after = anna.lookup("7").await.unwrap().entry;
    assert_eq!(after, before, "an unchanged share keeps its versions");
    assert_eq!(anna.status().await.unwrap().shared.certified, 50);
}

/// A file that was truncated or changed after hashing: not served under the old id, hashed and announced anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_on_disk_is_refused_and_announced_anew() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for (change, bytes) in [("changed", noise(9, 700_000)), ("truncated", noise(8, 10))] {
        let path = anna.share_file(change, &noise(7, 700_000)).await;
        std::fs::write(&path, &bytes).unwrap();
        let refused = ben.fetch(change).await;
        // Either the change was noticed by this very request, or the new content came already.
        if let Err(error) = refused {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert!(ben.leftovers().iter().all(|name| !name.contains(change)), "nothing is left");
            until("the new content is announced", async || {
                (ben.lookup(change).await.ok()?.entry.content == ContentId::of(&bytes)).then_some(())
            })
            .await;
            ben.fetch(change).await.unwrap();
        }
        assert_eq!(std::fs::read(ben.output().join(change)).unwrap(), bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_target_an_unwritable_folder_and_a_full_disk_are_clear_errors() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("name", b"new").await;
    let target = ben.output().join("name");
    std::fs::write(&target, "old").unwrap();
    assert_eq!(ben.fetch("name").await.unwrap_err().kind(), ErrorKind::Storage);
    assert_eq!(std::fs::read(&target).unwrap(), b"old");

    let get = |output: &str| GetRequest { name: "name".to_owned(), output: output.into(), recursive: false };
    // Missing folders are made, but not there.
    for output in ["/proc/name", "/proc/nowhere/name"] {
        let error = ben.get(get(output)).outcome().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
        assert!(error.describe().contains(output.rsplit_once('/').unwrap().0), "{}", error.describe());
    }
    // The node goes on.
    assert!(ben.lookup("name").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_download_leaves_nothing() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("large", &noise(4, 64 << 20)).await;
    let request = GetRequest { name: "large".to_owned(), output: ben.output(), recursive: false };
    let mut operation = ben.get(request);
    let mut progress = operation.progress();
    progress.wait_for(|progress| progress.done_bytes > 0).await.unwrap();
    operation.cancel();
    assert!(matches!(operation.outcome().await, Err(Error::Cancelled)));
    assert!(ben.leftovers().is_empty(), "{:?}", ben.leftovers());
    assert_eq!(ben.status().await.unwrap().downloads, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_another_network_or_with_another_key_is_refused_with_a_reason() {
    let master = TestNode::master().await;
    let plain = tcp_address(&master);
    let wrong = plain.clone().with(libp2p::multiaddr::Protocol::P2p(PeerId::random()));
    for (master, network, part) in [
        (wrong, "swarmdex", "the address says"),
        (plain.clone(), "other", "keeps the network"),
        (address("/ip4/127.0.0.1/tcp/1"), "swarmdex", "/tcp/1"),
    ] {
        let peer = TestNode::start(Role::Peer, |config| {
            config.master = vec![master];
            config.network = network.parse().unwrap();
        })
        .await;
        let reason = until("the reason is known", async || match peer.status().await.unwrap().master {
            MasterState::Unreachable { reason, .. } => Some(reason),
            _ => None,
        })
        .await;
        assert!(reason.contains(part), "{reason}");
        assert_eq!(peer.lookup("x").await.unwrap_err().kind(), ErrorKind::Unreachable);
    }
    // Without a peer id the master is pinned on first use; an impostor at the same address is refused later.
    let peer = TestNode::start(Role::Peer, |config| config.master = vec![plain.clone()]).await;
    joined(&peer).await;
    let dir = peer.stop().await;
    master.stop().await;
    let impostor = TestNode::start(Role::Master, |config| config.listen = vec![plain.clone()]).await;
    let peer = TestNode::try_start(Role::Peer, dir, |config| config.master = vec![plain]).await.unwrap();
    let reason = until("the impostor is refused", async || match peer.status().await.unwrap().master {
        MasterState::Unreachable { reason, .. } => Some(reason),
        _ => None,
    })
    .await;
    assert!(reason.contains("before") && reason.contains(&impostor.ready().peer_id.to_string()), "{reason}");
    assert_eq!(impostor.peers().await.unwrap().len(), 1, "the impostor has no member but itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_names_in_many_batches_are_announced_listed_and_searched() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for number in 0..2500 {
        anna.file(&format!("many/{:02}/number {number}", number % 50), &[]);
    }
    let folder = anna.dir.path().join("files/many");
    let report = anna.share(vec![folder], None).outcome().await.unwrap();
    assert_eq!(report.entries.len(), 2500);
    assert!(report.entries.iter().all(|entry| entry.standing == Standing::Certified));
    assert_eq!(master.status().await.unwrap().index.unwrap().names, 2500);
    assert_eq!(ben.search("number", 10_000).await.unwrap().len(), 2500);
    assert_eq!(ben.search("", 10_000).await.unwrap().len(), 2500);
    assert_eq!(ben.search("07/*", 10_000).await.unwrap().len(), 50);
    assert_eq!(ben.search("number 1234", 10).await.unwrap().len(), 1);
    assert_eq!(ben.search("number", 7).await.unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_through_a_bootstrap_node() {
    let master = TestNode::master().await;
    let addresses = master.ready().listen;
    let peer = TestNode::start(Role::Peer, |config| config.bootstrap = addresses).await;
    joined(&peer).await;
    peer.share_file("name", b"x").await;
}

/// A node on the port and in the folder of an earlier one, as soon as that has let go of both.
async fn after(role: Role, dir: TempDir, listen: Multiaddr) -> TestNode {
    let begin = Instant::now();
    let path = dir.path().to_owned();
    loop {
        let mut config = config(role, &path);
        config.listen = vec![listen.clone()];
        match Node::start(config).await {
            Ok(node) => return TestNode { node, dir },
            Err(error) => assert!(begin.elapsed() < Duration::from_secs(30), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_with_its_last_handle() {
    for role in [Role::Master, Role::Peer] {
        let TestNode { node, dir } =
            TestNode::start(role, |config| config.listen = vec![address(&free_ports()[0])]).await;
        let (listen, mut events) = (tcp_address(&node), node.events(Some(0)));
        let clone = node.clone();
        drop(node);
        assert!(!clone.ready().listen.is_empty());
        drop(clone);
        let next = after(role, dir, listen).await;
        while tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().is_some() {}
        next.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_is_cut_short_is_finished_by_the_next() {
    let master = TestNode::start(Role::Master, |config| config.listen = vec![address(&free_ports()[0])]).await;
    let listen = tcp_address(&master);
    for _ in 0..3 {
        // Dropped after one look: in the midst of it, unless all has ended by then.
        let _ = master.shutdown().now_or_never();
    }
    master.shutdown().await.unwrap();
    master.shutdown().await.unwrap();
    let TestNode { node, dir } = master;
    drop(node);
    let mut config = config(Role::Master, dir.path());
    config.listen = vec![listen];
    Node::start(config).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_none_is_refused_before_anything_is_made() {
    let changes: [fn(&mut Config); 4] = [
        |config| config.lease.ping_interval = Duration::ZERO,
        |config| config.lease.lease = Duration::ZERO,
        |config| config.fetch.timeout = Duration::MAX,
        |config| config.dht.republish = Duration::ZERO,
    ];
    for change in changes {
        let dir = TempDir::new().unwrap();
        let mut config = config(Role::Peer, dir.path());
        change(&mut config);
        let error = Node::start(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
