//! Comparisons with the stores of other nodes: alike, restarted, changed, and lying.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use swarmdex_protocols::check::Held;
use swarmdex_protocols::statement::Seal;
use swarmdex_protocols::{Certificate, ContentId, Entry, Name, Network, PeerId, Statement, Version};

use super::*;
use crate::config::DhtConfig;
use crate::state::Now;
use crate::state::records::{RecordLimits, Records};

fn key(number: usize) -> RecordKey {
    RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap()
}

fn now() -> Now {
    Now { mono: Instant::now(), unix_ms: 1_800_000_000_000 }
}

fn statement(number: usize, version: u64, owner: PeerId) -> (RecordKey, What) {
    let name = Name::parse(&format!("name {number}")).unwrap();
    let seal = Seal { issued_ms: now().unix_ms, expires_ms: now().unix_ms + 1_000_000_000, signature: vec![0; 64] };
    let entry = Entry {
        name: name.clone(),
        content: ContentId::of(b"x"),
        size: 1,
        owner,
        version: Version(version),
        attributes: None,
    };
    let certificate = Statement::Certificate(Certificate { entry, seal });
    (RecordKey::name(&Network::default(), &name), What::Statement(Arc::new(certificate)))
}

fn store(records: &mut Records, owner: PeerId, items: &[(RecordKey, What)]) {
    for (key, what) in items {
        match what {
            What::Statement(said) => {
                let said = Statement::clone(said);
                assert_eq!(
                    records.store(*key, *key.as_bytes(), said, owner, false, now()),
                    swarmdex_protocols::mirror::StoreVerdict::Stored
                );
            }
            What::Provide => assert!(records.provide(*key, owner, &[], now())),
            What::Withdraw => drop(records.unprovide(key, &owner)),
        }
    }
}

fn empty() -> Records {
    Records::new(RecordLimits::from(&DhtConfig::default()))
}

/// Compares, and repairs what differs; how many items were sent, and how many messages it took.
fn repair(records: &mut Records, owner: PeerId, items: &[(RecordKey, What)]) -> (usize, usize) {
    repair_most(records, owner, items, MAX_REPAIRS)
}

/// The same, of at most so many.
fn repair_most(records: &mut Records, owner: PeerId, items: &[(RecordKey, What)], most: usize) -> (usize, usize) {
    let mut comparison = RangeComparison::new(items.to_vec(), most);
    let mut looked = 0;
    while let Some(ranges) = comparison.next_ranges() {
        assert!(KeyRange::are_in_order(&ranges));
        let (answer, entries) = records.compare(&owner, &ranges, MAX_MIRROR_HELD);
        looked += entries;
        assert!(comparison.on_answer(&ranges, answer));
    }
    assert!(looked <= 12 * items.len() + 100_000, "{looked} entries looked through for {} items", items.len());
    let messages = comparison.messages;
    let mut sent = 0;
    for (_, portion) in comparison.missing() {
        sent += portion.len();
        assert!(portion.len() <= MAX_REPAIRS);
        store(records, owner, &portion);
    }
    for (range, _) in comparison.missing() {
        let (answer, _) = records.compare(&owner, &[range], MAX_MIRROR_HELD);
        assert_eq!(answer.len(), 1);
    }
    let surplus: Vec<_> = comparison.into_surplus().into_iter().map(|key| (key, What::Withdraw)).collect();
    store(records, owner, &surplus);
    (sent + surplus.len(), messages)
}

fn items(owner: PeerId, names: usize, keys: usize) -> Vec<(RecordKey, What)> {
    let statements = (0..names).map(|number| statement(number, 1, owner));
    statements.chain((0..keys).map(|number| (key(number), What::Provide))).collect()
}

#[test]
fn nodes_that_agree_exchange_one_message_and_nothing_is_sent() {
    let owner = PeerId::random();
    for count in [0, 1, 3, 20_000] {
        let (mut records, items) = (empty(), items(owner, count / 2, count));
        store(&mut records, owner, &items);
        // What others said there is no part of it.
        store(&mut records, PeerId::random(), &[(key(0), What::Provide), (key(999_999), What::Provide)]);
        assert_eq!(repair(&mut records, owner, &items), (0, 1), "{count}");
    }
}

#[test]
fn rows_deleted_added_and_changed_are_found_among_many_and_repaired() {
    let owner = PeerId::random();
    let (mut records, mut items) = (empty(), items(owner, 10_000, 20_000));
    store(&mut records, owner, &items);
    // Deleted there; added here, there, and changed here.
    store(
        &mut records,
        owner,
        &[(key(7), What::Withdraw), (key(15_000), What::Withdraw), (key(99_999), What::Provide)],
    );
    items.push((key(88_888), What::Provide));
    items[5] = statement(5, 2, owner);
    let (sent, messages) = repair(&mut records, owner, &items);
    assert_eq!(sent, 5);
    assert!(messages <= 4, "{messages}");
    assert_eq!(repair(&mut records, owner, &items), (0, 1));
}

#[test]
fn a_node_that_lost_everything_is_filled_again_in_bounded_portions() {
    let owner = PeerId::random();
    let (mut records, items) = (empty(), items(owner, 4000, 6000));
    let rounds: Vec<_> = (0..4).map(|_| repair(&mut records, owner, &items).0).collect();
    assert_eq!(rounds, [MAX_REPAIRS, MAX_REPAIRS, 10_000 - 2 * MAX_REPAIRS, 0]);
}

#[test]
fn a_node_that_came_with_nothing_is_asked_once() {
    let owner = PeerId::random();
    let (mut records, items) = (empty(), items(owner, 20_000, 40_000));
    assert_eq!(repair_most(&mut records, owner, &items, usize::MAX), (60_000, 1));
    assert_eq!(repair(&mut records, owner, &items), (0, 1));
}

#[test]
fn a_hundredth_that_is_missing_everywhere_is_found_in_one_comparison() {
    let owner = PeerId::random();
    let (mut records, items) = (empty(), items(owner, 50_000, 100_000));
    let held: Vec<_> =
        items.iter().enumerate().filter(|(number, _)| number % 100 != 7).map(|(_, item)| item.clone()).collect();
    store(&mut records, owner, &held);
    let (sent, messages) = repair_most(&mut records, owner, &items, usize::MAX);
    assert_eq!(sent, items.len() - held.len());
    assert!(messages <= 64, "{messages}");
    assert_eq!(repair(&mut records, owner, &items), (0, 1));
}

#[test]
fn answers_that_lie_cost_a_bounded_number_of_messages_and_records() {
    let owner = PeerId::random();
    let items = items(owner, 1000, 9000);
    let lies: [fn(&KeyRange) -> KeysCompared; 4] = [
        |_| KeysCompared::Many(u32::MAX),
        |range| KeysCompared::Many(range.count),
        |_| KeysCompared::Differs(Held::default()),
        |_| {
            KeysCompared::Differs(Held { statements: vec![KeyMark(1); 9000], provided: (0..90_000).map(key).collect() })
        },
    ];
    for (number, lie) in lies.iter().enumerate() {
        let mut comparison = RangeComparison::new(items.clone(), MAX_REPAIRS);
        let mut asked = 0;
        while let Some(ranges) = comparison.next_ranges() {
            asked += 1;
            assert!(KeyRange::are_in_order(&ranges) && ranges.len() <= MAX_MIRROR_RANGES);
            assert!(!comparison.on_answer(&ranges, Vec::new()) || ranges.is_empty());
            assert!(comparison.on_answer(&ranges, ranges.iter().map(lie).collect()));
        }
        let missing: usize = comparison.missing().map(|(_, portion)| portion.len()).sum();
        let surplus = comparison.into_surplus().len();
        assert!(asked <= MESSAGES + 10 && missing <= MAX_REPAIRS && surplus <= MAX_REPAIRS, "lie {number}: {asked}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_range_is_cut_without_gaps(parts in 1..70usize, a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        let (from, to) = (a.min(b), a.max(b));
        let [from, to] = [from, to].map(|bytes| RecordKey::from_slice(&bytes).unwrap());
        let cut = divide(from, to, parts);
        prop_assert_eq!((cut[0].0, cut[cut.len() - 1].1), (from, to));
        for (before, after) in cut.iter().zip(&cut[1..]) {
            prop_assert!(before.0 <= before.1 && before.1 < after.0);
            // The next key after the one before.
            let mut next = *before.1.as_bytes();
            for byte in next.iter_mut().rev() {
                let carry;
                (*byte, carry) = byte.overflowing_add(1);
                if !carry { break; }
            }
            prop_assert_eq!(&next, after.0.as_bytes());
        }
    }

    #[test]
    fn whatever_differs_is_repaired(held in prop::collection::vec((0..200usize, any::<bool>()), 0..100), names in 0..40usize) {
        let owner = PeerId::random();
        let mut records = empty();
        for (number, name) in held {
            let item = if name { statement(number, 1, owner) } else { (key(number), What::Provide) };
            store(&mut records, owner, &[item]);
        }
        let items: Vec<_> = items(owner, names, 100);
        repair(&mut records, owner, &items);
        let found = (0..200).filter(|number| records.providers(&key(*number)).next().is_some());
        prop_assert_eq!(found.collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        for (key, what) in items.iter().filter(|(_, what)| matches!(what, What::Statement(_))) {
            let What::Statement(said) = what else { continue };
            prop_assert_eq!(records.ledger(key).and_then(|held| held.settled().cloned()), Some(Statement::clone(said)));
        }
    }
}

#[test]
fn reversed_and_overlapping_ranges_are_no_question() {
    let range = |from: u8, to: u8| {
        let [from, to] = [from, to].map(|byte| bound(byte).unwrap());
        KeyRange { from, to, count: 0, digest: KeyMark::default() }
    };
    assert!(KeyRange::are_in_order(&[]) && KeyRange::are_in_order(&[range(1, 1), range(2, 3)]));
    for bad in [vec![range(2, 1)], vec![range(1, 2), range(2, 3)], vec![range(3, 4), range(1, 2)]] {
        assert!(!KeyRange::are_in_order(&bad));
        assert_eq!(empty().compare(&PeerId::random(), &bad, 10).0.len(), bad.len(), "and harms nobody");
    }
    assert!(!KeyRange::are_in_order(&vec![range(1, 1); MAX_MIRROR_RANGES + 1]));
}
