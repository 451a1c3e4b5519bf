//! Several masters of one network: two people who each start one on the same LAN.

use swarmdex::config::Role;
use swarmdex_protocols::index::{Followed, IndexRequest, IndexResponse};
use swarmdex_protocols::{Multiaddr, PeerId};
use tempfile::TempDir;

use crate::harness::{TestNode, code, joined, process_joined, tcp_address, until};
use crate::lan::Lan;
use crate::stranger::{Reply, Stranger, framed};

/// Any node says which master it follows.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_says_which_master_it_follows() {
    let master = TestNode::master().await;
    let peer = TestNode::peer(&master).await;
    let lone = TestNode::start(Role::Peer, |_| {}).await;
    let stranger = Stranger::start().await;
    let own = master.ready().peer_id;
    for (node, followed) in [(&master, Some(own)), (&peer, Some(own)), (&lone, None)] {
        let id = stranger.connect(&tcp_address(node)).await.unwrap();
        let answer = until("the node has an answer", async || match stranger.ask(id, &IndexRequest::Master).await {
            IndexResponse::Master(answer) if answer.master == followed => Some(answer),
            _ => None,
        })
        .await;
        assert_eq!(answer.addresses.is_empty(), followed.is_none(), "{answer:?}");
    }
}

/// What peers say of other masters is heard by a master, within bounds, and not believed to be more than it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_hears_from_peers_that_they_follow_another() {
    let master = TestNode::master().await;
    let other = PeerId::random();
    let stranger = Stranger::start().await;
    let junk: Vec<Multiaddr> = (1..200).map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()).collect();
    let answer =
        framed(&IndexResponse::Master(Followed { master: Some(other), addresses: junk, ..Followed::default() }));
    stranger.answer_index(move |_| Reply::Bytes(answer.clone()));
    let silent = Stranger::start().await;
    silent.answer_index(|_| Reply::Stall(Vec::new()));
    for node in [&silent, &stranger] {
        node.connect(&tcp_address(&master)).await.unwrap();
    }
    let told = until("the other master is known", async || {
        let others = master.status().await.unwrap().other_masters;
        (!others.is_empty()).then_some(others)
    })
    .await;
    assert_eq!(told, [other]);
    // Peers follow the master that they joined.
    let peer = TestNode::peer(&master).await;
    assert_eq!(peer.status().await.unwrap().other_masters, []);
}

fn share(folder: &TempDir, name: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, name).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Both masters say so, with both ids and the way out; a new peer takes the one that the peers here follow, even while it
/// is down, and finds what they share.
#[test]
fn a_new_peer_follows_the_master_that_the_peers_of_its_lan_follow() {
    let Some(lan) = Lan::new("votes", 5) else { return };
    let folder = TempDir::new().unwrap();
    let mut first = lan.start(0, "master", folder.path(), &[]);
    let anna = lan.start(1, "peer", folder.path(), &["--share", &share(&folder, "annas.txt")]);
    process_joined(&anna);
    anna.until(&["ls"], |names| names[0]["standing"] == "certified");
    let second = lan.start(2, "master", folder.path(), &[]);
    for (one, other) in [(&first, &second), (&second, &first)] {
        one.until(&["status"], |status| status["other_masters"][0] == other.peer_id().as_str());
        one.until_log("--network NAME");
        let log = one.log();
        assert!(log.contains(&first.peer_id()) && log.contains(&second.peer_id()), "{log}");
    }
    // While both are up, the one that has a member is taken.
    let ben = lan.start(3, "peer", folder.path(), &[]);
    process_joined(&ben);
    assert_eq!(ben.json(&["status"])["master"]["peer_id"], first.peer_id().as_str(), "{}", ben.log());
    ben.until_log("the one that most peers here follow is taken");
    anna.until(&["status"], |status| status["dht"]["published"].as_u64() > Some(0));
    first.kill();
    anna.until(&["status"], |status| status["master"]["state"] == "unreachable");
    let mut cleo = lan.start(4, "peer", folder.path(), &[]);
    let status = cleo.until(&["status"], |status| status["master"]["state"] == "unreachable");
    assert_eq!(status["master"]["peer_id"], first.peer_id().as_str(), "{}", cleo.log());
    let found = cleo.until(&["lookup", "annas.txt"], |found| found["source"] == "dht");
    assert_eq!((&found["owner"], &found["certified"]), (&anna.peer_id().into(), &true.into()));
    let out = folder.path().join("out");
    assert_eq!(code(&cleo.command(&["get", "annas.txt", "-o", out.to_str().unwrap()])), 0);
    // It joins the first when that is back, and stays with it.
    let known = first.peer_id();
    drop(first);
    let first = lan.start(0, "master", folder.path(), &[]);
    assert_eq!(first.peer_id(), known);
    process_joined(&cleo);
    assert_eq!(cleo.json(&["status"])["master"]["peer_id"], known.as_str());
    cleo.signal("TERM");
    cleo.wait();
}

/// Without any peer that follows one, the first master that is found is taken, and the choice is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_alone_takes_the_master_that_it_finds() {
    let master = TestNode::master().await;
    let at = vec![tcp_address(&master)];
    let peer = TestNode::start(Role::Peer, |config| config.bootstrap = at).await;
    joined(&peer).await;
    assert_eq!(peer.status().await.unwrap().other_masters, []);
}
