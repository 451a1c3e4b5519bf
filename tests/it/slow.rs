//! Disks that take nothing for a while, below each kind of node: nobody else is held up, and what was waiting goes on.

use swarmdex::config::Role;
use swarmdex::node::{GetRequest, Standing};

use crate::disks::Disk;
use crate::harness::{TestNode, joined, noise, tcp_address, until};

/// The disk of the master's index takes nothing: names are found all the while, none is granted, and those that were announced are as
/// soon as the disk goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_whose_disk_hangs_answers_and_grants_nothing_until_it_does_not() {
    let Some((disk, below)) = Disk::waiting() else { return };
    let data = disk.path().join("data");
    let master = TestNode::try_start(Role::Master, tempfile::TempDir::new().unwrap(), |config| config.data_dir = data)
        .await
        .unwrap();
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("old", b"old").await;
    below.signal("STOP");
    let path = anna.file("new", b"new");
    let sharing = tokio::spawn({
        let node = anna.node.clone();
        async move { node.share(vec![path], None).outcome().await }
    });
    // Longer than a lease: nobody is evicted, for nobody is asked.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(6);
    let mut asked = 0;
    while std::time::Instant::now() < end {
        assert_eq!(ben.lookup("old").await.unwrap().entry.owner, anna.ready().peer_id);
        assert!(master.search("new", 10).await.unwrap().is_empty(), "it is granted, and not on disk");
        asked += 1;
    }
    assert!(asked > 10, "{asked} answers in six seconds");
    below.signal("CONT");
    let report = sharing.await.unwrap().unwrap();
    assert_eq!(report.entries.len(), 1);
    until("the new name is granted", async || {
        let entries = anna.shared().await.unwrap();
        entries.iter().all(|entry| entry.standing == Standing::Certified).then_some(())
    })
    .await;
    ben.fetch("new").await.unwrap();
}

/// The disk that a download goes to takes nothing: what the node shares is served, and the download goes on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_downloader_whose_disk_hangs_serves_what_it_shares() {
    let Some((disk, below)) = Disk::waiting() else { return };
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(1, 20 << 20);
    anna.share_file("large", &bytes).await;
    ben.share_file("other", &noise(2, 5 << 20)).await;
    below.signal("STOP");
    let mut operation = ben.get(GetRequest { name: "large".to_owned(), output: disk.path(), recursive: false });
    let mut seen = operation.progress();
    seen.wait_for(|progress| progress.total_bytes > 0).await.unwrap();
    for number in 0..3 {
        let output = anna.output().join(number.to_string());
        anna.get(GetRequest { name: "other".to_owned(), output, recursive: false }).outcome().await.unwrap();
    }
    assert!(ben.status().await.is_ok());
    below.signal("CONT");
    let report = operation.outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
}

/// A node whose data directory is on a disk that hangs goes on answering others, and comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_data_directory_hangs_is_still_there_afterwards() {
    let Some((disk, below)) = Disk::waiting() else { return };
    let master = TestNode::master().await;
    let (data, listen) = (disk.path().join("data"), tcp_address(&master));
    let anna = TestNode::try_start(Role::Peer, tempfile::TempDir::new().unwrap(), |config| {
        config.data_dir = data;
        config.master = vec![listen];
    })
    .await
    .unwrap();
    joined(&anna).await;
    let ben = TestNode::peer(&master).await;
    anna.share_file("file", &noise(3, 3 << 20)).await;
    below.signal("STOP");
    ben.fetch("file").await.unwrap();
    let revoking = tokio::spawn({
        let node = anna.node.clone();
        async move { node.revoke(vec!["file".to_owned()]).await }
    });
    assert!(anna.status().await.is_ok());
    below.signal("CONT");
    revoking.await.unwrap().unwrap();
    until("the name is given up", async || ben.lookup("file").await.err().map(drop)).await;
}
