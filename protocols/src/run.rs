//! What tells two nodes with one identity apart: the run of the process, and a fingerprint of the machine.

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::content::ContentId;
use crate::statement::Version;

/// Key derivation context of fingerprints; it never changes.
const MACHINE_CONTEXT: &str = "swarmdex machine fingerprint 1";
/// What comes before the run in the agent version of identify.
const RUN_MARK: &str = "run/";

/// A random number that a process draws once, when it starts. Two nodes with one identity have two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Run(pub u64);

impl Run {
    /// The run as a word of an agent version: `run/` and 16 hexadecimal digits.
    pub fn word(self) -> String {
        format!("{RUN_MARK}{:016x}", self.0)
    }

    /// The run that an agent version names; `None` if it names none.
    pub fn of_agent(agent: &str) -> Option<Self> {
        let mut words = agent.split(' ');
        let digits = words.find_map(|word| word.strip_prefix(RUN_MARK))?;
        let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16).ok().filter(|_| plain).map(Self)
    }
}

/// Fingerprint of the machine that a node runs on. Equal for one machine and one peer id; says nothing of the
/// machine to whoever does not know its id, and differs between the nodes of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// BLAKE3 in its key derivation mode over the peer id's bytes and then the machine's id.
    pub fn of(machine_id: &str, peer: &PeerId) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(MACHINE_CONTEXT);
        hasher.update(&peer.to_bytes());
        hasher.update(machine_id.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The fingerprint with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ContentId::from_bytes(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ContentId::deserialize(deserializer).map(|id| Self(*id.as_bytes()))
    }
}

/// Which master a node follows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Followed {
    /// The master; `None` if the node knows none yet.
    #[serde(rename = "m", default)]
    pub master: Option<PeerId>,
    /// Where that master listened when the node last heard of it; at most [`crate::limits::MAX_ADDRESSES`].
    #[serde(rename = "a", default)]
    pub addresses: Vec<Multiaddr>,
    /// If the node is that master: how it stands with its index. Nodes of before do not say.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub reign: Option<Reign>,
}

/// What a master says of its run and its index: two with one key find out by it whose index is the older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// The run.
    #[serde(rename = "r")]
    pub run: Run,
    /// For how long it runs, in milliseconds.
    #[serde(rename = "u")]
    pub age_ms: u64,
    /// The last version that the index had given when the run began.
    #[serde(rename = "f")]
    pub first: Version,
    /// The last version that it has given.
    #[serde(rename = "l")]
    pub last: Version,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_is_read_back_from_an_agent_version_and_nonsense_is_none() {
        let run = Run(0x1f);
        assert_eq!(Run::of_agent(&format!("swarmdex/0.1.0 {} (peer)", run.word())), Some(run));
        for agent in ["swarmdex/0.1.0 (peer)", "run/", "run/1f", "run/+00000000000001f", "run/00000000000000zz x", ""] {
            assert_eq!(Run::of_agent(agent), None, "{agent}");
        }
    }

    #[test]
    fn a_fingerprint_differs_by_machine_and_by_peer() {
        let (a, b) = (PeerId::random(), PeerId::random());
        assert_eq!(Fingerprint::of("one", &a), Fingerprint::of("one", &a));
        assert_ne!(Fingerprint::of("one", &a), Fingerprint::of("two", &a));
        assert_ne!(Fingerprint::of("one", &a), Fingerprint::of("one", &b));
    }
}
