//! A master whose data directory is restored from a backup: what was granted since is not given to others, and no
//! version is used twice.

use std::time::Duration;

use swarmdex::config::{Config, Role};
use swarmdex::node::{EntryInfo, Standing};
use swarmdex_protocols::Multiaddr;
use tempfile::TempDir;

use crate::harness::{
    Process, TestNode, alone, file, found, gone, joined, process_joined, published, tcp_address, until,
};
use crate::identity::copy;

fn often(config: &mut Config) {
    config.dht.republish = Duration::from_secs(2);
    // Long enough for what has to happen while an owner is away.
    config.lease.lease = Duration::from_secs(8);
}

/// Starts the master where it was before.
async fn back(dir: TempDir, listen: &Multiaddr) -> TestNode {
    let listen = vec![listen.clone()];
    TestNode::try_start(Role::Master, dir, |config| {
        often(config);
        config.listen = listen;
    })
    .await
    .unwrap()
}

/// A master with four peers; two of them share before the backup, and `peers[3]` is granted `since` after it.
struct Restored {
    master: TestNode,
    listen: Multiaddr,
    peers: Vec<TestNode>,
    since: EntryInfo,
}

/// Restores the backup while the owner of `since` is away.
async fn restored() -> Restored {
    let master = TestNode::start(Role::Master, often).await;
    let listen = tcp_address(&master);
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(TestNode::peer_with(&master, often).await);
    }
    peers[0].share_file("before 0", b"0").await;
    peers[3].share_file("before 3", b"3").await;
    let dir = master.stop().await;
    let image = TempDir::new().unwrap();
    copy(&dir.path().join("data"), &image.path().join("data"));
    let master = back(dir, &listen).await;
    for peer in &peers {
        joined(peer).await;
    }
    for node in peers.iter().chain([&master]) {
        until("the nodes know each other", async || (node.status().await.unwrap().dht.nodes >= 4).then_some(())).await;
    }
    peers[3].share_file("since", b"since").await;
    let since = found(&master, "since").await.entry;
    published(&peers[3]).await;
    peers[3].abandon();
    drop(master.stop().await);
    for peer in &peers[..3] {
        alone(peer).await;
    }
    let master = back(image, &listen).await;
    for peer in &peers[..3] {
        joined(peer).await;
    }
    Restored { master, listen, peers, since }
}

/// Another peer wants the name, and is told whose it is.
async fn wanted_in_vain(restored: &Restored) {
    let path = restored.peers[1].file("since", b"usurped");
    let report = restored.peers[1].share(vec![path], None).outcome().await.unwrap();
    let conflict_owner = restored.since.owner;
    assert_eq!(report.entries[0].standing, Standing::Conflict { conflict_owner });
    assert_eq!(restored.master.lookup("since").await.unwrap().entry.owner, conflict_owner);
}

/// What is granted from now on has a version above all that was granted before, and since the backup.
async fn versions_rise(restored: &Restored, name: &str) {
    restored.peers[0].share_file(name, name.as_bytes()).await;
    let later = restored.master.lookup(name).await.unwrap().entry.version;
    assert!(later > restored.since.version, "{later:?} after {:?}", restored.since);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_granted_since_the_backup_is_kept_for_an_owner_that_comes_back_later() {
    let mut restored = restored().await;
    wanted_in_vain(&restored).await;
    versions_rise(&restored, "later").await;
    let dir = restored.peers.pop().unwrap().into_dir().await;
    let listen = vec![restored.listen.clone()];
    let owner = TestNode::try_start(Role::Peer, dir, |config| {
        often(config);
        config.master = listen;
    })
    .await
    .unwrap();
    joined(&owner).await;
    for name in ["since", "before 3"] {
        let kept = until("the name is the owner's again", async || {
            let found = restored.master.lookup(name).await.ok()?;
            (found.certified && found.entry.owner == owner.ready().peer_id).then_some(found.entry)
        })
        .await;
        if name == "since" {
            assert_eq!(kept.content, restored.since.content);
            assert!(kept.version >= restored.since.version);
        }
    }
    let got = restored.peers[0].fetch("since").await.unwrap();
    assert_eq!(std::fs::read(got.path).unwrap(), b"since");
    assert_eq!(found(&restored.master, "before 0").await.entry.owner, restored.peers[0].ready().peer_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_granted_since_the_backup_is_free_once_its_owner_is_gone_for_good() {
    let restored = restored().await;
    wanted_in_vain(&restored).await;
    gone(&restored.master, "since").await;
    gone(&restored.master, "before 3").await;
    let path = restored.peers[2].file("since", b"taken");
    let taken = until("the name is granted to another", async || {
        let report = restored.peers[2].share(vec![path.clone()], None).outcome().await.unwrap();
        (report.entries[0].standing == Standing::Certified).then_some(report.entries[0].entry.clone())
    })
    .await;
    assert!(restored.master.lookup("since").await.unwrap().entry.version > restored.since.version);
    assert_eq!(taken.owner, restored.peers[2].ready().peer_id);
    versions_rise(&restored, "later").await;
}

/// The owner of a name is up, and has not found the master again yet when another peer asks for the name.
async fn asked_before_its_owner_is_back(is_lost: bool) {
    let master = TestNode::start(Role::Master, often).await;
    let (listen, folder) = (tcp_address(&master), TempDir::new().unwrap());
    let owner = Process::start("peer", folder.path(), &["--master", &listen.to_string()]);
    process_joined(&owner);
    let dir = master.stop().await;
    let image = TempDir::new().unwrap();
    copy(&dir.path().join("data"), &image.path().join("data"));
    if is_lost {
        for entry in std::fs::read_dir(image.path().join("data")).unwrap().map(Result::unwrap) {
            let is_file = entry.file_type().unwrap().is_file();
            match entry.file_name() == "identity.key" {
                true => {}
                false if is_file => std::fs::remove_file(entry.path()).unwrap(),
                false => std::fs::remove_dir_all(entry.path()).unwrap(),
            }
        }
    }
    owner.until(&["status"], |status| status["master"]["state"] == "unreachable");
    let master = back(dir, &listen).await;
    process_joined(&owner);
    let shared = owner.json(&["share", &file(folder.path(), "since", b"since")]);
    assert_eq!(shared["entries"][0]["standing"], "certified", "{shared}");
    // It stands still: the master is back, and another comes first.
    owner.signal("STOP");
    drop(master.stop().await);
    let master = back(image, &listen).await;
    let other = TestNode::peer_with(&master, often).await;
    joined(&other).await;
    let mut wanting = other.share(vec![other.file("since", b"usurped")], None);
    owner.signal("CONT");
    let report = wanting.outcome().await.unwrap();
    let conflict_owner = owner.peer_id().parse().unwrap();
    assert_eq!(report.entries[0].standing, Standing::Conflict { conflict_owner });
    let found = master.lookup("since").await.unwrap();
    assert_eq!(found.entry.owner, conflict_owner);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_granted_since_the_backup_is_not_given_away_before_its_owner_had_time_to_return() {
    asked_before_its_owner_is_back(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_lost_its_index_gives_no_name_away_before_its_owner_had_time_to_return() {
    asked_before_its_owner_is_back(true).await;
}
