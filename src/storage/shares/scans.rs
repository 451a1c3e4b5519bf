//! Scans under way. Hashing what is found can take hours: scans of one root come one after the other, those of others
//! go on beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::lock;
use crate::storage::hash::HashError;

/// How often one that waits looks whether it is wanted any more.
const LOOK: Duration = Duration::from_millis(100);

/// The roots that are being scanned. There are as many as operations that share something.
#[derive(Debug, Default)]
pub(super) struct Scans {
    roots: Mutex<BTreeSet<PathBuf>>,
    ended: Condvar,
}

/// A scan; over when it is dropped.
pub(super) struct Scan<'a> {
    scans: &'a Scans,
    root: PathBuf,
}

impl Scans {
    /// Waits until no other scan of `root` is under way, or `cancel` is set.
    pub(super) fn begin(&self, root: &Path, cancel: &AtomicBool) -> Result<Scan<'_>, HashError> {
        let mut roots = lock(&self.roots);
        while roots.contains(root) {
            if cancel.load(Ordering::Relaxed) {
                return Err(HashError::Cancelled);
            }
            (roots, _) = self.ended.wait_timeout(roots, LOOK).unwrap_or_else(PoisonError::into_inner);
        }
        roots.insert(root.to_owned());
        Ok(Scan { scans: self, root: root.to_owned() })
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
    fn one_root_is_scanned_by_one_at_a_time_and_others_beside_it() {
        let scans = Scans::default();
        let (go_on, stop) = (AtomicBool::new(false), AtomicBool::new(true));
        let first = scans.begin(Path::new("/a"), &go_on).unwrap();
        drop(scans.begin(Path::new("/b"), &go_on).unwrap());
        assert!(matches!(scans.begin(Path::new("/a"), &stop), Err(HashError::Cancelled)));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(scans.begin(Path::new("/a"), &go_on).unwrap()));
            drop(first);
            second.join().unwrap();
        });
        assert!(lock(&scans.roots).is_empty());
    }
}
