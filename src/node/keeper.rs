//! Keeps what is shared as it is on disk: hears of changes, waits until files are at rest, and looks at them anew. It
//! looks after roots and disks that come and go, too, of which the system does not tell.

mod roots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::Error;
use super::begin::warn_skipped;
use super::life::Phase;
use crate::clock::sleep_until;
use crate::state::changes::{Changes, QUIET, Rested};
use crate::state::restless::Restless;
use crate::storage::hash::HashError;
use crate::storage::shares::{
    HashProgress, Heard, Identity, Look, Mounts, ShareError, ShareOutcome, ShareTable, Watcher,
};

/// Changes that wait to be heard; with more, everything is looked through.
const HEARD: usize = 1024;
/// How often everything is looked through, in case the system missed to tell of a change.
const SELDOM: Duration = Duration::from_secs(600);
/// How often that is looked through of which the system does not tell: what other machines can change, and what is not
/// watched.
const OFTEN: Duration = Duration::from_secs(60);
/// How often it is looked whether roots and disks came or went.
const ROOTS: Duration = Duration::from_secs(2);
/// How long a look waits for another scan of a root, before what is due elsewhere has its turn.
const SCAN_PATIENCE: Duration = Duration::from_secs(5);
/// Large files that wait to be hashed; with more, everything is looked through once these are.
const MAX_LARGE: usize = 1024;

/// Looks after the share table until the node stops. Without `watches` only those files are looked at that
/// somebody asked for and that turned out changed, and roots that came or went.
pub(super) async fn keep_current(shares: ShareTable, watches: bool, phase: watch::Receiver<Phase>) {
    let cancel = Arc::new(AtomicBool::new(false));
    let work = Keeper::new(shares, watches, cancel.clone()).run();
    Phase::limit(&phase, work).await;
    // What is being hashed stops at the next piece.
    cancel.store(true, Ordering::Relaxed);
}

struct Keeper {
    shares: ShareTable,
    cancel: Arc<AtomicBool>,
    watcher: Option<Watcher>,
    /// What was at each root when it began to be watched.
    watched: BTreeMap<PathBuf, Option<Identity>>,
    /// Roots of which the system does not tell.
    unheard: BTreeSet<PathBuf>,
    heard: mpsc::Receiver<Heard>,
    /// Told when a change found no place among those heard.
    missed: Arc<Notify>,
    changes: Changes,
    restless: Restless,
    /// Paths at which a look was not done.
    more: BTreeSet<PathBuf>,
    large: Large,
    /// Whether to look through what nothing is heard of; when that is due, and when everything is.
    watches: bool,
    often: Option<Instant>,
    seldom: Option<Instant>,
    /// When to look after roots and disks, and the look under way.
    roots_due: Instant,
    roots: Option<JoinHandle<(Mounts, Result<roots::Seen, ShareError>)>>,
    mounts: Option<Mounts>,
}

/// Large files, hashed one after the other while everything else goes on.
#[derive(Default)]
struct Large {
    waiting: BTreeSet<PathBuf>,
    /// Whether more were found than can wait.
    overflowed: bool,
    hashing: Option<(PathBuf, JoinHandle<Result<bool, ShareError>>)>,
}

/// The end of a task; never, without one.
async fn ended<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    match task {
        None => std::future::pending().await,
        Some(running) => {
            let result = running.await.ok();
            *task = None;
            result
        }
    }
}

impl Large {
    fn push(&mut self, path: PathBuf) {
        if self.hashing.as_ref().is_some_and(|(other, _)| *other == path) {
            return;
        }
        if self.waiting.len() < MAX_LARGE {
            self.waiting.insert(path);
        } else {
            self.overflowed = true;
        }
    }

    /// Begins with the next, if none is being hashed.
    fn begin(&mut self, shares: &ShareTable, cancel: &Arc<AtomicBool>) {
        if self.hashing.is_none()
            && let Some(path) = self.waiting.pop_first()
        {
            let (shares, cancel, file) = (shares.clone(), cancel.clone(), path.clone());
            let hashing = tokio::task::spawn_blocking(move || shares.hash_ahead(&file, &cancel));
            self.hashing = Some((path, hashing));
        }
    }

    /// The file that was hashed, and what came of it.
    async fn ended(&mut self) -> (PathBuf, Option<Result<bool, ShareError>>) {
        let Some((_, hashing)) = &mut self.hashing else { return std::future::pending().await };
        let result = hashing.await.ok();
        let path = self.hashing.take().map(|(path, _)| path).unwrap_or_default();
        (path, result)
    }
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
        Self {
            shares,
            cancel,
            watcher,
            watched: BTreeMap::new(),
            unheard: BTreeSet::new(),
            heard,
            missed,
            changes: Changes::default(),
            restless: Restless::default(),
            more: BTreeSet::new(),
            large: Large::default(),
            watches,
            often: None,
            seldom: None,
            roots_due: Instant::now() + ROOTS,
            roots: None,
            mounts: Some(Mounts::default()),
        }
    }

    async fn run(mut self) {
        let mut generation = self.shares.generation();
        generation.mark_changed();
        if self.watches {
            (self.often, self.seldom) = (Some(Instant::now() + OFTEN), Some(Instant::now() + SELDOM));
        }
        loop {
            self.large.begin(&self.shares, &self.cancel);
            let now = (!self.more.is_empty()).then(Instant::now);
            let roots = self.roots.is_none().then_some(self.roots_due);
            let (changes, restless) = (self.changes.poll_timeout(), self.restless.poll_timeout());
            let due = [changes, restless, self.often, self.seldom, now, roots].into_iter().flatten().min();
            tokio::select! {
                Some(heard) = self.heard.recv() => self.on_heard(heard),
                () = self.missed.notified() => self.on_heard(Heard::Lost),
                changed = generation.changed() => match changed {
                    Ok(()) => {
                        self.watch_roots(false).await;
                        let stale = self.shares.take_stale();
                        self.update(stale, true).await;
                    }
                    Err(_) => return,
                },
                (path, hashed) = self.large.ended() => self.on_hashed(path, hashed).await,
                seen = ended(&mut self.roots) => self.on_seen(seen).await,
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

    /// A large file was hashed: now its hash is known.
    async fn on_hashed(&mut self, path: PathBuf, hashed: Option<Result<bool, ShareError>>) {
        match hashed {
            Some(Ok(true)) => self.update(vec![path], true).await,
            // It is being written, or somebody else hashes it: it is looked at again in a moment.
            Some(Ok(false)) => self.changes.on_change(path, Instant::now()),
            Some(Err(_)) if self.cancel.load(Ordering::Relaxed) => {}
            Some(Err(ShareError::Hash(HashError::Changing { .. }))) => self.on_changing(path),
            Some(Err(error)) => {
                warn(error.into());
                self.hurry();
            }
            None => warn(Error::Bug),
        }
        if self.large.overflowed && self.large.waiting.is_empty() {
            self.large.overflowed = false;
            self.changes.on_lost(Instant::now());
        }
    }

    /// Looks at what is due.
    async fn look(&mut self) {
        let now = Instant::now();
        if self.roots.is_none() && self.roots_due <= now {
            self.roots_due = now + ROOTS;
            self.look_after_roots();
        }
        if self.seldom.is_some_and(|at| at <= now) {
            self.changes.on_lost(now);
            self.seldom = self.watches.then(|| now + SELDOM);
        }
        if self.often.is_some_and(|at| at <= now) {
            self.often = self.watches.then(|| now + OFTEN);
            if self.watcher.is_none() {
                self.changes.on_lost(now);
            }
            self.more.extend(self.unheard.iter().cloned());
        }
        match self.changes.poll_action(now) {
            Some(Rested::Paths(paths)) => self.update(paths, true).await,
            // Folders that came back are not watched any more.
            Some(Rested::Everything) => self.watch_roots(true).await,
            None => {}
        }
        let restless = self.restless.take_due(now);
        self.update(restless, false).await;
        // One at a time: what comes meanwhile is not to wait for all of them.
        if let Some(path) = self.more.pop_first() {
            self.update(vec![path], false).await;
        }
    }

    /// Looks at some paths; `news` if they are not looked at merely once more.
    async fn update(&mut self, paths: Vec<PathBuf>, news: bool) {
        if paths.is_empty() {
            return;
        }
        let (shares, cancel, looked_at) = (self.shares.clone(), self.cancel.clone(), paths.clone());
        let look = Look { rest: QUIET, hashes: true, patience: SCAN_PATIENCE };
        let updating = tokio::task::spawn_blocking(move || shares.look(&paths, look, &|_: HashProgress| {}, &cancel));
        match updating.await {
            Ok(Ok(outcome)) => {
                let unread = &outcome.open;
                let unread: BTreeSet<_> = unread.changing.iter().chain(&unread.busy).chain(&unread.large).collect();
                looked_at.iter().filter(|path| !unread.contains(path)).for_each(|path| self.restless.on_rested(path));
                self.on_looked(outcome, news);
            }
            Ok(Err(_)) if self.cancel.load(Ordering::Relaxed) => {}
            Ok(Err(error)) => {
                warn(error.into());
                self.hurry();
            }
            Err(_) => warn(Error::Bug),
        }
    }

    fn on_looked(&mut self, outcome: ShareOutcome, news: bool) {
        let [new, changed, gone] = outcome.changes;
        let (suspended, resumed) = (outcome.suspended, outcome.resumed);
        if [new, changed, gone] != [0; 3] {
            tracing::info!(new, changed, gone, "shared files changed on disk");
        }
        if suspended > 0 {
            tracing::warn!(names = suspended, "shared files are away; their names are kept");
        }
        if resumed > 0 {
            tracing::info!(names = resumed, "shared files are there again");
        }
        if news || suspended > 0 {
            warn_skipped(&outcome);
        }
        let now = Instant::now();
        outcome.open.busy.into_iter().for_each(|path| self.changes.on_change(path, now));
        outcome.open.changing.into_iter().for_each(|path| self.on_changing(path));
        outcome.open.large.into_iter().for_each(|path| self.large.push(path));
        let stands_still = !outcome.open.more.is_empty() && outcome.hashed == 0;
        if !stands_still {
            self.more.extend(outcome.open.more);
        }
        if outcome.unfinished || stands_still {
            self.hurry();
        }
    }

    fn on_changing(&mut self, path: PathBuf) {
        if !self.restless.on_changing(path, Instant::now()) {
            self.hurry();
        }
    }

    /// What could not be looked at is looked at with everything else, soon.
    fn hurry(&mut self) {
        let soon = Instant::now() + OFTEN;
        self.seldom = self.seldom.map(|at| at.min(soon));
    }
}

fn warn(error: Error) {
    tracing::warn!(error = error.describe(), "changes on disk may be noticed late");
}
