//! What is stored, for how long, and within which bounds.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, Seal};
use swarmdex_protocols::{Certificate, Claim, ContentId, Entry, Name, Tombstone, Version};

use super::*;

const LIFETIME: Duration = Duration::from_secs(3600);
const LIMITS: RecordLimits = RecordLimits {
    records: 100,
    claims_per_sender: 5,
    providers: 200,
    keys_per_provider: 50,
    providers_per_key: 30,
    lifetime: LIFETIME,
    own: true,
};

fn now() -> Now {
    Now { mono: Instant::now(), unix_ms: 1_800_000_000_000 }
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, unix_ms: now.unix_ms + by.as_millis() as u64 }
}

/// Statements come here verified: the signature does not matter.
fn seal(now: Now) -> Seal {
    let issued_ms = now.unix_ms;
    Seal { issued_ms, expires_ms: issued_ms + CERTIFICATE_LIFETIME_MS, signature: Vec::new() }
}

fn entry(version: u64) -> Entry {
    let name = Name::parse("a").unwrap();
    Entry {
        name,
        content: ContentId::of(b""),
        size: 0,
        owner: PeerId::random(),
        version: Version(version),
        attributes: None,
    }
}

fn certificate(version: u64, now: Now) -> Statement {
    Statement::Certificate(Certificate { entry: entry(version), seal: seal(now) })
}

fn claim(version: u64, now: Now) -> Statement {
    Statement::Claim(Claim { entry: entry(version), base: Version(version - 1), withdrawn: false, seal: seal(now) })
}

fn key(number: usize) -> RecordKey {
    RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap()
}

fn store(records: &mut Records, number: usize, statement: Statement, sender: PeerId, now: Now) -> StoreVerdict {
    records.store(key(number), *key(number).as_bytes(), statement, sender, false, now)
}

#[test]
fn a_store_full_of_junk_still_takes_what_is_near_and_its_own() {
    let (mut records, now, stranger) = (Records::new(LIMITS), now(), PeerId::random());
    let verdicts: Vec<_> =
        (0..1024).map(|number| store(&mut records, number, certificate(1, now), stranger, now)).collect();
    assert_eq!(records.counts().0, LIMITS.records);
    assert!(verdicts.contains(&StoreVerdict::Full));
    let own = records.store(key(5000), [0xff; 32], certificate(1, now), PeerId::random(), true, now);
    let near = records.store(key(5001), [0; 32], certificate(1, now), stranger, false, now);
    let far = records.store(key(5002), [0xff; 32], certificate(1, now), stranger, false, now);
    assert_eq!((own, near, far), (StoreVerdict::Stored, StoreVerdict::Stored, StoreVerdict::Full));
    assert_eq!(records.counts().0, LIMITS.records + 1);
    // Those that are kept are the nearest of all.
    let mut distances: Vec<_> = (0..1024).map(|number| *key(number).as_bytes()).collect();
    distances.sort_unstable();
    assert!(distances[..LIMITS.records - 1].iter().all(|distance| records.distances.contains_key(distance)));
}

#[test]
fn what_a_master_says_itself_is_in_its_index_and_not_here() {
    let config = crate::config::DhtConfig::default();
    let [of_peer, of_master] =
        [crate::config::Role::Peer, crate::config::Role::Master].map(|role| RecordLimits::of(&config, role));
    assert!(of_peer.own && of_peer.records == config.records && of_peer.providers == config.providers);
    assert!(!of_master.own && of_master.records < config.records && of_master.providers < config.providers);
    let limits = RecordLimits { own: false, ..LIMITS };
    let (mut records, now, master) = (Records::new(limits), now(), PeerId::random());
    for number in 0..1024 {
        let verdict = records.store(key(number), *key(number).as_bytes(), certificate(1, now), master, true, now);
        assert_eq!(verdict, StoreVerdict::Full);
    }
    assert_eq!(records.counts().0, 0);
    let of_owner = records.store(key(1), [0; 32], certificate(1, now), PeerId::random(), false, now);
    assert_eq!(of_owner, StoreVerdict::Stored, "what its owner publishes is stored as anywhere");
}

#[test]
fn claims_of_one_sender_are_bounded_and_others_have_room() {
    let (mut records, now, stranger) = (Records::new(LIMITS), now(), PeerId::random());
    let stored =
        (0..50).filter(|number| store(&mut records, *number, claim(1, now), stranger, now) == StoreVerdict::Stored);
    assert_eq!(stored.count(), LIMITS.claims_per_sender);
    assert_eq!(store(&mut records, 60, claim(1, now), PeerId::random(), now), StoreVerdict::Stored);
    // A certificate takes the claim's place, and the sender has room again.
    assert_eq!(store(&mut records, 0, certificate(9, now), stranger, now), StoreVerdict::Stored);
    assert_eq!(store(&mut records, 61, claim(1, now), stranger, now), StoreVerdict::Stored);
}

#[test]
fn providers_are_bounded_by_key_by_node_and_in_all() {
    let (mut records, now) = (Records::new(LIMITS), now());
    let fakes = (0..100).filter(|_| records.provide(key(1), PeerId::random(), &[], now)).count();
    assert_eq!(fakes, LIMITS.providers_per_key);
    let stranger = PeerId::random();
    let keys = (2..1000).filter(|number| records.provide(key(*number), stranger, &[], now)).count();
    assert_eq!(keys, LIMITS.keys_per_provider);
    let all = (0..1000).filter(|number| records.provide(key(2000 + number), PeerId::random(), &[], now)).count();
    assert_eq!(fakes + keys + all, LIMITS.providers);
    assert!(records.provide(key(2), stranger, &[], now), "known ones are renewed");
    records.unprovide(&key(2), &stranger);
    records.unprovide(&key(2), &stranger);
    assert_eq!(records.counts().1, LIMITS.providers - 1);
}

#[test]
fn what_is_not_renewed_is_forgotten_and_what_ends_certificates_is_not() {
    let (mut records, begin, sender) = (Records::new(LIMITS), now(), PeerId::random());
    store(&mut records, 1, certificate(1, begin), sender, begin);
    store(&mut records, 2, certificate(1, begin), sender, begin);
    let entry = entry(2);
    let tombstone = Tombstone { name: entry.name, owner: entry.owner, version: entry.version, seal: seal(begin) };
    store(&mut records, 3, Statement::Tombstone(tombstone), sender, begin);
    records.provide(key(4), sender, &[], begin);
    let half = later(begin, LIFETIME / 2);
    records.handle_timeout(half);
    assert_eq!(records.counts(), (3, 1));
    store(&mut records, 2, certificate(1, half), sender, half);
    let over = later(begin, LIFETIME + LIFETIME / 4);
    assert!(records.poll_timeout().unwrap() <= over.mono);
    records.handle_timeout(over);
    assert_eq!(records.counts(), (2, 0));
    assert!(records.ledger(&key(2)).is_some() && records.ledger(&key(3)).is_some());
    assert_eq!(store(&mut records, 3, certificate(1, over), sender, over), StoreVerdict::Older, "nothing comes back");
    let end = later(begin, Duration::from_millis(2 * CERTIFICATE_LIFETIME_MS));
    records.handle_timeout(end);
    assert_eq!((records.counts(), records.poll_timeout()), ((0, 0), None));
    assert!(records.distances.is_empty() && records.claims.is_empty());
}

/// Memory of this process that is in use, in bytes; of Linux alone.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What the bounds of the configuration come to in memory. Run alone: `--ignored --nocapture --test-threads 1 memory`.
#[test]
#[ignore = "measures the memory of the process"]
fn memory_of_a_full_store() {
    let (limits, now) = (RecordLimits::from(&crate::config::DhtConfig::default()), now());
    let peers: Vec<_> = (0..1000).map(|_| PeerId::random()).collect();
    let address: Vec<Multiaddr> = vec!["/ip4/10.0.0.1/tcp/4747".parse().unwrap(); 2];
    let (mut records, before) = (Records::new(limits), resident());
    for number in 0..limits.providers {
        assert!(records.provide(key(number), peers[number % peers.len()], &address, now));
    }
    // As time goes some go and others come: the tree is no longer as it was filled.
    for number in 0..limits.providers {
        records.unprovide(&key(number), &peers[number % peers.len()]);
        assert!(records.provide(key(number + limits.providers), peers[number % peers.len()], &address, now));
    }
    let pairs = (resident() - before) / limits.providers;
    let before = resident();
    let entry = entry(1);
    let signature = vec![7; 64];
    for number in 0..limits.records {
        let name = Name::parse(&format!("folder/a name of usual length {number}")).unwrap();
        let seal = Seal { signature: signature.clone(), ..seal(now) };
        let tombstone = Tombstone { name, owner: entry.owner, version: entry.version, seal };
        assert_eq!(store(&mut records, number, Statement::Tombstone(tombstone), peers[0], now), StoreVerdict::Stored);
    }
    let tombstones = (resident() - before) / limits.records;
    println!("{pairs} bytes a pair, {tombstones} a tombstone; {:?}", records.counts());
    assert!(pairs <= 100 && tombstones <= 600);
}
