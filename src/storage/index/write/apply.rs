//! What one request does inside the open transaction.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::index::{Offer, Refusal, RefusalCode, Revocation, Session, ShareDigest, ShareSum, Verdict};
use swarmdex_protocols::{Certificate, Entry, Multiaddr, Name, PeerId, Statement, Tally, Tombstone, Version};

use super::{EVICTION_SLICE, Failure, Sql, Totals, Writer};
use crate::state::again::Left;
use crate::state::index::{Announced, Change, Evidence, IndexView, Moment, after, announce, evict, revoke};
use crate::state::lease::Holding;
use crate::state::reports::Reports;
use crate::storage::index::{IndexOptions, WriteOp, WriteOutcome, away, schema};

/// The row of the peer that a request is about, changed as the request is carried out.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) session: Session,
    pub(super) held: ShareSum,
}

/// A row of the index.
struct Stored {
    id: i64,
    entry: Entry,
    session: Session,
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
pub(super) struct View<'a> {
    pub(super) connection: &'a Connection,
    pub(super) totals: &'a Totals,
    pub(super) reports: &'a Reports,
    pub(super) names_of_peer: u64,
    pub(super) neighbours: u64,
}

impl IndexView for View<'_> {
    type Error = rusqlite::Error;

    fn entry(&self, name: &Name) -> Sql<Option<Entry>> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        match statement.query_row([name.as_str()], schema::entry).optional() {
            Ok(found) => Ok(found.map(|(_, entry)| entry)),
            Err(error) if schema::is_damage(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn damaged(&self, name: &Name) -> Sql<Option<PeerId>> {
        let Some(owner) = schema::owner_of_damaged(self.connection, name)? else { return Ok(None) };
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM peers WHERE peer = ?1")?;
        Ok(statement.exists([owner.to_bytes()])?.then_some(owner))
    }

    fn names_of(&self, _: &PeerId) -> Sql<u64> {
        Ok(self.names_of_peer)
    }

    fn names_of_neighbours(&self, _: &PeerId) -> Sql<u64> {
        Ok(self.neighbours)
    }

    fn names(&self) -> Sql<u64> {
        Ok(self.totals.names)
    }

    fn last_version(&self) -> Sql<Version> {
        Ok(self.totals.last)
    }

    fn ended(&self, name: &Name) -> Sql<Option<Version>> {
        let mut statement = self.connection.prepare_cached("SELECT version FROM tombstones WHERE name = ?1")?;
        let found = statement.query_row([name.as_str()], |row| row.get::<_, i64>(0)).optional()?;
        Ok(found.map(|version| Version(version.cast_unsigned())))
    }

    fn reported(&self, peer: &PeerId) -> Sql<bool> {
        Ok(self.reports.is_whole(peer))
    }
}

impl Writer {
    pub(super) fn apply(&mut self, op: &WriteOp) -> Result<WriteOutcome, Failure> {
        match op {
            WriteOp::Join { peer, addresses, digest, entries, seen, again } => {
                self.totals.last = after(self.totals.last, *seen, rand::random());
                self.join(*peer, addresses, &ShareSum { entries: *entries, digest: *digest }, *again)
            }
            WriteOp::Again { peer, neighbours } => self.again(*peer, *neighbours),
            WriteOp::Announce { peer, offers, neighbours, last, total, mirror } => {
                let end = last.then_some(total.as_ref());
                self.announce(*peer, offers, *neighbours, end, mirror)
            }
            WriteOp::Revoke { peer, names } => self.revoke(*peer, names),
            WriteOp::Overtaken { peer, names } => self.free_overtaken(*peer, names),
            WriteOp::InSession { session, change } => {
                self.check_session(change, *session)?;
                self.apply(change)
            }
            WriteOp::Evict { peer } => self.evict(*peer),
        }
    }

    /// Two runs of one peer may report at once: what the first still had under way when the second joined must not be
    /// taken for a part of the second's report, nor end it.
    fn check_session(&self, change: &WriteOp, session: Session) -> Result<(), Failure> {
        let (WriteOp::Announce { peer, .. } | WriteOp::Revoke { peer, .. } | WriteOp::Again { peer, .. }) = change
        else {
            return Ok(());
        };
        if self.member(*peer)?.session == session {
            return Ok(());
        }
        Err(Failure::Refused(Refusal::new(RefusalCode::NotJoined, "that session is over: join again")))
    }

    pub(super) fn peer(&self, id: PeerId) -> Sql<Option<Peer>> {
        let mut statement =
            self.connection.prepare_cached("SELECT session, digest, names FROM peers WHERE peer = ?1")?;
        statement
            .query_row([id.to_bytes()], |row| {
                Ok(Peer {
                    id,
                    session: Session(row.get::<_, i64>(0)?.cast_unsigned()),
                    held: ShareSum {
                        digest: ShareDigest::from_bytes(row.get(1)?),
                        entries: row.get::<_, i64>(2)?.cast_unsigned(),
                    },
                })
            })
            .optional()
    }

    pub(super) fn member(&self, id: PeerId) -> Result<Peer, Failure> {
        let refusal = || Failure::Refused(Refusal::new(RefusalCode::NotJoined, "this peer is no member: join first"));
        self.peer(id)?.ok_or_else(refusal)
    }

    /// What a peer holds, as of a change of its own.
    pub(super) fn holding(&mut self, peer: &Peer) -> Holding {
        self.change += 1;
        Holding { sum: peer.held, at: self.change }
    }

    pub(super) fn store(&self, peer: &Peer) -> Sql<()> {
        let ShareSum { entries, digest } = &peer.held;
        let values = params![peer.id.to_bytes(), &digest.as_bytes()[..], entries.cast_signed()];
        self.connection.prepare_cached("UPDATE peers SET digest = ?2, names = ?3 WHERE peer = ?1")?.execute(values)?;
        Ok(())
    }

    fn join(
        &mut self,
        id: PeerId,
        addresses: &[Multiaddr],
        share: &ShareSum,
        again: bool,
    ) -> Result<WriteOutcome, Failure> {
        let before = self.peer(id)?;
        self.totals.last = self.totals.last.next((self.options.clock)());
        let session = Session(self.totals.last.0);
        let held = match &before {
            Some(peer) => peer.held,
            // None, unless somebody else changed the database.
            None => self.rows_of(&id)?,
        };
        let values = params![
            id.to_bytes(),
            session.0.cast_signed(),
            schema::join_addresses(addresses),
            &held.digest.as_bytes()[..],
            held.entries.cast_signed(),
        ];
        let sql = "INSERT INTO peers (peer, session, addresses, digest, names) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (peer) DO UPDATE SET session = ?2, addresses = ?3";
        self.connection.prepare_cached(sql)?.execute(values)?;
        self.totals.peers += u64::from(before.is_none());
        let unchanged = held == *share;
        let again = self.returns(&id, share, again && !unchanged)?;
        self.reports.on_joined(id, unchanged, share.entries);
        let bare =
            schema::has_bare(&self.connection, &id, false)? || again && schema::has_bare(&self.connection, &id, true)?;
        let holding = self.holding(&Peer { id, session, held });
        Ok(WriteOutcome::Joined { session, unchanged, again, bare, holding })
    }

    fn announce(
        &mut self,
        id: PeerId,
        offers: &[Offer],
        neighbours: u64,
        end: Option<Option<&ShareSum>>,
        mirror: &BTreeMap<Name, Tally>,
    ) -> Result<WriteOutcome, Failure> {
        let mut peer = self.member(id)?;
        self.reports.on_offers(&id, offers.len()).map_err(Failure::Refused)?;
        let unix_ms = (self.options.clock)();
        let moment = self.moment(unix_ms);
        let mut verdicts = Vec::with_capacity(offers.len());
        let mut adopted = BTreeMap::new();
        for offer in offers {
            let evidence = self.evidence(id, offer, mirror)?;
            let view = View {
                connection: &self.connection,
                totals: &self.totals,
                reports: &self.reports,
                names_of_peer: peer.held.entries,
                neighbours,
            };
            let verdict = match announce(&view, id, offer, &evidence, &self.options.limits, moment)? {
                Announced::Granted { entry, new } => {
                    if new {
                        adopted.extend(self.displace(&peer, &entry.name)?);
                        self.change(&mut peer, Change::Put((*entry).clone()), unix_ms)?;
                    } else {
                        self.confirm(&peer, &entry)?;
                    }
                    self.seal(*entry, unix_ms)
                }
                Announced::Adopt(entry) => {
                    let owner = entry.owner;
                    tracing::info!(%owner, name = %entry.name, "the DHT says that a name belongs to another peer");
                    adopted.insert(owner, self.adopt(*entry, unix_ms)?);
                    Verdict::Conflict { owner }
                }
                Announced::Conflict(owner) => Verdict::Conflict { owner },
                Announced::Refused(refusal) => Verdict::Refused(refusal),
            };
            verdicts.push(verdict);
        }
        if let Some(total) = end {
            if self.reports.on_end(id, total).map_err(Failure::Refused)? {
                self.free(&mut peer, Free::Unconfirmed, unix_ms)?;
            } else if total.is_none() {
                tracing::warn!(peer = %id, "a peer of an earlier build told less than its whole share; what it did not tell is kept");
            }
        }
        self.store(&peer)?;
        Ok(WriteOutcome::Announced { verdicts, holding: self.holding(&peer), adopted })
    }

    /// What is known of an offer beyond the index: what the mirror says, and its own certificate, checked. One that this
    /// index ended proves nothing, and is not worth the check: a peer that left in order comes with thousands of these.
    fn evidence(&self, id: PeerId, offer: &Offer, mirror: &BTreeMap<Name, Tally>) -> Sql<Evidence> {
        let Ok(name) = Name::parse(&offer.name) else { return Ok(Evidence::default()) };
        let mirror = mirror.get(&name).cloned().unwrap_or_default();
        if let Some(granted) = &offer.granted
            && schema::is_over(&self.connection, &name, granted.version)?
        {
            return Ok(Evidence { mirror, granted: None });
        }
        let granted = offer.granted.as_ref().filter(|granted| {
            let Offer { content, size, .. } = *offer;
            let entry = Entry { name, content, size, owner: id, version: granted.version, attributes: None };
            let certificate = Certificate { entry, seal: granted.seal.clone() };
            certificate.verify_signature(&self.options.network, &self.options.master.public()).is_ok()
        });
        Ok(Evidence { mirror, granted: granted.map(|granted| granted.version) })
    }

    /// Takes a name from a member that another is about to get, since it was granted to that one later. What the member holds then.
    fn displace(&mut self, by: &Peer, name: &Name) -> Result<Option<(PeerId, Holding)>, Failure> {
        let Some(before) = self.stored(name)?.filter(|before| before.entry.owner != by.id) else { return Ok(None) };
        let holder = before.entry.owner;
        tracing::info!(%name, by = %by.id, %holder, "a name was granted to another peer after this copy of the index was made");
        let mut peer = self.member(holder)?;
        self.count_out(&mut peer, &before);
        self.store(&peer)?;
        Ok(Some((holder, self.holding(&peer))))
    }

    /// Takes in a name of a peer that may be no member: it has a lease to come back in.
    fn adopt(&mut self, entry: Entry, unix_ms: u64) -> Result<Holding, Failure> {
        let owner = entry.owner;
        if self.peer(owner)?.is_none() {
            self.insert_stranger(owner)?;
        }
        // It did not announce the name in its present session: unless it does, the end of its report frees it.
        let mut peer = Peer { session: Session::default(), ..self.member(owner)? };
        self.change(&mut peer, Change::Put(entry.clone()), unix_ms)?;
        self.store(&peer)?;
        self.seal(entry, unix_ms);
        Ok(self.holding(&peer))
    }

    /// Certifies an entry, and has the certificate published once it is on disk.
    fn seal(&mut self, entry: Entry, unix_ms: u64) -> Verdict {
        let version = entry.version;
        match Certificate::sign(entry, &self.options.network, &self.options.master, unix_ms) {
            Ok(certificate) => {
                let seal = certificate.seal.clone();
                self.hand_over(Statement::Certificate(certificate));
                Verdict::Accepted { version, seal }
            }
            Err(error) => {
                tracing::error!(%error, "an entry could not be signed");
                Verdict::Refused(Refusal::new(RefusalCode::Storage, "the master could not sign the entry"))
            }
        }
    }

    /// A name that was announced again as it is belongs to the present session.
    fn confirm(&mut self, peer: &Peer, entry: &Entry) -> Sql<()> {
        let sql = "UPDATE names SET session = ?2 WHERE name = ?1 AND session <> ?2";
        let values = params![entry.name.as_str(), peer.session.0.cast_signed()];
        if self.connection.prepare_cached(sql)?.execute(values)? > 0 {
            self.reports.on_granted(&peer.id, &entry.digest());
        }
        Ok(())
    }

    fn revoke(&mut self, id: PeerId, names: &[String]) -> Result<WriteOutcome, Failure> {
        let mut peer = self.member(id)?;
        let unix_ms = (self.options.clock)();
        let moment = self.moment(unix_ms);
        let mut outcomes: Vec<Revocation> = Vec::with_capacity(names.len());
        for name in names {
            let view = View {
                connection: &self.connection,
                totals: &self.totals,
                reports: &self.reports,
                names_of_peer: peer.held.entries,
                neighbours: 0,
            };
            let (outcome, change) = revoke(&view, id, name, moment)?;
            if let Some(change) = change {
                self.change(&mut peer, change, unix_ms)?;
            }
            outcomes.push(outcome);
        }
        self.store(&peer)?;
        Ok(WriteOutcome::Revoked { outcomes, holding: self.holding(&peer) })
    }

    fn free_overtaken(&mut self, id: PeerId, names: &[(Name, Version)]) -> Result<WriteOutcome, Failure> {
        let mut peer = self.member(id)?;
        let unix_ms = (self.options.clock)();
        for (name, version) in names {
            let held = self.stored(name)?.map(|stored| (stored.entry.owner, stored.entry.version));
            if held == Some((id, *version)) {
                let change = evict(name.clone(), id, self.totals.last, self.moment(unix_ms));
                self.change(&mut peer, change, unix_ms)?;
            }
        }
        self.store(&peer)?;
        Ok(WriteOutcome::Revoked { outcomes: Vec::new(), holding: self.holding(&peer) })
    }

    fn evict(&mut self, id: PeerId) -> Result<WriteOutcome, Failure> {
        let Some(mut peer) = self.peer(id)? else { return Ok(WriteOutcome::Evicted { names: 0 }) };
        let unix_ms = (self.options.clock)();
        if peer.session != Session::default() && peer.held.entries > 0 {
            // Names of an earlier departure are of no use any more.
            self.litter |= away::depart(&self.connection, &id, peer.session, &peer.held, unix_ms)?;
        }
        let names = self.free(&mut peer, Free::Evicted, unix_ms)?;
        if names == EVICTION_SLICE {
            self.store(&peer)?;
        } else {
            self.connection.prepare_cached("DELETE FROM peers WHERE peer = ?1")?.execute([id.to_bytes()])?;
            self.totals.peers -= 1;
            self.reports.put_back(id, None);
        }
        Ok(WriteOutcome::Evicted { names })
    }

    pub(super) fn moment(&self, unix_ms: u64) -> Moment {
        Moment { unix_ms, random: rand::random(), run: self.run }
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
            let change = match evict(name, peer.id, self.totals.last, self.moment(unix_ms)) {
                Change::Free { name, owner, version, .. } => Change::Free { name, owner, version, evicted },
                change => change,
            };
            self.change(peer, change, unix_ms)?;
            freed += 1;
        }
        Ok(freed)
    }

    /// Carries out what a rule decided.
    pub(super) fn change(&mut self, peer: &mut Peer, change: Change, unix_ms: u64) -> Sql<()> {
        match change {
            Change::Put(entry) => {
                let before = self.stored(&entry.name)?;
                match &before {
                    Some(before) if before.entry.owner == peer.id => self.count_out(peer, before),
                    // It was taken from its holder.
                    Some(_) => {}
                    None => self.totals.names += 1,
                }
                let digest = entry.digest();
                peer.held.add(&digest);
                if peer.session != Session::default() {
                    self.reports.on_granted(&peer.id, &digest);
                }
                schema::put(&self.connection, &self.words, &entry, peer.session, before.is_none())?;
                self.totals.last = self.totals.last.max(entry.version);
            }
            Change::Free { name, owner, version, evicted } => {
                let Some(before) = self.stored(&name)? else { return Ok(()) };
                self.count_out(peer, &before);
                self.totals.names = self.totals.names.saturating_sub(1);
                self.connection.prepare_cached("DELETE FROM names WHERE id = ?1")?.execute([before.id])?;
                self.words.remove(&self.connection, before.id)?;
                let sql = "INSERT OR REPLACE INTO tombstones (name, owner, version, unix_ms, evicted)
                    VALUES (?1, ?2, ?3, ?4, ?5)";
                let [at, number] = [unix_ms, version.0].map(u64::cast_signed);
                let values = params![name.as_str(), owner.to_bytes(), number, at, evicted];
                self.connection.prepare_cached(sql)?.execute(values)?;
                if evicted && peer.session != Session::default() {
                    let left = Left { entry: before.entry, ended: version };
                    away::remember(&self.connection, peer.session, &left)?;
                }
                self.totals.last = version;
                let IndexOptions { network, master, .. } = &self.options;
                match Tombstone::sign(name, owner, version, network, master, unix_ms) {
                    Ok(tombstone) => self.hand_over(Statement::Tombstone(tombstone)),
                    Err(error) => tracing::error!(%error, "a tombstone could not be signed"),
                }
            }
        }
        Ok(())
    }

    /// An entry of the peer is about to go.
    fn count_out(&mut self, peer: &mut Peer, before: &Stored) {
        let digest = before.entry.digest();
        peer.held.remove(&digest);
        if before.session == peer.session {
            self.reports.on_lost(&peer.id, &digest);
        }
    }

    /// The row of a name. One that is damaged is removed: it is about to be replaced or freed.
    fn stored(&mut self, name: &Name) -> Sql<Option<Stored>> {
        let sql = format!("SELECT {}, n.session FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let stored = |row: &rusqlite::Row<'_>| {
            let (id, entry) = schema::entry(row)?;
            Ok(Stored { id, entry, session: Session(row.get::<_, i64>(schema::ENTRY_COLUMNS)?.cast_unsigned()) })
        };
        let found = self.connection.prepare_cached(&sql)?.query_row([name.as_str()], stored).optional();
        match found {
            Err(error) if schema::is_damage(&error) => {
                tracing::warn!(%name, %error, "a damaged row of the index is removed");
                schema::remove_row(&self.connection, &self.words, name)?;
                self.on_damage();
                Ok(None)
            }
            found => found,
        }
    }

    /// Statements go to the mirror only after the transaction is on disk.
    fn hand_over(&mut self, statement: Statement) {
        if self.options.mirror.is_some() {
            self.made.push(statement);
        }
    }
}
