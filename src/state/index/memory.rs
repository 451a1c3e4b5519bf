//! The table as maps, and an authority that signs nothing: for tests and the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use swarmdex_protocols::index::{Refusal, Session, ShareSum};
use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, Seal};
use swarmdex_protocols::{Certificate, Entry, Multiaddr, Name, PeerId, Tombstone, Version};

use super::*;
use crate::state::index::again::Left;

/// Everything that a table holds and that anybody can have back, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) names: Vec<(Entry, Session)>,
    /// Name, owner, version, time, and whether the owner was evicted.
    pub(crate) tombstones: Vec<(Name, PeerId, Version, u64, bool)>,
    pub(crate) members: Vec<(PeerId, MemberRow)>,
    pub(crate) departures: Vec<(PeerId, Noted)>,
    pub(crate) left: Vec<(Session, Left)>,
    pub(crate) last: Version,
}

/// The table as maps. Clones are copies of a disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryTable {
    names: BTreeMap<Name, (Entry, Session)>,
    /// Rows that can be seen to be damaged.
    damaged: BTreeSet<Name>,
    tombstones: BTreeMap<Name, (PeerId, Ending)>,
    members: BTreeMap<PeerId, MemberRow>,
    departures: BTreeMap<PeerId, Noted>,
    /// Names that peers left with, and some that nobody can have back any more.
    left: BTreeMap<(PeerId, Name), (Session, Left)>,
    last: Version,
}

impl MemoryTable {
    /// Every row that is not damaged, in order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Entry, Session)> {
        self.names
            .iter()
            .filter(|(name, _)| !self.damaged.contains(*name))
            .map(|(_, (entry, session))| (entry, *session))
    }

    /// What a peer holds, in order.
    pub(crate) fn entries<'a>(&'a self, owner: &'a PeerId) -> impl Iterator<Item = &'a Entry> {
        self.rows().map(|(entry, _)| entry).filter(|entry| entry.owner == *owner)
    }

    /// All members.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&PeerId, &MemberRow)> {
        self.members.iter()
    }

    pub(crate) fn content(&self) -> Content {
        let tombstone = |(name, (owner, ending)): (&Name, &(PeerId, Ending))| {
            (name.clone(), *owner, ending.version, ending.unix_ms, ending.evicted)
        };
        let departed = |session, owner| self.departures.get(owner).is_some_and(|noted| noted.session == session);
        let left = self.left.iter().filter(|((owner, _), (session, _))| departed(*session, owner));
        Content {
            names: self.rows().map(|(entry, session)| (entry.clone(), session)).collect(),
            tombstones: self.tombstones.iter().map(tombstone).collect(),
            members: self.members.iter().map(|(peer, row)| (*peer, *row)).collect(),
            departures: self.departures.iter().map(|(peer, noted)| (*peer, noted.clone())).collect(),
            left: left.map(|(_, left)| left.clone()).collect(),
            last: self.last,
        }
    }

    /// What is wrong with the accounts of members.
    pub(crate) fn corrections(&self) -> Vec<Correction> {
        let kept = self.members.iter().map(|(peer, row)| (*peer, row.held)).collect();
        let mut counted = BTreeMap::<_, ShareSum>::new();
        self.rows().for_each(|(entry, _)| counted.entry(entry.owner).or_default().add(&entry.digest()));
        corrections(&kept, &counted)
    }

    /// Somebody changes a row by hand, so that it looks like one that was written. `None` deletes it.
    pub(crate) fn change_by_hand(&mut self, name: &Name, entry: Option<Entry>) {
        match entry {
            Some(entry) => {
                let session = self.names.get(name).map(|(_, session)| *session).unwrap_or_default();
                self.last = self.last.max(entry.version);
                self.names.insert(name.clone(), (entry, session));
            }
            None => drop(self.names.remove(name)),
        }
        self.damaged.remove(name);
    }

    /// A bit of a row flips.
    pub(crate) fn damage(&mut self, name: &Name) {
        if self.names.contains_key(name) {
            self.damaged.insert(name.clone());
        }
    }

    /// Carries out one request, or nothing of it.
    pub(crate) fn write<A: Authority>(
        &mut self,
        service: &mut Service<A>,
        op: &WriteOp,
        at: Moment,
    ) -> Result<WriteOutcome, Refusal> {
        let before = self.clone();
        let outcome = service.apply(self, op, at);
        if outcome.is_err() {
            *self = before;
        }
        let Ok(()) = service.finish(self);
        outcome.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Table(error) => match error {},
        })
    }
}

impl IndexTable for MemoryTable {
    type Error = Infallible;
    type Key = ();

    fn entry(&self, name: &Name) -> Result<Option<Entry>, Infallible> {
        let found = self.names.get(name).filter(|_| !self.damaged.contains(name));
        Ok(found.map(|(entry, _)| entry.clone()))
    }

    fn take_up(&mut self, name: &Name) -> Result<Option<Row<()>>, Infallible> {
        if self.damaged.remove(name) {
            self.names.remove(name);
        }
        let found = self.names.get(name).cloned();
        Ok(found.map(|(entry, session)| Row { key: (), entry, session }))
    }

    fn put(&mut self, entry: &Entry, session: Session, new: bool) -> Result<(), Infallible> {
        let before = self.names.insert(entry.name.clone(), (entry.clone(), session));
        assert_eq!(before.is_none(), new, "{}", entry.name);
        if new {
            self.tombstones.remove(&entry.name);
        }
        Ok(())
    }

    fn free(&mut self, row: &Row<()>, owner: &PeerId, ending: Ending) -> Result<(), Infallible> {
        self.names.remove(&row.entry.name);
        self.tombstones.insert(row.entry.name.clone(), (*owner, ending));
        Ok(())
    }

    fn confirm(&mut self, name: &Name, session: Session) -> Result<bool, Infallible> {
        let Some((_, of)) = self.names.get_mut(name) else { return Ok(false) };
        Ok(std::mem::replace(of, session) != session)
    }

    fn ended(&self, name: &Name) -> Result<Option<Version>, Infallible> {
        Ok(self.tombstones.get(name).map(|(_, ending)| ending.version))
    }

    fn damaged(&self, name: &Name) -> Result<Option<PeerId>, Infallible> {
        let owner = self.names.get(name).filter(|_| self.damaged.contains(name)).map(|(entry, _)| entry.owner);
        Ok(owner.filter(|owner| self.members.contains_key(owner)))
    }

    fn names_of(&self, owner: &PeerId, before: Option<Session>, most: Option<u64>) -> Result<Vec<Name>, Infallible> {
        let earlier = |session: Session| before.is_none_or(|before| session < before);
        let held = self.names.values().filter(|(entry, session)| entry.owner == *owner && earlier(*session));
        let most = most.map_or(usize::MAX, |most| most as usize);
        Ok(held.map(|(entry, _)| entry.name.clone()).take(most).collect())
    }

    fn entries_of(&self, owner: &PeerId, after: &str, before: Session, most: usize) -> Result<Vec<Entry>, Infallible> {
        let held = self.rows().filter(|(entry, session)| entry.owner == *owner && *session < before);
        let next = held.map(|(entry, _)| entry).filter(|entry| entry.name.as_str() > after);
        Ok(next.take(most).cloned().collect())
    }

    fn count(&self, owner: &PeerId) -> Result<ShareSum, Infallible> {
        let mut sum = ShareSum::default();
        self.entries(owner).for_each(|entry| sum.add(&entry.digest()));
        Ok(sum)
    }

    fn has_bare(&self, owner: &PeerId, left: bool) -> Result<bool, Infallible> {
        let bare = |entry: &Entry| entry.owner == *owner && entry.attributes.is_none();
        Ok(match left {
            true => self.left.values().any(|(_, left)| bare(&left.entry)),
            false => self.names.values().any(|(entry, _)| bare(entry)),
        })
    }

    fn member(&self, peer: &PeerId) -> Result<Option<MemberRow>, Infallible> {
        Ok(self.members.get(peer).copied())
    }

    fn put_member(&mut self, peer: &PeerId, row: &MemberRow, _: &[Multiaddr]) -> Result<(), Infallible> {
        self.members.entry(*peer).and_modify(|known| known.session = row.session).or_insert(*row);
        Ok(())
    }

    fn set_held(&mut self, peer: &PeerId, held: &ShareSum) -> Result<(), Infallible> {
        if let Some(row) = self.members.get_mut(peer) {
            row.held = *held;
        }
        Ok(())
    }

    fn remove_member(&mut self, peer: &PeerId) -> Result<(), Infallible> {
        self.members.remove(peer);
        Ok(())
    }

    fn departure(&self, peer: &PeerId) -> Result<Option<Noted>, Infallible> {
        Ok(self.departures.get(peer).cloned())
    }

    fn put_departure(&mut self, peer: &PeerId, noted: &Noted, _: u64) -> Result<(), Infallible> {
        self.departures.insert(*peer, noted.clone());
        Ok(())
    }

    fn set_departure(&mut self, peer: &PeerId, noted: &Noted) -> Result<(), Infallible> {
        if let Some(known) = self.departures.get_mut(peer) {
            *known = Noted { session: known.session, ..noted.clone() };
        }
        Ok(())
    }

    fn forget_departure(&mut self, peer: &PeerId) -> Result<(), Infallible> {
        self.departures.remove(peer);
        Ok(())
    }

    fn remember(&mut self, session: Session, left: &Left) -> Result<(), Infallible> {
        self.left.insert((left.entry.owner, left.entry.name.clone()), (session, left.clone()));
        Ok(())
    }

    fn left(&self, peer: &PeerId, noted: &Noted, most: usize) -> Result<Vec<Left>, Infallible> {
        let of_peer = self.left.iter().filter(|((owner, _), (session, _))| owner == peer && *session == noted.session);
        let next = of_peer.filter(|((_, name), _)| name.as_str() > noted.through.as_str());
        Ok(next.take(most).map(|(_, (_, left))| left.clone()).collect())
    }

    fn forget_left(&mut self, peer: &PeerId, noted: &Noted) -> Result<(), Infallible> {
        self.left.retain(|(owner, name), (session, _)| {
            owner != peer || *session != noted.session || name.as_str() > noted.through.as_str()
        });
        Ok(())
    }

    fn totals(&self) -> Result<Totals, Infallible> {
        Ok(Totals { last: self.last, names: self.names.len() as u64, peers: self.members.len() as u64 })
    }

    fn set_last_version(&mut self, version: Version) -> Result<(), Infallible> {
        self.last = version;
        Ok(())
    }
}

/// An authority whose seals hold no signature, and who believes every certificate.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Unsigned;

impl Unsigned {
    fn seal(issued_ms: u64) -> Seal {
        Seal { issued_ms, expires_ms: issued_ms + CERTIFICATE_LIFETIME_MS, signature: Vec::new() }
    }
}

impl Authority for Unsigned {
    fn certify(&self, entry: Entry, unix_ms: u64) -> Option<Certificate> {
        Some(Certificate { entry, seal: Self::seal(unix_ms) })
    }

    fn end(&self, name: Name, owner: PeerId, version: Version, unix_ms: u64) -> Option<Tombstone> {
        Some(Tombstone { name, owner, version, seal: Self::seal(unix_ms) })
    }

    fn signed(&self, _: &Certificate) -> bool {
        true
    }
}
