//! How a peer that left in order gets its names back without a word about each of them.
//!
//! A master remembers with which share a peer left. If it comes back with just that, it asks for all of it, part by
//! part, and is told which names are another's by now. Seals follow: a peer counts its names as granted by their version,
//! and asks for what proves them when there is time.

use serde::{Deserialize, Serialize};

use crate::index::{Sequence, Session};
use crate::statement::{Seal, Version};

/// Have the next part of the names granted again that the peer left with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
    /// Number of this change.
    #[serde(rename = "q")]
    pub sequence: Sequence,
}

/// What became of a part of the names that a peer left with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// The version at which they are granted.
    #[serde(rename = "v")]
    pub version: Version,
    /// The last name of the part, in the order of their bytes; `None` if it goes to the end.
    #[serde(rename = "t", default)]
    pub through: Option<String>,
    /// Names of the part that are not granted so, in order: the peer is to offer each by itself; at most
    /// [`crate::limits::MAX_BATCH_ENTRIES`].
    #[serde(rename = "x")]
    pub except: Vec<String>,
}

/// Ask for the seals of the names that the master holds for the peer, from one on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seals {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
    /// The first name.
    #[serde(rename = "f")]
    pub from: String,
}

/// What makes a name and its version a certificate; at most [`crate::limits::MAX_BATCH_ENTRIES`] in one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The name.
    #[serde(rename = "n")]
    pub name: String,
    /// The version at which the master holds it.
    #[serde(rename = "v")]
    pub version: Version,
    /// The seal on name, version, and what the peer has under it.
    #[serde(rename = "z")]
    pub seal: Seal,
}
