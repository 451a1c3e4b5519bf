//! The fetch protocol: chunks of a content id from one holder.
//!
//! A response is a CBOR [`Header`] and then the raw bytes of the chunks, one after the other.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::content::{ContentId, Geometry, Proof};

/// Ask for a run of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which content.
    #[serde(rename = "c")]
    pub content: ContentId,
    /// Index of the first chunk.
    #[serde(rename = "f")]
    pub first: u64,
    /// Number of chunks, at least 1; all together at most [`crate::limits::MAX_FETCH_BODY`] bytes.
    #[serde(rename = "k")]
    pub count: u32,
}

impl Request {
    /// The bytes of the file that are asked for, or why they cannot be sent.
    pub fn range(&self, geometry: &Geometry) -> Result<Range<u64>, Refusal> {
        let end = self.first.checked_add(u64::from(self.count)).ok_or(Refusal::Range)?;
        if self.count == 0 || end > geometry.chunks() || u64::from(self.count) > geometry.chunks_per_response() {
            return Err(Refusal::Range);
        }
        Ok(geometry.offset(self.first)..geometry.offset(end).min(geometry.size()))
    }
}

/// What precedes the raw bytes of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Header {
    /// The chunks follow.
    #[serde(rename = "chunks")]
    Chunks {
        /// Number of raw bytes that follow, at most [`crate::limits::MAX_FETCH_BODY`].
        #[serde(rename = "b")]
        bytes: u32,
        /// The proof of each chunk, in order.
        #[serde(rename = "p")]
        proofs: Vec<Proof>,
    },
    /// Nothing follows.
    #[serde(rename = "refused")]
    Refused(Refusal),
}

/// Why chunks are not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "u16", into = "u16")]
pub enum Refusal {
    /// 1: this node does not have that content.
    #[error("it does not have that content")]
    NotFound,
    /// 2: the range begins or ends beyond the end of the content, is empty, or is too long for one response.
    #[error("the range is empty, too long or beyond the end")]
    Range,
    /// 3: the file changed on the holder's disk since it was hashed.
    #[error("the file changed on its disk")]
    Changed,
    /// 4: too many requests are waiting: ask again later.
    #[error("it is busy")]
    Busy,
    /// 5: the holder cannot read its file.
    #[error("it cannot read the file")]
    Storage,
    /// 6: the bytes of the request are no request.
    #[error("it did not understand the request")]
    Malformed,
    /// Any other number, from a newer node.
    #[error("it refused with code {0}")]
    Other(u16),
}

impl From<u16> for Refusal {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::NotFound,
            2 => Self::Range,
            3 => Self::Changed,
            4 => Self::Busy,
            5 => Self::Storage,
            6 => Self::Malformed,
            other => Self::Other(other),
        }
    }
}

impl From<Refusal> for u16 {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => 1,
            Refusal::Range => 2,
            Refusal::Changed => 3,
            Refusal::Busy => 4,
            Refusal::Storage => 5,
            Refusal::Malformed => 6,
            Refusal::Other(other) => other,
        }
    }
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What was said.
    pub header: Header,
    /// The raw bytes, exactly as many as the header says.
    pub body: Vec<u8>,
}

impl Response {
    /// A response that refuses.
    pub fn refused(refusal: Refusal) -> Self {
        Self { header: Header::Refused(refusal), body: Vec::new() }
    }
}
