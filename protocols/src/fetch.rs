//! The fetch protocol: chunks of a content id from one holder.
//!
//! A response is a CBOR [`Header`] and then the raw bytes of the chunks, one after the other.

use std::ops::Range;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::content::{ContentId, Geometry, Proof};
use crate::limits::MAX_ANY_CHUNKS;

/// What is asked of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchRequest {
    /// A run of chunks.
    #[serde(rename = "chunks")]
    Chunks(Want),
    /// A chunk, or another one that the asker lacks: the holder sends the one that it has sent least.
    #[serde(rename = "any")]
    Any(AnyOf),
    /// Which chunks it has, and who else has some.
    #[serde(rename = "have")]
    Have(Have),
    /// Whole contents of one chunk each: at most [`crate::limits::MAX_FETCH_FILES`].
    #[serde(rename = "files")]
    Files(Vec<ContentId>),
    /// A run that was asked for before is not wanted any more.
    #[serde(rename = "cancel")]
    Cancel(ChunkRun),
    /// What came for a run is not part of the content: the holder may want to look whether its file is still that.
    #[serde(rename = "wrong")]
    Wrong(ChunkRun),
}

/// A run of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkRun {
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

/// A request for a run of chunks.
// Not a `ChunkRun` and a field more by serde's `flatten`: that writes maps of unknown length, which are other bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Which content.
    #[serde(rename = "c")]
    pub content: ContentId,
    /// Index of the first chunk.
    #[serde(rename = "f")]
    pub first: u64,
    /// Number of chunks, as in [`ChunkRun::count`].
    #[serde(rename = "k")]
    pub count: u32,
    /// Which chunks the asker has, so that it need not be asked: a [`crate::ChunkSet`] of at most
    /// [`crate::limits::MAX_HAVE_ALONG`] bytes, or nothing.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty", with = "serde_bytes")]
    pub have: Vec<u8>,
}

impl Want {
    /// What is asked for.
    pub fn run(&self) -> ChunkRun {
        ChunkRun { content: self.content, first: self.first, count: self.count }
    }
}

impl From<ChunkRun> for Want {
    fn from(run: ChunkRun) -> Self {
        let ChunkRun { content, first, count } = run;
        Self { content, first, count, have: Vec::new() }
    }
}

/// A question for a chunk, or for any of others instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnyOf {
    /// Which content.
    #[serde(rename = "c")]
    pub content: ContentId,
    /// Index of the chunk.
    #[serde(rename = "f")]
    pub first: u64,
    /// Chunks that are as welcome, one bit for each from the last multiple of [`crate::limits::MAX_ANY_CHUNKS`] before `first` on,
    /// bit 0 of each byte first; zeros at the end may be missing.
    #[serde(rename = "o", with = "serde_bytes")]
    pub others: Vec<u8>,
}

impl AnyOf {
    /// Asks for a chunk, or for one of `others`; those too far from it are left out.
    pub fn new(content: ContentId, first: u64, others: impl IntoIterator<Item = u64>) -> Self {
        let (begin, mut bits) = (first - first % MAX_ANY_CHUNKS, Vec::new());
        for index in others {
            let Some(at) = index.checked_sub(begin).filter(|at| *at < MAX_ANY_CHUNKS) else { continue };
            let byte = (at / 8) as usize;
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            bits[byte] |= 1 << (at % 8);
        }
        Self { content, first, others: bits }
    }

    /// The chunks that would do, the first choice first; it may come again among the others.
    pub fn choices(&self) -> impl Iterator<Item = u64> + '_ {
        let begin = self.first - self.first % MAX_ANY_CHUNKS;
        let bytes = self.others.iter().take(MAX_ANY_CHUNKS as usize / 8).zip(0u64..);
        let others = bytes.flat_map(move |(byte, at)| {
            (0..8).filter(move |bit| byte >> bit & 1 == 1).filter_map(move |bit| begin.checked_add(at * 8 + bit))
        });
        std::iter::once(self.first).chain(others)
    }
}

/// A question which chunks a holder has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Of which content.
    #[serde(rename = "c")]
    pub content: ContentId,
    /// Where the asker listens if it passes on what it has itself: it is then named to others who ask. At most
    /// [`crate::limits::MAX_OTHER_ADDRESSES`], without its peer id.
    #[serde(rename = "a", default)]
    pub addresses: Vec<Multiaddr>,
    /// Which chunks the asker has, as in [`Want::have`].
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty", with = "serde_bytes")]
    pub have: Vec<u8>,
}

impl ChunkRun {
    /// Which bytes of the file are asked for, counted from its begin.
    ///
    /// # Errors
    /// [`FetchRefusal::Range`] if the run is empty, ends beyond the content, or is too long for one response.
    pub fn range(&self, geometry: &Geometry) -> Result<Range<u64>, FetchRefusal> {
        let end = self.first.checked_add(u64::from(self.count)).ok_or(FetchRefusal::Range)?;
        if self.count == 0 || end > geometry.chunks() || u64::from(self.count) > geometry.chunks_per_response() {
            return Err(FetchRefusal::Range);
        }
        Ok(geometry.offset(self.first)..geometry.offset(end).min(geometry.size()))
    }

    /// The chunks of a response, each with its index and its proof; `None` unless there are as many of them, and as long ones, as the
    /// run has. Nothing is verified yet.
    pub fn chunks<'a>(
        &self,
        geometry: &Geometry,
        proofs: &'a [Proof],
        body: &'a [u8],
    ) -> Option<impl Iterator<Item = (u64, &'a [u8], &'a Proof)> + use<'a>> {
        let indexes = self.first..self.first.checked_add(u64::from(self.count))?;
        let bytes: u64 = indexes.clone().map(|index| geometry.len(index)).sum();
        if proofs.len() != self.count as usize || body.len() as u64 != bytes {
            return None;
        }
        // Every chunk but the last of the file has the same length, so equal pieces are the chunks.
        let length = usize::try_from(geometry.chunk_bytes()).ok()?;
        Some(indexes.zip(body.chunks(length)).zip(proofs).map(|((index, bytes), proof)| (index, bytes, proof)))
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
        /// Which chunks a holder of a part has, as in [`Want::have`]; nothing from a holder of everything.
        #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty", with = "serde_bytes")]
        have: Vec<u8>,
    },
    /// One chunk follows, another one than the first choice.
    #[serde(rename = "instead")]
    Instead {
        /// Index of the chunk.
        #[serde(rename = "f")]
        first: u64,
        /// Number of raw bytes that follow.
        #[serde(rename = "b")]
        bytes: u32,
        /// Its proof.
        #[serde(rename = "p")]
        proof: Proof,
    },
    /// The set of chunks follows, unless it is the whole content.
    #[serde(rename = "have")]
    Have {
        /// Number of raw bytes that follow: a [`crate::ChunkSet`], or nothing.
        #[serde(rename = "b")]
        bytes: u32,
        /// Whether the holder has every chunk.
        #[serde(rename = "w")]
        whole: bool,
        /// Others who asked lately and pass on what they have; at most [`crate::limits::MAX_FETCH_OTHERS`].
        #[serde(rename = "o", default)]
        others: Vec<Other>,
        /// Whether something that the asker asked for before left the disk a while ago and is on its way to it. Builds from before
        /// do not say.
        #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
        sending: bool,
    },
    /// The contents follow, one after the other.
    #[serde(rename = "files")]
    Files {
        /// Number of raw bytes that follow, at most [`crate::limits::MAX_FETCH_BODY`].
        #[serde(rename = "b")]
        bytes: u32,
        /// The size of each content in bytes, in order; `None` for one that is not among them. The list ends
        /// before the first for which there was no more room.
        #[serde(rename = "l")]
        sizes: Vec<Option<u32>>,
    },
    /// To a request that asks for nothing.
    #[serde(rename = "done")]
    Done,
    /// Nothing follows.
    #[serde(rename = "refused")]
    Refused(FetchRefusal),
}

impl Header {
    /// Number of raw bytes that follow.
    pub fn body_bytes(&self) -> u32 {
        match self {
            Self::Chunks { bytes, .. }
            | Self::Instead { bytes, .. }
            | Self::Have { bytes, .. }
            | Self::Files { bytes, .. } => *bytes,
            Self::Done | Self::Refused(_) => 0,
        }
    }
}

/// Another holder of the content, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Its id.
    #[serde(rename = "p")]
    pub peer: PeerId,
    /// Where it listens, without its peer id; at most [`crate::limits::MAX_OTHER_ADDRESSES`].
    #[serde(rename = "a")]
    pub addresses: Vec<Multiaddr>,
}

/// Why chunks are not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "u16", into = "u16")]
pub enum FetchRefusal {
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
    /// 5: the holder cannot read its file: its disk fails, or does not answer. It may do so again.
    #[error("its disk does not answer, or fails")]
    Storage,
    /// 6: the bytes of the request are no request.
    #[error("it did not understand the request")]
    Malformed,
    /// 7: the asker said that it does not want it any more.
    #[error("the request was cancelled")]
    Cancelled,
    /// Any other number, from a newer node.
    #[error("it refused with code {0}")]
    Other(u16),
}

impl From<u16> for FetchRefusal {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::NotFound,
            2 => Self::Range,
            3 => Self::Changed,
            4 => Self::Busy,
            5 => Self::Storage,
            6 => Self::Malformed,
            7 => Self::Cancelled,
            other => Self::Other(other),
        }
    }
}

impl From<FetchRefusal> for u16 {
    fn from(refusal: FetchRefusal) -> Self {
        match refusal {
            FetchRefusal::NotFound => 1,
            FetchRefusal::Range => 2,
            FetchRefusal::Changed => 3,
            FetchRefusal::Busy => 4,
            FetchRefusal::Storage => 5,
            FetchRefusal::Malformed => 6,
            FetchRefusal::Cancelled => 7,
            FetchRefusal::Other(other) => other,
        }
    }
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchResponse {
    /// What was said.
    pub header: Header,
    /// The raw bytes, exactly as many as the header says.
    pub body: Vec<u8>,
}

impl FetchResponse {
    /// A response that refuses.
    pub fn refused(refusal: FetchRefusal) -> Self {
        Self::bare(Header::Refused(refusal))
    }

    /// A response without raw bytes.
    pub fn bare(header: Header) -> Self {
        Self { header, body: Vec::new() }
    }
}
