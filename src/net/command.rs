//! What the handle asks of the loop.

use swarmdex_protocols::{ContentId, Multiaddr, PeerId, fetch, index, mirror};
use tokio::sync::{mpsc, oneshot};

use super::crowd::HaveUpdate;
use super::dht;
use super::error::ConnectError;
use super::rpc::{self, Waiting};
use super::types::{Neighbours, Snapshot};

/// What the loop is asked to do.
pub(super) enum Command {
    Connect {
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
        answer: oneshot::Sender<Result<PeerId, ConnectError>>,
    },
    Index {
        to: PeerId,
        request: index::IndexRequest,
        answer: Waiting<rpc::IndexProtocol>,
    },
    Mirror {
        to: PeerId,
        request: mirror::MirrorRequest,
        answer: Waiting<rpc::MirrorProtocol>,
    },
    Dht(dht::Ask),
    Fetch {
        from: PeerId,
        request: fetch::FetchRequest,
        answer: Waiting<rpc::FetchProtocol>,
        /// Gets the request back if there is no connection.
        unsent: oneshot::Sender<fetch::FetchRequest>,
    },
    Listen {
        content: ContentId,
        have_updates: mpsc::Sender<HaveUpdate>,
    },
    Keep {
        peer: PeerId,
        keep: bool,
    },
    GiveWay {
        reason: String,
    },
    Neighbours {
        answer: oneshot::Sender<Neighbours>,
    },
    Disconnect {
        peer: PeerId,
    },
    Cut {
        peer: PeerId,
    },
    Await {
        peer: PeerId,
        answer: oneshot::Sender<Result<PeerId, ConnectError>>,
    },
    Snapshot {
        answer: oneshot::Sender<Snapshot>,
    },
    Shutdown {
        answer: oneshot::Sender<()>,
    },
}

/// Where commands go.
#[derive(Debug, Clone)]
pub(super) enum Commands {
    /// The loop goes on as long as there is one.
    Strong(mpsc::Sender<Command>),
    /// The loop's own: it does not go on for itself.
    Weak(mpsc::WeakSender<Command>),
}

impl Commands {
    /// Hands a command to the loop; it comes back if the loop has ended, or is about to.
    pub(super) async fn send(&self, command: Command) -> Result<(), mpsc::error::SendError<Command>> {
        match self {
            Self::Strong(commands) => commands.send(command).await,
            Self::Weak(commands) => match commands.upgrade() {
                Some(commands) => commands.send(command).await,
                None => Err(mpsc::error::SendError(command)),
            },
        }
    }

    /// The same for the loop itself.
    pub(super) fn downgrade(&self) -> Self {
        Self::Weak(match self {
            Self::Strong(commands) => commands.downgrade(),
            Self::Weak(commands) => commands.clone(),
        })
    }
}
