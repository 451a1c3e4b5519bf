//! Nodes that came, or came back: each is soon asked whether it holds what lies in its part of the key space.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

/// How long a node that came is left to find its place.
const SETTLE: Duration = Duration::from_secs(1);
/// How soon one that does not answer is tried again, doubled each time.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is tried.
const ATTEMPTS: u32 = 6;
/// The least time between two questions to one that comes again and again.
const PAUSE: Duration = Duration::from_secs(10);
/// Items that such a node gets, at most: it may have kept nothing of what it was sent.
const ITEMS_A_SECOND: u32 = 4096;
/// Nodes that are remembered: those beyond are left to the repetitions.
pub(crate) const MAX_ARRIVALS: usize = 1024;

/// Who came lately.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    nodes: BTreeMap<PeerId, Arrival>,
    due: BTreeSet<(Instant, PeerId)>,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    /// Whether it is to be asked. One that was is remembered until it may be asked anew.
    wanted: bool,
    due: Instant,
    failures: u32,
}

impl Arrivals {
    /// A node came, or came back.
    pub(crate) fn on_came(&mut self, peer: PeerId, now: Instant) {
        let earliest = match self.nodes.get(&peer) {
            Some(known) if known.wanted => return,
            Some(known) => known.due,
            None if self.nodes.len() >= MAX_ARRIVALS => return,
            None => now,
        };
        self.put(peer, Arrival { wanted: true, due: earliest.max(now + SETTLE), failures: 0 });
    }

    /// The node that was given out last did not answer, or not to all.
    pub(crate) fn on_failed(&mut self, peer: PeerId, now: Instant) {
        let Some(arrival) = self.nodes.get(&peer).copied().filter(|arrival| !arrival.wanted) else { return };
        let failures = arrival.failures + 1;
        let arrival = if failures < ATTEMPTS {
            Arrival { wanted: true, due: now + RETRY * (1 << arrival.failures), failures }
        } else {
            Arrival { failures, ..arrival }
        };
        self.put(peer, arrival);
    }

    /// The node that was given out last was sent so many items.
    pub(crate) fn on_sent(&mut self, peer: PeerId, items: usize, now: Instant) {
        let Some(arrival) = self.nodes.get(&peer).copied() else { return };
        let pause = Duration::from_secs(1) * u32::try_from(items).unwrap_or(u32::MAX) / ITEMS_A_SECOND;
        self.put(peer, Arrival { due: arrival.due.max(now + pause), ..arrival });
    }

    fn put(&mut self, peer: PeerId, arrival: Arrival) {
        if let Some(before) = self.nodes.insert(peer, arrival) {
            self.due.remove(&(before.due, peer));
        }
        self.due.insert((arrival.due, peer));
    }

    /// The next node to ask.
    pub(crate) fn next(&mut self, now: Instant) -> Option<PeerId> {
        while let Some((due, peer)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            match self.nodes.get(&peer).copied().filter(|arrival| arrival.wanted) {
                Some(arrival) => {
                    self.put(peer, Arrival { wanted: false, due: now + PAUSE, ..arrival });
                    return Some(peer);
                }
                None => {
                    self.due.remove(&(due, peer));
                    self.nodes.remove(&peer);
                }
            }
        }
        None
    }

    /// When [`Arrivals::next`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    /// The nodes given out until the end, with the seconds after the start.
    fn given(arrivals: &mut Arrivals, begin: Instant, fails: bool) -> Vec<(PeerId, u64)> {
        let mut given = Vec::new();
        while let Some(at) = arrivals.poll_timeout() {
            if let Some(peer) = arrivals.next(at) {
                given.push((peer, at.duration_since(begin).as_secs()));
                if fails {
                    arrivals.on_failed(peer, at);
                }
            }
        }
        given
    }

    #[test]
    fn who_came_is_asked_once_and_soon() {
        let (mut arrivals, now, peer) = (Arrivals::default(), Instant::now(), PeerId::random());
        (0..10).for_each(|_| arrivals.on_came(peer, now));
        assert_eq!(arrivals.next(now), None, "it finds its place first");
        assert_eq!(given(&mut arrivals, now, false), [(peer, 1)]);
        assert!(arrivals.nodes.is_empty() && arrivals.due.is_empty());
    }

    #[test]
    fn one_that_does_not_answer_is_tried_again_a_few_times() {
        let (mut arrivals, now, peer) = (Arrivals::default(), Instant::now(), PeerId::random());
        arrivals.on_came(peer, now);
        assert_eq!(given(&mut arrivals, now, true), [1, 2, 4, 8, 16, 32].map(|second| (peer, second)));
        assert!(arrivals.nodes.is_empty());
    }

    #[test]
    fn one_that_comes_again_and_again_is_asked_at_a_bounded_rate() {
        let (mut arrivals, begin, peer) = (Arrivals::default(), Instant::now(), PeerId::random());
        let moments = (0..1000u32).map(|tenth| begin + Duration::from_millis(100) * tenth);
        let asked = moments.filter(|now| {
            arrivals.on_came(peer, *now);
            arrivals.next(*now).is_some()
        });
        assert_eq!(asked.count(), 10, "in a hundred seconds");
    }

    #[test]
    fn one_that_keeps_nothing_gets_a_bounded_number_of_items_a_second() {
        let (mut arrivals, begin, peer) = (Arrivals::default(), Instant::now(), PeerId::random());
        let (mut asked, items) = (0, 100 * ITEMS_A_SECOND as usize);
        for second in 0..1000 {
            let now = begin + Duration::from_secs(second);
            arrivals.on_came(peer, now);
            if arrivals.next(now).is_some() {
                asked += 1;
                arrivals.on_sent(peer, items, now);
            }
        }
        assert_eq!(asked, 10, "in a thousand seconds");
    }

    #[test]
    fn a_flood_of_nodes_is_bounded() {
        let (mut arrivals, now) = (Arrivals::default(), Instant::now());
        (0..10 * MAX_ARRIVALS).for_each(|_| arrivals.on_came(PeerId::random(), now));
        assert_eq!((arrivals.nodes.len(), arrivals.due.len()), (MAX_ARRIVALS, MAX_ARRIVALS));
        assert_eq!(given(&mut arrivals, now, false).len(), MAX_ARRIVALS);
    }
}
