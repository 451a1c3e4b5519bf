//! What is on disk becomes what is shared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use swarmdex_protocols::Name;

use super::hashing::hash_candidates;
use super::scan::{self, Candidate, Found};
use super::{HashResult, OnProgress, ShareError, ShareOutcome, ShareTable, SharedEntry, Skipped, lock, with_cause};
use crate::storage::hash::{HashError, Hashed};

impl ShareTable {
    /// Looks through everything that is shared. Files that did not change are not read.
    pub fn rescan(&self, progress: OnProgress<'_>, cancel: &AtomicBool) -> Result<ShareOutcome, ShareError> {
        let roots = self.roots()?;
        self.update(&roots, progress, cancel)
    }

    /// Looks at some files and folders: what is new below a shared folder is shared, what is gone is not any more,
    /// what changed is hashed anew. Paths that are not shared are ignored.
    pub fn update(
        &self,
        paths: &[PathBuf],
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut outcome = ShareOutcome::default();
        let roots = lock(&self.shared.database).roots()?;
        for path in paths {
            for (root, prefix) in roots.iter().filter(|(root, _)| path.starts_with(root)) {
                let _scan = self.shared.scans.begin(root, cancel)?;
                match self.update_one(root, prefix.as_ref(), path, progress, cancel) {
                    Ok(looked) => {
                        outcome.entries.extend(looked.entries);
                        outcome.skipped.extend(looked.skipped);
                        outcome.unfinished |= looked.unfinished;
                    }
                    Err(ShareError::Hash(HashError::Cancelled)) => return Err(HashError::Cancelled.into()),
                    // The others are looked at all the same.
                    Err(error) => {
                        outcome.skipped.push(Skipped { path: path.clone(), reason: with_cause(&error) });
                        outcome.unfinished = true;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Looks at one path of a root.
    fn update_one(
        &self,
        root: &Path,
        prefix: Option<&Name>,
        path: &Path,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut missing = Vec::new();
        let mut found = match scan::scan_below(root, prefix, path, &self.shared.folder) {
            Ok(found) => found,
            Err(error) => {
                // A disk that is not mounted now may be later: the root is kept, only not what was on it.
                if path == root {
                    missing.push(Skipped { path: root.to_owned(), reason: with_cause(&error) });
                }
                Found::default()
            }
        };
        let excluded = lock(&self.shared.database).excluded(found.candidates.iter().map(|found| &found.name))?;
        found.candidates.retain(|candidate| !excluded.contains(&candidate.name));
        found.skipped.extend(missing);
        self.take_in(root, path, found, progress, cancel)
    }

    /// Hashes what was found at and below a path of one root, and puts it into the table in place of what was there.
    pub(super) fn take_in(
        &self,
        root: &Path,
        below: &Path,
        found: Found,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let (strict, mut skipped, mut unfinished) = (found.strict, found.skipped, false);
        let (mut wanted, mut names) = (Vec::new(), BTreeSet::new());
        {
            let table = lock(&self.shared.table);
            for candidate in found.candidates {
                match table.taken(&candidate.name, root, &candidate.path) {
                    Some(taken) => skipped.push(taken),
                    // Two spellings of a letter are two files to the system, and one name here.
                    None if !names.insert(candidate.name.clone()) => {
                        let reason = format!("another file of the folder has the name {} already", candidate.name);
                        skipped.push(Skipped { path: candidate.path, reason });
                    }
                    None => wanted.push(candidate),
                }
            }
        }
        let hashed = self.hash_all(wanted, progress, cancel)?;
        let (shared_root, mut entries) = (Arc::<Path>::from(root), Vec::new());
        for (candidate, result) in hashed {
            match result {
                Ok((content, stamp)) => entries.push(SharedEntry {
                    name: candidate.name,
                    content,
                    size: stamp.len,
                    path: candidate.path.into(),
                    stamp,
                    root: shared_root.clone(),
                }),
                Err(error @ ShareError::Hash(HashError::Cancelled)) => return Err(error),
                Err(error @ (ShareError::Outboard { .. } | ShareError::Database { .. })) if strict => {
                    return Err(error);
                }
                Err(error) => {
                    // A file that is being written keeps its name until it is at rest, and one whose hash could not be
                    // kept until it can; nobody gets it meanwhile.
                    let kept = match &error {
                        ShareError::Hash(HashError::Changing { .. }) => true,
                        ShareError::Hash(_) => false,
                        _ => {
                            unfinished = true;
                            true
                        }
                    };
                    let before = lock(&self.shared.table).get(&candidate.name).cloned();
                    entries.extend(before.filter(|entry| kept && *entry.path == *candidate.path));
                    skipped.push(Skipped { path: candidate.path, reason: with_cause(&error) });
                }
            }
        }
        // What was revoked while it was hashed stays so.
        let database = lock(&self.shared.database);
        let excluded = database.excluded(entries.iter().map(|entry| &entry.name))?;
        let given_up = !database.has_root(root)?;
        entries.retain(|entry| !given_up && !excluded.contains(&entry.name));
        // And what was shared elsewhere under the same name meanwhile keeps it.
        {
            let table = lock(&self.shared.table);
            entries.retain(|entry| match table.taken(&entry.name, root, &entry.path) {
                Some(taken) => {
                    skipped.push(taken);
                    false
                }
                None => true,
            });
        }
        let (gone, changed) = {
            let table = lock(&self.shared.table);
            let stays: BTreeSet<_> = entries.iter().map(|entry| &entry.name).collect();
            let gone: Vec<_> = table.below(root, below).filter(|name| !stays.contains(name)).cloned().collect();
            let changed = entries.iter().filter(|entry| table.get(&entry.name) != Some(entry)).cloned();
            (gone, changed.collect::<Vec<_>>())
        };
        if !gone.is_empty() || !changed.is_empty() {
            self.change(|table| {
                gone.iter().for_each(|name| table.remove(name));
                changed.into_iter().for_each(|entry| table.insert(entry));
            });
        }
        drop(database);
        Ok(ShareOutcome { entries, skipped, unfinished })
    }

    /// Content ids of all candidates, from the cache where the file has not changed. Each hash is kept as
    /// soon as it is known: what is interrupted goes on where it was.
    fn hash_all(
        &self,
        wanted: Vec<Candidate>,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<Vec<(Candidate, HashResult)>, ShareError> {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for candidate in wanted {
            let cached = lock(&self.shared.database).cached(&candidate.path, &candidate.stamp)?;
            match cached {
                Some(content) if self.shared.outboards.has(&content, candidate.stamp.len) => {
                    let stamp = candidate.stamp;
                    known.push((candidate, Ok((content, stamp))));
                }
                _ => unknown.push(candidate),
            }
        }
        let keep = |candidate: &Candidate, hashed: &Hashed| self.keep(&candidate.path, hashed);
        let hashed = hash_candidates(&unknown, self.shared.threads, progress, cancel, &keep);
        known.extend(unknown.into_iter().zip(hashed));
        Ok(known)
    }

    fn keep(&self, path: &Path, hashed: &Hashed) -> Result<(), ShareError> {
        self.shared.outboards.keep(&hashed.content, &hashed.outboard)?;
        lock(&self.shared.database).cache(path, &hashed.stamp, &hashed.content)
    }
}
