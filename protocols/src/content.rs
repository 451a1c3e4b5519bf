//! Content ids, chunk geometry, and the proof that one chunk belongs to a content id.
//!
//! A content id is the plain BLAKE3 hash of a file. BLAKE3 is a binary Merkle tree, so a chunk whose length is a
//! power-of-two multiple of 1 KiB is a whole subtree. Its chaining value and those of its siblings on the way up (the
//! [`Proof`]) give the root. Source: the BLAKE3 paper, section 2.1, and the `hazmat` module of the `blake3` crate.
//!
//! This module does arithmetic on bytes alone; it opens no file and keeps no state.

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{self, HasherExt, Mode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::{MAX_FETCH_BODY, MAX_FILE_BYTES};

/// A BLAKE3 chaining value: the hash of an inner node of the tree.
pub type ChainingValue = [u8; 32];

/// Smallest chunk of a file that has more than one, in bytes.
const MIN_CHUNK_BYTES: u64 = 256 << 10;
/// Largest chunk, in bytes: one chunk must fit one response.
const MAX_CHUNK_BYTES: u64 = MAX_FETCH_BODY as u64;
/// Number of chunks above which chunks grow: keeps outboards and bitmaps small for large files.
const MANY_CHUNKS: u64 = 16_384;

/// The BLAKE3 hash of a whole file; equals what `b3sum` prints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The content id of bytes that are all in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({self})")
    }
}

/// A text is no content id: it needs 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a content id has 64 hexadecimal digits")]
pub struct InvalidContentId;

impl FromStr for ContentId {
    type Err = InvalidContentId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| InvalidContentId)?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl Serialize for ContentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for ContentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        let array: [u8; 32] =
            bytes.as_slice().try_into().map_err(|_| serde::de::Error::invalid_length(bytes.len(), &"32 bytes"))?;
        Ok(Self(array))
    }
}

/// A size is over [`MAX_FILE_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a size of {0} bytes is over the limit of {MAX_FILE_BYTES} bytes")]
pub struct FileTooLarge(pub u64);

/// How a file of a given size is cut into chunks. The size alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    chunk_bytes: u64,
}

impl Geometry {
    /// The geometry of a file of `size` bytes. Chunks have 256 KiB in files of up to 4 GiB, and up to 1 MiB in larger ones.
    ///
    /// # Errors
    /// [`FileTooLarge`] for more than [`MAX_FILE_BYTES`].
    pub fn new(size: u64) -> Result<Self, FileTooLarge> {
        if size > MAX_FILE_BYTES {
            return Err(FileTooLarge(size));
        }
        let wanted = size.div_ceil(MANY_CHUNKS).next_power_of_two();
        Ok(Self { size, chunk_bytes: wanted.clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES) })
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Length of every chunk but the last, in bytes.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Number of chunks; an empty file has one empty chunk, so that its content id is verified like any other.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk_bytes).max(1)
    }

    /// Where chunk `index` begins, in bytes. An `index` beyond [`Geometry::chunks`] may be too large to multiply.
    pub fn offset(&self, index: u64) -> u64 {
        index * self.chunk_bytes
    }

    /// Length of chunk `index` in bytes; 0 beyond the end.
    pub fn len(&self, index: u64) -> u64 {
        if index >= self.chunks() {
            return 0;
        }
        self.chunk_bytes.min(self.size - self.offset(index))
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// How many chunks fit one response: 1 to 4.
    pub fn chunks_per_response(&self) -> u64 {
        MAX_CHUNK_BYTES / self.chunk_bytes
    }
}

/// The chaining values of the siblings on the way from a chunk to the root, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof(Vec<ChainingValue>);

impl Proof {
    /// The proof made of these chaining values.
    pub fn new(siblings: Vec<ChainingValue>) -> Self {
        Self(siblings)
    }

    /// The chaining values, lowest first.
    pub fn siblings(&self) -> &[ChainingValue] {
        &self.0
    }
}

impl Serialize for Proof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_flattened())
    }
}

impl<'de> Deserialize<'de> for Proof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        let (siblings, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(serde::de::Error::invalid_length(bytes.len(), &"a multiple of 32 bytes"));
        }
        Ok(Self(siblings.to_vec()))
    }
}

/// A chunk is not part of the content it was said to be part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("chunk {index} does not belong to content {content}")]
pub struct WrongChunk {
    /// The content that was asked for.
    pub content: ContentId,
    /// Index of the chunk.
    pub index: u64,
}

/// Chaining value of chunk `index`, for a file that has more than one chunk. `bytes` are all of the chunk.
pub fn chunk_value(geometry: &Geometry, index: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(geometry.offset(index));
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Checks that `bytes` are chunk `index` of the content; costs one hash of the bytes and one
/// compression for each level of the tree above them.
///
/// # Errors
/// [`WrongChunk`] if they are not, have another length, or the proof does not fit the chunk.
pub fn verify_chunk(
    content: &ContentId,
    geometry: &Geometry,
    index: u64,
    bytes: &[u8],
    proof: &Proof,
) -> Result<(), WrongChunk> {
    check_chunk(content, geometry, index, bytes, proof).map(drop)
}

/// Verifies a chunk as [`verify_chunk`] does. Returns the values on the way up with their positions in the byte form of
/// an [`Outboard`], counted in nodes without the root. A content of one chunk has none.
///
/// # Errors
/// [`WrongChunk`] as [`verify_chunk`].
pub fn check_chunk(
    content: &ContentId,
    geometry: &Geometry,
    index: u64,
    bytes: &[u8],
    proof: &Proof,
) -> Result<Vec<(u64, ChainingValue)>, WrongChunk> {
    let wrong = WrongChunk { content: *content, index };
    if index >= geometry.chunks() || bytes.len() as u64 != geometry.len(index) {
        return Err(wrong);
    }
    if geometry.chunks() == 1 {
        let matches = proof.0.is_empty() && ContentId::of(bytes) == *content;
        return if matches { Ok(Vec::new()) } else { Err(wrong) };
    }
    let (path, root) = climb(geometry, index, chunk_value(geometry, index, bytes), proof).ok_or(wrong)?;
    if root == *content.as_bytes() { Ok(path) } else { Err(wrong) }
}

/// A node's position in the byte form of an [`Outboard`], and its value.
type Placed = (u64, ChainingValue);

/// Climbs from a chunk to the root: the values on the way, and the root's; `None` if the proof has the wrong number of
/// siblings.
///
/// BLAKE3 gives every left subtree the largest power of two of chunks, which is the same tree as
/// pairing each level from the left and carrying an odd last node up unchanged.
fn climb(geometry: &Geometry, index: u64, value: ChainingValue, proof: &Proof) -> Option<(Vec<Placed>, ChainingValue)> {
    let (mut value, mut at, mut width, mut start) = (value, index, geometry.chunks(), 0);
    let mut siblings = proof.0.iter();
    let mut path = Vec::with_capacity(proof.0.len() + 1);
    while width > 1 {
        path.push((start + at, value));
        if at ^ 1 < width {
            let sibling = siblings.next()?;
            let (left, right) = if at & 1 == 0 { (&value, sibling) } else { (sibling, &value) };
            value = merge(left, right, width == 2);
        }
        start += width;
        at >>= 1;
        width = width.div_ceil(2);
    }
    siblings.next().is_none().then_some((path, value))
}

fn merge(left: &ChainingValue, right: &ChainingValue, root: bool) -> ChainingValue {
    if root {
        *hazmat::merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        hazmat::merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

/// The tree above the chunks of one file: every level, lowest first, root left out.
///
/// Kept beside a shared file so that any proof is read, not computed. Its byte form is all levels
/// one after the other, 32 bytes for each node; a file of one chunk has an empty outboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outboard {
    geometry: Geometry,
    nodes: Vec<ChainingValue>,
}

impl Outboard {
    /// Builds the tree above the chunks' values and returns it with the content id, or `None` if
    /// the number of values does not fit the geometry. Only for files of more than one chunk.
    pub fn build(geometry: Geometry, values: Vec<ChainingValue>) -> Option<(Self, ContentId)> {
        if values.len() as u64 != geometry.chunks() || values.len() < 2 {
            return None;
        }
        let mut nodes = values;
        let mut start = 0;
        while nodes.len() - start > 2 {
            let end = nodes.len();
            for pair in (start..end).step_by(2) {
                let parent = if pair + 1 < end { merge(&nodes[pair], &nodes[pair + 1], false) } else { nodes[pair] };
                nodes.push(parent);
            }
            start = end;
        }
        let root = merge(&nodes[start], &nodes[start + 1], true);
        Some((Self { geometry, nodes }, ContentId(root)))
    }

    /// The outboard of a file of one chunk.
    pub fn empty(geometry: Geometry) -> Self {
        Self { geometry, nodes: Vec::new() }
    }

    /// The byte form.
    pub fn as_bytes(&self) -> &[u8] {
        self.nodes.as_flattened()
    }

    /// The chaining values of the chunks alone, from which the rest can be built again.
    pub fn leaf_bytes(&self) -> &[u8] {
        let leaves = if self.nodes.is_empty() { 0 } else { self.geometry.chunks() };
        let end = usize::try_from(leaves).unwrap_or(usize::MAX).min(self.nodes.len());
        self.nodes[..end].as_flattened()
    }

    /// Number of nodes in the outboard of a file with this geometry.
    pub fn node_count(geometry: &Geometry) -> u64 {
        let (mut width, mut count) = (geometry.chunks(), 0);
        while width > 1 {
            count += width;
            width = width.div_ceil(2);
        }
        count
    }

    /// Reads the byte form back; `None` if its length does not fit the geometry.
    pub fn from_bytes(geometry: Geometry, bytes: &[u8]) -> Option<Self> {
        let (nodes, rest) = bytes.as_chunks::<32>();
        let fits = rest.is_empty() && nodes.len() as u64 == Self::node_count(&geometry);
        fits.then(|| Self { geometry, nodes: nodes.to_vec() })
    }

    /// The proof of chunk `index`; `None` beyond the end.
    pub fn proof(&self, index: u64) -> Option<Proof> {
        if index >= self.geometry.chunks() {
            return None;
        }
        proof_positions(&self.geometry, index)
            .map(|position| self.nodes.get(usize::try_from(position).ok()?).copied())
            .collect::<Option<Vec<_>>>()
            .map(Proof)
    }
}

/// Positions, counted in nodes, of a chunk's siblings in the byte form of an [`Outboard`].
pub fn proof_positions(geometry: &Geometry, index: u64) -> impl Iterator<Item = u64> + use<> {
    let (mut at, mut width, mut start) = (index, geometry.chunks(), 0);
    std::iter::from_fn(move || {
        while width > 1 {
            let sibling = (at ^ 1 < width).then_some(start + (at ^ 1));
            start += width;
            at >>= 1;
            width = width.div_ceil(2);
            if sibling.is_some() {
                return sibling;
            }
        }
        None
    })
}
