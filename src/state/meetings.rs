//! Meetings of a node with its own identity.
//!
//! A node that dials an address and is answered with its own key has found itself, by a detour, or a twin. Only in the
//! first case does the same thing happen at its own door: what has no counterpart there is a meeting with a twin. The key
//! was proved in the handshake, so nobody else can feign one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use swarmdex_protocols::Multiaddr;

/// How far apart the two sides of one connection may tell of it.
const PATIENCE: Duration = Duration::from_secs(3);
/// How far apart they are if one side saw the connection fail before the other end had proved a key: both are events of this
/// process. Such a failure says little, and a twin that knocks causes it as well: it must not outweigh a meeting for long.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Meetings that wait for their counterpart; beyond that the oldest is forgotten.
const MAX_WAITING: usize = 16;

/// Meetings of the last moments.
#[derive(Debug, Default)]
pub(crate) struct Meetings {
    /// This node dialled and was answered with its own key, at these addresses.
    dialled: VecDeque<(Instant, Multiaddr)>,
    /// Somebody with this node's key dialled it, from these addresses.
    answered: VecDeque<(Instant, Multiaddr)>,
    /// A connection from outside failed.
    failed: Option<Instant>,
}

impl Meetings {
    /// Whoever answered at `address` has this node's key.
    pub(crate) fn on_dialled(&mut self, address: Multiaddr, now: Instant) {
        let failed = self.failed.take().is_some_and(|at| now.saturating_duration_since(at) <= AT_ONCE);
        if self.answered.pop_front().is_none() && !failed {
            push(&mut self.dialled, address, now);
        }
    }

    /// Whoever connected from `address` has this node's key.
    pub(crate) fn on_answered(&mut self, address: Multiaddr, now: Instant) {
        if self.dialled.pop_front().is_none() {
            push(&mut self.answered, address, now);
        }
    }

    /// A connection from outside failed before anybody proved a key: it may have been this node's own.
    pub(crate) fn on_failed(&mut self, now: Instant) {
        match self.dialled.back() {
            Some((at, _)) if now.saturating_duration_since(*at) <= AT_ONCE => drop(self.dialled.pop_back()),
            _ => self.failed = Some(now),
        }
    }

    /// The address of a twin: of a meeting that has no counterpart. Call again until there is none.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Multiaddr> {
        let over = |at: &Instant| now.saturating_duration_since(*at) > PATIENCE;
        for waiting in [&mut self.dialled, &mut self.answered] {
            if waiting.front().is_some_and(|(at, _)| over(at)) {
                return waiting.pop_front().map(|(_, address)| address);
            }
        }
        None
    }
}

fn push(waiting: &mut VecDeque<(Instant, Multiaddr)>, address: Multiaddr, now: Instant) {
    if waiting.len() >= MAX_WAITING {
        waiting.pop_front();
    }
    waiting.push_back((now, address));
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_node_that_meets_itself_has_no_twin() {
        let (mut meetings, now) = (Meetings::default(), Instant::now());
        let later = now + PATIENCE * 2;
        meetings.on_dialled(address(1), now);
        meetings.on_answered(address(2), now);
        assert_eq!(meetings.handle_timeout(later), None);
        meetings.on_answered(address(2), now);
        meetings.on_dialled(address(1), now);
        assert_eq!(meetings.handle_timeout(later), None);
        // The connection broke off while its other end was not yet through.
        meetings.on_dialled(address(1), now);
        meetings.on_failed(now);
        assert_eq!(meetings.handle_timeout(later), None);
        meetings.on_failed(now);
        meetings.on_dialled(address(1), now);
        assert_eq!(meetings.handle_timeout(later), None);
    }

    #[test]
    fn connections_that_fail_now_and_then_hide_no_twin() {
        let (mut meetings, now) = (Meetings::default(), Instant::now());
        meetings.on_failed(now);
        meetings.on_dialled(address(1), now + Duration::from_secs(1));
        meetings.on_failed(now + Duration::from_secs(2));
        assert_eq!(meetings.handle_timeout(now + Duration::from_secs(1) + PATIENCE * 2), Some(address(1)));
    }

    #[test]
    fn both_sides_of_a_meeting_notice_it() {
        let now = Instant::now();
        let (mut dials, mut answers) = (Meetings::default(), Meetings::default());
        dials.on_dialled(address(1), now);
        answers.on_answered(address(2), now);
        assert_eq!((dials.handle_timeout(now + PATIENCE), answers.handle_timeout(now)), (None, None));
        let later = now + PATIENCE * 2;
        assert_eq!(dials.handle_timeout(later), Some(address(1)));
        assert_eq!(answers.handle_timeout(later), Some(address(2)));
        assert_eq!(dials.handle_timeout(later), None);
    }

    #[test]
    fn of_two_twins_that_knock_at_each_other_both_notice_whoever_knocks_more_often() {
        let now = Instant::now();
        for (dials, answers) in [(4, 1), (1, 4)] {
            let mut meetings = Meetings::default();
            (0..dials).for_each(|_| meetings.on_dialled(address(1), now));
            (0..answers).for_each(|_| meetings.on_answered(address(2), now));
            let found = std::iter::from_fn(|| meetings.handle_timeout(now + PATIENCE * 2)).count();
            assert_eq!(found, 3);
        }
    }

    #[test]
    fn meetings_are_bounded() {
        let (mut meetings, now) = (Meetings::default(), Instant::now());
        (0..1000).for_each(|port| meetings.on_answered(address(port + 1), now));
        let found = std::iter::from_fn(|| meetings.handle_timeout(now + PATIENCE * 2)).count();
        assert_eq!(found, MAX_WAITING);
    }
}
