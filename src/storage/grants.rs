//! Certificates of this node's own names, kept across restarts: proof of what was granted, also for a master that
//! lost its disk, and the reason why nothing has to be announced again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rusqlite::{Connection, params};
use swarmdex_protocols::{Certificate, Name, codec};

use crate::locks::lock;
use crate::storage::sqlite::{self, Schema};

/// Marks the database as ours: "swdg".
const APPLICATION_ID: i32 = 0x7377_6467;
/// Version of the tables.
const VERSION: i32 = 1;
const TABLES: &str =
    "CREATE TABLE certificates (name TEXT PRIMARY KEY, certificate BLOB NOT NULL) STRICT, WITHOUT ROWID;";
/// Longest certificate, in bytes.
const MAX_CERTIFICATE: usize = 2 << 10;

/// Why certificates cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("the certificates in {path} cannot be used")]
pub struct GrantsError {
    path: PathBuf,
    #[source]
    source: rusqlite::Error,
}

/// Certificates on disk.
#[derive(Debug)]
pub(crate) struct Grants {
    path: PathBuf,
    connection: Mutex<Connection>,
    /// The version of the database when it was last looked at: another one says that somebody else changed it.
    version: Mutex<Option<i64>>,
}

impl Grants {
    /// Opens the database at `path`, or makes a new one. One that is damaged or foreign is moved aside: the master
    /// certifies anew.
    pub(crate) fn open(path: &Path) -> Result<Self, GrantsError> {
        let schema = Schema { application_id: APPLICATION_ID, version: VERSION, tables: TABLES, synchronous: "NORMAL" };
        let failed = |source| GrantsError { path: path.to_owned(), source };
        let connection = sqlite::open_or_renew(path, &schema, "certificates").map_err(failed)?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection), version: Mutex::new(None) })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A transaction that a panic broke off is rolled back.
        lock(&self.connection)
    }

    /// Every certificate; what is none is left out.
    pub(crate) fn all(&self) -> Result<Vec<Certificate>, GrantsError> {
        let read = || {
            let connection = self.connection();
            let mut statement = connection.prepare("SELECT certificate FROM certificates")?;
            let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|source| self.failed(source))?;
        Ok(rows.iter().filter_map(|bytes| codec::decode(bytes, MAX_CERTIFICATE).ok()).collect())
    }

    /// The names that are in the database, with what is a certificate, if somebody else changed it since this was last
    /// asked.
    pub(crate) fn changed(&self) -> Result<Option<BTreeMap<String, Option<Certificate>>>, GrantsError> {
        let read = || {
            let connection = self.connection();
            let version = connection.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0))?;
            let before = lock(&self.version).replace(version);
            if before.is_none_or(|before| before == version) {
                return Ok(None);
            }
            let mut statement = connection.prepare("SELECT name, certificate FROM certificates")?;
            let rows = statement.query_map([], |row| {
                let certificate = codec::decode(row.get_ref(1)?.as_blob()?, MAX_CERTIFICATE).ok();
                Ok((row.get::<_, String>(0)?, certificate))
            })?;
            rows.collect::<Result<BTreeMap<_, _>, _>>().map(Some)
        };
        read().map_err(|source| self.failed(source))
    }

    /// Writes certificates, and deletes those of names without one.
    pub(crate) fn save(&self, changes: &[(Name, Option<Certificate>)]) -> Result<(), GrantsError> {
        let write = || {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            for (name, certificate) in changes {
                let encoded = certificate.as_ref().and_then(|held| codec::encode(held, MAX_CERTIFICATE).ok());
                let (sql, bytes) = match &encoded {
                    Some(bytes) => ("INSERT OR REPLACE INTO certificates VALUES (?1, ?2)", Some(bytes)),
                    None => ("DELETE FROM certificates WHERE name = ?1", None),
                };
                let mut statement = transaction.prepare_cached(sql)?;
                match bytes {
                    Some(bytes) => statement.execute(params![name.as_str(), bytes])?,
                    None => statement.execute([name.as_str()])?,
                };
            }
            transaction.commit()
        };
        write().map_err(|source| self.failed(source))
    }

    /// Deletes every certificate.
    pub(crate) fn clear(&self) -> Result<(), GrantsError> {
        self.connection().execute("DELETE FROM certificates", []).map(drop).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> GrantsError {
        GrantsError { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::{ContentId, Entry, Keypair, Network, Version};

    use super::*;

    fn certificate(name: &str) -> Certificate {
        let key = Keypair::generate_ed25519();
        let entry = Entry {
            name: Name::parse(name).unwrap(),
            content: ContentId::of(b"x"),
            size: 1,
            owner: key.public().to_peer_id(),
            version: Version(7),
            attributes: None,
        };
        Certificate::sign(entry, &Network::default(), &key, 1000).unwrap()
    }

    #[test]
    fn certificates_are_kept_and_given_up() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("certificates.db");
        let held: Vec<_> = ["a", "b", "c"].map(certificate).to_vec();
        let changes: Vec<_> = held.iter().map(|held| (held.entry.name.clone(), Some(held.clone()))).collect();
        Grants::open(&path).unwrap().save(&changes).unwrap();
        let grants = Grants::open(&path).unwrap();
        assert_eq!(grants.all().unwrap(), held);
        grants.save(&[(held[1].entry.name.clone(), None)]).unwrap();
        assert_eq!(grants.all().unwrap(), [held[0].clone(), held[2].clone()]);
        grants.clear().unwrap();
        drop(grants);
        assert!(Grants::open(&path).unwrap().all().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_or_foreign_database_is_moved_aside() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("certificates.db");
        std::fs::write(&path, b"this is no database, whatever its name may be").unwrap();
        let grants = Grants::open(&path).unwrap();
        assert!(grants.all().unwrap().is_empty());
        assert!(folder.path().join("certificates.damaged").exists());
    }
}
