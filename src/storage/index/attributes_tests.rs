//! What owners say of their files beside the bytes, in the index.

use swarmdex_protocols::statement::Subject;
use swarmdex_protocols::{Attributes, ContentId, Entry, SignedAttributes};
use tempfile::TempDir;

use super::tests::{announce, join, lookup, offer, open, options, write};
use super::*;

fn key() -> Keypair {
    Keypair::ed25519_from_bytes([9; 32]).unwrap()
}

fn with(offer: Offer, executable: bool) -> Offer {
    let network = Network::default();
    let subject = Subject { name: &offer.name, content: &offer.content, size: offer.size, network: &network };
    let signed = SignedAttributes::sign(Attributes::new(executable, 5), subject, &key()).unwrap();
    Offer { attributes: Some(Box::new(signed)), ..offer }
}

fn executable(store: &IndexStore, name: &str) -> Option<bool> {
    let entry = lookup(store, name).unwrap().entry;
    entry.attributes(&Network::default()).map(|attributes| attributes.executable)
}

fn version(store: &IndexStore, name: &str) -> Version {
    lookup(store, name).unwrap().entry.version
}

/// Joins with what the index holds; whether it lacks attributes.
fn is_bare(store: &IndexStore, peer: PeerId, names: &[&str], again: bool) -> bool {
    let mut sum = ShareSum::default();
    names.iter().for_each(|name| sum.add(&lookup(store, name).unwrap().entry.digest()));
    let ShareSum { entries, digest } = sum;
    let op = WriteOp::Join { peer, addresses: Vec::new(), digest, entries, seen: Version::default(), again };
    match write(store, op).unwrap() {
        WriteOutcome::Joined { unchanged: true, bare, .. } => bare,
        other => panic!("{other:?}"),
    }
}

#[test]
fn attributes_are_kept_and_a_change_of_them_is_a_change() {
    let folder = TempDir::new().unwrap();
    let peer = key().public().to_peer_id();
    let store = open(folder.path());
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![with(offer("a", "1"), false), offer("old", "1")], false);
    assert_eq!((executable(&store, "a"), executable(&store, "old")), (Some(false), None));
    let first = version(&store, "a");
    announce(&store, peer, vec![with(offer("a", "1"), false)], false);
    assert_eq!(version(&store, "a"), first, "nothing new");
    announce(&store, peer, vec![with(offer("a", "1"), true)], false);
    assert!(version(&store, "a") > first, "so that others hear of it");
    let second = version(&store, "a");
    // A build that does not know of them says nothing.
    announce(&store, peer, vec![offer("a", "1")], false);
    assert_eq!((version(&store, "a"), executable(&store, "a")), (second, Some(true)));
    store.close();
    let store = open(folder.path());
    assert_eq!(executable(&store, "a"), Some(true));
    assert!(is_bare(&store, peer, &["a", "old"], false), "of one nothing is known");
    announce(&store, peer, vec![with(offer("old", "1"), true)], false);
    assert!(!is_bare(&store, peer, &["a", "old"], false));
}

#[test]
fn who_returns_has_the_attributes_back() {
    let folder = TempDir::new().unwrap();
    let peer = key().public().to_peer_id();
    let store = open(folder.path());
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![with(offer("a", "1"), true)], true);
    let mut sum = ShareSum::default();
    sum.add(&lookup(&store, "a").unwrap().entry.digest());
    write(&store, WriteOp::Evict { peer }).unwrap();
    let op = WriteOp::Join {
        peer,
        addresses: Vec::new(),
        digest: sum.digest,
        entries: 1,
        seen: Version::default(),
        again: true,
    };
    let WriteOutcome::Joined { session, again: true, bare: false, .. } = write(&store, op).unwrap() else { panic!() };
    write(
        &store,
        WriteOp::InSession { session, sequence: Sequence(1), change: Box::new(WriteOp::Again { peer, neighbours: 0 }) },
    )
    .unwrap();
    assert_eq!(executable(&store, "a"), Some(true));
}

#[test]
fn a_database_of_an_earlier_build_is_opened_with_everything_in_it_and_both_may_use_it_in_turn() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("index.db");
    let peer = key().public().to_peer_id();
    let store = open(folder.path());
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![offer("a", "1"), offer("b", "2")], false);
    let before = lookup(&store, "a").unwrap().entry;
    store.close();
    // As it was before: without the columns and their indexes.
    let connection = rusqlite::Connection::open(&path).unwrap();
    let earlier = "DROP INDEX names_bare; DROP INDEX away_bare;
        ALTER TABLE names DROP COLUMN attributes; ALTER TABLE away DROP COLUMN attributes;";
    connection.execute_batch(earlier).unwrap();
    drop(connection);
    let store = IndexStore::open(&path, options()).unwrap().0;
    assert_eq!(lookup(&store, "a").unwrap().entry, before);
    assert!(is_bare(&store, peer, &["a", "b"], false));
    announce(&store, peer, vec![with(offer("a", "1"), true), with(offer("b", "2"), true)], false);
    assert_eq!((executable(&store, "a"), executable(&store, "b")), (Some(true), Some(true)));
    let entry = lookup(&store, "a").unwrap().entry;
    store.close();
    // The earlier build changes a row, and leaves the column that it does not know.
    let changed = Entry { content: ContentId::of(b"3"), attributes: None, ..entry };
    let connection = rusqlite::Connection::open(&path).unwrap();
    let sql = "UPDATE names SET content = ?1, checksum = ?2 WHERE name = 'a'";
    let values = rusqlite::params![&changed.content.as_bytes()[..], &schema::checksum(&changed)[..]];
    assert_eq!(connection.execute(sql, values).unwrap(), 1);
    drop(connection);
    let store = IndexStore::open(&path, options()).unwrap().0;
    assert_eq!((lookup(&store, "a").unwrap().entry, executable(&store, "b")), (changed, Some(true)));
}
