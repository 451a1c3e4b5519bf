//! Why a download cannot be written, in words that name what is missing.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::io::Errno;

/// Why a download cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartialError {
    /// Something is at the target already.
    #[error(
        "{path} exists already; move it away, choose another place with -o, or bring copies up to date with --update"
    )]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// What is at the target is not the file any more that was to be replaced.
    #[error("{path} was changed meanwhile; it is left as it is")]
    Changed {
        /// The target.
        path: PathBuf,
    },
    /// The file system of the target has no such name.
    #[error("{path} cannot be the name of a file there: {reason}; choose another by -o")]
    Name {
        /// The target.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The target names no file.
    #[error("{path} is no place for a file")]
    NoFile {
        /// The target.
        path: PathBuf,
    },
    /// Another download writes there.
    #[error("another download to {path} is under way")]
    InProgress {
        /// The target.
        path: PathBuf,
    },
    /// The disk, or a limit, does not hold it.
    #[error("no room for {path}: {}", .lack.sentence(*.needed))]
    NoRoom {
        /// The target.
        path: PathBuf,
        /// Size of the file in bytes.
        needed: u64,
        /// What there is too little of.
        lack: Lack,
    },
    /// The file is there, and may not be after a power cut.
    #[error("{path} is there, but the disk did not take its name: {reason}")]
    Unsure {
        /// The target.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Something in the way is no folder.
    #[error("{path} is in the way: it is no folder, and is not followed if it is a link")]
    NoFolder {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {act} {path}")]
    Io {
        /// What was to be done.
        act: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Bytes on the disk.
    Bytes,
    /// Entries for files on the disk, of which some file systems have a fixed number.
    Files,
    /// What the user may have on the disk.
    Quota,
    /// Length that a file may have: by the file system, or by a limit of the user or the service.
    Length,
}

impl Lack {
    fn sentence(self, needed: u64) -> String {
        match self {
            Self::Bytes => format!("{needed} bytes are needed; free some space and try again"),
            Self::Files => {
                "its disk has no place for one more file (all inodes are used), whatever space there is; remove some \
                            files and try again"
                    .to_owned()
            }
            Self::Quota => {
                format!("your quota on its disk is used up, and {needed} bytes are needed; remove some files")
            }
            Self::Length => format!(
                "it has {needed} bytes, and neither may a file be as long there: its file system, or a limit of this user or \
                 service, holds shorter ones alone"
            ),
        }
    }

    /// What an error of the system says; `None` if it is of another kind.
    pub(super) fn of(error: &io::Error, path: &Path) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::StorageFull => Some(if has_inodes(path) { Self::Bytes } else { Self::Files }),
            io::ErrorKind::QuotaExceeded => Some(Self::Quota),
            io::ErrorKind::FileTooLarge => Some(Self::Length),
            _ => None,
        }
    }
}

/// Whether the disk of a path, or of the folder above it, has room for one more file. File systems without such a bound say that
/// there are none at all.
fn has_inodes(path: &Path) -> bool {
    let found = statvfs(path).or_else(|_| statvfs(super::folder_of(path)));
    found.is_ok_and(|found| found.f_files == 0 || found.f_favail > 0)
}

const CHARACTERS: &str = "it has characters that its file system does not take, such as : ? * \" < > |";

/// What is wrong with a name for the file system that it is to be in; `None` if that is not what an error says.
pub(super) fn wrong_name(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::NAMETOOLONG => Some("it is longer than its file system takes"),
        Errno::ILSEQ => Some("it has characters that its file system cannot write"),
        // So say FAT, exFAT and NTFS.
        Errno::INVAL => Some(CHARACTERS),
        _ => None,
    }
}

/// An error about making the target of a download, or the hidden file of its name.
pub(super) fn unnamed(target: &Path, path: &Path, needed: u64) -> impl FnOnce(io::Error) -> PartialError + use<> {
    let (target, path) = (target.to_owned(), path.to_owned());
    // Some say of such a name that there is none, although there is the folder.
    let is_none = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
    let wrong = move |source: &io::Error, path: &Path| {
        let unwritten = is_none(source) && super::folder_of(path).is_dir();
        wrong_name(source).or(unwritten.then_some(CHARACTERS))
    };
    move |source| match wrong(&source, &path) {
        Some(reason) => PartialError::Name { path: target, reason },
        None => failed("write", &path, needed)(source),
    }
}

/// An error about a path, for a file of `needed` bytes.
pub(in crate::storage) fn failed(
    act: &'static str,
    path: &Path,
    needed: u64,
) -> impl FnOnce(io::Error) -> PartialError + use<> {
    let path = path.to_owned();
    move |source| match Lack::of(&source, &path) {
        Some(lack) => PartialError::NoRoom { path, needed, lack },
        None => PartialError::Io { act, path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let path = Path::new("/tmp/x");
        let text = |errno: Errno| failed("write", path, 7)(errno.into()).to_string();
        assert!(text(Errno::NOSPC).contains("7 bytes are needed"));
        assert!(text(Errno::DQUOT).contains("quota"));
        assert!(text(Errno::FBIG).contains("shorter"));
        assert_eq!(text(Errno::IO), "cannot write /tmp/x");
        // Of nothing nobody says that it has inodes.
        assert!(has_inodes(path) && !has_inodes(Path::new("/does/not/exist")));
    }
}
