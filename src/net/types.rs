//! What the swarm tells of other nodes, and of itself.

use std::time::Instant;

use libp2p::{Multiaddr, PeerId};

use crate::config::Role;

/// A node that stores records came, or is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Came {
    /// Its peer id.
    pub peer: PeerId,
    /// Since when it was missed, if it is the run that was there before: then it lacks at most what was published since.
    pub missed: Option<Instant>,
}

/// A node of this network that said who it is.
#[derive(Debug, Clone)]
pub(crate) struct Identified {
    /// Its peer id.
    pub peer: PeerId,
    /// Its role, as it says.
    pub role: Role,
    /// Where it listens, as it says; bounded.
    pub addresses: Vec<Multiaddr>,
    /// Whether it was found by mDNS.
    pub lan: bool,
    /// When it last said so.
    pub seen: Instant,
}

/// Other nodes, as far as they may have a say in which master to take.
#[derive(Debug, Clone, Default)]
pub(crate) struct Neighbours {
    /// How many nodes mDNS found.
    pub heard: usize,
    /// Peers of this network among them that are connected.
    pub near: Vec<PeerId>,
    /// Peers of this network that are connected and were not found by mDNS.
    pub far: Vec<PeerId>,
}

/// Counts of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Snapshot {
    /// Nodes that are connected.
    pub connected: usize,
    /// Bytes of files sent since the node started.
    pub uploaded_bytes: u64,
    /// Members of the network; a master's alone.
    pub members: Option<MemberCounts>,
}

/// How many members a master has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MemberCounts {
    /// All.
    pub members: usize,
    /// Those that are suspect.
    pub suspects: usize,
}
