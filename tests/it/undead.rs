//! What is over stays over: names that were given up while the master was away, and masters of which there is a copy.

use swarmdex::config::{Config, Role};
use swarmdex::node::Standing;
use swarmdex_protocols::Multiaddr;
use tempfile::TempDir;

use crate::harness::{TestNode, alone, found, gone, joined, published, tcp_address, until};
use crate::identity::copy;

/// No lease ends, and nobody is evicted, while a test runs.
fn patient(config: &mut Config) {
    config.lease.lease = std::time::Duration::from_secs(600);
    config.dht.republish = std::time::Duration::from_secs(2);
}

/// Starts a master where it was before.
async fn back(dir: TempDir, listen: Vec<Multiaddr>) -> TestNode {
    let start = TestNode::try_start(Role::Master, dir, |config| {
        patient(config);
        config.listen = listen;
    });
    start.await.unwrap()
}

async fn acquainted(nodes: &[&TestNode]) {
    for node in nodes {
        let others = nodes.len() as u64 - 1;
        until("the nodes know each other", async || (node.status().await.unwrap().dht.nodes >= others).then_some(()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_without_the_master_is_not_confirmed_when_it_is_back() {
    let master = TestNode::start(Role::Master, patient).await;
    let listen = vec![tcp_address(&master)];
    let anna = TestNode::peer_with(&master, patient).await;
    let ben = TestNode::peer_with(&master, patient).await;
    anna.share_file("gone", b"gone").await;
    let ended = anna.share_file("ended", b"ended").await;
    anna.share_file("stays", b"stays").await;
    acquainted(&[&master, &anna, &ben]).await;
    published(&anna).await;
    let dir = master.stop().await;
    alone(&anna).await;
    let revoked = anna.revoke(vec!["gone".to_owned()]).await.unwrap();
    assert!(!revoked[0].acknowledged, "there is no master that could have acknowledged it");
    let unshared = anna.unshare(vec![ended]).await.unwrap();
    assert!(!unshared[0].acknowledged, "nor this");
    // Nobody is left who could tell the master.
    anna.abandon();
    let master = back(dir, listen).await;
    joined(&ben).await;
    for name in ["gone", "ended"] {
        gone(&ben, name).await;
        gone(&master, name).await;
    }
    let names: Vec<_> = ben.search("gone", 10).await.unwrap_or_default().into_iter().map(|entry| entry.name).collect();
    assert!(names.is_empty(), "{names:?}");
    assert!(found(&ben, "stays").await.certified, "of what nobody ended nothing is lost");
    let names = async || master.status().await.unwrap().index.map(|index| index.names);
    until("the index has forgotten it", async || (names().await == Some(1)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_and_shared_again_without_the_master_is_granted_anew_and_found_by_all() {
    let master = TestNode::start(Role::Master, patient).await;
    let listen = vec![tcp_address(&master)];
    let anna = TestNode::peer_with(&master, patient).await;
    let ben = TestNode::peer_with(&master, patient).await;
    let path = anna.share_file("again", b"again").await;
    let before = found(&ben, "again").await.entry.version;
    acquainted(&[&master, &anna, &ben]).await;
    published(&anna).await;
    let dir = master.stop().await;
    alone(&anna).await;
    alone(&ben).await;
    anna.revoke(vec!["again".to_owned()]).await.unwrap();
    gone(&ben, "again").await;
    let shared = anna.share(vec![path], None).outcome().await.unwrap();
    assert_eq!(shared.entries[0].standing, Standing::Claimed, "the certificate is over");
    assert_eq!(found(&ben, "again").await.entry.owner, anna.ready().peer_id);
    let master = back(dir, listen).await;
    joined(&anna).await;
    joined(&ben).await;
    until("the name is certified above what ended it", async || {
        let found = master.lookup("again").await.ok()?;
        (found.certified && found.entry.version > before).then_some(())
    })
    .await;
    master.abandon();
    alone(&ben).await;
    until("what the DHT has is certified above what ended it", async || {
        let found = ben.lookup("again").await.ok()?;
        (found.certified && found.entry.version > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_masters_with_one_key_the_copy_grants_nothing_any_more() {
    let first = TestNode::start(Role::Master, patient).await;
    let listen = vec![tcp_address(&first)];
    let dir = first.stop().await;
    let image = TempDir::new().unwrap();
    copy(&dir.path().join("data"), &image.path().join("data"));
    let first = back(dir, listen).await;
    let anna = TestNode::peer_with(&first, patient).await;
    anna.share_file("old", b"old").await;
    let copy = TestNode::try_start(Role::Master, image, patient).await.unwrap();
    assert_eq!(first.ready().peer_id, copy.ready().peer_id);
    // One that knows peers of both.
    let at_anna = tcp_address(&anna);
    let ben = TestNode::peer_with(&copy, |config| {
        patient(config);
        config.bootstrap = vec![at_anna];
    })
    .await;
    let text = until("the copy has noticed the other", async || {
        let twin = copy.status().await.unwrap().twin?;
        twin.contains("grants nothing any more").then_some(twin)
    })
    .await;
    assert!(text.contains("stop it"), "{text}");
    until("the other has noticed the copy", async || first.status().await.unwrap().twin.map(drop)).await;
    assert!(!first.status().await.unwrap().twin.unwrap().contains("grants nothing"), "one of them goes on");
    let path = ben.file("new", b"new");
    let shared = ben.share(vec![path], None).outcome().await.unwrap();
    // Nothing is granted by the copy: its peer waits, or goes to the other, which it hears of as well.
    assert_eq!(copy.status().await.unwrap().index.unwrap().names, 0);
    if shared.entries[0].standing == Standing::Certified {
        until("the one that goes on has granted it", async || anna.lookup("new").await.ok()?.certified.then_some(()))
            .await;
    }
    // The other serves as before.
    anna.share_file("later", b"later").await;
    assert!(found(&anna, "later").await.certified);
}
