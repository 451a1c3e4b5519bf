//! What a download has is passed on while it runs.

use std::sync::Arc;

use swarmdex_protocols::ContentId;
use swarmdex_protocols::content::Geometry;
use tokio::sync::mpsc;

use crate::net::HaveUpdate;
use crate::node::Inner;
use crate::storage::holdings::{Part, Whole};

/// Lets others have what a download has; ends with it unless it is complete.
pub(super) struct Sharing<'a> {
    inner: &'a Inner,
    content: ContentId,
    geometry: Geometry,
    shares: bool,
    stays: bool,
}

impl<'a> Sharing<'a> {
    pub(super) fn begin(
        inner: &'a Inner,
        content: ContentId,
        geometry: Geometry,
        part: &Arc<Part>,
        fleeting: bool,
    ) -> Self {
        let held = inner.library.has_whole(&content, &geometry);
        let shares = inner.config.fetch.reshare && !held && !inner.config.transient;
        if shares && geometry.chunks() > 1 {
            inner.library.holdings.begin(content, part.clone());
        }
        // What is taken away at once is passed on only until then.
        let stays = !fleeting;
        Self { inner, content, geometry, shares, stays }
    }

    pub(super) fn complete(mut self, whole: Whole) {
        if self.stays && std::mem::take(&mut self.shares) {
            self.inner.library.holdings.complete(self.content, self.geometry, whole);
        }
    }
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        if self.shares {
            self.inner.library.holdings.forget(&self.content);
        }
    }
}

/// The next have-update of another downloader. Waits for ever if nobody listens to them.
pub(super) async fn next_have_update(have_updates: &mut Option<mpsc::Receiver<HaveUpdate>>) -> HaveUpdate {
    match have_updates {
        Some(have_updates) => match have_updates.recv().await {
            Some(word) => word,
            // The node is shutting down.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}
