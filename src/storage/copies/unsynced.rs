//! Files that were put in place without waiting for the disk: written down, for certain, before they are, and looked at after
//! the next start. A power cut may leave any of them at its full length with nothing in it.
//!
//! A file is removed on positive evidence alone. It has the time that was to be given to it and at most its length, and
//! its content was never downloaded there. Whatever else is found at the place is somebody's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use rusqlite::{Connection, Row, params};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use swarmdex_protocols::ContentId;

use super::{Copies, CopiesError, FILE, bytes, path_of};
use crate::storage::durable::{sync_files, sync_folder};
use crate::storage::hash::{FileStamp, HashError, hash_file, open_regular, thread_count};

/// Beside the tables of the record. `boot` and `mount` are those under which the file was written: where both are the same, no
/// power cut was in between.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS unsynced (
        path BLOB NOT NULL,
        content BLOB NOT NULL,
        len INTEGER NOT NULL,
        mtime INTEGER NOT NULL,
        boot TEXT NOT NULL,
        mount TEXT NOT NULL,
        PRIMARY KEY (path, content)
    ) STRICT, WITHOUT ROWID;
";
/// Files that may not be on disk, at most; with more of them, files are waited for.
const MOST: i64 = 2_000_000;
/// Files that are looked at together, and that are open meanwhile.
const PAGE: usize = 64;
/// Where Linux tells one start of the machine from the next.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Some file systems cut times to hundredths of a second: such a time is a multiple of this.
const COARSE_NS: i64 = 10_000_000;
/// Others cut them to two seconds, which is the coarsest.
const COARSEST_NS: i64 = 2_000_000_000;

/// A file that is about to be put in place without waiting for the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Where.
    pub path: PathBuf,
    /// Its content.
    pub content: ContentId,
    /// Its length in bytes.
    pub len: u64,
    /// The time that it is given, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Expected {
    /// Whether a file can be this one, whole or not.
    pub(crate) fn may_be(&self, now: &FileStamp) -> bool {
        let same = now.mtime_ns == self.mtime_ns;
        let coarse =
            now.mtime_ns % COARSE_NS == 0 && now.mtime_ns.abs_diff(self.mtime_ns) <= COARSEST_NS.unsigned_abs();
        now.len <= self.len && (same || coarse)
    }
}

/// A file that may not be on disk.
#[derive(Debug)]
struct Unsure {
    file: Expected,
    /// Whether the machine, or its disk, was gone since, or the disk did not take it.
    cut: bool,
}

/// What is there instead of a file.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It is on disk now.
    Safe,
    /// Nothing, or what is its user's.
    Gone,
    /// It is still to come, or it cannot be looked at now.
    Open,
    /// The disk did not take it: the next look reads it.
    Failed,
    /// It was something else than was downloaded, and is removed.
    Removed,
}

impl Copies {
    /// Writes down that files are about to be put in place without waiting for the disk; that itself is on disk then. False if there
    /// is no room for so many.
    pub(crate) fn expect(&mut self, files: &[Expected]) -> Result<bool, CopiesError> {
        let (boot, mut fits) = (boot(), true);
        self.written(true, |connection| {
            let known: i64 = connection.query_row("SELECT count(*) FROM unsynced", [], |row| row.get(0))?;
            fits = known.saturating_add(files.len() as i64) <= MOST;
            if !fits {
                return Ok(());
            }
            let sql = "INSERT OR REPLACE INTO unsynced (path, content, len, mtime, boot, mount) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let mut statement = connection.prepare_cached(sql)?;
            let mut last: Option<(&Path, String)> = None;
            for Expected { path, content, len, mtime_ns } in files {
                let folder = path.parent().unwrap_or(path);
                let (_, mount) = match last.take() {
                    Some(known) if known.0 == folder => last.insert(known),
                    _ => last.insert((folder, mount_of(folder))),
                };
                let content = &content.as_bytes()[..];
                statement.execute(params![bytes(path), content, len.cast_signed(), mtime_ns, boot, mount.as_str()])?;
            }
            Ok(())
        })?;
        Ok(fits)
    }

    /// Files that were expected and did not come.
    pub(crate) fn unexpect(&mut self, files: &[Expected]) -> Result<(), CopiesError> {
        self.together(|connection| {
            for file in files {
                on_row(connection, DROP, file)?;
            }
            Ok(())
        })
    }

    /// Files that may not be on disk, at or below a path, after another in the order of paths.
    fn unsure(&self, below: &Path, after: &Path) -> Result<Vec<Unsure>, CopiesError> {
        let boot = boot();
        let read = || {
            let sql =
                "SELECT path, content, len, mtime, boot, mount FROM unsynced WHERE path > ?1 ORDER BY path, content";
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map([bytes(after)], |row| unsure(row, &boot))?;
            let here = rows.filter(|row| row.as_ref().map_or(true, |unsure| unsure.file.path.starts_with(below)));
            let mut page: Vec<Unsure> = Vec::new();
            for row in here {
                let row = row?;
                // All of one path are in one page.
                if page.len() >= PAGE && page.last().is_some_and(|last| last.file.path != row.file.path) {
                    break;
                }
                page.push(row);
            }
            Ok(page)
        };
        read().map_err(|source| self.failed(source))
    }

    /// Whether a content was ever written to a path, or may have been.
    fn knows(&self, path: &Path, content: &ContentId) -> Result<bool, CopiesError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM copies WHERE path = ?1 AND content = ?2)
            OR EXISTS (SELECT 1 FROM unsynced WHERE path = ?1 AND content = ?2)";
        let values = params![bytes(path), &content.as_bytes()[..]];
        let read = || self.connection.prepare_cached(sql)?.query_row(values, |row| row.get(0));
        read().map_err(|source| self.failed(source))
    }

    fn settled(&mut self, files: &[(Unsure, Finding)]) -> Result<(), CopiesError> {
        self.together(|connection| {
            for (Unsure { file, .. }, finding) in files {
                match finding {
                    Finding::Open => {}
                    // The disk says so once.
                    Finding::Failed => on_row(connection, DOUBT, file)?,
                    Finding::Safe | Finding::Gone => on_row(connection, DROP, file)?,
                    Finding::Removed => {
                        on_row(connection, DROP, file)?;
                        on_row(connection, FORGET, file)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Has files at and below a path that may not be on disk written there; those that a power cut left with something else in them
    /// are removed. Hashes on `threads` threads; 0 means one for each processor. Blocks on the disk.
    pub(crate) fn settle(&mut self, below: &Path, threads: usize) -> Result<(), CopiesError> {
        let mut after = PathBuf::new();
        loop {
            let files = self.unsure(below, &after)?;
            let Some(last) = files.last() else { return Ok(()) };
            after.clone_from(&last.file.path);
            let findings = look(self, files, threads)?;
            self.settled(&findings)?;
        }
    }
}

/// Settles the files that the record in `home` has, as [`Copies::settle`] does, if there is a record.
pub(crate) fn settle(home: &Path, below: &Path, threads: usize) -> Result<(), CopiesError> {
    if home.join(FILE).exists() { Copies::open(home, false)?.settle(below, threads) } else { Ok(()) }
}

/// What is done with the row of a file.
const DROP: &str = "DELETE FROM unsynced WHERE path = ?1 AND content = ?2";
const DOUBT: &str = "UPDATE unsynced SET boot = '' WHERE path = ?1 AND content = ?2";
const FORGET: &str = "DELETE FROM copies WHERE path = ?1 AND content = ?2";

fn on_row(connection: &Connection, sql: &str, file: &Expected) -> Result<(), rusqlite::Error> {
    let values = params![bytes(&file.path), &file.content.as_bytes()[..]];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

fn look(copies: &Copies, files: Vec<Unsure>, threads: usize) -> Result<Vec<(Unsure, Finding)>, CopiesError> {
    // What is synced is what was looked at: by now something else may be there.
    let open = files.iter().map(|unsure| open_regular(&unsure.file.path));
    let open: Vec<_> = open.map(|opened| opened.map(|(file, now)| (Arc::new(file), now))).collect();
    let mut outcomes = sync_files(open.iter().flatten().map(|(file, _)| file.clone()).collect()).into_iter();
    let mut folders: Vec<_> = files.iter().filter_map(|unsure| unsure.file.path.parent()).collect();
    folders.dedup();
    let failed: Vec<_> = folders
        .into_iter()
        .filter(|folder| folder.is_dir() && sync_folder(folder).is_err())
        .map(Path::to_owned)
        .collect();
    let mut findings = Vec::with_capacity(files.len());
    for (unsure, opened) in files.into_iter().zip(open) {
        let synced = opened.is_ok()
            && outcomes.next().is_some_and(|outcome| outcome.is_ok())
            && !failed.iter().any(|folder| unsure.file.path.parent() == Some(folder));
        let finding = find(copies, &unsure, opened.map(|(_, now)| now), synced, threads)?;
        findings.push((unsure, finding));
    }
    Ok(findings)
}

fn find(
    copies: &Copies,
    unsure: &Unsure,
    found: Result<FileStamp, HashError>,
    synced: bool,
    threads: usize,
) -> Result<Finding, CopiesError> {
    let now = match found {
        Ok(now) => now,
        // Another process may be about to put it there.
        Err(HashError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !unsure.cut => {
            return Ok(Finding::Open);
        }
        Err(HashError::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => return Ok(Finding::Open),
        Err(_) => return Ok(Finding::Gone),
    };
    let file = &unsure.file;
    if !file.may_be(&now) {
        // What was there before may still be replaced.
        return Ok(if unsure.cut { Finding::Gone } else { Finding::Open });
    }
    if !unsure.cut {
        return Ok(if synced { Finding::Safe } else { Finding::Failed });
    }
    let hashed = hash_file(&file.path, thread_count(threads), &AtomicU64::new(0), &AtomicBool::new(false));
    let Ok(hashed) = hashed else {
        return Ok(Finding::Open);
    };
    if hashed.content == file.content {
        return Ok(if synced { Finding::Safe } else { Finding::Open });
    }
    if copies.knows(&file.path, &hashed.content)? {
        return Ok(Finding::Gone);
    }
    Ok(if remove(file, &hashed.stamp) { Finding::Removed } else { Finding::Open })
}

/// Removes a file that is still as it was read. False if that cannot be done.
fn remove(file: &Expected, read: &FileStamp) -> bool {
    let path = file.path.display();
    if !open_regular(&file.path).is_ok_and(|(_, now)| now == *read) {
        return false;
    }
    if let Err(error) = fs::remove_file(&file.path) {
        tracing::error!(%path, %error, "a power cut came before it was on disk; it is not what was downloaded, and cannot be removed");
        return false;
    }
    tracing::warn!(%path, "a power cut came before it was on disk, and it was not what was downloaded: removed; get it again");
    true
}

fn unsure(row: &Row<'_>, boot: &str) -> Result<Unsure, rusqlite::Error> {
    let path = path_of(row.get(0)?);
    let content = ContentId::from_bytes(row.get(1)?);
    let (len, mtime_ns) = (row.get::<_, i64>(2)?.cast_unsigned(), row.get(3)?);
    let folder = path.parent().unwrap_or(&path);
    let same = !boot.is_empty() && row.get_ref(4)?.as_str()? == boot && row.get_ref(5)?.as_str()? == mount_of(folder);
    Ok(Unsure { file: Expected { path, content, len, mtime_ns }, cut: !same })
}

/// The start of the machine; nothing where it does not tell, so that none is taken for the same.
fn boot() -> String {
    fs::read_to_string(BOOT).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// What the nearest folder that is there is mounted from: another text once it was mounted anew, on kernels from 6.8 on for certain.
fn mount_of(folder: &Path) -> String {
    // `STATX_MNT_ID_UNIQUE` of `statx(2)`: a number that no other mount has had.
    let unique = StatxFlags::from_bits_retain(0x4000);
    let look = |above: &Path| statx(CWD, above, AtFlags::empty(), StatxFlags::BASIC_STATS | unique).ok();
    let found = folder.ancestors().find_map(look);
    found.map_or_else(String::new, |found| {
        format!("{}:{}:{}", found.stx_dev_major, found.stx_dev_minor, found.stx_mnt_id)
    })
}

#[cfg(test)]
mod tests;
