//! How long a message to a connected node and its answer take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use crate::state::least::Least;

/// The least of a node's last answers to pings, by node, as long as it is connected; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trips(Arc<Mutex<HashMap<PeerId, Least>>>);

impl Trips {
    /// A node answered a ping. Only connected ones do.
    pub(super) fn on_pong(&self, peer: PeerId, took: Duration, now: Instant) {
        self.lock().entry(peer).or_default().add(took, now);
    }

    /// A node is not connected any more.
    pub(super) fn on_disconnected(&self, peer: &PeerId) {
        self.lock().remove(peer);
    }

    /// How long it takes; zero if that is not known.
    pub(super) fn of(&self, peer: &PeerId) -> Duration {
        self.lock().get(peer).map(Least::get).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Least>> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
