//! The writer: one transaction for all that waits.

mod again;
mod apply;
mod foreign;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use rusqlite::Connection;
use swarmdex_protocols::index::{Refusal, RefusalCode};
use swarmdex_protocols::{PeerId, Statement, Version};
use tokio::sync::oneshot;

use super::words::Words;
use super::{Counts, IndexOptions, Job, WriteOp, WriteOutcome, away, schema, storage_refusal, take};
use crate::state::reports::Reports;
use foreign::Foreign;

/// Most requests in one transaction: bounds how long the first of them waits for the last.
const MAX_GROUP: usize = 256;
/// Most entries in one transaction, counted in the same way.
const MAX_GROUP_ENTRIES: usize = 20_000;

/// How far ahead of the clock a new index begins to count versions, in milliseconds (10 minutes).
const FRESH_LEAD_MS: u64 = 600_000;

/// How often old tombstones are forgotten while the index changes, in milliseconds (1 minute).
const PRUNE_PAUSE_MS: u64 = 60_000;

/// Names of an evicted peer that one transaction frees: others do not wait for all of 200,000.
const EVICTION_SLICE: u64 = 2000;

type WriteJob = Job<WriteOp, WriteOutcome>;
type Answer = oneshot::Sender<Result<WriteOutcome, Refusal>>;
type Sql<T> = Result<T, rusqlite::Error>;

/// Why one request of a group fails.
enum Failure {
    Refused(Refusal),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

pub(super) struct Writer {
    connection: Connection,
    options: IndexOptions,
    counts: Arc<Counts>,
    /// As in the database, as of the transaction that is open.
    totals: Totals,
    /// What members have told of their share since they joined, in this run of the master.
    reports: Reports,
    /// Number of the last change of what a member holds.
    change: u64,
    /// Changes that this program did not make.
    foreign: Foreign,
    /// The database, and the queue by which it is told what was counted in it.
    path: PathBuf,
    queue: SyncSender<WriteJob>,
    /// In which way this run gives versions.
    run: u64,
    /// Statements that the open transaction made.
    made: Vec<Statement>,
    /// Peers whose names are being freed, a slice at a time, with the number freed so far.
    evicting: VecDeque<(PeerId, u64, Answer)>,
    /// Wall clock when tombstones were last forgotten, in milliseconds since 1970.
    pruned_ms: u64,
    /// Whether names may be remembered of peers that cannot have them back any more.
    litter: bool,
    words: Words,
    /// Whether words could not be written the last time.
    words_failed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    last: Version,
    names: u64,
    peers: u64,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        (path, queue): (PathBuf, SyncSender<WriteJob>),
        options: IndexOptions,
        counts: Arc<Counts>,
    ) -> Sql<Self> {
        let (totals, reports, foreign) = (Totals::default(), Reports::default(), Foreign::default());
        let (made, evicting, change, pruned_ms) = (Vec::new(), VecDeque::new(), 0, 0);
        let words = Words::load(&connection)?;
        let mut writer = Self {
            connection,
            options,
            counts,
            totals,
            reports,
            change,
            foreign,
            path,
            queue,
            run: rand::random(),
            made,
            evicting,
            pruned_ms,
            litter: true,
            words,
            words_failed: false,
        };
        writer.prune()?;
        writer.reload()?;
        // An index that is new is older than any other.
        writer.counts.first.store(writer.totals.last.0, Ordering::Relaxed);
        if writer.totals.last == Version::default() {
            // A new index, or one in place of an index that was lost: above whatever that one gave, also if this
            // clock is some minutes behind.
            let begin = Version::default().next((writer.options.clock)().saturating_add(FRESH_LEAD_MS));
            writer.totals.last = begin.leap(rand::random());
            writer.publish();
        }
        Ok(writer)
    }

    /// Reads the totals anew, at first and after a transaction that failed.
    fn reload(&mut self) -> Sql<()> {
        let count = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        self.totals = Totals {
            last: Version(count("SELECT value FROM meta WHERE key = 'last_version'")?),
            names: count("SELECT count(*) FROM names")?,
            peers: count("SELECT count(*) FROM peers")?,
        };
        self.publish();
        Ok(())
    }

    /// Forgets old tombstones, when that is due.
    fn prune(&mut self) -> Sql<()> {
        let unix_ms = (self.options.clock)();
        if unix_ms.abs_diff(self.pruned_ms) < PRUNE_PAUSE_MS {
            return Ok(());
        }
        self.pruned_ms = unix_ms;
        schema::prune(&self.connection, unix_ms, schema::MAX_TOMBSTONES)?;
        self.litter |= away::forget_departures(&self.connection, unix_ms, schema::MAX_TOMBSTONES)?;
        if self.litter {
            self.litter = away::clear(&self.connection)?;
        }
        Ok(())
    }

    fn publish(&self) {
        self.counts.names.store(self.totals.names, Ordering::Relaxed);
        self.counts.peers.store(self.totals.peers, Ordering::Relaxed);
        self.counts.last.store(self.totals.last.0, Ordering::Relaxed);
    }

    pub(super) fn run(mut self, queue: &Receiver<WriteJob>) {
        loop {
            self.look_for_foreign_changes();
            let busy = !self.evicting.is_empty() || self.words.is_behind() && !self.words_failed;
            let patience = if busy { Duration::ZERO } else { foreign::LOOK };
            let Some(jobs) = take(queue, MAX_GROUP, patience) else { break };
            let (mut group, mut entries, mut stop) = (Vec::new(), 0, false);
            for job in jobs {
                match job {
                    Job::Do(WriteOp::Evict { peer }, answer) => {
                        self.commit(std::mem::take(&mut group));
                        self.evicting.push_back((peer, 0, answer));
                    }
                    Job::Do(op, answer) => {
                        if let WriteOp::Join { peer, .. } = &op {
                            self.spare(peer);
                        }
                        entries += weight(&op);
                        group.push((op, answer));
                        if entries >= MAX_GROUP_ENTRIES {
                            self.commit(std::mem::take(&mut group));
                            entries = 0;
                        }
                    }
                    Job::Recounted(result) => {
                        self.commit(std::mem::take(&mut group));
                        self.on_recounted(result);
                    }
                    #[cfg(test)]
                    Job::Sql(text, done) => {
                        self.connection.execute_batch(&text).unwrap();
                        done.send(()).unwrap();
                    }
                    Job::Stop => stop = true,
                }
            }
            self.commit(group);
            self.evict_slice();
            self.catch_up_with_words();
            if let Err(error) = self.prune() {
                tracing::warn!(%error, "old tombstones could not be forgotten; tried again in a minute");
            }
            if stop {
                break;
            }
        }
        while !self.evicting.is_empty() {
            self.evict_slice();
        }
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, "the index was not checkpointed; the next start does it");
        }
    }

    /// Carries out a group and answers it, all after the commit, or all with a refusal.
    fn commit(&mut self, group: Vec<(WriteOp, Answer)>) {
        if group.is_empty() {
            return;
        }
        let (ops, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        match self.transaction(&ops) {
            Ok(results) => {
                self.publish();
                if let Some(mirror) = &self.options.mirror {
                    // What finds no room, owners publish by themselves.
                    let sent = self.made.drain(..).take_while(|made| mirror.try_send(made.clone()).is_ok()).count();
                    tracing::trace!(sent, "statements for the mirror");
                }
                for (answer, result) in answers.into_iter().zip(results) {
                    // Whoever asked may be gone; the change stands.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                let refusal = storage_refusal(&error);
                self.made.clear();
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                if let Err(error) = self.reload() {
                    tracing::error!(%error, "the index cannot be read");
                }
                for answer in answers {
                    let _ = answer.send(Err(refusal.clone()));
                }
            }
        }
    }

    /// Brings the words of some names up to date, if an earlier build made them. What fails is tried again with the next
    /// change, or a second later.
    fn catch_up_with_words(&mut self) {
        if !self.words.is_behind() {
            return;
        }
        let result = self.words.catch_up(&self.connection);
        if let Err(error) = &result
            && !self.words_failed
        {
            tracing::warn!(%error, "the words of names could not be written; tried again every second");
        }
        self.words_failed = result.is_err();
    }

    /// Frees some names of the peer whose eviction began first.
    fn evict_slice(&mut self) {
        let Some((peer, freed, answer)) = self.evicting.pop_front() else { return };
        let (slice, later) = oneshot::channel();
        self.commit(vec![(WriteOp::Evict { peer }, slice)]);
        let result = match later.blocking_recv() {
            Ok(Ok(WriteOutcome::Evicted { names: EVICTION_SLICE })) => {
                return self.evicting.push_back((peer, freed + EVICTION_SLICE, answer));
            }
            Ok(Ok(WriteOutcome::Evicted { names })) => Ok(WriteOutcome::Evicted { names: freed + names }),
            Ok(result) => result,
            Err(_) => Err(Refusal::new(RefusalCode::Storage, "the eviction was not written")),
        };
        let _ = answer.send(result);
    }

    /// A peer that is back in the midst of its eviction keeps the names that it still has.
    fn spare(&mut self, peer: &PeerId) {
        for _ in 0..self.evicting.len() {
            match self.evicting.pop_front() {
                Some((other, names, answer)) if other == *peer => {
                    let _ = answer.send(Ok(WriteOutcome::Evicted { names }));
                }
                Some(other) => self.evicting.push_back(other),
                None => {}
            }
        }
    }

    fn transaction(&mut self, ops: &[WriteOp]) -> Sql<Vec<Result<WriteOutcome, Refusal>>> {
        let reports: Vec<_> = ops.iter().map(|op| (op.peer(), self.reports.of(&op.peer()))).collect();
        self.try_transaction(ops).inspect_err(|_| {
            // In reverse: of several requests of one peer the state before the first counts.
            for (peer, report) in reports.into_iter().rev() {
                self.reports.put_back(peer, report);
            }
        })
    }

    fn try_transaction(&mut self, ops: &[WriteOp]) -> Sql<Vec<Result<WriteOutcome, Refusal>>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let before = self.totals.last;
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(self.single(op)?);
        }
        if self.totals.last != before {
            self.connection.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'last_version'")?.execute([self
                .totals
                .last
                .0
                .cast_signed()])?;
        }
        self.words.note(&self.connection)?;
        self.connection.execute_batch("COMMIT")?;
        Ok(results)
    }

    /// Carries out one request, or undoes it alone.
    fn single(&mut self, op: &WriteOp) -> Sql<Result<WriteOutcome, Refusal>> {
        self.connection.execute_batch("SAVEPOINT one")?;
        let (totals, made, report) = (self.totals, self.made.len(), self.reports.of(&op.peer()));
        let failure = match self.apply(op) {
            Ok(outcome) => {
                self.connection.execute_batch("RELEASE one")?;
                return Ok(Ok(outcome));
            }
            Err(failure) => failure,
        };
        // Some errors, a full disk among them, end the whole transaction by themselves.
        if self.connection.is_autocommit() {
            return Err(match failure {
                Failure::Database(error) => error,
                Failure::Refused(_) => rusqlite::Error::InvalidQuery,
            });
        }
        self.connection.execute_batch("ROLLBACK TO one; RELEASE one")?;
        self.totals = totals;
        self.made.truncate(made);
        self.reports.put_back(op.peer(), report);
        Ok(Err(match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Database(error) => storage_refusal(&error),
        }))
    }
}

/// Entries that a change is about.
fn weight(op: &WriteOp) -> usize {
    match op {
        WriteOp::Announce { offers, .. } => offers.len(),
        WriteOp::Revoke { names, .. } => names.len(),
        WriteOp::Overtaken { names, .. } => names.len(),
        WriteOp::InSession { change, .. } => weight(change),
        WriteOp::Again { .. } => again::SLICE,
        WriteOp::Join { .. } | WriteOp::Evict { .. } => 1,
    }
}
