//! Why a request of the index protocol is refused.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_REASON_BYTES;

/// Why a request was refused. Programs go by the code; the reason is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of refusal this is.
    #[serde(rename = "c")]
    pub code: RefusalCode,
    /// One sentence, at most [`MAX_REASON_BYTES`] bytes.
    #[serde(rename = "r")]
    pub reason: String,
}

impl Refusal {
    /// A refusal; a longer reason is cut.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Self { code, reason }
    }
}

/// The kinds of refusal, as numbers that never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u16", into = "u16")]
pub enum RefusalCode {
    /// 1: the bytes are no message, or over a limit.
    Malformed,
    /// 2: a request of a kind that this node does not know.
    Unsupported,
    /// 3: the node is not the master.
    NotMaster,
    /// 4: the peer means another network.
    WrongNetwork,
    /// 5: the peer is not a member, or its session is over: join again.
    NotJoined,
    /// 6: the change is older than one that was already made.
    Stale,
    /// 7: the name breaks a rule.
    InvalidName,
    /// 8: no such name or peer.
    NotFound,
    /// 9: a quota is used up; the reason says which.
    Quota,
    /// 10: too much to do at the moment: ask again later.
    Busy,
    /// 11: the index could not be written.
    Storage,
    /// 12: the query is no query.
    InvalidQuery,
    /// 14: what the peer says that it holds is not what the master granted to it: report again.
    Differs,
    /// 13: another run of this identity is a member, and answers.
    Twin,
    /// Any other number, from a newer node.
    Other(u16),
}

impl From<u16> for RefusalCode {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::Malformed,
            2 => Self::Unsupported,
            3 => Self::NotMaster,
            4 => Self::WrongNetwork,
            5 => Self::NotJoined,
            6 => Self::Stale,
            7 => Self::InvalidName,
            8 => Self::NotFound,
            9 => Self::Quota,
            10 => Self::Busy,
            11 => Self::Storage,
            12 => Self::InvalidQuery,
            14 => Self::Differs,
            13 => Self::Twin,
            other => Self::Other(other),
        }
    }
}

impl From<RefusalCode> for u16 {
    fn from(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Malformed => 1,
            RefusalCode::Unsupported => 2,
            RefusalCode::NotMaster => 3,
            RefusalCode::WrongNetwork => 4,
            RefusalCode::NotJoined => 5,
            RefusalCode::Stale => 6,
            RefusalCode::InvalidName => 7,
            RefusalCode::NotFound => 8,
            RefusalCode::Quota => 9,
            RefusalCode::Busy => 10,
            RefusalCode::Storage => 11,
            RefusalCode::InvalidQuery => 12,
            RefusalCode::Differs => 14,
            RefusalCode::Twin => 13,
            RefusalCode::Other(other) => other,
        }
    }
}
