//! Why something came to nothing.

use std::io;
use std::time::Instant;

use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::{Multiaddr, PeerId};

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
pub(crate) enum ConnectError {
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

/// Why there is no answer from a node that is connected to first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// No connection came about.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There was a connection, and no answer came over it.
    #[error(transparent)]
    Request(#[from] RequestError),
}
