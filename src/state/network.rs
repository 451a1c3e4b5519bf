//! A network of Kademlia nodes, for simulations: who is where, and whom each knows.

use std::collections::BTreeSet;

use super::publish::{Position, REPLICATION};
use super::random::Random;

/// A network: the places of its nodes in order, a number in the first 8 bytes of each.
pub(super) struct Network {
    pub(super) places: Vec<u64>,
    pub(super) dead: BTreeSet<usize>,
}

/// Where a place is.
pub(super) fn position(place: u64) -> Position {
    let mut position = [0; 32];
    position[..8].copy_from_slice(&place.to_be_bytes());
    position
}

impl Network {
    /// Of so many nodes.
    pub(super) fn new(nodes: usize, random: &mut Random) -> Self {
        let mut places: Vec<_> = (0..nodes).map(|_| random.next()).collect();
        places.sort_unstable();
        places.dedup();
        Self { places, dead: BTreeSet::new() }
    }

    /// The nodes whose places begin with the first bits of this one.
    fn under(&self, place: u64, bits: u32) -> std::ops::Range<usize> {
        let mask = if bits == 0 { 0 } else { u64::MAX << (64 - bits) };
        let (low, high) = (place & mask, place & mask | !mask);
        self.places.partition_point(|other| *other < low)..self.places.partition_point(|other| *other <= high)
    }

    /// The 20 closest to a target of those that a node knows: up to 20 of each distance, always the same for it. A node knows
    /// all of its own neighbourhood.
    pub(super) fn known_to(&self, node: usize, target: u64) -> Vec<usize> {
        let place = self.places[node];
        let mut random = Random(place);
        let mut known = BTreeSet::new();
        for bits in 0..64 {
            let bucket = self.under(place ^ (1 << (63 - bits)), bits + 1);
            if bucket.len() <= REPLICATION {
                known.extend(bucket);
            } else {
                known.extend((0..REPLICATION).map(|_| bucket.start + random.below(bucket.len() as u64) as usize));
            }
            if self.under(place, bits + 1).len() <= 1 {
                break;
            }
        }
        let mut known: Vec<_> = known.into_iter().collect();
        known.sort_by_key(|other| self.places[*other] ^ target);
        known.truncate(REPLICATION);
        known
    }

    /// The nodes closest to a target.
    pub(super) fn closest(&self, target: u64) -> Vec<usize> {
        // A part of the key space that has enough nodes has the closest.
        let bits = (0..=64).rev().find(|bits| self.under(target, *bits).len() >= REPLICATION).unwrap_or(0);
        let mut nodes: Vec<_> = self.under(target, bits).collect();
        nodes.sort_by_key(|other| self.places[*other] ^ target);
        nodes.truncate(REPLICATION);
        nodes
    }

    /// The nodes closest to a target of those that live, one left out.
    pub(super) fn living(&self, target: u64, without: usize) -> Vec<usize> {
        let among = |bits: u32| {
            self.under(target, bits).filter(|node| *node != without && !self.dead.contains(node)).collect::<Vec<_>>()
        };
        // Few bits are shared by many: it is begun where nodes are few.
        let bits = (0..=24).rev().find(|bits| among(*bits).len() >= REPLICATION).unwrap_or(0);
        let mut nodes = among(bits);
        nodes.sort_by_key(|other| self.places[*other] ^ target);
        nodes.truncate(REPLICATION);
        nodes
    }
}
