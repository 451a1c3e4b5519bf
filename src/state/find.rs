//! Looks one key up at the nodes closest to it, with few questions: three at a time, always the closest that are known, until
//! enough of them have said what they store.
//!
//! This is Kademlia's iterative lookup (P. Maymounkov and D. Mazières, Kademlia, 2002, with its α = 3), ended as soon as the
//! answers are enough. It is the quick way and not the sure one: who finds nothing by it asks Kademlia itself, on paths
//! that have no node in common.

use std::collections::BTreeMap;

use super::publish::{Position, REPLICATION, distance};

/// Questions under way at a time.
const PARALLEL: usize = 3;
/// Nodes that have to say what they store. With two liars among them the honest one has the latest statement.
pub(crate) const ENOUGH: usize = 3;
/// Questions in all: in a network of 100,000 nodes a lookup takes 8 in the mean (see the tests).
const MAX_ASKED: usize = 24;
/// Nodes that are kept in mind, the closest.
const MAX_KNOWN: usize = 64;

/// By way of which of the nodes that were known at first a node was heard of, one bit each.
type Ways = u32;

#[derive(Debug)]
struct Candidate<N> {
    node: N,
    state: FindState,
    ways: Ways,
    has: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum FindState {
    New,
    Asked,
    /// It has not answered for a while: another is asked in its place.
    Slow,
    Answered,
    Failed,
}

/// One lookup. `N` identifies a node.
#[derive(Debug)]
pub(crate) struct Find<N> {
    target: Position,
    /// By distance.
    known: BTreeMap<Position, Candidate<N>>,
    asked: usize,
    /// How many nodes had something.
    had: usize,
}

impl<N: Copy + Ord> Find<N> {
    /// For a key, from the nodes that are known, each with its place.
    pub(crate) fn new(target: Position, known: impl IntoIterator<Item = (Position, N)>) -> Self {
        let mut find = Self { target, known: BTreeMap::new(), asked: 0, had: 0 };
        for (number, node) in known.into_iter().take(Ways::BITS as usize).enumerate() {
            find.learn([node], 1 << number);
        }
        find
    }

    fn learn(&mut self, nodes: impl IntoIterator<Item = (Position, N)>, ways: Ways) {
        for (place, node) in nodes {
            let candidate = || Candidate { node, state: FindState::New, ways: 0, has: false };
            self.known.entry(distance(&place, &self.target)).or_insert_with(candidate).ways |= ways;
        }
        while self.known.len() > MAX_KNOWN {
            self.known.pop_last();
        }
    }

    /// The next node to ask; `None` while enough are being asked, or at the end.
    pub(crate) fn next_node(&mut self) -> Option<N> {
        let under_way = self.known.values().filter(|candidate| candidate.state == FindState::Asked).count();
        // Those under way may be all that is missing.
        if under_way >= PARALLEL.min(ENOUGH.saturating_sub(self.had).max(1))
            || self.has_enough()
            || self.asked >= MAX_ASKED
        {
            return None;
        }
        let ways = self.ways();
        let is_new = |candidate: &&mut Candidate<N>| candidate.state == FindState::New;
        let next = if self.had >= ENOUGH {
            // What all those say who were heard of by way of one node, somebody else has to confirm.
            self.known.values_mut().filter(is_new).find(|candidate| candidate.ways & !ways != 0)?
        } else {
            let closest = self.known.values_mut().filter(|candidate| candidate.state != FindState::Failed);
            closest.take(REPLICATION).find(is_new)?
        };
        next.state = FindState::Asked;
        self.asked += 1;
        Some(next.node)
    }

    /// A node answered: whether it has something under the key, and whom it knows that is closer.
    pub(crate) fn on_answer(&mut self, node: N, has: bool, closer: impl IntoIterator<Item = (Position, N)>) {
        let Some(candidate) = self.asked_mut(node) else { return };
        (candidate.state, candidate.has) = (FindState::Answered, has);
        let ways = candidate.ways;
        self.had += usize::from(has);
        self.learn(closer.into_iter().take(REPLICATION), ways);
    }

    /// A node cannot be reached, or does not know the question.
    pub(crate) fn on_failed(&mut self, node: N) {
        if let Some(candidate) = self.asked_mut(node) {
            candidate.state = FindState::Failed;
        }
    }

    /// Nobody has answered for a while: others are asked as well.
    pub(crate) fn on_slow(&mut self) {
        for candidate in self.known.values_mut().filter(|candidate| candidate.state == FindState::Asked) {
            candidate.state = FindState::Slow;
        }
    }

    fn asked_mut(&mut self, node: N) -> Option<&mut Candidate<N>> {
        let is_it = |candidate: &&mut Candidate<N>| candidate.node == node;
        self.known
            .values_mut()
            .filter(|candidate| matches!(candidate.state, FindState::Asked | FindState::Slow))
            .find(is_it)
    }

    /// Whether enough nodes had something, and were heard of in more than one way: a liar can name as many liars as it
    /// wants.
    pub(crate) fn has_enough(&self) -> bool {
        self.had >= ENOUGH && self.ways().count_ones() > 1
    }

    /// The ways by which the nodes that had something were heard of.
    fn ways(&self) -> Ways {
        self.known.values().filter(|candidate| candidate.has).fold(0, |ways, candidate| ways | candidate.ways)
    }
}

#[cfg(test)]
mod tests;
