//! Dates and signature of a statement.

use libp2p_identity::{Keypair, PublicKey, SigningError};
use serde::{Deserialize, Serialize};

use super::{CLOCK_TOLERANCE_MS, Version};
use crate::name::Network;

/// What makes a statement binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// When it was signed, in milliseconds since 1970.
    #[serde(rename = "i")]
    pub issued_ms: u64,
    /// When it ceases to be valid, in milliseconds since 1970.
    #[serde(rename = "x")]
    pub expires_ms: u64,
    /// Ed25519 signature.
    #[serde(rename = "g", with = "serde_bytes")]
    pub signature: Vec<u8>,
}

/// Why a statement proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Signed by another key, for another network, or altered.
    #[error("the signature is not that of the one who has to sign")]
    Signature,
    /// Its time is over.
    #[error("the statement has expired")]
    Expired,
    /// It was issued in the future, or is valid for longer than it may be.
    #[error("the statement's dates are impossible")]
    Dates,
    /// Its parts contradict each other.
    #[error("the statement contradicts itself")]
    Contradiction,
}

impl Seal {
    /// Seals `body` from `unix_ms` on for `lifetime_ms`.
    pub(super) fn new(body: Body, key: &Keypair, unix_ms: u64, lifetime_ms: u64) -> Result<Self, SigningError> {
        let expires_ms = unix_ms.saturating_add(lifetime_ms);
        let signature = key.sign(&body.with_dates(unix_ms, expires_ms))?;
        Ok(Self { issued_ms: unix_ms, expires_ms, signature })
    }

    /// Whether the dates are possible, and not over.
    pub(super) fn check_dates(&self, unix_ms: u64, longest_ms: u64) -> Result<(), Invalid> {
        self.check_issue(unix_ms, longest_ms)?;
        if self.expires_ms.saturating_add(CLOCK_TOLERANCE_MS) < unix_ms {
            return Err(Invalid::Expired);
        }
        Ok(())
    }

    /// Whether the dates are possible.
    pub(super) fn check_issue(&self, unix_ms: u64, longest_ms: u64) -> Result<(), Invalid> {
        let lifetime = self.expires_ms.checked_sub(self.issued_ms).ok_or(Invalid::Dates)?;
        if lifetime > longest_ms || self.issued_ms > unix_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(Invalid::Dates);
        }
        Ok(())
    }

    /// Whether `key` signed `body` with these dates.
    pub(super) fn check_signature(&self, body: Body, key: &PublicKey) -> Result<(), Invalid> {
        let bytes = body.with_dates(self.issued_ms, self.expires_ms);
        if key.verify(&bytes, &self.signature) { Ok(()) } else { Err(Invalid::Signature) }
    }
}

/// The bytes that a signature covers. They begin with a domain, so that a signature made for anything else is none
/// here. Then comes every field: each text and byte string behind its length as 4 bytes, every number as 8 bytes, all
/// big-endian. The dates come last.
pub(super) struct Body(Vec<u8>);

impl Body {
    pub(super) fn new(domain: &[u8], network: &Network) -> Self {
        Self(domain.to_vec()).field(network.as_str().as_bytes())
    }

    pub(super) fn field(mut self, field: &[u8]) -> Self {
        // Fields are names, ids and hashes, all bounded far below 4 GiB.
        self.0.extend_from_slice(&(field.len() as u32).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn version(self, version: Version) -> Self {
        self.number(version.0)
    }

    /// All of it: what is signed without dates.
    pub(super) fn without_dates(self) -> Vec<u8> {
        self.0
    }

    fn with_dates(self, issued_ms: u64, expires_ms: u64) -> Vec<u8> {
        self.number(issued_ms).number(expires_ms).0
    }
}
