//! Where a download goes, and where it has come.

use std::path::PathBuf;

use swarmdex_protocols::PeerId;

use crate::storage::hash::FileStamp;
use crate::storage::partial::Placing;

/// A file in place.
pub(in crate::node) struct Got {
    pub(in crate::node) path: PathBuf,
    pub(in crate::node) bytes: u64,
    pub(in crate::node) sources: Vec<PeerId>,
    /// As it was left.
    pub(in crate::node) stamp: Option<FileStamp>,
}

/// Where a file goes, and how.
pub(in crate::node) struct Target {
    pub(in crate::node) path: PathBuf,
    pub(in crate::node) placing: Placing,
    /// Whether it is soon taken away: it is not passed on then.
    pub(in crate::node) fleeting: bool,
    /// Whether it has to be on disk.
    pub(in crate::node) sync: bool,
}
