//! What is remembered of an output folder: which of its files are copies, as they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use swarmdex_protocols::{ContentId, Entry, Name, PeerId};

use crate::config::Config;
use crate::locks::lock;
use crate::node::types::GetOptions;
use crate::storage::copies::{self, Copies, CopiesError, Copy, Expected};
use crate::storage::hash::FileStamp;

/// How far the clock of a file system may be behind the system's.
const COARSE: Duration = Duration::from_secs(2);

/// The record of one output folder, while something is downloaded into it. Where it cannot be used, nothing is remembered, and
/// no file is taken for a copy.
#[derive(Debug, Default)]
pub(super) struct Record {
    copies: Option<Mutex<Copies>>,
    /// The folder without links on the way.
    folder: PathBuf,
    /// What was written there before, by path.
    known: BTreeMap<PathBuf, Vec<Copy>>,
    /// Since when something was written there that may not be remembered, in nanoseconds since 1970.
    unfinished_ns: Option<i64>,
    /// Whether what is put there has to be on disk before.
    syncs: AtomicBool,
    /// Threads that hash what is there; 0 means one for each processor.
    threads: usize,
    /// What was written down, and has not come so far.
    expected: Mutex<BTreeMap<PathBuf, Expected>>,
}

impl Record {
    /// Opens the record of a folder, which is there, and begins a download into it; of one file if that is `only` meant. A command that downloads one file makes no
    /// data directory for it: `makes`. Blocks on the disk.
    pub(super) fn begin(config: &Config, folder: &Path, only: Option<&str>, makes: bool, syncs: bool) -> Self {
        let home = if config.transient { config.copies.clone() } else { Some(config.data_dir.clone()) };
        // Without a record everything is waited for.
        let Some(home) = home.filter(|home| makes || !syncs || home.is_dir()) else { return Self::none() };
        let Ok(folder) = folder.canonicalize() else { return Self::none() };
        let open = || -> Result<_, CopiesError> {
            let mut copies = Copies::open(&home, syncs)?;
            // What an earlier download left is not believed before it is looked at.
            copies.settle(&folder, config.fetch.threads)?;
            let (known, unfinished) = match only {
                Some(file) => (copies.at(&folder.join(file))?, None),
                None => (copies.below(&folder)?, copies.begin(&folder, now_ns())?),
            };
            Ok((copies, known, unfinished))
        };
        match open() {
            Ok((copies, known, unfinished_ns)) => {
                let (copies, syncs) = (Some(Mutex::new(copies)), syncs.into());
                let threads = config.fetch.threads;
                Self { copies, folder, known, unfinished_ns, syncs, threads, expected: Mutex::default() }
            }
            Err(error) => {
                tracing::warn!(%error, "what is downloaded cannot be remembered");
                Self { folder, threads: config.fetch.threads, ..Self::none() }
            }
        }
    }

    /// None: then everything is waited for.
    fn none() -> Self {
        Self { syncs: true.into(), ..Self::default() }
    }

    /// Threads that hash what is there; 0 means one for each processor.
    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a file has to be on disk before it is put in place.
    pub(super) fn syncs(&self) -> bool {
        self.syncs.load(Ordering::Relaxed)
    }

    /// What is known of a file of an entry before it is in place; `None` if it gets any time. Whether its owner said so shows when it
    /// gets that time.
    pub(super) fn expected_of(&self, entry: &Entry, rest: &str, options: &GetOptions) -> Option<Expected> {
        let said = entry.attributes.as_deref().filter(|_| options.preserve)?.said();
        Some(Expected {
            path: self.folder.join(rest),
            content: entry.content,
            len: entry.size,
            mtime_ns: said.modified_ns?,
        })
    }

    /// Files are about to be put in place, and nobody waits for the disk: they are written down, to be looked at after a power cut.
    /// Where that fails, or one is not known beforehand, they are waited for. Blocks on the disk.
    fn expect(&self, files: Option<Vec<Expected>>) {
        let written = files.and_then(|files| {
            let written = self.copies()?.expect(&files);
            (written.ok()?).then_some(files)
        });
        match written {
            Some(files) => self.expected().extend(files.into_iter().map(|file| (file.path.clone(), file))),
            None => {
                tracing::debug!(folder = %self.folder.display(), "without a record: on disk before it is in place");
                self.syncs.store(true, Ordering::Relaxed);
            }
        }
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Expected>> {
        lock(&self.expected)
    }

    /// Files are in place. One that did not get the time by which it would be known again is written to the disk.
    fn placed(&self, copies: &[Copy]) {
        for copy in copies {
            let Some(stamp) = &copy.stamp else { continue };
            let Some(file) = self.expected().remove(&copy.path) else { continue };
            if !file.may_be(stamp) {
                let synced = std::fs::File::open(&copy.path).and_then(|file| file.sync_all());
                tracing::debug!(path = %copy.path.display(), ?synced, "its file system keeps no times: on disk now");
            }
        }
    }

    /// What was expected and did not come is not waited for any more. Blocks on the disk.
    fn give_up(&self) {
        let left: Vec<_> = std::mem::take(&mut *self.expected()).into_values().collect();
        if let Some(mut record) = self.copies().filter(|_| !left.is_empty())
            && let Err(error) = record.unexpect(&left)
        {
            tracing::warn!(%error, "what did not come cannot be forgotten");
        }
    }

    /// The folder without links on the way, if it is known.
    pub(super) fn folder(&self) -> Option<&Path> {
        Some(self.folder.as_path()).filter(|folder| !folder.as_os_str().is_empty())
    }

    fn copies(&self) -> Option<MutexGuard<'_, Copies>> {
        self.copies.as_ref().map(|copies| lock(copies))
    }

    fn of(&self, rest: &str) -> &[Copy] {
        self.known.get(&self.folder.join(rest)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether anything is known of a file.
    pub(super) fn knows(&self, rest: &str) -> bool {
        !self.of(rest).is_empty()
    }

    /// The content of a file that is still as it was left.
    pub(super) fn untouched(&self, rest: &str, now: &FileStamp) -> Option<ContentId> {
        let fits = |copy: &&Copy| copy.stamp.is_some_and(|stamp| stamp.is_same_file(now));
        self.of(rest).iter().find(fits).map(|copy| copy.content)
    }

    /// Whether a file with this content is one that was written there.
    pub(super) fn wrote(&self, rest: &str, content: &ContentId) -> bool {
        self.of(rest).iter().any(|copy| copy.content == *content)
    }

    /// Whether a file of the right content was put there by a download that was cut off before it could say so.
    pub(super) fn is_left_over(&self, metadata: &std::fs::Metadata) -> bool {
        let changed = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
        self.unfinished_ns.is_some_and(|since| changed >= since)
    }

    /// What is said of a file of an entry.
    pub(super) fn copy(&self, entry: &Entry, rest: &str, stamp: Option<FileStamp>) -> Copy {
        let (name, owner, content) = (entry.name.clone(), entry.owner, entry.content);
        Copy { path: self.folder.join(rest), folder: self.folder.clone(), name, owner, content, stamp }
    }

    /// Writes down what is, or is about to be, in place. Blocks on the disk.
    fn remember(&self, copies: &[Copy]) {
        self.placed(copies);
        if let Some(mut record) = self.copies().filter(|_| !copies.is_empty())
            && let Err(error) = record.remember(copies)
        {
            tracing::warn!(%error, "what was downloaded cannot be remembered");
        }
    }

    /// Forgets files. Blocks on the disk.
    pub(super) fn forget(&self, paths: &[PathBuf]) {
        if let Some(mut record) = self.copies().filter(|_| !paths.is_empty())
            && let Err(error) = record.forget(paths)
        {
            tracing::warn!(%error, "what is gone cannot be forgotten");
        }
    }

    /// Whether a download into the folder was cut off before.
    pub(super) fn was_cut_off(&self) -> bool {
        self.unfinished_ns.is_some()
    }

    /// The download is over, and all of it is remembered. Blocks on the disk.
    fn end(&self) {
        if let Some(mut record) = self.copies()
            && let Err(error) = record.end(&self.folder)
        {
            tracing::warn!(%error, "the end of a download cannot be remembered");
        }
    }

    /// Files below a prefix that were written from names which are not among `names`, each with the place that it has below
    /// the folder.
    pub(super) fn gone(&self, prefix: Option<&Name>, names: &BTreeSet<Name>) -> Vec<Gone> {
        let below = |name: &Name| prefix.is_none_or(|prefix| name.is_below(prefix) || name == prefix);
        let of_path = |(path, copies): (&PathBuf, &Vec<Copy>)| {
            let copy = copies.last()?;
            let rest = rest_of(&copy.name, prefix);
            // The same name may have been written elsewhere in the folder, as a part of something else.
            let here = below(&copy.name) && !names.contains(&copy.name) && *path == self.folder.join(&rest);
            here.then(|| Gone { name: copy.name.clone(), owner: copy.owner, rest })
        };
        self.known.iter().filter_map(of_path).collect()
    }
}

/// Where a file goes below the output folder. One that is named like the prefix itself goes under its own last segment.
pub(super) fn rest_of(name: &Name, prefix: Option<&Name>) -> String {
    match prefix {
        Some(prefix) => name.strip_prefix(prefix).unwrap_or(name.file_name()).to_owned(),
        None => name.as_str().to_owned(),
    }
}

/// A copy of what is not in the network any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) name: Name,
    pub(super) owner: PeerId,
    /// Its place below the folder.
    pub(super) rest: String,
}

/// Writes down what is in place, off the tasks that wait for the network.
pub(super) async fn remember(record: &Arc<Record>, copies: Vec<Copy>) {
    if copies.is_empty() || record.copies.is_none() {
        return;
    }
    let record = record.clone();
    let _ = tokio::task::spawn_blocking(move || record.remember(&copies)).await;
}

/// What nobody waited for is written to the disk beside everything else. A command leaves that to the next one there, and to the next
/// start of a node.
pub(super) fn settle_later(config: &Config, output: PathBuf) {
    if !config.transient {
        let (home, threads) = (config.data_dir.clone(), config.fetch.threads);
        drop(tokio::task::spawn_blocking(move || {
            let folder = if output.is_dir() { Some(output.as_path()) } else { output.parent() };
            let Some(Ok(folder)) = folder.map(Path::canonicalize) else { return };
            if let Err(error) = copies::settle(&home, &folder, threads) {
                tracing::warn!(%error, "what was downloaded is not known to be on disk");
            }
        }));
    }
}

/// See [`Record::expect`]; where everything is waited for, nothing is done.
pub(super) async fn expect(record: &Arc<Record>, files: impl IntoIterator<Item = Option<Expected>>) {
    if record.syncs() {
        return;
    }
    let (record, files) = (record.clone(), files.into_iter().collect());
    let _ = tokio::task::spawn_blocking(move || record.expect(files)).await;
}

/// See [`Record::give_up`].
pub(super) async fn give_up(record: &Arc<Record>) {
    if record.expected().is_empty() {
        return;
    }
    let record = record.clone();
    let _ = tokio::task::spawn_blocking(move || record.give_up()).await;
}

/// Says of a single file that it is in place, for certain if it has to be.
pub(super) async fn ended(record: &Arc<Record>, copy: Copy) {
    let record = record.clone();
    let remember = move || {
        record.placed(std::slice::from_ref(&copy));
        if let Some(Err(error)) = record.copies().map(|mut copies| copies.remember_surely(&copy)) {
            tracing::warn!(%error, "what was downloaded cannot be remembered");
        }
    };
    let _ = tokio::task::spawn_blocking(remember).await;
}

/// Says that the download is over.
pub(super) async fn end(record: &Arc<Record>) {
    let record = record.clone();
    let _ = tokio::task::spawn_blocking(move || record.end()).await;
}

/// The time in nanoseconds since 1970, a little earlier.
fn now_ns() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(COARSE);
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}
