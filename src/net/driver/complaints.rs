//! What others say of chunks that they got from here.

use std::sync::Arc;
use std::time::Instant;

use libp2p::PeerId;
use swarmdex_protocols::fetch::Run;
use tokio::sync::Semaphore;

use crate::state::complaints::Complaints;
use crate::storage::library::Library;

/// Hears complaints, and has one of them looked into at a time.
pub(super) struct Hearing {
    complaints: Complaints<PeerId>,
    looking: Arc<Semaphore>,
}

impl Default for Hearing {
    fn default() -> Self {
        Self { complaints: Complaints::default(), looking: Arc::new(Semaphore::new(1)) }
    }
}

impl Hearing {
    /// Somebody got something else than a content from here.
    pub(super) fn hear(&mut self, from: PeerId, run: Run, library: &Library) {
        let Ok(turn) = self.looking.clone().try_acquire_owned() else { return };
        if self.complaints.hear(from, Instant::now()) {
            tracing::debug!(peer = %from, content = %run.content, chunk = run.first, "says that it got something else");
            let library = library.clone();
            drop(tokio::task::spawn_blocking(move || {
                library.check(&run);
                drop(turn);
            }));
        }
    }
}
