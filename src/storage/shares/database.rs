//! What is shared and how it hashed, kept across restarts in an SQLite database.

mod roots;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::ContentId;

pub(super) use roots::{GivenUp, Root};

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
        connection.execute_batch(roots::TABLES).map_err(|error| refusal(error.into()))?;
        Ok(Self { connection, path: path.to_owned() })
    }

    fn failed(&self, source: rusqlite::Error) -> ShareError {
        ShareError::Database { path: self.path.clone(), source }
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<(), ShareError> {
        let run = || self.connection.prepare_cached(sql)?.execute(values);
        run().map(drop).map_err(|source| self.failed(source))
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

    /// Writes in one transaction what must not come back after a power cut: what somebody gave up.
    fn surely(&self, write: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>) -> Result<(), ShareError> {
        let set = |level: &str| self.connection.pragma_update(None, "synchronous", level);
        set("FULL").map_err(|source| self.failed(source))?;
        let written = self.together(write);
        set("NORMAL").map_err(|source| self.failed(source))?;
        written
    }

    /// Waits until all that was written before is on disk.
    pub(super) fn settle(&self) -> Result<(), ShareError> {
        // Writes the log to the disk, and then what is in it to its place.
        let settling = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        settling.map_err(|source| self.failed(source))
    }

    /// The content id of a file that has not changed since it was hashed.
    pub(super) fn cached(&self, path: &Path, stamp: &FileStamp) -> Result<Option<ContentId>, ShareError> {
        let sql = "SELECT content FROM files WHERE path = ?1 AND len = ?2 AND mtime = ?3 AND ctime = ?4 AND inode = ?5";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let [len, inode] = [stamp.len, stamp.inode].map(u64::cast_signed);
            let values = params![bytes(path), len, stamp.mtime_ns, stamp.ctime_ns, inode];
            statement.query_row(values, |row| row.get::<_, [u8; 32]>(0)).optional()
        };
        read().map(|content| content.map(ContentId::from_bytes)).map_err(|source| self.failed(source))
    }

    /// Keeps what is known of a file, and believes it no more: whatever its times are, it is hashed anew.
    pub(super) fn distrust(&self, path: &Path) -> Result<(), ShareError> {
        self.execute("UPDATE files SET ctime = ?2 WHERE path = ?1", params![bytes(path), i64::MIN])
    }

    pub(super) fn cache(&self, path: &Path, stamp: &FileStamp, content: &ContentId) -> Result<(), ShareError> {
        let [len, inode] = [stamp.len, stamp.inode].map(u64::cast_signed);
        // The device is for earlier builds: a disk that is mounted again may get another number.
        let values = params![bytes(path), len, stamp.mtime_ns, stamp.ctime_ns, inode, 0, &content.as_bytes()[..]];
        let sql = "INSERT OR REPLACE INTO files (path, len, mtime, ctime, inode, device, content)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.execute(sql, values)
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}
