//! Many records at once: stored at, and read from, the nodes closest to their keys, region by region.

mod agree;
mod closest;
mod find;
mod leisure;
mod part;
mod quick;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use swarmdex_protocols::address::routing_addresses;
use swarmdex_protocols::index::RefusalCode;
use swarmdex_protocols::limits::{MAX_MIRROR_RECORDS, MAX_PROVIDERS};
use swarmdex_protocols::mirror::{MirrorRequest, MirrorResponse, Provider, StoreVerdict};
use swarmdex_protocols::{Authority, Ledger, Multiaddr, Name, Network, PeerId, RecordKey, Statement, Tally};

use super::dht::{CLOSEST_PATIENCE, now};
use super::dht::{position_of_key, position_of_peer};
use super::error::{ConnectError, RequestError};
use super::handle::Net;
use crate::state::publish::{Position, REPLICATION, Sweep, What};
pub(crate) use agree::Differences;
pub(crate) use leisure::leisure;
pub(super) use quick::Around;
use store::Answers;

/// Nodes that are written to or read from at a time.
const NODES_AT_A_TIME: usize = 8;
/// Nodes whose addresses are kept during a sweep; of others this node's routing table may know.
const MAX_LOCATED: usize = 2048;
/// How long one node may take, connecting included: the others count without it.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of one record.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {
    /// Nodes that were to store it, this one included.
    pub asked: usize,
    /// Nodes that stored it, this one included.
    pub stored: usize,
    /// Which of these they are, this one left out: numbers of [`Stores::nodes`].
    pub at: Vec<u16>,
    /// Nodes that know something later.
    pub older: usize,
    /// Nodes that have no room.
    pub full: usize,
    /// Nodes that hold the name for another: by certificate, or by an earlier claim.
    pub taken: BTreeMap<PeerId, usize>,
}

/// What became of many records.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    /// Of each; one without copies reached nobody.
    pub copies: BTreeMap<RecordKey, Copies>,
    /// Nodes that answered.
    pub nodes: Vec<PeerId>,
    /// Nodes that were too busy for some of it.
    pub busy: Vec<PeerId>,
}

/// Reads and writes the mirror.
#[derive(Debug, Clone)]
pub(crate) struct Mirror {
    net: Net,
    network: Network,
    /// Whether this node is one of those that store records.
    member: bool,
    /// How long to look for the nodes closest to a key.
    patience: Duration,
}

/// Work for one node.
struct NodeBatch<T> {
    node: PeerId,
    addresses: Vec<Multiaddr>,
    items: Vec<T>,
}

/// Nodes that a sweep met on its way.
#[derive(Debug, Default)]
struct Met {
    /// Where they listen.
    located: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// They did not answer when something was to be stored there: others may still name them.
    gone: BTreeSet<PeerId>,
}

impl Stores {
    fn count(&mut self, node: PeerId, own: bool, outcomes: Vec<(RecordKey, StoreVerdict)>) {
        let number = u16::try_from(self.nodes.len()).ok().filter(|_| !own && !outcomes.is_empty());
        self.nodes.extend(number.map(|_| node));
        for (key, verdict) in outcomes {
            let Some(copies) = self.copies.get_mut(&key) else { continue };
            match verdict {
                StoreVerdict::Stored => {
                    copies.stored += 1;
                    copies.at.extend(number);
                }
                StoreVerdict::Older => copies.older += 1,
                StoreVerdict::Certified(owner) | StoreVerdict::Claimed(owner) => {
                    *copies.taken.entry(owner).or_default() += 1
                }
                StoreVerdict::Full => copies.full += 1,
                StoreVerdict::Invalid => {}
            }
        }
    }

    /// The nodes that stored a record, this one left out.
    pub(crate) fn holders(&self, key: &RecordKey) -> impl Iterator<Item = &PeerId> {
        let at = self.copies.get(key).map(|copies| copies.at.as_slice()).unwrap_or_default();
        at.iter().filter_map(|number| self.nodes.get(usize::from(*number)))
    }
}

impl Mirror {
    /// For this node; `member` if it stores records itself.
    pub(crate) fn new(net: Net, network: Network, member: bool) -> Self {
        Self { net, network, member, patience: CLOSEST_PATIENCE }
    }

    /// Whether this node is one of those that store records.
    pub(crate) fn is_member(&self) -> bool {
        self.member
    }

    /// Whom this node believes.
    pub(crate) fn authority(&self) -> Option<Authority> {
        self.net.authority()
    }

    /// The key of a name's record.
    pub(crate) fn key(&self, name: &Name) -> RecordKey {
        RecordKey::name(&self.network, name)
    }

    /// Stores records at the nodes closest to their keys. The answer has every key; one without copies reached
    /// nobody.
    pub(crate) async fn store(&self, items: Vec<(RecordKey, What)>) -> Stores {
        let mut stores = Stores::default();
        stores.copies.extend(items.iter().map(|(key, _)| (*key, Copies::default())));
        let items = items.into_iter().map(|(key, what)| (position_of_key(&key), (key, what)));
        let mut sweep = Sweep::new(items, self.net.dht_counts().await.nodes);
        let mut met = Met::default();
        while let Some(batches) = self.next_region(&mut sweep, &mut met, |(key, _)| *key).await {
            leisure().await;
            let addresses = self.net.listen().borrow().clone();
            for (key, _) in batches.iter().flat_map(|batch| &batch.items) {
                stores.copies.entry(*key).or_default().asked += 1;
            }
            // One after the other, since it is one processor that they wait for.
            let answers = stream::iter(batches)
                .then(|batch| async {
                    leisure().await;
                    batch
                })
                .map(|batch| {
                    let (node, storing) = (batch.node, self.store_at(batch, addresses.clone()));
                    async move { (node, storing.await) }
                })
                .buffer_unordered(NODES_AT_A_TIME);
            let mut answers = std::pin::pin!(answers);
            while let Some((node, Answers { outcomes, busy })) = answers.next().await {
                stores.busy.extend(busy.then_some(node));
                if outcomes.is_empty() && !busy && met.gone.len() < MAX_LOCATED {
                    met.gone.insert(node);
                    sweep.forget(&position_of_peer(&node));
                }
                stores.count(node, node == self.net.local(), outcomes);
            }
        }
        stores
    }

    /// What the nodes closest to each name say of it, checked. Names that nobody answered for are left out.
    pub(crate) async fn read(&self, names: Vec<Name>) -> BTreeMap<Name, Tally> {
        let mut tallies = BTreeMap::<Name, Tally>::new();
        let Some(authority) = self.net.authority() else { return tallies };
        let keyed = names.into_iter().map(|name| (self.key(&name), name));
        let items = keyed.map(|(key, name)| (position_of_key(&key), (key, name)));
        let mut sweep = Sweep::new(items, self.net.dht_counts().await.nodes);
        let mut met = Met::default();
        while let Some(batches) = self.next_region(&mut sweep, &mut met, |(key, _)| *key).await {
            let mut answers =
                stream::iter(batches).map(|batch| self.read_at(batch, &authority)).buffer_unordered(NODES_AT_A_TIME);
            while let Some(ledgers) = answers.next().await {
                for (name, ledger) in ledgers {
                    tallies.entry(name).or_default().add(&ledger, now().unix_ms);
                }
            }
        }
        tallies
    }

    /// All nodes that are found under a key, with what addresses they gave: what Kademlia's answers, of twenty
    /// nodes each, may leave out. They come as the nodes closest to the key answer.
    pub(crate) async fn providers(&self, key: RecordKey) -> impl Stream<Item = Provider> + '_ {
        let mut nodes = self.closest(&key).await;
        if self.member {
            nodes.push((self.net.local(), Vec::new()));
        }
        let asking = stream::iter(nodes).map(move |(node, addresses)| async move {
            match self.ask(node, &addresses, MirrorRequest::Providers(key)).await {
                Ok(MirrorResponse::Providers(providers)) => providers,
                _ => Vec::new(),
            }
        });
        asking.buffer_unordered(REPLICATION + 1).flat_map(|found| stream::iter(found.into_iter().take(MAX_PROVIDERS)))
    }

    /// Asks the network for the nodes closest to the next target, and divides what is settled among them. `None` at the
    /// end.
    async fn next_region<T: Clone>(
        &self,
        sweep: &mut Sweep<T>,
        met: &mut Met,
        key: impl Fn(&T) -> RecordKey,
    ) -> Option<Vec<NodeBatch<T>>> {
        let (target, item) = sweep.next_target()?;
        let mut nodes = self.closest(&key(item)).await;
        nodes.retain(|(node, _)| !met.gone.contains(node));
        let places: Vec<(Position, PeerId)> = nodes.iter().map(|(peer, _)| (position_of_peer(peer), *peer)).collect();
        if met.located.len() >= MAX_LOCATED {
            met.located.clear();
        }
        met.located.extend(nodes);
        if self.member {
            sweep.know(position_of_peer(&self.net.local()), self.net.local());
        }
        let mut batches = BTreeMap::<PeerId, Vec<T>>::new();
        for (item, nodes) in sweep.on_closest(&target, &places) {
            for node in nodes {
                batches.entry(node).or_default().push(item.clone());
            }
        }
        let addresses = |node: &PeerId| met.located.get(node).cloned().unwrap_or_default();
        Some(batches.into_iter().map(|(node, items)| NodeBatch { addresses: addresses(&node), node, items }).collect())
    }

    async fn read_at(&self, batch: NodeBatch<(RecordKey, Name)>, authority: &Authority) -> Vec<(Name, Ledger)> {
        let mut ledgers = Vec::new();
        for some in batch.items.chunks(MAX_MIRROR_RECORDS) {
            let keys = some.iter().map(|(key, _)| *key).collect();
            let records = match self.ask(batch.node, &batch.addresses, MirrorRequest::Read(keys)).await {
                Ok(MirrorResponse::Records(records)) if records.len() == some.len() => records,
                Ok(_) => continue,
                Err(_) => return ledgers,
            };
            let names: Vec<_> = some.iter().map(|(_, name)| name.clone()).collect();
            let authority = authority.clone();
            let checking = tokio::task::spawn_blocking(move || {
                names
                    .into_iter()
                    .zip(records)
                    .filter_map(|(name, record)| checked(&name, record, &authority).map(|ledger| (name, ledger)))
                    .collect::<Vec<_>>()
            });
            ledgers.extend(checking.await.unwrap_or_default());
        }
        ledgers
    }

    async fn ask(
        &self,
        node: PeerId,
        addresses: &[Multiaddr],
        request: MirrorRequest,
    ) -> Result<MirrorResponse, RequestError> {
        /// Attempts while the node is busy.
        const ATTEMPTS: u32 = 4;
        let asking = async {
            self.net.connect(Some(node), addresses.to_vec()).await.or_else(|error| match error {
                ConnectError::Own => Ok(node),
                ConnectError::Busy => Err(RequestError::Busy),
                _ => Err(RequestError::Disconnected),
            })?;
            for attempt in 1..ATTEMPTS {
                match self.net.mirror(node, request.clone()).await? {
                    // What it does not understand, it will not understand the next time.
                    MirrorResponse::Refused(refusal) if refusal.code == RefusalCode::Busy => {
                        tokio::time::sleep(Duration::from_millis(50) * attempt * attempt).await
                    }
                    response => return Ok(response),
                }
            }
            self.net.mirror(node, request).await
        };
        tokio::time::timeout(NODE_TIMEOUT, asking).await.unwrap_or(Err(RequestError::TimedOut))
    }
}

/// The ledger of one node about one name; `None` if it holds anything false.
fn checked(name: &Name, statements: Vec<Statement>, authority: &Authority) -> Option<Ledger> {
    let unix_ms = now().unix_ms;
    let mut ledger = Ledger::default();
    for mut statement in statements.into_iter().take(2) {
        if statement.name() != name {
            return None;
        }
        match statement.check(authority, unix_ms) {
            // What the node itself contradicts is left out.
            Ok(()) => drop(ledger.insert(statement, unix_ms)),
            Err(swarmdex_protocols::statement::Invalid::Expired) => {}
            Err(_) => return None,
        }
    }
    Some(ledger)
}
