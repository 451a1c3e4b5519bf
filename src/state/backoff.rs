//! Pauses between attempts: exponential, with jitter, so that a thousand peers that lost one master do
//! not come back in step.

use std::time::Duration;

use super::random::Random;

/// First pause.
const FIRST: Duration = Duration::from_millis(500);

/// The pauses of one series of attempts.
///
/// Each pause is drawn evenly from the upper half of an interval that doubles ("equal jitter" of the
/// AWS Architecture Blog, *Exponential Backoff And Jitter*, 2015).
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    max: Duration,
    next: Duration,
    random: Random,
}

impl Backoff {
    /// Pauses of at most `max`; the seed should differ between nodes.
    pub(crate) fn new(max: Duration, seed: u64) -> Self {
        Self { max, next: FIRST.min(max), random: Random(seed) }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let interval = self.next;
        self.next = (interval * 2).min(self.max);
        let half = interval / 2;
        half + half.mul_f64(self.random.fraction())
    }

    /// An attempt succeeded: the next series begins with short pauses again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_success() {
        let max = Duration::from_secs(4);
        let mut backoff = Backoff::new(max, 7);
        for interval in [500, 1000, 2000, 4000, 4000].map(Duration::from_millis) {
            let pause = backoff.pause();
            assert!(pause >= interval / 2 && pause <= interval, "{pause:?} of {interval:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }

    #[test]
    fn a_thundering_herd_is_spread_over_the_interval() {
        let mut pauses: Vec<_> = (0..10_000).map(|seed| Backoff::new(Duration::from_secs(30), seed).pause()).collect();
        pauses.sort();
        // In each tenth of the quarter second that the first pauses are drawn from there is about a tenth.
        let tenth = FIRST / 20;
        for part in 0..10u32 {
            let (from, to) = (FIRST / 2 + tenth * part, FIRST / 2 + tenth * (part + 1));
            let count = pauses.iter().filter(|pause| (from..to).contains(*pause)).count();
            assert!((800..1200).contains(&count), "{count} of 10,000 in part {part}");
        }
    }
}
