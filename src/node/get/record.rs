//! What is remembered of an output folder: which of its files are copies, as they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use swarmdex_protocols::{ContentId, Entry, Name, PeerId};

use super::rest_of;
use crate::config::Config;
use crate::storage::copies::{self, Copies, CopiesError, Copy};
use crate::storage::hash::FileStamp;

/// How far the clock of a file system may be behind the system's.
const COARSE: Duration = Duration::from_secs(2);

/// The record of one output folder, while something is downloaded into it. Where it cannot be used, nothing is remembered, and
/// no file is taken for a copy.
#[derive(Debug, Default)]
pub(in crate::node) struct Record {
    copies: Option<Mutex<Copies>>,
    /// The folder without links on the way.
    folder: PathBuf,
    /// What was written there before, by path.
    known: BTreeMap<PathBuf, Vec<Copy>>,
    /// Since when something was written there that may not be remembered, in nanoseconds since 1970.
    unfinished_ns: Option<i64>,
    /// Whether what is put there has to be on disk before.
    syncs: AtomicBool,
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
            // What an earlier download left is not believed before it is looked at.
            copies::settle(&home, &AtomicBool::new(false))?;
            let mut copies = Copies::open(&home, syncs)?;
            let (known, unfinished) = match only {
                Some(file) => (copies.at(&folder.join(file))?, None),
                None => (copies.below(&folder)?, copies.begin(&folder, now_ns())?),
            };
            Ok((copies, known, unfinished))
        };
        match open() {
            Ok((copies, known, unfinished_ns)) => {
                Self { copies: Some(Mutex::new(copies)), folder, known, unfinished_ns, syncs: syncs.into() }
            }
            Err(error) => {
                tracing::warn!(%error, "what is downloaded cannot be remembered");
                Self { folder, ..Self::none() }
            }
        }
    }

    /// None: then everything is waited for.
    fn none() -> Self {
        Self { syncs: true.into(), ..Self::default() }
    }

    /// Whether a file has to be on disk before it is put in place.
    pub(in crate::node) fn syncs(&self) -> bool {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Files are about to be put in place. Where nobody waits for the disk, they are written down, to be looked at after a power cut;
    /// where that fails, they are waited for. Blocks on the disk.
    pub(super) fn expect<'a>(&self, files: impl IntoIterator<Item = (&'a str, ContentId)>) {
        if self.syncs() {
            return;
        }
        let files: Vec<_> = files.into_iter().map(|(rest, content)| (self.folder.join(rest), content)).collect();
        let written = self.copies().map(|mut copies| copies.expect(&files));
        if !matches!(written, Some(Ok(()))) {
            tracing::debug!(folder = %self.folder.display(), "without a record: on disk before it is in place");
            self.syncs.store(true, Ordering::Relaxed);
        }
    }

    /// The folder without links on the way, if it is known.
    pub(in crate::node) fn folder(&self) -> Option<&Path> {
        Some(self.folder.as_path()).filter(|folder| !folder.as_os_str().is_empty())
    }

    fn copies(&self) -> Option<MutexGuard<'_, Copies>> {
        self.copies.as_ref().map(|copies| copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn of(&self, rest: &str) -> &[Copy] {
        self.known.get(&self.folder.join(rest)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether anything is known of a file.
    pub(in crate::node) fn knows(&self, rest: &str) -> bool {
        !self.of(rest).is_empty()
    }

    /// The content of a file that is still as it was left.
    pub(in crate::node) fn untouched(&self, rest: &str, now: &FileStamp) -> Option<ContentId> {
        let fits = |copy: &&Copy| copy.stamp.is_some_and(|stamp| stamp.is_same_file(now));
        self.of(rest).iter().find(fits).map(|copy| copy.content)
    }

    /// Whether a file with this content is one that was written there.
    pub(in crate::node) fn wrote(&self, rest: &str, content: &ContentId) -> bool {
        self.of(rest).iter().any(|copy| copy.content == *content)
    }

    /// Whether a file of the right content was put there by a download that was cut off before it could say so.
    pub(in crate::node) fn is_left_over(&self, metadata: &std::fs::Metadata) -> bool {
        let changed = metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
        self.unfinished_ns.is_some_and(|since| changed >= since)
    }

    /// What is said of a file of an entry.
    pub(in crate::node) fn copy(&self, entry: &Entry, rest: &str, stamp: Option<FileStamp>) -> Copy {
        let (name, owner, content) = (entry.name.clone(), entry.owner, entry.content);
        Copy { path: self.folder.join(rest), folder: self.folder.clone(), name, owner, content, stamp }
    }

    /// Writes down what is, or is about to be, in place. Blocks on the disk.
    fn remember(&self, copies: &[Copy]) {
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

/// A copy of what is not in the network any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Gone {
    pub(in crate::node) name: Name,
    pub(in crate::node) owner: PeerId,
    /// Its place below the folder.
    pub(in crate::node) rest: String,
}

/// Writes down what is in place, off the tasks that wait for the network.
pub(in crate::node) async fn remember(record: &Arc<Record>, copies: Vec<Copy>) {
    if copies.is_empty() || record.copies.is_none() {
        return;
    }
    let record = record.clone();
    let _ = tokio::task::spawn_blocking(move || record.remember(&copies)).await;
}

/// What nobody waited for is written to the disk beside everything else. A command leaves that to the next start.
pub(super) fn settle_later(config: &Config) {
    if !config.transient {
        let home = config.data_dir.clone();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = copies::settle(&home, &AtomicBool::new(false)) {
                tracing::warn!(%error, "what was downloaded is not known to be on disk");
            }
        }));
    }
}

/// See [`Record::expect`].
pub(super) async fn expect(record: &Arc<Record>, files: Vec<(String, ContentId)>) {
    if record.syncs() {
        return;
    }
    let record = record.clone();
    let expected = move || record.expect(files.iter().map(|(rest, content)| (rest.as_str(), *content)));
    let _ = tokio::task::spawn_blocking(expected).await;
}

/// Says of a single file that it is in place, for certain if it has to be.
pub(super) async fn ended(record: &Arc<Record>, copy: Copy) {
    remember(record, vec![copy]).await;
    end(record).await;
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
