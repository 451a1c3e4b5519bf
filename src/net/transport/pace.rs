//! How much may wait between the muxer and the network: as much as leaves in a tenth of a second.
//!
//! Whatever waits there goes before everything that comes later. On a fast link large buffers save wake-ups. On a slow
//! one that several fill, the answer to a ping would wait for seconds behind chunks, and the lease would be over before
//! it comes.

use std::time::{Duration, Instant};

/// Bytes that may wait, at most.
const MOST: usize = 256 << 10;
/// Bytes that may wait in any case.
const LEAST: usize = 16 << 10;
/// Bytes that may wait until it is known how fast they leave.
const FIRST: usize = 64 << 10;
/// How long what waits may take.
const WAITS: Duration = Duration::from_millis(100);
/// Time over which it is measured.
const MEASURE: Duration = Duration::from_millis(25);

/// How fast what is passed on leaves.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    /// Since when, without a pause, there was more than was taken, and how much was taken since.
    measured: Option<(Instant, usize)>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: FIRST, measured: None }
    }
}

impl Pace {
    /// How much may wait.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// So much was taken.
    pub(super) fn on_taken(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        let Some((since, taken)) = &mut self.measured else { return };
        *taken += bytes;
        let now = now();
        let elapsed = now.saturating_duration_since(*since);
        if elapsed >= MEASURE {
            let rate = *taken as f64 / elapsed.as_secs_f64();
            self.limit = ((rate * WAITS.as_secs_f64()) as usize).clamp(LEAST, MOST);
            self.measured = Some((now, 0));
        }
    }

    /// No more is taken for now.
    pub(super) fn on_full(&mut self, now: impl FnOnce() -> Instant) {
        self.measured.get_or_insert_with(|| (now(), 0));
    }

    /// Nothing waits any more.
    pub(super) fn on_empty(&mut self) {
        self.measured = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit after a second of a network that takes so many bytes a second, always full.
    fn limit_at(rate: usize) -> usize {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        for step in 0..1000 {
            let now = begin + Duration::from_millis(step);
            pace.on_full(|| now);
            pace.on_taken(rate / 1000, || now + Duration::from_millis(1));
        }
        pace.limit()
    }

    #[test]
    fn on_slow_links_little_waits_and_on_fast_ones_much() {
        assert_eq!(limit_at(125_000), LEAST, "1 Mbit/s");
        assert!((110_000..140_000).contains(&limit_at(1_250_000)), "10 Mbit/s: {}", limit_at(1_250_000));
        assert_eq!(limit_at(1 << 30), MOST, "10 Gbit/s");
    }

    #[test]
    fn what_never_waits_is_not_measured() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for step in 0..100 {
            pace.on_taken(100, || now + Duration::from_secs(step));
            pace.on_empty();
        }
        assert_eq!(pace.limit(), FIRST);
    }
}
