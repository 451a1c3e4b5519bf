//! Reads that the disk does not answer. A thread that waits for it cannot be called back, so no others follow it there: they would all
//! end up waiting, and nothing else would be served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::mounts::{self, Mount};
use crate::locks::lock;

/// After which time a disk counts as one that does not answer. Disks that sleep need some seconds to spin up.
pub(crate) const HANGING: Duration = Duration::from_secs(10);

/// For how long the list of mounts is believed.
const MOUNTED: Duration = Duration::from_secs(10);

/// When mounts were listed, and where they are.
type Listed = (Instant, Arc<[Mount]>);

/// Reads under way, by the mount that a path is on.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    begun: Mutex<BTreeMap<Arc<Path>, BTreeMap<u64, Instant>>>,
    mounts: Mutex<Option<Listed>>,
}

/// A read; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    reads: &'a Reads,
    root: Arc<Path>,
    number: u64,
}

impl Reads {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<Path>, BTreeMap<u64, Instant>>> {
        // Changed in single steps: a panic leaves none half-changed.
        lock(&self.begun)
    }

    /// The mount that a path is on, as the system lists them: no file is looked at.
    fn mount_of(&self, path: &Path, now: Instant) -> Arc<Path> {
        let mounts = {
            let mut known = lock(&self.mounts);
            match known.as_ref().filter(|(since, _)| now.saturating_duration_since(*since) < MOUNTED) {
                Some((_, mounts)) => mounts.clone(),
                None => known.insert((now, mounts::list().into())).1.clone(),
            }
        };
        mounts::of(&mounts, path).map_or(Path::new("/"), |mount| &mount.place).into()
    }

    /// Begins a read of a file; `None` if one on its disk has had no answer for long.
    pub(crate) fn begin(&self, path: &Path, now: Instant) -> Option<Reading<'_>> {
        self.begin_at(&self.mount_of(path, now), now)
    }

    fn begin_at(&self, root: &Arc<Path>, now: Instant) -> Option<Reading<'_>> {
        let mut begun = self.lock();
        let there = begun.entry(root.clone()).or_default();
        let hangs = there.first_key_value().is_some_and(|(_, since)| now.saturating_duration_since(*since) >= HANGING);
        if hangs {
            return None;
        }
        let number = there.last_key_value().map_or(0, |(number, _)| number + 1);
        there.insert(number, now);
        Some(Reading { reads: self, root: root.clone(), number })
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut begun = self.reads.lock();
        if let Some(there) = begun.get_mut(&self.root) {
            there.remove(&self.number);
            if there.is_empty() {
                begun.remove(&self.root);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_disk_are_told_from_those_of_another() {
        let (reads, now) = (Reads::default(), Instant::now());
        assert_eq!(*reads.mount_of(Path::new("/proc/1/status"), now), *Path::new("/proc"));
        assert_eq!(*reads.mount_of(Path::new("/"), now), *Path::new("/"));
        assert!(reads.begin(Path::new("/proc/1/status"), now).is_some());
    }

    #[test]
    fn where_one_waits_for_long_no_other_follows_until_it_is_over() {
        let (reads, begin) = (Reads::default(), Instant::now());
        let [one, other] = ["/one", "/other"].map(|path| Arc::<Path>::from(Path::new(path)));
        let first = reads.begin_at(&one, begin).unwrap();
        let second = reads.begin_at(&one, begin + HANGING / 2).unwrap();
        assert!(reads.begin_at(&one, begin + HANGING).is_none());
        assert!(reads.begin_at(&other, begin + HANGING).is_some());
        drop(first);
        // The second began later.
        assert!(reads.begin_at(&one, begin + HANGING).is_some());
        assert!(reads.begin_at(&one, begin + HANGING * 2).is_none());
        drop(second);
        assert!(reads.begin_at(&one, begin + HANGING * 2).is_some());
        assert!(reads.lock().is_empty());
    }
}
