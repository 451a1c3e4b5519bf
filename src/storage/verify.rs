//! Whether what was read from a disk can be sent.

use swarmdex_protocols::content::{Geometry, check_chunk};
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchResponse, Header};

/// Whether what was read for a run is part of its content.
pub(super) fn is_right(run: &ChunkRun, geometry: &Geometry, response: &FetchResponse) -> bool {
    let Header::Chunks { proofs, .. } = &response.header else { return true };
    let is_part = |(index, bytes, proof)| check_chunk(&run.content, geometry, index, bytes, proof).is_ok();
    run.chunks(geometry, proofs, &response.body).is_some_and(|mut chunks| chunks.all(is_part))
}

/// What a read that failed says: a file that ends early was cut short.
pub(super) fn unread(error: &std::io::Error) -> FetchRefusal {
    if error.kind() == std::io::ErrorKind::UnexpectedEof { FetchRefusal::Changed } else { FetchRefusal::Storage }
}
