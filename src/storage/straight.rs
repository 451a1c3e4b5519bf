//! Opens what a path leads to without following a link on the way: one that appears there could lead anywhere.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

/// Opens a path from a folder on; [`Errno::LOOP`] if there is a link on the way, or at the end unless `flags` ask for the link
/// itself. A relative path does not lead out of the folder.
pub(crate) fn open_straight(from: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (from, flags) = (from.as_fd(), flags | OFlags::CLOEXEC);
    let beneath = if path.is_absolute() { ResolveFlags::empty() } else { ResolveFlags::BENEATH };
    match openat2(from, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | beneath) {
        // Kernels before 5.6 do not know that call, and some sandboxes do not let it through.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(from, path, flags),
        outcome => outcome,
    }
}

/// The same, one folder after the other.
fn step_by_step(from: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut parts = path.components().peekable();
    let mut folder: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        let name = match part {
            Component::RootDir => OsStr::new("/"),
            Component::CurDir => OsStr::new("."),
            Component::Normal(name) => name,
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::XDEV),
        };
        let at = folder.as_ref().map_or(from, AsFd::as_fd);
        let is_last = parts.peek().is_none();
        let on_the_way = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let flags = OFlags::NOFOLLOW | if is_last { flags } else { on_the_way };
        let is_link = || {
            let found = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map(|found| FileType::from_raw_mode(found.st_mode));
            found == Ok(FileType::Symlink)
        };
        let next = openat(at, name, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR if is_link() => Errno::LOOP,
            error => error,
        })?;
        if is_last {
            return Ok(next);
        }
        folder = Some(next);
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, symlink};

    use rustix::fs::CWD;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn with_and_without_the_call_of_newer_kernels_the_same_is_opened() {
        let folder = TempDir::new().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        symlink(top.join("a"), top.join("to_a")).unwrap();
        symlink("file", top.join("a/b/to_file")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        let root = File::open(&top).unwrap();
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let itself = OFlags::PATH | OFlags::NOFOLLOW;
        let mut opened = 0;
        for (path, flags) in [
            "a/b/file",
            "a/b",
            "a",
            ".",
            "a/./b/file",
            "to_a",
            "to_a/b/file",
            "a/b/to_file",
            "dangling",
            "dangling/x",
            "none",
            "a/none/x",
            "a/b/file/x",
            "a/../a/b/file",
            "..",
            "",
        ]
        .into_iter()
        .flat_map(|path| [(path, read), (path, itself), (path, OFlags::PATH | OFlags::DIRECTORY)])
        {
            let identity = |fd: Result<OwnedFd, Errno>| {
                let found = fd.map(|fd| File::from(fd).metadata().unwrap());
                found.map(|found| (found.ino(), found.is_symlink()))
            };
            let absolute = top.join(path);
            for (from, path) in [(root.as_fd(), Path::new(path)), (CWD, absolute.as_path())] {
                // A way back is refused altogether, and not looked at.
                if path.is_absolute() && path.components().any(|part| part == Component::ParentDir) {
                    assert_eq!(identity(step_by_step(from, path, flags)), Err(Errno::XDEV));
                    continue;
                }
                let [one, other] = [open_straight(from, path, flags), step_by_step(from, path, flags)].map(identity);
                let is_same =
                    one == other || path.components().any(|part| part == Component::ParentDir) && other.is_err();
                assert!(is_same, "{path:?} {flags:?}: {one:?} and {other:?}");
                opened += usize::from(other.is_ok());
            }
        }
        assert!(opened > 20, "{opened}");
    }
}
