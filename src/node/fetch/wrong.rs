//! What came and is not part of the content, and what of it is here and has changed.

use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal};

use super::engine::Engine;
use super::sources;
use crate::state::fetch::Download;
use crate::tasks;

/// Complaints of one download, and how long it waits for them when it has failed.
const MAX_COMPLAINTS: usize = 64;
const COMPLAINING: Duration = Duration::from_secs(1);

impl Engine<'_> {
    /// A source sent something else. It is told so: its file may have changed without a sign.
    pub(super) fn on_wrong(&mut self, machine: &mut Download<PeerId>, source: PeerId, run: ChunkRun) {
        if source == self.inner.net.local() {
            // Nobody's lie: the file changed, and its times do not say so.
            self.say_changed();
            machine.on_changed(source, run.first);
            let library = self.inner.library.clone();
            drop(tokio::task::spawn_blocking(move || library.check(&run)));
            return;
        }
        tracing::warn!(%source, name = %self.name, "sent something else than the content; not asked again");
        self.bad_sources.insert(source);
        machine.on_bad(source, run.first);
        if self.complaints.len() < MAX_COMPLAINTS {
            let complaint = sources::complain(self.inner.net.clone(), source, run);
            self.complaints.push(tasks::spawn("complaint", complaint));
        }
    }

    /// What of the content is here has changed since.
    pub(super) fn on_own_refused(&mut self, machine: &mut Download<PeerId>, run: ChunkRun, refusal: FetchRefusal) {
        self.say_changed();
        machine.on_refused(self.inner.net.local(), run.first, refusal, Instant::now());
    }

    fn say_changed(&self) {
        tracing::info!(name = %self.name, "the copy of it that is here has changed; it is fetched from others");
    }

    /// Waits a moment until complaints have been heard: a command may end with the download, and its node with it.
    pub(super) async fn complain(&mut self) {
        let complaints = futures::future::join_all(std::mem::take(&mut self.complaints));
        let _ = tokio::time::timeout(COMPLAINING, complaints).await;
    }
}
