//! Nodes whose connections are kept for a while although nothing happens: no new one could be made, or only by a detour.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

/// How long after something was last asked for. Many people look at what they got, and then get the next.
const STAYS: Duration = Duration::from_secs(900);
/// How many there may be: an idle connection costs some 60 KiB and a ping every few seconds.
const MOST: usize = 64;

/// Those nodes, with when they were last seen.
#[derive(Debug, Default)]
pub(crate) struct Guests(BTreeMap<PeerId, Instant>);

impl Guests {
    /// Something was asked for. True if its connection is to be kept from now on.
    pub(crate) fn on_seen(&mut self, peer: PeerId, now: Instant) -> bool {
        self.0.insert(peer, now).is_none()
    }

    /// The next one whose connection is not to be kept any longer: it has been here for long, or there are too many.
    pub(crate) fn next_gone(&mut self, now: Instant) -> Option<PeerId> {
        let (peer, seen) = self.0.iter().min_by_key(|(_, seen)| **seen)?;
        let (peer, over) = (*peer, now.saturating_duration_since(*seen) >= STAYS);
        (over || self.0.len() > MOST).then(|| {
            self.0.remove(&peer);
            peer
        })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn those_seen_last_are_kept_for_a_while_and_only_so_many() {
        let (mut guests, now) = (Guests::default(), Instant::now());
        let peers: Vec<_> = (0..2 * MOST).map(|_| PeerId::random()).collect();
        let mut gone = Vec::new();
        for (number, peer) in peers.iter().enumerate() {
            let now = now + Duration::from_secs(number as u64);
            assert!(guests.on_seen(*peer, now) && !guests.on_seen(*peer, now));
            gone.extend(std::iter::from_fn(|| guests.next_gone(now)));
        }
        assert_eq!(gone, peers[..MOST]);
        let late = now + STAYS + Duration::from_secs(2 * MOST as u64);
        assert!(!guests.on_seen(peers[MOST], late));
        let gone: Vec<_> = std::iter::from_fn(|| guests.next_gone(late)).collect();
        assert_eq!(gone, peers[MOST + 1..]);
    }
}
