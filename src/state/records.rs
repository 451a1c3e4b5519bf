//! What this node stores of the mirror: whether a record may be stored, for how long, and within which bounds.
//!
//! Statements are verified before they come here. Records near this node's place in the key space are kept
//! before those far away; this node's own are kept in any case.

mod check;
mod providers;
#[cfg(test)]
mod sim;
mod stock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::ledger::decode_record;
use swarmdex_protocols::limits::MAX_PROVIDERS;
use swarmdex_protocols::mirror::StoreVerdict;
use swarmdex_protocols::{Ledger, Multiaddr, PeerId, RecordKey, Statement};

use super::Now;
use super::quota::Counts;
use crate::config::{DhtConfig, Role};
use check::Said;
use providers::Providers;
pub(crate) use stock::LOOKED_AT;

/// Bounds of what is stored for others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordLimits {
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
    /// Whether what this node says itself is stored, and in any case: a master has it in its index, on disk.
    pub own: bool,
}

/// What a master stores at most of what others publish, the nearest names of it, and pairs: some 40 MiB. Its index holds everything,
/// on disk, and others are there for the time when it is down.
const MASTER_RECORDS: usize = 50_000;
const MASTER_PROVIDERS: usize = 200_000;

impl RecordLimits {
    /// The bounds of a node with this role.
    pub(crate) fn of(config: &DhtConfig, role: Role) -> Self {
        let limits = Self::from(config);
        match role {
            Role::Peer => limits,
            Role::Master => Self {
                records: limits.records.min(MASTER_RECORDS),
                providers: limits.providers.min(MASTER_PROVIDERS),
                own: false,
                ..limits
            },
        }
    }
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
            own: true,
        }
    }
}

/// Distance from this node in the key space.
pub(crate) type Distance = [u8; 32];

/// What is known of one name: some 550 bytes with all that keeps it, half of them the statement.
#[derive(Debug)]
struct Slot {
    /// The ledger as it travels: a third of what it takes when it is taken apart.
    bytes: Box<[u8]>,
    /// When what is settled is forgotten, and when the claim is, if there is one.
    settled: Option<Instant>,
    claimed: Option<Instant>,
    /// Who sent the claim, if there is nothing else.
    claimant: Option<Box<PeerId>>,
    /// Where it stands among those that may have to give way; `None` for this node's own.
    distance: Option<Distance>,
    /// Who sent the settled statement and who the claim, each with its mark: for [`Records::compare`].
    said: [Said; 2],
}

impl Slot {
    /// Nothing, until it is [`Slot::put`].
    fn new(ends: Instant) -> Self {
        let (settled, claimed) = (Some(ends), Some(ends));
        Self { bytes: Box::default(), settled, claimed, claimant: None, distance: None, said: Default::default() }
    }

    fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for statement in decode_record(&self.bytes).unwrap_or_default() {
            // They stood beside each other before; what is over is left out by whoever takes something in or reads.
            let _ = ledger.insert(statement, 0);
        }
        ledger
    }

    /// Writes a ledger down; false if it is longer than any can be.
    fn put(&mut self, key: &RecordKey, ledger: &Ledger) -> bool {
        let Ok(bytes) = ledger.encode() else { return false };
        self.bytes = bytes.into();
        self.said = check::said(key, ledger);
        self.settled = self.settled.filter(|_| ledger.settled().is_some());
        self.claimed = self.claimed.filter(|_| ledger.claim().is_some());
        true
    }

    /// Forgets what is over; false if nothing is left.
    fn expire(&mut self, key: &RecordKey, now: Instant) -> bool {
        let over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        let (settled, claimed) = (over(self.settled), over(self.claimed));
        if settled || claimed {
            let mut ledger = self.ledger();
            if settled {
                ledger.forget_settled();
            }
            if claimed {
                ledger.forget_claim();
            }
            return !ledger.is_empty() && self.put(key, &ledger);
        }
        true
    }
}

/// A statement that is to be stored.
struct Incoming {
    key: RecordKey,
    distance: Distance,
    statement: Statement,
    sender: PeerId,
    own: bool,
    /// When it is forgotten unless it comes again.
    ends: Instant,
}

/// The records that this node stores.
#[derive(Debug)]
pub(crate) struct Records {
    limits: RecordLimits,
    slots: BTreeMap<RecordKey, Slot>,
    /// Records of others by their distance: the last one goes first.
    distances: BTreeMap<Distance, RecordKey>,
    /// Names with nothing but a claim, by sender.
    claims: Counts<PeerId>,
    providers: Providers,
    next_sweep: Option<Instant>,
}

impl Records {
    /// Nothing yet.
    pub(crate) fn new(limits: RecordLimits) -> Self {
        Self {
            limits,
            slots: BTreeMap::new(),
            distances: BTreeMap::new(),
            claims: Counts::bounded(limits.claims_per_sender, usize::MAX),
            providers: Providers::default(),
            next_sweep: None,
        }
    }

    /// Takes in a statement that was verified, from `sender`; `own` if that is this node itself, which is then stored in any case.
    pub(crate) fn store(
        &mut self,
        key: RecordKey,
        distance: Distance,
        statement: Statement,
        sender: PeerId,
        own: bool,
        now: Now,
    ) -> StoreVerdict {
        let ends = now.mono + self.lifetime(&statement, now);
        if own && !self.limits.own {
            return StoreVerdict::Full;
        }
        self.take_in(Incoming { key, distance, statement, sender, own, ends }, now)
    }

    fn take_in(&mut self, incoming: Incoming, now: Now) -> StoreVerdict {
        let Incoming { key, distance, statement, sender, own, ends: expires } = incoming;
        let claim = matches!(statement, Statement::Claim(_));
        if let Some(slot) = self.slots.get_mut(&key) {
            let mut ledger = slot.ledger();
            let before = ledger.settled().and_then(Statement::rank);
            if let Err(rejection) = ledger.insert(statement, now.unix_ms) {
                return rejection.into();
            }
            if claim {
                slot.claimed = Some(expires);
            } else if ledger.settled().and_then(Statement::rank) != before {
                // What was said before has no part in how long this is kept.
                slot.settled = Some(expires);
            } else {
                slot.settled = slot.settled.max(Some(expires));
            }
            if !slot.put(&key, &ledger) {
                return StoreVerdict::Invalid;
            }
            if own && let Some(distance) = slot.distance.take() {
                self.distances.remove(&distance);
            }
            if !claim && let Some(claimant) = slot.claimant.take() {
                self.claims.remove(&claimant);
            }
            return StoreVerdict::Stored;
        }
        if !own && claim && !self.claims.has_room(&sender) {
            return StoreVerdict::Full;
        }
        if !own && !self.make_room(&distance) {
            return StoreVerdict::Full;
        }
        let mut ledger = Ledger::default();
        if let Err(rejection) = ledger.insert(statement, now.unix_ms) {
            return rejection.into();
        }
        let mut slot = Slot::new(expires);
        if !slot.put(&key, &ledger) {
            return StoreVerdict::Invalid;
        }
        if claim && !own {
            slot.claimant = Some(Box::new(sender));
            self.claims.add(sender, 1);
        }
        if !own {
            slot.distance = Some(distance);
            self.distances.insert(distance, key);
        }
        self.slots.insert(key, slot);
        self.schedule(now);
        StoreVerdict::Stored
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
            self.claims.remove(&claimant);
        }
        if let Some(distance) = slot.distance {
            self.distances.remove(&distance);
        }
    }

    /// What is known under a key; it may be over.
    pub(crate) fn ledger(&self, key: &RecordKey) -> Option<Ledger> {
        self.slots.get(key).map(Slot::ledger)
    }

    /// When the record of a key is forgotten.
    pub(crate) fn expires(&self, key: &RecordKey) -> Option<Instant> {
        self.slots.get(key).and_then(|slot| slot.settled.max(slot.claimed))
    }

    /// Lets a node be found under a key; false if there is no room.
    pub(crate) fn provide(&mut self, key: RecordKey, peer: PeerId, addresses: &[Multiaddr], now: Now) -> bool {
        let taken = self.providers.insert(key, peer, addresses, &self.limits, now.mono);
        if taken == Some(true) {
            self.schedule(now);
        }
        taken.is_some()
    }

    /// Ceases to let a node be found under a key; whether it was.
    pub(crate) fn unprovide(&mut self, key: &RecordKey, peer: &PeerId) -> bool {
        self.providers.remove(key, peer)
    }

    /// The nodes that are found under a key, with their addresses and the time at which they are forgotten.
    pub(crate) fn providers(&self, key: &RecordKey) -> impl Iterator<Item = (PeerId, &[Multiaddr], Instant)> {
        self.providers.under(key)
    }

    /// Number of names and of pairs of a key and a node.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.slots.len(), self.providers.len())
    }

    fn schedule(&mut self, now: Now) {
        self.next_sweep.get_or_insert(now.mono + self.limits.lifetime / 8);
    }

    /// When [`Records::handle_timeout`] is due.
    #[cfg(test)]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Forgets what is over.
    pub(crate) fn handle_timeout(&mut self, now: Now) {
        if self.next_sweep.is_none_or(|at| at > now.mono) {
            return;
        }
        let over = |(key, slot): (&RecordKey, &mut Slot)| (!slot.expire(key, now.mono)).then_some(*key);
        let over: Vec<_> = self.slots.iter_mut().filter_map(over).collect();
        for key in &over {
            self.remove(key);
        }
        self.providers.expire(now.mono);
        let empty = self.slots.is_empty() && self.providers.len() == 0;
        self.next_sweep = (!empty).then_some(now.mono + self.limits.lifetime / 8);
    }
}
