//! The index as a service: what each request changes, over whatever table.
//!
//! The caller opens the transaction, and undoes in the table what a request wrote that fails. What it changed in its
//! own memory the service undoes by itself.

mod again;
mod announce;
mod correct;
mod evict;
mod join;
mod revoke;

use std::collections::BTreeMap;

use swarmdex_protocols::index::{Refusal, RefusalCode, Sequence, Session, ShareSum};
use swarmdex_protocols::limits::MAX_BATCH_ENTRIES;
use swarmdex_protocols::{Certificate, Entry, Name, PeerId, Statement, Tombstone, Version};

use super::rules::{Freed, Moment, NameLimits};
use super::{Ending, IndexTable, IndexView, Row, Totals, WriteOp, WriteOutcome};
use crate::state::index::again::Left;
use crate::state::lease::Holding;
use crate::state::reports::{Report, Reports};

pub(crate) use correct::{Correction, corrections};

/// How far ahead of the clock a new index begins to count versions, in milliseconds (10 minutes).
const FRESH_LEAD_MS: u64 = 600_000;

/// In whose name the index speaks: the key of the master, and where it reports what is out of the ordinary.
pub(crate) trait Authority {
    /// Certifies an entry. `None` if that is impossible; why is logged.
    fn certify(&self, entry: Entry, unix_ms: u64) -> Option<Certificate>;
    /// Says that a name was given up. `None` as before.
    fn end(&self, name: Name, owner: PeerId, version: Version, unix_ms: u64) -> Option<Tombstone>;
    /// Whether this master signed a certificate, whenever that was.
    fn signed(&self, certificate: &Certificate) -> bool;
    /// Takes notice of what is out of the ordinary.
    fn notice(&self, _: &IndexNotice<'_>) {}
}

/// What is out of the ordinary.
#[derive(Debug)]
pub(crate) enum IndexNotice<'a> {
    /// What was found outside the index says that a name belongs to another than the peer that announced it.
    Adopted {
        /// The name.
        name: &'a Name,
        /// To whom it belongs.
        owner: PeerId,
    },
    /// A name is taken from its holder: it was granted to another after this copy of the index was made.
    Displaced {
        /// The name.
        name: &'a Name,
        /// Who had it.
        holder: PeerId,
        /// Who gets it.
        by: PeerId,
    },
    /// A peer of an earlier build told less than its whole share; what it did not tell is kept.
    ToldLess {
        /// The peer.
        peer: PeerId,
    },
}

/// How much one request deals with at a time: others do not wait for all of 200,000 names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slices {
    /// Names of an evicted peer that are freed.
    pub evicted: u64,
    /// Names that are granted again to a peer that is back.
    pub again: usize,
    /// Names in the answer that it did not get.
    pub except: usize,
}

impl Default for Slices {
    fn default() -> Self {
        Self { evicted: 2000, again: 4000, except: MAX_BATCH_ENTRIES }
    }
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure<E> {
    /// A rule refuses it.
    Refused(Refusal),
    /// The table failed.
    Table(E),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Table(error)
    }
}

/// What the service has in memory, as it was before a request.
#[derive(Debug, Clone, Copy)]
struct Mark {
    totals: Totals,
    made: usize,
    reports: usize,
}

/// The index as a service. It keeps counts, and what members reported since it was opened; all else is in the table.
#[derive(Debug)]
pub(crate) struct Service<A> {
    authority: A,
    limits: NameLimits,
    slices: Slices,
    /// As in the table, as of the transaction that is open.
    totals: Totals,
    /// The last version that is in the table.
    written: Version,
    /// What members have told of their share since they joined.
    reports: Reports,
    /// Reports as they were before each change of the open transaction.
    before: Vec<(PeerId, Option<Report>)>,
    /// The last change of each member's session that was made in this run.
    sequences: BTreeMap<PeerId, (Session, Sequence)>,
    /// Number of the last change of what a member holds.
    change: u64,
    /// Statements that the open transaction made.
    made: Vec<Statement>,
}

impl<A: Authority> Service<A> {
    /// For a table that [`Service::open`] reads first.
    pub(crate) fn new(authority: A, limits: NameLimits) -> Self {
        let (totals, written, reports, before, sequences, made) = Default::default();
        Self {
            authority,
            limits,
            slices: Slices::default(),
            totals,
            written,
            reports,
            before,
            sequences,
            change: 0,
            made,
        }
    }

    /// The same with other slices.
    #[cfg(test)]
    pub(crate) fn with_slices(self, slices: Slices) -> Self {
        Self { slices, ..self }
    }

    /// Reads the counts of a table. In a new one versions begin above whatever an index gave that was lost, even if
    /// this clock is some minutes behind. The last version before that.
    pub(crate) fn open<T: IndexTable>(&mut self, table: &T, at: Moment) -> Result<Version, T::Error> {
        self.recount(table)?;
        let last = self.totals.last;
        if last == Version::default() {
            self.totals.last = last.next(at.unix_ms.saturating_add(FRESH_LEAD_MS)).leap(at.random);
            self.written = self.totals.last;
        }
        Ok(last)
    }

    /// Reads the counts anew: another changed the table, or a transaction failed.
    pub(crate) fn recount<T: IndexTable>(&mut self, table: &T) -> Result<(), T::Error> {
        let totals = table.totals()?;
        // A new table says nothing of the version that this run began at.
        let last = if totals.last == Version::default() { self.totals.last } else { totals.last };
        self.totals = Totals { last, ..totals };
        self.written = last;
        Ok(())
    }

    /// The counts, as of the transaction that is open.
    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// How much one request deals with at a time.
    pub(crate) fn slices(&self) -> Slices {
        self.slices
    }

    /// Carries out one request. If it fails, the caller undoes what it wrote to the table.
    pub(crate) fn apply<T: IndexTable>(
        &mut self,
        table: &mut T,
        op: &WriteOp,
        at: Moment,
    ) -> Result<WriteOutcome, Failure<T::Error>> {
        let mark = Mark { totals: self.totals, made: self.made.len(), reports: self.before.len() };
        self.before.push((op.peer(), self.reports.of(&op.peer())));
        let outcome = Execution { service: self, table, at }.apply(op);
        if outcome.is_err() {
            self.undo(mark);
        }
        outcome
    }

    fn undo(&mut self, mark: Mark) {
        self.totals = mark.totals;
        self.made.truncate(mark.made);
        // In reverse: of several changes of one report the state before the first counts.
        for (peer, report) in self.before.drain(mark.reports..).rev() {
            self.reports.put_back(peer, report);
        }
    }

    /// Writes what all requests of a transaction changed together. The caller commits then.
    pub(crate) fn finish<T: IndexTable>(&mut self, table: &mut T) -> Result<(), T::Error> {
        if self.totals.last != self.written {
            table.set_last_version(self.totals.last)?;
        }
        Ok(())
    }

    /// The transaction is committed: the statements that it made.
    pub(crate) fn on_committed(&mut self) -> Vec<Statement> {
        self.written = self.totals.last;
        self.before.clear();
        std::mem::take(&mut self.made)
    }

    /// The transaction came to nothing. [`Service::recount`] has to follow.
    pub(crate) fn on_rolled_back(&mut self) {
        self.undo(Mark { totals: self.totals, made: 0, reports: 0 });
    }
}

/// The member that a request is about, changed as the request is carried out.
struct Member {
    id: PeerId,
    session: Session,
    held: ShareSum,
}

/// One request that is being carried out.
struct Execution<'a, A, T> {
    service: &'a mut Service<A>,
    table: &'a mut T,
    at: Moment,
}

type Done<T, E> = Result<T, Failure<E>>;

impl<A: Authority, T: IndexTable> Execution<'_, A, T> {
    fn apply(&mut self, op: &WriteOp) -> Done<WriteOutcome, T::Error> {
        match op {
            WriteOp::Join { peer, addresses, digest, entries, seen, again } => {
                let share = ShareSum { entries: *entries, digest: *digest };
                Ok(self.join(*peer, addresses, &share, *seen, *again)?)
            }
            WriteOp::Again { peer, neighbours } => self.again(*peer, *neighbours),
            WriteOp::Announce { peer, offers, neighbours, last, total, mirror } => {
                let end = last.then_some(total.as_ref());
                self.announce(*peer, offers, *neighbours, end, mirror)
            }
            WriteOp::Revoke { peer, names } => self.revoke(*peer, names),
            WriteOp::Overtaken { peer, names } => self.free_overtaken(*peer, names),
            WriteOp::InSession { session, sequence, change } => {
                self.check_session(change, *session)?;
                let number = (*session, *sequence);
                if self.service.sequences.get(&change.peer()).is_some_and(|made| *made > number) {
                    let reason = "a later change of this session was made already";
                    return Err(Failure::Refused(Refusal::new(RefusalCode::Stale, reason)));
                }
                let outcome = self.apply(change)?;
                self.service.sequences.insert(change.peer(), number);
                Ok(outcome)
            }
            WriteOp::Evict { peer } => Ok(self.evict(*peer)?),
        }
    }

    /// Two runs of one peer may report at once. What the first still had under way when the second joined must not
    /// count as a part of the second's report, nor end it.
    fn check_session(&self, change: &WriteOp, session: Session) -> Done<(), T::Error> {
        let (WriteOp::Announce { peer, .. } | WriteOp::Revoke { peer, .. } | WriteOp::Again { peer, .. }) = change
        else {
            return Ok(());
        };
        if self.member(*peer)?.session == session {
            return Ok(());
        }
        Err(Failure::Refused(Refusal::new(RefusalCode::NotJoined, "that session is over: join again")))
    }

    fn find(&self, id: PeerId) -> Result<Option<Member>, T::Error> {
        let found = self.table.member(&id)?;
        Ok(found.map(|row| Member { id, session: row.session, held: row.held }))
    }

    fn member(&self, id: PeerId) -> Done<Member, T::Error> {
        let refusal = || Failure::Refused(Refusal::new(RefusalCode::NotJoined, "this peer is no member: join first"));
        self.find(id)?.ok_or_else(refusal)
    }

    /// What a member holds, as of a change of its own.
    fn holding(&mut self, member: &Member) -> Holding {
        self.service.change += 1;
        Holding { sum: member.held, at: self.service.change }
    }

    fn view(&self, member: &Member, neighbours: u64) -> View<'_, T> {
        let Service { totals, reports, .. } = &*self.service;
        View { table: &*self.table, totals, reports, names_of_member: member.held.entries, neighbours }
    }

    /// Carries out what a rule decided.
    fn change(&mut self, member: &mut Member, freed: Freed) -> Result<(), T::Error> {
        let Freed { name, version, evicted, .. } = freed;
        self.free(member, name, version, evicted)
    }

    fn put(&mut self, member: &mut Member, entry: &Entry) -> Result<(), T::Error> {
        let before = self.table.take_up(&entry.name)?;
        match &before {
            Some(before) if before.entry.owner == member.id => self.count_out(member, before),
            // It was taken from its holder.
            Some(_) => {}
            None => self.service.totals.names += 1,
        }
        let digest = entry.digest();
        member.held.add(&digest);
        if member.session != Session::default() {
            self.service.reports.on_granted(&member.id, &digest);
        }
        self.table.put(entry, member.session, before.is_none())?;
        self.service.totals.last = self.service.totals.last.max(entry.version);
        Ok(())
    }

    fn free(&mut self, member: &mut Member, name: Name, version: Version, evicted: bool) -> Result<(), T::Error> {
        let Some(before) = self.table.take_up(&name)? else { return Ok(()) };
        self.count_out(member, &before);
        let unix_ms = self.at.unix_ms;
        self.service.totals.names = self.service.totals.names.saturating_sub(1);
        self.table.free(&before, &member.id, Ending { version, unix_ms, evicted })?;
        if evicted && member.session != Session::default() {
            self.table.remember(member.session, &Left { entry: before.entry, ended: version })?;
        }
        self.service.totals.last = version;
        let tombstone = self.service.authority.end(name, member.id, version, unix_ms);
        self.service.made.extend(tombstone.map(Statement::Tombstone));
        Ok(())
    }

    /// An entry of a member is about to go.
    fn count_out(&mut self, member: &mut Member, before: &Row<T::Key>) {
        let digest = before.entry.digest();
        member.held.remove(&digest);
        if before.session == member.session {
            self.service.reports.on_lost(&member.id, &digest);
        }
    }
}

/// The table, and what is counted beside it, as a rule sees them.
struct View<'a, T> {
    table: &'a T,
    totals: &'a Totals,
    reports: &'a Reports,
    names_of_member: u64,
    neighbours: u64,
}

impl<T: IndexTable> IndexView for View<'_, T> {
    type Error = T::Error;

    fn entry(&self, name: &Name) -> Result<Option<Entry>, T::Error> {
        self.table.entry(name)
    }

    fn names_of(&self, _: &PeerId) -> Result<u64, T::Error> {
        Ok(self.names_of_member)
    }

    fn names_of_neighbours(&self, _: &PeerId) -> Result<u64, T::Error> {
        Ok(self.neighbours)
    }

    fn names(&self) -> Result<u64, T::Error> {
        Ok(self.totals.names)
    }

    fn last_version(&self) -> Result<Version, T::Error> {
        Ok(self.totals.last)
    }

    fn ended(&self, name: &Name) -> Result<Option<Version>, T::Error> {
        self.table.ended(name)
    }

    fn damaged(&self, name: &Name) -> Result<Option<PeerId>, T::Error> {
        self.table.damaged(name)
    }

    fn reported(&self, peer: &PeerId) -> Result<bool, T::Error> {
        Ok(self.reports.is_whole(peer))
    }
}
