//! Many records at once: stored at, and read from, the nodes closest to their keys, region by region.

mod closest;
mod find;
mod part;
mod quick;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use swarmdex_protocols::check::{Compared, Range};
use swarmdex_protocols::index::RefusalCode;
use swarmdex_protocols::limits::{MAX_MIRROR_KEYS, MAX_MIRROR_RECORDS, MAX_PROVIDERS};
use swarmdex_protocols::mirror::{Provider, Request, Response, Store, Stored, Verdict};
use swarmdex_protocols::{Authority, Ledger, Multiaddr, Name, Network, PeerId, RecordKey, Statement, Tally};

use super::dht::{CLOSEST_PATIENCE, now};
use super::nodes::routing_addresses;
use super::{Net, RequestError, position_of_key, position_of_peer};
use crate::state::check::{Comparison, MAX_REPAIRS};
use crate::state::publish::{Position, REPLICATION, Sweep, What};
pub(super) use quick::Around;

/// Nodes that are written to or read from at a time.
const NODES_AT_A_TIME: usize = 8;
/// Comparisons with one node in a row, each with what it was sent after the one before.
const PORTIONS: usize = 16;
/// Nodes whose addresses are kept during a sweep; of others this node's routing table may know.
const MAX_LOCATED: usize = 2048;
/// How long one node may take, connecting included: the others count without it.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// What became of one record.
#[derive(Debug, Clone, Default)]
pub struct Copies {
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
pub struct Stores {
    /// Of each; one without copies reached nobody.
    pub copies: BTreeMap<RecordKey, Copies>,
    /// Nodes that answered.
    pub nodes: Vec<PeerId>,
    /// Nodes that were too busy for some of it.
    pub busy: Vec<PeerId>,
}

/// What one node made of what it was sent.
#[derive(Debug, Default)]
struct Answers {
    outcomes: Vec<(RecordKey, Verdict)>,
    /// Whether it was too busy for some.
    busy: bool,
}

/// Why a node does not say what it holds.
enum Unsaid {
    /// It does not know the question.
    Unknown,
    /// It gave no answer, or none that fits.
    Failed,
}

/// In what a node differs from what it said that it stores.
#[derive(Debug, Default)]
pub struct Differences {
    /// Whether it holds everything by now.
    pub whole: bool,
    /// Records sent again.
    pub repaired: usize,
    /// Keys under which it has this node found, and was not told so.
    pub surplus: Vec<RecordKey>,
}

/// Reads and writes the mirror.
#[derive(Debug, Clone)]
pub struct Mirror {
    net: Net,
    network: Network,
    /// Whether this node is one of those that store records.
    member: bool,
    /// How long to look for the nodes closest to a key.
    patience: Duration,
}

/// Work for one node.
struct Errand<T> {
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
    fn count(&mut self, node: PeerId, own: bool, outcomes: Vec<(RecordKey, Verdict)>) {
        let number = u16::try_from(self.nodes.len()).ok().filter(|_| !own && !outcomes.is_empty());
        self.nodes.extend(number.map(|_| node));
        for (key, verdict) in outcomes {
            let Some(copies) = self.copies.get_mut(&key) else { continue };
            match verdict {
                Verdict::Stored => {
                    copies.stored += 1;
                    copies.at.extend(number);
                }
                Verdict::Older => copies.older += 1,
                Verdict::Certified(owner) | Verdict::Claimed(owner) => *copies.taken.entry(owner).or_default() += 1,
                Verdict::Full => copies.full += 1,
                Verdict::Invalid => {}
            }
        }
    }

    /// The nodes that stored a record, this one left out.
    pub fn holders(&self, key: &RecordKey) -> impl Iterator<Item = &PeerId> {
        let at = self.copies.get(key).map(|copies| copies.at.as_slice()).unwrap_or_default();
        at.iter().filter_map(|number| self.nodes.get(usize::from(*number)))
    }
}

impl Mirror {
    /// For this node; `member` if it stores records itself.
    pub fn new(net: Net, network: Network, member: bool) -> Self {
        Self { net, network, member, patience: CLOSEST_PATIENCE }
    }

    /// Whether this node is one of those that store records.
    pub fn is_member(&self) -> bool {
        self.member
    }

    /// Whom this node believes.
    pub fn authority(&self) -> Option<Authority> {
        self.net.authority()
    }

    /// The key of a name's record.
    pub fn key(&self, name: &Name) -> RecordKey {
        RecordKey::name(&self.network, name)
    }

    /// Stores records at the nodes closest to their keys. The answer has every key; one without copies reached
    /// nobody.
    pub async fn store(&self, items: Vec<(RecordKey, What)>) -> Stores {
        let mut stores = Stores::default();
        stores.copies.extend(items.iter().map(|(key, _)| (*key, Copies::default())));
        let items = items.into_iter().map(|(key, what)| (position_of_key(&key), (key, what)));
        let mut sweep = Sweep::new(items, self.net.dht_counts().await.nodes);
        let mut met = Met::default();
        while let Some(errands) = self.next_region(&mut sweep, &mut met, |(key, _)| *key).await {
            let addresses = self.net.listen().borrow().clone();
            for (key, _) in errands.iter().flat_map(|errand| &errand.items) {
                stores.copies.entry(*key).or_default().asked += 1;
            }
            let mut answers = stream::iter(errands)
                .map(|errand| {
                    let (node, storing) = (errand.node, self.store_at(errand, addresses.clone()));
                    async move { (node, storing.await) }
                })
                .buffer_unordered(NODES_AT_A_TIME);
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

    /// Asks a node whether it holds these items, and sends what it lacks or has otherwise; `None` if it does not answer. One
    /// that does not know the question is sent them all if it is `fresh`: it just came.
    pub async fn agree(&self, node: PeerId, items: Vec<(RecordKey, What)>, fresh: bool) -> Option<Differences> {
        let addresses = self.net.known_addresses(node).await;
        let (mut sent, mut all) = (BTreeSet::new(), Differences::default());
        // What has to be repaired is spread over rounds; a node that came is filled at once.
        let portions = if fresh { items.len() / MAX_REPAIRS + PORTIONS } else { PORTIONS };
        for _ in 0..portions {
            let (missing, surplus) = match self.compare(node, &addresses, items.clone()).await {
                Ok(differences) => differences,
                Err(Unsaid::Unknown) if fresh => {
                    all.repaired += items.len();
                    all.whole = self.send(node, &addresses, items).await;
                    break;
                }
                Err(_) => return None,
            };
            // One that does not keep what it is sent is left to the repetitions.
            let keeps = missing.iter().all(|(key, _)| sent.insert(*key));
            all.surplus = surplus;
            all.whole = missing.is_empty();
            if all.whole || !keeps {
                break;
            }
            all.repaired += missing.len();
            self.send(node, &addresses, missing).await;
        }
        Some(all)
    }

    /// Stores items at one node; whether it said of all that it has them, or knows better.
    async fn send(&self, node: PeerId, addresses: &[Multiaddr], items: Vec<(RecordKey, What)>) -> bool {
        let count = items.len();
        let errand = Errand { node, addresses: addresses.to_vec(), items };
        let listen = self.net.listen().borrow().clone();
        let outcomes = self.store_at(errand, listen).await.outcomes;
        let held = |verdict: &Verdict| matches!(verdict, Verdict::Stored | Verdict::Older);
        outcomes.iter().filter(|(_, verdict)| held(verdict)).count() == count
    }

    /// Whether a node says that it holds just this, in one question; `None` if it does not answer.
    pub async fn holds(&self, node: PeerId, range: Range) -> Option<bool> {
        let addresses = self.net.known_addresses(node).await;
        match self.ask(node, &addresses, Request::Check(vec![range])).await {
            Ok(Response::Checked(answer)) => Some(answer == [Compared::Same]),
            Ok(Response::Refused(_)) => Some(false),
            _ => None,
        }
    }

    /// What a node lacks of these items or has otherwise, and the keys that it has beyond them.
    async fn compare(
        &self,
        node: PeerId,
        addresses: &[Multiaddr],
        items: Vec<(RecordKey, What)>,
    ) -> Result<(Vec<(RecordKey, What)>, Vec<RecordKey>), Unsaid> {
        let mut comparison = Comparison::new(items);
        while let Some(ranges) = comparison.next_ranges() {
            match self.ask(node, addresses, Request::Check(ranges.clone())).await {
                Ok(Response::Checked(answer)) => {
                    if !comparison.on_answer(&ranges, answer) {
                        tracing::debug!(%node, "its answer does not fit the question");
                        return Err(Unsaid::Failed);
                    }
                }
                Ok(Response::Refused(refusal)) => {
                    tracing::debug!(%node, reason = refusal.reason, "does not say what it holds");
                    let busy = refusal.code == RefusalCode::Busy;
                    return Err(if busy { Unsaid::Failed } else { Unsaid::Unknown });
                }
                Ok(_) => return Err(Unsaid::Failed),
                Err(error) => {
                    tracing::debug!(%node, %error, "could not be asked what it holds");
                    return Err(Unsaid::Failed);
                }
            }
        }
        Ok(comparison.differences())
    }

    /// What the nodes closest to each name say of it, checked. Names that nobody answered for are left out.
    pub async fn read(&self, names: Vec<Name>) -> BTreeMap<Name, Tally> {
        let mut tallies = BTreeMap::<Name, Tally>::new();
        let Some(authority) = self.net.authority() else { return tallies };
        let keyed = names.into_iter().map(|name| (self.key(&name), name));
        let items = keyed.map(|(key, name)| (position_of_key(&key), (key, name)));
        let mut sweep = Sweep::new(items, self.net.dht_counts().await.nodes);
        let mut met = Met::default();
        while let Some(errands) = self.next_region(&mut sweep, &mut met, |(key, _)| *key).await {
            let mut answers =
                stream::iter(errands).map(|errand| self.read_at(errand, &authority)).buffer_unordered(NODES_AT_A_TIME);
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
    pub async fn providers(&self, key: RecordKey) -> impl Stream<Item = Provider> + '_ {
        let mut nodes = self.closest(&key).await;
        if self.member {
            nodes.push((self.net.local(), Vec::new()));
        }
        let asking = stream::iter(nodes).map(move |(node, addresses)| async move {
            match self.ask(node, &addresses, Request::Providers(key)).await {
                Ok(Response::Providers(providers)) => providers,
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
    ) -> Option<Vec<Errand<T>>> {
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
        let mut errands = BTreeMap::<PeerId, Vec<T>>::new();
        for (item, nodes) in sweep.on_closest(&target, &places) {
            for node in nodes {
                errands.entry(node).or_default().push(item.clone());
            }
        }
        let addresses = |node: &PeerId| met.located.get(node).cloned().unwrap_or_default();
        Some(errands.into_iter().map(|(node, items)| Errand { addresses: addresses(&node), node, items }).collect())
    }

    async fn store_at(&self, errand: Errand<(RecordKey, What)>, addresses: Vec<Multiaddr>) -> Answers {
        let (mut statements, mut provide, mut withdraw) = (Vec::new(), Vec::new(), Vec::new());
        for (key, what) in errand.items {
            match what {
                What::Statement(statement) => statements.push((key, statement)),
                What::Provide => provide.push(key),
                What::Withdraw => withdraw.push(key),
            }
        }
        let Answers { mut outcomes, mut busy } = Answers::default();
        let mut statements = statements.chunks(MAX_MIRROR_RECORDS);
        let mut provide = provide.chunks(MAX_MIRROR_KEYS);
        let mut withdraw = withdraw.chunks(MAX_MIRROR_KEYS);
        loop {
            let (some, keys) = (statements.next().unwrap_or_default(), provide.next().unwrap_or_default());
            let gone = withdraw.next().unwrap_or_default();
            if some.is_empty() && keys.is_empty() && gone.is_empty() {
                return Answers { outcomes, busy };
            }
            let store = Store {
                statements: some.iter().map(|(_, statement)| Statement::clone(statement)).collect(),
                provide: keys.to_vec(),
                addresses: addresses.clone(),
                withdraw: gone.to_vec(),
            };
            match self.ask(errand.node, &errand.addresses, Request::Store(store)).await {
                Ok(Response::Stored(Stored { statements, provided })) if statements.len() == some.len() => {
                    outcomes.extend(some.iter().map(|(key, _)| *key).zip(statements));
                    let (taken, left) = keys.split_at((provided as usize).min(keys.len()));
                    outcomes.extend(taken.iter().map(|key| (*key, Verdict::Stored)));
                    outcomes.extend(left.iter().map(|key| (*key, Verdict::Full)));
                    // A node of before knows no withdrawals: there the entries end with their lifetime.
                    outcomes.extend(gone.iter().map(|key| (*key, Verdict::Stored)));
                }
                Ok(Response::Refused(refusal)) => {
                    busy |= refusal.code == RefusalCode::Busy;
                    tracing::debug!(node = %errand.node, reason = refusal.reason, "refused");
                }
                Ok(_) => tracing::debug!(node = %errand.node, "its answer does not fit the question"),
                Err(error) => {
                    tracing::debug!(node = %errand.node, %error, "records could not be stored there");
                    return Answers { outcomes, busy };
                }
            }
        }
    }

    async fn read_at(&self, errand: Errand<(RecordKey, Name)>, authority: &Authority) -> Vec<(Name, Ledger)> {
        let mut ledgers = Vec::new();
        for some in errand.items.chunks(MAX_MIRROR_RECORDS) {
            let keys = some.iter().map(|(key, _)| *key).collect();
            let records = match self.ask(errand.node, &errand.addresses, Request::Read(keys)).await {
                Ok(Response::Records(records)) if records.len() == some.len() => records,
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

    async fn ask(&self, node: PeerId, addresses: &[Multiaddr], request: Request) -> Result<Response, RequestError> {
        /// Attempts while the node is busy.
        const ATTEMPTS: u32 = 4;
        let asking = async {
            self.net.connect(Some(node), addresses.to_vec()).await.or_else(|error| match error {
                super::ConnectError::Own => Ok(node),
                super::ConnectError::Busy => Err(RequestError::Busy),
                _ => Err(RequestError::Disconnected),
            })?;
            for attempt in 1..ATTEMPTS {
                match self.net.mirror(node, request.clone()).await? {
                    // What it does not understand, it will not understand the next time.
                    Response::Refused(refusal) if refusal.code == RefusalCode::Busy => {
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
    for statement in statements.into_iter().take(2) {
        if statement.name() != name {
            return None;
        }
        match statement.verify(authority, unix_ms) {
            // What the node itself contradicts is left out.
            Ok(()) => drop(ledger.insert(statement, unix_ms)),
            Err(swarmdex_protocols::statement::Invalid::Expired) => {}
            Err(_) => return None,
        }
    }
    Some(ledger)
}
