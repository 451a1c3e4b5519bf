//! What the index is asked to change, and what became of it.

use std::collections::BTreeMap;

use swarmdex_protocols::index::{Offer, Returned, RevokeOutcome, Sequence, Session, ShareDigest, ShareSum, Verdict};
use swarmdex_protocols::{Multiaddr, Name, PeerId, Tally, Version};

use super::Slices;
use crate::state::lease::Holding;

/// A change of the index.
#[derive(Debug, Clone)]
pub(crate) enum WriteOp {
    /// A peer joins.
    Join {
        /// The peer.
        peer: PeerId,
        /// Where it listens.
        addresses: Vec<Multiaddr>,
        /// Digest of its share.
        digest: ShareDigest,
        /// Number of entries in its share.
        entries: u64,
        /// A version that was certified before, checked: no later one may be lower.
        seen: Version,
        /// Whether it may have back at once what it left with.
        again: bool,
    },
    /// A member that may has the next part of what it left with granted again.
    Again {
        /// The peer.
        peer: PeerId,
        /// Names that the other members of its address hold.
        neighbours: u64,
    },
    /// A member announces.
    Announce {
        /// The peer.
        peer: PeerId,
        /// What it offers.
        offers: Vec<Offer>,
        /// Names that the other members of its address hold.
        neighbours: u64,
        /// Whether its names that were not announced since its join are to be freed.
        last: bool,
        /// With `last`: what it says was granted to it since then, unless it is of an earlier build.
        total: Option<ShareSum>,
        /// What the mirror says of offered names, as far as it was asked.
        mirror: BTreeMap<Name, Tally>,
    },
    /// A member revokes.
    Revoke {
        /// The peer.
        peer: PeerId,
        /// The names.
        names: Vec<String>,
    },
    /// A member gave names up while it could not tell: they are freed, if they are still held at just these versions.
    Overtaken {
        /// The member.
        peer: PeerId,
        /// The names, each with the version at which it was granted.
        names: Vec<(Name, Version)>,
    },
    /// A change that a member asked for in a session: refused if a later join has begun another since, or a later
    /// change of the session was made.
    InSession {
        /// The session.
        session: Session,
        /// The number of the change in it.
        sequence: Sequence,
        /// The change.
        change: Box<WriteOp>,
    },
    /// A member is gone: all its names are freed.
    Evict {
        /// The peer.
        peer: PeerId,
    },
}

impl WriteOp {
    /// The peer that it is about.
    pub(crate) fn peer(&self) -> PeerId {
        match self {
            Self::Join { peer, .. }
            | Self::Again { peer, .. }
            | Self::Announce { peer, .. }
            | Self::Revoke { peer, .. }
            | Self::Overtaken { peer, .. }
            | Self::Evict { peer } => *peer,
            Self::InSession { change, .. } => change.peer(),
        }
    }

    /// Entries that it is about.
    pub(crate) fn weight(&self, slices: Slices) -> usize {
        match self {
            Self::Announce { offers, .. } => offers.len(),
            Self::Revoke { names, .. } => names.len(),
            Self::Overtaken { names, .. } => names.len(),
            Self::InSession { change, .. } => change.weight(slices),
            Self::Again { .. } => slices.again,
            Self::Join { .. } | Self::Evict { .. } => 1,
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// To a join.
    Joined {
        /// The new session.
        session: Session,
        /// Whether the index holds exactly the peer's share.
        unchanged: bool,
        /// Whether the peer left with exactly this share, and is to ask for it.
        again: bool,
        /// Whether attributes of some of its names, or of those that it left with, are not known.
        bare: bool,
        /// What the peer holds.
        holding: Holding,
    },
    /// To a part of what a peer left with.
    Returned {
        /// What became of it.
        returned: Returned,
        /// What the peer holds.
        holding: Holding,
    },
    /// To an announce.
    Announced {
        /// A verdict for each offer.
        verdicts: Vec<Verdict>,
        /// What the peer holds.
        holding: Holding,
        /// Peers that hold names by what the mirror says, and may be no members.
        adopted: BTreeMap<PeerId, Holding>,
    },
    /// To a revoke, and, without outcomes, to names that were overtaken.
    Revoked {
        /// An outcome for each name.
        outcomes: Vec<RevokeOutcome>,
        /// What the peer holds.
        holding: Holding,
    },
    /// To an eviction.
    Evicted {
        /// Names that were freed.
        names: u64,
    },
}
