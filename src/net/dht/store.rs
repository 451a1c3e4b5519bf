//! The records of `state::records` as Kademlia's record store.

use std::borrow::Cow;
use std::time::Instant;

use libp2p::kad::store::{self, RecordStore};
use libp2p::kad::{KBucketKey, ProviderRecord, Record, RecordKey as KadKey};
use libp2p::{Multiaddr, PeerId};
use swarmdex_protocols::address::{bounded, routing_addresses};
use swarmdex_protocols::check::{KeyRange, KeysCompared};
use swarmdex_protocols::limits::{MAX_MIRROR_HELD, MAX_OTHER_ADDRESSES, MAX_PROVIDERS};
use swarmdex_protocols::mirror::{KeySpacePart, Provider, Stock, StoreVerdict};
use swarmdex_protocols::{RecordKey, Statement};

use super::Adopt;
use crate::clock::unix_ms;
use crate::state::Now;
use crate::state::publish::{Position, distance};
use crate::state::records::{RecordLimits, Records};

/// Providers in one answer: what Kademlia sends at most.
pub(crate) const PROVIDERS_IN_ANSWER: usize = 20;

/// The time.
pub(in crate::net) fn now() -> Now {
    Now { mono: Instant::now(), unix_ms: unix_ms() }
}

/// Where a key or a peer id is in the key space.
fn position(bytes: &[u8]) -> Position {
    KBucketKey::new(bytes.to_vec()).hashed_bytes().try_into().unwrap_or_default()
}

/// Where a record is in the key space.
pub(crate) fn position_of_key(key: &RecordKey) -> Position {
    position(key.as_bytes())
}

/// Where a node is in the key space.
pub(crate) fn position_of_peer(peer: &PeerId) -> Position {
    position(&peer.to_bytes())
}

/// Records, bounded; nothing is stored without having been verified.
pub(in crate::net) struct RecordTable {
    local: PeerId,
    position: Position,
    records: Records,
    /// Which providers of a crowded key come first in the next answer: fakes do not hide the others for ever.
    turn: std::cell::Cell<usize>,
}

impl RecordTable {
    pub(in crate::net) fn new(local: PeerId, limits: RecordLimits) -> Self {
        let position = position_of_peer(&local);
        // Each node begins elsewhere: what one answer leaves out, that of another has.
        let turn = std::cell::Cell::new(usize::from(position[0]));
        Self { local, position, records: Records::new(limits), turn }
    }

    /// Stores a statement that was verified.
    pub(in crate::net) fn store(&mut self, key: RecordKey, statement: Statement, sender: PeerId) -> StoreVerdict {
        let distance = distance(&position_of_key(&key), &self.position);
        self.records.store(key, distance, statement, sender, sender == self.local, now())
    }

    /// Lets a node be found under a key.
    pub(in crate::net) fn provide(&mut self, key: RecordKey, peer: PeerId, addresses: &[Multiaddr]) -> bool {
        self.records.provide(key, peer, addresses, now())
    }

    /// Ceases to let a node be found under a key.
    pub(in crate::net) fn withdraw(&mut self, key: &RecordKey, peer: &PeerId) {
        self.records.unprovide(key, peer);
    }

    /// What is held of what a node said, compared with what it has; and how many entries were looked at.
    pub(in crate::net) fn compare(&self, sender: &PeerId, ranges: &[KeyRange]) -> (Vec<KeysCompared>, usize) {
        self.records.compare(sender, ranges, MAX_MIRROR_HELD)
    }

    /// The statements under a key.
    pub(in crate::net) fn statements(&self, key: &RecordKey) -> Vec<Statement> {
        self.records.ledger(key).map(|ledger| ledger.statements().collect()).unwrap_or_default()
    }

    /// All nodes that are found under a key.
    pub(in crate::net) fn found_under(&self, key: &RecordKey) -> Vec<Provider> {
        let provider = |(peer, addresses, _): (PeerId, &[Multiaddr], Instant)| Provider {
            peer,
            addresses: addresses.iter().take(MAX_OTHER_ADDRESSES).cloned().collect(),
        };
        self.records.providers(key).take(MAX_PROVIDERS).map(provider).collect()
    }

    /// The next page of what lies in a part of the key space.
    pub(in crate::net) fn stock(&self, part: &KeySpacePart) -> Stock {
        self.records.stock(part, position_of_key, now())
    }

    /// Stores what neighbours told.
    pub(in crate::net) fn adopt(&mut self, adopt: Adopt) {
        let Adopt { sender, statements, pairs } = adopt;
        let now = now();
        for (key, statement, left) in statements {
            let distance = distance(&position_of_key(&key), &self.position);
            self.records.adopt(key, distance, statement, sender, left, now);
        }
        for pair in pairs.into_iter().filter(|pair| pair.peer != self.local) {
            self.records.adopt_provider(
                pair.key,
                pair.peer,
                &routing_addresses(&bounded(pair.addresses)),
                pair.left,
                now,
            );
        }
    }

    pub(in crate::net) fn counts(&self) -> (usize, usize) {
        self.records.counts()
    }

    /// Forgets what is over, when that is due.
    pub(in crate::net) fn expire(&mut self) {
        self.records.handle_timeout(now());
    }
}

impl RecordStore for RecordTable {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &KadKey) -> Option<Cow<'_, Record>> {
        let key = RecordKey::from_slice(key.as_ref())?;
        let mut ledger = self.records.ledger(&key)?;
        ledger.expire(now().unix_ms);
        if ledger.is_empty() {
            return None;
        }
        let record = Record {
            key: KadKey::new(key.as_bytes()),
            value: ledger.encode().ok()?,
            publisher: None,
            expires: self.records.expires(&key),
        };
        Some(Cow::Owned(record))
    }

    /// Nothing comes in by this door: see [`RecordTable::store`].
    fn put(&mut self, _: Record) -> store::Result<()> {
        Err(store::Error::MaxRecords)
    }

    fn remove(&mut self, _: &KadKey) {}

    /// None: this node publishes by itself, not by Kademlia's jobs.
    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> store::Result<()> {
        let key = RecordKey::from_slice(record.key.as_ref()).ok_or(store::Error::ValueTooLarge)?;
        match self.provide(key, record.provider, &record.addresses) {
            true => Ok(()),
            false => Err(store::Error::MaxProvidedKeys),
        }
    }

    fn providers(&self, key: &KadKey) -> Vec<ProviderRecord> {
        let Some(key) = RecordKey::from_slice(key.as_ref()) else { return Vec::new() };
        let record = |(provider, addresses, expires): (PeerId, &[Multiaddr], Instant)| ProviderRecord {
            key: KadKey::new(key.as_bytes()),
            provider,
            expires: Some(expires),
            // This node's own addresses are filled in by Kademlia.
            addresses: if provider == self.local { Vec::new() } else { addresses.to_vec() },
        };
        let mut providers: Vec<_> = self.records.providers(&key).map(record).collect();
        if providers.len() > PROVIDERS_IN_ANSWER {
            self.turn.set(self.turn.get().wrapping_add(PROVIDERS_IN_ANSWER));
            let first = self.turn.get() % providers.len();
            providers.rotate_left(first);
        }
        providers
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, key: &KadKey, peer: &PeerId) {
        if let Some(key) = RecordKey::from_slice(key.as_ref()) {
            self.records.unprovide(&key, peer);
        }
    }
}
