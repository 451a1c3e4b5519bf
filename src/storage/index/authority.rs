//! The key of the master, for the statements that the index makes, and the log for what is out of the ordinary.

use libp2p::identity::Keypair;
use swarmdex_protocols::{Certificate, Entry, Name, Network, PeerId, Tombstone, Version};

use super::IndexOptions;
use crate::state::index::{Authority, IndexNotice};

/// Signs what the index says.
#[derive(Debug)]
pub(super) struct MasterKey {
    network: Network,
    master: Keypair,
}

impl MasterKey {
    pub(super) fn new(options: &IndexOptions) -> Self {
        Self { network: options.network.clone(), master: options.master.clone() }
    }
}

impl Authority for MasterKey {
    fn certify(&self, entry: Entry, unix_ms: u64) -> Option<Certificate> {
        Certificate::sign(entry, &self.network, &self.master, unix_ms)
            .inspect_err(|error| tracing::error!(%error, "an entry could not be signed"))
            .ok()
    }

    fn end(&self, name: Name, owner: PeerId, version: Version, unix_ms: u64) -> Option<Tombstone> {
        Tombstone::sign(name, owner, version, &self.network, &self.master, unix_ms)
            .inspect_err(|error| tracing::error!(%error, "a tombstone could not be signed"))
            .ok()
    }

    fn signed(&self, certificate: &Certificate) -> bool {
        certificate.verify_signature(&self.network, &self.master.public()).is_ok()
    }

    fn notice(&self, event: &IndexNotice<'_>) {
        match event {
            IndexNotice::Adopted { name, owner } => {
                tracing::info!(%owner, %name, "the DHT says that a name belongs to another peer");
            }
            IndexNotice::Displaced { name, holder, by } => {
                tracing::info!(%name, %by, %holder, "a name was granted to another peer after this copy of the index was made");
            }
            IndexNotice::ToldLess { peer } => {
                tracing::warn!(%peer, "a peer of an earlier build told less than its whole share; what it did not tell is kept");
            }
        }
    }
}
