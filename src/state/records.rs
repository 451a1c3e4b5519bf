//! What this node stores of the mirror: whether a record may be stored, for how long, and within which bounds.
//!
//! Statements are verified before they come here. Records near this node's place in the key space are kept
//! before those far away; this node's own are kept in any case.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::limits::MAX_PROVIDERS;
use swarmdex_protocols::mirror::Verdict;
use swarmdex_protocols::{Ledger, Multiaddr, PeerId, RecordKey, Statement};

use super::Now;
use crate::config::DhtConfig;

/// Bounds of what is stored for others.
#[derive(Debug, Clone, Copy)]
pub struct RecordLimits {
    /// Names.
    pub records: usize,
    /// Names with nothing but a claim, which anybody can sign: of one sender.
    pub claims_per_sender: usize,
    /// Pairs of a key and a node that is found under it.
    pub providers: usize,
    /// Keys under which one node is found.
    pub keys_per_provider: usize,
    /// Nodes that are found under one key.
    pub providers_per_key: usize,
    /// For how long a record is stored unless it comes again.
    pub lifetime: Duration,
}

impl From<&DhtConfig> for RecordLimits {
    fn from(config: &DhtConfig) -> Self {
        let DhtConfig { lifetime, republish: _, records, claims_per_peer, providers, keys_per_peer } = *config;
        Self {
            records,
            claims_per_sender: claims_per_peer,
            providers,
            keys_per_provider: keys_per_peer,
            providers_per_key: MAX_PROVIDERS,
            lifetime,
        }
    }
}

/// Distance from this node in the key space.
pub type Distance = [u8; 32];

#[derive(Debug)]
struct Slot {
    ledger: Ledger,
    /// When what is settled is forgotten, and when the claim is.
    settled: Instant,
    claimed: Instant,
    /// Who sent the claim, if there is nothing else.
    claimant: Option<PeerId>,
    /// Where it stands among those that may have to give way; `None` for this node's own.
    distance: Option<Distance>,
}

#[derive(Debug, Clone)]
struct Provider {
    peer: PeerId,
    expires: Instant,
}

/// A node that is found under keys.
#[derive(Debug, Default)]
struct Provided {
    keys: usize,
    addresses: Vec<Multiaddr>,
}

/// The records that this node stores.
#[derive(Debug)]
pub struct Records {
    limits: RecordLimits,
    slots: BTreeMap<RecordKey, Slot>,
    /// Records of others by their distance: the last one goes first.
    distances: BTreeMap<Distance, RecordKey>,
    claims: BTreeMap<PeerId, usize>,
    providers: BTreeMap<RecordKey, Vec<Provider>>,
    provided: BTreeMap<PeerId, Provided>,
    pairs: usize,
    next_sweep: Option<Instant>,
}

impl Records {
    /// Nothing yet.
    pub fn new(limits: RecordLimits) -> Self {
        Self {
            limits,
            slots: BTreeMap::new(),
            distances: BTreeMap::new(),
            claims: BTreeMap::new(),
            providers: BTreeMap::new(),
            provided: BTreeMap::new(),
            pairs: 0,
            next_sweep: None,
        }
    }

    /// Takes in a statement that was verified, from `sender`; `own` if that is this node itself.
    pub fn store(
        &mut self,
        key: RecordKey,
        distance: Distance,
        statement: Statement,
        sender: PeerId,
        own: bool,
        now: Now,
    ) -> Verdict {
        let expires = now.mono + self.lifetime(&statement, now);
        let claim = matches!(statement, Statement::Claim(_));
        if let Some(slot) = self.slots.get_mut(&key) {
            let before = slot.ledger.settled().and_then(Statement::rank);
            if let Err(rejection) = slot.ledger.insert(statement, now.unix_ms) {
                return rejection.into();
            }
            if claim {
                slot.claimed = expires;
            } else if slot.ledger.settled().and_then(Statement::rank) != before {
                // What was said before has no part in how long this is kept.
                slot.settled = expires;
            } else {
                slot.settled = slot.settled.max(expires);
            }
            if own && let Some(distance) = slot.distance.take() {
                self.distances.remove(&distance);
            }
            if !claim && let Some(claimant) = slot.claimant.take() {
                decrease(&mut self.claims, &claimant);
            }
            return Verdict::Stored;
        }
        if !own && claim && self.claims.get(&sender).copied().unwrap_or(0) >= self.limits.claims_per_sender {
            return Verdict::Full;
        }
        if !own && !self.make_room(&distance) {
            return Verdict::Full;
        }
        let mut ledger = Ledger::default();
        if let Err(rejection) = ledger.insert(statement, now.unix_ms) {
            return rejection.into();
        }
        let claimant = (claim && !own).then_some(sender);
        if let Some(claimant) = claimant {
            *self.claims.entry(claimant).or_default() += 1;
        }
        let distance = (!own).then_some(distance);
        self.distances.extend(distance.map(|distance| (distance, key)));
        self.slots.insert(key, Slot { ledger, settled: expires, claimed: expires, claimant, distance });
        self.schedule(now);
        Verdict::Stored
    }

    /// What ends certificates is kept for as long as it is valid: nobody sends it again and again.
    fn lifetime(&self, statement: &Statement, now: Now) -> Duration {
        let valid = Duration::from_millis(statement.expires_ms().saturating_sub(now.unix_ms));
        match statement {
            Statement::Tombstone(_) | Statement::Revocation(_) => valid,
            Statement::Certificate(_) | Statement::Claim(_) => valid.min(self.limits.lifetime),
        }
    }

    /// Whether there is room for a record at that distance; a farther one gives way.
    fn make_room(&mut self, distance: &Distance) -> bool {
        if self.distances.len() < self.limits.records {
            return true;
        }
        match self.distances.last_key_value() {
            Some((farthest, key)) if farthest > distance => {
                let key = *key;
                self.remove(&key);
                true
            }
            _ => false,
        }
    }

    fn remove(&mut self, key: &RecordKey) {
        let Some(slot) = self.slots.remove(key) else { return };
        if let Some(claimant) = slot.claimant {
            decrease(&mut self.claims, &claimant);
        }
        if let Some(distance) = slot.distance {
            self.distances.remove(&distance);
        }
    }

    /// What is known under a key.
    pub fn ledger(&self, key: &RecordKey) -> Option<&Ledger> {
        self.slots.get(key).map(|slot| &slot.ledger)
    }

    /// When the record of a key is forgotten.
    pub fn expires(&self, key: &RecordKey) -> Option<Instant> {
        self.slots.get(key).map(|slot| {
            let settled = slot.ledger.settled().map(|_| slot.settled);
            settled.max(slot.ledger.claim().map(|_| slot.claimed)).unwrap_or(slot.settled)
        })
    }

    /// Lets a node be found under a key; false if there is no room.
    pub fn provide(&mut self, key: RecordKey, peer: PeerId, addresses: &[Multiaddr], now: Now) -> bool {
        let expires = now.mono + self.limits.lifetime;
        let of_key = self.providers.entry(key).or_default();
        let known = of_key.iter_mut().find(|provider| provider.peer == peer);
        if let Some(provider) = known {
            provider.expires = expires;
        } else {
            let keys = self.provided.get(&peer).map_or(0, |provided| provided.keys);
            let room = of_key.len() < self.limits.providers_per_key
                && keys < self.limits.keys_per_provider
                && self.pairs < self.limits.providers;
            if !room {
                if of_key.is_empty() {
                    self.providers.remove(&key);
                }
                return false;
            }
            of_key.push(Provider { peer, expires });
            self.provided.entry(peer).or_default().keys += 1;
            self.pairs += 1;
            self.schedule(now);
        }
        if let Some(provided) = self.provided.get_mut(&peer)
            && provided.addresses != addresses
        {
            provided.addresses = addresses.to_vec();
        }
        true
    }

    /// Ceases to let a node be found under a key.
    pub fn unprovide(&mut self, key: &RecordKey, peer: &PeerId) {
        let Some(of_key) = self.providers.get_mut(key) else { return };
        let before = of_key.len();
        of_key.retain(|provider| provider.peer != *peer);
        if of_key.len() < before {
            self.pairs -= 1;
            if let Some(provided) = self.provided.get_mut(peer) {
                provided.keys -= 1;
                if provided.keys == 0 {
                    self.provided.remove(peer);
                }
            }
        }
        if self.providers.get(key).is_some_and(Vec::is_empty) {
            self.providers.remove(key);
        }
    }

    /// The nodes that are found under a key, with their addresses and the time at which they are forgotten.
    pub fn providers(&self, key: &RecordKey) -> impl Iterator<Item = (PeerId, &[Multiaddr], Instant)> {
        let of_key = self.providers.get(key).map(Vec::as_slice).unwrap_or_default();
        of_key.iter().map(|provider| {
            let addresses = self.provided.get(&provider.peer).map(|provided| provided.addresses.as_slice());
            (provider.peer, addresses.unwrap_or_default(), provider.expires)
        })
    }

    /// Number of names and of pairs of a key and a node.
    pub fn counts(&self) -> (usize, usize) {
        (self.slots.len(), self.pairs)
    }

    fn schedule(&mut self, now: Now) {
        self.next_sweep.get_or_insert(now.mono + self.limits.lifetime / 8);
    }

    /// When [`Records::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.next_sweep.map(|at| (at, "records that may be over"))
    }

    /// Forgets what is over.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.next_sweep.is_none_or(|at| at > now.mono) {
            return;
        }
        for slot in self.slots.values_mut() {
            slot.ledger.expire(now.unix_ms);
            if slot.settled <= now.mono {
                slot.ledger.forget_settled();
            }
            if slot.claimed <= now.mono {
                slot.ledger.forget_claim();
            }
        }
        let over: Vec<_> = self.slots.iter().filter(|(_, slot)| slot.ledger.is_empty()).map(|(key, _)| *key).collect();
        for key in &over {
            self.remove(key);
        }
        let pairs: Vec<_> = self
            .providers
            .iter()
            .flat_map(|(key, of_key)| of_key.iter().map(|provider| (*key, provider)))
            .filter(|(_, provider)| provider.expires <= now.mono)
            .map(|(key, provider)| (key, provider.peer))
            .collect();
        for (key, peer) in pairs {
            self.unprovide(&key, &peer);
        }
        let empty = self.slots.is_empty() && self.providers.is_empty();
        self.next_sweep = (!empty).then_some(now.mono + self.limits.lifetime / 8);
    }
}

fn decrease(counts: &mut BTreeMap<PeerId, usize>, peer: &PeerId) {
    if let Some(count) = counts.get_mut(peer) {
        *count -= 1;
        if *count == 0 {
            counts.remove(peer);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
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
        Entry { name, content: ContentId::of(b""), size: 0, owner: PeerId::random(), version: Version(version) }
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

    fn store(records: &mut Records, number: usize, statement: Statement, sender: PeerId, now: Now) -> Verdict {
        records.store(key(number), *key(number).as_bytes(), statement, sender, false, now)
    }

    #[test]
    fn a_store_full_of_junk_still_takes_what_is_near_and_its_own() {
        let (mut records, now, stranger) = (Records::new(LIMITS), now(), PeerId::random());
        let verdicts: Vec<_> =
            (0..1024).map(|number| store(&mut records, number, certificate(1, now), stranger, now)).collect();
        assert_eq!(records.counts().0, LIMITS.records);
        assert!(verdicts.contains(&Verdict::Full));
        let own = records.store(key(5000), [0xff; 32], certificate(1, now), PeerId::random(), true, now);
        let near = records.store(key(5001), [0; 32], certificate(1, now), stranger, false, now);
        let far = records.store(key(5002), [0xff; 32], certificate(1, now), stranger, false, now);
        assert_eq!((own, near, far), (Verdict::Stored, Verdict::Stored, Verdict::Full));
        assert_eq!(records.counts().0, LIMITS.records + 1);
        // Those that are kept are the nearest of all.
        let mut distances: Vec<_> = (0..1024).map(|number| *key(number).as_bytes()).collect();
        distances.sort_unstable();
        assert!(distances[..LIMITS.records - 1].iter().all(|distance| records.distances.contains_key(distance)));
    }

    #[test]
    fn claims_of_one_sender_are_bounded_and_others_have_room() {
        let (mut records, now, stranger) = (Records::new(LIMITS), now(), PeerId::random());
        let stored =
            (0..50).filter(|number| store(&mut records, *number, claim(1, now), stranger, now) == Verdict::Stored);
        assert_eq!(stored.count(), LIMITS.claims_per_sender);
        assert_eq!(store(&mut records, 60, claim(1, now), PeerId::random(), now), Verdict::Stored);
        // A certificate takes the claim's place, and the sender has room again.
        assert_eq!(store(&mut records, 0, certificate(9, now), stranger, now), Verdict::Stored);
        assert_eq!(store(&mut records, 61, claim(1, now), stranger, now), Verdict::Stored);
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
        assert!(records.poll_timeout().unwrap().0 <= over.mono);
        records.handle_timeout(over);
        assert_eq!(records.counts(), (2, 0));
        assert!(records.ledger(&key(2)).is_some() && records.ledger(&key(3)).is_some());
        assert_eq!(store(&mut records, 3, certificate(1, over), sender, over), Verdict::Older, "nothing comes back");
        let end = later(begin, Duration::from_millis(2 * CERTIFICATE_LIFETIME_MS));
        records.handle_timeout(end);
        assert_eq!((records.counts(), records.poll_timeout()), ((0, 0), None));
        assert!(records.distances.is_empty() && records.provided.is_empty() && records.claims.is_empty());
    }
}
