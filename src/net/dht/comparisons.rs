//! How often others may ask what is stored here.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::state::quota::Counts;

/// Comparisons that others ask for, in each window: entries looked through in all, and for one sender. A full store takes
/// some milliseconds, and is compared about a hundred times; one that is being filled by many takes next to nothing.
const MAX_COMPARED: usize = 64_000_000;
const MAX_COMPARED_OF_SENDER: usize = MAX_COMPARED / 4;
/// And for all at one address: who asks may be a new peer each time, and honest ones share the address of their router.
const MAX_COMPARED_OF_ADDRESS: usize = MAX_COMPARED / 2;
/// What a comparison takes besides, in entries.
const COMPARISON_COST: usize = 10_000;
const COMPARISONS_WINDOW: Duration = Duration::from_secs(10);

/// How often others lately asked what is stored of them: each time is a look through what is stored.
pub(super) struct Comparisons {
    window: Option<Instant>,
    /// Entries that were looked at.
    of_sender: Counts<PeerId>,
    of_address: Counts<IpAddr>,
}

impl Default for Comparisons {
    fn default() -> Self {
        let of_sender = Counts::bounded(MAX_COMPARED_OF_SENDER, MAX_COMPARED);
        Self { window: None, of_sender, of_address: Counts::bounded(MAX_COMPARED_OF_ADDRESS, usize::MAX) }
    }
}

impl Comparisons {
    /// Whether one more question may be answered, with so many entries to look at, for a sender at an address.
    pub(super) fn admit(&mut self, sender: PeerId, address: Option<IpAddr>, entries: usize, now: Instant) -> bool {
        if self.window.is_none_or(|begin| now.saturating_duration_since(begin) >= COMPARISONS_WINDOW) {
            *self = Self { window: Some(now), ..Self::default() };
        }
        let room = self.of_sender.has_room(&sender) && address.is_none_or(|at| self.of_address.has_room(&at));
        if room {
            self.charge(sender, address, entries.saturating_add(COMPARISON_COST));
        }
        room
    }

    /// A question that was admitted took a look at so many entries.
    pub(super) fn charge(&mut self, sender: PeerId, address: Option<IpAddr>, entries: usize) {
        self.of_sender.add(sender, entries);
        if let Some(address) = address {
            self.of_address.add(address, entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_bounded_by_sender_and_in_all() {
        let (mut comparisons, now, peer) = (Comparisons::default(), Instant::now(), PeerId::random());
        let full = 600_000;
        let admitted = (0..1000).filter(|_| comparisons.admit(peer, None, full, now)).count();
        assert!((20..40).contains(&admitted), "{admitted} of one sender");
        let others = (0..1000).filter(|_| comparisons.admit(PeerId::random(), None, full, now)).count();
        assert!((60..100).contains(&others), "{others} of all");
        assert!(comparisons.admit(peer, None, full, now + COMPARISONS_WINDOW));
        // Many fill a node that came, each with a few questions.
        let mut comparisons = Comparisons::default();
        let admitted = (0..100_000).filter(|_| comparisons.admit(PeerId::random(), None, 0, now)).count();
        assert_eq!((admitted, comparisons.of_sender.iter().count()), (MAX_COMPARED / COMPARISON_COST, admitted));
    }

    #[test]
    fn an_address_with_ever_new_peers_leaves_half_of_it_to_others() {
        let (mut comparisons, now) = (Comparisons::default(), Instant::now());
        let (one, other) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));
        let admitted = (0..100_000).filter(|_| comparisons.admit(PeerId::random(), one, 0, now)).count();
        assert_eq!(admitted, MAX_COMPARED_OF_ADDRESS / COMPARISON_COST);
        let admitted = (0..100_000).filter(|_| comparisons.admit(PeerId::random(), other, 0, now)).count();
        assert_eq!(admitted, MAX_COMPARED_OF_ADDRESS / COMPARISON_COST);
        assert_eq!(comparisons.of_address.iter().count(), 2);
    }
}
