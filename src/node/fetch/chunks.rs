//! The chunks of one reader: from what is here, or as its engine brings them.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use swarmdex_protocols::content::{Geometry, Proof, check_chunk};
use swarmdex_protocols::fetch::ChunkRun;
use swarmdex_protocols::{ChunkSet, ContentId};
use tokio::sync::OwnedSemaphorePermit;

use super::consumers::{Attached, Ending, Fetch, FetchEnd, MAX_READERS};
use super::engine::{Engine, Said, Terms};
use super::reader::{Load, Reader};
use crate::locks::lock;
use crate::node::answer::Checked;
use crate::node::life::Phase;
use crate::node::patience::Patience;
use crate::node::types::GetOptions;
use crate::node::{Error, ErrorKind, Node};
use crate::storage::content::read_verified;
use crate::storage::holdings::Whole;
use crate::tasks;

/// Bytes that one reader reads ahead at most, and those that all readers of one content do together: half of what their cache holds.
const AHEAD_BYTES: u64 = 8 << 20;
const ALL_AHEAD_BYTES: u64 = 32 << 20;
/// How often a chunk is looked for: it is gone again when a download ends, or when what was here has changed.
const ATTEMPTS: usize = 16;

impl Node {
    /// Opens a file by its name, to be read while it comes. Nothing is fetched before the first read.
    ///
    /// The name is looked up now; what is read stays the content that it stands for now. At most 64 readers of a node are open at a
    /// time, and each counts as a handle of it.
    ///
    /// # Errors
    /// - Those of [`Node::lookup`]; [`Error::NotNamed`] in place of [`Error::NotFound`] if there is something like it.
    /// - [`Error::TooManyReaders`] while 64 are open.
    /// - [`Error::Verification`] of a file without bytes whose content id is not that of nothing.
    /// - [`Error::Answer`] of a file over 16 TiB.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped, it leaves nothing behind.
    pub async fn open(&self, name: &str) -> Result<Reader, Error> {
        let permit = self.inner.downloads.fetches.readers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooManyReaders { most: MAX_READERS })?;
        let found = match self.inner.questions.lookup(name).await {
            Ok(found) => found,
            Err(error) => return Err(self.explain(error).await),
        };
        let geometry = Geometry::new(found.entry.size).map_err(|_| Error::Answer)?;
        let content = found.entry.content;
        if geometry.is_empty() && check_chunk(&content, &geometry, 0, &[], &Proof::default()).is_err() {
            let (name, sources) = (found.entry.name, "the index".to_owned());
            return Err(Error::Verification { name, content, sources, kept: false });
        }
        let (attached, placed) = (Mutex::default(), Mutex::default());
        let chunks = Chunks { node: self.clone(), found, content, geometry, attached, placed, _permit: permit };
        Ok(Reader::new(content, geometry, Arc::new(chunks)))
    }
}

/// Where the chunks of one reader come from.
pub(super) struct Chunks {
    node: Node,
    /// As it was when the reader was opened.
    found: Checked,
    content: ContentId,
    geometry: Geometry,
    /// From the first chunk on that is not here.
    attached: Mutex<Option<Attached>>,
    /// The file that a download left that brought chunks, whether it is passed on or not.
    placed: Mutex<Option<Whole>>,
    _permit: OwnedSemaphorePermit,
}

impl Load for Chunks {
    fn load(self: Arc<Self>, index: u64, wanted: Range<u64>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        // What is read next comes meanwhile.
        if let Some(attached) = &*lock(&self.attached) {
            attached.read(wanted.clone());
        }
        async move {
            for _ in 0..ATTEMPTS {
                let chunks = self.clone();
                let looking = tokio::task::spawn_blocking(move || chunks.look(index));
                if let Some(bytes) = looking.await.map_err(|_| failed(&Arc::new(Error::Bug)))?? {
                    return Ok(bytes);
                }
                self.arrived(index, &wanted).await.map_err(|error| failed(&error))?;
            }
            Err(io::Error::new(io::ErrorKind::InvalidData, "what was fetched changes again and again on its disk"))
        }
        .boxed()
    }

    fn most(&self) -> u64 {
        let readers = lock(&self.attached).as_ref().map_or(1, |attached| attached.fetch.readers());
        most_ahead(readers, &self.geometry)
    }

    fn give(&self, bytes: Vec<u8>) {
        self.node.inner.library.buffers.give(bytes);
    }
}

impl Chunks {
    /// A chunk that is here. Blocks on the disk.
    fn look(&self, index: u64) -> io::Result<Option<Vec<u8>>> {
        let library = &self.node.inner.library;
        let store = lock(&self.attached).as_ref().and_then(|attached| attached.fetch.store());
        if let Some(store) = store.filter(|store| store.contains(index)) {
            let mut bytes = library.buffers.take(usize::try_from(self.geometry.len(index)).unwrap_or(0));
            match read_verified(&*store, &self.content, index, &mut bytes) {
                Ok(true) => return Ok(Some(bytes)),
                Ok(false) => library.buffers.give(bytes),
                Err(error) => return Err(error),
            }
        }
        let run = ChunkRun { content: self.content, first: index, count: 1 };
        let placed = lock(&self.placed).clone();
        if let Some(placed) = placed {
            match library.verified_of(&placed, &self.geometry, &run) {
                Some(bytes) => return Ok(Some(bytes)),
                None => *lock(&self.placed) = None,
            }
        }
        Ok(library.verified(&self.geometry, &run))
    }

    /// Waits until a chunk is there, or has to be looked for anew.
    async fn arrived(&self, index: u64, wanted: &Range<u64>) -> Result<(), Arc<Error>> {
        let fetch = self.attach(wanted).await.map_err(Arc::new)?;
        let mut status = fetch.status();
        loop {
            let end = status.borrow_and_update().end.clone();
            if fetch.contains(index) {
                return Ok(());
            }
            let Some(end) = end else {
                // The sender is the fetch's own, so it is not gone.
                let _ = status.changed().await;
                continue;
            };
            drop(lock(&self.attached).take_if(|attached| Arc::ptr_eq(&attached.fetch, &fetch)));
            return match end {
                FetchEnd::Moved => Ok(()),
                FetchEnd::Placed(whole) => {
                    *lock(&self.placed) = Some(whole);
                    Ok(())
                }
                FetchEnd::Failed(error) => Err(error),
            };
        }
    }

    /// Takes part in the fetch of the content; begins one if there is none.
    async fn attach(&self, wanted: &Range<u64>) -> Result<Arc<Fetch>, Error> {
        let attached = lock(&self.attached).as_ref().map(|attached| {
            attached.read(wanted.clone());
            attached.fetch.clone()
        });
        if let Some(fetch) = attached {
            return Ok(fetch);
        }
        let fetches = &self.node.inner.downloads.fetches;
        let attached = match fetches.join(&self.content) {
            Some(attached) => attached,
            None => {
                let folder = self.node.inner.life.dir.path().to_owned();
                let (content, geometry) = (self.content, self.geometry);
                let making = tokio::task::spawn_blocking(move || Fetch::for_readers(content, geometry, &folder));
                let fetch = making.await.map_err(|_| Error::Bug)??;
                let (attached, begun) = fetches.join_or_begin(&fetch).ok_or(Error::Bug)?;
                if begun {
                    tasks::spawn("fetch", serve(self.node.clone(), self.found.clone(), fetch));
                }
                attached
            }
        };
        attached.read(wanted.clone());
        let fetch = attached.fetch.clone();
        *lock(&self.attached) = Some(attached);
        Ok(fetch)
    }
}

/// Most chunks that each of so many readers of one content reads ahead.
fn most_ahead(readers: usize, geometry: &Geometry) -> u64 {
    let bytes = AHEAD_BYTES.min(ALL_AHEAD_BYTES / readers.max(1) as u64);
    (bytes / geometry.chunk_bytes()).max(1)
}

/// Fetches for readers until none is left.
async fn serve(node: Node, found: Checked, fetch: Arc<Fetch>) {
    let inner = &*node.inner;
    let mut ending = Ending::new(&inner.downloads.fetches, fetch.clone(), FetchEnd::Failed(Arc::new(Error::Bug)));
    let Some(store) = fetch.store() else { return };
    let lease = inner.standings.lease().max(inner.config.lease.lease);
    let patience = Patience::new(&GetOptions::default(), lease).limit();
    // What is in the cache is gone soon: nobody is told of it, and no disk is waited for.
    let terms = Terms { sync: false, shares: false, patience, waits: false };
    let says = |_: Said| {};
    let have = ChunkSet::none(store.geometry().chunks());
    let engine = Engine::new(inner, fetch, store, &found, terms, &says);
    let mut phase = inner.life.phase.subscribe();
    let end = tokio::select! {
        end = Box::pin(engine.run(found.clone(), &have)) => end,
        () = Phase::end(&mut phase) => Err(Error::ShuttingDown),
    };
    ending.end = match end {
        Ok(_) | Err(Error::Cancelled) => FetchEnd::Moved,
        Err(error) => FetchEnd::Failed(Arc::new(error)),
    };
}

/// An error as a reader gives it.
fn failed(error: &Arc<Error>) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => io::ErrorKind::NotFound,
        ErrorKind::Unreachable => io::ErrorKind::HostUnreachable,
        ErrorKind::Verification => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readers_read_ahead_is_bounded_for_each_and_for_all() {
        for size in [1 << 20, 1 << 40] {
            let geometry = Geometry::new(size).unwrap();
            assert_eq!(most_ahead(1, &geometry) * geometry.chunk_bytes(), AHEAD_BYTES);
            for readers in 0..=MAX_READERS {
                let bytes = most_ahead(readers, &geometry) * geometry.chunk_bytes();
                // One chunk is wanted in any case.
                let least = geometry.chunk_bytes() * readers as u64;
                assert!(bytes <= AHEAD_BYTES && bytes * readers as u64 <= ALL_AHEAD_BYTES.max(least), "{readers}");
            }
        }
    }

    #[test]
    fn an_error_keeps_its_kind_its_sentence_and_itself() {
        for (error, kind) in [
            (Error::NotFound { name: "a".to_owned() }, io::ErrorKind::NotFound),
            (Error::NoNodes, io::ErrorKind::HostUnreachable),
            (Error::Bug, io::ErrorKind::Other),
        ] {
            let text = error.to_string();
            let failed = failed(&Arc::new(error));
            assert_eq!((failed.kind(), failed.to_string()), (kind, text));
            assert!(failed.get_ref().is_some_and(|inner| inner.is::<Arc<Error>>()));
        }
    }
}
