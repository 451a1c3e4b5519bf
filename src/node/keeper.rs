//! Keeps what is shared as it is on disk: hears of changes, waits until files are at rest, and looks at them anew.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::start::warn_skipped;
use super::{Error, Phase};
use crate::net::sleep_until;
use crate::state::changes::{Changes, Rested};
use crate::storage::shares::{HashProgress, Heard, ShareTable, SharedEntry, Watcher};

/// Changes that wait to be heard; with more, everything is looked through.
const HEARD: usize = 1024;
/// How often everything is looked through: where the system tells of changes, in case it missed some (a disk that comes
/// back, a folder of another machine), and where it does not.
const SELDOM: Duration = Duration::from_secs(600);
const OFTEN: Duration = Duration::from_secs(60);

/// Looks after the share table until the node stops. Without `watches` only those files are looked at that
/// somebody asked for and that turned out changed.
pub(super) async fn keep_current(shares: ShareTable, watches: bool, mut phase: watch::Receiver<Phase>) {
    let cancel = Arc::new(AtomicBool::new(false));
    let work = Keeper::new(shares, watches, cancel.clone()).run();
    tokio::select! {
        () = Phase::end(&mut phase) => {}
        () = work => {}
    }
    // What is being hashed stops at the next piece.
    cancel.store(true, Ordering::Relaxed);
}

struct Keeper {
    shares: ShareTable,
    cancel: Arc<AtomicBool>,
    watcher: Option<Watcher>,
    watched: BTreeSet<PathBuf>,
    heard: mpsc::Receiver<Heard>,
    /// Told when a change found no place among those heard.
    missed: Arc<Notify>,
    changes: Changes,
    /// How often to look through everything, and when next.
    pace: Option<Duration>,
    sweep: Option<Instant>,
}

impl Keeper {
    fn new(shares: ShareTable, watches: bool, cancel: Arc<AtomicBool>) -> Self {
        let (sender, heard) = mpsc::channel(HEARD);
        let missed = Arc::<Notify>::default();
        let full = missed.clone();
        let tell = move |news| {
            if sender.try_send(news).is_err() {
                full.notify_one();
            }
        };
        let watcher = match Watcher::new(shares.own_folder(), tell) {
            _ if !watches => None,
            Ok(watcher) => Some(watcher),
            Err(error) => {
                warn(error.into());
                None
            }
        };
        let pace = watches.then_some(if watcher.is_some() { SELDOM } else { OFTEN });
        let (watched, changes) = (BTreeSet::new(), Changes::default());
        Self { shares, cancel, watcher, watched, heard, missed, changes, pace, sweep: None }
    }

    async fn run(mut self) {
        let mut generation = self.shares.generation();
        generation.mark_changed();
        self.sweep = self.pace.map(|pace| Instant::now() + pace);
        loop {
            let due = [self.changes.poll_timeout(), self.sweep].into_iter().flatten().min();
            tokio::select! {
                Some(heard) = self.heard.recv() => self.on_heard(heard),
                () = self.missed.notified() => self.on_heard(Heard::Lost),
                changed = generation.changed() => match changed {
                    Ok(()) => {
                        self.watch_new_roots().await;
                        let stale = self.shares.take_stale();
                        self.update(stale, true).await;
                    }
                    Err(_) => return,
                },
                () = sleep_until(due) => self.look().await,
            }
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        let now = Instant::now();
        match heard {
            Heard::Changed(path) => self.changes.on_change(path, now),
            Heard::Lost => self.changes.on_lost(now),
        }
    }

    /// Looks at what is due.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.sweep.is_some_and(|at| at <= now) {
            self.changes.on_lost(now);
            self.sweep = self.pace.map(|pace| now + pace);
        }
        match self.changes.poll(now) {
            Some(Rested::Paths(paths)) => self.update(paths, true).await,
            Some(Rested::Everything) => {
                // Folders that came back are not watched any more.
                self.watched.clear();
                self.watch_new_roots().await;
            }
            None => {}
        }
    }

    /// Watches what was shared since, and looks at it once more: it may have changed before it was watched.
    async fn watch_new_roots(&mut self) {
        if self.pace.is_none() {
            return;
        }
        let shares = self.shares.clone();
        let roots = match tokio::task::spawn_blocking(move || shares.roots()).await {
            Ok(Ok(roots)) => roots,
            Ok(Err(error)) => return warn(error.into()),
            Err(_) => return warn(Error::Bug),
        };
        let new: Vec<PathBuf> = roots.into_iter().filter(|root| self.watched.insert(root.clone())).collect();
        if new.is_empty() {
            return;
        }
        if let Some(mut watcher) = self.watcher.take() {
            let roots = new.clone();
            let watching = tokio::task::spawn_blocking(move || {
                let failed = roots.iter().filter_map(|root| watcher.watch(root).err()).last();
                (watcher, failed)
            });
            let failed = match watching.await {
                Ok((watcher, failed)) => {
                    self.watcher = Some(watcher);
                    failed.map(Error::from)
                }
                // The watcher is gone with its thread.
                Err(_) => Some(Error::Bug),
            };
            if let Some(error) = failed {
                self.pace = Some(OFTEN);
                warn(error);
            }
        }
        self.update(new, false).await;
    }

    /// Looks at some paths; `news` if they are not looked at merely once more.
    async fn update(&mut self, paths: Vec<PathBuf>, news: bool) {
        if paths.is_empty() {
            return;
        }
        let (shares, cancel) = (self.shares.clone(), self.cancel.clone());
        let updating = tokio::task::spawn_blocking(move || {
            let before = shares.entries();
            let outcome = shares.update(&paths, &|_: HashProgress| {}, &cancel)?;
            Ok((outcome, count_changes(&before, &shares.entries())))
        });
        match updating.await {
            Ok(Ok((outcome, [new, changed, gone]))) => {
                if [new, changed, gone] != [0; 3] {
                    tracing::info!(new, changed, gone, "shared files changed on disk");
                }
                if news {
                    warn_skipped(&outcome);
                }
                if outcome.unfinished {
                    self.hurry();
                }
            }
            Ok(Err(_)) if self.cancel.load(Ordering::Relaxed) => {}
            Ok(Err(error)) => {
                warn(error);
                self.hurry();
            }
            Err(_) => warn(Error::Bug),
        }
    }

    /// What could not be looked at is looked at with everything else, soon.
    fn hurry(&mut self) {
        let soon = Instant::now() + OFTEN;
        self.sweep = self.sweep.map(|at| at.min(soon));
    }
}

/// How many entries are new, other than before, and gone.
fn count_changes(before: &[SharedEntry], after: &[SharedEntry]) -> [usize; 3] {
    let find = |name, entries: &[SharedEntry]| entries.binary_search_by(|entry| entry.name.cmp(name)).ok();
    let mut counts = [0; 3];
    for entry in after {
        match find(&entry.name, before).and_then(|at| before.get(at)) {
            None => counts[0] += 1,
            Some(old) if old.content != entry.content => counts[1] += 1,
            Some(_) => {}
        }
    }
    counts[2] = before.iter().filter(|entry| find(&entry.name, after).is_none()).count();
    counts
}

fn warn(error: Error) {
    tracing::warn!(error = error.describe(), "changes on disk may be noticed late");
}
