//! Which questions are asked of the DHT together: all that came while it was busy with those before them.
//!
//! A look at the DHT costs about the same for one name and for a thousand. A master that has just started is announced many
//! names by many peers at once, and each announce by itself kept every node of the network busy with questions.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use swarmdex_protocols::{Multiaddr, PeerId};

use super::publish::REPLICATION;

/// Looks at the DHT side by side.
pub(crate) const LOOKS: usize = 4;
/// Names in one look, unless one question alone has more.
pub(crate) const NAMES_IN_LOOK: usize = 4096;

/// Questions that wait, each about some names. How many there may be is for those to say who let them in.
#[derive(Debug)]
pub(crate) struct Gathering<Q> {
    waiting: VecDeque<(usize, Q)>,
    looks: usize,
}

impl<Q> Default for Gathering<Q> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), looks: 0 }
    }
}

impl<Q> Gathering<Q> {
    /// Takes in a question about so many names.
    pub(crate) fn push(&mut self, names: usize, question: Q) {
        self.waiting.push_back((names, question));
    }

    /// The questions of the next look, which begins; [`Gathering::end`] has to follow. `None` if none waits, or others are
    /// under way.
    pub(crate) fn begin(&mut self) -> Option<Vec<Q>> {
        if self.looks >= LOOKS {
            return None;
        }
        let (first, question) = self.waiting.pop_front()?;
        let (mut names, mut questions) = (first, vec![question]);
        while let Some((more, question)) = self.waiting.pop_front_if(|(more, _)| names + *more <= NAMES_IN_LOOK) {
            names += more;
            questions.push(question);
        }
        self.looks += 1;
        Some(questions)
    }

    /// A look is over.
    pub(crate) fn end(&mut self) {
        self.looks = self.looks.saturating_sub(1);
    }
}

/// How long what is known of nodes holds good.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Silent nodes that are kept in mind.
const MAX_SILENT: usize = 256;

/// Which nodes there are, as looks a moment ago found them.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    silent: BTreeMap<PeerId, Instant>,
    /// All of a small network, and when they were found.
    all: Option<(Instant, BTreeMap<PeerId, Vec<Multiaddr>>)>,
}

impl Neighbours {
    /// Whether a node has left a question without an answer a moment ago.
    pub(crate) fn is_silent(&self, node: &PeerId, now: Instant) -> bool {
        self.silent.get(node).is_some_and(|at| now.saturating_duration_since(*at) < KNOWN_FOR)
    }

    /// A node left a question without an answer.
    pub(crate) fn on_silent(&mut self, node: PeerId, now: Instant) {
        if self.silent.len() >= MAX_SILENT {
            self.silent.retain(|_, at| now.saturating_duration_since(*at) < KNOWN_FOR);
        }
        if self.silent.len() < MAX_SILENT {
            self.silent.insert(node, now);
        }
    }

    /// The whole key space was looked through, or a part of it, and these nodes were named.
    pub(crate) fn on_swept(&mut self, nodes: &BTreeMap<PeerId, Vec<Multiaddr>>, now: Instant) {
        self.all = (nodes.len() < REPLICATION).then(|| (now, nodes.clone()));
    }

    /// All nodes, with where they listen, if they are few and were looked for a moment ago.
    pub(crate) fn all(&self, now: Instant) -> Option<BTreeMap<PeerId, Vec<Multiaddr>>> {
        let (_, nodes) = self.all.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) < KNOWN_FOR)?;
        Some(nodes.clone())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn silent_nodes_are_asked_again_after_a_while_and_bounded() {
        let (mut neighbours, now) = (Neighbours::default(), Instant::now());
        let nodes: Vec<_> = (0..MAX_SILENT + 10).map(|_| PeerId::random()).collect();
        nodes.iter().for_each(|node| neighbours.on_silent(*node, now));
        assert_eq!(neighbours.silent.len(), MAX_SILENT);
        assert!(neighbours.is_silent(&nodes[0], now) && !neighbours.is_silent(&nodes[MAX_SILENT], now));
        let later = now + KNOWN_FOR;
        assert!(!neighbours.is_silent(&nodes[0], later));
        // What is over makes room.
        neighbours.on_silent(nodes[MAX_SILENT], later);
        assert_eq!(neighbours.silent.len(), 1);
    }

    #[test]
    fn a_small_network_is_known_for_a_while_and_a_large_one_is_not() {
        let (mut neighbours, now) = (Neighbours::default(), Instant::now());
        let nodes = |count: usize| (0..count).map(|_| (PeerId::random(), Vec::new())).collect();
        assert_eq!(neighbours.all(now), None);
        neighbours.on_swept(&nodes(REPLICATION - 1), now);
        assert_eq!(neighbours.all(now).unwrap().len(), REPLICATION - 1);
        assert_eq!(neighbours.all(now + KNOWN_FOR), None);
        neighbours.on_swept(&nodes(REPLICATION), now);
        assert_eq!(neighbours.all(now), None);
    }

    #[test]
    fn what_comes_while_others_are_looked_up_is_looked_up_together() {
        let mut gathering = Gathering::default();
        let mut begun = Vec::new();
        for question in 0..50 {
            gathering.push(20, question);
            begun.extend(gathering.begin());
        }
        // The first are not held up.
        assert_eq!(begun, (0..LOOKS).map(|question| vec![question]).collect::<Vec<_>>());
        gathering.end();
        assert_eq!(gathering.begin().unwrap(), (LOOKS..50).collect::<Vec<_>>());
        (0..LOOKS).for_each(|_| gathering.end());
        assert_eq!(gathering.begin(), None);
    }

    #[test]
    fn looks_and_the_names_in_one_are_bounded() {
        let mut gathering = Gathering::default();
        for question in 0..100 {
            gathering.push(1000, question);
        }
        let looks: Vec<_> = std::iter::from_fn(|| gathering.begin()).collect();
        assert_eq!(looks.len(), LOOKS);
        assert!(looks.iter().all(|look| look.len() == NAMES_IN_LOOK / 1000));
        // In the order in which they came.
        assert_eq!(looks.concat(), (0..LOOKS * 4).collect::<Vec<_>>());
        // One that is larger by itself is not held back for ever.
        let mut gathering = Gathering::default();
        gathering.push(NAMES_IN_LOOK + 1, 0);
        gathering.push(1, 1);
        assert_eq!([gathering.begin(), gathering.begin(), gathering.begin()], [Some(vec![0]), Some(vec![1]), None]);
    }
}
