//! Sharing and revoking, and what the master says of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use swarmdex_protocols::{Name, Version};
use tokio::time::Instant;

use super::lookup::parse_name;
use super::operation::{CancelOnDrop, Reins, Wish};
use super::types::{
    EntryInfo, MasterState, Progress, RevokedInfo, ShareReport, SharedCounts, SharedInfo, Skipped, Standing,
};
use super::{Error, Node, shorten};
use crate::state::announce;
use crate::storage::shares::{self, HashProgress, SharedEntry};

/// How long a command waits for the next of the master's verdicts on what it shares or revokes: a hundred thousand of them take
/// a while in all.
const VERDICT_PATIENCE: Duration = Duration::from_secs(20);

/// How long a command waits for a claim, while no master can be reached.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);

impl From<HashProgress> for Progress {
    fn from(hashing: HashProgress) -> Self {
        let HashProgress { done_bytes, total_bytes, done_files, total_files } = hashing;
        Self { done_bytes, total_bytes, done_files, total_files, current: String::new() }
    }
}

impl From<shares::Skipped> for Skipped {
    fn from(skipped: shares::Skipped) -> Self {
        let shares::Skipped { path, reason } = skipped;
        Self { path, reason }
    }
}

impl Node {
    pub(super) async fn share_paths(
        self,
        paths: Vec<PathBuf>,
        name: Option<String>,
        reins: Reins,
    ) -> Result<ShareReport, Error> {
        let Reins { progress, mut wish } = reins;
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
                &|now| {
                    progress.send_replace(now.into());
                },
                &cancel,
            )
        });
        let outcome = tokio::select! {
            outcome = hashing => outcome.map_err(|_| Error::Bug)??,
            Ok(_) = wish.wait_for(|wish| *wish == Wish::Cancel) => return Err(Error::Cancelled),
        };
        let names: Vec<_> = outcome.entries.iter().map(|entry| entry.name.clone()).collect();
        self.inner.standings.retry(&names);
        self.settled(|node| {
            let standings = &node.inner.standings;
            outcome.entries.iter().filter(|entry| standings.of(&entry.name, &entry.content).is_none()).count()
        })
        .await;
        Ok(ShareReport {
            entries: outcome.entries.into_iter().map(|entry| self.shared_info(entry)).collect(),
            skipped: outcome.skipped.into_iter().map(Skipped::from).collect(),
        })
    }

    /// Waits until every name has an answer, the master's or, while it cannot be reached, the network's, or no more
    /// answers come; `open` counts the names without.
    async fn settled(&self, open: impl Fn(&Self) -> usize) {
        let mut changes = self.inner.standings.watch();
        let mut master = self.inner.questions.master.clone();
        let patience = match *master.borrow() {
            // With no master in sight the files are shared all the same, as soon as one shows up.
            MasterState::Unknown => Duration::from_secs(2),
            // Neither can the network answer where there is nobody else.
            MasterState::Unreachable { .. } => CLAIM_PATIENCE,
            _ => VERDICT_PATIENCE,
        };
        let (mut fewest, mut deadline) = (usize::MAX, Instant::now());
        loop {
            changes.borrow_and_update();
            master.borrow_and_update();
            let left = open(self);
            if left < fewest {
                (fewest, deadline) = (left, Instant::now() + patience);
            }
            if left == 0 {
                return;
            }
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = master.changed() => changed,
                () = tokio::time::sleep_until(deadline) => return,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// What this node shares.
    pub async fn shared(&self) -> Result<Vec<SharedInfo>, Error> {
        let node = self.clone();
        // A table of 100,000 names takes a while to walk.
        let listing = tokio::task::spawn_blocking(move || {
            let entries = node.inner.shares.entries();
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
        let SharedEntry { name, content, size, path, .. } = entry;
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
            path,
        }
    }

    pub(super) fn shared_counts(&self) -> SharedCounts {
        let mut counts = SharedCounts::default();
        for entry in self.inner.shares.entries().iter() {
            counts.entries += 1;
            counts.bytes = counts.bytes.saturating_add(entry.size);
            match self.inner.standings.of(&entry.name, &entry.content) {
                None => counts.pending += 1,
                Some(announce::Standing::Certified(_)) if self.inner.standings.is_confirmed(&entry.name) => {
                    counts.certified += 1;
                }
                Some(announce::Standing::Certified(_)) => counts.unconfirmed += 1,
                Some(announce::Standing::Claimed(_)) => counts.claimed += 1,
                Some(announce::Standing::Conflict(_)) => counts.conflicts += 1,
                Some(announce::Standing::Refused(_)) => counts.refused += 1,
            }
        }
        counts
    }

    /// Gives names up: all of them, or none if one is not shared by this node.
    pub async fn revoke(&self, names: Vec<String>) -> Result<Vec<RevokedInfo>, Error> {
        let names: Vec<Name> = names.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?;
        let shares = self.inner.shares.clone();
        let removing = names.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let entries = shares.entries();
            let shared = |name: &Name| entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok();
            if let Some(name) = removing.iter().find(|name| !shared(name)) {
                return Err(Error::NotShared { name: shorten(name.as_str()) });
            }
            shares.remove(&removing).map_err(Error::from)
        });
        removed.await.map_err(|_| Error::Bug)??;
        self.settled(|node| names.iter().filter(|name| node.inner.standings.knows(name)).count()).await;
        let told = |name: &Name| !self.inner.standings.knows(name);
        Ok(names.iter().map(|name| RevokedInfo { name: name.to_string(), acknowledged: told(name) }).collect())
    }
}
