//! What one session of a peer is told, and what comes of it outside the index.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::tests::{announce, join, offer, open, options, search, write};
use super::*;

#[test]
fn what_the_index_says_is_handed_to_the_mirror_after_the_commit() {
    let folder = TempDir::new().unwrap();
    let (made, mut to_publish) = mpsc::channel(100);
    let options = options().with_mirror(made);
    let store = IndexStore::open(&folder.path().join("index.db"), options).unwrap().0;
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![offer("a", "1"), offer("b", "2"), offer("", "3")], false);
    write(&store, WriteOp::Revoke { peer, names: vec!["a".to_owned()] }).unwrap();
    write(&store, WriteOp::Evict { peer }).unwrap();
    let mut kinds = Vec::new();
    while let Ok(statement) = to_publish.try_recv() {
        kinds.push((statement.name().to_string(), matches!(statement, Statement::Tombstone(_))));
    }
    let expected = [("a", false), ("b", false), ("a", true), ("b", true)].map(|(name, over)| (name.to_owned(), over));
    assert_eq!(kinds, expected);
}

/// Bad input: reports from two runs at once. What the first still had under way neither mixes with the second's report
/// nor ends it.

#[test]
fn a_report_of_an_earlier_run_is_refused_once_another_has_joined() {
    let folder = TempDir::new().unwrap();
    let (store, peer) = (open(folder.path()), PeerId::random());
    let (first, _) = join(&store, peer, ShareDigest::empty(), 1);
    let report = |session, name: &str, last| {
        let change = WriteOp::Announce {
            peer,
            offers: vec![offer(name, name)],
            neighbours: 0,
            last,
            total: None,
            mirror: BTreeMap::new(),
        };
        write(&store, WriteOp::InSession { session, sequence: Sequence(1), change: Box::new(change) })
    };
    report(first, "first 1", false).unwrap();
    let (second, _) = join(&store, peer, ShareDigest::empty(), 2);
    report(second, "second 1", false).unwrap();
    assert_eq!(report(first, "first 2", true).unwrap_err().code, RefusalCode::NotJoined);
    let change = Box::new(WriteOp::Revoke { peer, names: vec!["second 1".to_owned()] });
    let revoked = write(&store, WriteOp::InSession { session: first, sequence: Sequence(1), change });
    assert_eq!(revoked.unwrap_err().code, RefusalCode::NotJoined);
    assert_eq!(search(&store, "", 10), ["first 1", "second 1"], "the report goes on");
    report(second, "second 2", true).unwrap();
    assert_eq!(search(&store, "", 10), ["second 1", "second 2"]);
}
