//! Content ids of files: BLAKE3 on several threads at once, over chunks of one file or of many.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::content::{ChainingValue, FileTooLarge, Geometry, Outboard, chunk_value};

use super::straight::open_straight;
use crate::locks::lock;

/// How often a file that changes while it is hashed is hashed again.
const ATTEMPTS: usize = 3;

/// What tells whether a file changed: anything that writes to it changes one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    /// Length in bytes.
    pub len: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Change time of the inode in nanoseconds since 1970; unlike the modification time it cannot be set back.
    pub ctime_ns: i64,
    /// Inode. The device is no part of it: a disk that is mounted again may get another number.
    pub inode: u64,
    /// Whether its owner may execute it. It changes together with the change time.
    pub executable: bool,
}

impl FileStamp {
    /// The stamp of a file.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            len: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            executable: metadata.mode() & 0o100 != 0,
        }
    }
}

impl FileStamp {
    /// One that no file has: the change time is none that a file system gives.
    pub(crate) fn distrusted(self) -> Self {
        Self { ctime_ns: i64::MIN, ..self }
    }

    /// Whether it is of the same file in the same state, as far as is written down of a stamp: all but the executable bit.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        self.is_alike(other) && self.ctime_ns == other.ctime_ns
    }

    /// Whether it is of the same file in the same state, renamed or not: a rename changes the change time.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        (self.len, self.mtime_ns, self.inode) == (other.len, other.mtime_ns, other.inode)
    }
}

/// A hashed file.
#[derive(Debug, Clone)]
pub(crate) struct Hashed {
    /// Content id.
    pub content: ContentId,
    /// The tree above its chunks.
    pub outboard: Outboard,
    /// The file as it was.
    pub stamp: FileStamp,
}

/// Why a file has no content id.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device, a pipe or a link.
    #[error("{path} is no regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// It changes faster than it can be read.
    #[error("{path} changes while it is read; it is taken up when it is at rest")]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than any file may be.
    #[error("{path}: {source}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        #[source]
        source: FileTooLarge,
    },
    /// Whoever asked no longer wants to know.
    #[error("hashing was cancelled")]
    Cancelled,
}

/// Opens a regular file for reading. A pipe does not hold this up, and no link is followed, on the way to the file
/// either. The path has none when it is shared, and one that appears later could lead anywhere.
pub(crate) fn open_regular(path: &Path) -> Result<(File, FileStamp), HashError> {
    let failed = |source| HashError::Io { path: path.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match open_straight(CWD, path, flags) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(HashError::NotRegular { path: path.to_owned() }),
        Err(error) => return Err(failed(error.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(HashError::NotRegular { path: path.to_owned() });
    }
    Ok((file, FileStamp::of(&metadata)))
}

/// Number of threads that `threads` stands for: 0 means one for each processor.
pub(crate) fn thread_count(threads: usize) -> usize {
    if threads > 0 { threads } else { std::thread::available_parallelism().map_or(2, usize::from) }
}

/// Hashes one file on up to `threads` threads. `done` counts the bytes read so far.
pub(crate) fn hash_file(
    path: &Path,
    threads: usize,
    done: &AtomicU64,
    cancel: &AtomicBool,
) -> Result<Hashed, HashError> {
    for _ in 0..ATTEMPTS {
        let (file, stamp) = open_regular(path)?;
        let geometry =
            Geometry::new(stamp.len).map_err(|source| HashError::TooLarge { path: path.to_owned(), source })?;
        let before = done.load(Ordering::Relaxed);
        let hashed = hash_open(&file, path, geometry, threads, done, cancel);
        let after = file.metadata().map_err(|source| HashError::Io { path: path.to_owned(), source })?;
        match hashed {
            Ok((content, outboard)) if FileStamp::of(&after) == stamp => {
                return Ok(Hashed { content, outboard, stamp });
            }
            // A file that was cut short meanwhile ends before its time: it changed.
            Ok(_) => {}
            Err(HashError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        done.store(before, Ordering::Relaxed);
    }
    Err(HashError::Changing { path: path.to_owned() })
}

fn hash_open(
    file: &File,
    path: &Path,
    geometry: Geometry,
    threads: usize,
    done: &AtomicU64,
    cancel: &AtomicBool,
) -> Result<(ContentId, Outboard), HashError> {
    let failed = |source| HashError::Io { path: path.to_owned(), source };
    if geometry.chunks() == 1 {
        let length = usize::try_from(geometry.size()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        done.fetch_add(geometry.size(), Ordering::Relaxed);
        return Ok((ContentId::of(&bytes), Outboard::empty(geometry)));
    }
    let values = chunk_values(file, geometry, threads, done, cancel).map_err(failed)?;
    if cancel.load(Ordering::Relaxed) {
        return Err(HashError::Cancelled);
    }
    let Some((outboard, content)) = Outboard::build(geometry, values) else {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    };
    Ok((content, outboard))
}

/// The chaining values of all chunks; the threads take chunks in turn.
fn chunk_values(
    file: &File,
    geometry: Geometry,
    threads: usize,
    done: &AtomicU64,
    cancel: &AtomicBool,
) -> io::Result<Vec<ChainingValue>> {
    /// Chunks that a thread takes at a time, so that each reads in sequence for a while.
    const STRIDE: u64 = 16;
    let chunks = geometry.chunks();
    let values = Mutex::new(vec![[0; 32]; usize::try_from(chunks).map_err(io::Error::other)?]);
    let next = AtomicU64::new(0);
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; usize::try_from(geometry.chunk_bytes()).map_err(io::Error::other)?];
        let mut found = Vec::with_capacity(STRIDE as usize);
        loop {
            let first = next.fetch_add(STRIDE, Ordering::Relaxed);
            if first >= chunks || cancel.load(Ordering::Relaxed) {
                return Ok(());
            }
            found.clear();
            for index in first..(first + STRIDE).min(chunks) {
                let length = geometry.len(index) as usize;
                file.read_exact_at(&mut buffer[..length], geometry.offset(index))?;
                found.push(chunk_value(&geometry, index, &buffer[..length]));
                done.fetch_add(length as u64, Ordering::Relaxed);
            }
            let first = first as usize;
            let mut values = lock(&values);
            values[first..first + found.len()].copy_from_slice(&found);
        }
    };
    let helpers = threads.min(usize::try_from(chunks.div_ceil(STRIDE)).unwrap_or(1)).max(1) - 1;
    std::thread::scope(|scope| {
        let others: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            result = result.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a hashing thread panicked"))));
        }
        result
    })?;
    Ok(values.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn hash(path: &Path) -> Result<Hashed, HashError> {
        hash_file(path, 3, &AtomicU64::new(0), &AtomicBool::new(false))
    }

    #[test]
    fn a_content_id_is_the_plain_hash_of_the_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, 1024, 256 << 10, (256 << 10) + 1, 20 * (256 << 10) + 77] {
            let bytes: Vec<u8> = (0..length).map(|number: usize| (number * 7 + number / 256) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let done = AtomicU64::new(0);
            let hashed = hash_file(&path, 2, &done, &AtomicBool::new(false)).unwrap();
            assert_eq!(hashed.content, ContentId::of(&bytes), "{length} bytes");
            assert_eq!(done.into_inner(), length as u64);
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [&link, &fifo, &folder.path().to_owned(), &PathBuf::from("/dev/null")] {
            assert!(matches!(hash(path), Err(HashError::NotRegular { .. })), "{path:?}");
        }
        assert!(matches!(hash(&folder.path().join("none")), Err(HashError::Io { .. })));
    }

    #[test]
    fn hashing_stops_when_told_to() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let error = hash_file(&path, 2, &AtomicU64::new(0), &AtomicBool::new(true)).unwrap_err();
        assert!(matches!(error, HashError::Cancelled));
    }
}
