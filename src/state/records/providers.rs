//! Who is found under which key: pairs of a key and a node, many of them in little memory.
//!
//! A node and its addresses are written down once; its pairs name it by a number. So a pair is 40 bytes - key, number
//! and end - and 60 to 85 with the tree that it is in.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use swarmdex_protocols::{Multiaddr, PeerId, RecordKey};

use super::RecordLimits;

/// Nodes that are found under keys, at most: a node of a large network is among the closest to the keys of some hundred
/// others. Each takes some 250 bytes, and its addresses.
const MAX_NODES: usize = 1 << 16;
/// Memory for addresses, in bytes, those that hold them together included; who comes later is found without addresses.
const MAX_ADDRESS_BYTES: usize = 16 << 20;
/// What an address takes besides its own bytes: it is shared and counted.
const ADDRESS_OVERHEAD: usize = 96;
/// The unit in which the end of a pair is kept, so that 4 bytes last for 13 years.
const TICK: Duration = Duration::from_millis(100);

/// Which node it is.
type Number = u32;
/// Time since the first pair, in [`TICK`]s.
type Ticks = u32;

/// A node that is found under keys.
#[derive(Debug)]
struct Node {
    peer: PeerId,
    /// Under how many; 0 if the number is free.
    keys: u32,
    addresses: Box<[Multiaddr]>,
}

/// Pairs of a key and a node that is found under it.
#[derive(Debug, Default)]
pub(super) struct Providers {
    /// When each pair is over.
    pairs: BTreeMap<(RecordKey, Number), Ticks>,
    numbers: BTreeMap<PeerId, Number>,
    nodes: Vec<Node>,
    free: Vec<Number>,
    address_bytes: usize,
    begin: Option<Instant>,
}

impl Providers {
    /// Lets a node be found under a key for the lifetime of a record; `None` if there is no room, otherwise whether
    /// that is new.
    pub(super) fn insert(
        &mut self,
        key: RecordKey,
        peer: PeerId,
        addresses: &[Multiaddr],
        limits: &RecordLimits,
        now: Instant,
    ) -> Option<bool> {
        let ends = self.end(now, limits.lifetime);
        let known = self.numbers.get(&peer).copied();
        let held = known.and_then(|number| self.pairs.get_mut(&(key, number)));
        let new = held.is_none();
        if let Some(held) = held {
            *held = ends;
        } else {
            let keys = known.and_then(|number| self.nodes.get(number as usize)).map_or(0, |node| node.keys as usize);
            let room = self.pairs.len() < limits.providers
                && keys < limits.keys_per_provider
                && self.of_key(&key).count() < limits.providers_per_key;
            let number = room.then(|| known.or_else(|| self.enter(peer))).flatten()?;
            self.pairs.insert((key, number), ends);
            if let Some(node) = self.nodes.get_mut(number as usize) {
                node.keys += 1;
            }
        }
        self.set_addresses(&peer, addresses);
        Some(new)
    }

    /// Inserts a pair that others told of: what the node said itself, and where it listens, stays as it is.
    pub(super) fn adopt(
        &mut self,
        key: RecordKey,
        peer: PeerId,
        addresses: &[Multiaddr],
        limits: &RecordLimits,
        now: Instant,
    ) -> Option<bool> {
        let Some(number) = self.numbers.get(&peer).copied() else {
            return self.insert(key, peer, addresses, limits, now);
        };
        if self.pairs.contains_key(&(key, number)) {
            return Some(false);
        }
        let known = self.nodes.get(number as usize)?.addresses.clone();
        self.insert(key, peer, &known, limits, now)
    }

    /// The pairs of all keys after one, in order.
    pub(super) fn after(
        &self,
        key: Option<RecordKey>,
    ) -> impl Iterator<Item = (RecordKey, PeerId, &[Multiaddr], Instant)> {
        let from = key.map_or(Bound::Unbounded, |key| Bound::Excluded((key, Number::MAX)));
        self.pairs.range((from, Bound::Unbounded)).filter_map(|((key, number), ends)| {
            let node = self.nodes.get(*number as usize)?;
            Some((*key, node.peer, &*node.addresses, self.begin? + TICK * *ends))
        })
    }

    /// A number for a node that has none; `None` if there are too many.
    fn enter(&mut self, peer: PeerId) -> Option<Number> {
        if self.numbers.len() >= MAX_NODES {
            return None;
        }
        let node = Node { peer, keys: 0, addresses: Box::default() };
        let number = match self.free.pop() {
            Some(number) => {
                *self.nodes.get_mut(number as usize)? = node;
                number
            }
            None => {
                self.nodes.push(node);
                Number::try_from(self.nodes.len() - 1).ok()?
            }
        };
        self.numbers.insert(peer, number);
        Some(number)
    }

    fn set_addresses(&mut self, peer: &PeerId, addresses: &[Multiaddr]) {
        let Some(node) = self.numbers.get(peer).and_then(|number| self.nodes.get_mut(*number as usize)) else { return };
        if *node.addresses == *addresses {
            return;
        }
        let rest = self.address_bytes.saturating_sub(size(&node.addresses));
        let fits = rest + size(addresses) <= MAX_ADDRESS_BYTES;
        node.addresses = if fits { addresses.into() } else { Box::default() };
        self.address_bytes = rest + size(&node.addresses);
    }

    /// Ceases to let a node be found under a key; whether it was.
    pub(super) fn remove(&mut self, key: &RecordKey, peer: &PeerId) -> bool {
        let Some(number) = self.numbers.get(peer).copied() else { return false };
        let was = self.pairs.remove(&(*key, number)).is_some();
        if was {
            self.leave(number);
        }
        was
    }

    /// A node is found under one key less.
    fn leave(&mut self, number: Number) {
        let Some(node) = self.nodes.get_mut(number as usize) else { return };
        node.keys = node.keys.saturating_sub(1);
        if node.keys == 0 {
            self.address_bytes = self.address_bytes.saturating_sub(size(&node.addresses));
            node.addresses = Box::default();
            self.numbers.remove(&node.peer);
            self.free.push(number);
        }
    }

    fn of_key(&self, key: &RecordKey) -> impl Iterator<Item = (Number, Ticks)> {
        self.pairs.range((*key, Number::MIN)..=(*key, Number::MAX)).map(|((_, number), ends)| (*number, *ends))
    }

    /// The nodes that are found under a key, with their addresses and the time at which they are forgotten.
    pub(super) fn under(&self, key: &RecordKey) -> impl Iterator<Item = (PeerId, &[Multiaddr], Instant)> {
        self.of_key(key).filter_map(|(number, ends)| {
            let node = self.nodes.get(number as usize)?;
            Some((node.peer, &*node.addresses, self.begin? + TICK * ends))
        })
    }

    /// The keys of a range, which is not reversed, under which a node is found.
    pub(super) fn of(&self, peer: &PeerId, from: RecordKey, to: RecordKey) -> impl Iterator<Item = RecordKey> {
        let number = self.numbers.get(peer).copied();
        let pairs = number.map(|_| self.pairs.range((from, Number::MIN)..=(to, Number::MAX)));
        pairs.into_iter().flatten().filter(move |((_, of), _)| Some(*of) == number).map(|((key, _), _)| *key)
    }

    /// Number of pairs.
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Forgets the pairs that are over.
    pub(super) fn expire(&mut self, now: Instant) {
        let Some(begin) = self.begin else { return };
        let passed = now.saturating_duration_since(begin).as_millis() / TICK.as_millis();
        let mut over = Vec::new();
        self.pairs.retain(|(_, number), ends| {
            let stays = u128::from(*ends) > passed;
            if !stays {
                over.push(*number);
            }
            stays
        });
        over.into_iter().for_each(|number| self.leave(number));
        if self.pairs.is_empty() {
            // The clock of the table begins anew, and what it grew to is given back.
            *self = Self::default();
        }
    }

    /// When something is over that lasts so long from now on, rounded up: nothing ends early.
    fn end(&mut self, now: Instant, lifetime: Duration) -> Ticks {
        let begin = *self.begin.get_or_insert(now);
        let end = now.saturating_duration_since(begin).saturating_add(lifetime);
        Ticks::try_from(end.as_millis().div_ceil(TICK.as_millis())).unwrap_or(Ticks::MAX)
    }
}

/// What addresses take in memory, in bytes.
fn size(addresses: &[Multiaddr]) -> usize {
    addresses.iter().map(|address| address.len() + ADDRESS_OVERHEAD).sum()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: RecordLimits = RecordLimits {
        records: 0,
        claims_per_sender: 0,
        providers: 1_000_000,
        keys_per_provider: 1_000_000,
        providers_per_key: 30,
        lifetime: Duration::from_secs(3600),
        own: true,
    };

    fn key(number: usize) -> RecordKey {
        RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap()
    }

    #[test]
    fn nodes_and_their_addresses_are_bounded_and_leave_nothing_behind() {
        let (mut providers, now) = (Providers::default(), Instant::now());
        let long: Multiaddr = format!("/dns4/{}/tcp/1", "a".repeat(250)).parse().unwrap();
        let long = vec![long; 8];
        let peers: Vec<_> = (0..MAX_NODES + 10).map(|_| PeerId::random()).collect();
        let taken = |providers: &mut Providers| {
            let insert = |(number, peer): (usize, &PeerId)| providers.insert(key(number), *peer, &long, &LIMITS, now);
            peers.iter().enumerate().filter_map(insert).count()
        };
        assert_eq!(taken(&mut providers), MAX_NODES);
        assert!(providers.address_bytes <= MAX_ADDRESS_BYTES);
        assert!(!providers.under(&key(0)).next().unwrap().1.is_empty());
        assert!(providers.under(&key(MAX_NODES - 1)).next().unwrap().1.is_empty(), "no room for its addresses");
        for (number, peer) in peers.iter().enumerate() {
            providers.remove(&key(number), peer);
        }
        assert_eq!((providers.len(), providers.numbers.len(), providers.address_bytes), (0, 0, 0));
        assert_eq!(taken(&mut providers), MAX_NODES);
        assert_eq!(providers.nodes.len(), MAX_NODES, "numbers are used again");
        providers.expire(now + LIMITS.lifetime * 2);
        assert_eq!((providers.nodes.capacity(), providers.begin), (0, None));
    }

    /// The same by a list: what is done, and what is found.
    #[derive(Debug, Clone)]
    enum Step {
        Insert(usize, usize),
        Remove(usize, usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6usize, 0..5usize).prop_map(|(key, peer)| Step::Insert(key, peer)),
            (0..6usize, 0..5usize).prop_map(|(key, peer)| Step::Remove(key, peer)),
            (1..3000u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn the_table_holds_what_a_plain_list_would(steps in prop::collection::vec(step(), 1..60)) {
            let peers: Vec<_> = (0..5).map(|_| PeerId::random()).collect();
            let (mut providers, mut list, mut now) = (Providers::default(), BTreeMap::new(), Instant::now());
            for step in steps {
                match step {
                    Step::Insert(at, peer) => {
                        let new = providers.insert(key(at), peers[peer], &[], &LIMITS, now);
                        let before = list.insert((at, peers[peer]), now + LIMITS.lifetime);
                        prop_assert_eq!(new, Some(before.is_none()));
                    }
                    Step::Remove(at, peer) => {
                        let was = list.remove(&(at, peers[peer])).is_some();
                        prop_assert_eq!(providers.remove(&key(at), &peers[peer]), was);
                    }
                    Step::Pass(seconds) => {
                        now += Duration::from_secs(seconds);
                        providers.expire(now);
                        list.retain(|_, ends| *ends > now);
                    }
                }
                let mut found = Vec::new();
                for at in 0..6 {
                    found.extend(providers.under(&key(at)).map(|(peer, _, ends)| ((at, peer), ends)));
                }
                found.sort();
                prop_assert_eq!(found, list.iter().map(|(pair, ends)| (*pair, *ends)).collect::<Vec<_>>());
                prop_assert_eq!(providers.len(), list.len());
            }
        }
    }
}
