//! Who the node is: its identity in a data directory, the machine that it was made on, and how to change it.

use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use serde::{Deserialize, Serialize};
use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::Fingerprint;

use super::Error;
use super::types::{optional_text, text};
use crate::config::{Config, IdentityConfig, OnNewMachine};
use crate::storage::dir::{DataDir, Machine, compare_machine, fingerprint, read_identity};

/// How this machine compares with the one that a data directory was last used on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// It is the same.
    Same,
    /// It is another: the directory moved, or was copied.
    Other,
    /// One of the two has no id, or the node was not started yet.
    Unknown,
}

impl From<Machine> for MachineState {
    fn from(machine: Machine) -> Self {
        match machine {
            Machine::Same => Self::Same,
            Machine::Other => Self::Other,
            Machine::Unknown => Self::Unknown,
        }
    }
}

/// The identity in a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityInfo {
    /// Its peer id.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// The data directory.
    pub data_dir: PathBuf,
    /// How this machine compares with the one that it was last used on.
    pub machine: MachineState,
}

/// A new identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIdentityInfo {
    /// The new peer id.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// The old one; none if there was none, or it could not be read.
    #[serde(with = "optional_text")]
    pub old_peer_id: Option<PeerId>,
    /// Where the old key is kept.
    pub old_key: Option<PathBuf>,
}

/// The identity in the data directory of `config`, whether a node runs there or not. Changes nothing. Blocks on the disk.
///
/// # Errors
/// [`Error::NoIdentity`]: there is none yet. [`Error::DataDir`]: it cannot be read, is damaged, or others can read it.
pub fn show_identity(config: &Config) -> Result<IdentityInfo, Error> {
    let data_dir = config.data_dir.clone();
    let Some(keypair) = read_identity(&data_dir)? else { return Err(Error::NoIdentity { path: data_dir }) };
    let peer_id = keypair.public().to_peer_id();
    let here = fingerprint(&config.identity.machine_id_file, &peer_id);
    Ok(IdentityInfo { peer_id, machine: compare_machine(&data_dir, here.as_ref()).into(), data_dir })
}

/// Gives the data directory of `config` a new identity; its shares and settings stay, and the old key is kept beside it. No node
/// may run there. Of a master's only with `force`. Blocks on the disk. A break in the middle leaves one identity or the other, whole.
///
/// # Errors
/// - [`Error::NoIdentity`]: there is no such folder.
/// - [`Error::DataDir`]: a node runs there, or the folder is damaged, unfit, or of a newer version.
/// - [`Error::Identity`]: it is a master's and `force` is false, or the new identity cannot be written.
pub fn new_identity(config: &Config, force: bool) -> Result<NewIdentityInfo, Error> {
    // Nothing is made where nothing is.
    if !config.data_dir.exists() {
        return Err(Error::NoIdentity { path: config.data_dir.clone() });
    }
    let renewed = DataDir::open(&config.data_dir)?.renew_identity(force)?;
    let peer_id = renewed.keypair.public().to_peer_id();
    Ok(NewIdentityInfo { peer_id, old_peer_id: renewed.old, old_key: renewed.kept })
}

/// The node's key, and the fingerprint of the machine if it has one. If the directory was used on another machine, that
/// is said, and done what the configuration says.
pub(super) fn take_identity(dir: &DataDir, config: &Config) -> Result<(Keypair, Option<Fingerprint>), Error> {
    let IdentityConfig { on_new_machine, machine_id_file } = &config.identity;
    let of = |keypair: &Keypair| fingerprint(machine_id_file, &keypair.public().to_peer_id());
    let mut keypair = dir.identity()?;
    let mut here = of(&keypair);
    if config.transient {
        return Ok((keypair, here));
    }
    match (compare_machine(dir.path(), here.as_ref()), on_new_machine) {
        (Machine::Same, _) => return Ok((keypair, here)),
        (Machine::Unknown, _) => {}
        (Machine::Other, OnNewMachine::Stop) => return Err(Error::OtherMachine { path: dir.path().to_owned() }),
        (Machine::Other, OnNewMachine::New) => {
            let renewed = dir.renew_identity(false)?;
            warn_new(dir.path(), &keypair, &renewed.keypair);
            keypair = renewed.keypair;
            here = of(&keypair);
        }
        (Machine::Other, OnNewMachine::Same) => tracing::warn!(
            data_dir = %dir.path().display(),
            "this data directory was used on another machine before; it goes on as the same node. If the other still runs, give this one an identity of its own: swarmdex identity new"
        ),
    }
    if let Some(here) = &here {
        dir.set_machine(here)?;
    }
    Ok((keypair, here))
}

fn warn_new(data_dir: &Path, old: &Keypair, new: &Keypair) {
    let (old, new) = (old.public().to_peer_id(), new.public().to_peer_id());
    tracing::warn!(
        data_dir = %data_dir.display(), %old, %new,
        "this data directory was used on another machine before; it goes on as a new node with the same shares"
    );
}
