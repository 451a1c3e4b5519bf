//! Where the chunks of one content are kept while it is fetched: a partial file that becomes the file, or a cache for those who read.

use std::fmt::Debug;
use std::io;

use swarmdex_protocols::content::{ChainingValue, Geometry, Proof, check_chunk};
use swarmdex_protocols::{ChunkSet, ContentId};

use super::incoming::Incoming;
use super::partial::PartialError;

/// A chunk that [`check_chunk`] found to be part of its content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verified<'a> {
    /// Its index.
    pub index: u64,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What [`check_chunk`] gave: the values from the chunk up, each with its position.
    pub path: &'a [(u64, ChainingValue)],
    /// Its proof.
    pub proof: &'a Proof,
}

/// A place for the verified chunks of one content. All of it blocks on the disk but what asks for no bytes.
pub(crate) trait Content: Debug + Send + Sync {
    /// How the content is cut.
    fn geometry(&self) -> Geometry;

    /// The chunks that are there.
    fn have(&self) -> ChunkSet;

    /// Whether a chunk is there.
    fn contains(&self, index: u64) -> bool;

    /// The proof of a chunk; `None` if it is not there.
    fn proof(&self, index: u64) -> Option<Proof>;

    /// Writes a chunk. Which others made room for it, and are there no more.
    ///
    /// # Errors
    /// If the disk does not take it: then it is not there.
    fn write(&self, chunk: Verified<'_>) -> Result<Vec<u64>, PartialError>;

    /// Writes down that chunks were written, for another attempt.
    ///
    /// # Errors
    /// If the disk does not take that, for another reason than want of room.
    fn record(&self, chunks: &[(u64, &Proof)]) -> Result<(), PartialError>;

    /// Reads a chunk that is there. Nothing says that it is still what was written: see [`read_verified`].
    ///
    /// # Errors
    /// What the disk said; [`io::ErrorKind::NotFound`] if the chunk is not there.
    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Waits until what was written is on disk. An error shows later.
    fn flush(&self) {}

    /// Whether what is there stays for another attempt.
    fn is_resumable(&self) -> bool {
        false
    }

    /// Chunks that others may ask for: those that are there, and those that are on their way.
    fn offers(&self) -> ChunkSet {
        self.have()
    }

    /// Chunks on their way, if others are told of them.
    fn incoming(&self) -> Option<&Incoming> {
        None
    }

    /// A chunk that was on its way is there, or does not come.
    fn settle(&self, index: u64) {
        if let Some(incoming) = self.incoming() {
            incoming.end(index);
        }
    }
}

/// Reads a chunk and verifies it, whatever became of the disk. False if it is not there, or not part of the content any more: then the
/// bytes are of no use.
///
/// # Errors
/// What the disk said.
pub(crate) fn read_verified(
    store: &dyn Content,
    content: &ContentId,
    index: u64,
    bytes: &mut [u8],
) -> io::Result<bool> {
    let Some(proof) = store.proof(index) else { return Ok(false) };
    match store.read(index, bytes) {
        Ok(()) => Ok(check_chunk(content, &store.geometry(), index, bytes, &proof).is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
