//! Uploads within a crowd, spread over time.
//!
//! An upload is over for this node as soon as the buffers of the connection have taken its end, which may be long before
//! its link has carried it. Whoever begins the next one at once soon has so many under way that each takes long, and a
//! crowd waits for whole chunks. So a slot stays taken for as long as uploads usually take. Measured with 16 downloaders
//! behind links of 100 Mbit/s: 1.26 times the ideal time in the median of three runs, 1.29 before.

use std::time::{Duration, Instant};

/// Chunks under way at a time within a crowd: with fewer the link idles when some receivers are slow, with more each of
/// them takes longer (measured from 1 to 16).
const SLOTS: usize = 8;
/// Uploads over which the usual time is averaged.
const AVERAGE: u32 = 16;

/// Slots for uploads within a crowd.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// How long an upload takes.
    usual: Duration,
    /// Until when the slots of uploads stay taken that were over sooner; at most as many as there are slots.
    taken: Vec<Instant>,
}

impl Spread {
    /// Whether no other upload may begin while `moving` of them are under way.
    pub(super) fn is_full(&self, moving: usize, now: Instant) -> bool {
        moving + self.taken.iter().filter(|until| **until > now).count() >= SLOTS
    }

    /// An upload is over that began then.
    pub(super) fn finish(&mut self, since: Instant, now: Instant) {
        let took = now.saturating_duration_since(since);
        self.usual = (self.usual * (AVERAGE - 1) + took) / AVERAGE;
        self.taken.retain(|until| *until > now);
        if took < self.usual && self.taken.len() < SLOTS {
            self.taken.push(since + self.usual);
        }
    }

    /// When slots become free although nothing happens.
    pub(super) fn timeouts(&self) -> impl Iterator<Item = Instant> + '_ {
        self.taken.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_are_few() {
        let (spread, now) = (Spread::default(), Instant::now());
        assert!(!spread.is_full(SLOTS - 1, now));
        assert!(spread.is_full(SLOTS, now));
    }

    #[test]
    fn an_upload_that_is_over_soon_keeps_its_slot_for_the_usual_time() {
        let mut spread = Spread::default();
        let begin = Instant::now();
        let usual = Duration::from_millis(200);
        for _ in 0..200 {
            spread.finish(begin, begin + usual);
        }
        assert!(!spread.is_full(SLOTS - 1, begin + usual), "what takes the usual time leaves its slot at once");
        let (now, soon) = (begin + Duration::from_secs(1), begin + Duration::from_millis(1001));
        spread.finish(now, soon);
        assert!(spread.is_full(SLOTS - 1, soon));
        assert!(!spread.is_full(SLOTS - 1, now + usual));
        let free = spread.timeouts().max().unwrap();
        assert!(free > soon && free <= now + usual, "somebody looks again when the slot is free");
    }

    #[test]
    fn slots_that_stay_taken_are_bounded() {
        let mut spread = Spread::default();
        let begin = Instant::now();
        spread.finish(begin, begin + Duration::from_secs(100));
        for _ in 0..1000 {
            spread.finish(begin, begin);
        }
        assert!(spread.taken.len() <= SLOTS);
    }
}
