//! Statements that the master stands behind: certificates, tombstones, and revocations of certificates.

use libp2p_identity::{Keypair, PeerId, PublicKey, SigningError};
use serde::{Deserialize, Serialize};

use super::seal::Body;
use super::{CERTIFICATE_LIFETIME_MS, CLOCK_TOLERANCE_MS, Entry, Invalid, Seal, Version, key_of};
use crate::name::{Name, Network};

const CERTIFICATE_DOMAIN: &[u8] = b"swarmdex certificate 1\0";
const TOMBSTONE_DOMAIN: &[u8] = b"swarmdex tombstone 1\0";
const REVOCATION_DOMAIN: &[u8] = b"swarmdex revocation 1\0";
/// How long tombstones and revocations are valid: until every certificate that they end has expired everywhere.
const END_LIFETIME_MS: u64 = CERTIFICATE_LIFETIME_MS + 2 * CLOCK_TOLERANCE_MS;

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

impl Certificate {
    /// Signs `entry` for `network` at `unix_ms` milliseconds since 1970. It is valid for [`CERTIFICATE_LIFETIME_MS`].
    ///
    /// # Errors
    /// [`SigningError`] of a key that cannot sign; an Ed25519 key always can.
    pub fn sign(entry: Entry, network: &Network, master: &Keypair, unix_ms: u64) -> Result<Self, SigningError> {
        let seal =
            Seal::new(entry_body(CERTIFICATE_DOMAIN, &entry, network), master, unix_ms, CERTIFICATE_LIFETIME_MS)?;
        Ok(Self { entry, seal })
    }

    /// Checks the certificate against the master's key, the network and the clock, which is in milliseconds since 1970.
    ///
    /// # Errors
    /// - [`Invalid::Signature`]: another key signed it, or something else was signed.
    /// - [`Invalid::Expired`]: it is over by more than [`CLOCK_TOLERANCE_MS`].
    /// - [`Invalid::Dates`]: it was issued in the future, or is valid for too long.
    pub fn verify(&self, network: &Network, master: &PublicKey, unix_ms: u64) -> Result<(), Invalid> {
        self.seal.check_dates(unix_ms, CERTIFICATE_LIFETIME_MS)?;
        self.verify_signature(network, master)
    }

    /// Checks the signature alone: what was granted once, even if its time is over.
    ///
    /// # Errors
    /// [`Invalid::Signature`].
    pub fn verify_signature(&self, network: &Network, master: &PublicKey) -> Result<(), Invalid> {
        self.seal.check_signature(entry_body(CERTIFICATE_DOMAIN, &self.entry, network), master)
    }
}

/// The signed bytes of an entry.
pub(super) fn entry_body(domain: &[u8], entry: &Entry, network: &Network) -> Body {
    Body::new(domain, network)
        .field(entry.name.as_str().as_bytes())
        .field(entry.content.as_bytes())
        .field(&entry.owner.to_bytes())
        .number(entry.size)
        .version(entry.version)
}

/// The master's word that a name was given up: every certificate of it up to `version` is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The name.
    #[serde(rename = "n")]
    pub name: Name,
    /// Who held it.
    #[serde(rename = "o")]
    pub owner: PeerId,
    /// Version of this statement.
    #[serde(rename = "v")]
    pub version: Version,
    /// The master's seal on it.
    #[serde(rename = "z")]
    pub seal: Seal,
}

impl Tombstone {
    /// Signs a tombstone for `network` at `unix_ms` milliseconds since 1970.
    ///
    /// # Errors
    /// [`SigningError`] of a key that cannot sign; an Ed25519 key always can.
    pub fn sign(
        name: Name,
        owner: PeerId,
        version: Version,
        network: &Network,
        master: &Keypair,
        unix_ms: u64,
    ) -> Result<Self, SigningError> {
        let body = Self::body(&name, &owner, version, network);
        let seal = Seal::new(body, master, unix_ms, END_LIFETIME_MS)?;
        Ok(Self { name, owner, version, seal })
    }

    fn body(name: &Name, owner: &PeerId, version: Version, network: &Network) -> Body {
        Body::new(TOMBSTONE_DOMAIN, network).field(name.as_str().as_bytes()).field(&owner.to_bytes()).version(version)
    }

    /// Checks the tombstone against the master's key, the network and the clock, which is in milliseconds since 1970.
    ///
    /// # Errors
    /// - [`Invalid::Signature`]: another key signed it, or something else was signed.
    /// - [`Invalid::Expired`]: it is over by more than [`CLOCK_TOLERANCE_MS`].
    /// - [`Invalid::Dates`]: it was issued in the future, or is valid for too long.
    pub fn verify(&self, network: &Network, master: &PublicKey, unix_ms: u64) -> Result<(), Invalid> {
        self.seal.check_dates(unix_ms, END_LIFETIME_MS)?;
        self.seal.check_signature(Self::body(&self.name, &self.owner, self.version, network), master)
    }
}

/// An owner's word that it gave up what a certificate granted it. It needs no master, and ends no more than
/// that certificate and earlier ones: its version is the certificate's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// What is given up.
    #[serde(rename = "c")]
    pub certificate: Certificate,
    /// The owner's seal on it.
    #[serde(rename = "z")]
    pub seal: Seal,
}

impl Revocation {
    /// Signs the revocation of `certificate` by its owner at `unix_ms` milliseconds since 1970.
    ///
    /// # Errors
    /// [`SigningError`] of a key that cannot sign; an Ed25519 key always can.
    pub fn sign(
        mut certificate: Certificate,
        network: &Network,
        owner: &Keypair,
        unix_ms: u64,
    ) -> Result<Self, SigningError> {
        // Of no use in what is over.
        certificate.entry.attributes = None;
        let seal = Seal::new(Self::body(&certificate, network), owner, unix_ms, END_LIFETIME_MS)?;
        Ok(Self { certificate, seal })
    }

    fn body(certificate: &Certificate, network: &Network) -> Body {
        Body::new(REVOCATION_DOMAIN, network)
            .field(certificate.entry.name.as_str().as_bytes())
            .version(certificate.entry.version)
    }

    /// Checks both signatures and the dates at `unix_ms` milliseconds since 1970; the certificate itself may have expired.
    ///
    /// # Errors
    /// - [`Invalid::Signature`]: the owner did not sign it, or the master did not sign what it ends.
    /// - [`Invalid::Expired`]: it is over by more than [`CLOCK_TOLERANCE_MS`].
    /// - [`Invalid::Dates`]: it or the certificate was issued in the future, or is valid for too long.
    pub fn verify(&self, network: &Network, master: &PublicKey, unix_ms: u64) -> Result<(), Invalid> {
        self.seal.check_dates(unix_ms, END_LIFETIME_MS)?;
        self.certificate.seal.check_issue(unix_ms, CERTIFICATE_LIFETIME_MS)?;
        let owner = key_of(&self.certificate.entry.owner).ok_or(Invalid::Signature)?;
        self.seal.check_signature(Self::body(&self.certificate, network), &owner)?;
        self.certificate.verify_signature(network, master)
    }
}
