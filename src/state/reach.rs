//! Whether members can be reached where they say that they listen: whom to try when, and what came of it.
//!
//! A connection that a peer made says nothing of that: behind a router that translates addresses, or a firewall, it makes
//! connections and takes none in. So the master makes one of its own, to the addresses that the others are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use swarmdex_protocols::{Multiaddr, PeerId};

/// How long after a join a member is tried first: its listeners are there by then.
const FIRST: Duration = Duration::from_secs(1);
/// How soon a member is tried again that was reached.
const AGAIN_REACHED: Duration = Duration::from_secs(7200);
/// How soon one is tried again that was not reached: routers are set up, and laptops carried home.
const AGAIN_UNREACHED: Duration = Duration::from_secs(600);
/// How soon one is tried again for which no attempt could be made: that is no news.
const AGAIN_UNSURE: Duration = Duration::from_secs(30);
/// Attempts at a time.
const AT_A_TIME: usize = 8;
/// How far apart they begin: each is a handshake of some milliseconds, and ten thousand may join at once.
const APART: Duration = Duration::from_millis(100);
/// An attempt that nothing was heard of for so long is over.
const LOST: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Known {
    addresses: Vec<Multiaddr>,
    reachable: Option<bool>,
    /// When it is tried next, or when the attempt under way is given up.
    due: Instant,
    under_way: bool,
}

/// What is known of each member: as many as there may be members.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    known: BTreeMap<PeerId, Known>,
    due: BTreeSet<(Instant, PeerId)>,
    under_way: usize,
    last: Option<Instant>,
}

impl Reach {
    /// A member joined, or joined anew, and listens there. What is known of it if nothing has changed.
    pub(crate) fn on_joined(&mut self, peer: PeerId, addresses: &[Multiaddr], now: Instant) -> Option<bool> {
        if let Some(known) = self.known.get(&peer)
            && known.addresses == addresses
        {
            return known.reachable;
        }
        self.on_left(&peer);
        let due = now + FIRST;
        self.known.insert(peer, Known { addresses: addresses.to_vec(), reachable: None, due, under_way: false });
        self.due.insert((due, peer));
        None
    }

    /// It is no member any more.
    pub(crate) fn on_left(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.remove(peer) {
            self.due.remove(&(known.due, *peer));
            self.under_way -= usize::from(known.under_way);
        }
    }

    /// Whom to try now, and where; call [`Reach::on_tried`] with what comes of it.
    pub(crate) fn next(&mut self, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        let (due, peer) = *self.due.first()?;
        if due > now || self.poll_timeout().is_none_or(|at| at > now) {
            return None;
        }
        let lost = self.known.get(&peer)?.under_way;
        self.put_off(&peer, now + if lost { AGAIN_UNSURE } else { LOST }, !lost);
        if lost {
            return self.next(now);
        }
        self.last = Some(now);
        Some((peer, self.known.get(&peer)?.addresses.clone()))
    }

    /// An attempt to reach a member ended: it was reached or not, or no attempt could be made. True if that is news.
    pub(crate) fn on_tried(&mut self, peer: &PeerId, reached: Option<bool>, now: Instant) -> bool {
        let Some(known) = self.known.get_mut(peer).filter(|known| known.under_way) else { return false };
        let news = reached.is_some() && known.reachable != reached;
        known.reachable = reached.or(known.reachable);
        let again = match reached {
            Some(true) => AGAIN_REACHED,
            Some(false) => AGAIN_UNREACHED,
            None => AGAIN_UNSURE,
        };
        self.put_off(peer, now + again, false);
        news
    }

    fn put_off(&mut self, peer: &PeerId, due: Instant, under_way: bool) {
        let Some(known) = self.known.get_mut(peer) else { return };
        self.due.remove(&(known.due, *peer));
        self.under_way = self.under_way + usize::from(under_way) - usize::from(known.under_way);
        (known.due, known.under_way) = (due, under_way);
        self.due.insert((due, *peer));
    }

    /// Whether a member can be reached, if that is known.
    pub(crate) fn of(&self, peer: &PeerId) -> Option<bool> {
        self.known.get(peer)?.reachable
    }

    /// When to call [`Reach::next`].
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (due, _) = *self.due.first()?;
        let apart = self.last.map(|last| last + APART);
        // While enough are under way the next to be due are among those that may be lost.
        let room = if self.under_way < AT_A_TIME { None } else { self.first_lost() };
        Some([Some(due), apart, room].into_iter().flatten().max().unwrap_or(due))
    }

    fn first_lost(&self) -> Option<Instant> {
        self.known.values().filter(|known| known.under_way).map(|known| known.due).min()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    fn at(port: u16) -> Vec<Multiaddr> {
        vec![format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()]
    }

    #[test]
    fn a_member_is_tried_when_it_comes_and_when_it_moves() {
        let (mut reach, peer, now) = (Reach::default(), PeerId::random(), Instant::now());
        assert_eq!(reach.on_joined(peer, &at(1), now), None);
        assert_eq!(reach.next(now), None);
        let now = now + FIRST;
        assert_eq!(reach.next(now), Some((peer, at(1))));
        assert_eq!((reach.next(now), reach.of(&peer)), (None, None));
        assert!(reach.on_tried(&peer, Some(false), now));
        assert_eq!(reach.on_joined(peer, &at(1), now), Some(false), "it is told again");
        assert_eq!(reach.next(now + AGAIN_UNREACHED), Some((peer, at(1))));
        assert!(!reach.on_tried(&peer, Some(false), now), "that is no news");
        assert_eq!(reach.on_joined(peer, &at(2), now), None);
        let now = now + AGAIN_UNREACHED * 2;
        assert_eq!(reach.next(now), Some((peer, at(2))));
        assert!(!reach.on_tried(&peer, None, now), "this node was busy");
        assert_eq!(reach.next(now + AGAIN_UNSURE), Some((peer, at(2))));
        assert!(reach.on_tried(&peer, Some(true), now + AGAIN_UNSURE));
        reach.on_left(&peer);
        assert_eq!((reach.poll_timeout(), reach.known.len(), reach.under_way), (None, 0, 0));
    }

    #[test]
    fn many_that_come_at_once_are_tried_one_after_the_other_and_few_at_a_time() {
        let (mut reach, begin) = (Reach::default(), Instant::now());
        (0..1000).for_each(|_| assert!(reach.on_joined(PeerId::random(), &at(1), begin).is_none()));
        let (mut under_way, mut tried) = (Vec::new(), 0);
        for step in 0..2000 {
            let now = begin + FIRST + APART / 2 * step;
            while let Some((peer, _)) = reach.next(now) {
                under_way.push(peer);
                tried += 1;
            }
            assert!(under_way.len() <= AT_A_TIME && reach.under_way == under_way.len());
            if step % 2 == 0
                && let Some(peer) = under_way.pop()
            {
                reach.on_tried(&peer, Some(true), now);
            }
            assert!(tried <= 1 + step / 2);
        }
        assert!(tried >= 990, "{tried}");
    }

    #[test]
    fn attempts_that_nobody_hears_of_hold_nobody_up_for_ever() {
        let (mut reach, begin) = (Reach::default(), Instant::now());
        (0..2 * AT_A_TIME).for_each(|_| assert!(reach.on_joined(PeerId::random(), &at(1), begin).is_none()));
        let mut tried = BTreeSet::new();
        for step in 0..1000 {
            tried.extend(reach.next(begin + FIRST + APART * step).map(|(peer, _)| peer));
        }
        assert_eq!(tried.len(), 2 * AT_A_TIME);
        assert!(reach.under_way <= AT_A_TIME);
    }
}
