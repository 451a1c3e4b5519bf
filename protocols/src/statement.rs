//! Entries, and the signed statements about them that anyone can check, wherever they were read.
//!
//! | statement | signed by | says |
//! | --- | --- | --- |
//! | [`Certificate`] | master | the name stands for this entry |
//! | [`Tombstone`] | master | every certificate of the name up to this version is over |
//! | [`Revocation`] | owner | this certificate of mine is over |
//! | [`Claim`] | owner | while no master can be reached: I would have this name |
//!
//! Versions come from the master alone, also those of revocations, which carry the certificate that they end. So the
//! first three have one total order, and whoever holds them all agrees on the latest. A claim is provisional and proves
//! only who made it.

mod attributes;
mod claim;
mod seal;
mod signed;

use std::fmt;

pub use attributes::{Attributes, MAX_MODIFIED_NS, MIN_MODIFIED_NS, SignedAttributes, Subject};
pub use claim::Claim;
use libp2p_identity::{PeerId, PublicKey};
pub use seal::{Invalid, Seal};
use serde::{Deserialize, Serialize};
pub use signed::{Certificate, Revocation, Tombstone};

use crate::content::ContentId;
use crate::digest::ShareDigest;
use crate::name::{Name, Network};

/// How long a certificate is valid, in milliseconds (7 days): long enough for a mirror to outlive a
/// master's bad weekend, short enough that a lost key does not speak for ever.
pub const CERTIFICATE_LIFETIME_MS: u64 = 7 * 24 * 3600 * 1000;
/// How far a reader's clock may be behind the signer's, in milliseconds (1 hour).
pub const CLOCK_TOLERANCE_MS: u64 = 3600 * 1000;
/// How long a claim is valid unless its owner renews it, in milliseconds (1 hour): a name that nobody stands
/// for any more is soon free again.
pub const CLAIM_LIFETIME_MS: u64 = 3600 * 1000;

/// Ways to give versions that have none in common. Each still has 32 a millisecond, more than an index grants.
pub const RUNS: u64 = 32;

/// Version of the statements about names: of two statements the one with the higher version holds.
///
/// A hybrid logical clock: milliseconds since 1970 times 1,024, and at least one more than the last.
/// Below 2^53 until the year 2248, so that JSON readers keep every digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version that follows `self` when the wall clock shows `unix_ms` milliseconds since 1970; rises even if the clock does not.
    pub fn next(self, unix_ms: u64) -> Self {
        Self(self.0.saturating_add(1).max(unix_ms.saturating_mul(1024)))
    }

    /// The next version as [`Version::next`] gives it, in one of [`RUNS`] ways: no two of them ever give the same. So
    /// two runs of a master that do not know of each other seldom do.
    pub fn next_of(self, run: u64, unix_ms: u64) -> Self {
        let Self(next) = self.next(unix_ms);
        Self(next.saturating_add((run % RUNS + RUNS - next % RUNS) % RUNS))
    }

    /// A version above `self` by a random gap of up to four minutes: where a master goes on after versions that it does
    /// not remember having given. It may have given more of them than it learns of, each just above the last. A gap of
    /// 2^28 makes it as good as certain that none of those is given again, to somebody else.
    pub fn leap(self, random: u64) -> Self {
        Self(self.0.saturating_add(1 + random % (1 << 28)))
    }

    /// The wall clock that the version was made at or before, in milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        self.0 / 1024
    }
}

/// What the index says of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    #[serde(rename = "n")]
    pub name: Name,
    /// Content id of the file.
    #[serde(rename = "c")]
    pub content: ContentId,
    /// Size of the file in bytes.
    #[serde(rename = "s")]
    pub size: u64,
    /// The peer that holds the name.
    #[serde(rename = "o")]
    pub owner: PeerId,
    /// Version of this statement.
    #[serde(rename = "v")]
    pub version: Version,
    /// What the owner says of the file beside its bytes; not checked, see [`Entry::attributes`]. None from builds that do not
    /// know of it.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Box<SignedAttributes>>,
}

impl Entry {
    /// The digest by which two nodes see that they hold this entry alike.
    pub fn digest(&self) -> ShareDigest {
        ShareDigest::of(self.name.as_str(), &self.content, self.size, self.version)
    }
}

/// Whom to believe: the master of one network.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The network.
    pub network: Network,
    /// The master's key.
    pub master: PublicKey,
}

impl Authority {
    /// The master with this peer id; `None` for ids that are no Ed25519 key.
    pub fn new(network: Network, master: &PeerId) -> Option<Self> {
        key_of(master).map(|master| Self { network, master })
    }
}

/// A signed statement about one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// The name stands for an entry.
    #[serde(rename = "cert")]
    Certificate(Certificate),
    /// The name was freed by the master.
    #[serde(rename = "tomb")]
    Tombstone(Tombstone),
    /// The name was given up by its owner.
    #[serde(rename = "revoked")]
    Revocation(Revocation),
    /// The name is claimed.
    #[serde(rename = "claim")]
    Claim(Claim),
}

/// Order of the statements that the master's signature stands behind; of equal versions what ends a
/// certificate is above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(pub Version, bool);

impl Rank {
    /// That of a certificate at this version.
    pub fn certificate(version: Version) -> Self {
        Self(version, false)
    }
}

impl Statement {
    /// The name that it is about.
    pub fn name(&self) -> &Name {
        match self {
            Self::Certificate(certificate) => &certificate.entry.name,
            Self::Tombstone(tombstone) => &tombstone.name,
            Self::Revocation(revocation) => &revocation.certificate.entry.name,
            Self::Claim(claim) => &claim.entry.name,
        }
    }

    /// Who holds, held or claims the name.
    pub fn owner(&self) -> &PeerId {
        match self {
            Self::Certificate(certificate) => &certificate.entry.owner,
            Self::Tombstone(tombstone) => &tombstone.owner,
            Self::Revocation(revocation) => &revocation.certificate.entry.owner,
            Self::Claim(claim) => &claim.entry.owner,
        }
    }

    /// Its version.
    pub fn version(&self) -> Version {
        match self {
            Self::Certificate(certificate) => certificate.entry.version,
            Self::Tombstone(tombstone) => tombstone.version,
            Self::Revocation(revocation) => revocation.certificate.entry.version,
            Self::Claim(claim) => claim.entry.version,
        }
    }

    /// When it ceases to be valid, in milliseconds since 1970.
    pub fn expires_ms(&self) -> u64 {
        match self {
            Self::Certificate(certificate) => certificate.seal.expires_ms,
            Self::Tombstone(tombstone) => tombstone.seal.expires_ms,
            Self::Revocation(revocation) => revocation.seal.expires_ms,
            Self::Claim(claim) => claim.seal.expires_ms,
        }
    }

    /// Its place among the statements that the master stands behind; `None` for a claim.
    pub fn rank(&self) -> Option<Rank> {
        match self {
            Self::Certificate(certificate) => Some(Rank(certificate.entry.version, false)),
            Self::Tombstone(tombstone) => Some(Rank(tombstone.version, true)),
            Self::Revocation(revocation) => Some(Rank(revocation.certificate.entry.version, true)),
            Self::Claim(_) => None,
        }
    }

    /// The entry that it is about, if there is one that stands.
    fn entry_mut(&mut self) -> Option<&mut Entry> {
        match self {
            Self::Certificate(certificate) => Some(&mut certificate.entry),
            Self::Claim(claim) => Some(&mut claim.entry),
            Self::Tombstone(_) | Self::Revocation(_) => None,
        }
    }

    /// Checks signatures, network and dates, and takes out attributes that are not the owner's: what is stored and passed on
    /// has been through this. The time is in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Invalid`], as the kind of statement has it: [`Certificate::verify`], [`Tombstone::verify`], [`Revocation::verify`],
    /// [`Claim::verify`].
    pub fn check(&mut self, authority: &Authority, unix_ms: u64) -> Result<(), Invalid> {
        self.verify(authority, unix_ms)?;
        if let Some(entry) = self.entry_mut() {
            entry.drop_false_attributes(&authority.network);
        }
        Ok(())
    }

    /// Takes over what the same statement has elsewhere and this one has not.
    pub(crate) fn complete_with(&mut self, mut other: Self) {
        if let (Some(entry), Some(other)) = (self.entry_mut(), other.entry_mut()) {
            entry.complete_with(other);
        }
    }

    /// Checks signatures, network and dates; attributes are left as they are. The time is in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Invalid`] as [`Statement::check`].
    pub fn verify(&self, authority: &Authority, unix_ms: u64) -> Result<(), Invalid> {
        match self {
            Self::Certificate(certificate) => certificate.verify(&authority.network, &authority.master, unix_ms),
            Self::Tombstone(tombstone) => tombstone.verify(&authority.network, &authority.master, unix_ms),
            Self::Revocation(revocation) => revocation.verify(&authority.network, &authority.master, unix_ms),
            Self::Claim(claim) => claim.verify(&authority.network, unix_ms),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Certificate(_) => "certificate",
            Self::Tombstone(_) => "tombstone",
            Self::Revocation(_) => "revocation",
            Self::Claim(_) => "claim",
        };
        write!(f, "{kind} of {} at {}", self.owner(), self.version().0)
    }
}

/// The public key that a peer id contains; `None` for keys too long to be contained, which are no
/// Ed25519 keys and sign nothing here.
pub fn key_of(peer: &PeerId) -> Option<PublicKey> {
    /// Multihash code of data that stands for itself.
    const IDENTITY: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    PublicKey::try_decode_protobuf(hash.digest()).ok()
}
