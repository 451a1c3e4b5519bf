//! The least of what was measured lately.

use std::time::{Duration, Instant};

/// How long a measurement counts at least; it is forgotten after twice as long.
const PERIOD: Duration = Duration::from_secs(10);

/// The least of the durations that were measured within the last 10 to 20 seconds. As BBR estimates a path's round trip
/// (N. Cardwell et al., BBR: Congestion-Based Congestion Control, 2016): what waited in a queue took longer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Least {
    since: Option<Instant>,
    now: Option<Duration>,
    before: Option<Duration>,
}

impl Least {
    /// One more.
    pub(crate) fn add(&mut self, measured: Duration, now: Instant) {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PERIOD) {
            (self.before, self.now, self.since) = (self.now, None, Some(now));
        }
        self.now = Some(self.now.map_or(measured, |least| least.min(measured)));
    }

    /// The least; zero if nothing was measured.
    pub(crate) fn get(&self) -> Duration {
        self.before.into_iter().chain(self.now).min().unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn the_least_counts_for_a_while_and_is_forgotten() {
        let (mut least, begin, ms) = (Least::default(), Instant::now(), Duration::from_millis);
        assert_eq!(least.get(), Duration::ZERO);
        for (at, measured, expected) in [
            (0, 30, 30),
            (1, 20, 20),
            (9, 50, 20),
            (11, 60, 20),
            (19, 70, 20),
            (22, 70, 60),
            (33, 80, 70),
            (44, 90, 80),
        ] {
            least.add(ms(measured), begin + Duration::from_secs(at));
            assert_eq!(least.get(), ms(expected), "after {at} s");
        }
    }
}
