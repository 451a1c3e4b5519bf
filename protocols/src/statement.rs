//! Entries, and the signed statements about them that anyone can check, wherever they were read.

use libp2p_identity::{Keypair, PeerId, PublicKey, SigningError};
use serde::{Deserialize, Serialize};

use crate::content::ContentId;
use crate::name::{Name, Network};

/// How long a certificate is valid, in milliseconds (7 days): long enough for a mirror to outlive a
/// master's bad weekend, short enough that a lost key does not speak for ever.
pub const CERTIFICATE_LIFETIME_MS: u64 = 7 * 24 * 3600 * 1000;
/// How far a reader's clock may be behind the signer's, in milliseconds (1 hour).
pub const CLOCK_TOLERANCE_MS: u64 = 3600 * 1000;
/// Domain of certificate signatures: a signature made for anything else is none here.
const CERTIFICATE_DOMAIN: &[u8] = b"swarmdex certificate 1\0";

/// Version of the statements about names: of two statements the one with the higher version holds.
///
/// A hybrid logical clock: milliseconds since 1970 times 1,024, and at least one more than the last.
/// Below 2^53 until the year 2248, so that JSON readers keep every digit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version that follows `self` when the wall clock shows `unix_ms`; rises even if the clock does not.
    pub fn next(self, unix_ms: u64) -> Self {
        Self(self.0.saturating_add(1).max(unix_ms.saturating_mul(1024)))
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
}

/// What a master adds to an entry to make it a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// When it was signed, in milliseconds since 1970.
    #[serde(rename = "i")]
    pub issued_ms: u64,
    /// When it ceases to be valid, in milliseconds since 1970.
    #[serde(rename = "x")]
    pub expires_ms: u64,
    /// Ed25519 signature of the master.
    #[serde(rename = "g", with = "serde_bytes")]
    pub signature: Vec<u8>,
}

/// An entry signed by the master: proof of ownership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The entry.
    #[serde(rename = "e")]
    pub entry: Entry,
    /// The master's seal on it.
    #[serde(rename = "z")]
    pub seal: Seal,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// Signed by another key, for another network, or altered.
    #[error("the signature is not the master's")]
    Signature,
    /// Its time is over.
    #[error("the certificate has expired")]
    Expired,
    /// It was issued in the future, or is valid for longer than any certificate may be.
    #[error("the certificate's dates are impossible")]
    Dates,
}

impl Certificate {
    /// Signs `entry` for `network` at `unix_ms`.
    pub fn sign(entry: Entry, network: &Network, master: &Keypair, unix_ms: u64) -> Result<Self, SigningError> {
        let expires_ms = unix_ms.saturating_add(CERTIFICATE_LIFETIME_MS);
        let signature = master.sign(&signed_bytes(&entry, network, unix_ms, expires_ms))?;
        Ok(Self { entry, seal: Seal { issued_ms: unix_ms, expires_ms, signature } })
    }

    /// Checks the certificate against the master's key, the network and the clock.
    pub fn verify(&self, network: &Network, master: &PublicKey, unix_ms: u64) -> Result<(), InvalidCertificate> {
        let Seal { issued_ms, expires_ms, signature } = &self.seal;
        let lifetime = expires_ms.checked_sub(*issued_ms).ok_or(InvalidCertificate::Dates)?;
        if lifetime > CERTIFICATE_LIFETIME_MS || *issued_ms > unix_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(InvalidCertificate::Dates);
        }
        if expires_ms.saturating_add(CLOCK_TOLERANCE_MS) < unix_ms {
            return Err(InvalidCertificate::Expired);
        }
        let bytes = signed_bytes(&self.entry, network, *issued_ms, *expires_ms);
        if master.verify(&bytes, signature) { Ok(()) } else { Err(InvalidCertificate::Signature) }
    }
}

/// The bytes that a certificate's signature covers: the domain, then every field, each text and
/// byte string behind its length as 4 bytes, every number as 8 bytes, all big-endian.
fn signed_bytes(entry: &Entry, network: &Network, issued_ms: u64, expires_ms: u64) -> Vec<u8> {
    let mut bytes = CERTIFICATE_DOMAIN.to_vec();
    let mut put = |field: &[u8]| {
        // Fields are names, ids and hashes, all bounded far below 4 GiB.
        bytes.extend_from_slice(&(field.len() as u32).to_be_bytes());
        bytes.extend_from_slice(field);
    };
    put(network.as_str().as_bytes());
    put(entry.name.as_str().as_bytes());
    put(entry.content.as_bytes());
    put(&entry.owner.to_bytes());
    for number in [entry.size, entry.version.0, issued_ms, expires_ms] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes
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
