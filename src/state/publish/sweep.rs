//! A pass over keys in the order of the key space.
//!
//! An answer of the network names nodes close to one key, and never all of them for sure: queries run out of time,
//! nodes are dead or have just come. So how far an answer reaches is read from how close its nodes are, and not from
//! how many they are. A short one is checked by further questions in the same region, until one of them names nobody
//! new.

use std::collections::{BTreeMap, VecDeque};

use swarmdex_protocols::PeerId;

use super::{Position, REPLICATION, distance, leading_zeros, with_tail};

/// Nodes that one sweep keeps in mind.
const MAX_KNOWN: usize = 2048;
/// Questions in one region, at most.
const MOST_QUESTIONS: usize = 6;
/// Once this many nodes were named again, and nobody new among them, they are all that there are.
const STALE: usize = REPLICATION / 2;
/// In a network smaller than [`REPLICATION`] so are the nodes that this many answers in a row name.
const ALL: usize = 2;
/// An answer of so many nodes is whole enough: of the others nearly all are named by the answers beside it.
const WHOLE: usize = REPLICATION - 2;
/// Further questions in a region, each for a key around which nodes are known only farther than around others.
const MORE_QUESTIONS: usize = 4;
/// Keys of a region that are looked at for that.
const SAMPLES: usize = 24;
/// Radii that are kept to compare with.
const MAX_RADII: usize = 48;
/// How much farther, as a difference of logarithms: twice as far. Less finds no more and asks about whole networks twice.
const THIN: f64 = 1.0;

type SweepKey = (Position, usize);

/// One pass over keys, region by region.
#[derive(Debug)]
pub(crate) struct Sweep<T> {
    items: BTreeMap<SweepKey, T>,
    known: BTreeMap<Position, PeerId>,
    queries: usize,
    /// Nodes in the asker's routing table.
    table: usize,
    region: Option<Region>,
    /// Items of the region before. Nodes at the edge of their region are known with the next.
    waiting: Vec<(SweepKey, T)>,
    /// How far the nodes that are to store it are from a key, of keys lately, as a logarithm.
    radii: VecDeque<f64>,
    /// The key of the region around which too few nodes are known.
    thin: Option<SweepKey>,
}

/// The part of the key space that is being asked about: what shares the first bits with the first target there.
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    target: Position,
    /// None before an answer names anybody.
    bits: Option<usize>,
    here: Answers,
    /// While the network may be a small one.
    elsewhere: Answers,
}

/// What answers about one part of the key space came to.
#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    questions: usize,
    /// Nodes named again in a row, and nobody new; and answers in a row that named all that are known.
    stale: usize,
    all: usize,
}

impl Region {
    fn bounds(&self, bits: usize) -> std::ops::RangeInclusive<SweepKey> {
        let (low, high) = (with_tail(&self.target, bits, 0), with_tail(&self.target, bits, 0xff));
        (low, 0)..=(high, usize::MAX)
    }
}

impl<T> Sweep<T> {
    /// Through these items, in a network of which the asker knows so many nodes, itself left out.
    pub(crate) fn new(items: impl IntoIterator<Item = (Position, T)>, known: usize) -> Self {
        let items = items.into_iter().enumerate().map(|(number, (position, item))| ((position, number), item));
        Self {
            items: items.collect(),
            known: BTreeMap::new(),
            queries: 0,
            table: known,
            region: None,
            waiting: Vec::new(),
            radii: VecDeque::new(),
            thin: None,
        }
    }

    /// The item to whose closest nodes the network is to be asked for; `None` at the end.
    pub(crate) fn next_target(&mut self) -> Option<(Position, &T)> {
        let again = self.region.and_then(|region| {
            let bounds = region.bounds(region.bits.unwrap_or(0));
            let here = |key: &SweepKey| bounds.contains(key);
            // Another question finds others. In a network that may be small that is one elsewhere.
            let small = self.known.len() < REPLICATION && self.table < REPLICATION;
            let keys = || self.items.keys().copied();
            let outside: Vec<_> = if small { keys().filter(|key| !here(key)).collect() } else { Vec::new() };
            let among = if outside.is_empty() {
                self.items.range(bounds.clone()).map(|(key, _)| *key).collect()
            } else {
                outside
            };
            let number = (region.here.questions + region.elsewhere.questions) % MOST_QUESTIONS;
            among.get(among.len() * number / MOST_QUESTIONS).copied()
        });
        let key = self.thin.take().or(again).or_else(|| self.items.first_key_value().map(|(key, _)| *key))?;
        self.queries += 1;
        self.items.get(&key).map(|item| (key.0, item))
    }

    /// A node that stores records and is not in the network's answers: the one that asks.
    pub(crate) fn know(&mut self, position: Position, peer: PeerId) {
        self.known.insert(position, peer);
    }

    /// A node that cannot be reached, and stores nothing.
    pub(crate) fn forget(&mut self, position: &Position) {
        self.known.remove(position);
    }

    /// Closest-nodes queries so far.
    #[cfg(test)]
    pub(crate) fn queries(&self) -> usize {
        self.queries
    }

    /// The network's answer for `target`: its closest nodes, at most [`REPLICATION`], or fewer of them. Returns items for
    /// whose nodes enough was asked, each with the nodes that are to store it, the closest first.
    pub(crate) fn on_closest(&mut self, target: &Position, nodes: &[(Position, PeerId)]) -> Vec<(T, Vec<PeerId>)> {
        let fresh = nodes.iter().filter(|(position, peer)| self.known.insert(*position, *peer).is_none()).count();
        let small = nodes.len() < REPLICATION && self.known.len() <= REPLICATION && self.table < REPLICATION;
        let whole = nodes.len() >= if small { REPLICATION } else { WHOLE };
        let region = self.region.get_or_insert(Region { target: *target, ..Region::default() });
        let inside = region.bits.is_none_or(|bits| region.bounds(bits).contains(&(*target, 0)));
        // Questions elsewhere say how large the network is, and nothing of this region.
        let part = if inside { &mut region.here } else { &mut region.elsewhere };
        part.questions += 1;
        part.stale = if fresh == 0 { part.stale + nodes.len() } else { 0 };
        // The asker is known, and in no answer. If an answer names as many nodes as the routing table has, they are
        // likely all.
        part.all = if fresh == 0 && nodes.len() + 1 >= self.known.len() { part.all + 1 } else { 0 };
        if region.bits.is_none() && !nodes.is_empty() {
            (region.target, region.bits) = (*target, Some(bits(target, nodes)));
        }
        let all = region.elsewhere.all >= if nodes.len() == self.table { ALL - 1 } else { ALL };
        let everybody = small && (all || region.elsewhere.stale >= 4 * STALE);
        let stale = region.here.stale >= STALE && region.bits.is_some();
        let asked = region.here.questions >= MOST_QUESTIONS || small && region.elsewhere.questions >= MOST_QUESTIONS;
        if !(asked || everybody || inside && (whole || stale && self.known.len() >= REPLICATION)) {
            return Vec::new();
        }
        let region = *region;
        let thin = if small { None } else { self.thinnest(&region) };
        if region.here.questions < MOST_QUESTIONS + MORE_QUESTIONS && thin.is_some() {
            self.thin = thin;
            return Vec::new();
        }
        self.region = None;
        // All that there are, as far as anybody says: every key goes to all of them.
        let bits = if everybody { 0 } else { region.bits.unwrap_or(0) };
        let keys: Vec<_> = self.items.range(region.bounds(bits)).map(|(key, _)| *key).collect();
        let settled: Vec<_> = keys.iter().filter_map(|key| self.items.remove(key).map(|item| (*key, item))).collect();
        let mut ready = std::mem::replace(&mut self.waiting, settled);
        if self.items.is_empty() {
            ready.append(&mut self.waiting);
        }
        let assigned = ready.into_iter().map(|(key, item)| (item, self.closest(&key.0))).collect();
        while self.known.len() > MAX_KNOWN {
            // Forgets the nodes that are farthest from here in the order of the sweep. One that lies far ahead is named
            // again there.
            let before = self.known.range(..=*target).count();
            if before > MAX_KNOWN / 2 {
                self.known.pop_first()
            } else {
                self.known.pop_last()
            };
        }
        assigned
    }

    /// A key of the region around which nodes are known only farther than around other keys, if there is one.
    fn thinnest(&mut self, region: &Region) -> Option<SweepKey> {
        let inside: Vec<_> = self.items.range(region.bounds(region.bits.unwrap_or(0))).map(|(key, _)| *key).collect();
        let step = inside.len().div_ceil(SAMPLES).max(1);
        let radii: Vec<_> = inside.into_iter().step_by(step).map(|key| (self.radius(&key.0), key)).collect();
        let mut usual: Vec<_> = self.radii.iter().copied().chain(radii.iter().map(|(radius, _)| *radius)).collect();
        usual.sort_by(f64::total_cmp);
        let usual = usual.get(usual.len() / 2).copied()?;
        let thinnest = radii.iter().max_by(|a, b| a.0.total_cmp(&b.0)).copied();
        if let Some((_, key)) = thinnest.filter(|(radius, _)| *radius > usual + THIN) {
            return Some(key);
        }
        self.radii.extend(radii.iter().map(|(radius, _)| *radius).filter(|radius| *radius < f64::MAX));
        let most = self.radii.len().saturating_sub(MAX_RADII);
        self.radii.drain(..most);
        None
    }

    /// How far the nodes that are to store it are from a key, as a logarithm.
    fn radius(&self, position: &Position) -> f64 {
        let mut distances: Vec<_> = self.known.keys().map(|node| distance(node, position)).collect();
        if distances.len() < REPLICATION {
            return f64::MAX;
        }
        let (_, far, _) = distances.select_nth_unstable(REPLICATION - 1);
        far.first_chunk().map_or(f64::MAX, |bytes| (u128::from_be_bytes(*bytes) as f64).log2())
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
