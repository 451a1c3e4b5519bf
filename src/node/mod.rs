//! One running node behind one small handle. Command line, HTTP and tests go through it alone.

mod error;
mod types;

pub use error::{Error, ErrorKind};
use tokio::sync::{oneshot, watch};
pub use types::*;

use crate::config::Config;

/// A running node. Clones are handles to the same node; it runs until [`Node::shutdown`].
#[derive(Debug, Clone)]
pub struct Node {}

/// A long operation. Dropping it cancels the operation.
#[derive(Debug)]
pub struct Operation<T> {
    progress: watch::Receiver<Progress>,
    outcome: oneshot::Receiver<Result<T, Error>>,
}

impl<T> Operation<T> {
    /// How far it is; the latest value only.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for its end. Cancel safe: call it again to go on waiting.
    pub async fn outcome(&mut self) -> Result<T, Error> {
        (&mut self.outcome).await.unwrap_or(Err(Error::ShuttingDown))
    }
}

impl Node {
    /// Starts a node; returns once it listens.
    pub async fn start(_config: Config) -> Result<Self, Error> {
        Err(Error::ShuttingDown)
    }

    /// Who the node is and where it listens. `http` is left for the caller to fill in.
    pub async fn ready(&self) -> Result<Ready, Error> {
        Err(Error::ShuttingDown)
    }

    /// What the node is doing.
    pub async fn status(&self) -> Result<Status, Error> {
        Err(Error::ShuttingDown)
    }

    /// The members of the network, as the master sees them.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        Err(Error::ShuttingDown)
    }

    /// What the index says of `name`.
    pub async fn lookup(&self, _name: &str) -> Result<LookupInfo, Error> {
        Err(Error::ShuttingDown)
    }

    /// The entries that match `query`, sorted by name, at most `limit`.
    pub async fn search(&self, _query: &str, _limit: usize) -> Result<Vec<EntryInfo>, Error> {
        Err(Error::ShuttingDown)
    }

    /// What this node shares.
    pub async fn shared(&self) -> Result<Vec<SharedInfo>, Error> {
        Err(Error::ShuttingDown)
    }

    /// Shares files and folders (absolute paths), and keeps them shared across restarts. Ends when the
    /// master has answered, or at once after hashing if it cannot be reached.
    pub fn share(&self, _paths: Vec<std::path::PathBuf>, _name: Option<String>) -> Operation<ShareReport> {
        Self::failed()
    }

    /// Gives names up.
    pub async fn revoke(&self, _names: Vec<String>) -> Result<Vec<RevokedInfo>, Error> {
        Err(Error::ShuttingDown)
    }

    /// Downloads a file, or every file below a prefix.
    pub fn get(&self, _request: GetRequest) -> Operation<GetReport> {
        Self::failed()
    }

    /// Leaves the network and stops; the master is told. Safe to call twice.
    pub async fn shutdown(&self) -> Result<(), Error> {
        Err(Error::ShuttingDown)
    }

    /// Waits until the node has stopped, and says why if it was not asked to.
    pub async fn stopped(&self) -> Result<(), Error> {
        Err(Error::ShuttingDown)
    }

    fn failed<T>() -> Operation<T> {
        let (_, progress) = watch::channel(Progress::default());
        let (answer, outcome) = oneshot::channel();
        let _ = answer.send(Err(Error::ShuttingDown));
        Operation { progress, outcome }
    }
}
