//! In place of the watcher, in programs that were built without it: shared folders are looked through instead.

use std::io;
use std::path::{Path, PathBuf};

use super::ShareError;

/// Why nothing is heard.
pub(super) type WatchError = io::Error;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something happened to a file or folder.
    Changed(PathBuf),
    /// More happened than the system could tell.
    Lost,
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Watcher {}

impl Watcher {
    /// Says so.
    pub(crate) fn new(_: &Path, _: impl Fn(Heard) + Send + 'static) -> Result<Self, ShareError> {
        let source = io::Error::other("this program was built without the feature 'watch'");
        Err(ShareError::NotWatched { path: PathBuf::from("shared folders"), source })
    }

    /// Watches one more file or folder.
    pub(crate) fn watch(&mut self, _: &Path) -> Result<(), ShareError> {
        match *self {}
    }

    /// Watches a folder inside a root anew.
    pub(crate) fn watch_inside(&mut self, _: &Path) -> Result<(), ShareError> {
        match *self {}
    }

    /// Watches a root no more.
    pub(crate) fn unwatch(&mut self, _: &Path) {
        match *self {}
    }
}
