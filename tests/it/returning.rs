//! Peers that leave in order and come back with the share that they left with.

use std::path::Path;

use swarmdex::config::Role;
use swarmdex::node::{MasterState, SharedCounts, Source, Standing};
use swarmdex_protocols::index::{Again, IndexRequest, IndexResponse, RefusalCode, Seals, Sequence, Session};
use swarmdex_protocols::{PeerId, Version};

use crate::harness::{Process, TestNode, alone, gone, published, tcp_address, until};
use crate::stranger::Stranger;

/// More than one part, and more than one page of seals.
const FILES: usize = 4500;

fn fill(folder: &Path, files: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..files {
        std::fs::write(folder.join(format!("n{number:05}")), number.to_string()).unwrap();
    }
}

/// Waits until a master looks no name up any more for having just started.
async fn settled(master: &TestNode) {
    until("the master is settled", async || (master.status().await.unwrap().uptime_seconds > 4).then_some(())).await;
}

/// Waits until a peer has so many names, and so many are another's.
async fn holds(peer: &TestNode, certified: u64, conflicts: u64) {
    until("its names are its own again", async || {
        let status = peer.status().await.unwrap();
        let SharedCounts { certified: granted, conflicts: lost, .. } = status.shared;
        let agreed = status.agreement.is_some_and(|agreement| agreement.names == certified);
        let joined = matches!(status.master, MasterState::Joined { .. });
        (joined && agreed && (granted, lost) == (certified, conflicts)).then_some(())
    })
    .await;
}

async fn owner_and_version(node: &TestNode, name: &str) -> (PeerId, Version) {
    let found = node.lookup(name).await.unwrap();
    assert!(found.certified);
    (found.entry.owner, found.entry.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_in_order_has_its_names_back_at_once_but_those_that_were_taken() {
    let master = TestNode::master().await;
    let (peer, other) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    fill(&peer.dir.path().join("files"), FILES);
    peer.share(vec![peer.dir.path().join("files")], None).outcome().await.unwrap();
    holds(&peer, FILES as u64, 0).await;
    let (owner, before) = owner_and_version(&other, "n00001").await;
    settled(&master).await;
    let dir = peer.stop().await;

    // Free at once, and anybody's.
    gone(&other, "n00001").await;
    assert!(other.search("n0", 9).await.unwrap().is_empty());
    let taken = other.file("n00007", b"another");
    let report = other.share(vec![taken], None).outcome().await.unwrap();
    assert_eq!(report.entries[0].standing, Standing::Certified);

    let listen = master.ready().listen;
    let peer = TestNode::try_start(Role::Peer, dir, |config| config.master = listen).await.unwrap();
    holds(&peer, FILES as u64 - 1, 1).await;
    let (again, version) = owner_and_version(&other, "n00001").await;
    assert!(again == owner && version > before);
    assert_eq!(owner_and_version(&other, "n04499").await, (owner, version), "one version for all: none was offered");
    assert_ne!(owner_and_version(&other, "n00007").await.0, owner);
    assert_eq!(peer.status().await.unwrap().agreement.unwrap().repaired, 0, "nothing was to be put right");

    // Its certificates are in the mirror, above the tombstones.
    until("certificates, tombstones and certificates are published", async || {
        (master.status().await.unwrap().dht.mirror.sent >= 3 * FILES as u64 - 1).then_some(())
    })
    .await;
    published(&master).await;
    master.abandon();
    until("the DHT answers", async || {
        let found = other.lookup("n03001").await.ok()?;
        (found.source == Source::Dht && found.certified && found.entry.version == version).then_some(())
    })
    .await;

    // The master finds on its disk what it granted so.
    let address = tcp_address(&master);
    alone(&peer).await;
    let master = TestNode::try_start(Role::Master, master.into_dir().await, |config| config.listen = vec![address])
        .await
        .unwrap();
    holds(&peer, FILES as u64 - 1, 1).await;
    assert_eq!(owner_and_version(&peer, "n04000").await, (owner, version));
    drop(master);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_with_another_share_tells_all_of_it() {
    let master = TestNode::master().await;
    let peer = TestNode::peer(&master).await;
    let files = peer.dir.path().join("files");
    fill(&files, 1200);
    peer.share(vec![files.clone()], None).outcome().await.unwrap();
    holds(&peer, 1200, 0).await;
    settled(&master).await;
    let dir = peer.stop().await;
    std::fs::write(files.join("n00003"), "changed").unwrap();
    std::fs::remove_file(files.join("n00004")).unwrap();
    let listen = master.ready().listen;
    let peer = TestNode::try_start(Role::Peer, dir, |config| config.master = listen).await.unwrap();
    holds(&peer, 1199, 0).await;
    gone(&peer, "n00004").await;
    let [a, b] = [owner_and_version(&peer, "n00001").await, owner_and_version(&peer, "n00002").await];
    assert_ne!(a.1, b.1, "each was offered");
}

/// Again and again: stopped, killed, and the master killed in between.
#[test]
fn a_peer_that_is_restarted_all_the_time_ends_with_all_its_names() {
    const FILES: usize = 3000;
    let folders = [(); 2].map(|()| tempfile::TempDir::new().unwrap());
    let [of_master, of_peer] = folders.each_ref().map(tempfile::TempDir::path);
    let mut master = Process::start("master", of_master, &[]);
    let address = master.address();
    let port = address.split("/p2p/").next().unwrap().to_owned();
    let files = of_peer.join("files");
    fill(&files, FILES);
    let arguments = ["--master", &address, "--share", files.to_str().unwrap()];
    let whole = |peer: &Process| {
        peer.until(&["status"], |status| {
            let shared = &status["shared"];
            status["master"]["state"] == "joined" && shared["certified"] == FILES && shared["unconfirmed"] == 0
        });
    };
    let mut peer = Process::start("peer", of_peer, &arguments);
    whole(&peer);
    master.until(&["status"], |status| status["uptime_seconds"].as_u64() > Some(4));
    for (round, signal) in ["TERM", "TERM", "KILL", "TERM", "KILL", "TERM"].iter().enumerate() {
        peer.signal(signal);
        peer.wait();
        if round == 3 {
            // With what peers left with on its disk.
            master.kill();
            master = Process::start("master", of_master, &["--listen", &port]);
        }
        peer = Process::start("peer", of_peer, &arguments);
        if round % 2 == 1 {
            whole(&peer);
        }
    }
    whole(&peer);
    let index = |status: &serde_json::Value| status["index"]["names"] == FILES;
    master.until(&["status"], index);
    assert!(!peer.log().contains("this is a bug") && !master.log().contains("this is a bug"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_that_left_get_anything_so() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let again = |session| IndexRequest::Again(Again { session, sequence: Sequence(1) });
    let seals = |session| IndexRequest::Seals(Seals { session, from: String::new() });
    let code = |response| match response {
        IndexResponse::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(stranger.ask(id, &again(Session(1))).await), RefusalCode::NotJoined);
    assert_eq!(code(stranger.ask(id, &seals(Session(1))).await), RefusalCode::NotJoined);
    let joined = stranger.join(id).await;
    assert!(!joined.again);
    assert_eq!(code(stranger.ask(id, &again(joined.session)).await), RefusalCode::Differs);
    assert_eq!(stranger.ask(id, &seals(joined.session)).await, IndexResponse::Sealed(Vec::new()));
}
