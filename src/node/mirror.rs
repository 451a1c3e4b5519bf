//! Keeps the mirror: publishes what this node has to say, again and again; and while no master can be reached,
//! claims its new names and revokes those it gave up.
//!
//! One task; the rules it follows are in `state::publish` and `state::announce`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmdex_protocols::ledger::Standing;
use swarmdex_protocols::statement::Revocation;
use swarmdex_protocols::{Claim, ContentId, Entry, Name, PeerId, RecordKey, Statement, Tally, Version};
use tokio::sync::{mpsc, watch};

use super::agree::Agreement;
use super::context::Context;
use super::events::Happened;
use super::life::Phase;
use super::membership::key_bytes;
use super::neighbours::{enter, remember};
use super::standings::Standings;
use super::types::{MasterState, MirrorInfo};
use super::wanted::Follower;
use crate::clock::sleep_until;
use crate::clock::unix_ms;
use crate::net::Copies;
use crate::state::pages::part;
use crate::state::publish::{Publications, What};
use crate::storage::index::{IndexStore, ReadOp, ReadOutcome};
use crate::storage::library::Library;

/// Changes come in bursts: they are published once they have settled for so long.
const SETTLE: Duration = Duration::from_millis(100);
/// Records published in one go.
const BATCH: usize = 10_000;
/// Names claimed in one go.
const CLAIMS: usize = 2000;
/// Statements of the index that wait to be published; what finds no room is published by its owner.
pub(super) const MADE_QUEUE: usize = 1 << 15;
/// Tombstones of a master that are published again in one round, the latest first and the next ones in the next round.
/// Nodes keep each for as long as it is valid, and new nodes are told of these. And how many are read at a time: each
/// has to be signed, and whoever looks a name up waits meanwhile.
const TOMBSTONES: usize = 20_000;
const TOMBSTONE_PAGE: u32 = 2000;
/// How soon names that could not be claimed are tried again.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// How often the nodes that are known are written to disk, claims are renewed and lost ones tried again, in the end;
/// and how soon at first, doubled each time. So a node that stops soon after it came remembers its neighbours, too.
const CHECK: Duration = Duration::from_secs(60);
const FIRST_CHECK: Duration = Duration::from_secs(1);

/// What was published, as of some moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published {
    /// The moment: the generations of what is published.
    of: [u64; 3],
    records: u64,
    published: u64,
    no_room: u64,
    sent: u64,
    copies: f64,
    fewest_copies: u64,
}

impl Published {
    /// The counts, for a node whose generations are these now.
    pub(super) fn info(self, now: [u64; 3]) -> MirrorInfo {
        let Self { of, records, published, no_room, sent, copies, fewest_copies } = self;
        MirrorInfo { records, published, no_room, sent, changing: of != now, copies, fewest_copies }
    }
}

/// The generations of all that is published: shares, what is said of them, contents held.
pub(super) fn generations(library: &Library, standings: &Standings) -> [u64; 3] {
    let generations = [library.shares.generation(), standings.watch(), library.holdings.generation()];
    generations.map(|generation| *generation.borrow())
}

/// The task.
pub(super) struct MirrorTask {
    pub(super) context: Context,
    /// The index and the statements that it makes; a master's alone.
    pub(super) index: Option<(IndexStore, mpsc::Receiver<Statement>)>,
    /// Whether everything that was shared before is in the share table again.
    pub(super) complete: watch::Receiver<bool>,
    pub(super) state: watch::Sender<Published>,
}

impl MirrorTask {
    /// Runs until the node stops.
    pub(super) async fn run(&mut self) {
        let phase = self.context.phase.clone();
        Phase::limit(&phase, self.work()).await;
    }

    async fn work(&mut self) {
        enter(&self.context);
        let config = &self.context.config;
        let room = config.dht.keys_per_peer.saturating_add(config.limits.names_per_peer);
        let mut publications =
            Publications::new(config.dht.republish).with_room(room).with_turn(key_bytes(&self.context.net.local())[7]);
        let mut agreement = Agreement::new(
            self.context.net.clone(),
            self.context.mirror.clone(),
            self.context.config.dht.republish,
            Instant::now(),
        );
        let mut held = self.context.library.holdings.generation();
        let own = RecordKey::node(self.context.network(), &self.context.net.local());
        let found_as = (!self.context.config.transient).then_some(own);
        let mut follower = Follower::new(
            self.context.standings.clone(),
            self.context.library.clone(),
            self.context.network().clone(),
            found_as,
        );
        let (mut shares, mut said, mut master) =
            (self.context.library.shares.generation(), self.context.standings.watch(), self.context.master.clone());
        let (mut made, mut sent) = (Vec::new(), 0);
        let (mut check, mut tombstones, mut again) = (Instant::now() + SETTLE, Instant::now(), None);
        let mut pause = FIRST_CHECK;
        // How far tombstones were published again, and which claim was tried last.
        let (mut older, mut tried) = (None, None);
        loop {
            let due = publications.poll_timeout();
            tokio::select! {
                changed = shares.changed() => if changed.is_err() { return },
                changed = said.changed() => if changed.is_err() { return },
                changed = held.changed() => if changed.is_err() { return },
                changed = master.changed() => if changed.is_err() { return },
                // Its sender goes when all is complete.
                Ok(()) = self.complete.changed() => {}
                count = statements(&mut self.index, &mut made) => if count == 0 { return },
                () = sleep_until(due) => {}
                () = sleep_until(again) => {}
                () = sleep_until(Some(check)) => {}
                event = agreement.ready() => {
                    let complete = *self.complete.borrow();
                    if agreement.advance(event, &mut publications, complete, Instant::now()).await {
                        let (copies, fewest) = publications.confirmed_copies();
                        self.state.send_modify(|state| (state.copies, state.fewest_copies) = (copies, fewest as u64));
                    }
                    continue;
                }
            }
            tokio::time::sleep(SETTLE.min(self.context.config.dht.republish / 10)).await;
            // A twin publishes nothing: it would take the place of what the member with this identity publishes.
            self.context.twins.admitted().await;
            let of = [*shares.borrow_and_update(), *said.borrow_and_update(), *held.borrow_and_update()];
            let masterless = matches!(*master.borrow_and_update(), MasterState::Unreachable { .. });
            self.give_up(masterless).await;
            let claimed = !masterless || self.claim(&mut tried).await;
            again = (!claimed).then(|| Instant::now() + CLAIM_AGAIN);
            let now = Instant::now();
            publications.set_masterless(masterless, now);
            for (key, what) in follower.changes(publications.has_room_again()).await {
                publications.want(key, what, now);
            }
            for statement in made.drain(..) {
                publications.push(self.context.mirror.key(statement.name()), statement, now);
            }
            if now >= tombstones {
                self.push_tombstones(&mut publications, &mut older, now).await;
                tombstones = now + self.context.config.dht.republish;
            }
            sent += self.publish(&mut publications, &mut agreement).await;
            if Instant::now() >= check {
                publications.expire(unix_ms());
                remember(&self.context).await;
                check = Instant::now() + pause.min(self.context.config.dht.republish);
                pause = CHECK.min(pause * 2);
            }
            let (records, published) = publications.counts();
            let no_room = publications.left_out() + publications.refused();
            self.state.send_modify(|state| {
                let [records, published, no_room] = [records, published, no_room].map(|count| count as u64);
                *state = Published { of, records, published, no_room, sent, ..*state };
            });
        }
    }

    /// Publishes what is due; how many records that was.
    async fn publish(&self, publications: &mut Publications, agreement: &mut Agreement) -> u64 {
        let due = publications.due(Instant::now(), BATCH);
        if due.is_empty() {
            return 0;
        }
        let begin = Instant::now();
        let stores = self.context.mirror.store(due.clone()).await;
        let copies = &stores.copies;
        let now = Instant::now();
        let mut reached = 0;
        for (key, what) in &due {
            // A node that knows something later needs no copy.
            let (stored, asked) = copies.get(key).map_or((0, 0), |copies| (copies.stored + copies.older, copies.asked));
            let full = copies.get(key).is_some_and(|copies| copies.full > 0);
            reached += usize::from(stored > 0);
            if let What::Statement(statement) = what
                && matches!(**statement, Statement::Certificate(_))
                && copies.get(key).is_some_and(|copies| copies.older > 0)
            {
                self.context.standings.change(|announcer| announcer.doubt(statement.name()));
            }
            if stored == 0 && full {
                publications.on_no_room(key, what, now);
            } else {
                publications.on_published(key, what, stored, asked, now);
            }
            publications.on_held(key, what, stores.holders(key));
        }
        agreement.on_sent(&stores.busy, publications, now);
        tracing::debug!(records = due.len(), reached, elapsed = ?begin.elapsed(), "published");
        due.len() as u64
    }

    /// Tombstones are published for as long as a certificate that they end may be about: from where the round before
    /// ended, and again from the latest.
    async fn push_tombstones(&self, publications: &mut Publications, older: &mut Option<Version>, now: Instant) {
        let Some((index, _)) = &self.index else { return };
        for _ in 0..TOMBSTONES / TOMBSTONE_PAGE as usize {
            let op = ReadOp::Tombstones { before: *older, limit: TOMBSTONE_PAGE };
            let Ok(reading) = index.try_read(op) else { return };
            let Ok(Ok(ReadOutcome::Tombstones(page))) = reading.await else { return };
            for tombstone in page.tombstones {
                publications.push(self.context.mirror.key(tombstone.name()), tombstone, now);
            }
            *older = page.next;
            if older.is_none() {
                return;
            }
        }
    }

    /// Claims names that no master can grant at the moment. False if some have to be tried again: nobody answered,
    /// or there are too many for one go.
    async fn claim(&self, tried: &mut Option<Name>) -> bool {
        let entries = self.context.library.shares.entries();
        let share = entries.iter().map(|entry| (&entry.name, &entry.content, entry.size));
        let wanted = self.context.standings.lock().to_claim(share, unix_ms());
        if wanted.is_empty() {
            return true;
        }
        let mut all = wanted.len() <= CLAIMS;
        let wanted = part(wanted, tried, CLAIMS, |(name, ..)| name);
        if self.context.net.authority().is_none() {
            return false;
        }
        let known = self.context.mirror.read(wanted.iter().map(|(name, ..)| name.clone()).collect()).await;
        let mut claims = BTreeMap::new();
        for (name, content, size) in wanted {
            let tally = known.get(&name).cloned().unwrap_or_default();
            let local = self.context.net.local();
            match tally.standing() {
                Standing::Certified(certificate) if certificate.entry.owner != local => {
                    self.lose(&name, content, size, certificate.entry.owner);
                }
                Standing::Claimed(claim) if claim.entry.owner != local => {
                    self.lose(&name, content, size, claim.entry.owner);
                }
                // Granted, and the answer did not arrive.
                Standing::Certified(granted) if granted.entry.content == content && granted.entry.size == size => {
                    self.context.standings.change(|announcer| announcer.on_certificate(granted.clone()));
                }
                _ => claims.extend(
                    self.sign(name, content, size, &tally)
                        .map(|claim| (self.context.mirror.key(&claim.entry.name), claim)),
                ),
            }
        }
        let items =
            claims.iter().map(|(key, claim)| (*key, What::Statement(Arc::new(Statement::Claim(claim.clone())))));
        let copies = self.context.mirror.store(items.collect()).await.copies;
        for (key, claim) in claims {
            all &= self.settle(claim, copies.get(&key).cloned().unwrap_or_default());
        }
        all
    }

    /// A claim above everything that is known of the name.
    fn sign(&self, name: Name, content: ContentId, size: u64, tally: &Tally) -> Option<Claim> {
        let (base, version) = (tally.base(), tally.version().next(unix_ms()));
        let attributes = self.context.library.shares.entry(&name).filter(|entry| entry.content == content);
        let attributes =
            attributes.and_then(|entry| entry.signed_attributes(self.context.network(), &self.context.keypair));
        let entry = Entry { name, content, size, owner: self.context.net.local(), version, attributes };
        match Claim::sign(entry, base, false, self.context.network(), &self.context.keypair, unix_ms()) {
            Ok(claim) => Some(claim),
            Err(error) => {
                tracing::error!(%error, "a claim could not be signed");
                None
            }
        }
    }

    /// Counts the nodes that hold the claim, and those that hold another's. False if nobody was reached, not even
    /// this node itself.
    fn settle(&self, claim: Claim, copies: Copies) -> bool {
        let Entry { name, content, size, .. } = claim.entry.clone();
        let rival = copies.taken.into_iter().max_by_key(|(_, count)| *count);
        match rival {
            Some((owner, count)) if count > copies.stored => self.lose(&name, content, size, owner),
            _ if copies.stored == 0 => return false,
            _ => {
                tracing::info!(%name, nodes = copies.stored, "claimed until the master is back");
                self.context.events.tell(Happened::NameClaimed { name });
                self.context.standings.change(|announcer| announcer.on_claimed(claim));
            }
        }
        true
    }

    fn lose(&self, name: &Name, content: ContentId, size: u64, owner: PeerId) {
        if owner != self.context.net.local() {
            tracing::warn!(%name, %owner, "the name belongs to another peer");
            self.context.events.tell(Happened::ClaimLost { name: name.clone(), owner });
            self.context.standings.change(|announcer| announcer.on_claim_lost(name, content, size, owner));
        }
    }

    /// Withdraws claims that are over and, without a master, revokes certificates of names that are no longer shared.
    async fn give_up(&self, masterless: bool) {
        // What is not yet found again after a start is not given up. While there is a master, it is told what is no longer
        // shared, and only claims are withdrawn here.
        if !*self.complete.borrow() || !(masterless || self.context.standings.lock().has_claims()) {
            return;
        }
        let entries = self.context.library.shares.entries();
        let shared = |name: &Name| entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok();
        let (certificates, claims) = self.context.standings.lock().to_give_up(shared);
        let unix_ms = unix_ms();
        let revoked = certificates.into_iter().take(if masterless { CLAIMS } else { 0 }).filter_map(|certificate| {
            Revocation::sign(certificate, self.context.network(), &self.context.keypair, unix_ms)
                .ok()
                .map(Statement::Revocation)
        });
        let withdrawn = claims.into_iter().take(CLAIMS).filter_map(|claim| {
            let entry = Entry { version: claim.entry.version.next(unix_ms), ..claim.entry };
            Claim::sign(entry, claim.base, true, self.context.network(), &self.context.keypair, unix_ms)
                .ok()
                .map(Statement::Claim)
        });
        let statements: Vec<_> = revoked.chain(withdrawn).collect();
        if statements.is_empty() {
            return;
        }
        let items = statements.iter().map(|statement| (self.context.mirror.key(statement.name()), statement.clone()));
        self.context
            .mirror
            .store(items.map(|(key, statement)| (key, What::Statement(Arc::new(statement)))).collect())
            .await;
        for statement in statements {
            tracing::info!(name = %statement.name(), "given up; the master is told when it is back");
            self.context.standings.change(|announcer| announcer.on_given_up(statement));
        }
    }
}

/// Statements that the index made; never for a node without one.
async fn statements(index: &mut Option<(IndexStore, mpsc::Receiver<Statement>)>, made: &mut Vec<Statement>) -> usize {
    match index {
        Some((_, receiver)) => receiver.recv_many(made, BATCH).await,
        None => std::future::pending().await,
    }
}
