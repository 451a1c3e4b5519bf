//! What this node has downloaded, wholly or in part, and passes on while it runs.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use swarmdex_protocols::content::{Geometry, Outboard, Proof};
use swarmdex_protocols::{ChunkSet, ContentId, Tree};
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use super::content::{Content, Verified};
use super::hash::FileStamp;
pub(crate) use super::incoming::{Incoming, IncomingGuard};
use super::partial::{PartialError, PartialFile};
use crate::locks::lock;

/// Contents that are held, and nodes of the trees above them, which are in memory (32 bytes each): what was downloaded
/// first makes room.
const MAX_HELD: usize = 4096;
const MAX_NODES: usize = 1 << 20;

/// A download under way.
#[derive(Debug)]
pub(crate) struct Part {
    /// Where its bytes are.
    pub file: PartialFile,
    tree: Mutex<Tree>,
    incoming: Arc<Incoming>,
    /// Whether others may look for it.
    offered: AtomicBool,
    /// Lets the next download of the same content begin when nobody writes or reads this one any more.
    _turn: OwnedMutexGuard<()>,
}

impl Part {
    /// A part of a content, whose turn it is, to be passed on by `holdings`. The turn ends after the file is let go.
    pub(crate) fn new(file: PartialFile, tree: Tree, turn: OwnedMutexGuard<()>, holdings: &Holdings) -> Self {
        let incoming = Arc::new(Incoming::new(holdings.settled.clone()));
        Self { file, tree: Mutex::new(tree), incoming, offered: AtomicBool::new(false), _turn: turn }
    }

    /// The tree above the chunks that are there.
    pub(crate) fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }
}

impl Content for Part {
    fn geometry(&self) -> Geometry {
        *self.tree().geometry()
    }

    fn have(&self) -> ChunkSet {
        self.tree().have().clone()
    }

    fn contains(&self, index: u64) -> bool {
        self.tree().have().contains(index)
    }

    fn proof(&self, index: u64) -> Option<Proof> {
        self.tree().proof(index)
    }

    fn write(&self, chunk: Verified<'_>) -> Result<Vec<u64>, PartialError> {
        self.file.write_chunk(self.geometry().offset(chunk.index), chunk.bytes)?;
        self.tree().insert(chunk.index, chunk.path, chunk.proof);
        Ok(Vec::new())
    }

    fn record(&self, chunks: &[(u64, &Proof)]) -> Result<(), PartialError> {
        self.file.record(chunks.iter().copied())
    }

    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()> {
        if !self.contains(index) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.file.read_chunk(self.geometry().offset(index), bytes)
    }

    fn flush(&self) {
        self.file.flush();
    }

    fn is_resumable(&self) -> bool {
        self.file.is_resumable()
    }

    fn offers(&self) -> ChunkSet {
        let mut chunks = self.have();
        for index in self.incoming.chunks() {
            chunks.insert(index);
        }
        chunks
    }

    fn incoming(&self) -> Option<&Incoming> {
        Some(&self.incoming)
    }
}

/// A file that was downloaded.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    /// Where it is.
    pub path: PathBuf,
    /// As it was: if it changes, it is held no more.
    pub stamp: FileStamp,
    /// The tree above its chunks.
    pub outboard: Arc<Outboard>,
}

/// What is held of a content.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// A download under way.
    Part(Arc<Part>),
    /// A file, and its place in the order of those that came whole.
    Whole(Whole, Geometry, u64),
}

impl Held {
    pub(super) fn geometry(&self) -> Geometry {
        match self {
            Self::Part(part) => *part.tree().geometry(),
            Self::Whole(_, geometry, _) => *geometry,
        }
    }

    pub(super) fn proof(&self, index: u64) -> Option<Proof> {
        match self {
            Self::Part(part) => part.tree().proof(index),
            Self::Whole(whole, ..) => whole.outboard.proof(index),
        }
    }

    /// Whether others may look for it in the DHT: what is one chunk costs less than the search.
    fn is_large(&self) -> bool {
        self.geometry().chunks() > 1
    }
}

#[derive(Debug, Default)]
struct HoldingsTable {
    held: HashMap<ContentId, Held>,
    /// Whole files, the oldest first. Each knows its place, so that none is searched for.
    order: BTreeMap<u64, ContentId>,
    last: u64,
    nodes: usize,
}

/// What is held; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Holdings {
    table: Arc<Mutex<HoldingsTable>>,
    generation: Arc<watch::Sender<u64>>,
    settled: Arc<Notify>,
}

impl Default for Holdings {
    fn default() -> Self {
        Self { table: Arc::default(), generation: Arc::new(watch::Sender::new(0)), settled: Arc::default() }
    }
}

impl Holdings {
    /// Passes on what a download has so far to those who ask; its end is told by [`Holdings::complete`] or
    /// [`Holdings::forget`].
    pub(crate) fn begin(&self, content: ContentId, part: Arc<Part>) {
        lock(&self.table).held.entry(content).or_insert(Held::Part(part));
    }

    /// From here on others may look for what a download has so far.
    pub(crate) fn offer(&self, content: &ContentId) {
        if let Some(Held::Part(part)) = self.get(content) {
            part.offered.store(true, Ordering::Relaxed);
            self.changed();
        }
    }

    /// A download came to its end.
    pub(crate) fn complete(&self, content: ContentId, geometry: Geometry, whole: Whole) {
        let mut table = lock(&self.table);
        let mut told = table.remove(&content);
        table.nodes += whole.outboard.as_bytes().len() / 32;
        table.last += 1;
        let (place, held) = (table.last, Held::Whole(whole, geometry, table.last));
        told |= held.is_large();
        table.held.insert(content, held);
        table.order.insert(place, content);
        while table.order.len() > MAX_HELD || table.nodes > MAX_NODES {
            let Some((_, oldest)) = table.order.pop_first() else { break };
            told |= table.remove(&oldest);
        }
        drop(table);
        self.ended(told);
    }

    /// A content is held no more.
    pub(crate) fn forget(&self, content: &ContentId) {
        let told = lock(&self.table).remove(content);
        self.ended(told);
    }

    pub(super) fn get(&self, content: &ContentId) -> Option<Held> {
        lock(&self.table).held.get(content).cloned()
    }

    /// Which chunks of a content are held; `None` of one that is held whole.
    pub(super) fn chunks(&self, content: &ContentId) -> Option<Option<ChunkSet>> {
        match self.get(content)? {
            Held::Whole(..) => Some(None),
            Held::Part(part) => Some(Some(part.offers())),
        }
    }

    /// Whether a content is being downloaded: whoever asks for it here does so in a crowd.
    pub(crate) fn is_part(&self, content: &ContentId) -> bool {
        matches!(lock(&self.table).held.get(content), Some(Held::Part(_)))
    }

    /// A chunk begins to arrive. `None` unless its content is passed on while it comes. Others may ask for it until the
    /// guard is dropped or [`Content::settle`] is called.
    pub(crate) fn expect(&self, content: &ContentId, index: u64) -> Option<IncomingGuard> {
        match self.get(content)? {
            // One that comes twice is here already.
            Held::Part(part) if !part.tree().have().contains(index) => part.incoming.begin(index),
            _ => None,
        }
    }

    /// Whether a chunk is on its way here.
    pub(crate) fn is_incoming(&self, content: &ContentId, index: u64) -> bool {
        matches!(self.get(content), Some(Held::Part(part)) if part.incoming.contains(index))
    }

    /// Waits until chunks are no longer on their way: they are there, or do not come.
    pub(crate) async fn settled(&self) {
        self.settled.notified().await;
    }

    /// Contents that others may look for: those of more than one chunk.
    pub(crate) fn contents(&self) -> Vec<ContentId> {
        let table = lock(&self.table);
        let offered = |held: &Held| match held {
            Held::Part(part) => part.offered.load(Ordering::Relaxed),
            Held::Whole(..) => true,
        };
        let large = table.held.iter().filter(|(_, held)| held.is_large() && offered(held));
        large.map(|(content, _)| *content).collect()
    }

    /// Changes whenever others may look for something more, or less.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// A download is over. Whoever publishes goes through all that this node shares. So it hears of what others may
    /// look for, and of nothing else: thousands of small files come in a second.
    fn ended(&self, told: bool) {
        self.settled.notify_one();
        if told {
            self.changed();
        }
    }

    fn changed(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl HoldingsTable {
    /// Whether something went that others could look for.
    fn remove(&mut self, content: &ContentId) -> bool {
        let held = self.held.remove(content);
        if let Some(Held::Whole(whole, _, place)) = &held {
            self.nodes -= whole.outboard.as_bytes().len() / 32;
            self.order.remove(place);
        }
        held.is_some_and(|held| held.is_large())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn complete(holdings: &Holdings, number: u64, size: u64) {
        let geometry = Geometry::new(size).unwrap();
        let metadata = std::fs::metadata("/").unwrap();
        assert!(metadata.ino() > 0);
        let whole = Whole {
            path: "/nowhere".into(),
            stamp: FileStamp::of(&metadata),
            outboard: Arc::new(Outboard::empty(geometry)),
        };
        holdings.complete(ContentId::of(&number.to_be_bytes()), geometry, whole);
    }

    #[test]
    fn those_who_publish_hear_of_nothing_that_they_do_not_publish() {
        let holdings = Holdings::default();
        let mut generation = holdings.generation();
        for number in 0..10 {
            complete(&holdings, number, 1);
        }
        holdings.forget(&ContentId::of(&0u64.to_be_bytes()));
        assert!(!generation.has_changed().unwrap());
        assert!(holdings.contents().is_empty());
        complete(&holdings, 10, 1 << 20);
        assert!(generation.has_changed().unwrap());
        assert_eq!(holdings.contents().len(), 1);
        generation.mark_unchanged();
        holdings.forget(&ContentId::of(&10u64.to_be_bytes()));
        assert!(generation.has_changed().unwrap());
    }

    #[test]
    fn what_comes_again_takes_the_place_of_the_latest() {
        let holdings = Holdings::default();
        for number in 0..3 {
            complete(&holdings, number, 1);
        }
        complete(&holdings, 0, 1);
        holdings.forget(&ContentId::of(&2u64.to_be_bytes()));
        let table = lock(&holdings.table);
        let order: Vec<_> = table.order.values().copied().collect();
        assert_eq!(order, [1, 0].map(|number: u64| ContentId::of(&number.to_be_bytes())));
        assert_eq!(table.held.len(), 2);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let holdings = Holdings::default();
        for number in 0..MAX_HELD as u64 + 10 {
            complete(&holdings, number, 1);
        }
        let table = lock(&holdings.table);
        assert_eq!((table.held.len(), table.order.len()), (MAX_HELD, MAX_HELD));
        assert!(!table.held.contains_key(&ContentId::of(&0u64.to_be_bytes())));
    }
}
