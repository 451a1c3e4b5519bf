//! Hears from the system which files of shared folders change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{ShareError, lock};
use crate::storage::partial::is_partial;

/// Why nothing is heard.
pub(super) type WatchError = notify::Error;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something happened to a file or folder.
    Changed(PathBuf),
    /// More happened than the system could tell.
    Lost,
}

/// Watches files and folders until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    watcher: RecommendedWatcher,
    /// What is shared: of what happens beside it nothing is told.
    roots: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// Roots whose folder is watched in their place: files.
    in_folders: BTreeSet<PathBuf>,
}

impl Watcher {
    /// Tells `tell`, on a thread of its own, of all that happens below the watched paths, except in `own`.
    pub(crate) fn new(own: &Path, tell: impl Fn(Heard) + Send + 'static) -> Result<Self, ShareError> {
        let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
        let roots = Arc::<Mutex<BTreeSet<PathBuf>>>::default();
        let watched = roots.clone();
        let of_interest = move |path: &Path| {
            let shared = || lock(&watched).iter().any(|root| path.starts_with(root) || root.starts_with(path));
            !path.starts_with(&own) && !path.file_name().is_some_and(is_partial) && shared()
        };
        let hear = move |event: notify::Result<Event>| match event {
            Ok(event) if event.need_rescan() => tell(Heard::Lost),
            Ok(event) if is_change(&event.kind) => {
                event.paths.into_iter().filter(|path| of_interest(path)).for_each(|path| tell(Heard::Changed(path)));
            }
            Ok(_) => {}
            Err(_) => tell(Heard::Lost),
        };
        // Links are not shared, so what is behind them is of no interest.
        let config = Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(hear, config)
            .map_err(|source| ShareError::NotWatched { path: PathBuf::from("shared folders"), source })?;
        Ok(Self { watcher, roots, in_folders: BTreeSet::new() })
    }

    /// Watches one more file or folder, or one anew that was gone meanwhile, or in whose place another is. Walks through
    /// the folder. What is not there cannot be watched: whoever waits for it has to look.
    pub(crate) fn watch(&mut self, root: &Path) -> Result<(), ShareError> {
        self.leave(root);
        let covered = {
            let mut roots = lock(&self.roots);
            let covered = roots.iter().any(|other| root.starts_with(other) && root != other && other.is_dir());
            roots.insert(root.to_owned());
            covered
        };
        let failed = |source| ShareError::NotWatched { path: root.to_owned(), source };
        let Ok(metadata) = std::fs::symlink_metadata(root) else { return Ok(()) };
        if metadata.is_dir() {
            // One that is made anew inside another is not watched by itself.
            return self.watcher.watch(root, RecursiveMode::Recursive).map_err(failed);
        }
        if covered {
            return Ok(());
        }
        // Programs put a new file in the place of the old one: only the folder above sees that.
        self.in_folders.insert(root.to_owned());
        let folder = root.parent().unwrap_or(root);
        self.watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed)
    }

    /// Watches a folder inside a root anew, on which something was mounted, or is no more.
    pub(crate) fn watch_inside(&mut self, folder: &Path) -> Result<(), ShareError> {
        let _ = self.watcher.unwatch(folder);
        if !folder.is_dir() {
            return Ok(());
        }
        let failed = |source| ShareError::NotWatched { path: folder.to_owned(), source };
        self.watcher.watch(folder, RecursiveMode::Recursive).map_err(failed)
    }

    /// Watches a root no more that ended.
    pub(crate) fn unwatch(&mut self, root: &Path) {
        lock(&self.roots).remove(root);
        self.leave(root);
        // What is in it may be shared by itself.
        let inside: Vec<_> =
            lock(&self.roots).range(root.to_owned()..).take_while(|other| other.starts_with(root)).cloned().collect();
        for other in inside {
            if let Err(error) = self.watch(&other) {
                tracing::debug!(%error, "not watched any more");
            }
        }
    }

    /// Takes the watches of a root away.
    fn leave(&mut self, root: &Path) {
        let is_covered =
            |roots: &BTreeSet<PathBuf>, path: &Path| roots.iter().any(|other| path.starts_with(other) && other != root);
        let mut path = root;
        if self.in_folders.remove(root) {
            path = root.parent().unwrap_or(root);
            if self.in_folders.iter().any(|other| other.parent() == Some(path)) {
                return;
            }
        }
        if !is_covered(&lock(&self.roots), path) {
            // It may never have been watched, or be gone.
            let _ = self.watcher.unwatch(path);
        }
    }
}

/// Whether an event can mean that there is another content, or none.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => *kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
