//! The nodes closest to a place, by few questions: three at a time, always the closest that are known, until the closest have
//! answered and what they say agrees.
//!
//! Kademlia's query is over when all twenty have answered, which takes some thirty messages, and connections to nodes
//! on the way there. Whoever stores records talks to the twenty anyway, right afterwards. So here the closest few are
//! asked, each of which knows nearly all of the others. A node of which one of them alone speaks is asked itself. As
//! soon as one that is asked turns out to be gone, all are asked.

use std::collections::BTreeMap;

use super::publish::{Position, REPLICATION, distance};

/// Questions under way at a time: Kademlia's α.
const PARALLEL: usize = 3;
/// Of the closest nodes so many have to answer. Each knows all around it but for those who have just come: 4 miss 0.01 of the 20
/// in the mean in networks of 25 to 100,000 nodes (see the tests).
const ENOUGH: usize = 4;
/// Questions in all: enough for twenty that live and as many that do not.
const MAX_ASKED: usize = 48;
/// Nodes that are kept in mind, the closest.
const MAX_KNOWN: usize = 96;
/// One that so many named is believed to be there without a question.
const BELIEVED: u8 = 2;

#[derive(Debug)]
struct WalkCandidate<N> {
    node: N,
    state: WalkState,
    /// How many named it; the asker's own routing table counts as two.
    named: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WalkState {
    New,
    Asked,
    /// It has not answered for a while: another is asked in its place.
    Slow,
    Answered,
    /// It is there, and does not know the question.
    Mute,
    Failed,
}

/// One search. `N` identifies a node.
#[derive(Debug)]
pub(crate) struct Closest<N> {
    target: Position,
    /// By distance.
    known: BTreeMap<Position, WalkCandidate<N>>,
    asked: usize,
    answered: usize,
    failed: usize,
}

impl<N: Copy + Ord> Closest<N> {
    /// A search for the nodes closest to a place, from the nodes that are known, each with its own place.
    pub(crate) fn new(target: Position, known: impl IntoIterator<Item = (Position, N)>) -> Self {
        let mut closest = Self { target, known: BTreeMap::new(), asked: 0, answered: 0, failed: 0 };
        closest.learn(known, BELIEVED);
        closest
    }

    fn learn(&mut self, nodes: impl IntoIterator<Item = (Position, N)>, weight: u8) {
        for (place, node) in nodes {
            let candidate = || WalkCandidate { node, state: WalkState::New, named: 0 };
            let candidate = self.known.entry(distance(&place, &self.target)).or_insert_with(candidate);
            candidate.named = candidate.named.saturating_add(weight);
        }
        while self.known.len() > MAX_KNOWN {
            self.known.pop_last();
        }
    }

    /// The nodes that the answer would have by now: the closest that are not gone.
    fn best(&self) -> impl Iterator<Item = (&Position, &WalkCandidate<N>)> {
        self.known.iter().filter(|(_, candidate)| candidate.state != WalkState::Failed).take(REPLICATION)
    }

    /// Who is to be asked next, if anybody.
    fn wanted(&self) -> Option<Position> {
        // Those who do not answer now are no help.
        let helpful = |candidate: &WalkCandidate<N>| !matches!(candidate.state, WalkState::Slow | WalkState::Mute);
        let nearest = self.best().filter(|(_, candidate)| helpful(candidate)).take(ENOUGH);
        let is_new = |(_, candidate): &(&Position, &WalkCandidate<N>)| candidate.state == WalkState::New;
        let doubtful = |(_, candidate): &(&Position, &WalkCandidate<N>)| self.failed > 0 || candidate.named < BELIEVED;
        let next = nearest.into_iter().find(is_new).or_else(|| {
            // What those under way will say decides who else has to be asked.
            let settled = self.failed > 0 || self.answered >= ENOUGH;
            self.best().filter(|_| settled).filter(is_new).find(doubtful)
        });
        next.map(|(place, _)| *place)
    }

    /// The next node to ask; `None` while enough are being asked, or at the end.
    pub(crate) fn next_node(&mut self) -> Option<N> {
        let under_way = self.known.values().filter(|candidate| candidate.state == WalkState::Asked).count();
        if under_way >= PARALLEL || self.asked >= MAX_ASKED {
            return None;
        }
        let candidate = self.wanted().and_then(|place| self.known.get_mut(&place))?;
        candidate.state = WalkState::Asked;
        self.asked += 1;
        Some(candidate.node)
    }

    /// A node answered with nodes that it knows.
    pub(crate) fn on_answer(&mut self, node: N, closer: impl IntoIterator<Item = (Position, N)>) {
        if self.settle(node, WalkState::Answered) {
            self.answered += 1;
            self.learn(closer.into_iter().take(REPLICATION), 1);
        }
    }

    /// A node is there, and has no answer: it is of an earlier version, or too busy.
    pub(crate) fn on_mute(&mut self, node: N) {
        self.settle(node, WalkState::Mute);
    }

    /// A node cannot be reached.
    pub(crate) fn on_failed(&mut self, node: N) {
        if self.settle(node, WalkState::Failed) {
            self.failed += 1;
        }
    }

    /// Nobody has answered for a while: others are asked as well.
    pub(crate) fn on_slow(&mut self) {
        for candidate in self.known.values_mut().filter(|candidate| candidate.state == WalkState::Asked) {
            candidate.state = WalkState::Slow;
        }
    }

    /// False if the node was not asked, or has answered.
    fn settle(&mut self, node: N, state: WalkState) -> bool {
        let is_it = |candidate: &&mut WalkCandidate<N>| {
            candidate.node == node && matches!(candidate.state, WalkState::Asked | WalkState::Slow)
        };
        let candidate = self.known.values_mut().find(is_it);
        candidate.map(|candidate| candidate.state = state).is_some()
    }

    /// Whether nobody has to be waited for or asked any more.
    pub(crate) fn is_over(&self) -> bool {
        let none_left = self.asked >= MAX_ASKED || self.wanted().is_none();
        none_left && !self.best().any(|(_, candidate)| candidate.state == WalkState::Asked)
    }

    /// Whether any node knew the question. In a network of nodes of before none does.
    pub(crate) fn has_answers(&self) -> bool {
        self.answered > 0
    }

    /// Whether enough nodes answered.
    #[cfg(test)]
    fn is_sure(&self) -> bool {
        self.answered >= ENOUGH
    }

    /// The closest nodes, at most [`REPLICATION`], the closest first: that answered, or of which more than one said that they are
    /// there.
    pub(crate) fn nodes(&self) -> Vec<N> {
        let is_there = |candidate: &WalkCandidate<N>| match candidate.state {
            WalkState::Answered | WalkState::Mute => true,
            WalkState::Failed => false,
            WalkState::New | WalkState::Asked | WalkState::Slow => candidate.named >= BELIEVED,
        };
        self.known.values().filter(|candidate| is_there(candidate)).map(|found| found.node).take(REPLICATION).collect()
    }
}

#[cfg(test)]
mod tests;
