//! Chunks for those who read a content that goes to no file: a file without a name, of bounded size. What was written first and
//! nobody waits for makes room.
//!
//! It is a file because what is read ahead for many readers is more than a node should keep in memory. The system keeps
//! in memory what it has room for. It has no name, so a crash leaves nothing behind.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{CWD, Mode, OFlags};
use swarmdex_protocols::ChunkSet;
use swarmdex_protocols::content::{Geometry, Proof};

use super::content::{Content, Verified};
use super::partial::{PartialError, failed};
use crate::locks::lock;

/// Bytes that one cache keeps on disk, unless more are waited for at a time.
const CACHE_BYTES: u64 = 64 << 20;

/// Whether somebody waits for a chunk, which therefore makes no room for others.
type Keeps = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// A cache of one content.
pub(crate) struct Cache {
    geometry: Geometry,
    /// The folder that it is in, for errors.
    folder: PathBuf,
    keeps: Keeps,
    /// Most chunks, unless more are waited for.
    most: usize,
    state: Mutex<CacheState>,
}

struct CacheState {
    file: File,
    /// Where each chunk is, counted in chunks from the begin of the file, and its proof.
    chunks: BTreeMap<u64, (u64, Proof)>,
    /// In the order in which they were written.
    order: VecDeque<u64>,
    /// Places that are free again.
    free: Vec<u64>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("folder", &self.folder).field("most", &self.most).finish_non_exhaustive()
    }
}

impl Cache {
    /// An empty cache on the disk of `folder`. What `keeps` says of stays. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk has no place for a file.
    pub(crate) fn new(
        folder: &Path,
        geometry: Geometry,
        keeps: impl Fn(u64) -> bool + Send + Sync + 'static,
    ) -> Result<Self, PartialError> {
        let file = unnamed(folder).map_err(failed("write", folder, CACHE_BYTES))?;
        let most = usize::try_from(CACHE_BYTES / geometry.chunk_bytes()).unwrap_or(usize::MAX).max(1);
        let state = CacheState { file, chunks: BTreeMap::new(), order: VecDeque::new(), free: Vec::new() };
        Ok(Self { geometry, folder: folder.to_owned(), keeps: Box::new(keeps), most, state: Mutex::new(state) })
    }

    fn at(&self, place: u64) -> u64 {
        place.saturating_mul(self.geometry.chunk_bytes())
    }
}

impl CacheState {
    /// Makes room until one more chunk fits: which were dropped.
    fn make_room(&mut self, most: usize, keeps: &Keeps) -> Vec<u64> {
        let mut dropped = Vec::new();
        while self.chunks.len() >= most {
            let Some(at) = self.order.iter().position(|index| !keeps(*index)) else { break };
            let Some(index) = self.order.remove(at) else { break };
            if let Some((place, _)) = self.chunks.remove(&index) {
                self.free.push(place);
            }
            dropped.push(index);
        }
        dropped
    }

    /// A place that no chunk has. Those in use and those that are free make one row.
    fn place(&mut self) -> u64 {
        self.free.pop().unwrap_or(self.chunks.len() as u64)
    }
}

impl Content for Cache {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn have(&self) -> ChunkSet {
        let mut have = ChunkSet::none(self.geometry.chunks());
        for index in lock(&self.state).chunks.keys() {
            have.insert(*index);
        }
        have
    }

    fn contains(&self, index: u64) -> bool {
        lock(&self.state).chunks.contains_key(&index)
    }

    fn proof(&self, index: u64) -> Option<Proof> {
        lock(&self.state).chunks.get(&index).map(|(_, proof)| proof.clone())
    }

    fn write(&self, chunk: Verified<'_>) -> Result<Vec<u64>, PartialError> {
        let mut state = lock(&self.state);
        if state.chunks.contains_key(&chunk.index) {
            return Ok(Vec::new());
        }
        let dropped = state.make_room(self.most, &self.keeps);
        let place = state.place();
        if let Err(error) = state.file.write_all_at(chunk.bytes, self.at(place)) {
            state.free.push(place);
            return Err(failed("write", &self.folder, CACHE_BYTES)(error));
        }
        state.chunks.insert(chunk.index, (place, chunk.proof.clone()));
        state.order.push_back(chunk.index);
        Ok(dropped)
    }

    fn record(&self, _: &[(u64, &Proof)]) -> Result<(), PartialError> {
        Ok(())
    }

    fn read(&self, index: u64, bytes: &mut [u8]) -> io::Result<()> {
        // Held while it is read, or the place could be another chunk's meanwhile.
        let state = lock(&self.state);
        let (place, _) = state.chunks.get(&index).ok_or(io::ErrorKind::NotFound)?;
        state.file.read_exact_at(bytes, self.at(*place))
    }
}

/// A file without a name on the disk of a folder.
fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    // Not every file system has such files: one that loses its name at once will do.
    let path = folder.join(format!(".swarmdex-cache-{:016x}", rand::random::<u64>()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use swarmdex_protocols::ContentId;
    use swarmdex_protocols::content::{Outboard, check_chunk, chunk_value};
    use tempfile::TempDir;

    use super::super::content::read_verified;
    use super::*;

    const CHUNK: usize = 256 << 10;

    struct Made {
        bytes: Vec<u8>,
        geometry: Geometry,
        outboard: Outboard,
        content: ContentId,
    }

    fn made(chunks: usize) -> Made {
        let bytes: Vec<u8> = (0..chunks * CHUNK - 7).map(|number| (number / 1000) as u8).collect();
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        let values = bytes.chunks(CHUNK).enumerate().map(|(index, chunk)| chunk_value(&geometry, index as u64, chunk));
        let (outboard, content) = Outboard::build(geometry, values.collect()).unwrap();
        Made { bytes, geometry, outboard, content }
    }

    impl Made {
        fn chunk(&self, index: u64) -> &[u8] {
            let begin = self.geometry.offset(index) as usize;
            &self.bytes[begin..begin + self.geometry.len(index) as usize]
        }

        fn write(&self, cache: &Cache, index: u64) -> Vec<u64> {
            let (bytes, proof) = (self.chunk(index), self.outboard.proof(index).unwrap());
            let path = check_chunk(&self.content, &self.geometry, index, bytes, &proof).unwrap();
            cache.write(Verified { index, bytes, path: &path, proof: &proof }).unwrap()
        }

        fn is_right(&self, cache: &Cache, index: u64) -> bool {
            let mut bytes = vec![0; self.geometry.len(index) as usize];
            read_verified(cache, &self.content, index, &mut bytes).unwrap() && bytes == self.chunk(index)
        }
    }

    #[test]
    fn what_was_written_first_makes_room_and_what_is_waited_for_stays() {
        let (folder, made) = (TempDir::new().unwrap(), made(400));
        let most = (CACHE_BYTES / CHUNK as u64) as usize;
        let waits = Arc::new(AtomicU64::new(3));
        let waited = waits.clone();
        let cache =
            Cache::new(folder.path(), made.geometry, move |index| index < waited.load(Ordering::Relaxed)).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
        for index in 0..most as u64 {
            assert!(made.write(&cache, index).is_empty());
        }
        assert!(made.write(&cache, 5).is_empty(), "it is there");
        assert_eq!(made.write(&cache, 300), [3]);
        assert_eq!(made.write(&cache, 399), [4]);
        assert!(!cache.contains(3) && cache.proof(3).is_none() && cache.have().len() == most as u64);
        for index in [0, 1, 2, 5, 300, 399] {
            assert!(made.is_right(&cache, index), "{index}");
        }
        let mut bytes = vec![0; CHUNK];
        assert_eq!(cache.read(3, &mut bytes).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Nothing that is waited for is dropped; afterwards the cache is as small as before.
        waits.store(400, Ordering::Relaxed);
        assert!(made.write(&cache, 301).is_empty() && cache.have().len() == most as u64 + 1);
        waits.store(0, Ordering::Relaxed);
        assert_eq!(made.write(&cache, 302), [0, 1]);
        assert!(cache.have().iter().all(|index| made.is_right(&cache, index)));
        assert!(lock(&cache.state).file.metadata().unwrap().len() <= CACHE_BYTES + CHUNK as u64);
    }

    #[test]
    fn a_chunk_that_changed_on_disk_is_not_given_out() {
        let (folder, made) = (TempDir::new().unwrap(), made(3));
        let cache = Cache::new(folder.path(), made.geometry, |_| false).unwrap();
        made.write(&cache, 2);
        assert!(made.is_right(&cache, 2));
        lock(&cache.state).file.write_all_at(b"!", 100).unwrap();
        assert!(!made.is_right(&cache, 2));
    }
}
