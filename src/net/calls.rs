//! Nodes that are asked to connect to this one: one call at a time for each.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::locks::lock;
use swarmdex_protocols::PeerId;

/// Nodes that are being called; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Called(Arc<Mutex<BTreeSet<PeerId>>>);

impl Called {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<PeerId>> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.0)
    }

    /// `None` while it is being called already.
    pub(super) fn begin(&self, peer: PeerId) -> Option<Calling> {
        self.lock().insert(peer).then(|| Calling { called: self.clone(), peer })
    }
}

/// A call under way.
pub(super) struct Calling {
    called: Called,
    peer: PeerId,
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.called.lock().remove(&self.peer);
    }
}
