//! Who the master is, and the way to it.
//!
//! The master is known by its peer id: given in an address, or pinned when it was first joined. On a
//! LAN, or through a bootstrap node, the first master of this network that shows up is taken and pinned.

use std::time::Duration;

use swarmdex_protocols::address::{group_by_peer, split_peer};
use swarmdex_protocols::{Authority, Multiaddr, Network, PeerId};

use super::vote::{self, Choice};
use crate::config::{Config, Role};
use crate::net::{ConnectError, Identified, Net};
use crate::node::entrances::Entrances;
use crate::storage::dir::{DataDir, DataDirError};
use crate::tasks;

/// Masters that are said to be ignored, each once.
const MAX_IGNORED: usize = 16;

/// How long a master that is known may take to show up.
const FIND_PATIENCE: Duration = Duration::from_secs(3);

/// Why the master was not found.
pub(in crate::node) struct FindFailure {
    /// The master, if it is known who it is.
    pub(in crate::node) master: Option<PeerId>,
    /// What went wrong, for people.
    pub(in crate::node) reason: String,
}

/// Finds the master.
pub(in crate::node) struct Finder {
    role: Role,
    network: Network,
    dir: DataDir,
    masters: Vec<Multiaddr>,
    bootstrap: Vec<Multiaddr>,
    entrances: Entrances,
    /// Masters that were said to be ignored.
    ignored: Vec<PeerId>,
    /// Nodes reached by the bootstrap addresses: what they are is as good as configured.
    trusted: Vec<PeerId>,
}

impl Finder {
    /// For a node with this configuration. What becomes of its bootstrap addresses is told to `entrances`.
    pub(in crate::node) fn new(config: &Config, dir: DataDir, entrances: Entrances) -> Self {
        Self {
            role: config.role,
            network: config.network.clone(),
            dir,
            masters: config.master.clone(),
            bootstrap: config.bootstrap.clone(),
            entrances,
            ignored: Vec::new(),
            trusted: Vec::new(),
        }
    }

    /// The master as far as it is known before anybody was reached: pinned, or named by an address.
    pub(in crate::node) fn known_master(&self) -> Option<PeerId> {
        let named = self.masters.iter().cloned().find_map(|address| split_peer(address).0);
        named.or_else(|| self.pinned().ok().flatten())
    }

    /// The master that was pinned, among those that say that they are one; the others are said to be ignored.
    fn pick(&mut self, masters: &[Identified], pinned: PeerId) -> Option<(PeerId, Vec<Multiaddr>)> {
        for node in masters.iter().filter(|node| pinned != node.peer) {
            if !self.ignored.contains(&node.peer) && self.ignored.len() < MAX_IGNORED {
                self.ignored.push(node.peer);
                tracing::warn!(theirs = %node.peer, ours = %pinned, "another master is on this network; ignored");
            }
        }
        masters.iter().find(|node| node.peer == pinned).map(|node| (node.peer, node.addresses.clone()))
    }

    /// Masters that may be taken by a node that knows none.
    fn candidates(&self, masters: &[Identified]) -> Vec<Identified> {
        masters.iter().filter(|node| node.lan || self.trusted.contains(&node.peer)).cloned().collect()
    }

    /// Chooses among the masters that are there, if there are any, and sticks to it.
    async fn choose(&mut self, net: &Net) -> Option<Result<PeerId, FindFailure>> {
        if self.candidates(&net.masters().borrow()).is_empty() {
            return None;
        }
        let choice = vote::choose(net, &self.trusted, |masters| self.candidates(masters)).await?;
        choice.tell();
        let Choice { master, addresses, met, .. } = choice;
        match net.connect(Some(master), addresses).await {
            Ok(master) => Some(self.pin(master, None)),
            Err(error) if met => Some(Err(FindFailure { master: Some(master), reason: error.to_string() })),
            // It is down, and the peers here wait for it: so does this node, and believes what it signed.
            Err(error) => {
                net.trust(Authority::new(self.network.clone(), &master));
                let reason = format!("the peers here follow {master}, and it cannot be reached: {error}");
                Some(self.pin(master, None).and(Err(FindFailure { master: Some(master), reason })))
            }
        }
    }

    /// Connects to the master, waiting for one to show up if none is configured.
    pub(super) async fn find(&mut self, net: &Net) -> Result<PeerId, FindFailure> {
        if self.role == Role::Master {
            return Ok(net.local());
        }
        let pinned = self.pinned().map_err(|error| FindFailure { master: None, reason: error.to_string() })?;
        if !self.masters.is_empty() {
            let connected = self.connect_configured(net, pinned).await;
            if connected.is_err() {
                // The network may be there without its master; nobody waits for that.
                self.enter_beside(net);
            }
            return connected;
        }
        self.enter(net).await;
        let failed = |reason: &str| FindFailure { master: pinned, reason: reason.to_owned() };
        let mut masters = net.masters();
        let (master, addresses) = loop {
            let seen = masters.borrow_and_update().clone();
            match pinned {
                Some(pinned) => {
                    if let Some(found) = self.pick(&seen, pinned) {
                        break found;
                    }
                }
                None => {
                    if let Some(chosen) = self.choose(net).await {
                        return chosen;
                    }
                }
            }
            // A master that is known and does not show up is down; an unknown one may be started any time.
            let patience = if pinned.is_some() { FIND_PATIENCE } else { Duration::MAX };
            match tokio::time::timeout(patience, masters.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(failed("the node is stopping")),
                Err(_) => return Err(failed("it is nowhere to be found on this network")),
            }
        };
        match net.connect(Some(master), addresses).await {
            Ok(master) => self.pin(master, pinned),
            Err(error) => Err(FindFailure { master: Some(master), reason: error.to_string() }),
        }
    }

    /// Begins to connect to nodes through which to enter the network.
    fn enter_beside(&self, net: &Net) {
        for (peer, address) in self.bootstrap.iter().cloned().map(split_peer) {
            let net = net.clone();
            tasks::spawn("entrance", async move {
                if let Err(error) = net.connect(peer, vec![address.clone()]).await {
                    tracing::warn!(%address, %error, "a bootstrap node cannot be reached");
                }
            });
        }
    }

    /// Connects to nodes through which to enter the network.
    async fn enter(&mut self, net: &Net) {
        let (mut reached, mut failed) = (0, Vec::new());
        for address in self.bootstrap.clone() {
            let (peer, address) = split_peer(address);
            match net.connect(peer, vec![address.clone()]).await {
                Ok(peer) => {
                    reached += 1;
                    if !self.trusted.contains(&peer) {
                        self.trusted.push(peer);
                    }
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "a bootstrap node cannot be reached");
                    failed.push(match error {
                        // It names the address.
                        ConnectError::Unreachable { reason, .. } => reason,
                        error => format!("{address}: {error}"),
                    });
                }
            }
        }
        self.entrances.on_tried(reached, failed);
    }

    /// Tries the configured addresses, those of one peer id together. The error is that of the last.
    async fn connect_configured(&self, net: &Net, pinned: Option<PeerId>) -> Result<PeerId, FindFailure> {
        let mut failure = None;
        for (named, addresses) in group_by_peer(&self.masters) {
            let error = match net.connect(named, addresses.clone()).await {
                // What the configuration names is trusted, and remembered in place of what was pinned.
                Ok(master) => {
                    let trusted = self.pin(master, pinned.filter(|_| named.is_none()));
                    if trusted.is_err() {
                        // The next attempt would open another connection beside this one.
                        net.disconnect(master).await;
                    }
                    return trusted;
                }
                Err(error) => error,
            };
            let reason = match (&error, named) {
                (ConnectError::WrongPeer { address, obtained }, Some(named)) => format!(
                    "the node at {address} is {obtained}, and the address says {named}; correct --master if the master was set up anew"
                ),
                (_, None) => addresses.iter().map(|address| format!("{address}: {error}")).collect(),
                (_, Some(_)) => error.to_string(),
            };
            failure = Some(FindFailure { master: named.or(pinned), reason });
        }
        Err(failure.unwrap_or(FindFailure { master: pinned, reason: "no address is configured".to_owned() }))
    }

    fn pinned(&self) -> Result<Option<PeerId>, DataDirError> {
        self.dir.pinned_master(&self.network)
    }

    /// Holds the master to the key that was pinned, or pins it.
    fn pin(&self, master: PeerId, pinned: Option<PeerId>) -> Result<PeerId, FindFailure> {
        match pinned {
            Some(pinned) if pinned != master => {
                let reason = format!(
                    "this node joined the master {pinned} before, and {master} answers now; if the master was set up anew, name it by --master …/p2p/{master}"
                );
                Err(FindFailure { master: Some(pinned), reason })
            }
            Some(_) => Ok(master),
            None => {
                if let Err(error) = self.dir.pin_master(&self.network, master) {
                    tracing::warn!(%error, "the master's key could not be pinned");
                }
                Ok(master)
            }
        }
    }
}
