//! Looking at what is shared: which roots are there, what they hold, and what is left to do after a look.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use swarmdex_protocols::Name;

use super::database::Root;
use super::presence::{is_mount, mount_of};
use super::scan::{self, Found};
use super::select::{IGNORE_FILE, LeftOut, Rules};
use super::{OnProgress, ShareError, ShareOutcome, ShareTable, Skipped, lock, with_cause};
use crate::config::{Origin, Selection};
use crate::storage::hash::HashError;

/// Files of a folder that are looked for before everything in it counts as away with its disk.
const SIGNS: usize = 1000;

/// How to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// A file that changed within this time is left for later.
    pub rest: Duration,
    /// Whether files are hashed that are not known.
    pub hashes: bool,
    /// How long to wait for another scan of a root, which may hash for hours what somebody shares by hand. With any
    /// bound but the longest, files are also hashed for a while only; what is left then is in [`Open::more`].
    pub patience: Duration,
}

impl Look {
    /// At everything, as it is.
    pub(crate) const NOW: Self = Self { rest: Duration::ZERO, hashes: true, patience: Duration::MAX };
    /// At what is known alone.
    const KNOWN: Self = Self { rest: Duration::ZERO, hashes: false, patience: Duration::MAX };
}

/// What a look left for later.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Paths to look at again at once: others have their turn in between.
    pub more: Vec<PathBuf>,
    /// Large files that have to be hashed ([`ShareTable::hash_ahead`]) and then looked at again.
    pub large: Vec<PathBuf>,
    /// Files that were not at rest.
    pub busy: Vec<PathBuf>,
    /// Files that were found changing while they were read.
    pub changing: Vec<PathBuf>,
}

impl Open {
    pub(super) fn extend(&mut self, other: Self) {
        self.more.extend(other.more);
        self.large.extend(other.large);
        self.busy.extend(other.busy);
        self.changing.extend(other.changing);
    }
}

impl ShareTable {
    /// Looks through everything that is shared, after a start and [`ShareTable::recall`]: first at what is known, and then
    /// hashes the rest. Names of roots that are away are kept.
    pub(crate) fn rescan(&self, progress: OnProgress<'_>, cancel: &AtomicBool) -> Result<ShareOutcome, ShareError> {
        let roots = self.roots()?;
        let first = self.look(&roots, Look::KNOWN, progress, cancel)?;
        let mut outcome = self.update(&roots, progress, cancel)?;
        // The log says once that a root is away, and by now it may be back.
        let states = self.states();
        outcome.skipped.extend(first.skipped.into_iter().filter(|skipped| states.away.contains_key(&skipped.path)));
        drop(states);
        Ok(outcome)
    }

    /// Looks at some files and folders, until everything in them is hashed. What is new below a shared folder is
    /// shared, what is gone is not any more, what changed is hashed anew. Paths that are not shared are ignored.
    pub(crate) fn update(
        &self,
        paths: &[PathBuf],
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut outcome = self.look(paths, Look::NOW, progress, cancel)?;
        let mut tried = BTreeSet::new();
        loop {
            let mut again = Vec::new();
            for path in std::mem::take(&mut outcome.open.large) {
                if !tried.insert(path.clone()) {
                    continue;
                }
                match self.hash_ahead(&path, cancel) {
                    Ok(true) => again.push(path),
                    // Whoever hashes it takes it in.
                    Ok(false) => {}
                    Err(error @ ShareError::Hash(HashError::Cancelled)) => return Err(error),
                    Err(error) => {
                        outcome.skipped.push(Skipped { path, reason: with_cause(&error), failed: true });
                        outcome.unfinished = true;
                    }
                }
            }
            if again.is_empty() {
                return Ok(outcome);
            }
            // What is skipped was said the first time.
            let next = self.look(&again, Look::NOW, progress, cancel)?;
            outcome.extend(ShareOutcome { skipped: Vec::new(), left_out: LeftOut::default(), ..next });
        }
    }

    /// Looks at some files and folders once; see [`ShareOutcome::open`].
    pub(crate) fn look(
        &self,
        paths: &[PathBuf],
        look: Look,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut outcome = ShareOutcome::default();
        let roots = lock(&self.shared.database).roots()?;
        for path in paths {
            // Other rules may make of anything in the folder something else.
            let path = match path.parent() {
                Some(folder) if path.file_name().is_some_and(|name| name == IGNORE_FILE) => folder,
                _ => path,
            };
            for root in roots.iter().filter(|root| path.starts_with(&root.path)) {
                let Some(_scan) = self.shared.scans.begin_within(&root.path, cancel, look.patience)? else {
                    outcome.open.busy.push(path.to_owned());
                    continue;
                };
                match self.look_at(root, path, look, progress, cancel) {
                    Ok(looked) => outcome.extend(looked),
                    Err(error @ ShareError::Hash(HashError::Cancelled)) => return Err(error),
                    // The others are looked at all the same.
                    Err(error) => {
                        outcome.skipped.push(Skipped {
                            path: path.to_owned(),
                            reason: with_cause(&error),
                            failed: true,
                        });
                        outcome.unfinished = true;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Looks at one path of a root.
    fn look_at(
        &self,
        root: &Root,
        path: &Path,
        look: Look,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let since = Instant::now();
        if !lock(&self.shared.database).has_root(&root.path)? {
            return Ok(ShareOutcome::default());
        }
        if let Some(reason) = self.absence(root)? {
            return self.suspend(root, reason);
        }
        let away = self.away_below(root, path)?;
        if let Some(at) = away.iter().find(|at| path.starts_with(at)) {
            let found = Found { unread: [at.clone()].into(), ..Found::nothing(path) };
            return self.take_in(&root.path, found, look, since, progress, cancel);
        }
        let rules = Rules::new(&root.path, &self.selection(root))?;
        let found = match scan::scan(root, path, self.own_folder(), rules, away.clone()) {
            Ok(found) => found,
            Err(error @ ShareError::DataDirectory { .. }) => {
                let skipped = vec![Skipped { path: root.path.clone(), reason: with_cause(&error), failed: true }];
                Found { skipped, ..Found::nothing(&root.path) }
            }
            Err(error) => {
                let mut found = Found::nothing(path);
                if path == root.path {
                    found.skipped.push(Skipped { path: root.path.clone(), reason: with_cause(&error), failed: true });
                }
                found
            }
        };
        // What went while it was looked at would pass for deleted.
        if let Some(reason) = self.absence(root)? {
            return self.suspend(root, reason);
        }
        if self.away_below(root, path)? != away {
            let open = Open { busy: vec![path.to_owned()], ..Open::default() };
            return Ok(ShareOutcome { open, ..ShareOutcome::default() });
        }
        if found.at == root.path || !found.mounts.is_empty() {
            let mounts = found.mounts.iter().chain(&away).cloned().collect();
            self.note_mounts(root, &found.at, mounts)?;
        }
        if self.states().is_back(&root.path) {
            tracing::info!(path = %root.path.display(), "what is shared there is back");
        }
        self.take_in(&root.path, found, look, since, progress, cancel)
    }

    /// What of a root is shared: as its user said it, and the node's.
    pub(super) fn selection(&self, root: &Root) -> Selection {
        let (own, all) = (&root.selection, self.states().policy.clone());
        let declared = root.is_declared();
        // Earlier builds shared what is hidden.
        let earlier = root.origins.keys().all(|origin| *origin == Origin::Earlier);
        Selection {
            exclude: [all.exclude, own.exclude.clone()].concat(),
            hidden: own.hidden || earlier || declared && all.hidden,
            no_ignore: own.no_ignore || declared && all.no_ignore,
        }
    }

    /// Why a whole root is away, if it is. A folder that is gone may be on a disk that was unplugged. A folder that is
    /// there may be the empty one on which the disk is to be mounted.
    fn absence(&self, root: &Root) -> Result<Option<String>, ShareError> {
        let mounts = lock(&self.shared.database).mounts(&root.path)?;
        let mut above = mounts.iter().filter(|mount| root.path.starts_with(mount));
        if let Some(mount) = above.find(|mount| self.is_unmounted(root, mount, &root.path)) {
            return Ok(Some(format!("nothing is mounted at {}", mount.display())));
        }
        match std::fs::symlink_metadata(&root.path) {
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                let is_file = {
                    let table = lock(&self.shared.table);
                    let mut names = table.below(&root.path, &root.path);
                    names.next().and_then(|name| table.get(name)).is_some_and(|entry| *entry.path == *root.path)
                };
                // A file that is gone from its folder was deleted.
                let was_deleted = is_file && root.path.parent().is_some_and(Path::is_dir);
                Ok((!was_deleted).then(|| "it is not there".to_owned()))
            }
            Err(error) => Ok(Some(format!("it cannot be read: {error}"))),
        }
    }

    /// Folders of a root, at, above or below a path of it, whose disks are away.
    fn away_below(&self, root: &Root, path: &Path) -> Result<BTreeSet<PathBuf>, ShareError> {
        let mounts = lock(&self.shared.database).mounts(&root.path)?;
        let touches = |mount: &&PathBuf| {
            mount.starts_with(&root.path)
                && **mount != root.path
                && (mount.starts_with(path) || path.starts_with(mount))
        };
        Ok(mounts.iter().filter(touches).filter(|mount| self.is_unmounted(root, mount, mount)).cloned().collect())
    }

    /// Disks in roots that were mounted when they were looked at last, and are not now.
    pub(crate) fn unmounted(&self) -> Result<BTreeSet<PathBuf>, ShareError> {
        let mounts = lock(&self.shared.database).all_mounts()?;
        Ok(mounts.into_iter().filter(|mount| !is_mount(mount)).collect())
    }

    /// Whether a disk is not mounted any more with all that was shared of it, at and below `at`. If somebody copied
    /// everything to where it was mounted, the files there are others, and none is away.
    fn is_unmounted(&self, root: &Root, mount: &Path, at: &Path) -> bool {
        if is_mount(mount) {
            return false;
        }
        let files: Vec<_> = {
            let table = lock(&self.shared.table);
            let names = table.below(&root.path, at).take(SIGNS);
            names.filter_map(|name| table.get(name)).map(|entry| entry.path.clone()).collect()
        };
        !files.is_empty() && !files.iter().any(|file| std::fs::symlink_metadata(file).is_ok())
    }

    /// Keeps the names of a root that is away, and serves nothing of it.
    fn suspend(&self, root: &Root, reason: String) -> Result<ShareOutcome, ShareError> {
        let names: Vec<_> = {
            let table = lock(&self.shared.table);
            let served = |name: &&Name| table.get(name).is_some_and(|entry| !entry.suspended);
            table.below(&root.path, &root.path).filter(served).cloned().collect()
        };
        let mut outcome = ShareOutcome { suspended: names.len(), ..ShareOutcome::default() };
        if !names.is_empty() {
            self.change(|table| names.iter().for_each(|name| table.suspend(name)));
        }
        if self.states().is_away(&root.path, &reason) {
            let kept = lock(&self.shared.table).below(&root.path, &root.path).count();
            let reason = format!("{reason}; its {kept} names are kept until it is back or 'swarmdex unshare' ends it");
            outcome.skipped.push(Skipped { path: root.path.clone(), reason, failed: false });
        }
        Ok(outcome)
    }

    /// Remembers where disks are mounted that a root is on, and which at and below a path of it.
    pub(super) fn note_mounts(&self, root: &Root, at: &Path, mut mounts: BTreeSet<PathBuf>) -> Result<(), ShareError> {
        mounts.extend(mount_of(&root.path));
        let database = lock(&self.shared.database);
        let before = database.mounts(&root.path)?;
        let beside = |mount: &&PathBuf| mount.starts_with(&root.path) && !mount.starts_with(at);
        mounts.extend(before.iter().filter(beside).cloned());
        if before != mounts {
            database.put_mounts(&root.path, &mounts)?;
        }
        Ok(())
    }
}
