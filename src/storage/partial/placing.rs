//! A whole file gets its attributes and its place: where nothing is, or in place of just the file that is meant.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use swarmdex_protocols::Attributes;

use super::error::{PartialError, failed, wrong_name};
use super::{PartialFile, folder_of};
use crate::storage::hash::FileStamp;

/// How a file is put in place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Placing {
    /// What it has beside its bytes; `None` leaves it to the system.
    pub attributes: Option<Attributes>,
    /// The file that it takes the place of, as it was when it was looked at; `None` if nothing may be there.
    pub over: Option<FileStamp>,
}

/// Gives a file its attributes, as far as its file system has them. Rights are those that the system gives a new file,
/// or those of the file that is replaced. Whoever may read an executable file may also execute it. Bits that give more
/// never come from elsewhere.
pub(super) fn apply(file: &File, placing: &Placing, replaced: Option<&fs::Metadata>) {
    const RIGHTS: u32 = 0o777;
    const READ: u32 = 0o444;
    const EXECUTE: u32 = 0o111;
    let Ok(metadata) = file.metadata() else { return };
    let before = metadata.permissions().mode() & RIGHTS;
    let base = replaced.map_or(before, |replaced| replaced.permissions().mode() & RIGHTS);
    let executable = placing.attributes.map(|attributes| attributes.executable);
    let mode = match executable {
        Some(true) => base | (base & READ) >> 2,
        Some(false) => base & !EXECUTE,
        None => base,
    };
    if mode != before
        && let Err(error) = file.set_permissions(Permissions::from_mode(mode))
    {
        tracing::debug!(%error, "the file system does not take the rights of a file");
    }
    let modified = placing.attributes.and_then(|attributes| attributes.modified_ns).and_then(time);
    if let Some(modified) = modified
        && let Err(error) = file.set_times(FileTimes::new().set_modified(modified))
    {
        tracing::debug!(%error, "the file system does not take the time of a file");
    }
}

/// Brings the attributes of a file that is in place up to date; what the system says of it then.
pub(crate) fn set_attributes(file: &File, attributes: &Attributes) -> Option<fs::Metadata> {
    apply(file, &Placing { attributes: Some(*attributes), over: None }, None);
    file.metadata().ok()
}

fn time(nanoseconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    match nanoseconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    }
}

/// Whether a file without a name can get one: by the name that this process has for it.
static HAS_PROC: LazyLock<bool> = LazyLock::new(|| Path::new("/proc/self/fd").is_dir());

/// A small file that is written, and has no place yet: many of them wait for the disk together. Dropping it leaves nothing.
#[derive(Debug)]
pub(crate) struct Unplaced {
    target: PathBuf,
    held: UnplacedBody,
}

#[derive(Debug)]
enum UnplacedBody {
    /// A file without a name: a crash leaves nothing.
    Unnamed(Arc<File>),
    /// Not every file system has such files, nor can they replace others.
    Partial(PartialFile),
}

impl Unplaced {
    /// Writes a file that is to be at `target`, which must be free unless a file is to be replaced.
    pub(crate) fn write(target: &Path, bytes: &[u8], placing: &Placing) -> Result<Self, PartialError> {
        let folder = folder_of(target);
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = match placing.over {
            None if *HAS_PROC => rustix::fs::openat(rustix::fs::CWD, folder, flags, Mode::from_raw_mode(0o644)).ok(),
            _ => None,
        };
        let held = match unnamed {
            Some(file) => {
                let file = File::from(file);
                file.write_all_at(bytes, 0).map_err(failed("write", target, bytes.len() as u64))?;
                apply(&file, placing, None);
                UnplacedBody::Unnamed(Arc::new(file))
            }
            // Errors of other kinds come again.
            None => {
                let partial = PartialFile::create_for(target, bytes.len() as u64, *placing)?;
                partial.write_chunk(0, bytes)?;
                partial.settle();
                UnplacedBody::Partial(partial)
            }
        };
        Ok(Self { target: target.to_owned(), held })
    }

    /// Its bytes.
    pub(crate) fn file(&self) -> &Arc<File> {
        match &self.held {
            UnplacedBody::Unnamed(file) => file,
            UnplacedBody::Partial(partial) => &partial.file,
        }
    }

    /// Where it is to be.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Puts it in place. What the system says of the file then, if it does.
    pub(crate) fn place(self) -> Result<Option<fs::Metadata>, PartialError> {
        let Self { target, held } = self;
        let file = match held {
            UnplacedBody::Unnamed(file) => file,
            UnplacedBody::Partial(partial) => {
                partial.finish(false)?;
                return Ok(partial.metadata().ok());
            }
        };
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        match rustix::fs::linkat(rustix::fs::CWD, &unnamed, rustix::fs::CWD, &target, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(file.metadata().ok()),
            Err(Errno::EXIST) => Err(PartialError::TargetExists { path: target }),
            Err(error) => Err(failed("make", &target, 0)(error.into())),
        }
    }

    /// Why it gets no place, after the disk refused its bytes.
    pub(crate) fn failure(&self, error: io::Error) -> PartialError {
        failed("write", &self.target, 0)(error)
    }
}

/// Whether a target may be written: nothing is there, a dangling link included, or just the file that is to be replaced.
pub(super) fn check_place(target: &Path, over: Option<&FileStamp>) -> Result<(), PartialError> {
    match (fs::symlink_metadata(target), over) {
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        (Err(error), _) => match wrong_name(&error) {
            Some(reason) => Err(PartialError::Name { path: target.to_owned(), reason }),
            None => Err(failed("look at", target, 0)(error)),
        },
        (Ok(_), None) => Err(PartialError::TargetExists { path: target.to_owned() }),
        (Ok(found), Some(over)) if found.is_file() && FileStamp::of(&found).is_same_file(over) => Ok(()),
        (Ok(_), Some(_)) => Err(PartialError::Changed { path: target.to_owned() }),
    }
}

/// Renames without ever replacing what is at the target.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<(), PartialError> {
    let exists = || PartialError::TargetExists { path: to.to_owned() };
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => return Err(exists()),
        // Not every file system knows that flag, nor does every sandbox let it through: a hard link fails just so if the target
        // exists.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM) => {}
        Err(error) => return Err(failed("make", to, 0)(error.into())),
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from).map_err(failed("remove", from, 0)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists()),
        // Nor does every file system know those.
        Err(_) => rename_taken(from, to),
    }
}

/// Takes the name by an empty file, which fails if it exists, and renames over that. What somebody else puts there
/// meanwhile is left alone, but for the moment between the last look and the renaming. Cut off in between it leaves the
/// empty file: [`is_taken`] tells it.
fn rename_taken(from: &Path, to: &Path) -> Result<(), PartialError> {
    let taken = match OpenOptions::new().write(true).create_new(true).open(to) {
        Ok(taken) => taken,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(PartialError::TargetExists { path: to.to_owned() });
        }
        Err(error) => return Err(failed("make", to, 0)(error)),
    };
    // Held open, it keeps its number also where numbers are made up.
    let is_mine = || match (taken.metadata(), fs::symlink_metadata(to)) {
        (Ok(mine), Ok(found)) => {
            found.is_file() && found.len() == 0 && (mine.dev(), mine.ino()) == (found.dev(), found.ino())
        }
        _ => false,
    };
    if !is_mine() {
        return Err(PartialError::TargetExists { path: to.to_owned() });
    }
    fs::rename(from, to).map_err(|error| {
        if is_mine() {
            let _ = fs::remove_file(to);
        }
        failed("make", to, 0)(error)
    })
}

/// Whether what is at a target is there for a download of something else than an empty file, whose hidden file is still
/// beside it.
pub(super) fn is_taken(target: &Path, partial: &Path, size: u64) -> bool {
    let length = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|found| found.len());
    size > 0 && length(target) == Some(0) && length(partial) == Some(size)
}

/// Renames over just the file that is meant: whoever wrote to it, or replaced it, meanwhile keeps what it wrote.
pub(super) fn rename_over(from: &Path, to: &Path, over: &FileStamp) -> Result<(), PartialError> {
    let changed = || PartialError::Changed { path: to.to_owned() };
    let exchange = || rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::EXCHANGE);
    match exchange() {
        Ok(()) => {}
        // It was removed meanwhile.
        Err(Errno::NOENT) => return rename_new(from, to),
        // Not every file system can exchange: what is written in this moment is lost.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            check_place(to, Some(over))?;
            return fs::rename(from, to).map_err(failed("make", to, 0));
        }
        Err(error) => return Err(failed("make", to, 0)(error.into())),
    }
    // Renaming changes the change time.
    let meant = fs::symlink_metadata(from).is_ok_and(|old| old.is_file() && FileStamp::of(&old).is_alike(over));
    if meant {
        return fs::remove_file(from).map_err(failed("remove", from, 0));
    }
    exchange().map_err(|error| failed("make", to, 0)(error.into()))?;
    Err(changed())
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::statement::MIN_MODIFIED_NS;
    use tempfile::TempDir;

    use super::*;

    fn write_whole(target: &Path, bytes: &[u8], placing: &Placing) -> Result<Option<fs::Metadata>, PartialError> {
        Unplaced::write(target, bytes, placing)?.place()
    }

    fn stamp(path: &Path) -> FileStamp {
        FileStamp::of(&fs::symlink_metadata(path).unwrap())
    }

    fn with(executable: bool, modified_ns: i64) -> Placing {
        Placing { attributes: Some(Attributes::new(executable, modified_ns)), over: None }
    }

    #[test]
    fn a_file_gets_the_executable_bit_and_its_time_and_no_other_bit() {
        let folder = TempDir::new().unwrap();
        for (number, executable, modified_ns) in
            [(0, true, 1_000_000_000_123_456_789), (1, false, 0), (2, true, -1_500_000_000), (3, true, MIN_MODIFIED_NS)]
        {
            let target = folder.path().join(number.to_string());
            let metadata = write_whole(&target, b"x", &with(executable, modified_ns)).unwrap().unwrap();
            assert_eq!(metadata.mode() & 0o7111, if executable { (metadata.mode() & 0o444) >> 2 } else { 0 });
            assert_eq!(stamp(&target).mtime_ns, modified_ns);
            let large = folder.path().join(format!("{number} in parts"));
            let partial = PartialFile::create_for(&large, 1, with(executable, modified_ns)).unwrap();
            partial.write_chunk(0, b"x").unwrap();
            partial.finish(true).unwrap();
            assert_eq!(stamp(&large).mtime_ns, modified_ns);
            assert_eq!(fs::metadata(&large).unwrap().mode(), metadata.mode());
        }
    }

    #[test]
    fn a_name_that_is_taken_first_replaces_nothing() {
        let folder = TempDir::new().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "").unwrap();
        assert!(matches!(rename_taken(&from, &to), Err(PartialError::TargetExists { .. })));
        fs::remove_file(&to).unwrap();
        rename_taken(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // What cannot be renamed leaves nothing.
        fs::remove_file(&to).unwrap();
        assert!(rename_taken(&from, &to).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_name_that_was_taken_by_a_download_that_was_cut_off_is_given_back() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a");
        let partial = PartialFile::create(&target, 3).unwrap();
        std::mem::forget(partial);
        // As a crash between the two steps leaves it.
        fs::write(&target, "").unwrap();
        assert!(matches!(PartialFile::create(&target, 3), Err(PartialError::InProgress { .. })));
        let other = folder.path().join("b");
        fs::copy(folder.path().join(".a.swarmdex-part"), folder.path().join(".b.swarmdex-part")).unwrap();
        fs::write(&other, "").unwrap();
        let partial = PartialFile::create(&other, 3).unwrap();
        partial.write_chunk(0, b"new").unwrap();
        partial.finish(false).unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"new");
        // Without the hidden file it is somebody else's.
        fs::write(folder.path().join("c"), "").unwrap();
        assert!(matches!(PartialFile::create(&folder.path().join("c"), 3), Err(PartialError::TargetExists { .. })));
    }

    #[test]
    fn a_file_is_replaced_if_it_is_just_the_one_that_is_meant() {
        let folder = TempDir::new().unwrap();
        let target = folder.path().join("a");
        let write = |over: FileStamp| write_whole(&target, b"new", &Placing { attributes: None, over: Some(over) });
        fs::write(&target, "old").unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
        let before = stamp(&target);
        write(before).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600, "who may read it stays");
        // Another file by now.
        assert!(matches!(write(before), Err(PartialError::Changed { .. })));
        let now = stamp(&target);
        let partial = PartialFile::create_for(&target, 3, Placing { attributes: None, over: Some(now) }).unwrap();
        partial.write_chunk(0, b"abc").unwrap();
        // Written to while the other was on its way.
        fs::write(&target, "mine").unwrap();
        assert!(matches!(partial.finish(false), Err(PartialError::Changed { .. })));
        drop(partial);
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Gone by now.
        let now = stamp(&target);
        fs::remove_file(&target).unwrap();
        write(now).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }
}
