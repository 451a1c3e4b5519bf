//! The swarm: one behaviour, one event loop, one handle to ask it.
//!
//! The loop turns events into calls of the state machines and their results into commands. It never
//! waits for a consumer: answers go out by one-shot channels whose receivers may be gone, work for the
//! disk goes to bounded queues and is refused when they are full.

mod admission;
mod behaviour;
mod codec;
mod dial;
mod discovery;
mod driver;
mod fetch;
mod index;
mod listen;
mod nodes;
mod pending;

use std::io;
use std::time::Instant;

pub use index::Master;
use libp2p::identity::Keypair;
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::{Multiaddr, PeerId, fetch as fetch_protocol, index as index_protocol};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::config::{Config, Role};
use crate::storage::shares::ShareTable;

/// Commands that wait for the event loop.
const COMMAND_QUEUE: usize = 256;
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
    Noise,
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
}

/// Counts of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Nodes that are connected.
    pub connected: usize,
    /// Uploads that are under way or waiting.
    pub uploads: usize,
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
    Fetch { from: PeerId, request: fetch_protocol::Request, answer: FetchAnswer },
    Keep { peer: PeerId, keep: bool },
    Disconnect { peer: PeerId },
    Snapshot { answer: oneshot::Sender<Snapshot> },
    Shutdown { answer: oneshot::Sender<()> },
}

type IndexAnswer = oneshot::Sender<Result<index_protocol::Response, RequestError>>;
type FetchAnswer = oneshot::Sender<Result<fetch_protocol::Response, RequestError>>;

/// A handle to the swarm. Clones speak to the same one.
#[derive(Debug, Clone)]
pub struct Net {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    lost: broadcast::Sender<PeerId>,
    listen: watch::Receiver<Vec<Multiaddr>>,
    masters: watch::Receiver<Vec<Identified>>,
}

/// What the swarm serves to others.
pub struct Services {
    /// The share table that chunks are read from.
    pub shares: ShareTable,
    /// The index; a master's alone.
    pub index: Option<Master>,
}

impl Net {
    /// Starts the swarm and its event loop; the task ends after [`Net::shutdown`].
    pub fn start(
        keypair: Keypair,
        config: &Config,
        services: Services,
    ) -> Result<(Self, tokio::task::JoinHandle<()>), NetError> {
        let local = keypair.public().to_peer_id();
        let swarm = behaviour::swarm(keypair, config)?;
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (lost, _) = broadcast::channel(EVENT_QUEUE);
        let (listening, listen) = watch::channel(Vec::new());
        let (seen, masters) = watch::channel(Vec::new());
        let outside = driver::Outside::new(lost.clone(), listening, seen, config);
        let driver = driver::Driver::new(swarm, queue, outside, config, services)?;
        let task = tokio::spawn(driver.run());
        Ok((Self { local, commands, lost, listen, masters }, task))
    }

    /// This node's peer id.
    pub fn local(&self) -> PeerId {
        self.local
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

    /// Nodes of this network that say that they are its master, the latest last; bounded.
    pub fn masters(&self) -> watch::Receiver<Vec<Identified>> {
        self.masters.clone()
    }

    /// Closes every connection with `peer`: one that does not answer is in the way of a new one.
    pub async fn disconnect(&self, peer: PeerId) {
        // A loop that is gone has no connections.
        let _ = self.commands.send(Command::Disconnect { peer }).await;
    }

    /// Connects to `peer`, or to whoever answers if none is given; TCP is tried before QUIC. At once
    /// if it is connected already.
    pub async fn connect(&self, peer: Option<PeerId>, addresses: Vec<Multiaddr>) -> Result<PeerId, ConnectError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Connect { peer, addresses, answer };
        self.commands.send(command).await.map_err(|_| ConnectError::ShuttingDown)?;
        answered.await.unwrap_or(Err(ConnectError::ShuttingDown))
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

    /// Keeps connections with `peer` open although idle, or ceases to.
    pub async fn keep(&self, peer: PeerId, keep: bool) {
        // A loop that is gone keeps nothing open.
        let _ = self.commands.send(Command::Keep { peer, keep }).await;
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
