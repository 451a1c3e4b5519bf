//! The writer: one transaction for all that waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::index::{Offer, Refusal, RefusalCode, Revocation, Session, ShareDigest, Verdict};
use swarmdex_protocols::{Certificate, Entry, Multiaddr, Name, PeerId, Version};
use tokio::sync::oneshot;

use super::{Counts, IndexOptions, Job, WriteOp, WriteOutcome, schema, storage_refusal, take};
use crate::state::index::{Announced, Change, IndexView, announce, evict, revoke};

/// Most requests in one transaction: bounds how long the first of them waits for the last.
const MAX_GROUP: usize = 256;
/// Most entries in one transaction, counted in the same way.
const MAX_GROUP_ENTRIES: usize = 20_000;

/// Names of an evicted peer that one transaction frees: others do not wait for all of 200,000.
const EVICTION_SLICE: u64 = 2000;

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
    /// Peers whose names are being freed, a slice at a time, with the number freed so far.
    evicting: VecDeque<(PeerId, u64, Answer)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    last: Version,
    names: u64,
    peers: u64,
}

/// The row of the peer that a request is about, changed as the request is carried out.
struct Peer {
    id: PeerId,
    session: Session,
    digest: ShareDigest,
    names: u64,
}

/// Which names of a peer are freed.
#[derive(Clone, Copy)]
enum Free {
    /// All that were not announced in its present session.
    Unconfirmed,
    /// A slice of all, because it is evicted.
    Evicted,
}

/// The index inside the open transaction.
struct View<'a> {
    connection: &'a Connection,
    totals: &'a Totals,
    names_of_peer: u64,
}

impl IndexView for View<'_> {
    type Error = rusqlite::Error;

    fn entry(&self, name: &Name) -> Sql<Option<Entry>> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let found = statement.query_row([name.as_str()], schema::entry).optional()?;
        Ok(found.map(|(_, entry)| entry))
    }

    fn names_of(&self, _: &PeerId) -> Sql<u64> {
        Ok(self.names_of_peer)
    }

    fn names(&self) -> Sql<u64> {
        Ok(self.totals.names)
    }

    fn last_version(&self) -> Sql<Version> {
        Ok(self.totals.last)
    }
}

impl Writer {
    pub(super) fn new(connection: Connection, options: IndexOptions, counts: Arc<Counts>) -> Sql<Self> {
        schema::prune(&connection, (options.clock)())?;
        let mut writer = Self { connection, options, counts, totals: Totals::default(), evicting: VecDeque::new() };
        writer.reload()?;
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

    fn publish(&self) {
        self.counts.names.store(self.totals.names, Ordering::Relaxed);
        self.counts.peers.store(self.totals.peers, Ordering::Relaxed);
    }

    pub(super) fn run(mut self, queue: &Receiver<Job<WriteOp, WriteOutcome>>) {
        while let Some(jobs) = take(queue, MAX_GROUP, self.evicting.is_empty()) {
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
                        entries += match &op {
                            WriteOp::Announce { offers, .. } => offers.len(),
                            WriteOp::Revoke { names, .. } => names.len(),
                            WriteOp::Join { .. } | WriteOp::Evict { .. } => 1,
                        };
                        group.push((op, answer));
                        if entries >= MAX_GROUP_ENTRIES {
                            self.commit(std::mem::take(&mut group));
                            entries = 0;
                        }
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
                for (answer, result) in answers.into_iter().zip(results) {
                    // Whoever asked may be gone; the change stands.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                let refusal = storage_refusal(&error);
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
        self.connection.execute_batch("COMMIT")?;
        Ok(results)
    }

    /// Carries out one request, or undoes it alone.
    fn single(&mut self, op: &WriteOp) -> Sql<Result<WriteOutcome, Refusal>> {
        self.connection.execute_batch("SAVEPOINT one")?;
        let totals = self.totals;
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
        Ok(Err(match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Database(error) => storage_refusal(&error),
        }))
    }

    fn apply(&mut self, op: &WriteOp) -> Result<WriteOutcome, Failure> {
        match op {
            WriteOp::Join { peer, addresses, digest, entries } => self.join(*peer, addresses, digest, *entries),
            WriteOp::Announce { peer, offers, last } => self.announce(*peer, offers, *last),
            WriteOp::Revoke { peer, names } => self.revoke(*peer, names),
            WriteOp::Evict { peer } => self.evict(*peer),
        }
    }

    fn peer(&self, id: PeerId) -> Sql<Option<Peer>> {
        let mut statement =
            self.connection.prepare_cached("SELECT session, digest, names FROM peers WHERE peer = ?1")?;
        statement
            .query_row([id.to_bytes()], |row| {
                Ok(Peer {
                    id,
                    session: Session(row.get::<_, i64>(0)?.cast_unsigned()),
                    digest: ShareDigest::from_bytes(row.get(1)?),
                    names: row.get::<_, i64>(2)?.cast_unsigned(),
                })
            })
            .optional()
    }

    fn member(&self, id: PeerId) -> Result<Peer, Failure> {
        let refusal = || Failure::Refused(Refusal::new(RefusalCode::NotJoined, "this peer is no member: join first"));
        self.peer(id)?.ok_or_else(refusal)
    }

    fn store(&self, peer: &Peer) -> Sql<()> {
        let values = params![peer.id.to_bytes(), &peer.digest.as_bytes()[..], peer.names.cast_signed()];
        self.connection.prepare_cached("UPDATE peers SET digest = ?2, names = ?3 WHERE peer = ?1")?.execute(values)?;
        Ok(())
    }

    fn join(
        &mut self,
        id: PeerId,
        addresses: &[Multiaddr],
        digest: &ShareDigest,
        entries: u64,
    ) -> Result<WriteOutcome, Failure> {
        let before = self.peer(id)?;
        self.totals.last = self.totals.last.next((self.options.clock)());
        let session = Session(self.totals.last.0);
        let (held, names) = before.as_ref().map_or((ShareDigest::empty(), 0), |peer| (peer.digest, peer.names));
        let values = params![
            id.to_bytes(),
            session.0.cast_signed(),
            schema::join_addresses(addresses),
            &held.as_bytes()[..],
            names.cast_signed(),
        ];
        let sql = "INSERT INTO peers (peer, session, addresses, digest, names) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (peer) DO UPDATE SET session = ?2, addresses = ?3";
        self.connection.prepare_cached(sql)?.execute(values)?;
        self.totals.peers += u64::from(before.is_none());
        Ok(WriteOutcome::Joined { session, unchanged: held == *digest && names == entries, names })
    }

    fn announce(&mut self, id: PeerId, offers: &[Offer], last: bool) -> Result<WriteOutcome, Failure> {
        let mut peer = self.member(id)?;
        let unix_ms = (self.options.clock)();
        let mut verdicts = Vec::with_capacity(offers.len());
        for offer in offers {
            let view = View { connection: &self.connection, totals: &self.totals, names_of_peer: peer.names };
            let verdict = match announce(&view, id, offer, &self.options.limits, unix_ms)? {
                Announced::Granted { entry, new } => {
                    if new {
                        self.change(&mut peer, Change::Put((*entry).clone()), unix_ms)?;
                    } else {
                        self.confirm(&peer, &entry.name)?;
                    }
                    self.seal(*entry, unix_ms)
                }
                Announced::Conflict(owner) => Verdict::Conflict { owner },
                Announced::Refused(refusal) => Verdict::Refused(refusal),
            };
            verdicts.push(verdict);
        }
        if last {
            self.free(&mut peer, Free::Unconfirmed, unix_ms)?;
        }
        self.store(&peer)?;
        Ok(WriteOutcome::Announced { verdicts, names: peer.names })
    }

    fn seal(&self, entry: Entry, unix_ms: u64) -> Verdict {
        let version = entry.version;
        match Certificate::sign(entry, &self.options.network, &self.options.master, unix_ms) {
            Ok(certificate) => Verdict::Accepted { version, seal: certificate.seal },
            Err(error) => {
                tracing::error!(%error, "an entry could not be signed");
                Verdict::Refused(Refusal::new(RefusalCode::Storage, "the master could not sign the entry"))
            }
        }
    }

    /// A name that was announced again as it is belongs to the present session.
    fn confirm(&self, peer: &Peer, name: &Name) -> Sql<()> {
        let values = params![name.as_str(), peer.session.0.cast_signed()];
        self.connection.prepare_cached("UPDATE names SET session = ?2 WHERE name = ?1")?.execute(values).map(drop)
    }

    fn revoke(&mut self, id: PeerId, names: &[String]) -> Result<WriteOutcome, Failure> {
        let mut peer = self.member(id)?;
        let unix_ms = (self.options.clock)();
        let mut outcomes: Vec<Revocation> = Vec::with_capacity(names.len());
        for name in names {
            let view = View { connection: &self.connection, totals: &self.totals, names_of_peer: peer.names };
            let (outcome, change) = revoke(&view, id, name, unix_ms)?;
            if let Some(change) = change {
                self.change(&mut peer, change, unix_ms)?;
            }
            outcomes.push(outcome);
        }
        self.store(&peer)?;
        Ok(WriteOutcome::Revoked { outcomes, names: peer.names })
    }

    fn evict(&mut self, id: PeerId) -> Result<WriteOutcome, Failure> {
        let Some(mut peer) = self.peer(id)? else { return Ok(WriteOutcome::Evicted { names: 0 }) };
        let names = self.free(&mut peer, Free::Evicted, (self.options.clock)())?;
        if names == EVICTION_SLICE {
            self.store(&peer)?;
        } else {
            self.connection.prepare_cached("DELETE FROM peers WHERE peer = ?1")?.execute([id.to_bytes()])?;
            self.totals.peers -= 1;
        }
        Ok(WriteOutcome::Evicted { names })
    }

    /// Frees names of a peer; returns how many.
    fn free(&mut self, peer: &mut Peer, which: Free, unix_ms: u64) -> Sql<u64> {
        let (below, most) = match which {
            Free::Unconfirmed => (peer.session.0.cast_signed(), -1),
            Free::Evicted => (i64::MAX, EVICTION_SLICE.cast_signed()),
        };
        let evicted = matches!(which, Free::Evicted);
        let names = {
            let sql = "SELECT name FROM names WHERE owner = ?1 AND session < ?2 LIMIT ?3";
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![peer.id.to_bytes(), below, most], |row| row.get::<_, String>(0))?;
            rows.collect::<Sql<Vec<_>>>()?
        };
        let mut freed = 0;
        for name in names {
            let Ok(name) = Name::parse(&name) else { continue };
            let change = match evict(name, peer.id, self.totals.last, unix_ms) {
                Change::Free { name, owner, version, .. } => Change::Free { name, owner, version, evicted },
                change => change,
            };
            self.change(peer, change, unix_ms)?;
            freed += 1;
        }
        Ok(freed)
    }

    /// Carries out what a rule decided.
    fn change(&mut self, peer: &mut Peer, change: Change, unix_ms: u64) -> Sql<()> {
        match change {
            Change::Put(entry) => {
                let before = self.stored(&entry.name)?;
                if let Some((_, content, size)) = &before {
                    peer.digest.toggle(entry.name.as_str(), content, *size);
                } else {
                    peer.names += 1;
                    self.totals.names += 1;
                }
                peer.digest.toggle(entry.name.as_str(), &entry.content, entry.size);
                schema::put(&self.connection, &entry, peer.session, before.is_none())?;
                self.totals.last = entry.version;
            }
            Change::Free { name, owner, version, evicted } => {
                let Some((id, content, size)) = self.stored(&name)? else { return Ok(()) };
                peer.digest.toggle(name.as_str(), &content, size);
                peer.names = peer.names.saturating_sub(1);
                self.totals.names = self.totals.names.saturating_sub(1);
                self.connection.prepare_cached("DELETE FROM names WHERE id = ?1")?.execute([id])?;
                self.connection.prepare_cached("DELETE FROM words WHERE rowid = ?1")?.execute([id])?;
                let sql = "INSERT OR REPLACE INTO tombstones (name, owner, version, unix_ms, evicted)
                    VALUES (?1, ?2, ?3, ?4, ?5)";
                let [at, number] = [unix_ms, version.0].map(u64::cast_signed);
                let values = params![name.as_str(), owner.to_bytes(), number, at, evicted];
                self.connection.prepare_cached(sql)?.execute(values)?;
                self.totals.last = version;
            }
        }
        Ok(())
    }

    fn stored(&self, name: &Name) -> Sql<Option<(i64, swarmdex_protocols::ContentId, u64)>> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let found = statement.query_row([name.as_str()], schema::entry).optional()?;
        Ok(found.map(|(id, entry)| (id, entry.content, entry.size)))
    }
}
