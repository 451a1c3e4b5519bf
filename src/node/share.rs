//! Sharing and revoking, and what the master says of it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use swarmdex_protocols::{Name, Version};
use tokio::time::Instant;

use super::error::shorten;
use super::lookup::parse_name;
use super::operation::{CancelOnDrop, Control, ControlRequest};
use super::types::{
    EntryInfo, MasterState, Progress, RevokedInfo, ShareReport, SharedCounts, SharedInfo, Skipped, Standing,
    WrittenFile,
};
use super::{Error, Node};
use crate::config::ShareOptions;
use crate::state::announce;
use crate::storage::shares::{self, HashProgress, SharedEntry};
use crate::storage::writers;

/// How long a command waits for the next of the master's verdicts on what it shares or revokes: a hundred thousand of them take
/// a while in all.
const VERDICT_PATIENCE: Duration = Duration::from_secs(20);

/// How long a command waits for a claim, while no master can be reached.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);

impl From<HashProgress> for Progress {
    fn from(hashing: HashProgress) -> Self {
        let HashProgress { done_bytes, total_bytes, done_files, total_files } = hashing;
        Self { done_bytes, total_bytes, done_files, total_files, ..Self::default() }
    }
}

impl From<shares::Skipped> for Skipped {
    fn from(skipped: shares::Skipped) -> Self {
        let shares::Skipped { path, reason, failed } = skipped;
        Self { path, reason, failed }
    }
}

impl From<writers::Written> for WrittenFile {
    fn from(written: writers::Written) -> Self {
        let writers::Written { path, program, pid } = written;
        Self { path, program, pid }
    }
}

impl Node {
    pub(super) async fn share_paths(
        self,
        paths: Vec<PathBuf>,
        name: Option<String>,
        options: ShareOptions,
        control: Control,
    ) -> Result<ShareReport, Error> {
        let Control { progress, mut requested } = control;
        if let Some(name) = &name {
            parse_name(name)?;
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let _guard = CancelOnDrop(cancel.clone());
        let shares = self.inner.shares.clone();
        let hashing = tokio::task::spawn_blocking(move || {
            shares.add(
                &paths,
                name.as_deref(),
                &options,
                &|now| {
                    progress.send_replace(now.into());
                },
                &cancel,
            )
        });
        let outcome = tokio::select! {
            outcome = hashing => outcome.map_err(|_| Error::Bug)??,
            Ok(_) = requested.wait_for(|requested| *requested == ControlRequest::Cancel) => return Err(Error::Cancelled),
        };
        let paths: Vec<_> = outcome.entries.iter().map(|entry| entry.path.clone()).collect();
        let looking = tokio::task::spawn_blocking(move || writers::written(paths.iter().map(|path| &**path)));
        let names: Vec<_> = outcome.entries.iter().map(|entry| entry.name.clone()).collect();
        self.inner.standings.retry(&names);
        let mut open: Vec<_> = outcome.entries.iter().map(|entry| (entry.name.clone(), entry.content)).collect();
        open.sort_unstable();
        self.settled(open, |(name, content)| self.inner.standings.of(name, content).is_none()).await;
        // What is said along with it is worth a moment.
        let written = tokio::time::timeout(Duration::from_secs(2), looking).await;
        let written = written.ok().and_then(Result::ok).unwrap_or_default();
        Ok(ShareReport {
            entries: outcome.entries.into_iter().map(|entry| self.shared_info(entry)).collect(),
            skipped: outcome.skipped.into_iter().map(Skipped::from).collect(),
            left_out: outcome.left_out,
            written: written.into_iter().map(WrittenFile::from).collect(),
        })
    }

    /// Waits until every name has an answer, the master's or, while it cannot be reached, the network's, or no more
    /// answers come; `is_open` says which have none. Answers come in the order of the names mostly, so the first that is
    /// open is looked at, and all of them only when nothing moves.
    pub(super) async fn settled<T>(&self, names: Vec<T>, is_open: impl Fn(&T) -> bool) {
        let mut changes = self.inner.standings.watch();
        let mut master = self.inner.questions.master.clone();
        let patience = match *master.borrow() {
            // With no master in sight the files are shared all the same, as soon as one shows up.
            MasterState::Unknown => Duration::from_secs(2),
            // Neither can the network answer where there is nobody else.
            MasterState::Unreachable { .. } => CLAIM_PATIENCE,
            _ => VERDICT_PATIENCE,
        };
        let (mut open, mut deadline) = (VecDeque::from(names), Instant::now() + patience);
        loop {
            changes.borrow_and_update();
            master.borrow_and_update();
            let before = open.len();
            while open.front().is_some_and(|name| !is_open(name)) {
                open.pop_front();
            }
            if open.is_empty() {
                return;
            }
            if open.len() < before {
                deadline = Instant::now() + patience;
            }
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = master.changed() => changed,
                () = tokio::time::sleep_until(deadline) => {
                    let before = open.len();
                    open.retain(&is_open);
                    if open.len() == before {
                        return;
                    }
                    deadline = Instant::now() + patience;
                    continue;
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// What this node shares, and what the master says of it, sorted by name. All of it is in memory.
    ///
    /// # Errors
    /// [`Error::Bug`]: a thread panicked.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn shared(&self) -> Result<Vec<SharedInfo>, Error> {
        let node = self.clone();
        // A table of 100,000 names takes a while to walk.
        let listing = tokio::task::spawn_blocking(move || {
            let entries = node.inner.shares.kept();
            entries.iter().map(|entry| node.shared_info(entry.clone())).collect()
        });
        listing.await.map_err(|_| Error::Bug)
    }

    fn shared_info(&self, entry: SharedEntry) -> SharedInfo {
        let standing = self.inner.standings.of(&entry.name, &entry.content);
        let version = match &standing {
            Some(announce::Standing::Certified(version) | announce::Standing::Claimed(version)) => *version,
            _ => Version::default(),
        };
        let confirmed = self.inner.standings.is_confirmed(&entry.name);
        let SharedEntry { name, content, size, path, suspended, .. } = entry;
        SharedInfo {
            entry: EntryInfo { name, content, size, owner: self.inner.net.local(), version },
            standing: match standing {
                None => Standing::Pending,
                Some(announce::Standing::Certified(_)) if confirmed => Standing::Certified,
                Some(announce::Standing::Certified(_)) => Standing::Unconfirmed,
                Some(announce::Standing::Claimed(_)) => Standing::Claimed,
                Some(announce::Standing::Conflict(owner)) => Standing::Conflict { conflict_owner: owner },
                Some(announce::Standing::Refused(reason)) => Standing::Refused { reason },
            },
            path: path.to_path_buf(),
            suspended,
        }
    }

    pub(super) async fn shared_counts(&self) -> SharedCounts {
        let node = self.clone();
        let counting =
            tokio::task::spawn_blocking(move || node.inner.counts.count(&node.inner.shares, &node.inner.standings));
        counting.await.unwrap_or_default()
    }

    /// Gives names up: all of them, or none if one is not shared by this node. The files stay where they are. A name stays given up
    /// until its file, or a folder above it, is shared anew by hand. It waits for the master as [`Node::share_with`] does.
    ///
    /// # Errors
    /// - [`Error::Name`]: a text is no name. [`Error::NotShared`]: this node does not share it.
    /// - [`Error::Share`]: the share table cannot be written. [`Error::Bug`]: a thread panicked.
    ///
    /// # Cancel safety
    /// Not cancel safe. Once it was polled the names are given up, and only the answer is lost.
    pub async fn revoke(&self, names: Vec<String>) -> Result<Vec<RevokedInfo>, Error> {
        let names: Vec<Name> = names.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?;
        let shares = self.inner.shares.clone();
        let removing = names.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let entries = shares.kept();
            let shared = |name: &Name| entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok();
            if let Some(name) = removing.iter().find(|name| !shared(name)) {
                return Err(Error::NotShared { name: shorten(name.as_str()) });
            }
            shares.remove(&removing).map_err(Error::from)
        });
        removed.await.map_err(|_| Error::Bug)??;
        self.settled(names.clone(), |name| self.inner.standings.knows(name)).await;
        let info = |name: &Name| RevokedInfo { name: name.to_string(), acknowledged: self.is_acknowledged(name) };
        Ok(names.iter().map(info).collect())
    }

    /// Whether the master knows that a name is given up. What the network was told while the master was away, it does not know yet.
    pub(super) fn is_acknowledged(&self, name: &Name) -> bool {
        let joined = matches!(*self.inner.questions.master.borrow(), MasterState::Joined { .. } | MasterState::Own);
        joined && self.inner.standings.is_known_to_be_free(name)
    }
}
