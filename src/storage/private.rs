//! What is for the user of a node alone. Its files have mode 0600 and its folders 0700 from the moment they are made,
//! whatever the umask. What an earlier build made otherwise is mended.
//!
//! The umask of the process is left as it is: files that are downloaded are made as their user wishes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What others than its owner may do with a file.
const OTHERS: u32 = 0o077;
/// Rights of a file: its owner's alone.
const FILE: u32 = 0o600;
/// Rights of a folder: its owner's alone.
const FOLDER: u32 = 0o700;
/// Folders where everybody makes files of his own, such as `/tmp`.
const STICKY: u32 = 0o1000;
/// The token of the control interface over TCP.
pub(crate) const HTTP_TOKEN: &str = "http-token";
/// The control socket.
pub(super) const CONTROL_SOCKET: &str = "control.sock";
/// Names that are mended one by one of a folder that is not a node's alone.
const OURS: [&str; 8] =
    ["lock", "format", "machine", "config.toml", HTTP_TOKEN, CONTROL_SOCKET, "outboards", "lost+found"];
const OUR_BEGINNINGS: [&str; 8] =
    ["identity.key", "master-", "nodes-", "index.", "shares.", "certificates.", "copies.", "swarmdex-"];

/// Makes a folder, and those above it that are missing. One that is there stays as it is.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    // Without a dot at its end, which would be a folder of its own.
    let path: PathBuf = path.components().collect();
    match DirBuilder::new().mode(FOLDER).create(&path) {
        Ok(()) => {
            // The umask may have taken more away than from others. Where there are no permissions, `mend` says so.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(FOLDER));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                make_folder(parent)?;
                make_folder(&path)
            }
            _ => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file with these options, for its owner alone if it is made by it. Where the file system keeps no permissions,
/// that is all that can be done; [`mend`] says so.
pub(super) fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(FILE).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.mode() & 0o777 != FILE {
        let _ = file.set_permissions(fs::Permissions::from_mode(FILE));
    }
    Ok(file)
}

/// Writes a file that is not there yet, or takes its place.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use io::Write;
    open(OpenOptions::new().write(true).create(true).truncate(true), path)?.write_all(bytes)
}

/// Makes the file of a database if it is not there, and mends it and those beside it: SQLite gives the ones that it
/// makes later the mode of the first. Where this fails, opening the database says why. (None of them is opened that is
/// there: to close it would end the locks that this process may have on it.)
pub(super) fn prepare_database(path: &Path) {
    if open(OpenOptions::new().write(true).create_new(true), path).is_ok() {
        return;
    }
    for end in ["", "-wal", "-shm", "-journal"] {
        let mut file = path.as_os_str().to_owned();
        file.push(end);
        if fs::metadata(&file).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & OTHERS != 0) {
            let _ = fs::set_permissions(&file, fs::Permissions::from_mode(FILE));
        }
    }
}

/// What could not be mended.
#[derive(Debug, Default)]
pub(super) struct Exposed {
    /// How many files and folders.
    pub(super) count: usize,
    /// One of them.
    pub(super) path: PathBuf,
    /// What the system said; `None` if it said nothing, and did nothing.
    pub(super) error: Option<io::Error>,
}

impl Exposed {
    fn add(&mut self, path: &Path, error: Option<io::Error>) {
        if self.count == 0 {
            (self.path, self.error) = (path.to_owned(), error);
        }
        self.count += 1;
    }
}

/// Takes from others what they may do with a data directory and everything that a node has in it, apart from files in
/// `except`. A folder that is not a node's alone (a home, or `/var/lib`) stays as it is, but for what is ours. It
/// counts as such if folders are in it that no node makes. Unless it `was_used` by a node before, anything else in it
/// is enough.
pub(super) fn mend(folder: &Path, was_used: bool, except: &[&str]) -> Exposed {
    let mut exposed = Exposed::default();
    let entries: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            exposed.add(folder, Some(error));
            return exposed;
        }
    };
    let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let is_ours = entries.iter().all(|path| is_our_name(path) || (was_used && !is_folder(path)));
    // First, so that nobody gets at what is mended after it.
    mend_one(folder, is_ours, &mut exposed);
    for path in entries {
        let is_excepted = path.file_name().is_some_and(|name| except.iter().any(|except| name == *except));
        if is_excepted || !(is_ours || is_our_name(&path)) {
            continue;
        }
        if path.ends_with("outboards")
            && let Ok(below) = fs::read_dir(&path)
        {
            below.flatten().for_each(|entry| mend_one(&entry.path(), true, &mut exposed));
        }
        mend_one(&path, true, &mut exposed);
    }
    exposed
}

fn is_our_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // What is being written is called `.NAME.new`.
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")).unwrap_or(&name);
    OURS.contains(&name) || OUR_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// `may` it be changed: a folder of everybody, or somebody's, is only told of.
fn mend_one(path: &Path, may: bool, exposed: &mut Exposed) {
    // What is gone needs no mending, and a link leads to something that is not ours.
    let Ok(metadata) = path.symlink_metadata() else { return };
    let mode = metadata.mode();
    if metadata.is_symlink() || mode & OTHERS == 0 {
        return;
    }
    if !may || mode & STICKY != 0 {
        return exposed.add(path, None);
    }
    let changed = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 & !OTHERS));
    let is_mended = path.symlink_metadata().is_ok_and(|metadata| metadata.mode() & OTHERS == 0);
    if !is_mended {
        exposed.add(path, changed.err());
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_an_earlier_build_left_open_is_mended_and_nothing_else_is_touched() {
        let outside = TempDir::new().unwrap();
        fs::write(outside.path().join("target"), "").unwrap();
        set(&outside.path().join("target"), 0o644);
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("outboards")).unwrap();
        for (name, mode) in [("index.db", 0o644), ("index.db-shm", 0o666), ("outboards/a", 0o640), ("script", 0o755)] {
            fs::write(at(name), "").unwrap();
            set(&at(name), mode);
        }
        set(&at("outboards"), 0o755);
        set(folder.path(), 0o755);
        std::os::unix::fs::symlink(outside.path().join("target"), at("config.toml")).unwrap();
        assert_eq!(mend(folder.path(), true, &["identity.key"]).count, 0);
        for (name, expected) in [
            ("", 0o700),
            ("index.db", 0o600),
            ("index.db-shm", 0o600),
            ("outboards", 0o700),
            ("outboards/a", 0o600),
            ("script", 0o700),
        ] {
            assert_eq!(mode(&at(name)), expected, "{name}");
        }
        assert_eq!(mode(&outside.path().join("target")), 0o644);
    }

    #[test]
    fn a_folder_that_is_somebodys_stays_as_it_is_but_for_what_is_ours() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["thesis.tex", "shares.db", ".format.new"] {
            fs::write(at(name), "").unwrap();
            set(&at(name), 0o644);
        }
        set(folder.path(), 0o755);
        let exposed = mend(folder.path(), false, &[]);
        assert_eq!((exposed.count, exposed.path.as_path()), (1, folder.path()));
        assert_eq!(
            ["", "thesis.tex", "shares.db", ".format.new"].map(|name| mode(&at(name))),
            [0o755, 0o644, 0o600, 0o600]
        );
        fs::remove_file(at("thesis.tex")).unwrap();
        assert_eq!(mend(folder.path(), false, &[]).count, 0);
        assert_eq!(mode(folder.path()), 0o700, "with nothing else in it, it is ours");
        fs::create_dir(at("Documents")).unwrap();
        set(folder.path(), 0o755);
        assert_eq!(mend(folder.path(), true, &[]).count, 1, "somebody's home");
        assert_eq!(mode(folder.path()), 0o755);
        fs::remove_dir(at("Documents")).unwrap();
        set(folder.path(), 0o1777);
        assert_eq!(mend(folder.path(), true, &[]).count, 1);
        assert_eq!(mode(folder.path()), 0o1777, "nobody closes /tmp");
    }

    #[test]
    fn folders_are_made_with_those_above_them() {
        let folder = TempDir::new().unwrap();
        let deep = folder.path().join("a/b/./c/.");
        make_folder(&deep).unwrap();
        make_folder(&deep).unwrap();
        for path in ["a", "a/b", "a/b/c"] {
            assert_eq!(mode(&folder.path().join(path)), 0o700);
        }
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(make_folder(&folder.path().join("file/below")).is_err());
        assert!(make_folder(&folder.path().join("file")).is_err());
    }
}
