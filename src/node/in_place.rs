//! What of a folder is in place already, as an earlier download left it, and is not fetched again; and what may be replaced
//! or removed, because it is still just that.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, unlinkat};
use rustix::io::Errno;
use swarmdex_protocols::{Attributes, ContentId, Network};

use super::Error;
use super::operation::{CancelOnDrop, Control, ControlRequest};
use super::record::{Gone, Record};
use super::small::Small;
use super::types::{GetOptions, GotFile, KeptFile};
use crate::storage::copies::Copy;
use crate::storage::hash::{FileStamp, hash_file, thread_count};
use crate::storage::partial::set_attributes;
use crate::storage::straight::open_straight;

/// What is said of a file that differs from the network's.
const CHANGED: &str = "it was changed here since it was downloaded; move it away to get the other";
const UNKNOWN: &str = "it was not downloaded from here; move it away to get the other";
const NO_FILE: &str = "something else than a file is there; move it away to get the file";
/// And of one that is gone elsewhere.
pub(super) const CHANGED_AND_GONE: &str = "it is gone at its owner's, and was changed here since it was downloaded";

/// What was found below a folder.
#[derive(Default)]
pub(super) struct InPlace {
    /// Files that are in place.
    pub(super) there: Vec<GotFile>,
    /// Files that are to be fetched; each says which file it may replace.
    pub(super) missing: Vec<Small>,
    /// Files that differ, and that nobody may replace.
    pub(super) kept: Vec<KeptFile>,
    /// What is to be remembered of files in place.
    pub(super) news: Vec<Copy>,
}

/// Looks at what is below `output`. With `options.update`, what differs is replaced if it is a copy that was not changed.
pub(super) async fn split(
    files: Vec<Small>,
    output: &Path,
    record: &Arc<Record>,
    options: &GetOptions,
    network: &Network,
    control: &Control,
) -> Result<InPlace, Error> {
    let cancel = Arc::new(AtomicBool::new(false));
    let _guard = CancelOnDrop(cancel.clone());
    let (progress, mut requested) = (control.progress.clone(), control.requested.clone());
    let (output, record, options, network) = (output.to_owned(), record.clone(), options.clone(), network.clone());
    let looking = tokio::task::spawn_blocking(move || {
        if !output.is_dir() {
            return InPlace { missing: files, ..InPlace::default() };
        }
        // Links on the way to the folder are the user's; below it none is followed.
        let root = record.folder().map(Path::to_owned).or_else(|| output.canonicalize().ok());
        let root = root.unwrap_or_else(|| output.clone());
        let looker = Looker {
            output: &output,
            root: &root,
            record: &record,
            options: &options,
            network: &network,
            cancel: &cancel,
        };
        let mut found = InPlace::default();
        let mut folders = Folders::default();
        for file in files {
            if folders.lack(&root, &file.rest) {
                found.missing.push(file);
                continue;
            }
            let (done, size) = (found.there.len(), file.entry.size);
            looker.look(file, &mut found);
            if found.there.len() > done {
                progress.send_modify(|progress| {
                    progress.done_bytes += size;
                    progress.done_files += 1;
                });
            }
        }
        found
    });
    tokio::select! {
        looked = looking => looked.map_err(|_| Error::Bug),
        Ok(_) = requested.wait_for(|requested| *requested == ControlRequest::Cancel) => Err(Error::Cancelled),
    }
}

/// The folders that were looked for last. Files come sorted by name: each folder is looked for once, and not for each of its files.
#[derive(Default)]
struct Folders {
    present: Option<String>,
    absent: Option<String>,
}

impl Folders {
    /// Whether a file lies in a folder that is not there.
    fn lack(&mut self, root: &Path, rest: &str) -> bool {
        let Some((folder, _)) = rest.rsplit_once('/').filter(|(folder, _)| self.present.as_deref() != Some(folder))
        else {
            return false;
        };
        let is_below = |absent: &str| rest.strip_prefix(absent).is_some_and(|rest| rest.starts_with('/'));
        if self.absent.as_deref().is_some_and(is_below) {
            return true;
        }
        let mut on_the_way = rest.match_indices('/').map(|(at, _)| &rest[..at]);
        let absent = on_the_way.find(|folder| is_absent(root, folder)).map(str::to_owned);
        let lacks = absent.is_some();
        if lacks {
            self.absent = absent;
        } else {
            self.present = Some(folder.to_owned());
        }
        lacks
    }
}

/// Looks at files one by one.
struct Looker<'a> {
    output: &'a Path,
    root: &'a Path,
    record: &'a Record,
    options: &'a GetOptions,
    network: &'a Network,
    cancel: &'a AtomicBool,
}

impl Looker<'_> {
    fn look(&self, file: Small, found: &mut InPlace) {
        let begin = Instant::now();
        let Some(metadata) = metadata_below(self.root, &file.rest) else { return found.missing.push(file) };
        let keep = |reason: &str| KeptFile {
            name: file.entry.name.clone(),
            path: self.output.join(&file.rest),
            reason: reason.to_owned(),
        };
        if !metadata.is_file() {
            match self.options.update {
                true => found.kept.push(keep(NO_FILE)),
                false => found.missing.push(file),
            }
            return;
        }
        let now = FileStamp::of(&metadata);
        let untouched = self.record.untouched(&file.rest, &now);
        // What was verified when it was written, and was not touched since, need not be read again.
        let content = || untouched.or_else(|| self.hash(&file.rest));
        let same_size = metadata.len() == file.entry.size;
        let content = (same_size || self.options.update && self.record.knows(&file.rest)).then(content).flatten();
        if content == Some(file.entry.content) && same_size {
            self.note(&file, &metadata, untouched.is_some(), found);
            let path = self.output.join(&file.rest);
            found.there.push(GotFile {
                name: file.entry.name.clone(),
                path: std::path::absolute(&path).unwrap_or(path),
                bytes: file.entry.size,
                seconds: begin.elapsed().as_secs_f64(),
                sources: Vec::new(),
                verified: true,
            });
        } else if !self.options.update {
            found.missing.push(file);
        } else if untouched.is_some() || content.is_some_and(|content| self.record.wrote(&file.rest, &content)) {
            found.missing.push(Small { over: Some(now), ..file });
        } else {
            found.kept.push(keep(if self.record.knows(&file.rest) { CHANGED } else { UNKNOWN }));
        }
    }

    fn hash(&self, rest: &str) -> Option<ContentId> {
        let hashed =
            hash_file(&self.root.join(rest), thread_count(self.record.threads()), &AtomicU64::new(0), self.cancel)
                .ok()?;
        Some(hashed.content)
    }

    /// A copy that is in place: an update brings its attributes up to date as well. What is not remembered yet will be, if a
    /// download that was cut off wrote it.
    fn note(&self, file: &Small, metadata: &Metadata, untouched: bool, found: &mut InPlace) {
        let stamp = FileStamp::of(metadata);
        let wanted = self.options.preserve && self.options.update && untouched;
        let differs = |attributes: &Attributes| {
            let time = attributes.modified_ns.is_some_and(|modified_ns| modified_ns != stamp.mtime_ns);
            time || attributes.executable != stamp.executable
        };
        let attributes = wanted.then(|| file.entry.attributes(self.network)).flatten();
        if let Some(attributes) = attributes.filter(differs)
            && let Some(after) = open_below(self.root, &file.rest, OFlags::RDONLY | OFlags::NONBLOCK)
                .and_then(|open| set_attributes(&open, &attributes))
        {
            found.news.push(self.record.copy(&file.entry, &file.rest, Some(FileStamp::of(&after))));
            return;
        }
        let wrote = self.record.wrote(&file.rest, &file.entry.content) || self.record.is_left_over(metadata);
        if !untouched && wrote {
            found.news.push(self.record.copy(&file.entry, &file.rest, Some(stamp)));
        }
    }
}

/// What became of copies of what is gone.
#[derive(Default)]
pub(super) struct Removed {
    /// They were removed.
    pub(super) removed: Vec<PathBuf>,
    /// They were not there any more.
    pub(super) missing: Vec<PathBuf>,
    /// They were changed, or cannot be removed.
    pub(super) kept: Vec<Gone>,
}

/// Removes copies that were not changed, and folders that are empty then.
pub(super) fn remove(root: &Path, record: &Record, gone: Vec<Gone>) -> Removed {
    let mut outcome = Removed::default();
    for file in gone {
        match remove_one(root, record, &file.rest) {
            Some(true) => outcome.removed.push(root.join(&file.rest)),
            None => outcome.missing.push(root.join(&file.rest)),
            Some(false) => outcome.kept.push(file),
        }
    }
    outcome
}

/// Whether a copy could be removed; `None` if it is not there.
fn remove_one(root: &Path, record: &Record, rest: &str) -> Option<bool> {
    let now = FileStamp::of(&metadata_below(root, rest)?);
    let threads = thread_count(record.threads());
    let hash = || hash_file(&root.join(rest), threads, &AtomicU64::new(0), &AtomicBool::new(false)).ok();
    let own = record.untouched(rest, &now).is_some()
        || hash().is_some_and(|hashed| hashed.stamp == now && record.wrote(rest, &hashed.content));
    if !own {
        return Some(false);
    }
    let (folder, name) = rest.rsplit_once('/').unwrap_or((".", rest));
    let Some(parent) = open_below(root, folder, OFlags::PATH | OFlags::DIRECTORY) else { return Some(false) };
    if unlinkat(&parent, name, AtFlags::empty()).is_err() {
        return Some(false);
    }
    // Folders on the way that are empty now; the first that is not ends it.
    let mut rest = rest;
    while let Some((folder, _)) = rest.rsplit_once('/') {
        let (above, name) = folder.rsplit_once('/').unwrap_or((".", folder));
        let Some(above) = open_below(root, above, OFlags::PATH | OFlags::DIRECTORY) else { break };
        if unlinkat(&above, name, AtFlags::REMOVEDIR).is_err() {
            break;
        }
        rest = folder;
    }
    Some(true)
}

/// What is at a place below a folder, no link followed on the way.
fn metadata_below(root: &Path, rest: &str) -> Option<Metadata> {
    open_below(root, rest, OFlags::PATH | OFlags::NOFOLLOW)?.metadata().ok()
}

/// Whether there is nothing at a place, or no way to it. What cannot be said is no answer.
fn is_absent(root: &Path, rest: &str) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    matches!(try_open_below(root, rest, flags), Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn open_below(root: &Path, rest: &str, flags: OFlags) -> Option<File> {
    try_open_below(root, rest, flags).ok()
}

fn try_open_below(root: &Path, rest: &str, flags: OFlags) -> Result<File, Errno> {
    let root = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A link at the end is looked at itself if the flags say so.
    open_straight(root, Path::new(rest), flags).map(File::from)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_file_lacks_its_folder_just_if_there_is_none() {
        let (top, mut folders) = (TempDir::new().unwrap(), Folders::default());
        let root = top.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("file"), "x").unwrap();
        for (rest, lacks) in [
            ("1", false),
            ("a/1", false),
            ("a/b/1", false),
            ("a/bc/1", true),
            ("a/bc/2", true),
            ("a/bc/d/3", true),
            ("a/bcd/1", true),
            // It is looked at, and not found.
            ("file/1", false),
            ("a/2", false),
            ("a/b/2", false),
            ("c/d/e/1", true),
            ("c/d/f/1", true),
            ("c/1", true),
            ("file", false),
        ] {
            assert_eq!(folders.lack(&root, rest), lacks, "{rest}");
        }
    }
}
