//! What is on disk becomes what is shared.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime};

use swarmdex_protocols::Name;

use super::database::Root;
use super::hashing::hash_candidates;
use super::look::{Look, Open};
use super::scan::{Candidate, Found};
use super::select::Why;
use super::{HashResult, OnProgress, ShareError, ShareOutcome, ShareTable, SharedEntry, Skipped, lock, with_cause};
use crate::storage::hash::{self, FileStamp, HashError, Hashed};

/// Files at least so long are hashed by themselves, while everything else goes on.
const LARGE_FILE: u64 = 64 << 20;
/// Files that are hashed before they are put into the table, at most: what is hashed is announced while the rest is
/// still being read.
const BATCH_FILES: usize = 1000;
/// Bytes of these files, at most.
const BATCH_BYTES: u64 = 256 << 20;
/// How long a look hashes before others may have their turn.
const SLICE: Duration = Duration::from_secs(1);
/// It may hash so many times as long as it took to find the files, if that is more.
const SLICE_OF_SCAN: u32 = 4;

impl ShareTable {
    /// Hashes what was found at and below a path of one root, and puts it into the table in place of what was there. It
    /// does so by and by, as much as `look` allows. `since` is when it was begun to be looked for.
    pub(super) fn take_in(
        &self,
        root: &Path,
        found: Found,
        look: Look,
        since: Instant,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut outcome = ShareOutcome { skipped: found.skipped, ..ShareOutcome::default() };
        let (mut left_out, at) = (found.left_out, found.at);
        let wanted = self.wanted(root, found.candidates, &mut outcome.skipped, &mut left_out)?;
        let (known, unknown) = self.split_known(wanted)?;
        let mut stays: BTreeSet<Name> = known.iter().map(|entry| entry.name.clone()).collect();
        {
            let table = lock(&self.shared.table);
            let before =
                |candidate: &&Candidate| table.get(&candidate.name).is_some_and(|entry| *entry.path == *candidate.path);
            // Nobody else gets the name of a file that has to be hashed anew, and nobody gets the file.
            stays.extend(unknown.iter().filter(before).map(|candidate| candidate.name.clone()));
        }
        self.drop_others(root, &at, &stays, &found.unread, &mut outcome)?;
        self.put(root, known.into_iter().map(|candidate| (candidate, None)).collect(), &mut outcome)?;
        self.note_left_out(root, &at, &left_out, &mut outcome);
        let mut open = Open::default();
        let mut small = Vec::new();
        for candidate in unknown {
            if look.rest > Duration::ZERO && is_young(&candidate.stamp, look.rest) {
                open.busy.push(candidate.path);
            } else if candidate.stamp.len >= LARGE_FILE && hash::open_regular(&candidate.path).is_ok() {
                open.large.push(candidate.path);
            } else {
                small.push(candidate);
            }
        }
        // A look without a bound of time lets nobody else have a turn.
        let in_turns = look.patience < Duration::MAX;
        let slice = if in_turns { SLICE.max(since.elapsed() * SLICE_OF_SCAN) } else { Duration::MAX };
        let begin = Instant::now();
        let mut rest = small.into_iter().peekable();
        while rest.peek().is_some() {
            if !look.hashes {
                break;
            }
            if begin.elapsed() > slice {
                open.more.push(at.clone());
                break;
            }
            let batch = next_batch(&mut rest);
            let hashed = self.hash_all(&batch, progress, cancel)?;
            self.put(
                root,
                batch.into_iter().zip(hashed).map(|(file, result)| (file, Some(result))).collect(),
                &mut outcome,
            )?;
        }
        outcome.open.extend(open);
        Ok(outcome)
    }

    /// Takes in what somebody shares by hand and waits for: all of it, or nothing and an error. With `rehash` no hash
    /// is believed that was made before.
    pub(super) fn take_in_whole(
        &self,
        root: &Path,
        found: Found,
        rehash: bool,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut outcome = ShareOutcome { skipped: found.skipped, ..ShareOutcome::default() };
        let mut left_out = found.left_out;
        let wanted = self.wanted(root, found.candidates, &mut outcome.skipped, &mut left_out)?;
        let (known, unknown) = if rehash { (Vec::new(), wanted) } else { self.split_known(wanted)? };
        let hashed = self.hash_all(&unknown, progress, cancel)?;
        let lasting = |error: &ShareError| matches!(error, ShareError::Outboard { .. } | ShareError::Database { .. });
        let mut results: Vec<_> = known.into_iter().map(|candidate| (candidate, None)).collect();
        for (candidate, result) in unknown.into_iter().zip(hashed) {
            match result {
                Err(error) if lasting(&error) => return Err(error),
                result => results.push((candidate, Some(result))),
            }
        }
        let stays = results.iter().map(|(candidate, _)| candidate.name.clone()).collect();
        self.drop_others(root, &found.at, &stays, &found.unread, &mut outcome)?;
        outcome.entries = self.put(root, results, &mut outcome)?;
        self.note_left_out(root, &found.at, &left_out, &mut outcome);
        Ok(outcome)
    }

    /// The files among those found that can have their names and were not given up.
    fn wanted(
        &self,
        root: &Path,
        candidates: Vec<Candidate>,
        skipped: &mut Vec<Skipped>,
        left_out: &mut Vec<(PathBuf, Why)>,
    ) -> Result<Vec<Candidate>, ShareError> {
        let revoked = {
            let files = candidates.iter().map(|candidate| (candidate.path.as_path(), &candidate.name));
            lock(&self.shared.database).revoked(root, files)?
        };
        let (mut wanted, mut names) = (Vec::new(), BTreeSet::new());
        let table = lock(&self.shared.table);
        for (candidate, revoked) in candidates.into_iter().zip(revoked) {
            let taken = table.taken(&candidate.name, root, &candidate.path);
            if revoked {
                left_out.push((candidate.path, Why::Revoked));
            } else if let Some(taken) = taken {
                left_out.push((candidate.path, Why::Unfit));
                skipped.push(taken);
            } else if !names.insert(candidate.name.clone()) {
                // Two spellings of a letter are two files to the system, and one name here.
                let reason = format!("another file of the folder has the name {} already", candidate.name);
                left_out.push((candidate.path.clone(), Why::Unfit));
                skipped.push(Skipped { path: candidate.path, reason, failed: false });
            } else {
                wanted.push(candidate);
            }
        }
        Ok(wanted)
    }

    /// Those files whose hashes are known, and the others.
    fn split_known(&self, mut wanted: Vec<Candidate>) -> Result<(Vec<Candidate>, Vec<Candidate>), ShareError> {
        let mut served = Vec::with_capacity(wanted.len());
        {
            // Most files are in the table as they are.
            let table = lock(&self.shared.table);
            for candidate in &mut wanted {
                let same = table.get(&candidate.name).filter(|entry| entry.is(&candidate.path, &candidate.stamp));
                candidate.content = same.map(|entry| entry.content);
                served.push(same.is_some_and(|entry| !entry.suspended));
            }
        }
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (mut candidate, served) in wanted.into_iter().zip(served) {
            let found = match candidate.content {
                Some(content) => Some(content),
                None => lock(&self.shared.database).cached(&candidate.path, &candidate.stamp)?,
            };
            match found {
                Some(content) if self.shared.outboards.has(&content, candidate.stamp.len, served) => {
                    candidate.content = Some(content);
                    known.push(candidate);
                }
                _ => unknown.push(Candidate { content: None, ..candidate }),
            }
        }
        Ok((known, unknown))
    }

    /// Drops what is at and below a path and does not stay; what cannot be looked at is suspended instead.
    fn drop_others(
        &self,
        root: &Path,
        at: &Path,
        stays: &BTreeSet<Name>,
        unread: &BTreeSet<PathBuf>,
        outcome: &mut ShareOutcome,
    ) -> Result<(), ShareError> {
        let (mut gone, mut away) = (Vec::new(), Vec::new());
        {
            let table = lock(&self.shared.table);
            for name in table.below(root, at).filter(|name| !stays.contains(*name)) {
                let Some(entry) = table.get(name) else { continue };
                let is_unread = entry.path.ancestors().any(|above| unread.contains(above));
                if !is_unread {
                    gone.push((name.clone(), entry.path.clone()));
                } else if !entry.suspended {
                    away.push(name.clone());
                }
            }
        }
        let paths: Vec<_> = gone.iter().map(|(_, path)| (root, &**path)).collect();
        lock(&self.shared.database).note(&[], &paths)?;
        outcome.changes[2] += gone.len();
        outcome.suspended += away.len();
        if !gone.is_empty() || !away.is_empty() {
            self.change(|table| {
                gone.iter().for_each(|(name, _)| table.remove(name));
                away.iter().for_each(|name| table.suspend(name));
            });
        }
        Ok(())
    }

    /// Puts files of a root into the table, each with what came of hashing it, if its hash was not known. Returns what is
    /// shared of them.
    fn put(
        &self,
        root: &Path,
        results: Vec<(Candidate, Option<HashResult>)>,
        outcome: &mut ShareOutcome,
    ) -> Result<Vec<SharedEntry>, ShareError> {
        let shared_root = Arc::<Path>::from(root);
        let (mut entries, mut unfit, mut away) = (Vec::new(), Vec::new(), Vec::new());
        for (candidate, result) in results {
            let (content, stamp) = match (result, candidate.content) {
                (Some(Ok(hashed)), _) => {
                    outcome.hashed += 1;
                    hashed
                }
                (None, Some(content)) => (content, candidate.stamp),
                (None, None) => continue,
                (Some(Err(error)), _) => {
                    match fate(&error) {
                        Fate::Changes => outcome.open.changing.push(candidate.path.clone()),
                        Fate::Went => outcome.open.busy.push(candidate.path.clone()),
                        Fate::Unfinished => outcome.unfinished = true,
                        Fate::Away => {
                            outcome.unfinished = true;
                            away.push(candidate.name);
                        }
                        Fate::Goes => unfit.push((candidate.name, candidate.path.clone())),
                    }
                    outcome.skipped.push(Skipped { path: candidate.path, reason: with_cause(&error), failed: true });
                    continue;
                }
            };
            let (name, path) = (candidate.name, candidate.path.into());
            let root = shared_root.clone();
            entries.push(SharedEntry { name, content, size: stamp.len, path, stamp, suspended: false, root });
        }
        self.insert(root, entries, unfit, &away, outcome)
    }

    /// The last step: what was given up, or taken by another file, while a file was hashed, stays out.
    fn insert(
        &self,
        root: &Path,
        mut entries: Vec<SharedEntry>,
        mut unfit: Vec<(Name, PathBuf)>,
        away: &[Name],
        outcome: &mut ShareOutcome,
    ) -> Result<Vec<SharedEntry>, ShareError> {
        let database = lock(&self.shared.database);
        if !database.has_root(root)? {
            return Ok(Vec::new());
        }
        let revoked = database.revoked(root, entries.iter().map(|entry| (&*entry.path, &entry.name)))?;
        let mut revoked = revoked.into_iter();
        entries.retain(|_| revoked.next() != Some(true));
        let (mut new, mut changed, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        {
            let table = lock(&self.shared.table);
            entries.retain(|entry| match table.taken(&entry.name, root, &entry.path) {
                Some(taken) => {
                    outcome.skipped.push(taken);
                    false
                }
                None => true,
            });
            unfit.retain(|(name, path)| table.get(name).is_some_and(|entry| *entry.path == **path));
            for entry in entries.iter().filter(|entry| table.get(&entry.name) != Some(*entry)) {
                let before = table.get(&entry.name);
                outcome.changes[0] += usize::from(before.is_none());
                outcome.changes[1] += usize::from(before.is_some_and(|before| before.content != entry.content));
                outcome.resumed += usize::from(before.is_some_and(|before| before.suspended));
                if before.is_none_or(|before| before.path != entry.path) {
                    new.push((root, &*entry.path));
                    // Another file of the folder had the name.
                    gone.extend(before.map(|before| before.path.clone()));
                }
                changed.push(entry.clone());
            }
        }
        outcome.changes[2] += unfit.len();
        let paths: Vec<_> =
            gone.iter().map(|path| &**path).chain(unfit.iter().map(|(_, path)| path.as_path())).collect();
        database.note(&new, &paths.into_iter().map(|path| (root, path)).collect::<Vec<_>>())?;
        if !changed.is_empty() || !unfit.is_empty() || !away.is_empty() {
            self.change(|table| {
                unfit.iter().for_each(|(name, _)| table.remove(name));
                away.iter().for_each(|name| table.suspend(name));
                changed.into_iter().for_each(|entry| table.insert(entry));
            });
        }
        Ok(entries)
    }

    /// Content ids of files. Each hash is kept as soon as it is known: what is interrupted goes on where it was.
    fn hash_all(
        &self,
        files: &[Candidate],
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<Vec<HashResult>, ShareError> {
        let keep = |candidate: &Candidate, hashed: &Hashed| self.keep(&candidate.path, hashed);
        let results = hash_candidates(files, self.shared.threads, progress, cancel, &keep);
        if results.iter().any(|result| matches!(result, Err(ShareError::Hash(HashError::Cancelled)))) {
            return Err(HashError::Cancelled.into());
        }
        Ok(results)
    }

    /// Hashes a large file, so that the next look at it finds its hash known; the table is free meanwhile. False if it is
    /// being hashed already.
    pub(crate) fn hash_ahead(&self, path: &Path, cancel: &AtomicBool) -> Result<bool, ShareError> {
        let Some(_claim) = self.shared.scans.claim(path) else { return Ok(false) };
        let hashed = hash::hash_file(path, self.shared.threads, &AtomicU64::new(0), cancel)?;
        self.keep(path, &hashed)?;
        Ok(true)
    }

    fn keep(&self, path: &Path, hashed: &Hashed) -> Result<(), ShareError> {
        self.shared.outboards.keep(&hashed.content, &hashed.outboard)?;
        lock(&self.shared.database).cache(path, &hashed.stamp, &hashed.content)
    }

    /// Takes up what was shared when the node ran last, without looking at it: until then it looks as if nothing were shared.
    /// Names are kept, and nothing is served before [`ShareTable::rescan`] has found the file.
    pub(crate) fn recall(&self) -> Result<(), ShareError> {
        let roots = lock(&self.shared.database).roots()?;
        roots.iter().try_for_each(|root| self.recall_root(root))
    }

    fn recall_root(&self, root: &Root) -> Result<(), ShareError> {
        let known = lock(&self.shared.database).known(&root.path)?;
        let shared_root = Arc::<Path>::from(root.path.as_path());
        let entry = |(path, stamp, content): (PathBuf, FileStamp, _)| {
            let name = super::scan::name_of(root, &path).ok()?;
            let (size, root) = (stamp.len, shared_root.clone());
            Some(SharedEntry { name, content, size, path: path.into(), stamp, suspended: true, root })
        };
        let mut entries: Vec<_> = known.into_iter().filter_map(entry).collect();
        let files = entries.iter().map(|entry| (&*entry.path, &entry.name));
        let revoked = lock(&self.shared.database).revoked(&root.path, files)?;
        let mut revoked = revoked.into_iter();
        {
            let table = lock(&self.shared.table);
            entries.retain(|entry| revoked.next() != Some(true) && table.get(&entry.name).is_none());
        }
        if !entries.is_empty() {
            self.change(|table| entries.into_iter().for_each(|entry| table.insert(entry)));
        }
        Ok(())
    }
}

/// What becomes of the name of a file that could not be hashed.
enum Fate {
    /// It stays: it is being written, and looked at again when it may be at rest.
    Changes,
    /// It stays: it just went, and it is looked at again in a moment.
    Went,
    /// This node is at fault.
    Unfinished,
    /// It cannot be read now.
    Away,
    /// It is none that can be shared.
    Goes,
}

fn fate(error: &ShareError) -> Fate {
    match error {
        ShareError::Hash(HashError::Changing { .. }) => Fate::Changes,
        ShareError::Hash(HashError::Io { source, .. }) => match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Fate::Went,
            ErrorKind::PermissionDenied => Fate::Goes,
            _ => Fate::Away,
        },
        ShareError::Hash(_) => Fate::Goes,
        _ => Fate::Unfinished,
    }
}

/// The next files to hash together.
fn next_batch(files: &mut std::iter::Peekable<std::vec::IntoIter<Candidate>>) -> Vec<Candidate> {
    let (mut batch, mut bytes) = (Vec::new(), 0u64);
    while batch.len() < BATCH_FILES && bytes < BATCH_BYTES {
        let Some(file) = files.next() else { break };
        bytes = bytes.saturating_add(file.stamp.len);
        batch.push(file);
    }
    batch
}

/// Whether a file changed just now. The time of the last change cannot be set by its owner; a clock of another machine
/// that is far off is not believed.
fn is_young(stamp: &FileStamp, rest: Duration) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let age = i128::try_from(now.as_nanos()).unwrap_or_default() - i128::from(stamp.ctime_ns);
    age.unsigned_abs() < rest.as_nanos()
}
