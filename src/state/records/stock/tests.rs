#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use std::collections::BTreeSet;

use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, Seal};
use swarmdex_protocols::{Certificate, ContentId, Entry, Name, Version};

use super::*;

const LIFETIME: Duration = Duration::from_secs(3600);
const LIMITS: RecordLimits = RecordLimits {
    records: 100_000,
    claims_per_sender: 5,
    providers: 200_000,
    keys_per_provider: 200_000,
    providers_per_key: MAX_PROVIDERS,
    lifetime: LIFETIME,
    own: true,
};

fn now() -> Now {
    Now { mono: Instant::now(), unix_ms: 1_800_000_000_000 }
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, unix_ms: now.unix_ms + by.as_millis() as u64 }
}

fn key(number: usize) -> RecordKey {
    RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap()
}

fn place(key: &RecordKey) -> Position {
    *key.as_bytes()
}

/// Statements come here verified: the signature does not matter.
fn statement(number: usize, owner: PeerId, now: Now) -> Statement {
    let name = Name::parse(&format!("name {number}")).unwrap();
    let entry = Entry { name, content: ContentId::of(b""), size: 0, owner, version: Version(1), attributes: None };
    let seal =
        Seal { issued_ms: now.unix_ms, expires_ms: now.unix_ms + CERTIFICATE_LIFETIME_MS, signature: Vec::new() };
    Statement::Certificate(Certificate { entry, seal })
}

/// All pages of a part.
fn pages(records: &Records, mut part: KeySpacePart, now: Now) -> Vec<Stock> {
    let mut pages = Vec::new();
    loop {
        let page = records.stock(&part, place, now);
        part.after = page.next;
        pages.push(page);
        if part.after.is_none() {
            return pages;
        }
    }
}

#[test]
fn a_part_comes_whole_and_nothing_else_in_bounded_pages() {
    let (mut records, begin, owner) = (Records::new(LIMITS), now(), PeerId::random());
    for number in 0..8000 {
        records.store(key(number), *key(number).as_bytes(), statement(number, owner, begin), owner, false, begin);
        records.provide(key(number + 5000), owner, &[], begin);
    }
    let crowd: Vec<_> = (0..MAX_PROVIDERS).map(|_| PeerId::random()).collect();
    let crowded = key(1_000_000);
    crowd.iter().for_each(|peer| assert!(records.provide(crowded, *peer, &[], begin)));
    for (middle, bits) in [(key(1), 3), (crowded, 1), (key(5), 0), (key(7), 200)] {
        let part = KeySpacePart { place: place(&middle), bits, after: None };
        let lies_there = |key: &RecordKey| leading_zeros(&distance(&place(key), &part.place)) >= usize::from(bits);
        let pages = pages(&records, part.clone(), later(begin, Duration::from_secs(600)));
        let (mut statements, mut pairs) = (Vec::new(), BTreeSet::new());
        for page in &pages {
            assert!(page.statements.len() <= MAX_STOCK_STATEMENTS && page.nodes.len() <= MAX_PROVIDERS);
            assert!(page.pairs.len() <= MAX_MIRROR_KEYS);
            assert!(page.statements.iter().all(|(_, left)| *left == 3000));
            statements.extend(page.statements.iter().map(|(statement, _)| statement.name().clone()));
            for (key, number, left) in &page.pairs {
                assert_eq!(*left, 3000);
                assert!(pairs.insert((*key, page.nodes[usize::from(*number)].peer)), "each once");
            }
        }
        assert!(statements.is_sorted() || statements.len() < 20_000);
        assert_eq!(statements.len(), (0..8000).filter(|number| lies_there(&key(*number))).count());
        let of_owner = (5000..13_000).filter(|number| lies_there(&key(*number))).count();
        let of_crowd = if lies_there(&crowded) { MAX_PROVIDERS } else { 0 };
        assert_eq!(pairs.len(), of_owner + of_crowd);
    }
}

#[test]
fn one_page_looks_at_a_bounded_number_of_entries() {
    let (mut records, now, owner) = (Records::new(LIMITS), now(), PeerId::random());
    (0..3 * LOOKED_AT).for_each(|number| assert!(records.provide(key(number), owner, &[], now)));
    // Where nothing lies.
    let part = KeySpacePart { place: [7; 32], bits: 255, after: None };
    let pages = pages(&records, part, now);
    assert!(pages.iter().all(|page| page.pairs.is_empty()));
    assert!((3..=4).contains(&pages.len()), "{}", pages.len());
}

#[test]
fn what_is_taken_over_ends_when_it_would_have_ended_there() {
    let (mut there, mut here, begin) = (Records::new(LIMITS), Records::new(LIMITS), now());
    let (owner, neighbour) = (PeerId::random(), PeerId::random());
    there.store(key(1), [1; 32], statement(1, owner, begin), owner, false, begin);
    there.provide(key(2), owner, &[], begin);
    // One after the other, each a newcomer to the one before: nothing lives for ever by being handed on.
    let mut time = begin;
    for _ in 0..3 {
        time = later(time, Duration::from_secs(1000));
        let page = there.stock(&KeySpacePart { place: [0; 32], bits: 0, after: None }, place, time);
        for (statement, left) in page.statements {
            let left = Duration::from_secs(u64::from(left));
            assert_eq!(here.adopt(key(1), [1; 32], statement, neighbour, left, time), StoreVerdict::Stored);
        }
        for (key, number, left) in page.pairs {
            let node = &page.nodes[usize::from(number)];
            assert!(here.adopt_provider(key, node.peer, &[], Duration::from_secs(u64::from(left)), time));
        }
        assert_eq!(here.counts(), (1, 1));
        there = std::mem::replace(&mut here, Records::new(LIMITS));
    }
    let end = later(begin, LIFETIME + Duration::from_secs(5));
    there.handle_timeout(end);
    assert_eq!(there.counts(), (0, 0));
    let page = there.stock(&KeySpacePart { place: [0; 32], bits: 0, after: None }, place, end);
    assert_eq!(page, Stock::default());
}

#[test]
fn the_word_of_others_takes_nothing_from_what_a_node_said_itself() {
    let (mut records, now, owner) = (Records::new(LIMITS), now(), PeerId::random());
    let own: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
    let other: Multiaddr = "/ip4/10.0.0.2/tcp/2".parse().unwrap();
    records.provide(key(1), owner, std::slice::from_ref(&own), now);
    for number in [1, 2] {
        assert!(records.adopt_provider(key(number), owner, std::slice::from_ref(&other), Duration::from_secs(10), now));
    }
    let found: Vec<_> = records.providers(&key(1)).chain(records.providers(&key(2))).collect();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(_, addresses, _)| **addresses == [own.clone()]));
    assert!(found[0].2 >= now.mono + LIFETIME && found[1].2 <= now.mono + Duration::from_secs(11));
}
