//! Which files programs have open for writing, as Linux tells of the processes that this one may look at: its user's, or all of them
//! for root. What they write through a mapping shows in no time of the file for a while.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
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

/// Which of these files, given by their paths without links, a program has open for writing; each once. No file is
/// looked at itself: a disk that does not answer holds nobody up.
pub(crate) fn written<'a>(files: impl IntoIterator<Item = &'a Path>) -> Vec<Written> {
    let files: HashSet<&Path> = files.into_iter().collect();
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

fn open<'a>(process: &Path, files: &HashSet<&'a Path>) -> Vec<&'a Path> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let writes = |entry: &fs::DirEntry| {
        let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        // `O_WRONLY` is 1, and `O_RDWR` 2.
        Some(u32::from_str_radix(flags.trim(), 8).ok()? & 3 != 0)
    };
    let one = |entry: fs::DirEntry| {
        let path = *files.get(fs::read_link(entry.path()).ok()?.as_path())?;
        (writes(&entry) == Some(true)).then_some(path)
    };
    entries.filter_map(one).collect()
}

/// What is mapped may be closed.
fn mapped<'a>(process: &Path, files: &HashSet<&'a Path>) -> Vec<&'a Path> {
    let mut maps = Vec::new();
    let read = fs::File::open(process.join("maps")).and_then(|file| file.take(MAX_MAPS).read_to_end(&mut maps));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&maps);
    // Range, rights, offset, device, inode, and the path behind blanks.
    let one = |line: &str| {
        let rights = line.split_ascii_whitespace().nth(1)?.as_bytes();
        let path = *files.get(Path::new(line.get(line.find('/')?..)?))?;
        (rights.get(1) == Some(&b'w') && rights.get(3) == Some(&b's')).then_some(path)
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
        let files = ["read", "written", "nobody"].map(path);
        let found = written(files.iter().map(PathBuf::as_path));
        let found: Vec<_> = found.into_iter().map(|written| (written.path, written.pid)).collect();
        assert_eq!(found, [(path("written"), children[1].id())]);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
