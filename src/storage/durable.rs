//! What is on disk for certain: bytes and entries of folders that a power cut does not take back.
//!
//! A file system may write a name before the bytes that it names, so a file gets its name only once its bytes are on disk. Most
//! write down all that was changed along with one file, so syncs side by side share what they cost.

use crate::locks::lock;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Threads that wait for the disk side by side.
const THREADS: usize = 16;

/// Waits until bytes, times and rights of files are on disk; what came of each, in their order.
pub fn sync_files(files: &[&File]) -> Vec<io::Result<()>> {
    let results = Mutex::new(files.iter().map(|_| Ok(())).collect::<Vec<_>>());
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(number) else { return };
            if let Err(error) = file.sync_all() {
                lock(&results)[number] = Err(error);
            }
        }
    };
    thread::scope(|scope| {
        // Where there are no threads to be had, this one does all of it.
        for _ in 1..THREADS.min(files.len()) {
            let _ = thread::Builder::new().name("sync".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the entries of a folder are on disk: what was made, renamed or removed in it.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder)?.sync_all() {
        // Not every file system can do that with a folder; those that cannot write names as they see fit.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

/// `top`, and the folders that lie on the way from there to files below it, each once, the outermost first.
pub fn folders_of<'a>(files: impl IntoIterator<Item = &'a Path>, top: &Path) -> Vec<PathBuf> {
    let above = files.into_iter().flat_map(|file| file.ancestors().skip(1)).filter(|folder| folder.starts_with(top));
    let mut folders: Vec<_> = above.map(Path::to_owned).collect();
    folders.sort();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn each_folder_on_the_way_is_named_once() {
        let files = ["/o/a/b/1", "/o/a/2", "/o/3", "/elsewhere/4"].map(Path::new);
        assert_eq!(folders_of(files, Path::new("/o")), ["/o", "/o/a", "/o/a/b"].map(PathBuf::from));
        assert_eq!(folders_of(["a/1", "2"].map(Path::new), Path::new("")), ["", "a"].map(PathBuf::from));
    }

    #[test]
    fn many_files_are_synced_and_each_has_its_outcome() {
        let folder = TempDir::new().unwrap();
        let mut files: Vec<_> =
            (0..100).map(|number| File::create(folder.path().join(number.to_string())).unwrap()).collect();
        // A pipe has nothing that could be on a disk.
        files.insert(50, rustix::pipe::pipe().unwrap().1.into());
        let outcomes = sync_files(&files.iter().collect::<Vec<_>>());
        let failed: Vec<_> = (0..101).filter(|number| outcomes[*number].is_err()).collect();
        assert_eq!((outcomes.len(), failed), (101, vec![50]));
        assert!(sync_files(&[]).is_empty());
        sync_folder(folder.path()).unwrap();
        assert!(sync_folder(&folder.path().join("none")).is_err());
    }
}
