//! Whose complaints about wrong chunks are looked into: each costs a read of the disk, so nobody gets many of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one that complained is not heard again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long nobody is.
const BREATH: Duration = Duration::from_millis(50);
/// Those that are remembered: no more can have been heard within the pause.
const MOST: usize = (PAUSE.as_millis() / BREATH.as_millis()) as usize + 1;

/// Those whose complaints were heard lately.
#[derive(Debug)]
pub struct Complaints<P> {
    heard: BTreeMap<P, Instant>,
    last: Option<Instant>,
}

impl<P> Default for Complaints<P> {
    fn default() -> Self {
        Self { heard: BTreeMap::new(), last: None }
    }
}

impl<P: Ord> Complaints<P> {
    /// Whether a complaint is looked into.
    pub fn hear(&mut self, from: P, now: Instant) -> bool {
        self.heard.retain(|_, at| now.saturating_duration_since(*at) < PAUSE);
        let breathes = self.last.is_some_and(|last| now.saturating_duration_since(last) < BREATH);
        if breathes || self.heard.contains_key(&from) || self.heard.len() >= MOST {
            return false;
        }
        self.heard.insert(from, now);
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn one_that_complains_all_the_time_is_heard_once_a_second_and_others_beside_it() {
        let (mut complaints, begin) = (Complaints::default(), Instant::now());
        let heard = |complaints: &mut Complaints<u32>, from| {
            (0..10_000).filter(|at| complaints.hear(from, begin + Duration::from_millis(*at))).count()
        };
        assert_eq!(heard(&mut complaints, 1), 10);
        // Many of them do not make a node read its disk all the time either.
        let mut complaints = Complaints::default();
        let (mut total, mut most) = (0, 0);
        for at in 0..10_000_u32 {
            total += usize::from(complaints.hear(at, begin + Duration::from_millis(u64::from(at))));
            most = most.max(complaints.heard.len());
        }
        assert_eq!((total, most), (200, 20));
    }
}
