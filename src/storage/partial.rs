//! Downloads on their way: a hidden file beside the target, renamed into place when it is whole. Beside it is a journal
//! of the chunks that were verified, so that a download goes on where it was cut off.

#[cfg(test)]
mod crash;
mod error;
mod folders;
mod journal;
mod placing;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub(super) use error::failed;
use error::unnamed;
pub(crate) use error::{Lack, PartialError};
use folders::folder_of;
pub(crate) use folders::{make_parents, output_path, sync_folders_of, sync_made};
use journal::Journal;
pub(crate) use placing::{Placing, Unplaced, set_attributes};
use placing::{apply, check_place, is_taken, rename_new, rename_over};
use swarmdex_protocols::content::{Geometry, Proof, check_chunk};
use swarmdex_protocols::{ContentId, Tree};

use rustix::fs::{FallocateFlags, statvfs};
use rustix::io::Errno;

use super::durable::sync_folder;

/// End of the names of partial files.
const SUFFIX: &str = ".swarmdex-part";
/// End of the names of their journals.
const JOURNAL: &str = ".swarmdex-log";
/// Longest file name, in bytes.
const MAX_FILE_NAME: usize = 255;

/// A file that is being downloaded. Dropping it without [`PartialFile::finish`] leaves it for another attempt if
/// there is a journal with anything in it, and removes it otherwise.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: Arc<File>,
    path: PathBuf,
    target: PathBuf,
    size: u64,
    placing: Placing,
    journal: Option<Journal>,
    finished: AtomicBool,
    discarded: AtomicBool,
    /// What the system said when bytes could not be written to the disk. It says so once.
    lost: OnceLock<i32>,
}

impl PartialFile {
    /// Begins a file of `size` bytes that will be at `target`, whose folder exists. Room for it is set aside at once,
    /// so that a full disk shows before the first byte is fetched.
    #[cfg(test)]
    pub(crate) fn create(target: &Path, size: u64) -> Result<Self, PartialError> {
        Self::create_for(target, size, Placing::default())
    }

    /// Makes the hidden file for a target with its own way of being put in place.
    fn create_for(target: &Path, size: u64, placing: Placing) -> Result<Self, PartialError> {
        let partial = Self::open(target, size, placing)?;
        partial.reserve()?;
        Ok(partial)
    }

    /// Begins a file with this content, or goes on with one that was cut off: the tree says which chunks are there. Each
    /// was read and verified again, so what was damaged meanwhile is not among them.
    pub(crate) fn resume(
        target: &Path,
        content: ContentId,
        geometry: Geometry,
        placing: Placing,
    ) -> Result<(Self, Tree), PartialError> {
        let mut partial = Self::open(target, geometry.size(), placing)?;
        let mut tree = Tree::new(content, geometry);
        if geometry.chunks() == 1 {
            partial.reserve()?;
            return Ok((partial, tree));
        }
        let name = side_name(target.file_name().unwrap_or_default(), JOURNAL, longest_name(folder_of(target)));
        let path = partial.path.with_file_name(name);
        let whole = partial.file.metadata().is_ok_and(|metadata| metadata.len() == geometry.size());
        let (mut journal, records) = match Journal::open(&path, &content, geometry.size()) {
            Ok((journal, records)) => (Some(journal), records),
            // Room for the file and not for this: then it does not go on where it was cut off.
            Err(error) if Lack::of(&error, &path).is_some() => (None, Vec::new()),
            Err(error) => return Err(failed("write", &path, geometry.size())(error)),
        };
        let mut bytes = Vec::new();
        for (index, proof) in records.iter().filter(|(index, _)| whole && *index < geometry.chunks()) {
            bytes.resize(usize::try_from(geometry.len(*index)).unwrap_or(0), 0);
            if partial.file.read_exact_at(&mut bytes, geometry.offset(*index)).is_ok()
                && let Ok(found) = check_chunk(&content, &geometry, *index, &bytes, proof)
            {
                tree.insert(*index, &found, proof);
            }
        }
        if !tree.have().is_empty() {
            // From here on it is removed together with the file.
            partial.journal = journal;
            return Ok((partial, tree));
        }
        // The file first: it needs its room more.
        partial.reserve().inspect_err(|_| journal.iter().for_each(Journal::remove))?;
        if let Some(Err(error)) = journal.as_ref().map(Journal::clear) {
            journal.iter().for_each(Journal::remove);
            if Lack::of(&error, &path).is_none() {
                return Err(failed("write", &path, geometry.size())(error));
            }
            journal = None;
        }
        partial.journal = journal;
        Ok((partial, tree))
    }

    /// Opens the hidden file, and locks it.
    fn open(target: &Path, size: u64, placing: Placing) -> Result<Self, PartialError> {
        let name = target.file_name().ok_or_else(|| PartialError::NoFile { path: target.to_owned() })?;
        let folder = folder_of(target);
        let path = folder.join(side_name(name, SUFFIX, longest_name(folder)));
        let free = check_place(target, placing.over.as_ref());
        // Whose it is shows when it is locked.
        let taken = free.is_err() && placing.over.is_none() && is_taken(target, &path, size);
        if !taken {
            free?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32)
            .open(&path)
            .map_err(unnamed(target, &path, size))?;
        if !file.metadata().map_err(failed("look at", &path, size))?.is_file() {
            return Err(PartialError::NoFile { path });
        }
        // Locked, and still the file at that path: a download that ended in between has renamed it.
        if file.try_lock().is_err() || !is_at(&file, &path) {
            return Err(PartialError::InProgress { path: target.to_owned() });
        }
        if taken {
            fs::remove_file(target).map_err(failed("remove", target, size))?;
        }
        let (finished, discarded) = (AtomicBool::new(false), AtomicBool::new(false));
        let (target, lost) = (target.to_owned(), OnceLock::new());
        Ok(Self { file: Arc::new(file), path, target, size, placing, journal: None, finished, discarded, lost })
    }

    fn reserve(&self) -> Result<(), PartialError> {
        let full = |error: Errno| failed("write", &self.target, self.size)(error.into());
        self.file.set_len(0).map_err(failed("write", &self.path, self.size))?;
        if self.size == 0 {
            return Ok(());
        }
        // Some file systems answer a request for too much room only after filling all there is.
        if let Ok(room) = rustix::fs::fstatvfs(&self.file)
            && room.f_bavail.saturating_mul(room.f_frsize) < self.size
        {
            return Err(full(Errno::NOSPC));
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, self.size) {
            Ok(()) => Ok(()),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(full(error)),
            // Not every file system can set room aside; the length alone will do.
            Err(_) => self.file.set_len(self.size).map_err(failed("write", &self.path, self.size)),
        }
    }

    /// Writes verified bytes at `offset`.
    pub(crate) fn write_chunk(&self, offset: u64, bytes: &[u8]) -> Result<(), PartialError> {
        self.file.write_all_at(bytes, offset).map_err(failed("write", &self.path, self.size))
    }

    /// Writes down that chunks, which were verified and written, are there. Without room for that they are fetched again by another
    /// attempt.
    pub(crate) fn record<'a>(&self, chunks: impl IntoIterator<Item = (u64, &'a Proof)>) -> Result<(), PartialError> {
        match self.journal.as_ref().map(|journal| journal.append(chunks)) {
            Some(Err(error)) if Lack::of(&error, &self.path).is_none() => {
                Err(failed("write", &self.path, self.size)(error))
            }
            _ => Ok(()),
        }
    }

    /// Reads bytes that were written.
    pub(crate) fn read_chunk(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// What the system says of the file.
    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        self.file.metadata()
    }

    /// Dropping it removes it, whatever it has.
    pub(crate) fn discard(&self) {
        self.discarded.store(true, Ordering::Relaxed);
    }

    /// Whether it stays when it is dropped, so that another attempt goes on with it.
    pub(crate) fn is_resumable(&self) -> bool {
        let recorded = self.journal.as_ref().is_some_and(|journal| !journal.is_empty());
        recorded && !self.discarded.load(Ordering::Relaxed)
    }

    /// Waits until the bytes that were written before are on disk. An error is kept for [`PartialFile::finish`].
    pub(crate) fn flush(&self) {
        if let Err(error) = self.file.sync_data() {
            let _ = self.lost.set(error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()));
        }
    }

    /// Gives the file its attributes: what is left is its place.
    fn settle(&self) {
        let replaced = self.placing.over.and_then(|_| fs::symlink_metadata(&self.target).ok());
        apply(&self.file, &self.placing, replaced.as_ref());
    }

    /// Moves the file to its target, which must not have come to exist meanwhile, or takes the place of the file that it is to
    /// replace. With `sync`, its bytes are on disk before, and its name is when this returns.
    pub(crate) fn finish(&self, sync: bool) -> Result<PathBuf, PartialError> {
        self.settle();
        if sync {
            let lost = self.lost.get().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(*errno)));
            let synced = lost.and_then(|()| self.file.sync_all());
            // What is there instead nobody knows, and the journal does not either.
            synced.map_err(failed("write", &self.path, self.size)).inspect_err(|_| self.discard())?;
        }
        match &self.placing.over {
            None => rename_new(&self.path, &self.target)?,
            // What has no place is of no use to another attempt.
            Some(over) => rename_over(&self.path, &self.target, over).inspect_err(|_| self.discard())?,
        }
        self.finished.store(true, Ordering::Relaxed);
        if let Some(journal) = &self.journal {
            journal.remove();
        }
        if sync && let Some(folder) = self.path.parent() {
            sync_folder(folder).map_err(failed("write", folder, self.size))?;
        }
        Ok(self.target.clone())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if *self.finished.get_mut() {
            return;
        }
        if self.is_resumable() {
            return;
        }
        // The journal first: without it the other is of no use.
        if let Some(journal) = &self.journal {
            journal.remove();
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a partial file could not be removed");
        }
    }
}

/// Whether a path leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(found)) => identity(open) == identity(found),
        _ => false,
    }
}

/// Longest name of a file in a folder, in bytes.
fn longest_name(folder: &Path) -> usize {
    let said = statvfs(folder).ok().and_then(|found| usize::try_from(found.f_namemax).ok());
    // Some count in other units than bytes, and some say nothing.
    said.filter(|most| (1..MAX_FILE_NAME).contains(most)).unwrap_or(MAX_FILE_NAME)
}

/// `.NAME` and a suffix; a name too long for that is cut and told apart by its hash.
fn side_name(name: &std::ffi::OsStr, suffix: &str, most: usize) -> OsString {
    let bytes = name.as_encoded_bytes();
    let mut partial = OsString::from(".");
    if bytes.len() + 1 + suffix.len() <= most {
        partial.push(name);
    } else {
        partial.push(&blake3::hash(bytes).to_hex()[..32]);
    }
    partial.push(suffix);
    partial
}

/// Whether a file name is that of a partial file, or of its journal.
pub(crate) fn is_partial(name: &std::ffi::OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.starts_with(b".") && [SUFFIX, JOURNAL].iter().any(|suffix| bytes.ends_with(suffix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn names(folder: &TempDir) -> Vec<String> {
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_finished_file_is_in_place_and_nothing_else_is() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a");
        let partial = PartialFile::create(&target, 6).unwrap();
        assert_eq!(names(&folder), [".a.swarmdex-part"]);
        partial.write_chunk(3, b"def").unwrap();
        partial.write_chunk(0, b"abc").unwrap();
        assert_eq!(partial.finish(true).unwrap(), target);
        assert_eq!(names(&folder), ["a"]);
        assert_eq!(fs::read(&target).unwrap(), b"abcdef");
    }

    #[test]
    fn nothing_is_left_of_a_download_that_failed() {
        let folder = TempDir::new().unwrap();
        drop(PartialFile::create(&folder.path().join("a"), 6).unwrap());
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn what_is_at_the_target_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a");
        fs::write(&target, "mine").unwrap();
        let error = PartialFile::create(&target, 6).unwrap_err();
        assert!(matches!(error, PartialError::TargetExists { .. }));
        fs::remove_file(&target).unwrap();
        let partial = PartialFile::create(&target, 6).unwrap();
        fs::write(&target, "mine").unwrap();
        assert!(matches!(partial.finish(false), Err(PartialError::TargetExists { .. })));
        drop(partial);
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(names(&folder), ["a"]);
    }

    #[test]
    fn a_target_that_is_a_link_a_fifo_or_a_folder_is_refused() {
        let folder = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        let link = folder.path().join("link");
        symlink(outside.path().join("new"), &link).unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for target in [link, fifo, folder.path().to_owned()] {
            let error = PartialFile::create(&target, 1).unwrap_err();
            assert!(matches!(error, PartialError::TargetExists { .. }), "{error:?}");
        }
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_partial_file_that_is_a_link_or_a_fifo_is_not_written_through() {
        let folder = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "mine").unwrap();
        symlink(&secret, folder.path().join(".a.swarmdex-part")).unwrap();
        PartialFile::create(&folder.path().join("a"), 1).unwrap_err();
        assert_eq!(fs::read(&secret).unwrap(), b"mine");
        let fifo = folder.path().join(".b.swarmdex-part");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        PartialFile::create(&folder.path().join("b"), 1).unwrap_err();
    }

    #[test]
    fn two_downloads_to_one_target_do_not_meet() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a");
        let first = PartialFile::create(&target, 1).unwrap();
        assert!(matches!(PartialFile::create(&target, 1), Err(PartialError::InProgress { .. })));
        drop(first);
        PartialFile::create(&target, 1).unwrap();
    }

    #[test]
    fn a_file_larger_than_the_disk_fails_before_the_first_byte() {
        let folder = TempDir::new().unwrap();
        let error = PartialFile::create(&folder.path().join("a"), 1 << 44).unwrap_err();
        assert!(matches!(error, PartialError::NoRoom { needed, .. } if needed == 1 << 44), "{error:?}");
        assert!(names(&folder).is_empty());
    }

    #[test]
    fn a_folder_that_is_none_is_an_error_that_names_it() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = PartialFile::create(&folder.path().join("file/a"), 1).unwrap_err();
        assert!(error.to_string().contains("file/a"), "{error}");
        let error = output_path(folder.path(), ["file", "a"]).unwrap_err();
        assert!(matches!(error, PartialError::NoFolder { .. }));
    }

    #[test]
    fn a_long_name_has_a_partial_file_too() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("n".repeat(255));
        PartialFile::create(&target, 1).unwrap().finish(false).unwrap();
        assert!(target.exists());
    }

    #[test]
    fn a_name_that_its_file_system_does_not_take_is_named() {
        let folder = TempDir::new().unwrap();
        let error = PartialFile::create(&folder.path().join("n".repeat(256)), 1).unwrap_err();
        assert!(matches!(error, PartialError::Name { .. } | PartialError::Io { .. }), "{error:?}");
        assert!(names(&folder).is_empty());
        // Where names are shorter, the hidden ones are, too.
        let name = std::ffi::OsString::from("n".repeat(140));
        assert!(side_name(&name, SUFFIX, 143).len() < 60 && side_name(&name, SUFFIX, 255).len() > 140);
        assert_eq!(longest_name(folder.path()), 255);
    }

    #[test]
    fn output_never_leaves_its_folder() {
        let folder = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        symlink(outside.path(), folder.path().join("link")).unwrap();
        for segments in
            [&["..", "a"][..], &["a", "..", "b"], &["/etc", "a"], &[".", "a"], &["", "a"], &["a/b"], &["link", "a"]]
        {
            assert!(output_path(folder.path(), segments.iter().copied()).is_err(), "{segments:?}");
        }
        let path = output_path(folder.path(), ["a", "b", "c"]).unwrap();
        assert_eq!(path, folder.path().join("a/b/c"));
        assert!(folder.path().join("a/b").is_dir());
    }
}
