//! Chunks for others, with their proofs.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use swarmdex_protocols::content::{Geometry, Outboard, Proof};
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchResponse, Header};
use swarmdex_protocols::{ContentId, Name};

use super::{ShareError, ShareTable, SharedEntry, lock, with_cause};
use crate::buffers::Buffers;
use crate::storage::durable::{sync_files, sync_folder};
use crate::storage::hash::{FileStamp, HashError, open_regular};
use crate::storage::private;
use crate::storage::verify::{is_right, unread};

/// Whether it is the disk that fails, and not the file that is gone or closed to this node.
fn is_failing(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let errors = [
        Errno::IO,
        Errno::NOTCONN,
        Errno::STALE,
        Errno::TIMEDOUT,
        Errno::HOSTDOWN,
        Errno::REMOTEIO,
        Errno::NODEV,
        Errno::NXIO,
    ];
    Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
}

/// Files with one content that are looked at after a complaint.
const CHECKED: usize = 16;
/// Outboards that are kept in memory.
const KEPT: usize = 16;
/// Outboards that are not known to be on disk, at most.
const UNSYNCED: usize = 1024;
/// Outboards that are synced at a time, and open meanwhile.
const SYNCED_TOGETHER: usize = 64;

/// The trees above the chunks of shared files, one file for each content of more than one chunk.
#[derive(Debug)]
pub(super) struct Outboards {
    folder: PathBuf,
    kept: Mutex<VecDeque<(ContentId, Arc<Outboard>)>>,
    unsynced: Mutex<Vec<PathBuf>>,
}

impl Outboards {
    pub(super) fn open(data_dir: &Path) -> Result<Self, ShareError> {
        let folder = data_dir.join("outboards");
        private::make_folder(&folder).map_err(|source| ShareError::Outboard { path: folder.clone(), source })?;
        Ok(Self { folder, kept: Mutex::default(), unsynced: Mutex::default() })
    }

    fn path(&self, content: &ContentId) -> PathBuf {
        self.folder.join(content.to_string())
    }

    /// Whether proofs can be made for a content of `size` bytes. What this run has not served yet is checked: a power cut may have left
    /// the name of a file, and not its bytes.
    pub(super) fn has(&self, content: &ContentId, size: u64, served: bool) -> bool {
        let there =
            |geometry| if served { self.path(content).is_file() } else { self.look_up(content, geometry).is_some() };
        Geometry::new(size).is_ok_and(|geometry| geometry.chunks() == 1 || there(geometry))
    }

    /// Waits until all that is kept is on disk.
    pub(super) fn sync(&self) -> Result<(), ShareError> {
        let unsynced = std::mem::take(&mut *lock(&self.unsynced));
        for paths in unsynced.chunks(SYNCED_TOGETHER) {
            // Some may be gone again.
            let (there, files): (Vec<_>, _) =
                paths.iter().filter_map(|path| Some((path, Arc::new(File::open(path).ok()?)))).unzip();
            for (path, outcome) in there.iter().zip(sync_files(files)) {
                outcome.map_err(|source| ShareError::Outboard { path: path.to_path_buf(), source })?;
            }
        }
        let failed = |source| ShareError::Outboard { path: self.folder.clone(), source };
        if unsynced.is_empty() { Ok(()) } else { sync_folder(&self.folder).map_err(failed) }
    }

    /// Keeps the values of the chunks; the levels above are computed, and so checked, when they are read.
    pub(super) fn keep(&self, content: &ContentId, outboard: &Outboard) -> Result<(), ShareError> {
        let leaves = outboard.leaf_bytes();
        if leaves.is_empty() {
            return Ok(());
        }
        let path = self.path(content);
        let new = self.folder.join(format!(".{content}.new"));
        let write = || {
            private::write(&new, leaves)?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| ShareError::Outboard { path: path.clone(), source })?;
        let many = {
            let mut unsynced = lock(&self.unsynced);
            unsynced.push(path);
            unsynced.len() >= UNSYNCED
        };
        if many { self.sync() } else { Ok(()) }
    }

    /// The outboard of a content; `None` if it is not kept, or damaged.
    fn read(&self, content: &ContentId, geometry: Geometry) -> Option<Arc<Outboard>> {
        if let Some((_, outboard)) = lock(&self.kept).iter().find(|(other, _)| other == content) {
            return Some(outboard.clone());
        }
        let outboard = Arc::new(self.look_up(content, geometry)?);
        let mut kept = lock(&self.kept);
        kept.push_front((*content, outboard.clone()));
        kept.truncate(KEPT);
        Some(outboard)
    }

    /// What is on disk, checked.
    fn look_up(&self, content: &ContentId, geometry: Geometry) -> Option<Outboard> {
        let bytes = fs::read(self.path(content)).ok()?;
        let (values, rest) = bytes.as_chunks::<32>();
        let built = Outboard::build(geometry, values.to_vec()).filter(|(_, root)| root == content && rest.is_empty());
        if built.is_none() {
            // Gone, it is made anew with the hash.
            let _ = fs::remove_file(self.path(content));
        }
        built.map(|(outboard, _)| outboard)
    }
}

impl ShareTable {
    /// Chunks of a shared file with their proofs. Blocks on the disk.
    pub(in crate::storage) fn read(&self, run: &ChunkRun, buffers: &Buffers) -> Result<FetchResponse, FetchRefusal> {
        let mut refusal = FetchRefusal::NotFound;
        // One after the other: thousands of names may have the same content, and the first is mostly the one that is read.
        let mut before = None;
        while let Some(entry) = self.with_content(&run.content, before.as_ref()) {
            match self.read_from(&entry, run, buffers) {
                Ok(response) => return Ok(response),
                Err(other) => {
                    if other == FetchRefusal::Changed {
                        self.mark_stale(&entry);
                    }
                    refusal = other;
                }
            }
            before = Some(entry.name);
        }
        Err(refusal)
    }

    /// Looks whether the files that are shared with a content still have these chunks of it. Those that do not are withdrawn,
    /// and hashed anew whatever their times say. Blocks on the disk.
    pub(in crate::storage) fn check(&self, run: &ChunkRun, buffers: &Buffers) {
        let mut before = None;
        for _ in 0..CHECKED {
            let Some(entry) = self.with_content(&run.content, before.as_ref()) else { return };
            match (self.read_from(&entry, run, buffers), Geometry::new(entry.size)) {
                (Ok(response), Ok(geometry)) => {
                    if !is_right(run, &geometry, &response) {
                        self.withdraw_changed(&entry);
                    }
                    buffers.give(response.body);
                }
                (Err(FetchRefusal::Changed), _) => self.mark_stale(&entry),
                _ => {}
            }
            before = Some(entry.name);
        }
    }

    /// A file has other bytes than its times say.
    fn withdraw_changed(&self, entry: &SharedEntry) {
        tracing::warn!(
            name = %entry.name,
            path = %entry.path.display(),
            "the file changed since it was shared, and its times do not say so, as those of databases and images that programs \
             have mapped: withdrawn until it is hashed anew"
        );
        if let Err(error) = lock(&self.shared.database).distrust(&entry.path) {
            tracing::warn!(error = with_cause(&error), "a hash cannot be forgotten");
        }
        self.change(|table| {
            table.distrust(&entry.name);
            table.stale.insert(entry.path.clone());
        });
    }

    /// Whether a file with this content is shared.
    pub(crate) fn has(&self, content: &ContentId) -> bool {
        self.with_content(content, None).is_some()
    }

    /// The first file with a content whose name comes after another.
    fn with_content(&self, content: &ContentId, after: Option<&Name>) -> Option<SharedEntry> {
        lock(&self.shared.table).with_content(content, after).cloned()
    }

    fn mark_stale(&self, entry: &SharedEntry) {
        tracing::info!(name = %entry.name, path = %entry.path.display(), "the file changed since it was shared");
        let new = lock(&self.shared.table).stale.insert(entry.path.clone());
        if new {
            self.shared.generation.send_modify(|generation| *generation += 1);
        }
    }

    fn read_from(
        &self,
        entry: &SharedEntry,
        request: &ChunkRun,
        buffers: &Buffers,
    ) -> Result<FetchResponse, FetchRefusal> {
        let geometry = Geometry::new(entry.size).map_err(|_| FetchRefusal::Range)?;
        let range = request.range(&geometry)?;
        let outboard = if geometry.chunks() == 1 {
            Arc::new(Outboard::empty(geometry))
        } else {
            // An outboard that is lost or damaged is made anew with the hash.
            self.shared.outboards.read(&entry.content, geometry).ok_or(FetchRefusal::Changed)?
        };
        let proofs = (request.first..request.first + u64::from(request.count))
            .map(|index| outboard.proof(index))
            .collect::<Option<Vec<Proof>>>()
            .ok_or(FetchRefusal::Range)?;
        let _reading = self.shared.reads.begin(&entry.path, Instant::now()).ok_or(FetchRefusal::Storage)?;
        let (file, stamp) = open_regular(&entry.path).map_err(|error| match error {
            // A disk that fails has not forgotten the file.
            HashError::Io { source, .. } if is_failing(&source) => FetchRefusal::Storage,
            _ => FetchRefusal::Changed,
        })?;
        if stamp != entry.stamp {
            return Err(FetchRefusal::Changed);
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| FetchRefusal::Range)?;
        let mut body = buffers.take(length);
        file.read_exact_at(&mut body, range.start).map_err(|error| unread(&error))?;
        // A change while it was read would show here; one that does not is caught by the receiver.
        let after = file.metadata().map_err(|_| FetchRefusal::Storage)?;
        if FileStamp::of(&after) != entry.stamp {
            return Err(FetchRefusal::Changed);
        }
        let bytes = u32::try_from(length).map_err(|_| FetchRefusal::Range)?;
        Ok(FetchResponse { header: Header::Chunks { bytes, proofs, have: Vec::new() }, body })
    }
}
