//! What is shared and how it hashed, kept across restarts in an SQLite database.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::{ContentId, Name};

use super::ShareError;
use crate::storage::hash::FileStamp;
use crate::storage::sqlite::{self, OpenError, Schema};

/// Marks the database as ours: "swds".
const APPLICATION_ID: i32 = 0x7377_6473;
/// Version of the tables.
const VERSION: i32 = 1;

const TABLES: &str = "
    CREATE TABLE roots (path BLOB PRIMARY KEY, name TEXT) STRICT, WITHOUT ROWID;
    CREATE TABLE excluded (name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE files (
        path BLOB PRIMARY KEY,
        len INTEGER NOT NULL,
        mtime INTEGER NOT NULL,
        ctime INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        device INTEGER NOT NULL,
        content BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
";

const REMOVE_ROOT: &str = "DELETE FROM roots WHERE path = ?1";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, ShareError> {
        let schema = Schema { application_id: APPLICATION_ID, version: VERSION, tables: TABLES, synchronous: "NORMAL" };
        let refusal = |error| match error {
            OpenError::Foreign | OpenError::Damaged(_) => ShareError::Foreign { path: path.to_owned() },
            OpenError::Database(source) => ShareError::Database { path: path.to_owned(), source },
        };
        let connection = sqlite::open(path, &schema).map_err(refusal)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    fn failed(&self, source: rusqlite::Error) -> ShareError {
        ShareError::Database { path: self.path.clone(), source }
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), ShareError> {
        let run = || self.connection.prepare_cached(sql)?.execute(values);
        run().map(drop).map_err(|source| self.failed(source))
    }

    pub(super) fn roots(&self) -> Result<Vec<(PathBuf, Option<Name>)>, ShareError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT path, name FROM roots ORDER BY path")?;
            let rows =
                statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<String>>(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = read().map_err(|source| self.failed(source))?;
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        Ok(rows
            .into_iter()
            .map(|(bytes, name)| (path(&bytes), name.and_then(|name| Name::parse(&name).ok())))
            .collect())
    }

    pub(super) fn has_root(&self, root: &Path) -> Result<bool, ShareError> {
        let sql = "SELECT count(*) FROM roots WHERE path = ?1";
        let read = || self.connection.prepare_cached(sql)?.query_row([bytes(root)], |row| row.get::<_, i64>(0));
        read().map(|count| count > 0).map_err(|source| self.failed(source))
    }

    pub(super) fn add_root(&self, root: &Path, name: Option<&Name>) -> Result<(), ShareError> {
        let values = params![bytes(root), name.map(Name::as_str)];
        self.execute("INSERT OR REPLACE INTO roots (path, name) VALUES (?1, ?2)", values)
    }

    pub(super) fn remove_root(&self, root: &Path) -> Result<(), ShareError> {
        self.execute(REMOVE_ROOT, [bytes(root)])
    }

    /// Those of some names that were given up.
    pub(super) fn excluded<'a>(&self, names: impl Iterator<Item = &'a Name>) -> Result<HashSet<Name>, ShareError> {
        let read = || {
            // Once for all names: a statement by itself takes and gives back the lock of the database.
            let _reading = self.connection.unchecked_transaction()?;
            let mut statement = self.connection.prepare_cached("SELECT 1 FROM excluded WHERE name = ?1")?;
            let mut excluded = HashSet::new();
            for name in names {
                if statement.exists([name.as_str()])? {
                    excluded.insert(name.clone());
                }
            }
            Ok(excluded)
        };
        read().map_err(|source| self.failed(source))
    }

    /// Forgets roots, and remembers names that are not to be shared below others: all of it or nothing.
    pub(super) fn give_up(&self, roots: &[&Path], names: &[&Name]) -> Result<(), ShareError> {
        self.together(|connection| {
            for root in roots {
                connection.prepare_cached(REMOVE_ROOT)?.execute([bytes(root)])?;
            }
            for name in names {
                let mut statement = connection.prepare_cached("INSERT OR IGNORE INTO excluded (name) VALUES (?1)")?;
                statement.execute([name.as_str()])?;
            }
            Ok(())
        })
    }

    /// Takes names back in that were given up: all of them or none.
    pub(super) fn include(&self, names: &[&Name]) -> Result<(), ShareError> {
        let excluded = self.excluded(names.iter().copied())?;
        self.together(|connection| {
            for name in names.iter().filter(|name| excluded.contains(**name)) {
                connection.prepare_cached("DELETE FROM excluded WHERE name = ?1")?.execute([name.as_str()])?;
            }
            Ok(())
        })
    }

    /// Writes in one transaction.
    fn together(&self, write: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>) -> Result<(), ShareError> {
        let run = || {
            // The connection is behind a lock: no other transaction is open.
            let transaction = self.connection.unchecked_transaction()?;
            write(&transaction)?;
            transaction.commit()
        };
        run().map_err(|source| self.failed(source))
    }

    /// The content id of a file that has not changed since it was hashed.
    pub(super) fn cached(&self, path: &Path, stamp: &FileStamp) -> Result<Option<ContentId>, ShareError> {
        let sql = "SELECT content FROM files
            WHERE path = ?1 AND len = ?2 AND mtime = ?3 AND ctime = ?4 AND inode = ?5 AND device = ?6";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let [len, inode, device] = [stamp.len, stamp.inode, stamp.device].map(u64::cast_signed);
            let values = params![bytes(path), len, stamp.mtime_ns, stamp.ctime_ns, inode, device];
            statement.query_row(values, |row| row.get::<_, [u8; 32]>(0)).optional()
        };
        read().map(|content| content.map(ContentId::from_bytes)).map_err(|source| self.failed(source))
    }

    pub(super) fn cache(&self, path: &Path, stamp: &FileStamp, content: &ContentId) -> Result<(), ShareError> {
        let [len, inode, device] = [stamp.len, stamp.inode, stamp.device].map(u64::cast_signed);
        let values = params![bytes(path), len, stamp.mtime_ns, stamp.ctime_ns, inode, device, &content.as_bytes()[..]];
        let sql = "INSERT OR REPLACE INTO files (path, len, mtime, ctime, inode, device, content)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.execute(sql, values)
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
