//! Keeps the mirror: publishes what this node has to say, again and again; and while no master can be reached,
//! claims its new names and revokes those it gave up.
//!
//! One task; the rules it follows are in `state::publish` and `state::announce`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use swarmdex_protocols::address::split_peer;
use swarmdex_protocols::ledger::Standing;
use swarmdex_protocols::statement::Revocation;
use swarmdex_protocols::{
    Claim, ContentId, Entry, Multiaddr, Name, Network, PeerId, RecordKey, Statement, Tally, Version,
};
use tokio::sync::{mpsc, watch};

use super::Phase;
use super::agree::Agreement;
use super::events::{Events, Happened};
use super::membership::{key_bytes, unix_ms};
use super::standings::Standings;
use super::twins::Twins;
use super::types::{MasterState, MirrorInfo};
use super::wanted::Follower;
use crate::net::{Copies, Mirror, Net, sleep_until};
use crate::state::pages::part;
use crate::state::publish::{Publications, What};
use crate::storage::dir::DataDir;
use crate::storage::index::{IndexStore, ReadOp, ReadOutcome};
use crate::storage::library::Library;
use crate::tasks;

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
/// Nodes that are remembered for the next start, and how many of them are tried at a time.
const REMEMBERED: usize = 64;
const DIALS: usize = 8;

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
    pub(super) net: Net,
    pub(super) mirror: Mirror,
    pub(super) twins: Twins,
    /// The key under which this node itself is to be found.
    pub(super) found_as: Option<RecordKey>,
    pub(super) network: Network,
    pub(super) keypair: Keypair,
    pub(super) library: Library,
    pub(super) standings: Standings,
    pub(super) dir: DataDir,
    /// Nodes that the configuration names.
    pub(super) bootstrap: Vec<Multiaddr>,
    pub(super) master: watch::Receiver<MasterState>,
    /// The index and the statements that it makes; a master's alone.
    pub(super) index: Option<(IndexStore, mpsc::Receiver<Statement>)>,
    /// Whether everything that was shared before is in the share table again.
    pub(super) complete: watch::Receiver<bool>,
    pub(super) state: watch::Sender<Published>,
    pub(super) republish: Duration,
    /// Records of its own that this node may have to publish.
    pub(super) room: usize,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) events: Events,
}

impl MirrorTask {
    /// Runs until the node stops.
    pub(super) async fn run(&mut self) {
        let mut phase = self.phase.clone();
        tokio::select! {
            () = Phase::end(&mut phase) => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        self.enter();
        let mut publications =
            Publications::new(self.republish).with_room(self.room).with_turn(key_bytes(&self.net.local())[7]);
        let mut agreement = Agreement::new(self.net.clone(), self.mirror.clone(), self.republish, Instant::now());
        let mut held = self.library.holdings.generation();
        let mut follower =
            Follower::new(self.standings.clone(), self.library.clone(), self.network.clone(), self.found_as);
        let (mut shares, mut said, mut master) =
            (self.library.shares.generation(), self.standings.watch(), self.master.clone());
        let (mut made, mut sent) = (Vec::new(), 0);
        let (mut check, mut tombstones, mut again) = (Instant::now() + SETTLE, Instant::now(), None);
        let mut pause = FIRST_CHECK;
        // How far tombstones were published again, and which claim was tried last.
        let (mut older, mut tried) = (None, None);
        loop {
            let due = publications.poll_timeout().map(|(at, _)| at);
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
            tokio::time::sleep(SETTLE.min(self.republish / 10)).await;
            // A twin publishes nothing: it would take the place of what the member with this identity publishes.
            self.twins.admitted().await;
            let of = [*shares.borrow_and_update(), *said.borrow_and_update(), *held.borrow_and_update()];
            let alone = matches!(*master.borrow_and_update(), MasterState::Unreachable { .. });
            self.give_up(alone).await;
            let claimed = !alone || self.claim(&mut tried).await;
            again = (!claimed).then(|| Instant::now() + CLAIM_AGAIN);
            let now = Instant::now();
            publications.set_alone(alone, now);
            for (key, what) in follower.changes(publications.has_room_again()).await {
                publications.want(key, what, now);
            }
            for statement in made.drain(..) {
                publications.push(self.mirror.key(statement.name()), statement, now);
            }
            if now >= tombstones {
                self.push_tombstones(&mut publications, &mut older, now).await;
                tombstones = now + self.republish;
            }
            sent += self.publish(&mut publications, &mut agreement).await;
            if Instant::now() >= check {
                publications.expire(unix_ms());
                self.remember().await;
                check = Instant::now() + pause.min(self.republish);
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
        let stores = self.mirror.store(due.clone()).await;
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
                self.standings.change(|announcer| announcer.doubt(statement.name()));
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
                publications.push(self.mirror.key(tombstone.name()), tombstone, now);
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
        let entries = self.library.shares.entries();
        let share = entries.iter().map(|entry| (&entry.name, &entry.content, entry.size));
        let wanted = self.standings.lock().to_claim(share, unix_ms());
        if wanted.is_empty() {
            return true;
        }
        let mut all = wanted.len() <= CLAIMS;
        let wanted = part(wanted, tried, CLAIMS, |(name, ..)| name);
        if self.net.authority().is_none() {
            return false;
        }
        let known = self.mirror.read(wanted.iter().map(|(name, ..)| name.clone()).collect()).await;
        let mut claims = BTreeMap::new();
        for (name, content, size) in wanted {
            let tally = known.get(&name).cloned().unwrap_or_default();
            let local = self.net.local();
            match tally.standing() {
                Standing::Certified(certificate) if certificate.entry.owner != local => {
                    self.lose(&name, content, size, certificate.entry.owner);
                }
                Standing::Claimed(claim) if claim.entry.owner != local => {
                    self.lose(&name, content, size, claim.entry.owner);
                }
                // Granted, and the answer did not arrive.
                Standing::Certified(granted) if granted.entry.content == content && granted.entry.size == size => {
                    self.standings.change(|announcer| announcer.on_certificate(granted.clone()));
                }
                _ => claims.extend(
                    self.sign(name, content, size, &tally).map(|claim| (self.mirror.key(&claim.entry.name), claim)),
                ),
            }
        }
        let items =
            claims.iter().map(|(key, claim)| (*key, What::Statement(Arc::new(Statement::Claim(claim.clone())))));
        let copies = self.mirror.store(items.collect()).await.copies;
        for (key, claim) in claims {
            all &= self.settle(claim, copies.get(&key).cloned().unwrap_or_default());
        }
        all
    }

    /// A claim above everything that is known of the name.
    fn sign(&self, name: Name, content: ContentId, size: u64, tally: &Tally) -> Option<Claim> {
        let (base, version) = (tally.base(), tally.version().next(unix_ms()));
        let attributes = self.library.shares.entry(&name).filter(|entry| entry.content == content);
        let attributes = attributes.and_then(|entry| entry.signed_attributes(&self.network, &self.keypair));
        let entry = Entry { name, content, size, owner: self.net.local(), version, attributes };
        match Claim::sign(entry, base, false, &self.network, &self.keypair, unix_ms()) {
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
                self.events.tell(Happened::NameClaimed { name });
                self.standings.change(|announcer| announcer.on_claimed(claim));
            }
        }
        true
    }

    fn lose(&self, name: &Name, content: ContentId, size: u64, owner: PeerId) {
        if owner != self.net.local() {
            tracing::warn!(%name, %owner, "the name belongs to another peer");
            self.events.tell(Happened::ClaimLost { name: name.clone(), owner });
            self.standings.change(|announcer| announcer.on_claim_lost(name, content, size, owner));
        }
    }

    /// Withdraws claims that are over and, without a master, revokes certificates of names that are no longer shared.
    async fn give_up(&self, alone: bool) {
        // What is not yet found again after a start is not given up. While there is a master, it is told what is no longer
        // shared, and only claims are withdrawn here.
        if !*self.complete.borrow() || !(alone || self.standings.lock().has_claims()) {
            return;
        }
        let entries = self.library.shares.entries();
        let shared = |name: &Name| entries.binary_search_by(|entry| entry.name.cmp(name)).is_ok();
        let (certificates, claims) = self.standings.lock().to_give_up(shared);
        let unix_ms = unix_ms();
        let revoked = certificates.into_iter().take(if alone { CLAIMS } else { 0 }).filter_map(|certificate| {
            Revocation::sign(certificate, &self.network, &self.keypair, unix_ms).ok().map(Statement::Revocation)
        });
        let withdrawn = claims.into_iter().take(CLAIMS).filter_map(|claim| {
            let entry = Entry { version: claim.entry.version.next(unix_ms), ..claim.entry };
            Claim::sign(entry, claim.base, true, &self.network, &self.keypair, unix_ms).ok().map(Statement::Claim)
        });
        let statements: Vec<_> = revoked.chain(withdrawn).collect();
        if statements.is_empty() {
            return;
        }
        let items = statements.iter().map(|statement| (self.mirror.key(statement.name()), statement.clone()));
        self.mirror.store(items.map(|(key, statement)| (key, What::Statement(Arc::new(statement)))).collect()).await;
        for statement in statements {
            tracing::info!(name = %statement.name(), "given up; the master is told when it is back");
            self.standings.change(|announcer| announcer.on_given_up(statement));
        }
    }

    /// Connects to nodes that were known before, and to those that the configuration names: the network may be there although its
    /// master is not, or be larger than its master knows.
    fn enter(&self) {
        let mut known = self.dir.known_nodes(&self.network);
        known.extend(self.bootstrap.iter().cloned());
        let net = self.net.clone();
        tasks::spawn(
            "entrance",
            futures::stream::iter(known).for_each_concurrent(DIALS, move |address| {
                let net = net.clone();
                async move {
                    let (peer, address) = split_peer(address);
                    if let Err(error) = net.connect(peer, vec![address]).await {
                        tracing::debug!(%error, "a node that was known before is gone");
                    }
                }
            }),
        );
    }

    /// Writes down who is there, for a start without a master.
    async fn remember(&self) {
        let nodes = self.net.nodes().await;
        let address = |(peer, addresses): (PeerId, Vec<Multiaddr>)| {
            addresses.into_iter().next().map(|address| address.with(Protocol::P2p(peer)))
        };
        let nodes: Vec<_> = nodes.into_iter().filter_map(address).take(REMEMBERED).collect();
        // An empty table says nothing new.
        if nodes.is_empty() {
            return;
        }
        let (dir, network) = (self.dir.clone(), self.network.clone());
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || dir.remember_nodes(&network, &nodes)).await {
            tracing::warn!(%error, "the nodes that are known could not be written down");
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
