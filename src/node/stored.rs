//! What a node has on disk, opened before it goes online.

use std::time::Instant;

use swarmdex_protocols::Statement;
use swarmdex_protocols::index::Fingerprint;
use tokio::sync::mpsc;

use super::Error;
use super::begin::{recall, recall_granted, settle};
use super::events::Events;
use super::identity::take_identity;
use super::mirror::MADE_QUEUE;
use super::standings::Standings;
use crate::config::{Config, Role};
use crate::net::Master;
use crate::storage::dir::{DataDir, read_identity};
use crate::storage::grants::Grants;
use crate::storage::index::{IndexOptions, IndexStore};
use crate::storage::shares::{ShareTable, check_patterns};
use crate::tasks::Failures;

/// What is read from disk before the node goes online.
pub(super) struct Stored {
    pub(super) dir: DataDir,
    pub(super) keypair: libp2p::identity::Keypair,
    pub(super) machine: Option<Fingerprint>,
    pub(super) shares: ShareTable,
    pub(super) standings: Standings,
    pub(super) master: Option<(IndexStore, Master, mpsc::Receiver<Statement>)>,
}

/// Opens, or makes, all that a node keeps on disk. Blocks on the disk.
pub(super) fn open(config: &Config, failures: &Failures, events: &Events) -> Result<Stored, Error> {
    // The folder of a command is its own, and new.
    let dir = if config.transient { DataDir::open_temporary } else { DataDir::open }(&config.data_dir)?;
    let is_new = read_identity(dir.path()).is_ok_and(|identity| identity.is_none());
    let (keypair, machine) = take_identity(&dir, config)?;
    check_patterns(&config.selection.exclude)?;
    if !config.transient {
        settle(dir.path().to_owned(), config.fetch.threads);
    }
    let shares = ShareTable::open(dir.path(), config.fetch.threads)?;
    recall(&shares, config);
    let master = match config.role {
        Role::Peer => None,
        Role::Master => {
            let (made, to_publish) = mpsc::channel(MADE_QUEUE);
            let options = IndexOptions::new(config.network.clone(), keypair.clone(), &config.limits)
                .with_mirror(made)
                .with_failures(failures.clone());
            let (store, known) = IndexStore::open(&dir.index_path(), options)?;
            let mut master = Master::new(store.clone(), config, known, Instant::now());
            master.tell_changes(events.of_members());
            if store.is_new() && !is_new {
                master.on_lost_index();
            }
            Some((store, master, to_publish))
        }
    };
    let grants = Grants::open(&dir.grants_path())?;
    let certificates = grants.all()?;
    let standings = Standings::new(keypair.public().to_peer_id(), grants, certificates);
    recall_granted(&shares, &standings);
    Ok(Stored { dir, keypair, machine, shares, standings, master })
}
