//! What the tasks of a node work with.

use std::sync::Arc;

use libp2p::identity::Keypair;
use swarmdex_protocols::Network;
use tokio::sync::watch;

use super::events::Events;
use super::life::Phase;
use super::standings::Standings;
use super::twins::Twins;
use super::types::MasterState;
use crate::config::Config;
use crate::net::{Mirror, Net};
use crate::storage::dir::DataDir;
use crate::storage::library::Library;
use crate::storage::shares::ShareTable;

/// The parts of one node that its tasks share. Clones speak of the same node.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) config: Arc<Config>,
    pub(super) keypair: Keypair,
    pub(super) dir: DataDir,
    pub(super) net: Net,
    pub(super) mirror: Mirror,
    /// What is served: shares, and what downloads hold.
    pub(super) library: Library,
    /// What the master, or nobody, says of this node's own names.
    pub(super) standings: Standings,
    pub(super) twins: Twins,
    /// How it stands with the master.
    pub(super) master: watch::Receiver<MasterState>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) events: Events,
}

impl Context {
    /// The network that the node belongs to.
    pub(super) fn network(&self) -> &Network {
        &self.config.network
    }

    /// What the node was told to share.
    pub(super) fn shares(&self) -> &ShareTable {
        &self.library.shares
    }
}
