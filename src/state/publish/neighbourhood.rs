//! Whether a node is among the closest to a key, as far as other nodes are known.

use std::collections::BTreeMap;

use super::{Position, REPLICATION, distance, leading_zeros};

/// The nodes that are known, as they lie around one of them.
pub(crate) struct Neighbourhood<'a> {
    node: &'a Position,
    known: &'a [Position],
    /// How many of them share just so many leading bits with the node.
    sharing: BTreeMap<usize, usize>,
}

impl<'a> Neighbourhood<'a> {
    /// Around a node.
    pub(crate) fn around(node: &'a Position, known: &'a [Position]) -> Self {
        let mut sharing = BTreeMap::new();
        for other in known.iter().filter(|other| *other != node) {
            *sharing.entry(leading_zeros(&distance(other, node))).or_default() += 1;
        }
        Self { node, known, sharing }
    }

    /// Whether the node is among the closest to a key.
    pub(crate) fn belongs(&self, key: &Position) -> bool {
        let own = distance(self.node, key);
        // Those that share as much with the key as the node does not are all closer: mostly that is enough.
        let closer = self.sharing.get(&leading_zeros(&own)).copied().unwrap_or(0);
        closer < REPLICATION
            && self.known.iter().filter(|other| distance(other, key) < own).take(REPLICATION).count() < REPLICATION
    }
}
