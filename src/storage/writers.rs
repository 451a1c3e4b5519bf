//! Which files programs have open for writing, as Linux tells of the processes that this one may look at: its user's, or all of them
//! for root. What they write through a mapping shows in no time of the file for a while.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest list of mappings of one process that is read, in bytes.
const MAX_MAPS: u64 = 16 << 20;
/// Files that are told.
const MOST: usize = 1000;

/// A file that a program may be writing to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// The program, as it calls itself.
    pub program: String,
    /// Its process id.
    pub pid: u32,
}

/// Those of some files, each with its inode, that a program has open for writing; each once.
pub fn written<'a>(files: impl IntoIterator<Item = (&'a Path, u64)>) -> Vec<Written> {
    let files: BTreeMap<u64, &Path> = files.into_iter().map(|(path, inode)| (inode, path)).collect();
    let mut found = BTreeMap::<PathBuf, Written>::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != std::process::id()) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        for path in [open(&process, &files), mapped(&process, &files)].concat() {
            if found.len() < MOST && !found.contains_key(path) {
                let program = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
                found.insert(path.to_owned(), Written { path: path.to_owned(), program, pid });
            }
        }
    }
    found.into_values().collect()
}

fn open<'a>(process: &Path, files: &BTreeMap<u64, &'a Path>) -> Vec<&'a Path> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let writes = |entry: &fs::DirEntry| {
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        // `O_WRONLY` is 1, and `O_RDWR` 2.
        Some(u32::from_str_radix(flags.trim(), 8).ok()? & 3 != 0)
    };
    let one = |entry: fs::DirEntry| {
        let found = fs::metadata(entry.path()).ok().filter(|found| found.is_file())?;
        let path = files.get(&found.ino())?;
        let is_it =
            fs::symlink_metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (found.dev(), found.ino()));
        (is_it && writes(&entry) == Some(true)).then_some(*path)
    };
    entries.filter_map(one).collect()
}

/// What is mapped may be closed.
fn mapped<'a>(process: &Path, files: &BTreeMap<u64, &'a Path>) -> Vec<&'a Path> {
    let mut maps = Vec::new();
    let read = fs::File::open(process.join("maps")).and_then(|file| file.take(MAX_MAPS).read_to_end(&mut maps));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&maps);
    // Range, rights, offset, device, inode, path. The device of some file systems is another one than `stat` tells.
    let one = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let rights = fields.nth(1)?.as_bytes();
        let path = *files.get(&fields.nth(2)?.parse().ok()?)?;
        let writes = rights.get(1) == Some(&b'w') && rights.get(3) == Some(&b's');
        (writes && line.ends_with(&*path.to_string_lossy())).then_some(path)
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn who_has_a_file_open_for_writing_is_named_and_who_reads_is_not() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["read", "written", "nobody"] {
            fs::write(path(name), "x").unwrap();
        }
        let start = |how: &str, name: &str| {
            // It says when it has opened the file.
            let script = format!("exec 3{how}'{}'; echo; exec cat", path(name).display());
            let mut child =
                Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            child
        };
        let mut children = [start("<", "read"), start(">>", "written")];
        let files = ["read", "written", "nobody"].map(|name| (path(name), fs::metadata(path(name)).unwrap().ino()));
        let found = written(files.iter().map(|(path, inode)| (path.as_path(), *inode)));
        let found: Vec<_> = found.into_iter().map(|written| (written.path, written.pid)).collect();
        assert_eq!(found, [(path("written"), children[1].id())]);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
