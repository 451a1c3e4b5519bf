//! What `get` wrote where: by this a file that is still as it was written is told from one that its user changed.
//!
//! Written down before a file is put in place, with its content, and again afterwards, with its stamp: after a crash in
//! between the content tells. Losing the record costs nothing but that: what is not known to be a copy is taken for the user's.

mod unsynced;

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Row, params};
use swarmdex_protocols::{ContentId, Name, PeerId};

use super::hash::FileStamp;
use super::sqlite::{self, Schema};

pub(crate) use unsynced::{Expected, settle};

/// Marks the database as ours: "swdc".
const APPLICATION_ID: i32 = 0x7377_6463;
/// Version of the tables.
const VERSION: i32 = 1;
/// A file may have two rows for a moment: what it is, and what it is about to be.
const TABLES: &str = "
    CREATE TABLE copies (
        path BLOB NOT NULL,
        content BLOB NOT NULL,
        folder BLOB NOT NULL,
        name TEXT NOT NULL,
        owner BLOB NOT NULL,
        len INTEGER,
        mtime INTEGER,
        ctime INTEGER,
        inode INTEGER,
        number INTEGER NOT NULL,
        PRIMARY KEY (path, content)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX copies_by_number ON copies (number);
    CREATE INDEX copies_by_folder ON copies (folder, name);
    CREATE TABLE unfinished (folder BLOB PRIMARY KEY, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";
/// Files that are remembered, about 400 bytes each on disk: those that were written last.
const MAX_COPIES: u32 = 1_000_000;
/// Folders whose downloads were cut off, that are remembered: the latest.
const MAX_UNFINISHED: u32 = 1000;
/// File name of the database.
const FILE: &str = "copies.db";
/// How long another process may take for a change, before it is done without the record.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CopiesError {
    /// The folder cannot be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database cannot be used.
    #[error("the record of downloads in {path} cannot be used")]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

/// A file that was written, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    /// The file.
    pub path: PathBuf,
    /// The folder that was given for it and others.
    pub folder: PathBuf,
    /// Its name in the network.
    pub name: Name,
    /// Who held the name.
    pub owner: PeerId,
    /// Its content.
    pub content: ContentId,
    /// The file as it was left; `None` until it is in place.
    pub stamp: Option<FileStamp>,
}

/// The record on disk.
#[derive(Debug)]
pub(crate) struct Copies {
    path: PathBuf,
    connection: Connection,
    syncs: bool,
    most: u32,
}

impl Copies {
    /// Opens the record in a data directory, or makes a new one. One that is damaged or foreign is moved aside. With `syncs` the
    /// beginning and the end of a download are on disk before it goes on, and all that was remembered in between.
    pub(crate) fn open(folder: &Path, syncs: bool) -> Result<Self, CopiesError> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| CopiesError::Folder { path: folder.to_owned(), source })?;
        let path = folder.join(FILE);
        let schema = Schema { application_id: APPLICATION_ID, version: VERSION, tables: TABLES, synchronous: "NORMAL" };
        let failed = |source| CopiesError::Database { path: path.clone(), source };
        let connection = sqlite::open_or_renew(&path, &schema, "the record of downloads").map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        connection.execute_batch(unsynced::TABLE).map_err(failed)?;
        // Each download opens the record and closes it, and to carry the log over would wait for the disk twice: that is done once
        // for many of them.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
        Ok(Self { path, connection, syncs, most: MAX_COPIES })
    }

    /// Remembers files in one transaction, and forgets those that were written first where there are too many. One with a
    /// stamp is in place: what was there before is of no interest any more.
    pub(crate) fn remember(&mut self, copies: &[Copy]) -> Result<(), CopiesError> {
        self.put_all(copies, false)
    }

    fn put_all(&mut self, copies: &[Copy], sure: bool) -> Result<(), CopiesError> {
        let most = self.most;
        self.written(sure, |connection| {
            let last: i64 =
                connection.query_row("SELECT coalesce(max(number), 0) FROM copies", [], |row| row.get(0))?;
            for (number, copy) in copies.iter().enumerate() {
                if copy.stamp.is_some() {
                    let sql = "DELETE FROM copies WHERE path = ?1 AND content <> ?2";
                    let values = params![bytes(&copy.path), &copy.content.as_bytes()[..]];
                    connection.prepare_cached(sql)?.execute(values)?;
                }
                put(connection, copy, last.saturating_add(1 + number as i64))?;
            }
            let sql = "DELETE FROM copies WHERE number <=
                (SELECT number FROM copies ORDER BY number DESC LIMIT 1 OFFSET ?1)";
            connection.prepare_cached(sql)?.execute([most]).map(drop)
        })
    }

    /// Remembers a copy that is in place for certain. If syncing is wanted it is on disk afterwards, with all that was
    /// remembered before.
    pub(crate) fn remember_surely(&mut self, copy: &Copy) -> Result<(), CopiesError> {
        self.put_all(std::slice::from_ref(copy), self.syncs)
    }

    /// Forgets files: they are gone.
    pub(crate) fn forget(&mut self, paths: &[PathBuf]) -> Result<(), CopiesError> {
        self.together(|connection| {
            for path in paths {
                connection.prepare_cached("DELETE FROM copies WHERE path = ?1")?.execute([bytes(path)])?;
            }
            Ok(())
        })
    }

    /// Begins a download into a folder, at this time in nanoseconds since 1970. If one that began earlier did not end, since
    /// when: what it wrote last may not be remembered.
    pub(crate) fn begin(&mut self, folder: &Path, now_ns: i64) -> Result<Option<i64>, CopiesError> {
        let (mut before, sure) = (None, self.syncs);
        self.written(sure, |connection| {
            let sql = "SELECT since FROM unfinished WHERE folder = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            before = statement.query_row([bytes(folder)], |row| row.get(0)).optional()?;
            let sql = "INSERT OR IGNORE INTO unfinished (folder, since) VALUES (?1, ?2)";
            connection.prepare_cached(sql)?.execute(params![bytes(folder), now_ns])?;
            let sql = "DELETE FROM unfinished WHERE since <
                (SELECT since FROM unfinished ORDER BY since DESC LIMIT 1 OFFSET ?1)";
            connection.prepare_cached(sql)?.execute([MAX_UNFINISHED]).map(drop)
        })?;
        Ok(before)
    }

    /// A download into a folder has come to its end: all that it wrote is remembered.
    pub(crate) fn end(&mut self, folder: &Path) -> Result<(), CopiesError> {
        self.written(self.syncs, |connection| {
            connection.prepare_cached("DELETE FROM unfinished WHERE folder = ?1")?.execute([bytes(folder)]).map(drop)
        })
    }

    /// What was written into a folder, by its path: one row for each content that a file had or was about to have.
    pub(crate) fn below(&self, folder: &Path) -> Result<BTreeMap<PathBuf, Vec<Copy>>, CopiesError> {
        self.read("folder", folder)
    }

    /// The same of one file.
    pub(crate) fn at(&self, path: &Path) -> Result<BTreeMap<PathBuf, Vec<Copy>>, CopiesError> {
        self.read("path", path)
    }

    fn read(&self, column: &str, path: &Path) -> Result<BTreeMap<PathBuf, Vec<Copy>>, CopiesError> {
        let read = || {
            let sql = format!(
                "SELECT path, content, folder, name, owner, len, mtime, ctime, inode FROM copies WHERE {column} = ?1"
            );
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([bytes(path)])?;
            let mut copies = BTreeMap::<_, Vec<_>>::new();
            while let Some(row) = rows.next()? {
                // What is damaged says nothing.
                if let Some(copy) = copy(row)? {
                    copies.entry(copy.path.clone()).or_default().push(copy);
                }
            }
            Ok(copies)
        };
        read().map_err(|source| self.failed(source))
    }

    /// Writes in one transaction; if that is to be sure, it and all before are on disk then.
    fn written(
        &mut self,
        sure: bool,
        write: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>,
    ) -> Result<(), CopiesError> {
        if !sure {
            return self.together(write);
        }
        let set = |connection: &Connection, level: &str| connection.pragma_update(None, "synchronous", level);
        set(&self.connection, "FULL").map_err(|source| self.failed(source))?;
        let outcome = self.together(write);
        set(&self.connection, "NORMAL").map_err(|source| self.failed(source))?;
        outcome
    }

    fn together(&mut self, write: impl FnOnce(&Connection) -> Result<(), rusqlite::Error>) -> Result<(), CopiesError> {
        let run = || {
            // At once, or two processes that read first would both fail to write.
            let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            write(&transaction)?;
            transaction.commit()
        };
        run().map_err(|source| CopiesError::Database { path: self.path.clone(), source })
    }

    fn failed(&self, source: rusqlite::Error) -> CopiesError {
        CopiesError::Database { path: self.path.clone(), source }
    }
}

fn put(connection: &Connection, copy: &Copy, number: i64) -> Result<(), rusqlite::Error> {
    let Copy { path, folder, name, owner, content, stamp } = copy;
    let sql = "INSERT OR REPLACE INTO copies (path, content, folder, name, owner, len, mtime, ctime, inode, number)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        bytes(path),
        &content.as_bytes()[..],
        bytes(folder),
        name.as_str(),
        owner.to_bytes(),
        stamp.map(|stamp| stamp.len.cast_signed()),
        stamp.map(|stamp| stamp.mtime_ns),
        stamp.map(|stamp| stamp.ctime_ns),
        stamp.map(|stamp| stamp.inode.cast_signed()),
        number,
    ];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

fn copy(row: &Row<'_>) -> Result<Option<Copy>, rusqlite::Error> {
    let path = |column| Ok::<_, rusqlite::Error>(path_of(row.get(column)?));
    let (Ok(name), Ok(owner)) =
        (Name::parse(row.get_ref(3)?.as_str()?), PeerId::from_bytes(&row.get::<_, Vec<u8>>(4)?))
    else {
        return Ok(None);
    };
    let Ok(content) = row.get::<_, [u8; 32]>(1) else { return Ok(None) };
    let number = |column| row.get::<_, Option<i64>>(column);
    let stamp = match (number(5)?, number(6)?, number(7)?, number(8)?) {
        (Some(len), Some(mtime_ns), Some(ctime_ns), Some(inode)) => Some(FileStamp {
            len: len.cast_unsigned(),
            mtime_ns,
            ctime_ns,
            inode: inode.cast_unsigned(),
            // It does not tell whether a file changed.
            executable: false,
        }),
        _ => None,
    };
    let content = ContentId::from_bytes(content);
    Ok(Some(Copy { path: path(0)?, folder: path(2)?, name, owner, content, stamp }))
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn written(name: &str, content: &[u8], in_place: bool) -> Copy {
        let stamp = FileStamp { len: 1, mtime_ns: 2, ctime_ns: 3, inode: 4, executable: false };
        Copy {
            path: Path::new("/copies").join(name),
            folder: "/copies".into(),
            name: Name::parse(name).unwrap(),
            owner: PeerId::from_bytes(&[0, 1, 7]).unwrap(),
            content: ContentId::of(content),
            stamp: in_place.then_some(stamp),
        }
    }

    #[test]
    fn what_a_file_was_is_known_until_the_next_is_in_place() {
        let folder = TempDir::new().unwrap();
        let mut copies = Copies::open(&folder.path().join("data"), true).unwrap();
        let (old, next, new) = (written("a", b"old", true), written("a", b"new", false), written("a", b"new", true));
        copies.remember(&[old.clone(), written("b", b"b", true)]).unwrap();
        copies.remember(std::slice::from_ref(&next)).unwrap();
        drop(copies);
        // As after a crash.
        let mut copies = Copies::open(&folder.path().join("data"), true).unwrap();
        let found = copies.below(Path::new("/copies")).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[&old.path].contains(&old) && found[&old.path].contains(&next));
        copies.remember(std::slice::from_ref(&new)).unwrap();
        assert_eq!(copies.below(Path::new("/copies")).unwrap()[&new.path], std::slice::from_ref(&new));
        copies.forget(std::slice::from_ref(&new.path)).unwrap();
        assert_eq!(copies.below(Path::new("/copies")).unwrap().len(), 1);
        assert!(copies.below(Path::new("/other")).unwrap().is_empty());
        assert_eq!(copies.at(Path::new("/copies/b")).unwrap().len(), 1);
        assert!(copies.at(Path::new("/copies")).unwrap().is_empty());
    }

    #[test]
    fn the_record_is_bounded_and_the_oldest_go() {
        let folder = TempDir::new().unwrap();
        let mut copies = Copies { most: 10, ..Copies::open(folder.path(), true).unwrap() };
        for number in 0..25 {
            copies.remember(&[written(&format!("{number:02}"), b"x", true)]).unwrap();
        }
        let left: Vec<_> = copies.below(Path::new("/copies")).unwrap().into_keys().collect();
        assert_eq!(left.len(), 10);
        assert_eq!(left[0], Path::new("/copies/15"));
    }

    #[test]
    fn a_download_that_was_cut_off_is_known_by_the_next() {
        let folder = TempDir::new().unwrap();
        let mut copies = Copies::open(folder.path(), true).unwrap();
        let output = Path::new("/copies");
        assert_eq!(copies.begin(output, 5).unwrap(), None);
        assert_eq!(copies.begin(output, 9).unwrap(), Some(5));
        copies.end(output).unwrap();
        assert_eq!(copies.begin(output, 12).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_moved_aside() {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join(FILE), b"this is no database, whatever its name may be").unwrap();
        assert!(Copies::open(folder.path(), true).unwrap().below(Path::new("/")).unwrap().is_empty());
        assert!(folder.path().join("copies.damaged").exists());
    }
}
