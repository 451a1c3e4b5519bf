//! Scans under way. Hashing what is found can take hours: scans of one root come one after the other, those of others
//! go on beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::locks::lock;
use crate::storage::hash::HashError;

/// How often one that waits looks whether it is wanted any more.
const LOOK: Duration = Duration::from_millis(100);

/// The roots that are being scanned, and files that are hashed by themselves. There are as many as operations that share
/// something.
#[derive(Debug, Default)]
pub(super) struct Scans {
    roots: Mutex<BTreeSet<PathBuf>>,
    ended: Condvar,
    hashing: Mutex<BTreeSet<PathBuf>>,
}

/// A file that is hashed by itself; over when it is dropped.
pub(super) struct Claim<'a> {
    scans: &'a Scans,
    path: PathBuf,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.scans.hashing).remove(&self.path);
    }
}

/// A scan; over when it is dropped.
pub(super) struct Scan<'a> {
    scans: &'a Scans,
    root: PathBuf,
}

impl Scans {
    /// Takes a file to be hashed, unless somebody does that already.
    pub(super) fn claim(&self, path: &Path) -> Option<Claim<'_>> {
        let is_new = lock(&self.hashing).insert(path.to_owned());
        is_new.then(|| Claim { scans: self, path: path.to_owned() })
    }

    /// Waits until no other scan of `root` is under way, or `cancel` is set.
    pub(super) fn begin(&self, root: &Path, cancel: &AtomicBool) -> Result<Scan<'_>, HashError> {
        self.begin_within(root, cancel, Duration::MAX)?.ok_or(HashError::Cancelled)
    }

    /// The same; `None` if that takes longer than `patience`.
    pub(super) fn begin_within(
        &self,
        root: &Path,
        cancel: &AtomicBool,
        patience: Duration,
    ) -> Result<Option<Scan<'_>>, HashError> {
        let begin = Instant::now();
        let mut roots = lock(&self.roots);
        while roots.contains(root) {
            if cancel.load(Ordering::Relaxed) {
                return Err(HashError::Cancelled);
            }
            if begin.elapsed() > patience {
                return Ok(None);
            }
            (roots, _) = self.ended.wait_timeout(roots, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        roots.insert(root.to_owned());
        Ok(Some(Scan { scans: self, root: root.to_owned() }))
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        lock(&self.scans.roots).remove(&self.root);
        self.scans.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_hashed_by_one_at_a_time() {
        let scans = Scans::default();
        let first = scans.claim(Path::new("/a/file"));
        assert!(first.is_some() && scans.claim(Path::new("/a/file")).is_none());
        assert!(scans.claim(Path::new("/a/other")).is_some());
        drop(first);
        assert!(scans.claim(Path::new("/a/file")).is_some());
    }

    #[test]
    fn one_root_is_scanned_by_one_at_a_time_and_others_beside_it() {
        let scans = Scans::default();
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        let first = scans.begin(Path::new("/a"), &go_on).unwrap();
        drop(scans.begin(Path::new("/b"), &go_on).unwrap());
        assert!(matches!(scans.begin(Path::new("/a"), &stop), Err(HashError::Cancelled)));
        assert!(scans.begin_within(Path::new("/a"), &go_on, Duration::from_millis(1)).unwrap().is_none());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(scans.begin(Path::new("/a"), &go_on).unwrap()));
            drop(first);
            second.join().unwrap();
        });
        assert!(lock(&scans.roots).is_empty());
    }
}
