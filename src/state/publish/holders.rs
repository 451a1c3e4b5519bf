//! Which nodes stored what this node published.

use std::collections::BTreeMap;

use swarmdex_protocols::PeerId;
use swarmdex_protocols::check::KeyMark;

use super::Position;

/// Nodes of which it is remembered what they store: more are left to the repetitions.
const MAX_HOLDERS: usize = 4096;
/// Nodes asked in one round of all, those that were not for longest first: more are asked in the next.
const NODES_A_ROUND: usize = 32;

/// Nodes by number, so that each record remembers its holders in two bytes each.
#[derive(Debug, Default)]
pub(super) struct Holders {
    numbers: BTreeMap<PeerId, u16>,
    nodes: Vec<Option<Holder>>,
}

#[derive(Debug)]
struct Holder {
    peer: PeerId,
    /// Records that it stores, by number and digest.
    records: u32,
    digest: KeyMark,
    /// The rounds in which it was last asked, in which it last got something new, and in which it last said that it
    /// holds everything. The last is 0 if it did not since.
    asked: u64,
    fresh: u64,
    confirmed: u64,
}

impl Holders {
    /// One record more at a node: the node's number, unless there are too many nodes.
    pub(super) fn add(&mut self, peer: &PeerId, mark: KeyMark) -> Option<u16> {
        let number = match self.numbers.get(peer) {
            Some(number) => *number,
            None if self.numbers.len() >= MAX_HOLDERS => return None,
            None => {
                let free = self.nodes.iter().position(Option::is_none);
                let at = free.unwrap_or(self.nodes.len());
                if free.is_none() {
                    self.nodes.push(None);
                }
                let number = u16::try_from(at).ok()?;
                *self.nodes.get_mut(at)? = Some(Holder {
                    peer: *peer,
                    records: 0,
                    digest: KeyMark::default(),
                    asked: 0,
                    fresh: 0,
                    confirmed: 0,
                });
                self.numbers.insert(*peer, number);
                number
            }
        };
        let holder = self.nodes.get_mut(usize::from(number))?.as_mut()?;
        holder.records = holder.records.saturating_add(1);
        holder.digest.toggle(mark);
        Some(number)
    }

    /// One record less at a node.
    pub(super) fn remove(&mut self, number: u16, mark: KeyMark) {
        let Some(place) = self.nodes.get_mut(usize::from(number)) else { return };
        let Some(holder) = place else { return };
        holder.records = holder.records.saturating_sub(1);
        holder.digest.toggle(mark);
        if holder.records == 0 {
            self.numbers.remove(&holder.peer);
            *place = None;
        }
    }

    /// The number of a node.
    pub(super) fn number(&self, peer: &PeerId) -> Option<u16> {
        self.numbers.get(peer).copied()
    }

    /// A node got something in this round that it did not hold before.
    pub(super) fn on_new(&mut self, number: u16, round: u64) {
        if let Some(Some(holder)) = self.nodes.get_mut(usize::from(number)) {
            holder.fresh = round;
        }
    }

    /// A node that was asked in the present round holds what it is to hold, or does not.
    pub(super) fn on_asked(&mut self, number: u16, holds: bool) {
        if let Some(Some(holder)) = self.nodes.get_mut(usize::from(number)) {
            holder.confirmed = if holds { holder.asked } else { 0 };
        }
    }

    /// Whether a node was asked after this round, and held all.
    pub(super) fn is_confirmed(&self, number: u16, since: u64) -> bool {
        self.nodes.get(usize::from(number)).and_then(Option::as_ref).is_some_and(|holder| holder.confirmed > since)
    }

    /// Whether some node was not asked since it got something new.
    pub(super) fn has_unasked(&self) -> bool {
        self.nodes.iter().flatten().any(|holder| holder.fresh >= holder.asked)
    }

    /// Where the nodes are, by number.
    pub(super) fn positions(&self, of: fn(&PeerId) -> Position) -> BTreeMap<u16, Position> {
        self.numbers.iter().map(|(peer, number)| (*number, of(peer))).collect()
    }

    /// How many records a node stores, and their digest.
    pub(super) fn sum(&self, number: u16) -> Option<(u32, KeyMark)> {
        let holder = self.nodes.get(usize::from(number))?.as_ref()?;
        Some((holder.records, holder.digest))
    }

    /// Whom to ask in this round: of all, or of those that got something new since they were asked.
    pub(super) fn round(&mut self, round: u64, all: bool) -> BTreeMap<u16, PeerId> {
        let number = |peer: &Holder| self.numbers.get(&peer.peer).copied();
        // Those that got something new come first.
        let turn = |holder: &Holder| (holder.fresh < holder.asked, holder.asked);
        let holders = self.nodes.iter().flatten().filter(|holder| all || holder.fresh >= holder.asked);
        let holders = holders.filter_map(|holder| Some((turn(holder), number(holder)?)));
        let mut order: Vec<_> = holders.collect();
        order.sort_unstable();
        // What was just stored is asked for while the connections to those who stored it are there.
        order.truncate(if all { NODES_A_ROUND } else { MAX_HOLDERS });
        let mut asked = BTreeMap::new();
        for (_, number) in order {
            if let Some(Some(holder)) = self.nodes.get_mut(usize::from(number)) {
                holder.asked = round;
                asked.insert(number, holder.peer);
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn holders_are_numbered_bounded_and_asked_in_turn() {
        let mut holders = Holders::default();
        let peers: Vec<_> = (0..MAX_HOLDERS + 1).map(|_| PeerId::random()).collect();
        let numbers: Vec<_> = peers.iter().filter_map(|peer| holders.add(peer, KeyMark(1))).collect();
        assert_eq!(numbers.len(), MAX_HOLDERS);
        let mut asked = BTreeSet::new();
        for round in 1..=(MAX_HOLDERS / NODES_A_ROUND) as u64 {
            asked.extend(holders.round(round, true).into_keys());
        }
        assert_eq!(asked.len(), MAX_HOLDERS, "each once before any twice");
        let (round, first) = (1 + MAX_HOLDERS as u64, numbers[0]);
        assert!(!holders.has_unasked() && !holders.is_confirmed(first, 0));
        holders.on_new(first, round);
        assert!(holders.has_unasked() && holders.round(round + 1, false).into_keys().eq([first]));
        assert!(!holders.has_unasked() && holders.round(round + 2, false).is_empty());
        holders.on_asked(first, true);
        assert!(holders.is_confirmed(first, round) && !holders.is_confirmed(first, round + 1));
        holders.on_asked(first, false);
        assert!(!holders.is_confirmed(first, 0));
        numbers.iter().for_each(|number| holders.remove(*number, KeyMark(1)));
        assert!(holders.numbers.is_empty() && holders.round(1000, true).is_empty());
        assert_eq!(holders.add(&peers[0], KeyMark(1)), Some(0));
    }
}
