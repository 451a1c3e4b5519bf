//! What to publish to the mirror when, and at which nodes.
//!
//! Records go to the nodes closest to their keys. Asking the network for the closest nodes of each key would cost
//! a query of some dozen messages a record; but neighbouring keys have the same closest nodes. A [`Sweep`] goes
//! through due keys in the order of the key space, asks once for each region, and assigns every key of the region
//! from what it learned. (The idea of the "sweeping" provider of go-libp2p-kad-dht, 2025.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmdex_protocols::{PeerId, RecordKey, Statement};

/// Place in the key space of Kademlia: the SHA-256 of a key or of a peer id.
pub type Position = [u8; 32];

/// Nodes that store each record: Kademlia's k.
pub const REPLICATION: usize = 20;
/// Nodes that one sweep keeps in mind.
const MAX_KNOWN: usize = 2048;
/// Records that wait for publication or its repetition.
pub const MAX_PUBLICATIONS: usize = 1_000_000;
/// First pause before a record that no node stored is published again.
const RETRY: Duration = Duration::from_secs(2);

/// One pass over keys, region by region.
#[derive(Debug)]
pub struct Sweep<T> {
    items: BTreeMap<(Position, usize), T>,
    known: BTreeMap<Position, PeerId>,
    queries: usize,
    /// Whether the network ever named as many nodes as were asked for.
    large: bool,
}

impl<T> Sweep<T> {
    /// Through these items.
    pub fn new(items: impl IntoIterator<Item = (Position, T)>) -> Self {
        let items = items.into_iter().enumerate().map(|(number, (position, item))| ((position, number), item));
        Self { items: items.collect(), known: BTreeMap::new(), queries: 0, large: false }
    }

    /// The item to whose closest nodes the network is to be asked for; `None` at the end.
    pub fn next_target(&mut self) -> Option<(Position, &T)> {
        self.queries += usize::from(!self.items.is_empty());
        self.items.first_key_value().map(|((position, _), item)| (*position, item))
    }

    /// A node that stores records and is not in the network's answers: the one that asks.
    pub fn know(&mut self, position: Position, peer: PeerId) {
        self.known.insert(position, peer);
    }

    /// Closest-nodes queries so far.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// The network's answer for `target`: its closest nodes, at most [`REPLICATION`]. Returns the items of the region
    /// that it settles, each with the nodes that are to store it, the closest first.
    pub fn on_closest(&mut self, target: &Position, nodes: &[(Position, PeerId)]) -> Vec<(T, Vec<PeerId>)> {
        let farthest = nodes.iter().map(|(position, _)| distance(position, target)).max().unwrap_or_default();
        // Fewer than asked for are all that there are, unless there were more before: then the answer broke off.
        // Otherwise every node that is nearer than the farthest is known, and so every node of the region whose keys
        // share one bit more with the target.
        self.large |= nodes.len() >= REPLICATION;
        let bits = if self.large { leading_zeros(&farthest) + 1 } else { 0 };
        self.known.extend(nodes.iter().copied());
        while self.known.len() > MAX_KNOWN {
            // The farthest in the order of the sweep: what comes next is after the target.
            let first = self.known.first_key_value().map(|(position, _)| *position);
            first.and_then(|position| self.known.remove(&position));
        }
        let (low, high) = (with_tail(target, bits, 0), with_tail(target, bits, 0xff));
        let keys: Vec<_> = self.items.range((low, 0)..=(high, usize::MAX)).map(|(key, _)| *key).collect();
        let mut assigned = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(item) = self.items.remove(&key) {
                assigned.push((item, self.closest(&key.0)));
            }
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

/// Kademlia's distance.
pub fn distance(a: &Position, b: &Position) -> Position {
    std::array::from_fn(|index| a[index] ^ b[index])
}

fn leading_zeros(distance: &Position) -> usize {
    let bytes = distance.iter().take_while(|byte| **byte == 0).count();
    bytes * 8 + distance.get(bytes).map_or(0, |byte| byte.leading_zeros() as usize)
}

/// `position` with all but the first `bits` bits replaced.
fn with_tail(position: &Position, bits: usize, tail: u8) -> Position {
    std::array::from_fn(|index| {
        let keep = bits.saturating_sub(index * 8).min(8) as u32;
        let mask = 0xffu8.checked_shr(keep).unwrap_or(0);
        (position[index] & !mask) | (tail & mask)
    })
}

/// What is published under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A statement about a name.
    Statement(Arc<Statement>),
    /// That this node is found under the key.
    Provide,
}

#[derive(Debug)]
struct Publication {
    what: What,
    due: Instant,
    /// Attempts in a row that no node took.
    failures: u32,
    /// Whether it is published once only: somebody else repeats it.
    once: bool,
    /// Nodes that stored it the last time.
    copies: usize,
}

/// Everything that this node publishes, and when it is due again.
#[derive(Debug)]
pub struct Publications {
    interval: Duration,
    most: usize,
    alone: bool,
    items: BTreeMap<RecordKey, Publication>,
    due: BTreeSet<(Instant, RecordKey)>,
}

impl Publications {
    /// Nothing yet; what lasts is published every `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, most: MAX_PUBLICATIONS, alone: false, items: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// Publishes a statement as soon as possible, and once: somebody else repeats it, or it is pushed again.
    pub fn push(&mut self, key: RecordKey, statement: Statement, now: Instant) {
        let what = What::Statement(Arc::new(statement));
        match self.items.get(&key) {
            // A later statement about the name replaces the earlier.
            Some(held) if rank(&held.what) >= rank(&what) => {}
            _ => self.insert(key, what, true, now),
        }
    }

    fn insert(&mut self, key: RecordKey, what: What, once: bool, due: Instant) {
        if self.items.len() >= self.most && !self.items.contains_key(&key) {
            return;
        }
        self.remove(&key);
        self.items.insert(key, Publication { what, due, failures: 0, once, copies: 0 });
        self.due.insert((due, key));
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(item) = self.items.remove(key) {
            self.due.remove(&(item.due, *key));
        }
    }

    /// Makes `wanted` all that lasts: what is new or changed is due at once, what is no longer wanted is dropped.
    pub fn replace(&mut self, wanted: BTreeMap<RecordKey, What>, now: Instant) {
        let dropped: Vec<_> = self
            .items
            .iter()
            .filter(|(key, item)| !item.once && !wanted.contains_key(key))
            .map(|(key, _)| *key)
            .collect();
        for key in dropped {
            self.remove(&key);
        }
        for (key, what) in wanted {
            if self.items.get(&key).is_none_or(|held| held.what != what) {
                // The master publishes what it grants; this is for the time after.
                let granted =
                    matches!(&what, What::Statement(statement) if matches!(**statement, Statement::Certificate(_)));
                let due = if granted && !self.alone { now + self.interval / 2 - self.spread(&key) / 2 } else { now };
                self.insert(key, what, false, due);
            }
        }
    }

    /// A part of a fifth of the interval, so that what came at once does not come at once for ever.
    fn spread(&self, key: &RecordKey) -> Duration {
        self.interval * u32::from(key.as_bytes()[0]) / (5 * 256)
    }

    /// Whether no master publishes anything; when that begins, everything is due at once.
    pub fn set_alone(&mut self, alone: bool, now: Instant) {
        if alone && !std::mem::replace(&mut self.alone, alone) {
            self.hurry(now);
        }
        self.alone = alone;
    }

    /// Makes everything due.
    fn hurry(&mut self, now: Instant) {
        for (key, item) in &mut self.items {
            self.due.remove(&(item.due, *key));
            item.due = item.due.min(now);
            self.due.insert((item.due, *key));
        }
    }

    /// What is due, at most `most` of it.
    pub fn due(&self, now: Instant, most: usize) -> Vec<(RecordKey, What)> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now).take(most);
        due.filter_map(|(_, key)| self.items.get(key).map(|item| (*key, item.what.clone()))).collect()
    }

    /// So many nodes stored what was due.
    pub fn on_published(&mut self, key: &RecordKey, what: &What, copies: usize, now: Instant) {
        let spread = self.spread(key);
        let Some(item) = self.items.get_mut(key) else { return };
        if item.what != *what {
            // Something newer came meanwhile, and is due.
            return;
        }
        if copies > 0 && item.once {
            return self.remove(key);
        }
        self.due.remove(&(item.due, *key));
        item.copies = copies;
        item.due = if copies > 0 {
            item.failures = 0;
            now + self.interval - spread
        } else {
            item.failures += 1;
            now + (RETRY * (1 << item.failures.min(12))).min(self.interval)
        };
        self.due.insert((item.due, *key));
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.first().map(|(at, _)| (*at, "a record to publish"))
    }

    /// Number of records, and of those that some node stored.
    pub fn counts(&self) -> (usize, usize) {
        (self.items.len(), self.items.values().filter(|item| item.copies > 0).count())
    }

    /// Drops statements that have expired.
    pub fn expire(&mut self, unix_ms: u64) {
        let over: Vec<_> = self
            .items
            .iter()
            .filter(|(_, item)| matches!(&item.what, What::Statement(statement) if statement.expires_ms() < unix_ms))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            self.remove(&key);
        }
    }
}

fn rank(what: &What) -> Option<(swarmdex_protocols::statement::Rank, u64)> {
    match what {
        What::Statement(statement) => statement.rank().map(|rank| (rank, statement.expires_ms())),
        What::Provide => None,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(count: usize) -> Vec<(Position, PeerId)> {
        let position = |number: usize| *blake3::hash(&number.to_le_bytes()).as_bytes();
        (0..count).map(|number| (position(number), PeerId::random())).collect()
    }

    fn closest(nodes: &[(Position, PeerId)], target: &Position) -> Vec<(Position, PeerId)> {
        let mut nodes = nodes.to_vec();
        nodes.sort_by_key(|(position, _)| distance(position, target));
        nodes.truncate(REPLICATION);
        nodes
    }

    fn position(number: usize) -> Position {
        *blake3::hash(&(number + 1_000_000).to_le_bytes()).as_bytes()
    }

    /// Sweeps `keys` keys over a network that answers truly; queries, and the share of right assignments.
    fn sweep(nodes: &[(Position, PeerId)], keys: usize) -> (usize, f64) {
        let mut sweep = Sweep::new((0..keys).map(|number| (position(number), number)));
        let (mut right, mut all) = (0, 0);
        let mut seen = BTreeSet::new();
        while let Some((target, _)) = sweep.next_target() {
            let answer = closest(nodes, &target);
            for (number, assigned) in sweep.on_closest(&target, &answer) {
                assert!(seen.insert(number), "assigned once");
                let best: Vec<_> = closest(nodes, &position(number)).into_iter().map(|(_, peer)| peer).collect();
                assert_eq!(assigned.len(), best.len().min(REPLICATION));
                right += assigned.iter().filter(|peer| best.contains(peer)).count();
                all += best.len();
            }
        }
        assert_eq!(seen.len(), keys, "and every one");
        (sweep.queries(), right as f64 / all.max(1) as f64)
    }

    #[test]
    fn ten_thousand_names_in_a_network_of_fifty_take_few_queries() {
        let (queries, right) = sweep(&nodes(50), 10_000);
        assert!(queries * 20 <= 10_000 && queries < 30, "{queries} queries");
        assert!(right > 0.9, "{right}");
        let (queries, right) = sweep(&nodes(2000), 10_000);
        assert!(queries * 20 <= 10_000, "{queries} queries");
        assert!(right > 0.8, "{right}");
    }

    #[test]
    fn networks_of_one_two_and_three_nodes_take_one_query() {
        for count in 0..4 {
            assert_eq!(sweep(&nodes(count), 1000), (1, if count == 0 { 0.0 } else { 1.0 }), "{count} nodes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn most_copies_go_where_readers_look(count in 1..300usize, keys in 1..200usize) {
            let (queries, right) = sweep(&nodes(count), keys);
            prop_assert!(right > 0.7, "{} of {} nodes", right, count);
            prop_assert!(queries <= keys);
        }
    }

    fn key(number: u8) -> RecordKey {
        RecordKey::from_slice(&[number; 32]).unwrap()
    }

    #[test]
    fn what_is_wanted_comes_again_and_what_is_not_is_dropped() {
        let (now, interval) = (Instant::now(), Duration::from_secs(1000));
        let mut publications = Publications::new(interval);
        let wanted: BTreeMap<_, _> = (0..4).map(|number| (key(number * 60), What::Provide)).collect();
        publications.replace(wanted.clone(), now);
        assert_eq!(publications.due(now, 10).len(), 4);
        assert_eq!(publications.due(now, 3).len(), 3);
        for number in 0..3 {
            publications.on_published(&key(number * 60), &What::Provide, 5, now);
        }
        publications.on_published(&key(180), &What::Provide, 0, now);
        assert_eq!(publications.due(now, 10).len(), 0);
        assert_eq!(publications.due(now + RETRY * 2, 10).len(), 1, "nobody stored it");
        assert_eq!(publications.due(now + interval, 10).len(), 4);
        assert!(publications.due(now + interval * 7 / 10, 10).len() == 1, "not all are early");
        publications.set_alone(true, now);
        assert_eq!(publications.due(now, 10).len(), 4);
        publications.replace(wanted.into_iter().take(1).collect(), now);
        assert_eq!((publications.counts(), publications.due.len()), ((1, 1), 1));
    }

    #[test]
    fn what_is_published_once_is_kept_until_a_node_has_stored_it() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(100));
        let mut publications = Publications::new(Duration::from_secs(1000));
        let master = swarmdex_protocols::Keypair::generate_ed25519();
        let name = swarmdex_protocols::Name::parse("name").unwrap();
        let network = swarmdex_protocols::Network::default();
        let version = swarmdex_protocols::Version(1);
        let tombstone =
            swarmdex_protocols::Tombstone::sign(name, PeerId::random(), version, &network, &master, 1).unwrap();
        publications.push(key(1), Statement::Tombstone(tombstone), now);
        publications.replace(BTreeMap::new(), now);
        let what = publications.due(now, 10).remove(0).1;
        publications.on_published(&key(1), &what, 0, now);
        publications.replace(BTreeMap::new(), now);
        assert_eq!(publications.due(later, 10).len(), 1, "nobody stored it");
        publications.on_published(&key(1), &what, 1, later);
        assert_eq!((publications.counts(), publications.due.len()), ((0, 0), 0));
    }

    #[test]
    fn the_list_is_bounded() {
        let now = Instant::now();
        let mut publications = Publications { most: 10, ..Publications::new(Duration::from_secs(1)) };
        publications.replace((0..100).map(|number| (key(number), What::Provide)).collect(), now);
        assert_eq!(publications.items.len(), 10);
    }
}
