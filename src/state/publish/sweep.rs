//! A pass over keys in the order of the key space.
//!
//! An answer of the network names nodes close to one key, and never all of them for sure: queries run out of time, nodes
//! are dead or have just come. So how far an answer reaches is read from how close its nodes are, and not from how many
//! they are; a short one is checked by further questions in the same region, until one of them names nobody new.

use std::collections::BTreeMap;

use swarmdex_protocols::PeerId;

use super::{Position, REPLICATION, distance, leading_zeros, with_tail};

/// Nodes that one sweep keeps in mind.
const MAX_KNOWN: usize = 2048;
/// Questions in one region, at most.
const MOST_QUESTIONS: usize = 6;
/// Answers in a row that name nobody new, before a network is taken for smaller than [`REPLICATION`].
const STALE_ANSWERS: usize = 2;

type Key = (Position, usize);

/// One pass over keys, region by region.
#[derive(Debug)]
pub struct Sweep<T> {
    items: BTreeMap<Key, T>,
    known: BTreeMap<Position, PeerId>,
    queries: usize,
    /// Nodes in the asker's routing table.
    table: usize,
    /// Answers of so many nodes are whole: of those that the asker knows, until one names more.
    expected: usize,
    region: Option<Region>,
    /// Items of the region before. Nodes at the edge of their region are known with the next.
    waiting: Vec<(Key, T)>,
}

/// The part of the key space that is being asked about: what shares the first bits with the first target there.
#[derive(Debug, Clone, Copy)]
struct Region {
    target: Position,
    /// None before an answer names anybody.
    bits: Option<usize>,
    questions: usize,
    /// Answers in a row that named nobody new.
    stale: usize,
}

impl Region {
    fn bounds(&self, bits: usize) -> std::ops::RangeInclusive<Key> {
        let (low, high) = (with_tail(&self.target, bits, 0), with_tail(&self.target, bits, 0xff));
        (low, 0)..=(high, usize::MAX)
    }
}

impl<T> Sweep<T> {
    /// Through these items, in a network of which the asker knows so many nodes, itself left out.
    pub fn new(items: impl IntoIterator<Item = (Position, T)>, known: usize) -> Self {
        let items = items.into_iter().enumerate().map(|(number, (position, item))| ((position, number), item));
        Self {
            items: items.collect(),
            known: BTreeMap::new(),
            queries: 0,
            table: known,
            expected: known.min(REPLICATION),
            region: None,
            waiting: Vec::new(),
        }
    }

    /// The item to whose closest nodes the network is to be asked for; `None` at the end.
    pub fn next_target(&mut self) -> Option<(Position, &T)> {
        let again = self.region.and_then(|region| {
            // Elsewhere: another question finds others. In a network that may be small that is anywhere.
            let bits = if self.known.len() < REPLICATION { 0 } else { region.bits.unwrap_or(0) };
            let inside: Vec<_> = self.items.range(region.bounds(bits)).map(|(key, _)| *key).collect();
            inside.get(inside.len() * (region.questions % MOST_QUESTIONS) / MOST_QUESTIONS).copied()
        });
        let key = again.or_else(|| self.items.first_key_value().map(|(key, _)| *key))?;
        self.queries += 1;
        self.items.get(&key).map(|item| (key.0, item))
    }

    /// A node that stores records and is not in the network's answers: the one that asks.
    pub fn know(&mut self, position: Position, peer: PeerId) {
        self.known.insert(position, peer);
    }

    /// Closest-nodes queries so far.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// The network's answer for `target`: its closest nodes, at most [`REPLICATION`], or fewer of them. Returns items for
    /// whose nodes enough was asked, each with the nodes that are to store it, the closest first.
    pub fn on_closest(&mut self, target: &Position, nodes: &[(Position, PeerId)]) -> Vec<(T, Vec<PeerId>)> {
        let fresh = nodes.iter().filter(|(position, peer)| self.known.insert(*position, *peer).is_none()).count();
        // As many as were known of. If there are more, nobody knows how many; and a node that knows one has just come.
        let whole = nodes.len() >= REPLICATION || nodes.len() == self.expected && self.expected > 1;
        if nodes.len() > self.expected {
            self.expected = REPLICATION;
        }
        let region = self.region.get_or_insert(Region { target: *target, bits: None, questions: 0, stale: 0 });
        region.questions += 1;
        region.stale = if fresh == 0 { region.stale + 1 } else { 0 };
        if region.bits.is_none() && !nodes.is_empty() {
            (region.target, region.bits) = (*target, Some(bits(target, nodes)));
        }
        let small = nodes.len() < REPLICATION && self.known.len() <= REPLICATION && self.table < REPLICATION;
        let stale = region.stale >= if small { STALE_ANSWERS } else { 1 } && region.bits.is_some();
        if !(whole || stale || region.questions >= MOST_QUESTIONS) {
            return Vec::new();
        }
        let region = *region;
        self.region = None;
        // All that there are, as far as anybody says: every key goes to all of them.
        let bits = if small && (whole || stale) { 0 } else { region.bits.unwrap_or(0) };
        let keys: Vec<_> = self.items.range(region.bounds(bits)).map(|(key, _)| *key).collect();
        let settled: Vec<_> = keys.iter().filter_map(|key| self.items.remove(key).map(|item| (*key, item))).collect();
        let mut ready = std::mem::replace(&mut self.waiting, settled);
        if self.items.is_empty() {
            ready.append(&mut self.waiting);
        }
        let assigned = ready.into_iter().map(|(key, item)| (item, self.closest(&key.0))).collect();
        while self.known.len() > MAX_KNOWN {
            // The farthest in the order of the sweep: what comes next is after it.
            self.known.pop_first();
        }
        assigned
    }

    fn closest(&self, position: &Position) -> Vec<PeerId> {
        let mut nodes: Vec<_> = self.known.iter().map(|(node, peer)| (distance(node, position), *peer)).collect();
        if nodes.len() > REPLICATION {
            nodes.select_nth_unstable(REPLICATION);
            nodes.truncate(REPLICATION);
        }
        nodes.sort_unstable();
        nodes.into_iter().map(|(_, peer)| peer).collect()
    }
}

/// How many bits of a target its region shares: three quarters of the nodes named say how dense nodes are there. The
/// farthest may be anybody.
fn bits(target: &Position, nodes: &[(Position, PeerId)]) -> usize {
    let mut distances: Vec<_> = nodes.iter().map(|(position, _)| distance(position, target)).collect();
    distances.sort_unstable();
    distances.get(distances.len() * 3 / 4).map_or(0, |far| leading_zeros(far) + 1)
}
