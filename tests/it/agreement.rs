//! Owner and master hold the same names, or notice and put it right: shares of several batches, masters that come back,
//! rows that somebody changed, members that lie.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use swarmdex::Node;
use swarmdex::config::Role;
use swarmdex::node::{MasterState, Standing};
use swarmdex_protocols::index::{
    Announce, Compare, Compared, IndexRequest, IndexResponse, Offer, Range, RefusalCode, Renew, Sequence, Session,
    ShareDigest, ShareSum, Verdict,
};
use swarmdex_protocols::{ContentId, PeerId};

use crate::harness::{Process, TestNode, alone, code, joined, made, tcp_address, until};
use crate::stranger::Stranger;

/// Shares a folder of so many small files.
async fn share_folder(peer: &TestNode, files: usize) {
    let folder = peer.dir.path().join("files");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..files {
        std::fs::write(folder.join(format!("n{number:05}")), number.to_string()).unwrap();
    }
    peer.share(vec![folder], None).outcome().await.unwrap();
    agreed(peer, files as u64).await;
}

/// Waits until a node and its master have seen that they hold the same so many names, and no other.
async fn agreed(peer: &Node, names: u64) {
    until("both hold the same", async || {
        let status = peer.status().await.unwrap();
        let counts = status.shared;
        let agreement = status.agreement.filter(|agreement| agreement.checked && agreement.names == names)?;
        (counts.certified == names && matches!(status.master, MasterState::Joined { .. })).then_some(agreement)
    })
    .await;
}

/// Names in a master's index.
async fn names(master: &Node) -> u64 {
    master.status().await.unwrap().index.unwrap().names
}

async fn missed(peer: &Node) {
    alone(peer).await;
}

/// A large share, a master that was away for a moment, one new file meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_large_share_vanishes_when_it_joins_again() {
    for files in [1, 1000, 3003] {
        let master = TestNode::master().await;
        let peer = TestNode::peer(&master).await;
        share_folder(&peer, files).await;
        let listen = tcp_address(&master);
        master.abandon();
        missed(&peer).await;
        let new = peer.file("new.txt", b"new");
        peer.share(vec![new], None).outcome().await.unwrap();
        let master = TestNode::try_start(Role::Master, master.into_dir().await, |config| config.listen = vec![listen])
            .await
            .unwrap();
        agreed(&peer, files as u64 + 1).await;
        assert_eq!(names(&master).await, files as u64 + 1);
        assert_eq!(peer.status().await.unwrap().agreement.unwrap().repaired, 0, "nothing was to be put right");
        assert!(master.lookup("n00000").await.unwrap().certified && master.lookup("new.txt").await.unwrap().certified);
    }
}

fn database(node: &TestNode, name: &str) -> Connection {
    let connection = Connection::open(node.dir.path().join("data").join(name)).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
}

/// Waits until the master's index is whole again: so many names, all sound, all of this owner.
async fn whole(master: &TestNode, owner: &TestNode, files: usize) {
    let owner = owner.ready().peer_id;
    until("the index is whole", async || {
        if names(master).await != files as u64 {
            return None;
        }
        for number in (0..files).step_by(97) {
            let found = master.lookup(&format!("n{number:05}")).await.ok()?;
            let content = ContentId::of(number.to_string().as_bytes());
            if found.entry.owner != owner || found.entry.content != content || !found.certified {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_somebody_changes_in_a_running_masters_index_are_put_right() {
    const FILES: usize = 1500;
    let master = TestNode::master().await;
    let (peer, other) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    share_folder(&peer, FILES).await;
    let stranger = other.ready().peer_id.to_bytes();
    let changes = [
        "DELETE FROM names WHERE id = 700",
        "DELETE FROM names WHERE id % 11 = 0",
        "UPDATE names SET size = size + 1 WHERE id % 13 = 0",
        "UPDATE names SET version = version + 5 WHERE id % 17 = 0",
        "UPDATE names SET owner = ?1 WHERE id % 101 = 0",
        "UPDATE peers SET names = 3, digest = zeroblob(32) WHERE peer <> ?1",
        "INSERT INTO names (name, content, size, owner, version, session, checksum)
            SELECT 'by hand ' || id, content, size, owner, version, session, checksum FROM names WHERE id % 19 = 0",
    ];
    for change in changes {
        let count = match change.contains("?1") {
            true => database(&master, "index.db").execute(change, [&stranger]).unwrap(),
            false => database(&master, "index.db").execute(change, []).unwrap(),
        };
        assert!(count > 0, "{change}");
        if change.starts_with("INSERT") {
            // Rows without a sound checksum are never served, and block nothing.
            until("they are not counted", async || (peer.search("by hand", 9).await.unwrap().is_empty()).then_some(()))
                .await;
            continue;
        }
        whole(&master, &peer, FILES).await;
        agreed(&peer, FILES as u64).await;
    }
    assert!(peer.status().await.unwrap().agreement.unwrap().repaired > 0);
    assert_eq!(other.status().await.unwrap().shared.entries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_somebody_empties_is_filled_again() {
    const FILES: usize = 5000;
    let master = TestNode::master().await;
    let peer = TestNode::peer(&master).await;
    share_folder(&peer, FILES).await;
    database(&master, "index.db").execute_batch("DELETE FROM names").unwrap();
    whole(&master, &peer, FILES).await;
    database(&master, "index.db").execute_batch("DELETE FROM names; DELETE FROM peers").unwrap();
    whole(&master, &peer, FILES).await;
    agreed(&peer, FILES as u64).await;
}

/// What was changed while the master was down is found at its start.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_somebody_changes_while_the_master_is_down_are_put_right() {
    const FILES: usize = 1200;
    let master = TestNode::master().await;
    let peer = TestNode::peer(&master).await;
    share_folder(&peer, FILES).await;
    let listen = tcp_address(&master);
    let dir = master.stop().await;
    let connection = Connection::open(dir.path().join("data/index.db")).unwrap();
    assert_eq!(connection.execute("DELETE FROM names WHERE id % 400 = 0", []).unwrap(), 3);
    drop(connection);
    let master = TestNode::try_start(Role::Master, dir, |config| config.listen = vec![listen]).await.unwrap();
    whole(&master, &peer, FILES).await;
    agreed(&peer, FILES as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_somebody_changes_are_written_again() {
    const FILES: usize = 40;
    let master = TestNode::master().await;
    let peer = TestNode::peer(&master).await;
    share_folder(&peer, FILES).await;
    let count = |connection: &Connection| {
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        connection.query_row("SELECT count(*) FROM certificates WHERE length(certificate) > 9", [], count).unwrap()
    };
    let connection = database(&peer, "certificates.db");
    until("they are written", async || (count(&connection) == FILES as i64).then_some(())).await;
    let change = "DELETE FROM certificates WHERE name < 'n00010';
        UPDATE certificates SET certificate = x'00' WHERE name > 'n00030';
        INSERT INTO certificates SELECT 'by hand', certificate FROM certificates WHERE name = 'n00020';";
    connection.execute_batch(change).unwrap();
    until("they are written again", async || (count(&connection) == FILES as i64).then_some(())).await;
    // The same while the node is down: it is told by the master.
    let dir = peer.stop().await;
    Connection::open(dir.path().join("data/certificates.db")).unwrap().execute_batch(change).unwrap();
    let listen = master.ready().listen;
    let peer = TestNode::try_start(Role::Peer, dir, |config| config.master = listen).await.unwrap();
    joined(&peer).await;
    agreed(&peer, FILES as u64).await;
    assert_eq!(names(&master).await, FILES as u64);
}

fn sum(entries: u64) -> ShareSum {
    ShareSum { entries, digest: ShareDigest::from_bytes([7; 32]) }
}

async fn renew(stranger: &Stranger, master: PeerId, session: Session, held: ShareSum) -> IndexResponse {
    stranger.ask(master, &IndexRequest::Renew(Renew { session, held, repaired: 0 })).await
}

fn refused(response: &IndexResponse) -> Option<RefusalCode> {
    match response {
        IndexResponse::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

/// A peer that says it has a million names and has none, and one that never agrees: bounded work, then it has to join
/// anew, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lies_about_what_it_holds_costs_little_and_only_itself() {
    let master = TestNode::master().await;
    let honest = TestNode::peer(&master).await;
    share_folder(&honest, 30).await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let mut answers = 0;
    loop {
        match renew(&stranger, id, session, sum(1_000_000)).await {
            IndexResponse::Renewed(renewed) => assert!(!renewed.agreed),
            refusal => {
                assert_eq!(refused(&refusal), Some(RefusalCode::NotJoined));
                break;
            }
        }
        answers += 1;
        assert!(answers < 20, "it is told to join anew");
    }
    let ranges = vec![Range { from: String::new(), to: None, held: sum(1) }];
    let compare = |session, ranges: &Vec<Range>| IndexRequest::Compare(Compare { session, ranges: ranges.clone() });
    let over = stranger.ask(id, &compare(session, &ranges)).await;
    assert_eq!(refused(&over), Some(RefusalCode::NotJoined), "the session is over");
    let session = stranger.join(id).await.session;
    for bad in [vec![], [ranges.clone(), ranges.clone()].concat(), vec![ranges[0].clone(); 17]] {
        assert_eq!(refused(&stranger.ask(id, &compare(session, &bad)).await), Some(RefusalCode::Malformed));
    }
    // What it holds is nothing, whatever it says; of others' names it learns nothing.
    let answer = stranger.ask(id, &compare(session, &ranges)).await;
    assert_eq!(answer, IndexResponse::Compared(vec![Compared::Names(Vec::new())]));
    let mut compared = 1;
    while matches!(stranger.ask(id, &compare(session, &ranges)).await, IndexResponse::Compared(_)) {
        compared += 1;
        assert!(compared < 10_000, "comparisons have an end");
    }
    agreed(&honest, 30).await;
    assert_eq!(names(&master).await, 30);
}

/// The end of a report that says something else than was granted frees nothing; one of an earlier build says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_ends_with_another_count_frees_nothing() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let announce = async |session, sequence, names: &[&str], end: Option<Option<ShareSum>>| {
        let offers = names.iter().map(|name| Offer::new(*name, ContentId::of(name.as_bytes()), 1)).collect();
        let total = end.flatten();
        let announce = Announce { session, sequence: Sequence(sequence), offers, last: end.is_some(), total };
        stranger.ask(id, &IndexRequest::Announce(announce)).await
    };
    let versions = |response: IndexResponse| match response {
        IndexResponse::Announced(verdicts) => verdicts
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Accepted { version, .. } => version,
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let session = stranger.join(id).await.session;
    versions(announce(session, 1, &["a", "b", "c"], None).await);
    // It joins again, and tells but one of three names before the end.
    let session = stranger.join(id).await.session;
    let kept = versions(announce(session, 1, &["a"], None).await);
    for lie in [sum(0), sum(1), sum(3), sum(1_000_000)] {
        assert_eq!(refused(&announce(session, 2, &[], Some(Some(lie))).await), Some(RefusalCode::Differs));
        assert_eq!(names(&master).await, 3, "nothing is freed");
    }
    let mut total = ShareSum::default();
    total.add(&ShareDigest::of("a", &ContentId::of(b"a"), 1, kept[0]));
    versions(announce(session, 3, &[], Some(Some(total))).await);
    assert_eq!(names(&master).await, 1, "the others were not announced");
    let session = stranger.join(id).await.session;
    versions(announce(session, 1, &["d"], Some(None)).await);
    assert_eq!(names(&master).await, 1);
    assert!(master.lookup("d").await.is_ok());
}

/// The master is killed again and again while a share of several batches is told, and a file comes meanwhile.
#[test]
fn a_large_share_is_whole_whenever_the_master_is_killed() {
    const FILES: usize = 2600;
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| made(folder.path(), name);
    let share = path("share");
    let file = |number: usize| std::fs::write(share.join(format!("n{number:05}")), number.to_string()).unwrap();
    (0..FILES).for_each(file);
    let mut master = Process::start("master", &path("m"), &[]);
    let listen = master.address();
    let listen = listen.split("/p2p/").next().unwrap().to_owned();
    let address = master.address();
    let peer = Process::start("peer", &path("p"), &["--master", &address, "--share", share.to_str().unwrap()]);
    let seed = 25;
    for round in 0..6 {
        // Somewhere in the report, from its first batch on to after its end.
        let names = FILES as u64 * ((seed + round * 7) % 11) / 10;
        master.until(&["status"], |status| status["index"]["names"].as_u64() >= Some(names.min(FILES as u64)));
        master.kill();
        file(FILES + round as usize);
        master = Process::start("master", &path("m"), &["--listen", &listen]);
    }
    let all = FILES as u64 + 6;
    master.until(&["status"], |status| status["index"]["names"].as_u64() == Some(all));
    peer.until(&["status"], |status| {
        status["agreement"]["names"].as_u64() == Some(all) && status["shared"]["certified"].as_u64() == Some(all)
    });
    assert_eq!(code(&master.command(&["lookup", &format!("n{:05}", FILES + 5)])), 0);
    assert!(Path::new(&folder.path().join("m")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unconfirmed_once_the_master_did_not_answer_for_two_leases() {
    let master = TestNode::master().await;
    let peer = TestNode::peer(&master).await;
    share_folder(&peer, 3).await;
    let standing = async || peer.shared().await.unwrap().into_iter().map(|shared| shared.standing).collect::<Vec<_>>();
    assert_eq!(standing().await, [Standing::Certified, Standing::Certified, Standing::Certified]);
    master.abandon();
    until("they are unconfirmed", async || {
        let all = standing().await;
        all.iter().all(|standing| *standing == Standing::Unconfirmed).then_some(())
    })
    .await;
    let agreement = peer.status().await.unwrap().agreement.unwrap();
    assert!(agreement.confirmed_ms > 0 && agreement.checked);
}
