//! The index on disk: an SQLite database with one thread that writes and one that reads.
//!
//! The writer takes all requests that wait into one transaction. The service of `state::index` carries each out,
//! over the tables as they are inside that transaction. The writer answers after the commit (`synchronous=FULL`): so what was
//! acknowledged survives a crash, and many share a commit.

mod authority;
mod away;
mod compare;
mod options;
mod read;
mod recount;
mod schema;
mod sqlite;
mod words;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use swarmdex_protocols::index::{Cursor, Page, Refusal, RefusalCode, Sealed, ShareSum};
use swarmdex_protocols::{Certificate, Multiaddr, Name, Pattern, PeerId, Statement, Version};
use tokio::sync::{Notify, oneshot};

pub(crate) use compare::CompareStep;
pub(crate) use options::IndexOptions;

use crate::locks::lock;
pub(crate) use crate::state::index::{WriteOp, WriteOutcome};
use crate::state::lease::Holding;
use crate::tasks::Failures;

/// Requests that wait for the writer.
const WRITE_QUEUE: usize = 1024;
/// Requests that wait for the reader.
const READ_QUEUE: usize = 1024;

/// Why the index cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It is another program's database, or of a newer version.
    #[error("{path} is no index of this version of swarmdex; nothing was changed, move it away to begin a new one")]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// It is damaged.
    #[error(
        "the index {path} is damaged ({detail}); restore a backup, or move it away: peers announce what they share again"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// SQLite cannot use it.
    #[error("the index {path} cannot be used")]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A thread cannot be started.
    #[error("no thread could be started for the index")]
    Thread(#[source] io::Error),
}

/// A member from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownPeer {
    /// Its id.
    pub peer: PeerId,
    /// Where it listened.
    pub addresses: Vec<Multiaddr>,
    /// What it holds.
    pub held: ShareSum,
}

/// A question to the index.
#[derive(Debug, Clone)]
pub(crate) enum ReadOp {
    /// Who holds a name.
    Lookup {
        /// The name.
        name: Name,
    },
    /// A page of the tombstones of names that are free, signed anew; the latest first.
    Tombstones {
        /// Where the page before ended; `None` for the first.
        before: Option<Version>,
        /// Most.
        limit: u32,
    },
    /// Names of these of which others may know more than the index: it does not have them, or has them by an earlier grant than is
    /// shown.
    Unknown {
        /// The names, each with the version of that grant.
        names: Vec<(Name, Option<Version>)>,
        /// Whether those are among them, too, that the index ended after that grant.
        ended: bool,
    },
    /// Goes on dividing what a member holds in a range of names.
    Compare(Box<CompareStep>),
    /// The names that a member holds, from one on, with their seals.
    Seals {
        /// The member.
        peer: PeerId,
        /// The first name, or any text before it.
        from: String,
    },
    /// A page of the entries that match.
    Search {
        /// The query.
        pattern: Pattern,
        /// Where the last page ended.
        cursor: Option<Cursor>,
        /// Most entries.
        limit: u32,
    },
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// The name is held.
    Found {
        /// Its entry, signed.
        certificate: Certificate,
        /// Peers with the same content, the owner first.
        holders: Vec<PeerId>,
    },
    /// Nobody holds the name.
    NotFound,
    /// A page.
    Page(Page),
    /// A page of tombstones.
    Tombstones(TombstonePage),
    /// Names that the index does not have.
    Unknown(Vec<Name>),
    /// How far a comparison is.
    Compared(Box<CompareStep>),
    /// Names with their seals, in order.
    Sealed(Vec<Sealed>),
}

/// A page of tombstones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TombstonePage {
    /// The tombstones, the latest first.
    pub tombstones: Vec<Statement>,
    /// Where to go on; `None` at the end. A page may be empty and not the last.
    pub next: Option<Version>,
}

/// An answer that comes later.
pub(crate) type Later<T> = oneshot::Receiver<Result<T, Refusal>>;

enum Job<Op, Outcome> {
    Do(Op, oneshot::Sender<Result<Outcome, Refusal>>),
    /// Everything was counted; the writer's alone.
    Recounted(Result<Option<recount::Recount>, rusqlite::Error>),
    #[cfg(test)]
    Sql(String, SyncSender<()>),
    Stop,
}

/// The index. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub(crate) struct IndexStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writes: SyncSender<Job<WriteOp, WriteOutcome>>,
    reads: SyncSender<Job<ReadOp, ReadOutcome>>,
    counts: Arc<Counts>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    /// The writer has a way into its own queue, so it does not see that nobody else has one any more.
    fn drop(&mut self) {
        self.counts.abandoned.store(true, Ordering::Relaxed);
        // A full queue wakes it as well.
        let _ = self.writes.try_send(Job::Stop);
    }
}

#[derive(Debug, Default)]
struct Counts {
    /// Whether nobody has a handle any more.
    abandoned: AtomicBool,
    names: AtomicU64,
    peers: AtomicU64,
    /// The last version when the index was opened, and the last one now.
    first: AtomicU64,
    last: AtomicU64,
    /// Members of whom the index holds something else than was said before; at most one entry a member.
    corrected: Mutex<BTreeMap<PeerId, Holding>>,
    /// The members that were found when everything was last counted; gone once it was asked for.
    members: Mutex<Option<BTreeSet<PeerId>>>,
    /// Says that one of the two has news.
    found: Notify,
}

impl Counts {
    fn set_members(&self, members: BTreeSet<PeerId>) {
        *lock(&self.members) = Some(members);
        self.found.notify_one();
    }

    fn correct(&self, corrected: Vec<(PeerId, Holding)>) {
        lock(&self.corrected).extend(corrected);
        self.found.notify_one();
    }
}

impl IndexStore {
    /// Opens the index at `path`, or makes a new one; also returns the members from before.
    pub(crate) fn open(path: &Path, options: IndexOptions) -> Result<(Self, Vec<KnownPeer>), IndexError> {
        let failed = |error| schema::explain(path, error);
        let writing = schema::open(path)?;
        let known = schema::known_peers(&writing).map_err(failed)?;
        let reading = schema::open_for_reading(path).map_err(failed)?;
        let counts = Arc::new(Counts::default());
        let (writes, write_queue) = sync_channel(WRITE_QUEUE);
        let place = (path.to_owned(), writes.clone());
        let writer = write::Writer::new(writing, place, options.clone(), counts.clone()).map_err(failed)?;
        let failures = options.failures.clone();
        let reader = read::Reader::new(reading, options);
        let (reads, read_queue) = sync_channel(READ_QUEUE);
        let threads = vec![
            start("index-write", &failures, move || writer.run(&write_queue))?,
            start("index-read", &failures, move || reader.run(&read_queue))?,
        ];
        let inner = Inner { writes, reads, counts, threads: Mutex::new(threads) };
        Ok((Self { inner: Arc::new(inner) }, known))
    }

    /// Asks for a change; never blocks. The answer comes after the change is on disk.
    pub(crate) fn try_write(&self, op: WriteOp) -> Result<Later<WriteOutcome>, Refusal> {
        send(&self.inner.writes, op)
    }

    /// Asks a question; never blocks. The answer reflects every change acknowledged before.
    pub(crate) fn try_read(&self, op: ReadOp) -> Result<Later<ReadOutcome>, Refusal> {
        send(&self.inner.reads, op)
    }

    /// Number of names and of members.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.inner.counts.names.load(Ordering::Relaxed), self.inner.counts.peers.load(Ordering::Relaxed))
    }

    /// The last version that was given before the index was opened, and the last one now.
    pub(crate) fn versions(&self) -> (Version, Version) {
        let version = |count: &AtomicU64| Version(count.load(Ordering::Relaxed));
        (version(&self.inner.counts.first), version(&self.inner.counts.last))
    }

    /// Whether nothing was ever in it when it was opened.
    pub(crate) fn is_new(&self) -> bool {
        self.versions().0 == Version::default()
    }

    /// Waits until [`Self::take_corrected`] or [`Self::take_members`] has news. For one waiter.
    pub(crate) async fn found(&self) {
        self.inner.counts.found.notified().await;
    }

    /// Members of whom the index was found to hold something else than the last outcome said, since this was last asked.
    pub(crate) fn take_corrected(&self) -> BTreeMap<PeerId, Holding> {
        std::mem::take(&mut *lock(&self.inner.counts.corrected))
    }

    /// The members that the database has, if everything was counted since this was last asked.
    pub(crate) fn take_members(&self) -> Option<BTreeSet<PeerId>> {
        lock(&self.inner.counts.members).take()
    }

    /// Finishes what waits, and closes the database. Blocks. Later requests are refused.
    pub(crate) fn close(&self) {
        // Whoever calls it meanwhile waits as well.
        let mut threads = lock(&self.inner.threads);
        // A thread that is gone needs no telling.
        let _ = self.inner.writes.send(Job::Stop);
        let _ = self.inner.reads.send(Job::Stop);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the index panicked");
            }
        }
    }

    /// Runs SQL on the writer's connection.
    #[cfg(test)]
    fn sql(&self, text: &str) {
        let (done, wait) = sync_channel(1);
        self.inner.writes.send(Job::Sql(text.to_owned(), done)).unwrap();
        wait.recv().unwrap();
    }
}

fn start(
    name: &'static str,
    failures: &Failures,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, IndexError> {
    let watch = failures.watch_vital(name);
    let work = move || {
        let _watch = watch;
        work();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(IndexError::Thread)
}

fn send<Op, Outcome>(queue: &SyncSender<Job<Op, Outcome>>, op: Op) -> Result<Later<Outcome>, Refusal> {
    let (answer, later) = oneshot::channel();
    match queue.try_send(Job::Do(op, answer)) {
        Ok(()) => Ok(later),
        Err(TrySendError::Full(_)) => Err(Refusal::new(RefusalCode::Busy, "the index has too much to do; ask again")),
        Err(TrySendError::Disconnected(_)) => Err(Refusal::new(RefusalCode::Busy, "the master is stopping")),
    }
}

/// The jobs that wait, at most `most`; if none does, waits so long for one. `None` when the store closes.
fn take<T>(queue: &Receiver<T>, most: usize, patience: Duration) -> Option<Vec<T>> {
    let mut jobs = Vec::new();
    if !patience.is_zero() {
        match queue.recv_timeout(patience) {
            Ok(job) => jobs.push(job),
            Err(RecvTimeoutError::Timeout) => return Some(jobs),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    while jobs.len() < most
        && let Ok(job) = queue.try_recv()
    {
        jobs.push(job);
    }
    Some(jobs)
}

/// What a peer is told when the database fails; the log has the details.
fn storage_refusal(error: &rusqlite::Error) -> Refusal {
    tracing::error!(%error, "the index database failed");
    Refusal::new(RefusalCode::Storage, "the master's index cannot be used at the moment")
}

#[cfg(test)]
use libp2p::identity::Keypair;
#[cfg(test)]
use swarmdex_protocols::index::{Offer, Returned, RevokeOutcome, Sequence, Session, ShareDigest, Verdict};
#[cfg(test)]
use swarmdex_protocols::{Network, Tally};
#[cfg(test)]
use tokio::sync::mpsc;

#[cfg(test)]
use crate::clock::unix_ms;
#[cfg(test)]
use crate::config::LimitsConfig;

#[cfg(test)]
mod again_tests;
#[cfg(test)]
mod attributes_tests;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod left_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
