//! What the file system of a data directory has to be able to do, tried before the first start there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::DataDirError;
use crate::storage::{mounts, private};

/// Where it is tried, below the folder.
const PLACE: &str = ".swarmdex-try";
/// Longest path of a socket, in bytes, on the systems where it is shortest.
const MAX_SOCKET_PATH: usize = 100;

/// Folders that were made for a node that then cannot have them.
#[derive(Debug)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// Those that will have to be made for `path`.
    pub(super) fn before(path: &Path) -> Self {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && fs::symlink_metadata(folder).is_err();
        Self(path.ancestors().take_while(is_missing).map(Path::to_owned).collect())
    }

    /// Takes them away again, as far as they are empty.
    pub(super) fn undo(self) {
        for folder in self.0 {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Whether a node can live in a folder, which exists; `Err` says what it lacks. What cannot be tried at all (a full disk) is left for
/// the start itself to say.
pub(super) fn probe(folder: &Path) -> Result<(), DataDirError> {
    let place = folder.join(PLACE);
    let _ = fs::remove_dir_all(&place);
    if fs::create_dir(&place).is_err() {
        return Ok(());
    }
    let lack = [
        (
            "permissions (a mount option such as umask=077 gives all of it to one user)",
            permissions as fn(&Path) -> io::Result<bool>,
        ),
        ("locks", locks),
        ("renaming of a file over another", renames),
        ("Unix sockets", sockets),
        ("memory that is shared through files, which databases need", databases),
    ]
    .into_iter()
    .find(|(_, has)| matches!(has(&place), Ok(false)));
    let _ = fs::remove_dir_all(&place);
    match lack {
        None => Ok(()),
        Some((lack, _)) => {
            let folder = &folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            let kind = mounts::kind_of(folder).filter(|kind| !kind.is_empty());
            let kind = kind.map_or_else(|| "its file system".to_owned(), |kind| format!("its file system ({kind})"));
            Err(DataDirError::Unfit { path: folder.to_owned(), kind, lack })
        }
    }
}

fn permissions(place: &Path) -> io::Result<bool> {
    let file = private::open(OpenOptions::new().write(true).create_new(true), &place.join("secret"))?;
    Ok(file.metadata()?.mode() & 0o077 == 0)
}

fn locks(place: &Path) -> io::Result<bool> {
    let (one, other) = (File::create(place.join("lock"))?, File::open(place.join("lock"))?);
    if one.try_lock().is_err() {
        return Ok(false);
    }
    Ok(matches!(other.try_lock(), Err(TryLockError::WouldBlock)))
}

fn renames(place: &Path) -> io::Result<bool> {
    let [from, to] = ["from", "to"].map(|name| place.join(name));
    fs::write(&from, "new")?;
    fs::write(&to, "old")?;
    Ok(fs::rename(&from, &to).is_ok() && fs::read(&to)? == b"new")
}

fn sockets(place: &Path) -> io::Result<bool> {
    let path = place.join("socket");
    // A path that is too long has an error of its own, elsewhere.
    Ok(path.as_os_str().len() > MAX_SOCKET_PATH || UnixListener::bind(path).is_ok())
}

fn databases(place: &Path) -> io::Result<bool> {
    let tried = || -> Result<String, rusqlite::Error> {
        let connection = rusqlite::Connection::open(place.join("database"))?;
        // Whether it can be done is the question, and not whether it lasts.
        connection.execute_batch("PRAGMA synchronous = OFF")?;
        let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)")?;
        Ok(mode)
    };
    match tried() {
        Ok(mode) => Ok(mode == "wal"),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => Ok(true),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_usual_disk_has_all_of_it_and_keeps_nothing() {
        let folder = TempDir::new().unwrap();
        for has in [permissions as fn(&Path) -> io::Result<bool>, locks, renames, sockets, databases] {
            let place = TempDir::new().unwrap();
            assert!(has(place.path()).unwrap());
        }
        probe(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn folders_that_were_made_go_again_and_no_others() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a/b/c");
        let made = Made::before(&path);
        fs::create_dir_all(&path).unwrap();
        fs::write(folder.path().join("a/mine"), "").unwrap();
        made.undo();
        assert!(folder.path().join("a/mine").exists() && !folder.path().join("a/b").exists());
        Made::before(folder.path()).undo();
        assert!(folder.path().exists());
    }
}
