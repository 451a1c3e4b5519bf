//! Files of a folder that are in place already, as an earlier download left them: known by their bytes, and not fetched
//! again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use super::Error;
use super::operation::{CancelOnDrop, Reins, Wish};
use super::small::Small;
use super::types::GotFile;
use crate::storage::hash::{hash_file, thread_count};

/// Those that are in place below `output`, and those that are missing or others.
pub(super) async fn split(
    files: Vec<Small>,
    output: &Path,
    reins: &Reins,
) -> Result<(Vec<GotFile>, Vec<Small>), Error> {
    if !output.is_dir() {
        return Ok((Vec::new(), files));
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let _guard = CancelOnDrop(cancel.clone());
    let (output, progress, mut wish) = (output.to_owned(), reins.progress.clone(), reins.wish.clone());
    let looking = tokio::task::spawn_blocking(move || {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for file in files {
            match look(&file, &output, &cancel) {
                Some(got) => {
                    progress.send_modify(|progress| {
                        progress.done_bytes += got.bytes;
                        progress.done_files += 1;
                    });
                    there.push(got);
                }
                None => missing.push(file),
            }
        }
        (there, missing)
    });
    tokio::select! {
        looked = looking => looked.map_err(|_| Error::Bug),
        Ok(_) = wish.wait_for(|wish| *wish == Wish::Cancel) => Err(Error::Cancelled),
    }
}

/// A file that is there, and is what it should be.
fn look(file: &Small, output: &Path, cancel: &AtomicBool) -> Option<GotFile> {
    let begin = Instant::now();
    let path = output.join(&file.rest);
    let metadata = std::fs::symlink_metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() != file.entry.size {
        return None;
    }
    let hashed = hash_file(&path, thread_count(0), &AtomicU64::new(0), cancel).ok()?;
    (hashed.content == file.entry.content).then(|| GotFile {
        name: file.entry.name.clone(),
        path: std::path::absolute(&path).unwrap_or(path),
        bytes: file.entry.size,
        seconds: begin.elapsed().as_secs_f64(),
        sources: Vec::new(),
        verified: true,
    })
}
