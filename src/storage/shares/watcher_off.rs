//! In place of the watcher, in programs that were built without it: shared folders are looked through instead.

use std::io;
use std::path::{Path, PathBuf};

use super::ShareError;

/// Why nothing is heard.
pub type WatchError = io::Error;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Something happened to a file or folder.
    Changed(PathBuf),
    /// More happened than the system could tell.
    Lost,
}

/// There is none.
#[derive(Debug)]
pub enum Watcher {}

impl Watcher {
    /// Says so.
    pub fn new(_: &Path, _: impl Fn(Heard) + Send + 'static) -> Result<Self, ShareError> {
        let source = io::Error::other("this program was built without the feature 'watch'");
        Err(ShareError::NotWatched { path: PathBuf::from("shared folders"), source })
    }

    /// Watches one more file or folder.
    pub fn watch(&mut self, _: &Path) -> Result<(), ShareError> {
        match *self {}
    }

    /// Watches a folder inside a root anew.
    pub fn watch_inside(&mut self, _: &Path) -> Result<(), ShareError> {
        match *self {}
    }

    /// Watches a root no more.
    pub fn unwatch(&mut self, _: &Path) {
        match *self {}
    }
}
