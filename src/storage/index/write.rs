//! The writer: one transaction for all that waits.

mod foreign;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use rusqlite::Connection;
use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{Refusal, RefusalCode};
use tokio::sync::oneshot;

use super::authority::MasterKey;
use super::sqlite::SqliteTable;
use super::words::Words;
use super::{Counts, IndexOptions, Job, WriteOp, WriteOutcome, away, schema, storage_refusal, take};
use crate::state::index::{Failure, Moment, Service, Totals};
use crate::storage::sqlite::Sql;
use foreign::Foreign;

/// Most requests in one transaction: bounds how long the first of them waits for the last.
const MAX_GROUP: usize = 256;
/// Most entries in one transaction, counted in the same way.
const MAX_GROUP_ENTRIES: usize = 20_000;

/// How often old tombstones are forgotten while the index changes, in milliseconds (1 minute).
const PRUNE_PAUSE_MS: u64 = 60_000;

type WriteJob = Job<WriteOp, WriteOutcome>;
type Answer = oneshot::Sender<Result<WriteOutcome, Refusal>>;

pub(super) struct Writer {
    connection: Connection,
    options: IndexOptions,
    counts: Arc<Counts>,
    /// Decides what each request changes.
    service: Service<MasterKey>,
    /// Changes that this program did not make.
    foreign: Foreign,
    /// The database, and the queue by which it is told what was counted in it.
    path: PathBuf,
    queue: SyncSender<WriteJob>,
    /// In which way this run gives versions.
    run: u64,
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

impl Writer {
    pub(super) fn new(
        connection: Connection,
        (path, queue): (PathBuf, SyncSender<WriteJob>),
        options: IndexOptions,
        counts: Arc<Counts>,
    ) -> Sql<Self> {
        let words = Words::load(&connection)?;
        let service = Service::new(MasterKey::new(&options), options.limits);
        let mut writer = Self {
            connection,
            options,
            counts,
            service,
            foreign: Foreign::default(),
            path,
            queue,
            run: rand::random(),
            evicting: VecDeque::new(),
            pruned_ms: 0,
            litter: true,
            words,
            words_failed: false,
        };
        writer.prune()?;
        let at = writer.moment();
        let first = writer.service.open(&SqliteTable::new(&writer.connection, &writer.words), at)?;
        // An index that is new is older than any other.
        writer.counts.first.store(first.0, Ordering::Relaxed);
        writer.publish();
        Ok(writer)
    }

    fn moment(&self) -> Moment {
        Moment { unix_ms: (self.options.clock)(), random: rand::random(), run: self.run }
    }

    /// Reads the counts anew, after a transaction that failed and after changes of others.
    fn reload(&mut self) -> Sql<()> {
        self.service.recount(&SqliteTable::new(&self.connection, &self.words))?;
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
        let Totals { last, names, peers } = self.service.totals();
        self.counts.names.store(names, Ordering::Relaxed);
        self.counts.peers.store(peers, Ordering::Relaxed);
        self.counts.last.store(last.0, Ordering::Relaxed);
    }

    pub(super) fn run(mut self, queue: &Receiver<WriteJob>) {
        loop {
            self.look_for_foreign_changes();
            let busy = !self.evicting.is_empty() || self.words.is_behind() && !self.words_failed;
            let patience = if busy { Duration::ZERO } else { foreign::LOOK };
            let Some(jobs) = take(queue, MAX_GROUP, patience) else { break };
            let (mut group, mut entries) = (Vec::new(), 0);
            let mut stop = jobs.is_empty() && self.counts.abandoned.load(Ordering::Relaxed);
            for job in jobs {
                match job {
                    Job::Do(WriteOp::Evict { peer }, answer) => {
                        self.commit(std::mem::take(&mut group));
                        self.evicting.push_back((peer, 0, answer));
                    }
                    Job::Do(op, answer) => {
                        if let WriteOp::Join { peer, .. } = &op {
                            self.end_eviction_of(peer);
                        }
                        entries += op.weight(self.service.slices());
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
                let made = self.service.on_committed();
                if let Some(mirror) = &self.options.mirror {
                    // What finds no room, owners publish by themselves.
                    let sent = made.into_iter().take_while(|made| mirror.try_send(made.clone()).is_ok()).count();
                    tracing::trace!(sent, "statements for the mirror");
                }
                for (answer, result) in answers.into_iter().zip(results) {
                    // Whoever asked may be gone; the change stands.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                let refusal = storage_refusal(&error);
                self.service.on_rolled_back();
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
            Ok(Ok(WriteOutcome::Evicted { names })) if names == self.service.slices().evicted => {
                return self.evicting.push_back((peer, freed + names, answer));
            }
            Ok(Ok(WriteOutcome::Evicted { names })) => Ok(WriteOutcome::Evicted { names: freed + names }),
            Ok(result) => result,
            Err(_) => Err(Refusal::new(RefusalCode::Storage, "the eviction was not written")),
        };
        let _ = answer.send(result);
    }

    /// A peer that is back in the midst of its eviction keeps the names that it still has.
    fn end_eviction_of(&mut self, peer: &PeerId) {
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
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(self.single(op)?);
        }
        self.service.finish(&mut SqliteTable::new(&self.connection, &self.words))?;
        self.words.note(&self.connection)?;
        self.connection.execute_batch("COMMIT")?;
        Ok(results)
    }

    /// Carries out one request, or undoes it alone.
    fn single(&mut self, op: &WriteOp) -> Sql<Result<WriteOutcome, Refusal>> {
        self.connection.execute_batch("SAVEPOINT one")?;
        let at = self.moment();
        let mut table = SqliteTable::new(&self.connection, &self.words);
        let outcome = self.service.apply(&mut table, op, at);
        self.foreign.wanted |= table.damage;
        self.litter |= table.litter;
        let failure = match outcome {
            Ok(outcome) => {
                self.connection.execute_batch("RELEASE one")?;
                return Ok(Ok(outcome));
            }
            Err(failure) => failure,
        };
        // Some errors, a full disk among them, end the whole transaction by themselves.
        if self.connection.is_autocommit() {
            return Err(match failure {
                Failure::Table(error) => error,
                Failure::Refused(_) => rusqlite::Error::InvalidQuery,
            });
        }
        self.connection.execute_batch("ROLLBACK TO one; RELEASE one")?;
        Ok(Err(match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Table(error) => storage_refusal(&error),
        }))
    }
}
