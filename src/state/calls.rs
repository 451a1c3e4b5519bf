//! Members that have others connect to them, so often: each call is a connection that somebody else makes.

use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use super::quota::Counts;

/// Calls in each [`WINDOW`], by one member and to one, and in all.
const BY_ONE: usize = 64;
const TO_ONE: usize = 256;
const IN_ALL: usize = 4096;
const WINDOW: Duration = Duration::from_secs(10);

/// Calls of the moment.
#[derive(Debug)]
pub(crate) struct Calls {
    begin: Option<Instant>,
    by: Counts<PeerId>,
    to: Counts<PeerId>,
}

impl Default for Calls {
    fn default() -> Self {
        Self { begin: None, by: Counts::bounded(BY_ONE, IN_ALL), to: Counts::bounded(TO_ONE, IN_ALL) }
    }
}

impl Calls {
    /// Whether one more call is passed on.
    pub(crate) fn admit(&mut self, by: PeerId, to: PeerId, now: Instant) -> bool {
        if self.begin.is_none_or(|begin| now.saturating_duration_since(begin) >= WINDOW) {
            *self = Self { begin: Some(now), ..Self::default() };
        }
        let room = self.by.has_room(&by) && self.to.has_room(&to);
        if room {
            self.by.add(by, 1);
            self.to.add(to, 1);
        }
        room
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_by_caller_by_called_and_in_all() {
        let (mut calls, now) = (Calls::default(), Instant::now());
        let peers: Vec<_> = (0..1000).map(|_| PeerId::random()).collect();
        let admitted = |calls: &mut Calls, pairs: &mut dyn Iterator<Item = (PeerId, PeerId)>| {
            pairs.filter(|(by, to)| calls.admit(*by, *to, now)).count()
        };
        assert_eq!(admitted(&mut calls, &mut peers.iter().map(|to| (peers[0], *to))), BY_ONE);
        assert_eq!(admitted(&mut calls, &mut peers[1..].iter().map(|by| (*by, peers[1]))), TO_ONE - 1);
        let all =
            (0..10).flat_map(|to| peers[1..].iter().map(move |by| (*by, to))).map(|(by, to)| (by, peers[10 + to]));
        // But for those who called themselves before.
        let all = admitted(&mut calls, &mut all.collect::<Vec<_>>().into_iter());
        assert!((9 * TO_ONE..=10 * TO_ONE).contains(&all), "{all}");
        let many = peers.iter().zip(peers.iter().rev()).cycle().take(100_000).map(|(by, to)| (*by, *to));
        assert!(admitted(&mut calls, &mut many.collect::<Vec<_>>().into_iter()) < IN_ALL);
        assert_eq!(calls.by.all(), IN_ALL);
        assert!(calls.admit(peers[0], peers[1], now + WINDOW));
    }
}
