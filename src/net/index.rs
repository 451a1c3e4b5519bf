//! The master's side of the index protocol: requests to leases and store, their outcomes to responses.
//!
//! Rules about names, leases and runs are in `state`. What is decided here is how long a new master looks names up in the
//! DHT, of which members it does not believe the index yet, and which bounds of the configuration a request meets.

mod absent;
mod agree;
mod answers;
mod changes;
mod news;
mod quotas;
mod reach;
mod returning;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use swarmdex_protocols::address::{ip_of, is_loopback, worth_keeping};
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::index::{
    self, Announce, Compared, Found, IndexRequest, IndexResponse, Join, Joined, Member, Page, Refusal, RefusalCode,
    Reign, Revoke, Run, Sequence, Session,
};
use swarmdex_protocols::limits::{MAX_BATCH_ENTRIES, MAX_HOLDERS, MAX_MEMBERS, MAX_PAGE_ENTRIES};
use swarmdex_protocols::{Authority, Certificate, Name, Network, Pattern, Version};
use tokio::sync::oneshot;

use super::mirror::Mirror;
use super::precedents::Precedents;
use super::rpc::codec::Received;
use super::types::MemberCounts;
use crate::config::{Config, LimitsConfig};
use absent::Absent;
use news::News;
pub(crate) use news::{MemberChange, MemberChanges};
use quotas::source_of;
use reach::Reaching;
use returning::{ACQUAINTED, Returning};

use crate::state::lease::{Holding, LeaseAction, LeaseState, Leases};
use crate::state::origins::Origins;
use crate::state::runs::{JoinAttempt, Runs};
use crate::storage::index::{IndexStore, KnownPeer, ReadOp, ReadOutcome, WriteOp, WriteOutcome};

type Outcome<T> = Result<T, Refusal>;

/// What to do about a request.
#[allow(clippy::large_enum_variant)] // It is moved once, to where it is sent.
pub(super) enum IndexStep {
    /// Answer at once.
    Answer(IndexResponse),
    /// Wait for the store, then call [`Master::finish`].
    Wait(BoxFuture<'static, Done>),
}

/// What the store said.
pub(super) struct Done {
    peer: PeerId,
    outcome: Outcome<DoneKind>,
}

enum DoneKind {
    Written(WriteOutcome),
    Read(ReadOutcome),
    /// An answer that was checked, and what owners hold whose names turned out to be free.
    Checked(Box<ReadOutcome>, BTreeMap<PeerId, Holding>),
    Compared(Outcome<Vec<Compared>>, u64),
}

/// What the loop is to do about a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// See whether it can be reached.
    Probe(PeerId, Vec<Multiaddr>),
    /// Keep its connections open.
    Keep(PeerId),
    /// It is no member any more: let its connections go.
    Release(PeerId),
    /// Close a connection of a run whose place another has taken.
    Close(ConnectionId),
    /// See whether a connection to it comes about, and call [`Master::on_tried`].
    Try(PeerId, Vec<Multiaddr>),
    /// Tell it something, if it is connected.
    Tell(PeerId, IndexRequest),
}

/// Where a request of another node came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The connection.
    pub(super) link: ConnectionId,
    /// Its other end.
    pub(super) remote: Option<&'a Multiaddr>,
}

/// The index as a service.
pub(crate) struct Master {
    network: Network,
    limits: LimitsConfig,
    leases: Leases,
    absent: Absent,
    returning: Returning,
    runs: Runs<ConnectionId>,
    store: IndexStore,
    origins: Origins,
    comparing: usize,
    /// Members whose eviction the store had no room to take in.
    evictions: VecDeque<PeerId>,
    effects: VecDeque<Effect>,
    began: Instant,
    run: Run,
    /// Why this master gave way to another with its key: it serves nobody any more.
    gave_way: Option<String>,
    reaching: Reaching,
    news: News,
    /// What the DHT says of names that the index does not know.
    precedents: Option<Precedents>,
    /// Until then every such name is looked up there: names were granted before a disk was lost, or claimed
    /// while this master was away.
    settled: Instant,
}

impl Master {
    /// Serves `store`; members known from before are suspect with a fresh lease.
    pub(crate) fn new(store: IndexStore, config: &Config, known: Vec<KnownPeer>, now: Instant) -> Self {
        let mut leases = Leases::new(&config.lease, config.limits.peers);
        let absent = Absent::new(known.iter().map(|known| known.peer));
        let returning = Returning::new(known.iter().map(|known| known.peer), now);
        let known = known
            .into_iter()
            .map(|KnownPeer { peer, addresses, held }| (peer, addresses, Holding { sum: held, at: 0 }));
        leases.restore(known, now);
        Self {
            network: config.network.clone(),
            limits: config.limits,
            leases,
            absent,
            returning,
            runs: Runs::new(&config.lease),
            store,
            origins: Origins::default(),
            comparing: 0,
            evictions: VecDeque::new(),
            effects: VecDeque::new(),
            began: now,
            run: Run(0),
            gave_way: None,
            reaching: Reaching::default(),
            news: News::default(),
            precedents: None,
            // Whoever lost this master tries again at least so often. What waits for others is not to be overtaken.
            settled: now + config.lease.lease.max(config.lease.max_backoff * 2).max(ACQUAINTED),
        }
    }

    /// Its index is new, although the master is not: the one before was lost.
    pub(crate) fn on_lost_index(&self) {
        self.returning.on_lost();
    }

    /// Consults the DHT from now on, in this run.
    pub(super) fn consult(&mut self, mirror: Mirror, run: Run) {
        (self.precedents, self.run) = (Some(Precedents::new(mirror)), run);
    }

    /// How it stands with the index, for another master with this key.
    pub(super) fn reign(&self, now: Instant) -> Reign {
        let age = now.saturating_duration_since(self.began).as_millis();
        let (first, last) = self.store.versions();
        Reign { run: self.run, age_ms: u64::try_from(age).unwrap_or(u64::MAX), first, last }
    }

    /// Another master with this key has the newer index: from here on this one grants nothing, and answers nothing.
    pub(super) fn give_way(&mut self, reason: String) {
        self.gave_way = Some(reason);
    }

    /// Takes a request in. `origin` is where it came from, `None` for this node itself.
    pub(super) fn handle(
        &mut self,
        peer: PeerId,
        origin: Option<Origin<'_>>,
        request: Received<IndexRequest>,
        now: Instant,
    ) -> IndexStep {
        self.on_sign(&peer, origin.map(|origin| origin.link), now);
        match self.begin(peer, origin, request, now) {
            Ok(IndexStep::Wait(future)) => {
                self.origins.begin(peer, source_of(origin));
                IndexStep::Wait(future)
            }
            Ok(answer) => answer,
            Err(refusal) => IndexStep::Answer(IndexResponse::Refused(refusal)),
        }
    }

    fn begin(
        &mut self,
        peer: PeerId,
        origin: Option<Origin<'_>>,
        request: Received<IndexRequest>,
        now: Instant,
    ) -> Outcome<IndexStep> {
        let request = request.map_err(|error| refuse_bytes(&error))?;
        if let Some(reason) = &self.gave_way {
            return Err(Refusal::new(RefusalCode::NotMaster, reason.clone()));
        }
        self.check_pending(&peer, source_of(origin))?;
        match request {
            IndexRequest::Join(join) => self.join(peer, origin, join, now),
            IndexRequest::Announce(announce) => {
                check_batch(announce.offers.len())?;
                self.leases.admit_change(&peer, announce.session, announce.sequence)?;
                self.announce(peer, announce, now)
            }
            IndexRequest::Revoke(Revoke { session, sequence, names }) => {
                check_batch(names.len())?;
                self.leases.admit_change(&peer, session, sequence)?;
                self.write(peer, in_session(session, sequence, WriteOp::Revoke { peer, names }))
            }
            IndexRequest::Lookup(index::Lookup { name }) => {
                let name =
                    Name::parse(&name).map_err(|error| Refusal::new(RefusalCode::InvalidName, error.to_string()))?;
                self.read_checked(peer, ReadOp::Lookup { name })
            }
            IndexRequest::Search(index::Search { query, cursor, limit, rule }) => {
                let pattern = Pattern::parse_by(&query, rule)
                    .map_err(|error| Refusal::new(RefusalCode::InvalidQuery, error.to_string()))?;
                let limit = limit.clamp(1, MAX_PAGE_ENTRIES as u32);
                self.read_checked(peer, ReadOp::Search { pattern, cursor, limit })
            }
            IndexRequest::Report(index::Report { peer: reported }) => {
                self.leases.on_report(&reported, now)?;
                Ok(IndexStep::Answer(IndexResponse::Done))
            }
            IndexRequest::Peers(index::Peers { after }) => Ok(IndexStep::Answer(self.members(after))),
            IndexRequest::Leave(index::Leave { session }) => {
                self.leases.on_leave(&peer, session)?;
                self.returning.on_told(&peer);
                self.runs.on_left(&peer);
                self.origins.on_left(&peer);
                self.reaching.reach.on_left(&peer);
                self.effects.push_back(Effect::Release(peer));
                self.news.tell(&peer, MemberChange::Left);
                self.write(peer, WriteOp::Evict { peer })
            }
            IndexRequest::Renew(renew) => self.renew(&peer, &renew, now).map(IndexStep::Answer),
            IndexRequest::Compare(compare) => self.compare(peer, compare),
            IndexRequest::Again(index::Again { session, sequence }) => {
                self.leases.admit_change(&peer, session, sequence)?;
                let neighbours = self.names_of_neighbours(&peer);
                self.write(peer, in_session(session, sequence, WriteOp::Again { peer, neighbours }))
            }
            IndexRequest::Seals(index::Seals { session, from }) => {
                self.leases.admit_question(&peer, session)?;
                self.read(peer, ReadOp::Seals { peer, from })
            }
            // Answered by every node, and so before it comes here.
            IndexRequest::Master => Err(Refusal::new(RefusalCode::Unsupported, "not asked of an index")),
            IndexRequest::Call(call) => self.call(peer, &call, now),
            // It is the master that says so.
            IndexRequest::Connect(_) | IndexRequest::Reach(_) => {
                Err(Refusal::new(RefusalCode::Unsupported, "only a master says that"))
            }
        }
    }

    fn write(&self, peer: PeerId, op: WriteOp) -> Outcome<IndexStep> {
        Ok(IndexStep::Wait(wait(peer, self.store.try_write(op)?, DoneKind::Written)))
    }

    fn read(&self, peer: PeerId, op: ReadOp) -> Outcome<IndexStep> {
        Ok(IndexStep::Wait(wait(peer, self.store.try_read(op)?, DoneKind::Read)))
    }

    /// Turns what the store said into the answer.
    pub(super) fn finish(&mut self, done: Done, now: Instant) -> IndexResponse {
        let Done { peer, outcome } = done;
        self.origins.end(&peer);
        match outcome {
            Ok(DoneKind::Written(written)) => self.written(peer, written, now),
            Ok(DoneKind::Read(read)) => self.answer(read),
            Ok(DoneKind::Checked(read, holdings)) => {
                holdings.into_iter().for_each(|(owner, holding)| self.leases.set_holding(&owner, holding));
                self.answer(*read)
            }
            Ok(DoneKind::Compared(answers, looks)) => {
                self.comparing = self.comparing.saturating_sub(1);
                self.leases.on_compared(&peer, looks);
                answers.map_or_else(IndexResponse::Refused, IndexResponse::Compared)
            }
            Err(refusal) => IndexResponse::Refused(refusal),
        }
    }

    fn written(&mut self, peer: PeerId, written: WriteOutcome, now: Instant) -> IndexResponse {
        match written {
            WriteOutcome::Joined { session, unchanged, again, bare, holding } => {
                self.leases.on_joined(&peer, session);
                self.news.tell(&peer, MemberChange::Joined);
                self.absent.on_back(&peer);
                if unchanged {
                    self.returning.on_told(&peer);
                }
                self.leases.set_holding(&peer, holding);
                self.try_to_reach(peer, now);
                let lease_ms = u64::try_from(self.leases.lease().as_millis()).unwrap_or(u64::MAX);
                IndexResponse::Joined(Joined { session, lease_ms, unchanged, again, bare })
            }
            WriteOutcome::Returned { returned, holding } => {
                self.leases.set_holding(&peer, holding);
                IndexResponse::Returned(returned)
            }
            WriteOutcome::Announced { verdicts, holding, adopted } => {
                self.leases.set_holding(&peer, holding);
                for (owner, holding) in adopted {
                    let names = holding.sum.entries;
                    tracing::debug!(%owner, names, "what a peer holds changed by what another announced");
                    self.set_holding(&owner, holding, now);
                }
                IndexResponse::Announced(verdicts)
            }
            WriteOutcome::Revoked { outcomes, holding } => {
                self.leases.set_holding(&peer, holding);
                IndexResponse::Revoked(outcomes)
            }
            WriteOutcome::Evicted { names } => {
                tracing::info!(%peer, names, "names of a peer are free again");
                IndexResponse::Done
            }
        }
    }

    /// Counts of the moment.
    pub(super) fn counts(&self) -> MemberCounts {
        let (members, suspects) = self.leases.counts();
        MemberCounts { members, suspects }
    }

    /// A sign of life, on a connection, or of this node itself.
    pub(super) fn on_sign(&mut self, peer: &PeerId, link: Option<ConnectionId>, now: Instant) {
        if link.is_none_or(|link| self.runs.on_sign(peer, link, now)) {
            self.leases.on_alive(peer, now);
        }
    }

    /// A connection stands.
    pub(super) fn on_linked(&mut self, peer: PeerId, link: ConnectionId, now: Instant) {
        self.runs.on_linked(peer, link);
        self.leases.on_alive(&peer, now);
    }

    /// The node at the other end of a connection says which run it is.
    pub(super) fn on_run(&mut self, peer: PeerId, link: ConnectionId, run: Run) {
        self.runs.on_run(peer, link, run);
    }

    /// A connection ended.
    pub(super) fn on_unlinked(&mut self, peer: PeerId, link: ConnectionId) {
        if self.runs.on_unlinked(peer, link) {
            self.leases.on_disconnected(&peer);
        }
    }

    /// A probe found nobody.
    pub(super) fn on_unreachable(&mut self, peer: &PeerId) {
        self.leases.on_probe_failed(peer);
    }

    /// When [`Master::on_timeout`] is due.
    pub(super) fn timeout(&self) -> Option<Instant> {
        [self.leases.poll_timeout(), self.reaching.reach.poll_timeout()].into_iter().flatten().min()
    }

    /// Moves leases on.
    pub(super) fn on_timeout(&mut self, now: Instant) {
        self.leases.handle_timeout(now);
        self.try_next(now);
    }

    /// What the loop is to do next.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        while let Some(action) = self.leases.poll_action() {
            match action {
                LeaseAction::Probe(peer) => {
                    let addresses = self.leases.get(&peer).map(|record| record.addresses.to_vec());
                    self.effects.push_back(Effect::Probe(peer, addresses.unwrap_or_default()));
                }
                LeaseAction::Evict(peer) => {
                    tracing::info!(%peer, "a peer's lease is over: evicted");
                    self.news.tell(&peer, MemberChange::Evicted);
                    self.absent.on_back(&peer);
                    self.returning.on_told(&peer);
                    self.origins.on_left(&peer);
                    self.runs.on_left(&peer);
                    self.reaching.reach.on_left(&peer);
                    self.evictions.push_back(peer);
                    self.effects.push_back(Effect::Release(peer));
                }
                LeaseAction::BecameSuspect(peer) => {
                    tracing::info!(%peer, "a peer does not answer: suspect");
                    self.news.tell(&peer, MemberChange::Suspect);
                }
                LeaseAction::BecameAlive(peer) => {
                    tracing::info!(%peer, "a peer is alive");
                    self.news.tell(&peer, MemberChange::Alive);
                }
            }
        }
        self.effects.pop_front()
    }

    /// The next eviction to write, as far as the store has room; call [`Master::finish_eviction`] with
    /// what comes of it.
    pub(super) fn poll_eviction(&mut self) -> Option<BoxFuture<'static, (PeerId, bool)>> {
        let peer = self.evictions.pop_front()?;
        match self.store.try_write(WriteOp::Evict { peer }) {
            Ok(receiver) => Some(async move { (peer, matches!(receiver.await, Ok(Ok(_)))) }.boxed()),
            Err(_) => {
                self.evictions.push_front(peer);
                None
            }
        }
    }

    /// An eviction that was not written is tried again, unless the peer is a member anew.
    pub(super) fn finish_eviction(&mut self, peer: PeerId, written: bool) {
        if !written && self.leases.get(&peer).is_none() {
            self.evictions.push_back(peer);
        }
    }

    /// Whether evictions wait to be written.
    pub(super) fn owes_evictions(&self) -> bool {
        !self.evictions.is_empty()
    }
}

fn wait<T: Send + 'static>(
    peer: PeerId,
    receiver: oneshot::Receiver<Outcome<T>>,
    kind: fn(T) -> DoneKind,
) -> BoxFuture<'static, Done> {
    async move {
        let outcome = receiver.await.unwrap_or_else(|gone| Err(stopping(gone)));
        Done { peer, outcome: outcome.map(kind) }
    }
    .boxed()
}

/// Why the store has no answer any more.
fn stopping(_: oneshot::error::RecvError) -> Refusal {
    Refusal::new(RefusalCode::Busy, "the master is stopping")
}

fn in_session(session: Session, sequence: Sequence, change: WriteOp) -> WriteOp {
    WriteOp::InSession { session, sequence, change: Box::new(change) }
}

fn check_batch(entries: usize) -> Outcome<()> {
    if entries > MAX_BATCH_ENTRIES {
        let reason = format!("a batch of {entries} entries; at most {MAX_BATCH_ENTRIES} are allowed");
        return Err(Refusal::new(RefusalCode::Malformed, reason));
    }
    Ok(())
}

/// The refusal for bytes that are no request.
pub(super) fn refuse_bytes(error: &DecodeError) -> Refusal {
    let code = match error {
        DecodeError::UnknownVariant(_) => RefusalCode::Unsupported,
        _ => RefusalCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

/// Addresses worth passing on: well-formed, bounded, and no loopback address of another machine. Addresses of the host
/// from which the node is seen come first: that one is known to lead there.
fn useful_addresses(addresses: Vec<Multiaddr>, remote: Option<&Multiaddr>) -> Vec<Multiaddr> {
    worth_keeping(addresses, remote.is_none_or(is_loopback), &remote.and_then(ip_of).into_iter().collect())
}

#[cfg(test)]
mod tests;
