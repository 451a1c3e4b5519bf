//! The data directory of a node: its lock, its identity, the master that it trusts.

mod machine;
mod probe;
mod renew;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libp2p::identity::Keypair;
pub(crate) use machine::{Machine, compare as compare_machine, fingerprint};
use probe::{Made, probe};
pub(crate) use renew::RenewError;
use swarmdex_protocols::{Multiaddr, Network, PeerId};

use super::durable::sync_folder;
pub(crate) use super::private::HTTP_TOKEN;
use super::private::{self, CONTROL_SOCKET};

/// Version of what is in a data directory.
const FORMAT: &str = "1";
/// The node's key.
const IDENTITY: &str = "identity.key";
/// What else tells a data directory.
const MARKS: [&str; 7] = ["lock", "shares.db", "certificates.db", "index.db", "outboards", HTTP_TOKEN, CONTROL_SOCKET];
/// Longest file of this module, in bytes.
const MAX_SMALL_FILE: u64 = 64 << 10;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another node uses it.
    #[error("another node is running in {path} (process {pid}); stop it, or give this one another --data-dir")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Its process id, as it wrote it.
        pid: String,
    },
    /// Made by a newer version of the program.
    #[error("{path} was made by a newer swarmdex (format {found}; this one knows {FORMAT}); nothing was changed")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// The identity is damaged.
    #[error("the identity in {path} is damaged; restore it from a backup, or remove it to get a new one")]
    Identity {
        /// The file.
        path: PathBuf,
    },
    /// Others can read the identity.
    #[error(
        "others can read the secret key in {path}; run: chmod 600 {path} (a file system that keeps no permissions, such as exFAT, has to be mounted with umask=077, or choose another --data-dir)"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Its file system cannot do what a node needs.
    #[error("{path} cannot hold a node: {kind} has no {lack}; choose another --data-dir")]
    Unfit {
        /// The folder.
        path: PathBuf,
        /// What kind of file system it is.
        kind: String,
        /// What it lacks.
        lack: &'static str,
    },
    /// The pinned master is damaged.
    #[error("{path} does not name a master; remove it to trust the next master that is found")]
    Pin {
        /// The file.
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

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { act, path, source }
}

/// A data directory that this process has locked. Clones share the lock; it ends with the last.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: Arc<File>,
}

impl DataDir {
    /// Makes the folder if need be, locks it for this node, and closes it to other users. Before the first start there it is tried
    /// whether its file system can hold a node.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let made = Made::before(path);
        private::make_folder(path).map_err(failed("make the folder", path))?;
        if !is_data_directory(path)
            && let Err(error) = probe(path)
        {
            made.undo();
            return Err(error);
        }
        Self::open_temporary(path)
    }

    /// Opens a data directory that is made for a moment, and new each time: nothing is tried there.
    pub(crate) fn open_temporary(path: &Path) -> Result<Self, DataDirError> {
        private::make_folder(path).map_err(failed("make the folder", path))?;
        let path = path.canonicalize().map_err(failed("find", path))?;
        let lock = lock(&path)?;
        let format = path.join("format");
        match read_small(&format) {
            Ok(found) if found.trim() == FORMAT => Self::mend(&path, true),
            Ok(found) => {
                return Err(DataDirError::Newer { path, found: found.trim().escape_debug().take(20).collect() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::mend(&path, false);
                write_small(&path, "format", FORMAT.as_bytes())?;
            }
            Err(error) => return Err(failed("read", &format)(error)),
        }
        Ok(Self { path, _lock: Arc::new(lock) })
    }

    /// Closes the folder to other users, and says so if that cannot be done.
    fn mend(path: &Path, was_used: bool) {
        // A key that others could read is not secret again by being closed: that is for whoever owns it to decide.
        let exposed = private::mend(path, was_used, &[IDENTITY]);
        if exposed.count > 0 {
            let reason = exposed.error.map_or_else(
                || "it is not a node's alone, or its file system keeps no permissions".to_owned(),
                |error| error.to_string(),
            );
            tracing::warn!(
                path = %exposed.path.display(),
                count = exposed.count,
                reason,
                "other users of this machine can get at the data directory; give the node a folder of its own by --data-dir, or mount the file system with umask=077"
            );
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a master keeps its index.
    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.join("index.db")
    }

    /// Where certificates of this node's names are kept.
    pub(crate) fn grants_path(&self) -> PathBuf {
        self.path.join("certificates.db")
    }

    /// Addresses of nodes of this network that were known before, each with its peer id; what is no address is
    /// left out.
    pub(crate) fn known_nodes(&self, network: &Network) -> Vec<Multiaddr> {
        let text = read_small(&self.path.join(nodes_name(network))).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Remembers nodes for the next start.
    pub(crate) fn remember_nodes(&self, network: &Network, nodes: &[Multiaddr]) -> Result<(), DataDirError> {
        let text: String = nodes.iter().map(|address| format!("{address}\n")).collect();
        write_small(&self.path, &nodes_name(network), text.as_bytes())
    }

    /// The node's key; made on first use.
    pub(crate) fn identity(&self) -> Result<Keypair, DataDirError> {
        read_identity(&self.path)?.map_or_else(|| self.make_identity(), Ok)
    }

    fn make_identity(&self) -> Result<Keypair, DataDirError> {
        let keypair = Keypair::generate_ed25519();
        let path = self.path.join(IDENTITY);
        let bytes = keypair.to_protobuf_encoding().map_err(|_| DataDirError::Identity { path })?;
        write_small(&self.path, IDENTITY, &bytes)?;
        // Where it cannot be kept secret, nobody has used it yet.
        read_identity(&self.path)?;
        Ok(keypair)
    }

    /// The master that this node joined before.
    pub(crate) fn pinned_master(&self, network: &Network) -> Result<Option<PeerId>, DataDirError> {
        let path = self.path.join(pin_name(network));
        match read_small(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| DataDirError::Pin { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Trusts this master from now on.
    pub(crate) fn pin_master(&self, network: &Network, master: PeerId) -> Result<(), DataDirError> {
        if self.pinned_master(network).is_ok_and(|pinned| pinned == Some(master)) {
            return Ok(());
        }
        write_small(&self.path, &pin_name(network), master.to_string().as_bytes())
    }
}

/// The key of the node in a folder that may be in use; `None` if there is none yet.
pub(crate) fn read_identity(folder: &Path) -> Result<Option<Keypair>, DataDirError> {
    let path = folder.join(IDENTITY);
    let mut file = match OpenOptions::new().read(true).custom_flags(nofollow()).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let mode = file.metadata().map_err(failed("read", &path))?.mode();
    if mode & 0o077 != 0 {
        return Err(DataDirError::Exposed { path });
    }
    let mut bytes = Vec::new();
    (&mut file).take(MAX_SMALL_FILE).read_to_end(&mut bytes).map_err(failed("read", &path))?;
    Keypair::from_protobuf_encoding(&bytes).map(Some).map_err(|_| DataDirError::Identity { path })
}

/// Whether a folder is the data directory of a node, running or not: what is in it tells.
pub(crate) fn is_data_directory(folder: &Path) -> bool {
    let holds = |name: &str| fs::symlink_metadata(folder.join(name)).is_ok();
    // Most folders have neither of the two.
    match (holds(IDENTITY), holds("format")) {
        (true, true) => true,
        (true, false) => MARKS.iter().any(|name| holds(name)) || is_key(&folder.join(IDENTITY)),
        (false, true) => holds("lock") && MARKS.iter().any(|name| *name != "lock" && holds(name)),
        (false, false) => false,
    }
}

/// Whether a file looks like the key of a node.
fn is_key(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = OpenOptions::new().read(true).custom_flags(nofollow() | nonblocking()).open(path);
    let read = read.and_then(|file| file.take(MAX_SMALL_FILE).read_to_end(&mut bytes));
    read.is_ok() && Keypair::from_protobuf_encoding(&bytes).is_ok()
}

/// Where the control socket of the node in a data directory is.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join(CONTROL_SOCKET)
}

fn pin_name(network: &Network) -> String {
    format!("master-{network}")
}

fn nodes_name(network: &Network) -> String {
    format!("nodes-{network}")
}

/// A pipe in the place of a file holds nobody up.
fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits() as i32
}

fn nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

fn lock(folder: &Path) -> Result<File, DataDirError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(nofollow());
    let mut file = private::open(&mut options, &path).map_err(failed("write", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message.
            let _ = (&mut file).take(20).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().escape_debug().to_string() };
            return Err(DataDirError::InUse { path: folder.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    file.set_len(0).map_err(failed("write", &path))?;
    file.write_all(std::process::id().to_string().as_bytes()).map_err(failed("write", &path))?;
    Ok(file)
}

fn read_small(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_SMALL_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a whole file or nothing: a temporary file, readable by its owner alone, flushed and renamed.
pub(crate) fn write_small(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
    let (temporary, target) = (folder.join(format!(".{name}.new")), folder.join(name));
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private::open(OpenOptions::new().write(true).create_new(true), &temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        sync_folder(folder)
    };
    write().map_err(failed("write", &target))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_second_node_in_the_same_folder_is_refused() {
        let folder = TempDir::new().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let error = DataDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--data-dir"), "{error}");
        drop(first);
        DataDir::open(folder.path()).unwrap();
    }

    #[test]
    fn the_identity_stays_and_is_secret() {
        let folder = TempDir::new().unwrap();
        let first = DataDir::open(folder.path()).unwrap().identity().unwrap();
        let again = DataDir::open(folder.path()).unwrap().identity().unwrap();
        assert_eq!(first.public(), again.public());
        let path = folder.path().join("identity.key");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = DataDir::open(folder.path()).unwrap().identity().unwrap_err();
        assert!(matches!(error, DataDirError::Exposed { .. }));
    }

    #[test]
    fn a_damaged_identity_is_never_replaced() {
        let folder = TempDir::new().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        for bytes in [&b""[..], b"garbage", &[8, 1, 18, 64]] {
            write_small(folder.path(), "identity.key", bytes).unwrap();
            assert!(matches!(dir.identity(), Err(DataDirError::Identity { .. })));
            assert_eq!(fs::read(folder.path().join("identity.key")).unwrap(), bytes);
        }
    }

    #[test]
    fn a_data_directory_is_known_by_what_is_in_it() {
        let folder = TempDir::new().unwrap();
        let is = |path: &Path| is_data_directory(path);
        assert!(!is(folder.path()));
        for name in ["format", "identity.key"] {
            let other = TempDir::new().unwrap();
            fs::write(other.path().join(name), "of another program").unwrap();
            assert!(!is(other.path()), "{name} alone may be anybody's");
        }
        let dir = DataDir::open(folder.path()).unwrap();
        dir.identity().unwrap();
        assert!(is(folder.path()), "of a node that runs");
        drop(dir);
        assert!(is(folder.path()), "of one that does not");
        // Copied, or restored in part.
        let key = TempDir::new().unwrap();
        fs::copy(folder.path().join("identity.key"), key.path().join("identity.key")).unwrap();
        assert!(is(key.path()));
        fs::remove_file(folder.path().join("identity.key")).unwrap();
        fs::write(folder.path().join("shares.db"), "").unwrap();
        assert!(is(folder.path()), "whose key was taken away");
        assert!(!is(&folder.path().join("lock")), "a file is none");
    }

    #[test]
    fn a_folder_of_a_newer_version_is_left_alone() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("format"), "2").unwrap();
        assert!(matches!(DataDir::open(folder.path()), Err(DataDirError::Newer { .. })));
        assert_eq!(fs::read_to_string(folder.path().join("format")).unwrap(), "2");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains("file/data"), "{error}");
    }

    #[test]
    fn the_master_is_pinned_for_each_network() {
        let folder = TempDir::new().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let (network, other) = (Network::default(), Network::parse("other").unwrap());
        let master = PeerId::random();
        assert_eq!(dir.pinned_master(&network).unwrap(), None);
        dir.pin_master(&network, master).unwrap();
        assert_eq!(dir.pinned_master(&network).unwrap(), Some(master));
        assert_eq!(dir.pinned_master(&other).unwrap(), None);
        write_small(folder.path(), "master-swarmdex", b"nonsense").unwrap();
        assert!(matches!(dir.pinned_master(&network), Err(DataDirError::Pin { .. })));
    }
}
