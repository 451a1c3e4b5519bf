//! How long a message to a connected node and its answer take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use crate::locks::lock;
use crate::state::least::Least;

/// What is known of each node, as long as it is connected; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trips(Arc<Mutex<HashMap<PeerId, Pongs>>>);

/// A node's answers to pings.
#[derive(Debug)]
struct Pongs {
    /// The least of the last ones.
    least: Least,
    /// The last one, and when it came.
    took: Duration,
    last: Instant,
}

impl Trips {
    /// A node answered a ping. Only connected ones do.
    pub(super) fn on_pong(&self, peer: PeerId, took: Duration, now: Instant) {
        let mut trips = self.lock();
        let pongs = trips.entry(peer).or_insert_with(|| Pongs { least: Least::default(), took, last: now });
        pongs.least.add(took, now);
        (pongs.took, pongs.last) = (took, now);
    }

    /// A node is not connected any more.
    pub(super) fn on_disconnected(&self, peer: &PeerId) {
        self.lock().remove(peer);
    }

    /// How long it takes; zero if that is not known.
    pub(super) fn of(&self, peer: &PeerId) -> Duration {
        self.lock().get(peer).map(|pongs| pongs.least.get()).unwrap_or_default()
    }

    /// How long the last answer took: longer where queues are full.
    pub(super) fn of_late(&self, peer: &PeerId) -> Duration {
        self.lock().get(peer).map(|pongs| pongs.took).unwrap_or_default()
    }

    /// When a connected node last answered a ping.
    pub(super) fn heard(&self, peer: &PeerId) -> Option<Instant> {
        self.lock().get(peer).map(|pongs| pongs.last)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Pongs>> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.0)
    }
}
