//! The DHT: queries of this node, and what others store here.
//!
//! Nothing is stored unless its signatures were checked, on a thread for blocking work, against the master that
//! this node trusts.

mod comparisons;
mod counts;
mod store;
mod table;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use comparisons::Comparisons;
pub(crate) use counts::Counted;
pub(super) use counts::DhtCounts;
use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::kad::{self, InboundRequest, QueryId, QueryResult};
use libp2p::{Multiaddr, PeerId};
pub(crate) use store::{PROVIDERS_IN_ANSWER, position_of_key, position_of_peer};
pub(super) use store::{RecordTable, now};
use swarmdex_protocols::address::{bounded, routing_addresses};
use swarmdex_protocols::check::KeyRange;
use swarmdex_protocols::index::{Refusal, RefusalCode};
use swarmdex_protocols::ledger::decode_record;
use swarmdex_protocols::limits::{MAX_CLOSER, MAX_MIRROR_KEYS, MAX_MIRROR_RECORDS, MAX_OTHER_ADDRESSES};
use swarmdex_protocols::mirror::{KeyFound, MirrorRequest, MirrorResponse, Provider, Store, StoreVerdict, Stored};
use swarmdex_protocols::{Authority, Network, RecordKey, Statement};
pub(super) use table::addresses_of;
use table::known_closest;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::RequestError;
use super::rpc::{self, Waiting};
use crate::state::hearsay::Pair;
use crate::state::lost::{Lost, Reached};
use crate::state::quota::Counts;
use crate::state::records::LOOKED_AT;

/// Queries of this node that run at a time.
const MAX_QUERIES: usize = 512;
/// Messages whose signatures are being checked: in all, and of one sender.
const MAX_CHECKS: usize = 64;
const MAX_CHECKS_OF_SENDER: usize = 4;
/// How long to look for the nodes closest to a key. Those that have answered by then are enough. So a node that is
/// gone, and to which a connection would be tried for long, holds nobody up.
pub(super) const CLOSEST_PATIENCE: Duration = Duration::from_secs(3);
/// Records and providers that a reader may be behind.
pub(super) const FOUND_QUEUE: usize = 64;

/// A node with its addresses.
pub(super) type Located = (PeerId, Vec<Multiaddr>);

/// What the DHT is asked.
pub(crate) enum Ask {
    /// The nodes closest to a key, or to a peer's id.
    Closest { key: Vec<u8>, answer: oneshot::Sender<Result<Vec<Located>, RequestError>> },
    /// The nodes closest to a key that this node knows.
    Known { key: RecordKey, answer: oneshot::Sender<Vec<Located>> },
    /// Ends a question for the closest nodes of a key: it is answered with what it has found so far.
    EndClosest { key: Vec<u8>, patience: Duration },
    /// Values under a key, each with the node that sent it, and at the end who answered.
    Record { key: RecordKey, found: mpsc::Sender<FoundRecord> },
    /// Stores what neighbours told.
    Adopt(Adopt),
    /// How many of the nodes closest to a key were lost, and how many answer.
    Reach { key: RecordKey, answer: oneshot::Sender<Reached> },
    /// Nodes that are found under a key.
    Providers { key: RecordKey, found: mpsc::Sender<PeerId> },
    /// The addresses of a peer, as far as this node knows.
    Addresses { peer: PeerId, answer: oneshot::Sender<Vec<Multiaddr>> },
    /// Nodes in the routing table, with their addresses.
    Nodes { answer: oneshot::Sender<Vec<Located>> },
    /// Something happened that is counted.
    Count(Counted),
    /// Counts of the moment.
    Counts { answer: oneshot::Sender<DhtCounts> },
}

/// What neighbours told of this node's part of the key space.
pub(crate) struct Adopt {
    /// Who told it.
    pub(crate) sender: PeerId,
    /// Statements that were verified, each with its key and for how long it is still stored there.
    pub(crate) statements: Vec<(RecordKey, Statement, Duration)>,
    /// Who is found under which key, by several.
    pub(crate) pairs: Vec<Pair>,
}

/// What a reader of a record gets.
#[derive(Debug)]
pub(crate) enum FoundRecord {
    /// The value that a node has.
    Value(PeerId, Vec<u8>),
    /// Everybody was asked. Without it the question broke off.
    End(Reached),
}

/// A query under way.
enum Query {
    Closest { key: Vec<u8>, begun: Instant, answer: oneshot::Sender<Result<Vec<Located>, RequestError>> },
    Record { key: RecordKey, reader: mpsc::Sender<FoundRecord> },
    Providers(mpsc::Sender<PeerId>),
}

/// Where the answer to a mirror request goes.
pub(super) enum MirrorReply {
    /// To another node.
    Remote(rpc::Reply<rpc::MirrorProtocol>),
    Local(Waiting<rpc::MirrorProtocol>),
    /// The sender was told already.
    None,
}

/// Statements whose signatures were checked.
pub(super) struct Checked {
    sender: PeerId,
    pub(super) reply: MirrorReply,
    statements: Vec<Result<(RecordKey, Statement), StoreVerdict>>,
    provide: Vec<RecordKey>,
    withdraw: Vec<RecordKey>,
    addresses: Vec<Multiaddr>,
}

/// What to do about a mirror request.
pub(super) enum MirrorStep {
    /// Answer at once.
    Answer(MirrorReply, MirrorResponse),
    /// Wait, then call [`Dht::finish`].
    Wait(BoxFuture<'static, Checked>),
    /// Nothing.
    Done,
}

type Kad = kad::Behaviour<RecordTable>;

/// Queries and checks under way.
pub(super) struct Dht {
    local: PeerId,
    network: Network,
    /// Whom to believe.
    authority: watch::Receiver<Option<Authority>>,
    queries: HashMap<QueryId, Query>,
    checks: Counts<PeerId>,
    comparisons: Comparisons,
    closest_queries: u64,
    lookup_requests: u64,
    lost: Lost,
}

impl Dht {
    /// Records last for `lifetime`.
    pub(super) fn new(
        local: PeerId,
        network: Network,
        authority: watch::Receiver<Option<Authority>>,
        lifetime: Duration,
    ) -> Self {
        let (queries, checks) = (HashMap::new(), Counts::bounded(MAX_CHECKS_OF_SENDER, MAX_CHECKS));
        let comparisons = Comparisons::default();
        let lost = Lost::new(lifetime);
        Self { local, network, authority, queries, checks, comparisons, closest_queries: 0, lookup_requests: 0, lost }
    }

    /// A node that stored records does not answer, and is out of the routing table.
    pub(super) fn on_lost(&mut self, peer: PeerId) {
        self.lost.on_lost(peer, position_of_peer(&peer), Instant::now());
    }

    /// A node is in the routing table; since when it was missed.
    pub(super) fn on_back(&mut self, peer: &PeerId) -> Option<Instant> {
        self.lost.on_back(peer)
    }

    /// Who of the nodes closest to a key was lost. The master is not missed: the others are there for what it knows.
    fn reach(&self, kad: &mut Kad, key: &RecordKey) -> Reached {
        let mut known: Vec<_> = Vec::new();
        for bucket in kad.kbuckets() {
            known.extend(bucket.iter().map(|entry| position_of_peer(entry.node.key.preimage())));
        }
        let known = known.into_iter().chain([position_of_peer(&self.local)]);
        let (lost, closest) = self.lost.among_closest(&position_of_key(key), known, self.master(), Instant::now());
        Reached { lost, closest, ..Reached::default() }
    }

    /// The master whose statements are believed.
    pub(super) fn master(&self) -> Option<PeerId> {
        self.authority.borrow().as_ref().map(|authority| authority.master.to_peer_id())
    }

    /// Begins what is asked.
    pub(super) fn ask(&mut self, kad: &mut Kad, ask: Ask) {
        let busy = self.queries.len() >= MAX_QUERIES;
        match ask {
            Ask::Addresses { peer, answer } => {
                let _ = answer.send(bounded(addresses_of(kad, &peer)));
            }
            Ask::Nodes { answer } => {
                let mut nodes = Vec::new();
                for bucket in kad.kbuckets() {
                    for entry in bucket.iter() {
                        let addresses = bounded(entry.node.value.iter().cloned());
                        nodes.push((*entry.node.key.preimage(), addresses));
                    }
                }
                let _ = answer.send(nodes);
            }
            Ask::Counts { answer } => {
                let (records, providers) = kad.store_mut().counts();
                let nodes = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
                let _ = answer.send(DhtCounts {
                    nodes,
                    records,
                    providers,
                    closest_queries: self.closest_queries,
                    lookup_requests: self.lookup_requests,
                });
            }
            Ask::Count(Counted::Closest) => self.closest_queries += 1,
            Ask::Count(Counted::Lookup) => self.lookup_requests += 1,
            Ask::Known { key, answer } => {
                let _ = answer.send(known_closest(kad, &key));
            }
            Ask::Adopt(adopt) => kad.store_mut().adopt(adopt),
            Ask::Reach { key, answer } => {
                let _ = answer.send(self.reach(kad, &key));
            }
            Ask::Closest { answer, .. } if busy => {
                let _ = answer.send(Err(RequestError::Busy));
            }
            // Whoever reads finds nothing.
            Ask::Record { .. } | Ask::Providers { .. } if busy => {}
            Ask::Closest { key, answer } => {
                self.closest_queries += 1;
                let query = kad.get_closest_peers(key.clone());
                self.queries.insert(query, Query::Closest { key, begun: Instant::now(), answer });
            }
            Ask::EndClosest { key, patience } => {
                // One that another reader began a moment ago is left alone.
                let late = |query: &Query| match query {
                    Query::Closest { key: of, begun, .. } => *of == key && begun.elapsed() > patience / 2,
                    _ => false,
                };
                for (id, _) in self.queries.iter().filter(|(_, query)| late(query)) {
                    if let Some(mut query) = kad.query_mut(id) {
                        query.finish();
                    }
                }
            }
            Ask::Record { key, found } => {
                let query = kad.get_record(kad::RecordKey::new(key.as_bytes()));
                self.queries.insert(query, Query::Record { key, reader: found });
            }
            Ask::Providers { key, found } => {
                self.queries.insert(kad.get_providers(kad::RecordKey::new(key.as_bytes())), Query::Providers(found));
            }
        }
    }

    /// Takes in what Kademlia says.
    pub(super) fn on_event(&mut self, kad: &mut Kad, event: kad::Event) -> MirrorStep {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, stats } => {
                let broken_off = matches!(result, QueryResult::GetRecord(Err(kad::GetRecordError::Timeout { .. })));
                let wanted = self.on_progress(id, result);
                if (step.last || !wanted) && matches!(self.queries.get(&id), Some(Query::Record { .. })) {
                    self.lookup_requests += u64::from(stats.num_requests());
                }
                if step.last {
                    if let Some(Query::Record { key, reader }) = self.queries.remove(&id) {
                        let answered = stats.num_successes() as usize;
                        // Who had not answered when the others were enough is not silent.
                        let silent = if broken_off { stats.num_requests() } else { stats.num_failures() } as usize;
                        let silent = if broken_off { silent.saturating_sub(answered) } else { silent };
                        // A reader that is behind has enough.
                        let _ =
                            reader.try_send(FoundRecord::End(Reached { answered, silent, ..self.reach(kad, &key) }));
                    }
                } else if !wanted {
                    self.queries.remove(&id);
                    if let Some(mut query) = kad.query_mut(&id) {
                        query.finish();
                    }
                }
                MirrorStep::Done
            }
            kad::Event::InboundRequest { request } => self.on_inbound(kad, request),
            other => {
                tracing::trace!(?other, "kademlia");
                MirrorStep::Done
            }
        }
    }

    /// Hands an answer on; false if nobody waits for more.
    fn on_progress(&mut self, id: QueryId, result: QueryResult) -> bool {
        match (result, self.queries.get(&id)) {
            (QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))), Some(Query::Record { reader, .. })) => {
                let peer = found.peer.unwrap_or(self.local);
                // A reader that is behind has seen more answers than it needs.
                let value = FoundRecord::Value(peer, found.record.value);
                !matches!(reader.try_send(value), Err(mpsc::error::TrySendError::Closed(_)))
            }
            (
                QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })),
                Some(Query::Providers(reader)),
            ) => {
                // Beyond the reader's bound they are left out.
                for peer in providers {
                    let _ = reader.try_send(peer);
                }
                !reader.is_closed()
            }
            (QueryResult::GetClosestPeers(result), Some(Query::Closest { .. })) => {
                let peers = match result {
                    Ok(kad::GetClosestPeersOk { peers, .. }) => peers,
                    Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                if let Some(Query::Closest { answer, .. }) = self.queries.remove(&id) {
                    let located = peers.into_iter().map(|info| (info.peer_id, bounded(info.addrs))).collect();
                    let _ = answer.send(Ok(located));
                }
                true
            }
            (_, Some(Query::Record { reader, .. })) => !reader.is_closed(),
            (_, Some(Query::Providers(reader))) => !reader.is_closed(),
            (_, Some(Query::Closest { answer, .. })) => !answer.is_closed(),
            // Kademlia's own: it refreshes its table.
            (_, None) => true,
        }
    }

    fn on_inbound(&mut self, kad: &mut Kad, request: InboundRequest) -> MirrorStep {
        match request {
            InboundRequest::PutRecord { source, record: Some(record), .. } => {
                let Ok(statements) = decode_record(&record.value) else { return MirrorStep::Done };
                let about = |statement: &Statement| RecordKey::name(&self.network, statement.name());
                if statements.iter().any(|statement| about(statement).as_bytes()[..] != *record.key.as_ref()) {
                    tracing::debug!(%source, "a record under the wrong key is not stored");
                    return MirrorStep::Done;
                }
                self.check(source, MirrorReply::None, Store { statements, ..Store::default() })
            }
            InboundRequest::AddProvider { record: Some(record) } => {
                if let Some(key) = RecordKey::from_slice(record.key.as_ref()) {
                    kad.store_mut().provide(key, record.provider, &routing_addresses(&bounded(record.addresses)));
                }
                MirrorStep::Done
            }
            _ => MirrorStep::Done,
        }
    }

    /// Takes in a request of the mirror protocol, from a node at an address.
    pub(super) fn serve(
        &mut self,
        kad: &mut Kad,
        sender: PeerId,
        at: Option<IpAddr>,
        request: MirrorRequest,
        reply: MirrorReply,
    ) -> MirrorStep {
        match request {
            MirrorRequest::Read(keys) if keys.len() <= MAX_MIRROR_RECORDS => {
                let records = keys.iter().map(|key| kad.store_mut().statements(key)).collect();
                MirrorStep::Answer(reply, MirrorResponse::Records(records))
            }
            MirrorRequest::Find(key) => {
                let provider = |(peer, mut addresses): Located| {
                    addresses.truncate(MAX_OTHER_ADDRESSES);
                    Provider { peer, addresses }
                };
                let closer = known_closest(kad, &key).into_iter().filter(|(peer, _)| *peer != sender);
                let closer = closer.take(MAX_CLOSER).map(provider).collect();
                MirrorStep::Answer(
                    reply,
                    MirrorResponse::Found(KeyFound { statements: kad.store_mut().statements(&key), closer }),
                )
            }
            MirrorRequest::Part(part) => match self.admit(sender, at, LOOKED_AT) {
                Ok(()) => MirrorStep::Answer(reply, MirrorResponse::Part(kad.store_mut().stock(&part))),
                Err(refusal) => MirrorStep::Answer(reply, MirrorResponse::Refused(refusal)),
            },
            MirrorRequest::Providers(key) => {
                MirrorStep::Answer(reply, MirrorResponse::Providers(kad.store_mut().found_under(&key)))
            }
            MirrorRequest::Check(ranges) if KeyRange::are_in_order(&ranges) => match self.admit(sender, at, 0) {
                Ok(()) => {
                    let (compared, entries) = kad.store_mut().compare(&sender, &ranges);
                    if sender != self.local {
                        self.comparisons.charge(sender, at, entries);
                    }
                    MirrorStep::Answer(reply, MirrorResponse::Checked(compared))
                }
                Err(refusal) => MirrorStep::Answer(reply, MirrorResponse::Refused(refusal)),
            },
            MirrorRequest::Store(store)
                if store.statements.len() <= MAX_MIRROR_RECORDS
                    && store.provide.len() <= MAX_MIRROR_KEYS
                    && store.withdraw.len() <= MAX_MIRROR_KEYS =>
            {
                self.check(sender, reply, store)
            }
            _ => {
                let refusal = Refusal::new(RefusalCode::Malformed, "more records than one message may have");
                MirrorStep::Answer(reply, MirrorResponse::Refused(refusal))
            }
        }
    }

    /// Whether a node may ask once more what is stored, with so many entries to look at.
    fn admit(&mut self, sender: PeerId, at: Option<IpAddr>, entries: usize) -> Result<(), Refusal> {
        if sender == self.local || self.comparisons.admit(sender, at, entries, Instant::now()) {
            return Ok(());
        }
        Err(Refusal::new(RefusalCode::Busy, "too many questions what is stored; ask again"))
    }

    /// Has signatures checked, if that is not asked too often.
    fn check(&mut self, sender: PeerId, reply: MirrorReply, store: Store) -> MirrorStep {
        let Store { statements, provide, addresses, withdraw } = store;
        // They go out in answers of Kademlia, which has those who ask connect there.
        let addresses = routing_addresses(&bounded(addresses));
        if sender == self.local {
            let key = |statement: Statement| Ok((RecordKey::name(&self.network, statement.name()), statement));
            let statements = statements.into_iter().map(key).collect();
            let checked = Checked { sender, reply, statements, provide, withdraw, addresses };
            return MirrorStep::Wait(std::future::ready(checked).boxed());
        }
        if !self.checks.try_add(sender) {
            let refusal = Refusal::new(RefusalCode::Busy, "too many records are being checked; ask again");
            return MirrorStep::Answer(reply, MirrorResponse::Refused(refusal));
        }
        let (network, authority) = (self.network.clone(), self.authority.borrow().clone());
        let checking = tokio::task::spawn_blocking(move || {
            let unix_ms = now().unix_ms;
            let verify = |mut statement: Statement| match &authority {
                Some(authority) if statement.check(authority, unix_ms).is_ok() => {
                    Ok((RecordKey::name(&network, statement.name()), statement))
                }
                _ => Err(StoreVerdict::Invalid),
            };
            statements.into_iter().map(verify).collect()
        });
        // A check that panicked has checked nothing.
        let checked = async move {
            let statements = checking.await.unwrap_or_default();
            Checked { sender, reply, statements, provide, withdraw, addresses }
        };
        MirrorStep::Wait(checked.boxed())
    }

    /// Stores what was checked.
    pub(super) fn finish(&mut self, kad: &mut Kad, checked: Checked) -> (MirrorReply, MirrorResponse) {
        let Checked { sender, reply, statements, provide, withdraw, addresses } = checked;
        self.checks.remove(&sender);
        let table = kad.store_mut();
        let store = |statement| match statement {
            Ok((key, statement)) => table.store(key, statement, sender),
            Err(verdict) => verdict,
        };
        let statements = statements.into_iter().map(store).collect();
        // The sender withdraws its own entries alone. That comes before what it provides, so a key that is in both
        // stays.
        withdraw.iter().for_each(|key| table.withdraw(key, &sender));
        let provided = provide.into_iter().filter(|key| table.provide(*key, sender, &addresses)).count();
        (reply, MirrorResponse::Stored(Stored { statements, provided: provided as u32 }))
    }
}
