//! Lists that are cut: over three pages and more, at the very size of a page, with changes in between and damage in
//! the middle.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Few rows a page, so that few names fill many.
const ROWS: usize = 10;

fn small(folder: &Path) -> IndexStore {
    let options = IndexOptions { rows_per_page: ROWS, ..options() };
    IndexStore::open(&folder.join("index.db"), options).unwrap().0
}

fn page(store: &IndexStore, query: &str, cursor: Option<Cursor>, limit: u32) -> Page {
    let op = ReadOp::Search { pattern: Pattern::parse(query).unwrap(), cursor, limit };
    match store.try_read(op).unwrap().blocking_recv().unwrap().unwrap() {
        ReadOutcome::Page(page) => page,
        other => panic!("{other:?}"),
    }
}

fn numbered(numbers: impl IntoIterator<Item = usize>) -> Vec<Offer> {
    numbers.into_iter().map(|number| offer(&format!("file {number:05}"), "x")).collect()
}

#[test]
fn every_number_of_names_around_the_size_of_a_page_is_found() {
    for count in [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS - 1, 3 * ROWS, 3 * ROWS + 1] {
        let folder = TempDir::new().unwrap();
        let store = small(folder.path());
        let peer = PeerId::random();
        join(&store, peer, ShareDigest::empty(), 0);
        announce(&store, peer, numbered(0..count), false);
        let expected: Vec<_> = numbered(0..count).into_iter().map(|offer| offer.name).collect();
        for limit in [1, ROWS as u32 - 1, ROWS as u32, ROWS as u32 + 1, 500] {
            for query in ["", "file", "*file*"] {
                assert_eq!(search(&store, query, limit), expected, "{count} names, {limit} a page, {query:?}");
            }
            // One match in the last page alone, or in none.
            let last: Vec<_> = expected.last().cloned().into_iter().collect();
            assert_eq!(search(&store, &format!("*{:05}", count.saturating_sub(1)), limit), last);
            assert!(search(&store, "*none", limit).is_empty());
        }
        store.close();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Between two pages names come, go, and come again: those that stay are found once each.
    #[test]
    fn names_that_stay_are_found_while_others_come_and_go(
        changes in prop::collection::vec((any::<bool>(), 40..80usize), 0..60),
        limit in 1..15u32,
        sparse in any::<bool>(),
    ) {
        let folder = TempDir::new().unwrap();
        let store = small(folder.path());
        let peer = PeerId::random();
        join(&store, peer, ShareDigest::empty(), 0);
        announce(&store, peer, numbered(0..60), false);
        let (query, step) = if sparse { ("*7", 10) } else { ("", 1) };
        let (mut found, mut cursor, mut changes) = (Vec::new(), None, changes.into_iter());
        loop {
            let page = page(&store, query, cursor, limit);
            prop_assert!(page.entries.len() <= limit as usize);
            prop_assert!(page.next.is_none() || page.next != cursor);
            found.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
            for (add, number) in changes.by_ref().take(4) {
                if add {
                    announce(&store, peer, numbered([number]), false);
                } else {
                    write(&store, WriteOp::Revoke { peer, names: vec![format!("file {number:05}")] }).unwrap();
                }
            }
        }
        store.close();
        let once: BTreeSet<_> = found.iter().cloned().collect();
        for number in (0..40).filter(|number| number % step == if sparse { 7 } else { 0 }) {
            prop_assert_eq!(found.iter().filter(|name| **name == format!("file {number:05}")).count(), 1);
        }
        // Only what was given up and granted anew can come twice.
        prop_assert!(once.iter().all(|name| name.as_str() >= "file 00040" || found.iter().filter(|it| *it == name).count() == 1));
    }
}

/// A damaged row is not served, and hides nothing that comes after it.
#[test]
fn damaged_rows_anywhere_leave_the_others_to_be_found() {
    let folder = TempDir::new().unwrap();
    let store = small(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, numbered(0..35), false);
    // The first of all, one in the middle, the last of a page, a whole page, and the last of all.
    let damaged = BTreeSet::from_iter([0, 4, 9].into_iter().chain(20..30).chain([34]));
    for number in &damaged {
        let damage = ["checksum = x'0000000000000000'", "owner = x'00'", "size = size + 1"][number % 3];
        store.sql(&format!("UPDATE names SET {damage} WHERE name = 'file {number:05}'"));
    }
    let expected: Vec<_> =
        numbered((0..35).filter(|number| !damaged.contains(number))).into_iter().map(|offer| offer.name).collect();
    for limit in [1, 3, 500] {
        for query in ["", "file", "*000*"] {
            assert_eq!(search(&store, query, limit), expected, "{limit} a page, {query:?}");
        }
    }
    let op = ReadOp::Lookup { name: Name::parse("file 00020").unwrap() };
    assert_eq!(store.try_read(op).unwrap().blocking_recv().unwrap().unwrap_err().code, RefusalCode::Storage);
}

#[test]
fn tombstones_come_in_pages_and_damaged_ones_are_left_out() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    let page = |before: Option<Version>, limit: u32| {
        let op = ReadOp::Tombstones { before, limit };
        match store.try_read(op).unwrap().blocking_recv().unwrap().unwrap() {
            ReadOutcome::Tombstones(page) => page,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(page(None, 10), TombstonePage { tombstones: Vec::new(), next: None });
    announce(&store, peer, numbered(0..30), false);
    let names = numbered(0..30).into_iter().map(|offer| offer.name).collect();
    write(&store, WriteOp::Revoke { peer, names }).unwrap();
    let all = |limit: u32, most: usize| {
        let (mut names, mut before) = (Vec::new(), None);
        for pages in 1.. {
            let page = page(before, limit);
            assert!(page.tombstones.len() <= limit as usize && pages <= most, "{pages} pages");
            names.extend(page.tombstones.iter().map(|tombstone| tombstone.name().to_string()));
            before = page.next;
            if before.is_none() {
                break;
            }
        }
        names
    };
    let expected: Vec<_> = numbered((0..30).rev()).into_iter().map(|offer| offer.name).collect();
    for limit in [1, 9, 10, 11, 29, 30, 31] {
        assert_eq!(all(limit, 31), expected, "{limit} a page");
    }
    store.sql("UPDATE tombstones SET owner = x'00' WHERE name BETWEEN 'file 00010' AND 'file 00019'");
    assert_eq!(all(10, 4).len(), 20);
    assert_eq!(all(10, 4).last().unwrap(), "file 00000");
}

/// Those that do not answer are sorted to the end later on: until then there must be more to choose from.
#[test]
fn more_holders_are_read_than_an_answer_has() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peers: Vec<_> = (0..300).map(|_| PeerId::random()).collect();
    for (number, peer) in peers.iter().enumerate() {
        join(&store, *peer, ShareDigest::empty(), 0);
        announce(&store, *peer, vec![offer(&format!("copy {number}"), "the same")], false);
    }
    store.sql("UPDATE names SET owner = x'00' WHERE name = 'copy 9'");
    let op = ReadOp::Lookup { name: Name::parse("copy 7").unwrap() };
    let Ok(ReadOutcome::Found { holders, .. }) = store.try_read(op).unwrap().blocking_recv().unwrap() else { panic!() };
    assert_eq!(holders[0], peers[7]);
    assert_eq!(holders.iter().collect::<BTreeSet<_>>().len(), holders.len());
    assert!((255..=257).contains(&holders.len()), "{}", holders.len());
}

/// Requests that come faster than they are written are taken in groups: each has its own answer, in order, also where
/// one in the middle is refused.
#[test]
fn requests_over_many_groups_are_answered_each_by_its_own() {
    const REQUESTS: usize = 900;
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (peer, stranger) = (PeerId::random(), PeerId::random());
    join(&store, peer, ShareDigest::empty(), 0);
    let later: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let peer = if number % 100 == 50 { stranger } else { peer };
            let offers = vec![offer(&format!("name {}", number % 700), &number.to_string())];
            store
                .try_write(WriteOp::Announce {
                    peer,
                    offers,
                    neighbours: 0,
                    last: false,
                    total: None,
                    mirror: BTreeMap::new(),
                })
                .unwrap()
        })
        .collect();
    let mut last = Version::default();
    for (number, later) in later.into_iter().enumerate() {
        match later.blocking_recv().unwrap() {
            Ok(WriteOutcome::Announced { verdicts, .. }) => {
                let [Verdict::Accepted { version, .. }] = verdicts[..] else { panic!("{number}: {verdicts:?}") };
                assert!(version > last, "{number}: in the order in which they came");
                last = version;
            }
            Err(refusal) => assert_eq!((number % 100, refusal.code), (50, RefusalCode::NotJoined)),
            other => panic!("{number}: {other:?}"),
        }
    }
    // Of seven hundred names the stranger wanted seven, also the second time.
    assert_eq!(store.counts().0, 693);

    // As many names as three groups may have, in requests of a thousand.
    let later: Vec<_> = (0..61)
        .map(|batch| {
            let names = (0..1000).map(|number| format!("name {}", batch * 1000 + number)).collect();
            store.try_write(WriteOp::Revoke { peer, names }).unwrap()
        })
        .collect();
    for (batch, later) in later.into_iter().enumerate() {
        let WriteOutcome::Revoked { outcomes, .. } = later.blocking_recv().unwrap().unwrap() else { panic!() };
        assert_eq!(outcomes.len(), 1000);
        let revoked = outcomes.iter().filter(|outcome| matches!(outcome, RevokeOutcome::Revoked { .. })).count();
        assert_eq!(revoked, if batch == 0 { 693 } else { 0 });
    }
    assert_eq!(store.counts().0, 0);
}

/// A peer is evicted a slice at a time: at the very size of a slice, and when it comes back behind the first ones.
#[test]
fn an_eviction_of_whole_slices_ends_and_leaves_no_name_behind() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    for names in [1999, 2000, 2001, 6000] {
        join(&store, peer, ShareDigest::empty(), 0);
        for first in (0..names).step_by(1000) {
            announce(&store, peer, numbered(first..names.min(first + 1000)), false);
        }
        assert_eq!(store.counts(), (names as u64, 1));
        let evicted = write(&store, WriteOp::Evict { peer });
        assert_eq!(evicted, Ok(WriteOutcome::Evicted { names: names as u64 }));
        assert_eq!(store.counts(), (0, 0));
    }
}
