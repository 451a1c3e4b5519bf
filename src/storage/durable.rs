//! What is on disk for certain: bytes and entries of folders that a power cut does not take back.
//!
//! A file system may write a name before the bytes that it names, so a file gets its name only once its bytes are on disk. Most
//! write down all that was changed along with one file, so syncs side by side share what they cost.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::locks::lock;

/// Threads that help all who wait for the disk, at most.
const HELPERS: usize = 15;
/// The same with those that wait for a disk that does not answer: they do not count for others, up to this.
const MOST_HELPERS: usize = 4 * HELPERS;
/// After how long a disk counts as one that does not answer.
const STUCK: Duration = Duration::from_secs(1);
/// Helpers that one call begins with. On a fast disk more of them cost more than they save: 1,000 files of 64 KiB took 41 ms with 3,
/// 48 ms with 15 and 65 ms without (ext4 on a virtual disk).
const FIRST: usize = 3;
/// A file that takes longer than this calls one helper more: what a slow disk does for many at once it does in the time of one.
const SLOW: Duration = Duration::from_millis(2);
/// How long a helper stays with nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// Has the system begin to write a file to the disk. Nothing is waited for, and an error shows in the sync.
pub(crate) fn begin_sync(file: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the call takes no memory of this process, and the file is open as long as it is borrowed.
        #[allow(unsafe_code)]
        unsafe {
            libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Waits until bytes, times and rights of files are on disk; what came of each, in their order.
pub(crate) fn sync_files(files: Vec<Arc<File>>) -> Vec<io::Result<()>> {
    let helpers = FIRST.min(files.len().saturating_sub(1));
    let round = Arc::new(Round::new(files));
    (0..helpers).for_each(|_| POOL.call(&round));
    round.work(|| {});
    let results = round.wait();
    // Who comes late would only keep the files open.
    POOL.forget(&round);
    results
}

/// Files that are waited for together.
#[derive(Debug)]
struct Round {
    /// Whoever takes one lets go of it before it counts as done: who comes late keeps none open.
    files: Vec<Mutex<Option<Arc<File>>>>,
    next: AtomicUsize,
    results: Mutex<Results>,
    done: Condvar,
}

#[derive(Debug)]
struct Results {
    outcomes: Vec<io::Result<()>>,
    open: usize,
}

impl Round {
    fn new(files: Vec<Arc<File>>) -> Self {
        let results = Results { outcomes: files.iter().map(|_| Ok(())).collect(), open: files.len() };
        let files = files.into_iter().map(|file| Mutex::new(Some(file))).collect();
        Self { files, next: AtomicUsize::new(0), results: Mutex::new(results), done: Condvar::new() }
    }

    /// Waits for one file after the other, as long as there are some that nobody has taken. `tell` hears before each of them.
    fn work(self: &Arc<Self>, mut tell: impl FnMut()) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = self.files.get(number).and_then(|file| lock(file).take()) else { return };
            tell();
            let begin = Instant::now();
            let outcome = file.sync_all();
            drop(file);
            {
                let mut results = lock(&self.results);
                results.outcomes[number] = outcome;
                results.open -= 1;
                if results.open == 0 {
                    self.done.notify_all();
                }
            }
            if begin.elapsed() > SLOW && self.next.load(Ordering::Relaxed) < self.files.len() {
                POOL.call(self);
            }
        }
    }

    /// Waits for those that others have taken.
    fn wait(&self) -> Vec<io::Result<()>> {
        let waited = self.done.wait_while(lock(&self.results), |results| results.open > 0);
        std::mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).outcomes)
    }
}

/// Threads that help with rounds. Whoever has files waits for them itself as well, so nobody depends on a helper that comes.
#[derive(Debug)]
struct Pool {
    work: Mutex<Work>,
    called: Condvar,
}

#[derive(Debug)]
struct Work {
    /// Rounds that wait for a helper, each as often as it called.
    rounds: VecDeque<Arc<Round>>,
    /// Each helper, by a number of its own: since when it waits for a file, if it does.
    helpers: BTreeMap<u64, Option<Instant>>,
    /// The last number.
    last: u64,
    /// Helpers with nothing to do.
    idle: usize,
}

static POOL: Pool = Pool {
    work: Mutex::new(Work { rounds: VecDeque::new(), helpers: BTreeMap::new(), last: 0, idle: 0 }),
    called: Condvar::new(),
};

impl Work {
    /// Whether there may be one helper more.
    fn has_room(&self) -> bool {
        let stuck = |since: &&Option<Instant>| since.is_some_and(|since| since.elapsed() > STUCK);
        let stuck = self.helpers.values().filter(stuck).count();
        self.helpers.len() - stuck < HELPERS && self.helpers.len() < MOST_HELPERS
    }
}

impl Pool {
    /// Has a helper come, if there is one or can be one more.
    fn call(&'static self, round: &Arc<Round>) {
        let mut work = lock(&self.work);
        if work.idle > work.rounds.len() {
            work.rounds.push_back(round.clone());
            self.called.notify_one();
        } else if work.has_room() {
            work.last += 1;
            let (number, round) = (work.last, round.clone());
            let started = thread::Builder::new().name("sync".to_owned()).spawn(move || self.help(number, round));
            // Where there are no threads to be had, whoever called does all of it.
            if started.is_ok() {
                work.helpers.insert(number, None);
            }
        }
    }

    fn forget(&self, round: &Arc<Round>) {
        lock(&self.work).rounds.retain(|other| !Arc::ptr_eq(other, round));
    }

    /// One helper, until nobody has called for a while.
    fn help(&self, number: u64, first: Arc<Round>) {
        let begin = || {
            lock(&self.work).helpers.insert(number, Some(Instant::now()));
        };
        first.work(begin);
        drop(first);
        loop {
            let mut work = lock(&self.work);
            work.helpers.insert(number, None);
            work.idle += 1;
            let waited = self.called.wait_timeout_while(work, IDLE, |work| work.rounds.is_empty());
            let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
            let Some(round) = work.rounds.pop_front() else {
                work.helpers.remove(&number);
                return;
            };
            drop(work);
            round.work(begin);
        }
    }
}

/// Waits until the entries of a folder are on disk: what was made, renamed or removed in it.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder)?.sync_all() {
        // Not every file system can do that with a folder; those that cannot write names as they see fit.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        outcome => outcome,
    }
}

/// `top`, and the folders that lie on the way from there to files below it, each once, the outermost first.
pub(crate) fn folders_of<'a>(files: impl IntoIterator<Item = &'a Path>, top: &Path) -> Vec<PathBuf> {
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
        let mut files: Vec<_> = (0..100).map(|number| new_file(&folder, number)).collect();
        // A pipe has nothing that could be on a disk.
        files.insert(50, Arc::new(rustix::pipe::pipe().unwrap().1.into()));
        files.iter().for_each(|file| begin_sync(file));
        let outcomes = sync_files(files);
        let failed: Vec<_> = (0..101).filter(|number| outcomes[*number].is_err()).collect();
        assert_eq!((outcomes.len(), failed), (101, vec![50]));
        assert!(sync_files(Vec::new()).is_empty());
        sync_folder(folder.path()).unwrap();
        assert!(sync_folder(&folder.path().join("none")).is_err());
    }

    #[test]
    fn helpers_are_bounded_and_keep_no_file_open() {
        let folder = TempDir::new().unwrap();
        let files: Vec<_> = (0..640).map(|number| new_file(&folder, number)).collect();
        thread::scope(|scope| {
            for files in files.chunks(10) {
                scope.spawn(|| {
                    assert!(sync_files(files.to_vec()).iter().all(Result::is_ok));
                    assert!(lock(&POOL.work).helpers.len() <= MOST_HELPERS);
                });
            }
        });
        // Nobody has any of them open when its round is over.
        assert!(files.iter().all(|file| Arc::strong_count(file) == 1));
        let idle = lock(&POOL.work).idle;
        assert!(lock(&POOL.work).rounds.len() <= HELPERS && idle <= HELPERS);
    }

    #[test]
    fn helpers_that_a_disk_holds_do_not_count_for_others_up_to_a_bound() {
        let mut work = Work { rounds: VecDeque::new(), helpers: BTreeMap::new(), last: 0, idle: 0 };
        let now = Instant::now();
        let Some(long_ago) = now.checked_sub(2 * STUCK) else { return };
        work.helpers.extend((0..HELPERS as u64).map(|number| (number, Some(now))));
        assert!(!work.has_room(), "all of them work");
        work.helpers.insert(0, Some(long_ago));
        assert!(work.has_room());
        work.helpers.extend((0..MOST_HELPERS as u64).map(|number| (number, Some(long_ago))));
        assert!(!work.has_room(), "as many threads as there may be");
    }

    fn new_file(folder: &TempDir, number: usize) -> Arc<File> {
        Arc::new(File::create(folder.path().join(number.to_string())).unwrap())
    }
}
