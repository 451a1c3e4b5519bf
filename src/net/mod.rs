//! The swarm: one behaviour, one event loop, one handle to ask it.
//!
//! The loop turns events into calls of the state machines and their results into commands. It never
//! waits for a consumer: answers go out by one-shot channels whose receivers may be gone, work for the
//! disk goes to bounded queues and is refused when they are full.

mod admission;
mod behaviour;
mod codec;
mod crowd;
mod dht;
mod dial;
mod discovery;
mod driver;
mod fetch;
mod gate;
mod hosts;
mod index;
#[cfg(test)]
mod index_tests;
mod links;
mod listen;
mod mirror;
mod nodes;
mod peers;
mod pending;
mod pings;
mod precedents;
mod probe;
mod queries;
mod racing;
mod refused;
mod renewals;
mod stranger;
mod transport;
mod trips;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use codec::FetchCodec;
pub use crowd::Word;
pub use dht::FoundRecord;
pub(crate) use dht::{PROVIDERS_IN_ANSWER, position_of_key, position_of_peer};
pub use discovery::mdns_interfaces;
pub use index::{Master, MemberChange, MemberChanges};
use libp2p::identity::Keypair;
use links::Links;
pub use mirror::{Copies, Differences, Mirror, leisure};
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::index::Run;
use swarmdex_protocols::{
    Authority, ContentId, Multiaddr, PeerId, fetch as fetch_protocol, index as index_protocol,
    mirror as mirror_protocol,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use trips::Trips;

use crate::config::{Config, Role};
use crate::storage::library::Library;
use crate::tasks;

/// Commands that wait for the event loop.
const COMMAND_QUEUE: usize = 256;
/// Words of other downloaders that wait for a download.
const WORD_QUEUE: usize = 256;
/// Lost connections that a slow observer may be behind.
const EVENT_QUEUE: usize = 256;

/// Why a node cannot go online.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The network's name makes no protocol id.
    #[error("the network's name cannot be used in protocol ids")]
    Network,
    /// The encryption could not be set up.
    #[error("the keys for encrypted connections could not be made")]
    Encryption,
    /// The system's DNS settings are unreadable.
    #[error("the system's DNS settings could not be read")]
    Dns(#[source] io::Error),
    /// mDNS could not be started.
    #[error("mDNS could not be started; --no-mdns goes without")]
    Mdns(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; is another program using that port? --listen chooses another")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
}

/// Why no connection came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Another node answered.
    #[error("the node at {address} is {obtained}, not the one that was meant")]
    WrongPeer {
        /// Where it answered.
        address: Multiaddr,
        /// Who answered.
        obtained: PeerId,
    },
    /// The address is this node's own.
    #[error("the address is this node's own")]
    Own,
    /// No address is known.
    #[error("no address of it is known")]
    NoAddress,
    /// Nobody answered.
    #[error("{reason}")]
    Unreachable {
        /// What the attempts came to.
        reason: String,
        /// Since when nobody answers at any of its addresses, if that is known.
        since: Option<Instant>,
    },
    /// Too many attempts are under way.
    #[error("too many connections are being made; try again")]
    Busy,
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection, or it ended.
    #[error("the connection was lost")]
    Disconnected,
    /// No answer in time.
    #[error("no answer came in time")]
    TimedOut,
    /// The other node does not speak the protocol.
    #[error("it does not speak this version of the protocol")]
    Unsupported,
    /// The answer is none.
    #[error("its answer is not understood")]
    Malformed(#[source] DecodeError),
    /// The request is over a limit.
    #[error("the stream failed: {0}")]
    Stream(String),
    /// Too many requests wait.
    #[error("too many requests are waiting")]
    Busy,
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// A node that stores records came, or is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// Its peer id.
    pub peer: PeerId,
    /// Since when it was missed, if it is the run that was there before: then it lacks at most what was published since.
    pub missed: Option<Instant>,
}

/// A node of this network that said who it is.
#[derive(Debug, Clone)]
pub struct Identified {
    /// Its peer id.
    pub peer: PeerId,
    /// Its role, as it says.
    pub role: Role,
    /// Where it listens, as it says; bounded.
    pub addresses: Vec<Multiaddr>,
    /// Whether it was found by mDNS.
    pub lan: bool,
    /// When it last said so.
    pub seen: Instant,
}

/// Other nodes, as far as they may have a say in which master to take.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    /// How many nodes mDNS found.
    pub heard: usize,
    /// Peers of this network among them that are connected.
    pub near: Vec<PeerId>,
    /// Peers of this network that are connected and were not found by mDNS.
    pub far: Vec<PeerId>,
}

/// Counts of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Nodes that are connected.
    pub connected: usize,
    /// Bytes of files sent since the node started.
    pub uploaded_bytes: u64,
    /// Members of the network; a master's alone.
    pub members: Option<MemberCounts>,
}

/// How many members a master has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberCounts {
    /// All.
    pub members: usize,
    /// Those that are suspect.
    pub suspects: usize,
}

/// What the loop is asked to do.
pub(crate) enum Command {
    Connect { peer: Option<PeerId>, addresses: Vec<Multiaddr>, answer: oneshot::Sender<Result<PeerId, ConnectError>> },
    Index { to: PeerId, request: index_protocol::Request, answer: IndexAnswer },
    Mirror { to: PeerId, request: mirror_protocol::Request, answer: MirrorAnswer },
    Dht(dht::Ask),
    Fetch { from: PeerId, request: fetch_protocol::Request, answer: FetchAnswer },
    Listen { content: ContentId, words: mpsc::Sender<Word> },
    Keep { peer: PeerId, keep: bool },
    GiveWay { reason: String },
    Neighbours { answer: oneshot::Sender<Neighbours> },
    Disconnect { peer: PeerId },
    Cut { peer: PeerId },
    Await { peer: PeerId, answer: oneshot::Sender<Result<PeerId, ConnectError>> },
    Snapshot { answer: oneshot::Sender<Snapshot> },
    Shutdown { answer: oneshot::Sender<()> },
}

type IndexAnswer = oneshot::Sender<Result<index_protocol::Response, RequestError>>;
type MirrorAnswer = oneshot::Sender<Result<mirror_protocol::Response, RequestError>>;
type FetchAnswer = oneshot::Sender<Result<fetch_protocol::Response, RequestError>>;

/// A handle to the swarm. Clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Net {
    local: PeerId,
    run: Run,
    commands: mpsc::Sender<Command>,
    lost: broadcast::Sender<PeerId>,
    came: broadcast::Sender<Came>,
    listen: watch::Receiver<Vec<Multiaddr>>,
    masters: watch::Receiver<Vec<Identified>>,
    twins: watch::Receiver<Option<Multiaddr>>,
    authority: Arc<watch::Sender<Option<Authority>>>,
    received: Arc<AtomicU64>,
    trips: Trips,
    links: Links,
    reachable: watch::Receiver<Option<bool>>,
    called: peers::Called,
}

/// Answers lookups and searches for names that this node owns, from memory.
pub type OwnedNames = Arc<dyn Fn(index_protocol::Request) -> index_protocol::Response + Send + Sync>;

/// What the swarm serves to others.
pub struct Services {
    /// What chunks are read from.
    pub library: Library,
    /// The index; a master's alone.
    pub index: Option<Master>,
    /// What this node says of its own names.
    pub owned: OwnedNames,
}

impl Net {
    /// Starts the swarm and its event loop; the task ends after [`Net::shutdown`].
    pub fn start(
        keypair: Keypair,
        config: &Config,
        services: Services,
    ) -> Result<(Self, tokio::task::JoinHandle<()>), NetError> {
        let local = keypair.public().to_peer_id();
        let run = Run(rand::random());
        let received = Arc::new(AtomicU64::new(0));
        let library = &services.library;
        let codec = FetchCodec::new(library.buffers.clone(), received.clone(), library.holdings.clone());
        let links = Links::default();
        let swarm = behaviour::swarm(keypair, run, config, codec, &links)?;
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (lost, _) = broadcast::channel(EVENT_QUEUE);
        let (came, _) = broadcast::channel(EVENT_QUEUE);
        let (listening, listen) = watch::channel(Vec::new());
        let (seen, masters) = watch::channel(Vec::new());
        let (met, twins) = watch::channel(None);
        let authority = Arc::new(watch::Sender::new(None));
        let dht = dht::Dht::new(local, config.network.clone(), authority.subscribe(), config.dht.lifetime);
        let outside = driver::Outside::new(lost.clone(), came.clone(), listening, seen, met, links.clone(), config);
        let trips = outside.trips.clone();
        let (own, reachable) = watch::channel(None);
        let net = Self {
            local,
            run,
            commands,
            lost,
            came,
            listen,
            masters,
            twins,
            authority,
            received,
            trips,
            links,
            reachable,
            called: peers::Called::default(),
        };
        let mut services = services;
        if let Some(master) = &mut services.index {
            master.consult(Mirror::new(net.clone(), config.network.clone(), true), run);
        }
        let reachability = driver::Reachability::new(own);
        let driver = driver::Driver::new(swarm, queue, outside, dht, config, reachability, services)?;
        let task = tasks::spawn("network", driver.run());
        Ok((net, task))
    }

    /// This node's peer id.
    pub fn local(&self) -> PeerId {
        self.local
    }

    /// The number of this run: no other node draws the same, one with the same identity included.
    pub fn run(&self) -> Run {
        self.run
    }

    /// Where this node listens, without its peer id; empty until it does.
    pub fn listen(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.listen.clone()
    }

    /// Nodes with which the last connection ends from here on. A receiver that lags loses the oldest and is
    /// told so.
    pub fn lost(&self) -> broadcast::Receiver<PeerId> {
        self.lost.subscribe()
    }

    /// Nodes that store records and came, or came back as another run, from here on. A receiver that lags loses the oldest
    /// and is told so.
    pub fn came(&self) -> broadcast::Receiver<Came> {
        self.came.subscribe()
    }

    /// Nodes of this network that say that they are its master, the latest last; bounded.
    pub fn masters(&self) -> watch::Receiver<Vec<Identified>> {
        self.masters.clone()
    }

    /// Where this node met another with its identity; told anew at each meeting.
    pub fn twins(&self) -> watch::Receiver<Option<Multiaddr>> {
        self.twins.clone()
    }

    /// What the node at an address says of the master that it follows, if it has this node's own key.
    pub async fn twin_at(&self, address: Multiaddr) -> Option<index_protocol::Followed> {
        stranger::followed_at(address, self.local).await
    }

    /// Another master with this node's key has the newer index: from here on this one serves nobody.
    pub async fn give_way(&self, reason: String) {
        // A loop that is gone serves nobody.
        let _ = self.commands.send(Command::GiveWay { reason }).await;
    }

    /// Other nodes, as far as they may have a say in which master to take.
    pub async fn neighbours(&self) -> Neighbours {
        let (answer, answered) = oneshot::channel();
        // A loop that is gone knows nobody.
        let _ = self.commands.send(Command::Neighbours { answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Bytes of files that came from others since the node started, what was of no use included.
    pub fn downloaded_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks the master `to`, which must be connected or this node itself.
    pub async fn index(
        &self,
        to: PeerId,
        request: index_protocol::Request,
    ) -> Result<index_protocol::Response, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Index { to, request, answer };
        self.commands.send(command).await.map_err(|_| RequestError::ShuttingDown)?;
        answered.await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Asks the holder `from`, which must be connected, for chunks.
    pub async fn fetch(
        &self,
        from: PeerId,
        request: fetch_protocol::Request,
    ) -> Result<fetch_protocol::Response, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Fetch { from, request, answer };
        self.commands.send(command).await.map_err(|_| RequestError::ShuttingDown)?;
        answered.await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Asks `to`, which must be connected or this node itself, to store or read records.
    pub async fn mirror(
        &self,
        to: PeerId,
        request: mirror_protocol::Request,
    ) -> Result<mirror_protocol::Response, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Mirror { to, request, answer };
        self.commands.send(command).await.map_err(|_| RequestError::ShuttingDown)?;
        answered.await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Whose statements are believed, and stored for others, from now on.
    pub fn trust(&self, authority: Option<Authority>) {
        self.authority.send_replace(authority);
    }

    /// Whose statements are believed.
    pub fn authority(&self) -> Option<Authority> {
        self.authority.borrow().clone()
    }

    /// What others say along with their requests that they have of a content. Dropping the receiver ends it; who calls
    /// this again for the same content takes the place of who did before.
    pub async fn words(&self, content: ContentId) -> mpsc::Receiver<Word> {
        let (words, receiver) = mpsc::channel(WORD_QUEUE);
        // A loop that is gone hears nothing.
        let _ = self.commands.send(Command::Listen { content, words }).await;
        receiver
    }

    /// Counts of the moment.
    pub async fn snapshot(&self) -> Snapshot {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Snapshot { answer }).await.is_err() {
            return Snapshot::default();
        }
        answered.await.unwrap_or_default()
    }

    /// Finishes uploads that are under way, closes every connection and ends the loop.
    pub async fn shutdown(&self) {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Shutdown { answer }).await.is_ok() {
            let _ = answered.await;
        }
    }
}

/// Waits until `deadline`, or for ever if there is none.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
