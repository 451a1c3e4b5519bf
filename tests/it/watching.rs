//! What happens to files in shared folders is announced and revoked by itself.

use std::fs;
use std::os::unix::fs::symlink;

use swarmdex_protocols::ContentId;

use crate::harness::{TestNode, found, gone, noise, until};

/// Waits until a name stands for these bytes.
async fn stands_for(node: &TestNode, name: &str, bytes: &[u8]) {
    let content = ContentId::of(bytes);
    until("the name stands for the new content", async || {
        node.lookup(name).await.ok().filter(|found| found.entry.content == content)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_changed_renamed_and_deleted_files_are_announced_and_revoked() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let tree = anna.dir.path().join("files/tree");
    anna.file("tree/old", b"old");
    anna.file("tree/sub/other", b"other");
    let alone = anna.share_file("alone", b"alone").await;
    anna.share(vec![tree.clone()], Some("t".to_owned())).outcome().await.unwrap();
    found(&ben, "t/sub/other").await;

    anna.file("tree/new", b"new");
    stands_for(&ben, "t/new", b"new").await;
    assert_eq!(fs::read(ben.fetch("t/new").await.unwrap().path).unwrap(), b"new");
    // Written into the same file, and as programs do that put a new file in the place of the old one.
    anna.file("tree/old", b"changed");
    stands_for(&ben, "t/old", b"changed").await;
    anna.file("tree/.swap", b"swapped");
    fs::rename(tree.join(".swap"), tree.join("old")).unwrap();
    stands_for(&ben, "t/old", b"swapped").await;
    let swap = anna.file("swap", b"alone no more");
    fs::rename(swap, &alone).unwrap();
    stands_for(&ben, "alone", b"alone no more").await;
    // A file, and a folder with all below it.
    fs::rename(tree.join("new"), tree.join("renamed")).unwrap();
    fs::rename(tree.join("sub"), tree.join("folder")).unwrap();
    for name in ["t/renamed", "t/folder/other"] {
        found(&ben, name).await;
    }
    for name in ["t/new", "t/sub/other"] {
        gone(&ben, name).await;
    }
    // Below folders that are new themselves.
    anna.file("tree/a/b/c/deep", b"deep");
    found(&ben, "t/a/b/c/deep").await;
    anna.file("tree/a/b/c/deeper", b"deeper");
    found(&ben, "t/a/b/c/deeper").await;
    fs::remove_dir_all(tree.join("a")).unwrap();
    fs::remove_file(tree.join("renamed")).unwrap();
    for name in ["t/a/b/c/deep", "t/a/b/c/deeper", "t/renamed"] {
        gone(&ben, name).await;
    }
    // What was revoked stays so although it changes; what is no file of this folder is none.
    anna.revoke(vec!["t/old".to_owned()]).await.unwrap();
    anna.file("tree/old", b"again");
    symlink("/etc", tree.join("link")).unwrap();
    anna.file("beside", b"beside");
    anna.file("tree/last", b"last");
    found(&ben, "t/last").await;
    let names: Vec<_> = anna.shared().await.unwrap().into_iter().map(|shared| shared.entry.name.to_string()).collect();
    assert_eq!(names, ["alone", "t/folder/other", "t/last"]);
}

/// A folder to drop files into, which is empty when it is shared.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_into_an_empty_folder_is_shared() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let drop = anna.dir.path().join("files/drop");
    std::fs::create_dir_all(&drop).unwrap();
    let report = anna.share(vec![drop.clone()], None).outcome().await.unwrap();
    assert!(report.entries.is_empty());
    std::fs::write(drop.join("dropped"), "x").unwrap();
    stands_for(&master, "dropped", b"x").await;
}

/// More changes at once than can wait to be heard.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_that_appear_at_once_are_all_announced() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.file("tree/first", b"first");
    let tree = anna.dir.path().join("files/tree");
    anna.share(vec![tree], None).outcome().await.unwrap();
    for number in 0..6000u64 {
        anna.file(&format!("tree/{}/{number}", number % 50), &noise(number, 20));
    }
    until("all are shared", async || (anna.shared().await.unwrap().len() == 6001).then_some(())).await;
    until("all are certified", async || (anna.status().await.unwrap().shared.certified == 6001).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_watching_files_stay_as_they_were_shared() {
    let master = TestNode::master().await;
    let anna = TestNode::peer_with(&master, |config| config.watch = false).await;
    let ben = TestNode::peer(&master).await;
    anna.file("tree/old", b"old");
    let tree = anna.dir.path().join("files/tree");
    anna.share(vec![tree], None).outcome().await.unwrap();
    anna.file("tree/new", b"new");
    anna.file("tree/old", b"changed");
    // Only what somebody asks for turns out changed, and is announced anew.
    assert!(ben.fetch("old").await.is_err());
    stands_for(&ben, "old", b"changed").await;
    assert_eq!(anna.shared().await.unwrap().len(), 1);
}
