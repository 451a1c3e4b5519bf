//! Files that were put in place without waiting for the disk: written down, for certain, before they are, and looked at after
//! the next start. A power cut may leave any of them at its full length with nothing in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, Row, params};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use swarmdex_protocols::ContentId;

use super::{Copies, CopiesError, Copy, FILE, bytes};
use crate::storage::durable::{sync_files, sync_folder};
use crate::storage::hash::{HashError, hash_file, open_regular, thread_count};

/// Beside the tables of the record. `boot` and `mount` are those under which the file was written: where both are the same, no
/// power cut was in between.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS unsynced (
        path BLOB NOT NULL,
        content BLOB NOT NULL,
        boot TEXT NOT NULL,
        mount TEXT NOT NULL,
        inode INTEGER,
        mtime INTEGER,
        PRIMARY KEY (path, content)
    ) STRICT, WITHOUT ROWID;
";
/// Files that are looked at together, and that are open meanwhile.
const PAGE: usize = 64;
/// Where Linux tells one start of the machine from the next.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// One at a time looks at them in a process.
static SETTLING: Mutex<()> = Mutex::new(());

/// A file that may not be on disk.
#[derive(Debug)]
struct Unsure {
    path: PathBuf,
    content: ContentId,
    /// Whether the machine, or its disk, was gone since.
    cut: bool,
    /// The file as it was put in place, if that is known.
    placed: Option<(u64, i64)>,
}

/// What is there instead of a file.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// It is on disk now.
    Safe,
    /// Nothing, or what its user made of it.
    Gone,
    /// It is still to come, or the disk does not say.
    Open,
    /// Something else than was downloaded: a power cut took it.
    Wrong,
}

impl Copies {
    /// Writes down that files are about to be put in place without waiting for the disk; that itself is on disk then.
    pub fn expect(&mut self, files: &[(PathBuf, ContentId)]) -> Result<(), CopiesError> {
        let boot = boot();
        self.written(true, |connection| {
            let sql = "INSERT OR REPLACE INTO unsynced (path, content, boot, mount) VALUES (?1, ?2, ?3, ?4)";
            let mut statement = connection.prepare_cached(sql)?;
            let mut last: Option<(&Path, String)> = None;
            for (path, content) in files {
                let folder = path.parent().unwrap_or(path);
                let (_, mount) = match last.take() {
                    Some(known) if known.0 == folder => last.insert(known),
                    _ => last.insert((folder, mount_of(folder))),
                };
                statement.execute(params![bytes(path), &content.as_bytes()[..], boot, mount.as_str()])?;
            }
            Ok(())
        })
    }

    /// Files that may not be on disk, after a path in the order of paths.
    fn unsure(&self, after: &Path) -> Result<Vec<Unsure>, CopiesError> {
        let boot = boot();
        let read = || {
            let sql =
                "SELECT path, content, boot, mount, inode, mtime FROM unsynced WHERE path > ?1 ORDER BY path LIMIT ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![bytes(after), PAGE as i64], |row| unsure(row, &boot))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|source| self.failed(source))
    }

    fn settled(&mut self, files: &[(Unsure, Finding)]) -> Result<(), CopiesError> {
        self.together(|connection| {
            for (file, finding) in files.iter().filter(|(_, finding)| *finding != Finding::Open) {
                let values = params![bytes(&file.path), &file.content.as_bytes()[..]];
                connection.prepare_cached("DELETE FROM unsynced WHERE path = ?1 AND content = ?2")?.execute(values)?;
                if *finding == Finding::Wrong {
                    connection
                        .prepare_cached("DELETE FROM copies WHERE path = ?1 AND content = ?2")?
                        .execute(values)?;
                }
            }
            Ok(())
        })
    }
}

/// A copy is in place: how it looks there is known.
pub(super) fn placed(connection: &Connection, copy: &Copy) -> Result<(), rusqlite::Error> {
    let Some(stamp) = copy.stamp else { return Ok(()) };
    let values = params![bytes(&copy.path), &copy.content.as_bytes()[..], stamp.inode.cast_signed(), stamp.mtime_ns];
    let sql = "UPDATE unsynced SET inode = ?3, mtime = ?4 WHERE path = ?1 AND content = ?2";
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// Has all files that may not be on disk written there, after the record in `home` was last used by whom it may be; those that a
/// power cut left with something else in them are verified, and removed. Blocks on the disk.
pub fn settle(home: &Path, cancel: &AtomicBool) -> Result<(), CopiesError> {
    if !home.join(FILE).exists() {
        return Ok(());
    }
    let _one = SETTLING.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut copies, mut after) = (Copies::open(home, false)?, PathBuf::new());
    loop {
        let files = copies.unsure(&after)?;
        let Some(last) = files.last() else { return Ok(()) };
        after.clone_from(&last.path);
        let findings = look(files, cancel);
        copies.settled(&findings)?;
        if cancel.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(());
        }
    }
}

fn look(files: Vec<Unsure>, cancel: &AtomicBool) -> Vec<(Unsure, Finding)> {
    let open: Vec<_> = files.iter().map(|file| File::open(&file.path).ok()).collect();
    let mut outcomes = sync_files(&open.iter().flatten().collect::<Vec<_>>()).into_iter();
    let synced: Vec<_> =
        open.iter().map(|file| file.is_some() && outcomes.next().is_some_and(|outcome| outcome.is_ok())).collect();
    let mut folders: Vec<_> = files.iter().filter_map(|file| file.path.parent()).collect();
    folders.dedup();
    let failed: Vec<_> =
        folders.into_iter().filter(|folder| sync_folder(folder).is_err()).map(Path::to_owned).collect();
    let looked = files.into_iter().zip(synced).map(|(file, synced)| {
        let unsynced = file.path.parent().is_some_and(|folder| failed.iter().any(|failed| failed == folder));
        let finding = find(&file, synced && !unsynced, cancel);
        if finding == Finding::Wrong {
            remove(&file);
        }
        (file, finding)
    });
    looked.collect()
}

fn find(file: &Unsure, synced: bool, cancel: &AtomicBool) -> Finding {
    let now = match open_regular(&file.path) {
        Ok((_, now)) => now,
        // Another process may be about to put it there.
        Err(HashError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !file.cut => {
            return Finding::Open;
        }
        Err(HashError::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => return Finding::Open,
        Err(_) => return Finding::Gone,
    };
    if !file.cut {
        return if synced { Finding::Safe } else { Finding::Open };
    }
    match hash_file(&file.path, thread_count(0), &AtomicU64::new(0), cancel) {
        Ok(hashed) if hashed.content == file.content => {
            if synced {
                Finding::Safe
            } else {
                Finding::Open
            }
        }
        Err(HashError::Cancelled | HashError::Io { .. }) => Finding::Open,
        // Whoever wrote to it since knows what is in it.
        _ if file.placed.is_some_and(|placed| placed != (now.inode, now.mtime_ns)) => Finding::Gone,
        _ => Finding::Wrong,
    }
}

fn remove(file: &Unsure) {
    tracing::warn!(
        path = %file.path.display(),
        "a power cut came before it was on disk, and it is not what was downloaded: removed; get it again"
    );
    if let Err(error) = fs::remove_file(&file.path) {
        tracing::error!(path = %file.path.display(), %error, "it cannot be removed, and is not what was downloaded");
    }
}

fn unsure(row: &Row<'_>, boot: &str) -> Result<Unsure, rusqlite::Error> {
    let path = super::path_of(row.get(0)?);
    let folder = path.parent().unwrap_or(&path);
    let same = !boot.is_empty() && row.get_ref(2)?.as_str()? == boot && row.get_ref(3)?.as_str()? == mount_of(folder);
    let placed = match (row.get::<_, Option<i64>>(4)?, row.get(5)?) {
        (Some(inode), Some(mtime)) => Some((inode.cast_unsigned(), mtime)),
        _ => None,
    };
    Ok(Unsure { path, content: ContentId::from_bytes(row.get(1)?), cut: !same, placed })
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
mod tests {
    use swarmdex_protocols::{Name, PeerId};
    use tempfile::TempDir;

    use super::*;
    use crate::storage::hash::FileStamp;

    /// A folder with a record, as of a boot before this one.
    struct Stage {
        folder: TempDir,
    }

    impl Stage {
        fn expect(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.folder.path().join(name);
            self.open().expect(&[(path.clone(), ContentId::of(content))]).unwrap();
            path
        }

        fn open(&self) -> Copies {
            Copies::open(&self.folder.path().join("data"), false).unwrap()
        }

        /// The file is put in place, and that is remembered.
        fn place(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.expect(name, content);
            fs::write(&path, content).unwrap();
            let stamp = Some(FileStamp::of(&fs::metadata(&path).unwrap()));
            let (folder, owner) = (self.folder.path().to_owned(), PeerId::from_bytes(&[0, 1, 7]).unwrap());
            let (name, content) = (Name::parse(name).unwrap(), ContentId::of(content));
            self.open().remember(&[Copy { path: path.clone(), folder, name, owner, content, stamp }]).unwrap();
            path
        }

        fn cut(&self) {
            self.open().connection.execute("UPDATE unsynced SET boot = 'before'", []).unwrap();
        }

        fn settle(&self) -> usize {
            settle(&self.folder.path().join("data"), &AtomicBool::new(false)).unwrap();
            self.open().unsure(Path::new("")).unwrap().len()
        }
    }

    /// Changes bytes as a lost write does: times stay.
    fn lose(path: &Path) {
        let before = fs::metadata(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(0).unwrap();
        file.set_len(before.len()).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }

    #[test]
    fn what_a_power_cut_took_is_removed_and_what_it_did_not_take_stays() {
        let stage = Stage { folder: TempDir::new().unwrap() };
        let [good, lost, mine] = ["good", "lost", "mine"].map(|name| stage.place(name, b"content"));
        // The cut came before the record knew that these are in place.
        let [late, never] = ["late", "never"].map(|name| stage.expect(name, b"content"));
        fs::write(&late, b"\0\0\0\0\0\0\0").unwrap();
        lose(&lost);
        fs::write(&mine, b"edited").unwrap();
        assert_eq!(stage.open().unsure(Path::new("")).unwrap().len(), 5);
        stage.cut();
        assert_eq!(stage.settle(), 0);
        let is_there = [&good, &lost, &mine, &late, &never].map(|path| path.exists());
        assert_eq!(is_there, [true, false, true, false, false]);
        assert_eq!(fs::read(&mine).unwrap(), b"edited");
        let known = stage.open().below(stage.folder.path()).unwrap();
        assert!(known.contains_key(&good) && !known.contains_key(&lost));
    }

    #[test]
    fn without_a_power_cut_nothing_is_touched_and_what_is_still_to_come_is_waited_for() {
        let stage = Stage { folder: TempDir::new().unwrap() };
        let changed = stage.place("changed", b"content");
        lose(&changed);
        let coming = stage.expect("coming", b"content");
        assert_eq!(stage.settle(), 1);
        assert!(changed.exists());
        fs::write(&coming, b"content").unwrap();
        assert_eq!(stage.settle(), 0);
    }

    #[test]
    fn many_are_looked_at_page_by_page() {
        let stage = Stage { folder: TempDir::new().unwrap() };
        let names: Vec<_> = (0..3 * PAGE + 7).map(|number| format!("{number:04}")).collect();
        let files: Vec<_> = names.iter().map(|name| (stage.folder.path().join(name), ContentId::of(b"x"))).collect();
        stage.open().expect(&files).unwrap();
        for (number, (path, _)) in files.iter().enumerate() {
            fs::write(path, if number % 2 == 0 { "x" } else { "" }).unwrap();
        }
        stage.cut();
        assert_eq!(stage.settle(), 0);
        assert_eq!(files.iter().filter(|(path, _)| path.exists()).count(), files.len().div_ceil(2));
    }
}
