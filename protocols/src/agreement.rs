//! How a peer and its master see that they agree about the peer's names, and find the names about which they do not.
//!
//! With each renewal of its lease a peer says what it holds, by count and digest. If the master counts otherwise, the
//! peer compares ranges of names with it, in order. A range that differs is divided until its names can be listed. So
//! one name among a million costs a few messages of about a kilobyte. (Range-based set reconciliation: Meyer, 2023,
//! arXiv 2212.13567.)

use serde::{Deserialize, Serialize};

use crate::digest::ShareSum;
use crate::index::Session;

/// Renew the lease, and see whether both hold the same names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renew {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
    /// What the peer believes to be granted.
    #[serde(rename = "h")]
    pub held: ShareSum,
    /// How many names differed and were put right since the last renewal that found both to agree; for the master's log.
    #[serde(rename = "x", default, skip_serializing_if = "is_zero")]
    pub repaired: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// Whether the master holds just what the peer says.
    #[serde(rename = "a")]
    pub agreed: bool,
    /// When the master would have the next renewal, in milliseconds from now: the more members, the later.
    #[serde(rename = "w")]
    pub wait_ms: u64,
    /// What people should know about this node's membership.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// Compare ranges of the peer's names, at most [`crate::limits::MAX_COMPARED_RANGES`], in order and apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
    /// The ranges.
    #[serde(rename = "r")]
    pub ranges: Vec<Range>,
}

/// Names from one on to before another, in the order of their bytes, and what they come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first name, or any text before it.
    #[serde(rename = "f")]
    pub from: String,
    /// The first text that does not belong to the range; `None` for the end of all names.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What the asker holds in the range.
    #[serde(rename = "h")]
    pub held: ShareSum,
}

/// What a comparison of one range came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compared {
    /// Both hold the same.
    #[serde(rename = "same")]
    Same,
    /// They do not, and there are many names: 2 to [`crate::limits::MAX_RANGE_PARTS`] parts of the range, in order.
    #[serde(rename = "split")]
    Split(Vec<Part>),
    /// They do not, and these are all names that the master holds, at most [`crate::limits::MAX_RANGE_NAMES`].
    #[serde(rename = "names")]
    Names(Vec<Mark>),
}

/// A part of a range: to where the next begins, or the range ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where it begins: the first part where the range does.
    #[serde(rename = "f")]
    pub from: String,
    /// What the master holds in it.
    #[serde(rename = "h")]
    pub held: ShareSum,
}

/// A name that the master holds for the peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The name.
    #[serde(rename = "n")]
    pub name: String,
    /// What it stands for: [`crate::index::ShareDigest::mark`] of the entry.
    #[serde(rename = "m")]
    pub mark: u64,
}
