//! How long a message to a connected node and its answer take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use crate::state::least::Least;

/// The least of a node's last answers to pings, and when the last one came, by node, as long as it is connected; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trips(Arc<Mutex<HashMap<PeerId, (Least, Instant)>>>);

impl Trips {
    /// A node answered a ping. Only connected ones do.
    pub(super) fn on_pong(&self, peer: PeerId, took: Duration, now: Instant) {
        let mut trips = self.lock();
        let (least, last) = trips.entry(peer).or_insert_with(|| (Least::default(), now));
        least.add(took, now);
        *last = now;
    }

    /// A node is not connected any more.
    pub(super) fn on_disconnected(&self, peer: &PeerId) {
        self.lock().remove(peer);
    }

    /// How long it takes; zero if that is not known.
    pub(super) fn of(&self, peer: &PeerId) -> Duration {
        self.lock().get(peer).map(|(least, _)| least.get()).unwrap_or_default()
    }

    /// When a connected node last answered a ping.
    pub(super) fn heard(&self, peer: &PeerId) -> Option<Instant> {
        self.lock().get(peer).map(|(_, last)| *last)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, (Least, Instant)>> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
