//! Peers that left in order and return with the share that they left with.

use swarmdex_protocols::{ContentId, Entry};
use tempfile::TempDir;

use super::tests::{announce, join, lookup, offer, open, search, write};
use super::*;
use crate::state::index::again::Left;

const MANY: usize = 9001;

/// What a peer holds, as it says it.
fn sum(held: &[Certificate]) -> ShareSum {
    let mut sum = ShareSum::default();
    held.iter().for_each(|held| sum.add(&held.entry.digest()));
    sum
}

/// Shares some names, and has their certificates.
fn share(store: &IndexStore, peer: PeerId, names: &[&str]) -> Vec<Certificate> {
    join(store, peer, ShareDigest::empty(), names.len() as u64);
    announce(store, peer, names.iter().map(|name| offer(name, name)).collect(), true);
    names.iter().map(|name| lookup(store, name).unwrap()).collect()
}

fn come_back(store: &IndexStore, peer: PeerId, share: &ShareSum) -> (Session, bool) {
    let ShareSum { entries, digest } = *share;
    let seen = Version::default();
    let op = WriteOp::Join { peer, addresses: Vec::new(), digest, entries, seen, again: true };
    match write(store, op).unwrap() {
        WriteOutcome::Joined { session, unchanged: false, again, .. } => (session, again),
        other => panic!("{other:?}"),
    }
}

fn again(store: &IndexStore, peer: PeerId, session: Session) -> Result<(Returned, Holding), Refusal> {
    match write(
        store,
        WriteOp::InSession { session, sequence: Sequence(1), change: Box::new(WriteOp::Again { peer, neighbours: 0 }) },
    )? {
        WriteOutcome::Returned { returned, holding } => Ok((returned, holding)),
        other => panic!("{other:?}"),
    }
}

fn seals(store: &IndexStore, peer: PeerId, from: &str) -> Vec<Sealed> {
    let op = ReadOp::Seals { peer, from: from.to_owned() };
    match store.try_read(op).unwrap().blocking_recv().unwrap().unwrap() {
        ReadOutcome::Sealed(sealed) => sealed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_returns_with_what_it_left_with_gets_all_that_nobody_took() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (anna, ben) = (PeerId::random(), PeerId::random());
    let held = share(&store, anna, &["a", "b", "c", "d"]);
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    assert!(lookup(&store, "a").is_none() && search(&store, "", 9).is_empty(), "free at once");
    assert_eq!(store.counts(), (0, 0));
    // One is taken; one was taken, and is free again.
    share(&store, ben, &["b", "d"]);
    write(&store, WriteOp::Revoke { peer: ben, names: vec!["d".to_owned()] }).unwrap();

    let (session, returns) = come_back(&store, anna, &sum(&held));
    assert!(returns);
    let (returned, holding) = again(&store, anna, session).unwrap();
    assert_eq!((returned.through, &returned.except[..]), (None, &["b".to_owned(), "d".to_owned()][..]));
    let now: Vec<_> = ["a", "c"].iter().map(|name| lookup(&store, name).unwrap()).collect();
    for (now, before) in now.iter().zip([&held[0], &held[2]]) {
        let Entry { name, content, size, owner, version, .. } = now.entry.clone();
        assert_eq!((name, content, size, owner), {
            let entry = before.entry.clone();
            (entry.name, entry.content, entry.size, entry.owner)
        });
        assert!(version == returned.version && version > before.entry.version);
    }
    assert_eq!(holding.sum, sum(&now), "what both have to count alike");
    assert_eq!(lookup(&store, "b").unwrap().entry.owner, ben);
    assert_eq!(search(&store, "", 9), ["b", "a", "c"]);
    // Seals make certificates of it.
    let sealed = seals(&store, anna, "");
    let names: Vec<_> = sealed.iter().map(|sealed| sealed.name.as_str()).collect();
    assert_eq!((names, sealed[0].version), (vec!["a", "c"], returned.version));
    let certificate = Certificate { entry: now[1].entry.clone(), seal: sealed[1].seal.clone() };
    let master = Keypair::ed25519_from_bytes([7; 32]).unwrap().public();
    certificate.verify_signature(&Network::default(), &master).unwrap();
    assert_eq!(seals(&store, anna, "b").len(), 1);
    // What it announces and ends now is as after an unchanged join.
    assert!(matches!(announce(&store, anna, vec![offer("d", "d")], false)[0], Verdict::Accepted { .. }));
    let all = [now, vec![lookup(&store, "d").unwrap()]].concat();
    assert!(join(&store, anna, sum(&all).digest, 3).1);
    assert_eq!(again(&store, anna, session).unwrap_err().code, RefusalCode::NotJoined, "that session is over");
}

#[test]
fn whoever_comes_with_another_share_or_twice_reports_it() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let anna = PeerId::random();
    let held = share(&store, anna, &["a", "b"]);
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    let (session, returns) = come_back(&store, anna, &sum(&held[..1]));
    assert!(!returns);
    assert_eq!(again(&store, anna, session).unwrap_err().code, RefusalCode::Differs);
    assert!(!come_back(&store, anna, &sum(&held)).1, "what was noted served once");

    let held = share(&store, anna, &["a", "b"]);
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    // Of a build that does not ask for it.
    join(&store, anna, sum(&held).digest, 2);
    assert!(!come_back(&store, anna, &sum(&held)).1);
    announce(&store, anna, vec![offer("a", "a"), offer("b", "b")], true);
    assert_eq!(store.counts().0, 2);
}

#[test]
fn who_is_back_before_all_is_freed_gets_all_of_it() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let anna = PeerId::random();
    let names: Vec<_> = (0..MANY).map(|number| format!("folder/file {number:05}")).collect();
    join(&store, anna, ShareDigest::empty(), MANY as u64);
    for names in names.chunks(1000) {
        announce(&store, anna, names.iter().map(|name| offer(name, name)).collect(), false);
    }
    let held: Vec<_> = names.iter().map(|name| lookup(&store, name).unwrap()).collect();
    let share = sum(&held);
    // It is there again when a slice is freed.
    let evicted = store.try_write(WriteOp::Evict { peer: anna }).unwrap();
    while store.counts().0 == MANY as u64 {
        std::thread::yield_now();
    }
    let (session, returns) = come_back(&store, anna, &share);
    assert!(matches!(evicted.blocking_recv().unwrap().unwrap(), WriteOutcome::Evicted { .. }));
    assert!(returns);
    let (mut parts, mut last) = (0, String::new());
    let holding = loop {
        let (returned, holding) = again(&store, anna, session).unwrap();
        assert!(returned.except.is_empty());
        parts += 1;
        let Some(through) = returned.through else { break holding };
        assert!(through > last);
        last = through;
    };
    assert_eq!((parts, holding.sum.entries, store.counts().0), (3, MANY as u64, MANY as u64));
    let now: Vec<_> = names.iter().map(|name| lookup(&store, name).unwrap()).collect();
    assert_eq!(sum(&now), holding.sum);
    let versions: BTreeSet<_> = now.iter().map(|held| held.entry.version).collect();
    assert_eq!(versions.len(), 1);
    assert!(versions.first() > held.iter().map(|held| held.entry.version).max().as_ref());
}

#[test]
fn a_crash_in_the_middle_loses_nothing_and_grants_nothing_twice() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let anna = PeerId::random();
    let names: Vec<_> = (0..MANY).map(|number| format!("file {number:05}")).collect();
    join(&store, anna, ShareDigest::empty(), MANY as u64);
    for names in names.chunks(1000) {
        announce(&store, anna, names.iter().map(|name| offer(name, name)).collect(), false);
    }
    let held: Vec<_> = names.iter().map(|name| lookup(&store, name).unwrap()).collect();
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    let (session, returns) = come_back(&store, anna, &sum(&held));
    assert!(returns);
    let (first, _) = again(&store, anna, session).unwrap();
    assert!(first.through.is_some());
    store.close();

    let store = open(folder.path());
    // It goes on in its session, as long as that is not over.
    while again(&store, anna, session).unwrap().0.through.is_some() {}
    assert_eq!(store.counts().0, MANY as u64);
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    assert_eq!(store.counts(), (0, 0));
    assert!(!come_back(&store, anna, &sum(&held)).1, "that is not what it left with the second time");
}

#[test]
fn what_is_remembered_otherwise_is_not_granted_as_a_whole() {
    for change in [
        "DELETE FROM away WHERE name = 'b'",
        "UPDATE away SET size = 7 WHERE name = 'b'",
        "UPDATE away SET owner = CAST(owner || x'00' AS BLOB) WHERE name = 'b'",
        "UPDATE departures SET names = 3",
    ] {
        let folder = TempDir::new().unwrap();
        let store = open(folder.path());
        let anna = PeerId::random();
        let held = share(&store, anna, &["a", "b"]);
        write(&store, WriteOp::Evict { peer: anna }).unwrap();
        store.sql(change);
        let (session, returns) = come_back(&store, anna, &sum(&held));
        if returns {
            assert_eq!(again(&store, anna, session).unwrap_err().code, RefusalCode::Differs, "{change}");
        }
        assert!(!come_back(&store, anna, &sum(&held)).1, "{change}");
        announce(&store, anna, vec![offer("a", "a"), offer("b", "b")], true);
        assert_eq!(store.counts().0, 2, "{change}");
    }
}

#[test]
fn what_peers_left_with_is_bounded() {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    connection.execute_batch(away::TABLES).unwrap();
    let now = 100 * 24 * 3600 * 1000;
    let peers: Vec<_> = (0..4).map(|_| PeerId::random()).collect();
    for (number, peer) in peers.iter().enumerate() {
        let session = Session(number as u64 + 1);
        let held = ShareSum { entries: 10, digest: ShareDigest::empty() };
        // The first left too long ago.
        let at = if number == 0 { 1 } else { now + number as u64 };
        assert!(!away::depart(&connection, peer, session, &held, at).unwrap());
        for name in 0..10 {
            let name = Name::parse(&format!("{number} {name}")).unwrap();
            let entry = Entry {
                name,
                content: ContentId::of(b""),
                size: 0,
                owner: *peer,
                version: Version(1),
                attributes: None,
            };
            away::remember(&connection, session, &Left { entry, ended: Version(2) }).unwrap();
        }
    }
    let left = || {
        let sql = "SELECT (SELECT count(*) FROM departures), (SELECT count(*) FROM away)";
        connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap()
    };
    assert!(away::forget_departures(&connection, now, 20).unwrap());
    assert!(!away::clear(&connection).unwrap());
    assert_eq!(left(), (2, 20), "the latest stay");
    assert!(!away::forget_departures(&connection, now, 20).unwrap());
    // Leaving again replaces what was noted.
    let held = ShareSum { entries: 1, digest: ShareDigest::empty() };
    assert!(away::depart(&connection, &peers[3], Session(9), &held, now).unwrap());
    away::clear(&connection).unwrap();
    assert_eq!(left(), (2, 10));
}
