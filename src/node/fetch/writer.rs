//! Verifies chunks and writes them, on one thread for each download. Several would wait for each other at the file's
//! lock. One still has the bytes in its cache when it writes what it hashed.

use std::sync::{Arc, mpsc};

use swarmdex_protocols::content::{Geometry, Proof, check_chunk};
use swarmdex_protocols::fetch::{ChunkRun, FetchResponse, Header};
use swarmdex_protocols::{ContentId, PeerId};
use tokio::sync::mpsc as events;

use crate::buffers::Buffers;
use crate::node::Error;
use crate::storage::content::{Content, Verified};

/// Bytes after which the disk is told to take what was written, so that little is left to wait for at the end.
const WRITE_BACK: u64 = 8 << 20;
/// Answers that wait to be written; the windows of the sources keep them far below.
const QUEUE: usize = 1024;

/// What became of a run.
pub(super) enum Written {
    /// It is written.
    Done,
    /// It is not part of the content.
    Wrong,
    /// It could not be written.
    Failed(Error),
}

/// A run that is dealt with.
pub(super) struct WriterOutcome {
    pub(super) source: PeerId,
    pub(super) run: ChunkRun,
    pub(super) written: Written,
    /// Chunks that made room for it, and are there no more.
    pub(super) dropped: Vec<u64>,
}

/// A run that came, from whom.
struct Job {
    source: PeerId,
    run: ChunkRun,
    response: FetchResponse,
}

/// The thread.
pub(super) struct Writer {
    jobs: mpsc::SyncSender<Job>,
    results: events::Receiver<WriterOutcome>,
    thread: tokio::task::JoinHandle<()>,
}

impl Writer {
    /// With `syncs` the bytes go to the disk while more of them come.
    pub(super) fn start(content: ContentId, store: Arc<dyn Content>, buffers: Buffers, syncs: bool) -> Self {
        let (jobs, queue) = mpsc::sync_channel::<Job>(QUEUE);
        let (outcomes, results) = events::channel(QUEUE);
        let mut write_back = syncs.then(WriteBack::default);
        let thread = tokio::task::spawn_blocking(move || {
            while let Ok(Job { source, run, response }) = queue.recv() {
                let mut dropped = Vec::new();
                let written = write(&content, &*store, run, &response, &mut dropped);
                if let Some(write_back) = &mut write_back {
                    write_back.wrote(&store, response.body.len());
                }
                store.settle(run.first);
                buffers.give(response.body);
                if outcomes.blocking_send(WriterOutcome { source, run, written, dropped }).is_err() {
                    return;
                }
            }
        });
        Self { jobs, results, thread }
    }

    /// Hands a run over. False if there is no room, which the windows rule out.
    pub(super) fn push(&self, source: PeerId, run: ChunkRun, response: FetchResponse) -> bool {
        self.jobs.try_send(Job { source, run, response }).is_ok()
    }

    /// The next run that is dealt with; for ever if none comes. Fails once the thread has panicked.
    pub(super) async fn next(&mut self) -> Result<WriterOutcome, Error> {
        self.results.recv().await.ok_or(Error::Bug)
    }

    /// Waits until the thread has let the file go.
    pub(super) async fn end(self) -> Result<(), Error> {
        let Self { jobs, results, thread } = self;
        drop((jobs, results));
        thread.await.map_err(|_| Error::Bug)
    }
}

/// Keeps the disk busy while a download runs, from a thread that ends with this.
#[derive(Default)]
struct WriteBack {
    wake: Option<mpsc::SyncSender<()>>,
    bytes: u64,
}

impl WriteBack {
    fn wrote(&mut self, store: &Arc<dyn Content>, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes < WRITE_BACK {
            return;
        }
        let wake = self.wake.get_or_insert_with(|| {
            let ((wake, woken), store) = (mpsc::sync_channel(1), store.clone());
            tokio::task::spawn_blocking(move || woken.iter().for_each(|()| store.flush()));
            wake
        });
        // While the disk is busy more is gathered.
        if wake.try_send(()).is_ok() {
            self.bytes = 0;
        }
    }
}

fn write(
    content: &ContentId,
    store: &dyn Content,
    run: ChunkRun,
    response: &FetchResponse,
    dropped: &mut Vec<u64>,
) -> Written {
    let geometry = store.geometry();
    let Some(chunks) = split(&geometry, run, response) else { return Written::Wrong };
    let mut recorded = Vec::new();
    for (index, bytes, proof) in chunks {
        let Ok(path) = check_chunk(content, &geometry, index, bytes, proof) else { return Written::Wrong };
        match store.write(Verified { index, bytes, path: &path, proof }) {
            Ok(made_room) => dropped.extend(made_room),
            Err(error) => return Written::Failed(error.into()),
        }
        recorded.push((index, proof));
    }
    match store.record(&recorded) {
        Ok(()) => Written::Done,
        Err(error) => Written::Failed(error.into()),
    }
}

/// The chunks of a response with their proofs, if it has as many and as long ones as were asked for.
fn split<'a>(
    geometry: &Geometry,
    run: ChunkRun,
    response: &'a FetchResponse,
) -> Option<impl Iterator<Item = (u64, &'a [u8], &'a Proof)> + use<'a>> {
    let proofs = match &response.header {
        Header::Chunks { proofs, .. } => proofs.as_slice(),
        Header::Instead { proof, .. } => std::slice::from_ref(proof),
        _ => return None,
    };
    run.chunks(geometry, proofs, &response.body)
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::content::{Outboard, chunk_value};
    use tempfile::TempDir;

    use super::*;
    use crate::storage::cache::Cache;
    use crate::storage::content::read_verified;

    #[tokio::test]
    async fn what_is_right_is_in_the_store_and_what_is_not_is_told() {
        const CHUNK: usize = 256 << 10;
        let folder = TempDir::new().unwrap();
        let bytes: Vec<u8> = (0..4 * CHUNK).map(|number| (number / 1000) as u8).collect();
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        let values = bytes.chunks(CHUNK).enumerate().map(|(index, piece)| chunk_value(&geometry, index as u64, piece));
        let (outboard, content) = Outboard::build(geometry, values.collect()).unwrap();
        let cache = Arc::new(Cache::new(folder.path(), geometry, |_| false).unwrap());
        let mut writer = Writer::start(content, cache.clone(), Buffers::new(1), false);
        let source = PeerId::from_bytes(&[0, 1, 7]).unwrap();
        let response = |first: usize, spoilt: bool| {
            let mut body = bytes[first * CHUNK..(first + 2) * CHUNK].to_vec();
            body[CHUNK] ^= u8::from(spoilt);
            let proofs = [first, first + 1].map(|index| outboard.proof(index as u64).unwrap()).to_vec();
            FetchResponse { header: Header::Chunks { bytes: body.len() as u32, proofs, have: Vec::new() }, body }
        };
        let run = |first| ChunkRun { content, first, count: 2 };
        assert!(writer.push(source, run(0), response(0, false)) && writer.push(source, run(2), response(2, true)));
        // As many bytes as were asked for, and of other chunks.
        assert!(writer.push(source, run(2), response(0, false)));
        let outcome = writer.next().await.unwrap();
        assert!(outcome.run.first == 0 && matches!(outcome.written, Written::Done) && outcome.dropped.is_empty());
        for _ in 0..2 {
            assert!(matches!(writer.next().await.unwrap().written, Written::Wrong));
        }
        writer.end().await.unwrap();
        let mut piece = vec![0; CHUNK];
        for index in 0..3 {
            assert!(read_verified(&*cache, &content, index, &mut piece).unwrap());
            let begin = index as usize * CHUNK;
            assert!(piece == bytes[begin..begin + CHUNK]);
        }
        assert!(!cache.contains(3), "it was spoilt");
    }

    #[tokio::test]
    async fn a_thread_that_panics_fails_its_download() {
        let (jobs, _queue) = mpsc::sync_channel::<Job>(1);
        let (outcomes, results) = events::channel(1);
        let thread = tokio::task::spawn_blocking(move || {
            let _outcomes = outcomes;
            panic!("on purpose");
        });
        let mut writer = Writer { jobs, results, thread };
        assert!(matches!(writer.next().await, Err(Error::Bug)));
        assert!(matches!(writer.end().await, Err(Error::Bug)));
    }
}
