//! Who the master is, and the way to it.
//!
//! The master is known by its peer id: given in an address, or pinned when it was first joined. On a
//! LAN, or through a bootstrap node, the first master of this network that shows up is taken and pinned.

use libp2p::multiaddr::Protocol;
use swarmdex_protocols::{Multiaddr, Network, PeerId};
use tokio::sync::broadcast;

use crate::config::{Config, Role};
use crate::net::{Net, NetEvent};
use crate::storage::dir::DataDir;

/// Why the master was not found.
pub(in crate::node) struct Failure {
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
    /// A master that showed up, with its addresses.
    seen: Option<(PeerId, Vec<Multiaddr>)>,
    /// Nodes reached by the bootstrap addresses: what they are is as good as configured.
    trusted: Vec<PeerId>,
}

impl Finder {
    pub(in crate::node) fn new(config: &Config, dir: DataDir) -> Self {
        Self {
            role: config.role,
            network: config.network.clone(),
            dir,
            masters: config.master.clone(),
            bootstrap: config.bootstrap.clone(),
            seen: None,
            trusted: Vec::new(),
        }
    }

    /// Takes in what happens in the network. True if the master showed up.
    pub(super) fn on_event(&mut self, event: &NetEvent) -> bool {
        let NetEvent::Identified(node) = event else { return false };
        if node.role != Role::Master || !self.masters.is_empty() {
            return false;
        }
        let wanted = match self.pinned() {
            Ok(Some(pinned)) => {
                if pinned != node.peer {
                    tracing::warn!(theirs = %node.peer, ours = %pinned, "another master is on this network; ignored");
                }
                pinned == node.peer
            }
            Ok(None) => node.lan || self.trusted.contains(&node.peer),
            Err(_) => false,
        };
        if wanted {
            self.seen = Some((node.peer, node.addresses.clone()));
        }
        wanted
    }

    /// Connects to the master, waiting for one to show up if none is configured.
    pub(super) async fn find(
        &mut self,
        net: &Net,
        events: &mut broadcast::Receiver<NetEvent>,
    ) -> Result<PeerId, Failure> {
        if self.role == Role::Master {
            return Ok(net.local());
        }
        let pinned = self.pinned().map_err(|reason| Failure { master: None, reason })?;
        if !self.masters.is_empty() {
            return self.connect_configured(net, pinned).await;
        }
        self.enter(net).await;
        let (master, addresses) = loop {
            if let Some(seen) = self.seen.clone() {
                break seen;
            }
            match events.recv().await {
                Ok(event) => {
                    self.on_event(&event);
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(Failure { master: pinned, reason: "the node is stopping".to_owned() });
                }
            }
        };
        match net.connect(Some(master), addresses).await {
            Ok(master) => self.pin(master, pinned),
            Err(error) => {
                // Its addresses may have changed: the next time it shows up it brings new ones.
                self.seen = None;
                Err(Failure { master: Some(master), reason: error.to_string() })
            }
        }
    }

    /// Connects to nodes through which to enter the network.
    async fn enter(&mut self, net: &Net) {
        for address in self.bootstrap.clone() {
            let (peer, address) = split_peer(address);
            match net.connect(peer, vec![address.clone()]).await {
                Ok(peer) if !self.trusted.contains(&peer) => self.trusted.push(peer),
                Ok(_) => {}
                Err(error) => tracing::warn!(%address, %error, "a bootstrap node cannot be reached"),
            }
        }
    }

    /// Tries the configured addresses in turn. The error is that of the last one, or of the first that
    /// led to the wrong node: that one needs a person.
    async fn connect_configured(&self, net: &Net, pinned: Option<PeerId>) -> Result<PeerId, Failure> {
        let mut failure = None;
        for address in &self.masters {
            let (named, plain) = split_peer(address.clone());
            match net.connect(named, vec![plain.clone()]).await {
                Ok(master) if named.is_some() => return self.pin(master, None),
                Ok(master) => match self.pin(master, pinned) {
                    Ok(master) => return Ok(master),
                    Err(error) => return Err(error),
                },
                Err(error) => {
                    let reason = match (&error, named) {
                        (crate::net::ConnectError::WrongPeer { obtained, .. }, Some(named)) => format!(
                            "the node at {plain} is {obtained}, and the address says {named}; correct --master if the master was set up anew"
                        ),
                        _ => format!("{address}: {error}"),
                    };
                    failure = Some(Failure { master: named.or(pinned), reason });
                }
            }
        }
        Err(failure.unwrap_or(Failure { master: pinned, reason: "no address is configured".to_owned() }))
    }

    fn pinned(&self) -> Result<Option<PeerId>, String> {
        self.dir.pinned_master(&self.network).map_err(|error| error.to_string())
    }

    /// Holds the master to the key that was pinned, or pins it.
    fn pin(&self, master: PeerId, pinned: Option<PeerId>) -> Result<PeerId, Failure> {
        match pinned {
            Some(pinned) if pinned != master => {
                let reason = format!(
                    "this node joined the master {pinned} before, and {master} answers now; if the master was set up anew, name it by --master …/p2p/{master}"
                );
                Err(Failure { master: Some(pinned), reason })
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

/// An address as its peer id, if it names one, and the rest.
pub(in crate::node) fn split_peer(mut address: Multiaddr) -> (Option<PeerId>, Multiaddr) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (Some(peer), address)
        }
        _ => (None, address),
    }
}
