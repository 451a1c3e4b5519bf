//! Everything that this node serves by content id: its shares, and what it has downloaded. Nothing from the wire
//! becomes a path.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use swarmdex_protocols::content::{Geometry, Proof};
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchResponse, Header};
use swarmdex_protocols::limits::{MAX_FETCH_BODY, MAX_FETCH_FILES};
use swarmdex_protocols::{ChunkSet, ContentId};

use super::content::Content;
use super::hanging::Reads;
use super::hash::{FileStamp, open_regular};
use super::holdings::{Held, Holdings, Whole};
use super::shares::ShareTable;
use super::verify::{is_right, unread};
use crate::buffers::Buffers;

/// What a node serves; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Library {
    /// Files under names of its own.
    pub shares: ShareTable,
    /// What it has downloaded.
    pub holdings: Holdings,
    /// Memory for chunks.
    pub buffers: Buffers,
    /// Reads of copies under way.
    pub reads: Arc<Reads>,
}

impl Library {
    /// Answers a request for chunks. Blocks on the disk.
    pub(crate) fn chunks(&self, run: &ChunkRun) -> FetchResponse {
        let shared = self.shares.read(run, &self.buffers);
        let refusal = match shared {
            Ok(response) => return response,
            Err(refusal) => refusal,
        };
        match self.holdings.get(&run.content) {
            Some(held) => self.read_held(&held, run).unwrap_or_else(FetchResponse::refused),
            None => FetchResponse::refused(refusal),
        }
    }

    /// Answers a request for small files. Blocks on the disk.
    pub(crate) fn files(&self, contents: &[ContentId]) -> FetchResponse {
        if contents.is_empty() || contents.len() > MAX_FETCH_FILES {
            return FetchResponse::refused(FetchRefusal::Range);
        }
        let mut body = self.buffers.take(MAX_FETCH_BODY);
        body.clear();
        let mut sizes = Vec::with_capacity(contents.len());
        for content in contents {
            let FetchResponse { header, body: bytes } =
                self.chunks(&ChunkRun { content: *content, first: 0, count: 1 });
            let whole = match &header {
                // The first of several chunks is no file.
                Header::Chunks { proofs, .. } => proofs.iter().all(|proof| proof.siblings().is_empty()),
                _ => false,
            };
            if whole && body.len() + bytes.len() > MAX_FETCH_BODY {
                break;
            }
            sizes.push(whole.then(|| u32::try_from(bytes.len()).ok()).flatten());
            if whole {
                body.extend_from_slice(&bytes);
            }
            self.buffers.give(bytes);
        }
        // At most 1 MiB.
        FetchResponse { header: Header::Files { bytes: body.len() as u32, sizes }, body }
    }

    /// Looks whether a content is still here as it was, after somebody got something else for a run of its chunks; what is
    /// not is given up. Blocks on the disk.
    pub(crate) fn check(&self, run: &ChunkRun) {
        self.shares.check(run, &self.buffers);
        let Some(held) = self.holdings.get(&run.content) else { return };
        if let Ok(response) = self.read_held(&held, run) {
            if !is_right(run, &held.geometry(), &response) {
                tracing::info!(content = %run.content, "the copy of it that is here has changed; it is not passed on any more");
                self.holdings.forget(&run.content);
            }
            self.buffers.give(response.body);
        }
    }

    /// Which chunks of a content are here: `None` if nothing is, then `None` if it is here whole.
    pub(crate) fn have(&self, content: &ContentId) -> Option<Option<ChunkSet>> {
        if self.shares.has(content) { Some(None) } else { self.holdings.chunks(content) }
    }

    fn read_held(&self, held: &Held, run: &ChunkRun) -> Result<FetchResponse, FetchRefusal> {
        let range = run.range(&held.geometry())?;
        let length = usize::try_from(range.end - range.start).map_err(|_| FetchRefusal::Range)?;
        // Chunks of a part that are not here yet have no proof.
        let proofs = (run.first..run.first + u64::from(run.count)).map(|index| held.proof(index));
        let proofs = proofs.collect::<Option<Vec<Proof>>>().ok_or(FetchRefusal::NotFound)?;
        let mut body = self.buffers.take(length);
        let read = match held {
            Held::Part(part) => part.file.read_chunk(range.start, &mut body).map_err(|_| FetchRefusal::Storage),
            Held::Whole(whole, ..) => {
                let reading = self.reads.begin(&whole.path, Instant::now());
                reading.ok_or(FetchRefusal::Storage).and_then(|_reading| read_whole(whole, range.start, &mut body))
            }
        };
        if read == Err(FetchRefusal::Changed) {
            // It is its user's file: what became of it is nobody else's business.
            self.holdings.forget(&run.content);
            return Err(FetchRefusal::NotFound);
        }
        read?;
        let bytes = u32::try_from(length).map_err(|_| FetchRefusal::Range)?;
        let have = match held {
            Held::Part(part) => part.offers().along(),
            Held::Whole(..) => Vec::new(),
        };
        Ok(FetchResponse { header: Header::Chunks { bytes, proofs, have }, body })
    }

    /// The bytes of a run of chunks that are here, verified; `None` if they are not here, or are not what they were, which is looked
    /// into. Blocks on the disk.
    pub(crate) fn verified(&self, geometry: &Geometry, run: &ChunkRun) -> Option<Vec<u8>> {
        let response = self.chunks(run);
        let is_here = matches!(response.header, Header::Chunks { .. });
        let bytes = self.right(geometry, run, response);
        if is_here && bytes.is_none() {
            self.check(run);
        }
        bytes
    }

    /// The verified bytes of a run of a file that was downloaded, whether it is held or not.
    pub(crate) fn verified_of(&self, whole: &Whole, geometry: &Geometry, run: &ChunkRun) -> Option<Vec<u8>> {
        let read = self.read_held(&Held::Whole(whole.clone(), *geometry, 0), run);
        self.right(geometry, run, read.unwrap_or_else(FetchResponse::refused))
    }

    fn right(&self, geometry: &Geometry, run: &ChunkRun, response: FetchResponse) -> Option<Vec<u8>> {
        let is_answer = matches!(response.header, Header::Chunks { .. });
        if is_answer && is_right(run, geometry, &response) {
            return Some(response.body);
        }
        self.buffers.give(response.body);
        None
    }

    /// Whether a content of this size is here whole.
    pub(crate) fn has_whole(&self, content: &ContentId, geometry: &Geometry) -> bool {
        matches!(self.have(content), Some(None))
            && self.holdings.get(content).is_none_or(|held| held.geometry() == *geometry)
    }
}

fn read_whole(whole: &Whole, begin: u64, body: &mut [u8]) -> Result<(), FetchRefusal> {
    let (file, stamp) = open_regular(&whole.path).map_err(|_| FetchRefusal::Changed)?;
    if stamp != whole.stamp {
        return Err(FetchRefusal::Changed);
    }
    file.read_exact_at(body, begin).map_err(|error| unread(&error))?;
    let after = file.metadata().map_err(|_| FetchRefusal::Storage)?;
    if FileStamp::of(&after) == whole.stamp { Ok(()) } else { Err(FetchRefusal::Changed) }
}
