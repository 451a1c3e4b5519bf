//! Nodes that stopped answering: while they make up much of those that would know, "nobody knows of it" says little.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use super::publish::{Position, REPLICATION, distance};

/// Nodes that are remembered; the one that was lost first gives way.
const MAX_LOST: usize = 1024;
/// If so many parts of the nodes that would know are silent, the others may not know: one in four.
const SILENT_PARTS: usize = 4;

/// Nodes that answered once and do not any more.
#[derive(Debug)]
pub(crate) struct Lost {
    nodes: BTreeMap<PeerId, (Position, Instant)>,
    /// For how long they are missed: what only they hold is over then.
    period: Duration,
}

/// Who answered a question about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reached {
    /// Nodes that answered, and that did not.
    pub answered: usize,
    /// See `answered`.
    pub silent: usize,
    /// How many of the nodes closest to the key, as far as they are known, were lost; and how many there are in all.
    pub lost: usize,
    /// See `lost`.
    pub closest: usize,
}

impl Reached {
    /// Whether so many answered that what none of them knows is not there: records lie at the 20 closest nodes, so this
    /// errs only if nearly all that were reached lack one.
    pub(crate) fn is_sure(&self) -> bool {
        let few = |silent: usize, all: usize| silent * SILENT_PARTS < all.max(1);
        few(self.silent, self.answered + self.silent) && few(self.lost, self.closest)
    }

    /// How many of how many nodes do not answer, for people.
    pub(crate) fn missing(&self) -> (usize, usize) {
        let [asked, known] = [(self.silent, self.answered + self.silent), (self.lost, self.closest)];
        if asked.0 * known.1 >= known.0 * asked.1 { asked } else { known }
    }
}

impl Lost {
    /// Nobody yet; nodes are missed for `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self { nodes: BTreeMap::new(), period }
    }

    /// A node does not answer any more.
    pub(crate) fn on_lost(&mut self, peer: PeerId, position: Position, now: Instant) {
        self.nodes.retain(|_, (_, since)| now.saturating_duration_since(*since) < self.period);
        if self.nodes.len() >= MAX_LOST
            && let Some(first) = self.nodes.iter().min_by_key(|(_, (_, since))| *since).map(|(peer, _)| *peer)
        {
            self.nodes.remove(&first);
        }
        self.nodes.insert(peer, (position, now));
    }

    /// It answers again; since when it did not, if it was missed.
    pub(crate) fn on_back(&mut self, peer: &PeerId) -> Option<Instant> {
        self.nodes.remove(peer).map(|(_, since)| since)
    }

    /// How many of the nodes closest to a key were lost, and how many there are; `known` are the positions of those that were
    /// not. The node `except` is not missed.
    pub(crate) fn among_closest(
        &self,
        key: &Position,
        known: impl Iterator<Item = Position>,
        except: Option<PeerId>,
        now: Instant,
    ) -> (usize, usize) {
        let missed = |(peer, (_, since)): &(&PeerId, &(Position, Instant))| {
            Some(**peer) != except && now.saturating_duration_since(*since) < self.period
        };
        let lost = self.nodes.iter().filter(missed).map(|(_, (position, _))| (distance(position, key), true));
        let mut nodes: Vec<_> = lost.chain(known.map(|position| (distance(&position, key), false))).collect();
        nodes.sort_unstable();
        nodes.truncate(REPLICATION);
        (nodes.iter().filter(|(_, lost)| *lost).count(), nodes.len())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_not_there_unless_many_are_silent() {
        let reach = |answered, silent, lost, closest| Reached { answered, silent, lost, closest }.is_sure();
        assert!(reach(20, 0, 0, 20) && reach(20, 6, 4, 20) && reach(3, 0, 0, 3) && reach(1, 0, 0, 1));
        // Three of seven were cut off: at first they are silent, and later they are known to be gone.
        assert!(!reach(4, 3, 0, 7) && !reach(4, 0, 3, 7) && !reach(0, 0, 1, 1) && !reach(20, 7, 0, 20));
        assert!(reach(0, 0, 0, 0), "nobody is missed");
        let missing = |answered, silent, lost, closest| Reached { answered, silent, lost, closest }.missing();
        assert_eq!((missing(4, 3, 0, 7), missing(4, 0, 3, 7)), ((3, 7), (3, 7)));
    }

    #[test]
    fn lost_nodes_count_where_they_are_close_and_until_they_are_back() {
        let (now, period) = (Instant::now(), Duration::from_secs(3600));
        let mut lost = Lost::new(period);
        let node = |first: u8| Position::from([first; 32]);
        let peers: Vec<_> = (0..10).map(|_| PeerId::random()).collect();
        peers.iter().zip(1..).for_each(|(peer, place)| lost.on_lost(*peer, node(place), now));
        let known = || (100..130u8).map(node);
        assert_eq!(lost.among_closest(&node(0), known(), None, now), (10, 20));
        assert_eq!(lost.among_closest(&node(0), known(), Some(peers[0]), now), (9, 20));
        assert_eq!(lost.among_closest(&node(126), known(), None, now).0, 0, "far from them");
        assert_eq!((lost.on_back(&peers[0]), lost.on_back(&peers[0])), (Some(now), None));
        assert_eq!(lost.among_closest(&node(0), known().take(2), None, now), (9, 11));
        assert_eq!(lost.among_closest(&node(0), known(), None, now + period), (0, 20), "what they held is over");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, mut lost) = (Instant::now(), Lost::new(Duration::from_secs(3600)));
        let first = PeerId::random();
        lost.on_lost(first, [0; 32], now);
        let later = now + Duration::from_secs(1);
        (0..2 * MAX_LOST).for_each(|_| lost.on_lost(PeerId::random(), [0; 32], later));
        assert!(lost.nodes.len() == MAX_LOST && !lost.nodes.contains_key(&first));
        lost.on_lost(first, [0; 32], later + Duration::from_secs(3600));
        assert_eq!(lost.nodes.len(), 1);
    }
}
