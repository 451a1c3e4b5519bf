//! Whose complaints about wrong chunks are looked into: each costs a read of the disk, so nobody gets many of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Complaints of one that are heard within a second.
const MOST_OF_ONE: u32 = 4;
const SECOND: Duration = Duration::from_secs(1);
/// Those that are heard within it.
const MOST: usize = 64;

/// Those whose complaints were heard within the last second: since when, and how many.
#[derive(Debug)]
pub struct Complaints<P> {
    heard: BTreeMap<P, (Instant, u32)>,
}

impl<P> Default for Complaints<P> {
    fn default() -> Self {
        Self { heard: BTreeMap::new() }
    }
}

impl<P: Ord> Complaints<P> {
    /// Whether a complaint is looked into.
    pub fn hear(&mut self, from: P, now: Instant) -> bool {
        self.heard.retain(|_, (since, _)| now.saturating_duration_since(*since) < SECOND);
        if self.heard.len() >= MOST && !self.heard.contains_key(&from) {
            return false;
        }
        let (_, count) = self.heard.entry(from).or_insert((now, 0));
        *count += 1;
        *count <= MOST_OF_ONE
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn one_that_complains_all_the_time_is_heard_now_and_then_and_others_beside_it() {
        let (mut complaints, begin) = (Complaints::default(), Instant::now());
        let mut heard = [0; 2];
        for at in 0..10_000 {
            let now = begin + Duration::from_millis(at);
            heard[0] += u32::from(complaints.hear(1, now));
            if at % 900 == 0 {
                heard[1] += u32::from(complaints.hear(2, now));
            }
        }
        assert_eq!(heard, [10 * MOST_OF_ONE, 12]);
    }

    #[test]
    fn many_that_complain_are_bounded() {
        let (mut complaints, begin) = (Complaints::default(), Instant::now());
        let heard = (0..1000).filter(|from| complaints.hear(*from, begin)).count();
        assert_eq!((heard, complaints.heard.len()), (MOST, MOST));
    }
}
