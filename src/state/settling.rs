//! When a node is so new among its neighbours that it asks them what lies in its part of the key space.

use std::time::{Duration, Instant};

/// Nodes that have to have come since it last asked, at least.
const FEW: u64 = 8;
/// Nodes that have to have come, as a part of all that it knows: one in this many. The larger number counts.
const PART_OF_KNOWN: u64 = 4;
/// How long it is left to find its place.
const SETTLE: Duration = Duration::from_secs(2);
/// How long between two times that it asks.
const PAUSE: Duration = Duration::from_secs(10);
/// After this many ticks of its clock that did not come it has slept, and the others have counted it as gone.
const MISSED_TICKS: u32 = 3;

/// A node that may have come, or come back, a moment ago.
#[derive(Debug)]
pub(crate) struct Settling {
    tick: Duration,
    ticked: Instant,
    came: u64,
    slept: bool,
    /// When somebody last came, and when it last asked.
    last: Option<Instant>,
    asked: Option<Instant>,
}

impl Settling {
    /// A node that looks at its clock every `tick`.
    pub(crate) fn new(tick: Duration, now: Instant) -> Self {
        Self { tick, ticked: now, came: 0, slept: false, last: None, asked: None }
    }

    /// Nodes came that this one did not know.
    pub(crate) fn on_came(&mut self, nodes: u64, now: Instant) {
        self.came = self.came.saturating_add(nodes);
        self.last = Some(now);
    }

    /// Whether it is to ask now. It knows so many nodes.
    pub(crate) fn is_due(&mut self, known: u64, now: Instant) -> bool {
        if now.saturating_duration_since(self.ticked) >= self.tick * MISSED_TICKS {
            self.slept = true;
            self.last = Some(now);
        }
        self.ticked = now;
        let passed =
            |since: Option<Instant>, period| since.is_none_or(|at| now.saturating_duration_since(at) >= period);
        let new = self.slept || self.came >= FEW.max(known / PART_OF_KNOWN);
        if !new || !passed(self.last, SETTLE) && !self.waited_long(now) || !passed(self.asked, PAUSE) {
            return false;
        }
        (self.came, self.slept, self.asked) = (0, false, Some(now));
        true
    }

    /// Whether nodes go on coming for long: then it is not waited for the last of them.
    fn waited_long(&self, now: Instant) -> bool {
        self.asked.is_some_and(|at| now.saturating_duration_since(at) >= 2 * PAUSE)
    }

    /// When to look again.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let tick = self.ticked + self.tick;
        let settled = self.last.map(|at| at + SETTLE).filter(|at| *at > self.ticked && self.came >= FEW);
        settled.map_or(tick, |at| at.min(tick))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(5);

    fn after(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn it_asks_once_it_has_found_its_place_and_when_many_came_since() {
        let begin = Instant::now();
        let mut settling = Settling::new(TICK, begin);
        settling.on_came(3, after(begin, 1));
        assert!(!settling.is_due(3, after(begin, 4)), "too few");
        settling.on_came(30, after(begin, 5));
        assert!(!settling.is_due(33, after(begin, 5)), "they are still coming");
        assert_eq!(settling.poll_timeout(), after(begin, 7));
        assert!(settling.is_due(33, after(begin, 7)));
        settling.on_came(30, after(begin, 8));
        assert!(!settling.is_due(63, after(begin, 12)), "not again so soon");
        assert!(settling.is_due(63, after(begin, 17)));
        // In a large network a few newcomers are no reason.
        settling.on_came(20, after(begin, 20));
        assert!((22..60).step_by(5).all(|seconds| !settling.is_due(100, after(begin, seconds))));
    }

    #[test]
    fn who_slept_asks_again_and_who_is_awake_does_not() {
        let begin = Instant::now();
        let mut settling = Settling::new(TICK, begin);
        for seconds in (5..100).step_by(5) {
            assert_eq!(settling.poll_timeout(), after(begin, seconds));
            assert!(!settling.is_due(50, after(begin, seconds)));
        }
        assert!(!settling.is_due(50, after(begin, 200)), "a moment to find the others");
        assert!(settling.is_due(50, after(begin, 203)));
        assert!(!settling.is_due(50, after(begin, 208)));
    }
}
