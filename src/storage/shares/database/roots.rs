//! Which files and folders are shared, who said so, and what was given up of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use swarmdex_protocols::{ContentId, Name};

use super::{Database, bytes, path_of};
use crate::config::{Origin, Selection};
use crate::storage::hash::FileStamp;
use crate::storage::shares::ShareError;

/// Tables that earlier builds do not know; they open the database all the same. What is shared by whom stands in
/// `origins`; a root without a row there is from such a build. `revoked` has the root for which a file was given up, and
/// none if it was given up for all. `shared` has what was shared last, so that a root that is away keeps its names;
/// `mounts` where disks were mounted that roots are on.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS origins (
        path BLOB NOT NULL, origin TEXT NOT NULL, given BLOB NOT NULL, PRIMARY KEY (path, origin)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS selections (path BLOB PRIMARY KEY, selection TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS unshared (path BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS revoked (
        path BLOB NOT NULL, root BLOB NOT NULL, name TEXT NOT NULL, PRIMARY KEY (path, root)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS revoked_names ON revoked (name);
    CREATE TABLE IF NOT EXISTS shared (
        root BLOB NOT NULL, path BLOB NOT NULL, PRIMARY KEY (root, path)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS mounts (
        root BLOB NOT NULL, path BLOB NOT NULL, PRIMARY KEY (root, path)
    ) STRICT, WITHOUT ROWID;
";

/// Stands in `revoked` for all roots.
const EVERYWHERE: &[u8] = b"";

/// A file or folder that is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage::shares) struct Root {
    pub(in crate::storage::shares) path: PathBuf,
    /// New name of the file, or what stands in front of the names in the folder.
    pub(in crate::storage::shares) prefix: Option<Name>,
    /// Who said so, and what path they gave.
    pub(in crate::storage::shares) origins: BTreeMap<Origin, PathBuf>,
    /// What of it is shared, as it was said with it.
    pub(in crate::storage::shares) selection: Selection,
}

impl Root {
    /// One that nobody has named yet.
    pub(in crate::storage::shares) fn new(path: PathBuf) -> Self {
        Self { path, prefix: None, origins: BTreeMap::new(), selection: Selection::default() }
    }

    /// Whether flags or the configuration name it.
    pub(in crate::storage::shares) fn is_declared(&self) -> bool {
        self.origins.keys().any(|origin| matches!(origin, Origin::Flag | Origin::Configuration))
    }
}

/// A file of a root.
pub(in crate::storage::shares) type Place<'a> = (&'a Path, &'a Path);

/// A name that is given up.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage::shares) struct GivenUp<'a> {
    pub(in crate::storage::shares) name: &'a Name,
    pub(in crate::storage::shares) root: &'a Path,
    pub(in crate::storage::shares) path: &'a Path,
    /// Whether the file has no other name that stays.
    pub(in crate::storage::shares) everywhere: bool,
}

fn origin_text(origin: Origin) -> &'static str {
    match origin {
        Origin::Command => "command",
        Origin::Flag => "flag",
        Origin::Configuration => "configuration",
        Origin::Earlier => "earlier",
    }
}

fn parse_origin(text: &str) -> Origin {
    let known = [Origin::Command, Origin::Flag, Origin::Configuration];
    // What a later build may write is kept until somebody ends it.
    known.into_iter().find(|origin| origin_text(*origin) == text).unwrap_or(Origin::Earlier)
}

impl Database {
    /// All roots in the order of their paths.
    pub(in crate::storage::shares) fn roots(&self) -> Result<Vec<Root>, ShareError> {
        self.read_roots(None)
    }

    /// One root.
    pub(in crate::storage::shares) fn root(&self, path: &Path) -> Result<Option<Root>, ShareError> {
        Ok(self.read_roots(Some(path))?.pop())
    }

    fn read_roots(&self, one: Option<&Path>) -> Result<Vec<Root>, ShareError> {
        let sql = "SELECT r.path, r.name, s.selection, o.origin, o.given FROM roots r
            LEFT JOIN selections s ON s.path = r.path LEFT JOIN origins o ON o.path = r.path
            WHERE ?1 IS NULL OR r.path = ?1 ORDER BY r.path";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([one.map(bytes)])?;
            let mut roots: Vec<Root> = Vec::new();
            while let Some(row) = rows.next()? {
                let path = path_of(row.get(0)?);
                if roots.last().is_none_or(|last| last.path != path) {
                    let prefix = row.get::<_, Option<String>>(1)?.and_then(|name| Name::parse(&name).ok());
                    let selection = row.get::<_, Option<String>>(2)?;
                    let selection = selection.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
                    roots.push(Root { prefix, selection, ..Root::new(path) });
                }
                if let (Some(origin), Some(root)) = (row.get::<_, Option<String>>(3)?, roots.last_mut()) {
                    let given = row.get::<_, Option<Vec<u8>>>(4)?.map(path_of).unwrap_or_default();
                    root.origins.insert(parse_origin(&origin), given);
                }
            }
            Ok(roots)
        };
        read().map_err(|source| self.failed(source))
    }

    pub(in crate::storage::shares) fn has_root(&self, root: &Path) -> Result<bool, ShareError> {
        self.is_there("SELECT 1 FROM roots WHERE path = ?1", [bytes(root)])
    }

    fn is_there(&self, sql: &str, values: impl rusqlite::Params) -> Result<bool, ShareError> {
        let read = || self.connection.prepare_cached(sql)?.exists(values);
        read().map_err(|source| self.failed(source))
    }

    /// Writes roots, and ends others: all of it or nothing.
    pub(in crate::storage::shares) fn put_roots(&self, put: &[Root], ended: &[&Path]) -> Result<(), ShareError> {
        self.surely(|connection| {
            ended.iter().try_for_each(|path| end_root(connection, path))?;
            put.iter().try_for_each(|root| put_root(connection, root))
        })
    }

    /// Roots that flags or the configuration name, and that were ended by hand all the same.
    pub(in crate::storage::shares) fn unshared(&self) -> Result<BTreeSet<PathBuf>, ShareError> {
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT path FROM unshared")?;
            let rows = statement.query_map([], |row| Ok(path_of(row.get(0)?)))?;
            rows.collect::<Result<BTreeSet<_>, _>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Ends roots by hand; those that are named by flags or the configuration stay so.
    pub(in crate::storage::shares) fn unshare(&self, ended: &[&Path], named: &[&Path]) -> Result<(), ShareError> {
        self.surely(|connection| {
            for path in named {
                connection
                    .prepare_cached("INSERT OR IGNORE INTO unshared (path) VALUES (?1)")?
                    .execute([bytes(path)])?;
            }
            ended.iter().try_for_each(|path| end_root(connection, path))
        })
    }

    /// Forgets that roots were ended by hand.
    pub(in crate::storage::shares) fn forget_unshared(&self, paths: &[&Path]) -> Result<(), ShareError> {
        self.together(|connection| {
            for path in paths {
                connection.prepare_cached("DELETE FROM unshared WHERE path = ?1")?.execute([bytes(path)])?;
            }
            Ok(())
        })
    }

    /// Gives names up, and writes what is left of the roots that were named directly: all of it or nothing.
    pub(in crate::storage::shares) fn give_up(
        &self,
        names: &[GivenUp<'_>],
        put: &[Root],
        ended: &[&Path],
    ) -> Result<(), ShareError> {
        self.surely(|connection| {
            ended.iter().try_for_each(|path| end_root(connection, path))?;
            put.iter().try_for_each(|root| put_root(connection, root))?;
            for GivenUp { name, root, path, everywhere } in names {
                let root = if *everywhere { EVERYWHERE } else { bytes(root) };
                let values = params![bytes(path), root, name.as_str()];
                connection
                    .prepare_cached("INSERT OR REPLACE INTO revoked (path, root, name) VALUES (?1, ?2, ?3)")?
                    .execute(values)?;
                // Earlier builds go by the name.
                connection
                    .prepare_cached("INSERT OR IGNORE INTO excluded (name) VALUES (?1)")?
                    .execute([name.as_str()])?;
            }
            Ok(())
        })
    }

    /// Takes back in what was given up at and below a path, and whatever had one of these names.
    pub(in crate::storage::shares) fn include(&self, root: &Path, names: &[&Name]) -> Result<(), ShareError> {
        let [first, end] = below(root);
        let some = self.is_there("SELECT 1 FROM excluded LIMIT 1", [])?;
        self.together(|connection| {
            let at = "path = ?1 OR path >= ?2 AND path < ?3";
            let sql = format!("DELETE FROM excluded WHERE name IN (SELECT name FROM revoked WHERE {at})");
            connection.prepare_cached(&sql)?.execute(params![bytes(root), first, end])?;
            let sql = format!("DELETE FROM revoked WHERE {at}");
            connection.prepare_cached(&sql)?.execute(params![bytes(root), first, end])?;
            if some {
                // What was given up under such a name elsewhere stays so.
                let sql = "DELETE FROM excluded WHERE name = ?1 AND name NOT IN (SELECT name FROM revoked)";
                for name in names {
                    connection.prepare_cached(sql)?.execute([name.as_str()])?;
                }
            }
            Ok(())
        })
    }

    /// Whether files of a root, each with its name, were given up.
    pub(in crate::storage::shares) fn revoked<'a>(
        &self,
        root: &Path,
        files: impl Iterator<Item = (&'a Path, &'a Name)>,
    ) -> Result<Vec<bool>, ShareError> {
        // What earlier builds gave up has a name alone.
        let by_name =
            "SELECT 1 FROM excluded WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM revoked WHERE revoked.name = ?1)";
        // An earlier build that takes a name back in knows the name alone.
        let by_path =
            "SELECT 1 FROM revoked r JOIN excluded e ON e.name = r.name WHERE r.path = ?1 AND r.root IN (?2, ?3)";
        let read = || {
            // Once for all files: a statement by itself takes and gives back the lock of the database.
            let _reading = self.connection.unchecked_transaction()?;
            if !self.connection.prepare_cached("SELECT 1 FROM excluded LIMIT 1")?.exists([])? {
                return Ok(files.map(|_| false).collect());
            }
            let mut path = self.connection.prepare_cached(by_path)?;
            let mut name = self.connection.prepare_cached(by_name)?;
            let is_given_up = |(file, called): (&Path, &Name)| -> Result<bool, rusqlite::Error> {
                Ok(path.exists(params![bytes(file), bytes(root), EVERYWHERE])? || name.exists([called.as_str()])?)
            };
            files.map(is_given_up).collect()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Notes what is shared of a root, and what is not any more.
    pub(in crate::storage::shares) fn note(&self, new: &[Place<'_>], gone: &[Place<'_>]) -> Result<(), ShareError> {
        if new.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.together(|connection| {
            for (root, path) in gone {
                connection
                    .prepare_cached("DELETE FROM shared WHERE root = ?1 AND path = ?2")?
                    .execute([bytes(root), bytes(path)])?;
            }
            for (root, path) in new {
                connection
                    .prepare_cached("INSERT OR IGNORE INTO shared (root, path) VALUES (?1, ?2)")?
                    .execute([bytes(root), bytes(path)])?;
            }
            Ok(())
        })
    }

    /// What was shared of a root last, as far as the hashes are known.
    pub(in crate::storage::shares) fn known(
        &self,
        root: &Path,
    ) -> Result<Vec<(PathBuf, FileStamp, ContentId)>, ShareError> {
        let sql = "SELECT s.path, f.len, f.mtime, f.ctime, f.inode, f.content FROM shared s
            JOIN files f ON f.path = s.path WHERE s.root = ?1";
        let read = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map([bytes(root)], |row| {
                let stamp = FileStamp {
                    len: row.get::<_, i64>(1)?.cast_unsigned(),
                    mtime_ns: row.get(2)?,
                    ctime_ns: row.get(3)?,
                    inode: row.get::<_, i64>(4)?.cast_unsigned(),
                    // Nobody knows before the file is back; until then nothing is said of it.
                    executable: false,
                };
                Ok((path_of(row.get(0)?), stamp, ContentId::from_bytes(row.get::<_, [u8; 32]>(5)?)))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Where disks were mounted that a root is on, or that are in it.
    pub(in crate::storage::shares) fn mounts(&self, root: &Path) -> Result<BTreeSet<PathBuf>, ShareError> {
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT path FROM mounts WHERE root = ?1")?;
            let rows = statement.query_map([bytes(root)], |row| Ok(path_of(row.get(0)?)))?;
            rows.collect::<Result<BTreeSet<_>, _>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// The same, of all roots.
    pub(in crate::storage::shares) fn all_mounts(&self) -> Result<BTreeSet<PathBuf>, ShareError> {
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT DISTINCT path FROM mounts")?;
            let rows = statement.query_map([], |row| Ok(path_of(row.get(0)?)))?;
            rows.collect::<Result<BTreeSet<_>, _>>()
        };
        read().map_err(|source| self.failed(source))
    }

    /// Replaces them.
    pub(in crate::storage::shares) fn put_mounts(
        &self,
        root: &Path,
        mounts: &BTreeSet<PathBuf>,
    ) -> Result<(), ShareError> {
        self.together(|connection| {
            connection.prepare_cached("DELETE FROM mounts WHERE root = ?1")?.execute([bytes(root)])?;
            for mount in mounts {
                connection
                    .prepare_cached("INSERT INTO mounts (root, path) VALUES (?1, ?2)")?
                    .execute([bytes(root), bytes(mount)])?;
            }
            Ok(())
        })
    }
}

/// The first key of what is below a path, and the one after the last.
fn below(path: &Path) -> [Vec<u8>; 2] {
    // '0' comes right after '/'. Below the root of all is everything.
    let text = bytes(path).strip_suffix(b"/").unwrap_or(bytes(path));
    [b'/', b'0'].map(|end| [text, &[end]].concat())
}

fn put_root(connection: &Connection, root: &Root) -> Result<(), rusqlite::Error> {
    let Root { path, prefix, origins, selection } = root;
    let sql = "INSERT OR REPLACE INTO roots (path, name) VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![bytes(path), prefix.as_ref().map(Name::as_str)])?;
    connection.prepare_cached("DELETE FROM origins WHERE path = ?1")?.execute([bytes(path)])?;
    for (origin, given) in origins {
        connection
            .prepare_cached("INSERT INTO origins (path, origin, given) VALUES (?1, ?2, ?3)")?
            .execute(params![bytes(path), origin_text(*origin), bytes(given)])?;
    }
    let text = serde_json::to_string(selection).unwrap_or_default();
    let sql = "INSERT OR REPLACE INTO selections (path, selection) VALUES (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![bytes(path), text]).map(drop)
}

fn end_root(connection: &Connection, path: &Path) -> Result<(), rusqlite::Error> {
    for (table, column) in
        [("roots", "path"), ("origins", "path"), ("selections", "path"), ("shared", "root"), ("mounts", "root")]
    {
        let sql = format!("DELETE FROM {table} WHERE {column} = ?1");
        connection.prepare_cached(&sql)?.execute([bytes(path)])?;
    }
    Ok(())
}
