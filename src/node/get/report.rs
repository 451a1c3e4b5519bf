//! What a download came to, and that it stays so.

use std::path::{Path, PathBuf};

use swarmdex_protocols::Name;

use crate::node::Error;
use crate::node::types::{FailedFile, GetReport, GotFile};
use crate::storage::partial::{PartialError, sync_folders_of};

impl GetReport {
    pub(super) fn add(&mut self, name: Name, result: Result<GotFile, Error>) {
        match result {
            Ok(file) => self.files.push(file),
            Err(error) => self.failed.push(FailedFile { name, kind: error.kind(), message: error.describe() }),
        }
    }

    /// Waits until the names of files are on disk, those from `first` on: once for each folder, and not for each file. Where that
    /// fails they are not acknowledged.
    pub(super) async fn sync_names(&mut self, first: usize, output: &Path) -> Result<(), Error> {
        let files = self.files.split_off(first);
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let paths: Vec<_> = files.iter().map(|file| absolute(&file.path)).collect();
        let top = absolute(output);
        let syncing = move || sync_folders_of(paths.iter().map(PathBuf::as_path), &top);
        let Err(error) = tokio::task::spawn_blocking(syncing).await.map_err(|_| Error::Bug)? else {
            self.files.extend(files);
            return Ok(());
        };
        let reason = error.to_string();
        for GotFile { name, path, .. } in files {
            self.add(name, Err(PartialError::Unsure { path, reason: reason.clone() }.into()));
        }
        Ok(())
    }
}
