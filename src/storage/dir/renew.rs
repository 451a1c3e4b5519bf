//! A new identity for a data directory; what it shares, and how it is set up, stays.

use std::fs;
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use swarmdex_protocols::PeerId;

use super::{DataDir, DataDirError, IDENTITY, failed, read_identity, write_small};
use crate::storage::grants::{Grants, GrantsError};

/// Why there is no new identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// The directory is a master's.
    #[error(
        "{path} has a master's index: peers know their master by its identity and refuse another. --force makes a new one all the same: every peer then has to be given --master …/p2p/NEWID once"
    )]
    Master {
        /// The folder.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] DataDirError),
    /// Certificates cannot be removed.
    #[error(transparent)]
    Grants(#[from] GrantsError),
}

/// What became of the old identity.
#[derive(Debug)]
pub(crate) struct Renewed {
    /// The new one.
    pub keypair: Keypair,
    /// The old one; none if there was none, or it was damaged.
    pub old: Option<PeerId>,
    /// Where the old key is kept, if there was one.
    pub kept: Option<PathBuf>,
}

impl DataDir {
    /// Makes a new identity and keeps the old key beside it. Certificates of the old identity are removed: nobody but
    /// their owner can use them. A break in the middle leaves the old identity or the new one, whole.
    pub(crate) fn renew_identity(&self, force: bool) -> Result<Renewed, RenewError> {
        if self.index_path().exists() && !force {
            return Err(RenewError::Master { path: self.path.clone() });
        }
        let path = self.path.join(IDENTITY);
        let old = match read_identity(&self.path) {
            Ok(old) => old.map(|old| old.public().to_peer_id()),
            // A damaged key is kept as well: somebody may be able to repair it.
            Err(DataDirError::Identity { .. } | DataDirError::Exposed { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let kept = self.keep_old(&path, old)?;
        if self.grants_path().exists() {
            Grants::open(&self.grants_path())?.clear()?;
        }
        self.forget_machine().map_err(failed("remove the machine's fingerprint in", &self.path))?;
        let keypair = self.make_identity()?;
        Ok(Renewed { keypair, old, kept })
    }

    /// Copies the old key, if there is one, to a name that says whose it was.
    fn keep_old(&self, path: &Path, old: Option<PeerId>) -> Result<Option<PathBuf>, DataDirError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path)(error)),
        };
        let whose = old.map_or_else(|| "damaged".to_owned(), |old| old.to_string());
        let name = format!("{IDENTITY}.old-{whose}");
        write_small(&self.path, &name, &bytes)?;
        Ok(Some(self.path.join(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_old_key_is_kept_and_everything_else_stays() {
        let folder = TempDir::new().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let old = dir.identity().unwrap().public().to_peer_id();
        for name in ["shares.db", "config.toml", "master-swarmdex"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let renewed = dir.renew_identity(false).unwrap();
        assert_eq!(renewed.old, Some(old));
        assert_eq!(dir.identity().unwrap().public(), renewed.keypair.public());
        let kept = renewed.kept.unwrap();
        assert!(kept.to_string_lossy().ends_with(&format!("identity.key.old-{old}")));
        assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o777, 0o600);
        let before = Keypair::from_protobuf_encoding(&fs::read(kept).unwrap()).unwrap();
        assert_eq!(before.public().to_peer_id(), old);
        for name in ["shares.db", "config.toml", "master-swarmdex"] {
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), name);
        }
    }

    #[test]
    fn a_damaged_key_is_kept_aside_and_none_is_no_error() {
        let folder = TempDir::new().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let first = dir.renew_identity(false).unwrap();
        assert!(first.old.is_none() && first.kept.is_none());
        write_small(folder.path(), IDENTITY, b"garbage").unwrap();
        let renewed = dir.renew_identity(false).unwrap();
        assert_eq!((renewed.old, fs::read(renewed.kept.unwrap()).unwrap()), (None, b"garbage".to_vec()));
    }

    #[test]
    fn a_masters_identity_is_changed_by_force_alone() {
        let folder = TempDir::new().unwrap();
        let dir = DataDir::open(folder.path()).unwrap();
        let old = dir.identity().unwrap();
        fs::write(dir.index_path(), "").unwrap();
        let error = dir.renew_identity(false).unwrap_err().to_string();
        assert!(error.contains("--force") && error.contains("--master"), "{error}");
        assert_eq!(dir.identity().unwrap().public(), old.public());
        dir.renew_identity(true).unwrap();
        assert!(dir.index_path().exists());
    }
}
