//! What others say of chunks that they got from here.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use swarmdex_protocols::fetch::ChunkRun;
use tokio::sync::mpsc;

use crate::state::quota::{Allowance, Buckets};
use crate::storage::hanging::HANGING;
use crate::storage::library::Library;
use crate::tasks;

/// Complaints of one that are heard: four a second. Each costs a read of the disk, so nobody gets many of them.
const OF_ONE: Allowance = Allowance { burst: 4, interval: Duration::from_millis(250) };
/// Those whose complaints are heard within a second.
const MOST: usize = 64;
/// Complaints that wait.
const WAITING: usize = 64;
/// Between two of them the disk is left to others.
const PAUSE: Duration = Duration::from_millis(50);

/// Hears complaints, and has them looked into one after the other.
pub(super) struct Hearing {
    heard: Buckets<PeerId>,
    waiting: Option<mpsc::Sender<ChunkRun>>,
}

impl Default for Hearing {
    fn default() -> Self {
        Self { heard: Buckets::bounded(OF_ONE, MOST), waiting: None }
    }
}

impl Hearing {
    /// Somebody got something else than a content from here.
    pub(super) fn hear(&mut self, from: PeerId, run: ChunkRun, library: &Library) {
        if self.heard.take(from, 1, Instant::now()).is_err() {
            return;
        }
        tracing::debug!(peer = %from, content = %run.content, chunk = run.first, "says that it got something else");
        let waiting = self.waiting.get_or_insert_with(|| {
            let (waiting, mut queue) = mpsc::channel::<ChunkRun>(WAITING);
            let library = library.clone();
            drop(tasks::spawn("complaints", async move {
                while let Some(run) = queue.recv().await {
                    let library = library.clone();
                    let check = tokio::task::spawn_blocking(move || library.check(&run));
                    // A disk that does not answer holds up no other complaint.
                    let _ = tokio::time::timeout(HANGING, check).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }));
            waiting
        });
        // Where too many wait, somebody else will complain.
        let _ = waiting.try_send(run);
    }
}
