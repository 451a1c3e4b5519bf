//! What is mounted where, as Linux lists it for this process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The list.
pub(super) const TABLE: &str = "/proc/self/mountinfo";
/// Longest list that is read, in bytes: tens of thousands of mounts.
const MAX_TABLE: u64 = 16 << 20;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Its number, which another one in its place does not have.
    pub(super) number: String,
    /// Where it is.
    pub(super) place: PathBuf,
    /// What kind of file system it is: `ext4`, `fuse.rclone`.
    pub(super) kind: String,
}

/// Reads the open list from its beginning.
pub(super) fn read(table: &mut File) -> io::Result<Vec<Mount>> {
    let mut bytes = Vec::new();
    table.seek(SeekFrom::Start(0))?;
    table.take(MAX_TABLE).read_to_end(&mut bytes)?;
    Ok(parse(&bytes))
}

/// All of them; none where the system has no such list.
pub(super) fn list() -> Vec<Mount> {
    File::open(TABLE).and_then(|mut table| read(&mut table)).unwrap_or_default()
}

/// The mount that an absolute path without links is on. If there are two at one place the later one hides the other.
pub(super) fn of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().filter(|mount| path.starts_with(&mount.place)).max_by_key(|mount| mount.place.as_os_str().len())
}

/// What kind of file system an absolute path without links is on, if that is known.
pub(super) fn kind_of(path: &Path) -> Option<String> {
    of(&list(), path).map(|mount| mount.kind.clone())
}

/// Number and place are the first and the fifth field of a line. The kind is the first behind a dash that stands alone;
/// any number of fields may come before that.
fn parse(table: &[u8]) -> Vec<Mount> {
    let lines = table.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let number = String::from_utf8_lossy(fields.next()?).into_owned();
            let place = PathBuf::from(OsString::from_vec(unescape(fields.nth(3)?)));
            let kind = fields.skip_while(|field| *field != b"-").nth(1).map(String::from_utf8_lossy);
            Some(Mount { number, place, kind: kind.unwrap_or_default().into_owned() })
        })
        .collect()
}

/// Blanks and the like stand as `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_as_the_system_writes_it() {
        let table = b"24 29 0:22 / /proc rw shared:5 - proc proc rw\n31 29 8:1 / /mnt/my\\040disk rw - fuse.x /dev/sda1 rw\n\nnonsense\n";
        let mount = |number: &str, place: &str, kind: &str| Mount {
            number: number.to_owned(),
            place: place.into(),
            kind: kind.to_owned(),
        };
        assert_eq!(parse(table), [mount("24", "/proc", "proc"), mount("31", "/mnt/my disk", "fuse.x")]);
        assert_eq!(unescape(b"a\\\\b\\04\\1347"), b"a\\\\b\\04\\7");
        assert_eq!(kind_of(Path::new("/proc/self")).as_deref(), Some("proc"));
    }
}
