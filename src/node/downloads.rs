//! Downloads under way, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Semaphore;

use super::fetch::Fetches;

/// Downloads under way.
#[derive(Debug)]
pub(super) struct Downloads {
    pub(super) permits: Arc<Semaphore>,
    pub(super) running: AtomicUsize,
    pub(super) fetches: Fetches,
    /// Small files that may be open while they wait for the disk, and how many that are.
    pub(super) unplaced: (Arc<Semaphore>, usize),
}
