//! Claims: what an owner says of a name while no master can be reached.

use libp2p_identity::{Keypair, SigningError};
use serde::{Deserialize, Serialize};

use super::signed::entry_body;
use super::{CLAIM_LIFETIME_MS, CLOCK_TOLERANCE_MS, Entry, Invalid, Seal, Version, key_of};
use crate::name::Network;

const CLAIM_DOMAIN: &[u8] = b"swarmdex claim 1\0";
const WITHDRAWAL_DOMAIN: &[u8] = b"swarmdex claim withdrawn 1\0";

/// An entry signed by its owner alone: provisional.
///
/// Its version is the owner's own, no later than its clock, and orders the claims of one owner among each other.
/// What orders it among the master's statements is its base: the claim is over as soon as there is a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The entry.
    #[serde(rename = "e")]
    pub entry: Entry,
    /// Version of the latest statement of the master about the name that the owner knew; 0 for none.
    #[serde(rename = "b")]
    pub base: Version,
    /// Whether the owner takes its earlier claims back.
    #[serde(rename = "w", default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// The owner's seal on it.
    #[serde(rename = "z")]
    pub seal: Seal,
}

impl Claim {
    /// Signs a claim, or its withdrawal, by the entry's owner at `unix_ms` milliseconds since 1970.
    ///
    /// # Errors
    /// [`SigningError`] of a key that cannot sign; an Ed25519 key always can.
    pub fn sign(
        entry: Entry,
        base: Version,
        withdrawn: bool,
        network: &Network,
        owner: &Keypair,
        unix_ms: u64,
    ) -> Result<Self, SigningError> {
        let body = entry_body(domain(withdrawn), &entry, network).version(base);
        let seal = Seal::new(body, owner, unix_ms, CLAIM_LIFETIME_MS)?;
        Ok(Self { entry, base, withdrawn, seal })
    }

    /// Checks the claim against the owner's key, the network and the clock, which is in milliseconds since 1970.
    ///
    /// # Errors
    /// - [`Invalid::Signature`]: the owner did not sign it so, or its peer id is no Ed25519 key.
    /// - [`Invalid::Expired`]: it is over by more than [`CLOCK_TOLERANCE_MS`].
    /// - [`Invalid::Dates`]: it, or its version, is of the future, or it is valid for longer than [`CLAIM_LIFETIME_MS`].
    pub fn verify(&self, network: &Network, unix_ms: u64) -> Result<(), Invalid> {
        self.seal.check_dates(unix_ms, CLAIM_LIFETIME_MS)?;
        if self.entry.version.unix_ms() > unix_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(Invalid::Dates);
        }
        let owner = key_of(&self.entry.owner).ok_or(Invalid::Signature)?;
        let body = entry_body(domain(self.withdrawn), &self.entry, network).version(self.base);
        self.seal.check_signature(body, &owner)
    }
}

fn domain(withdrawn: bool) -> &'static [u8] {
    if withdrawn { WITHDRAWAL_DOMAIN } else { CLAIM_DOMAIN }
}
