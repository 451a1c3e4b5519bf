//! Claims: what an owner says of a name while no master can be reached.

use libp2p_identity::{Keypair, SigningError};
use serde::{Deserialize, Serialize};

use super::signed::entry_body;
use super::{CLAIM_LIFETIME_MS, CLOCK_TOLERANCE_MS, Entry, Invalid, Seal, key_of};
use crate::name::Network;

const CLAIM_DOMAIN: &[u8] = b"swarmdex claim 1\0";
const WITHDRAWAL_DOMAIN: &[u8] = b"swarmdex claim withdrawn 1\0";

/// An entry signed by its owner alone: provisional.
///
/// Its version is the owner's own: above every statement about the name that the owner has seen, and no later
/// than its clock. It orders the claims of one owner among each other, and tells a claim that was made before a
/// name was freed from one that was made after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The entry.
    #[serde(rename = "e")]
    pub entry: Entry,
    /// Whether the owner takes its earlier claims back.
    #[serde(rename = "w", default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
    /// The owner's seal on it.
    #[serde(rename = "z")]
    pub seal: Seal,
}

impl Claim {
    /// Signs a claim, or its withdrawal, by the entry's owner at `unix_ms`.
    pub fn sign(
        entry: Entry,
        withdrawn: bool,
        network: &Network,
        owner: &Keypair,
        unix_ms: u64,
    ) -> Result<Self, SigningError> {
        let seal = Seal::new(entry_body(domain(withdrawn), &entry, network), owner, unix_ms, CLAIM_LIFETIME_MS)?;
        Ok(Self { entry, withdrawn, seal })
    }

    /// Checks the claim against the owner's key, the network and the clock.
    pub fn verify(&self, network: &Network, unix_ms: u64) -> Result<(), Invalid> {
        self.seal.check_dates(unix_ms, CLAIM_LIFETIME_MS)?;
        if self.entry.version.unix_ms() > unix_ms.saturating_add(CLOCK_TOLERANCE_MS) {
            return Err(Invalid::Dates);
        }
        let owner = key_of(&self.entry.owner).ok_or(Invalid::Signature)?;
        self.seal.check_signature(entry_body(domain(self.withdrawn), &self.entry, network), &owner)
    }
}

fn domain(withdrawn: bool) -> &'static [u8] {
    if withdrawn { WITHDRAWAL_DOMAIN } else { CLAIM_DOMAIN }
}
