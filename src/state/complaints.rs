//! Whose complaints about wrong chunks are looked into: each costs a read of the disk, so nobody gets many of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::quota::{Allowance, Bucket};

/// Complaints of one that are heard: four a second.
const OF_ONE: Allowance = Allowance { burst: 4, interval: Duration::from_millis(250) };
/// Those whose complaints are heard within a second.
const MOST: usize = 64;

/// Those whose complaints were heard lately.
#[derive(Debug)]
pub struct Complaints<P> {
    heard: BTreeMap<P, Bucket>,
}

impl<P> Default for Complaints<P> {
    fn default() -> Self {
        Self { heard: BTreeMap::new() }
    }
}

impl<P: Ord> Complaints<P> {
    /// Whether a complaint is looked into.
    pub fn hear(&mut self, from: P, now: Instant) -> bool {
        self.heard.retain(|_, bucket| !bucket.is_full(now));
        if self.heard.len() >= MOST && !self.heard.contains_key(&from) {
            return false;
        }
        self.heard.entry(from).or_insert(Bucket::new(OF_ONE)).take(1, now).is_ok()
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
        // Four at once, and one for each quarter of a second from then on.
        assert_eq!(heard, [4 + 39, 12]);
    }

    #[test]
    fn many_that_complain_are_bounded() {
        let (mut complaints, begin) = (Complaints::default(), Instant::now());
        let heard = (0..1000).filter(|from| complaints.hear(*from, begin)).count();
        assert_eq!((heard, complaints.heard.len()), (MOST, MOST));
    }
}
