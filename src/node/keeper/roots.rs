//! Roots and disks that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use super::{Error, Keeper, warn};
use crate::storage::shares::{Identity, Mounts, ShareError, ShareTable, Watcher, identity, is_remote};

/// What a look at the roots saw.
pub(super) struct Seen {
    /// Those that were named, and have come.
    new: Vec<PathBuf>,
    /// What is at each of them.
    roots: BTreeMap<PathBuf, Option<Identity>>,
    /// Where something was mounted or unmounted.
    mounts: BTreeSet<PathBuf>,
}

/// Roots that are to be watched.
struct Watched {
    watcher: Watcher,
    failed: Vec<(PathBuf, ShareError)>,
    /// Those of which the system does not tell all.
    unheard: BTreeSet<PathBuf>,
}

/// All roots, and what is at each.
fn identities(shares: &ShareTable) -> Result<BTreeMap<PathBuf, Option<Identity>>, ShareError> {
    let identified = |root: PathBuf| {
        let identity = identity(&root);
        (root, identity)
    };
    Ok(shares.roots()?.into_iter().map(identified).collect())
}

fn see(shares: &ShareTable, mounts: &mut Mounts) -> Result<Seen, ShareError> {
    let new = shares.take_up()?;
    let roots = identities(shares)?;
    let mounts = match mounts.changed() {
        None => BTreeSet::new(),
        Some(changed) => changed.into_iter().chain(shares.unmounted()?).collect(),
    };
    Ok(Seen { new, roots, mounts })
}

fn watch_all(mut watcher: Watcher, new: &[PathBuf], ended: &[PathBuf], inside: &[PathBuf]) -> Watched {
    ended.iter().for_each(|root| watcher.unwatch(root));
    let (mut failed, mut unheard) = (Vec::new(), BTreeSet::new());
    for root in new {
        if is_remote(root) {
            unheard.insert(root.clone());
        }
        if let Err(error) = watcher.watch(root) {
            failed.push((root.clone(), error));
        }
    }
    for folder in inside {
        if let Err(error) = watcher.watch_inside(folder) {
            failed.push((folder.clone(), error));
        }
    }
    Watched { watcher, failed, unheard }
}

impl Keeper {
    /// Begins to look whether roots and disks came or went. A disk of another machine may not answer: nothing waits for
    /// that, and the next look begins when this one has ended.
    pub(super) fn look_after_roots(&mut self) {
        let (shares, mut mounts) = (self.shares.clone(), self.mounts.take().unwrap_or_default());
        self.roots = Some(tokio::task::spawn_blocking(move || {
            let seen = see(&shares, &mut mounts);
            (mounts, seen)
        }));
    }

    /// Takes up what was seen.
    pub(super) async fn on_seen(&mut self, seen: Option<(Mounts, Result<Seen, ShareError>)>) {
        let seen = match seen {
            Some((mounts, seen)) => {
                self.mounts = Some(mounts);
                seen
            }
            None => return warn(Error::Bug),
        };
        let Seen { new, roots, mounts } = match seen {
            Ok(seen) => seen,
            Err(error) => return warn(error.into()),
        };
        let now = Instant::now();
        for root in new {
            tracing::info!(path = %root.display(), "it is there now: shared");
            self.changes.on_change(root, now);
        }
        let mut anew = Vec::new();
        for (root, identity) in &roots {
            // Those that are not watched yet are looked at when they are.
            if self.watched.get(root).is_some_and(|before| before != identity) {
                anew.push(root.clone());
                self.changes.on_change(root.clone(), now);
            }
        }
        let inside = |mount: &&PathBuf| roots.keys().any(|root| mount.starts_with(root) && *mount != root);
        let inside: Vec<_> = mounts.iter().filter(inside).cloned().collect();
        inside.iter().for_each(|mount| self.changes.on_change(mount.clone(), now));
        for root in &anew {
            self.watched.insert(root.clone(), roots.get(root).copied().flatten());
        }
        if !anew.is_empty() || !inside.is_empty() {
            self.watch(&anew, &[], &inside).await;
        }
    }

    /// Watches what was shared since, and what ended no more; all of it anew with `all`. Looks at it once more: it may
    /// have changed before it was watched.
    pub(super) async fn watch_roots(&mut self, all: bool) {
        let shares = self.shares.clone();
        let roots = match tokio::task::spawn_blocking(move || identities(&shares)).await {
            Ok(Ok(roots)) => roots,
            Ok(Err(error)) => return warn(error.into()),
            Err(_) => return warn(Error::Bug),
        };
        let ended: Vec<_> = self.watched.keys().filter(|root| !roots.contains_key(*root)).cloned().collect();
        let is_new = |root: &&PathBuf| all || !self.watched.contains_key(*root);
        let new: Vec<_> = roots.keys().filter(is_new).cloned().collect();
        self.watched.retain(|root, _| roots.contains_key(root));
        self.unheard.retain(|path| !ended.iter().any(|root| path.starts_with(root)));
        for root in &new {
            self.watched.insert(root.clone(), roots.get(root).copied().flatten());
        }
        if new.is_empty() && ended.is_empty() {
            return;
        }
        self.watch(&new, &ended, &[]).await;
        if !ended.is_empty() {
            // Another root may have files of the same names.
            self.more.extend(roots.into_keys());
        }
        if self.watches || all {
            self.update(new, false).await;
        }
    }

    /// Has the system tell of what happens in these roots from now on.
    async fn watch(&mut self, new: &[PathBuf], ended: &[PathBuf], inside: &[PathBuf]) {
        let Some(watcher) = self.watcher.take() else { return };
        let [new, ended, inside] = [new, ended, inside].map(<[PathBuf]>::to_vec);
        let again = new.clone();
        let watching = tokio::task::spawn_blocking(move || watch_all(watcher, &new, &ended, &inside));
        match watching.await {
            Ok(Watched { watcher, failed, unheard }) => {
                self.watcher = Some(watcher);
                self.unheard.retain(|path| !again.contains(path));
                self.unheard.extend(unheard);
                self.unheard.extend(failed.iter().map(|(path, _)| path.clone()));
                if let Some((_, error)) = failed.into_iter().next_back() {
                    warn(error.into());
                }
            }
            // The watcher is gone with its thread.
            Err(_) => warn(Error::Bug),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_look_at_roots_sees_what_is_at_each() {
        let folder = TempDir::new().unwrap();
        let shares = ShareTable::open(folder.path(), 1).unwrap();
        let seen = see(&shares, &mut Mounts::default()).unwrap();
        assert!(seen.new.is_empty() && seen.roots.is_empty() && seen.mounts.is_empty());
        assert_eq!(identity(Path::new("/does/not/exist")), None);
    }
}
