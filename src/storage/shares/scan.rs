//! Which files a shared file or folder holds, and how each is named.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use swarmdex_protocols::name::InvalidName;
use swarmdex_protocols::{ContentId, Name};
use walkdir::WalkDir;

use super::database::Root;
use super::presence::is_mount;
use super::select::{Rules, Why};
use super::{ShareError, Skipped};
use crate::storage::dir::is_data_directory;
use crate::storage::hash::FileStamp;

/// A file that may be shared.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    pub(super) stamp: FileStamp,
    /// Its content, if it is known.
    pub(super) content: Option<ContentId>,
}

impl Candidate {
    fn new(name: Name, path: &Path, metadata: &Metadata) -> Self {
        Self { name, path: path.to_owned(), stamp: FileStamp::of(metadata), content: None }
    }
}

/// What is below one root.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where: the path that was looked at, or a folder above it that is left out.
    pub(super) at: PathBuf,
    pub(super) candidates: Vec<Candidate>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) left_out: Vec<(PathBuf, Why)>,
    /// Folders that cannot be looked into now: what is known below them stays as it is, and is not served.
    pub(super) unread: BTreeSet<PathBuf>,
    /// Folders on which something is mounted.
    pub(super) mounts: BTreeSet<PathBuf>,
    /// The root is a file itself.
    pub(super) direct: bool,
}

impl Found {
    /// Nothing, at a path.
    pub(super) fn nothing(at: &Path) -> Self {
        Self { at: at.to_owned(), ..Self::default() }
    }

    fn skip(&mut self, path: &Path, reason: String) {
        self.skipped.push(Skipped { path: path.to_owned(), reason, failed: false });
        self.left_out.push((path.to_owned(), Why::Unfit));
    }

    fn fail(&mut self, path: &Path, error: &dyn std::error::Error) {
        self.skipped.push(Skipped { path: path.to_owned(), reason: format!("cannot be read: {error}"), failed: true });
        self.left_out.push((path.to_owned(), Why::Unfit));
    }

    fn leave_out(&mut self, path: &Path, why: Why) {
        // What may be a secret is said by name: somebody may think that it is shared.
        let reason = match why {
            Why::Secret => "it may hold secrets; share it by itself if you mean it",
            Why::Node => "it is the data directory of a node, which is never shared",
            _ => "",
        };
        if !reason.is_empty() {
            self.skipped.push(Skipped { path: path.to_owned(), reason: reason.to_owned(), failed: false });
        }
        self.left_out.push((path.to_owned(), why));
    }
}

/// Why a path cannot be shared at all: it is a node's data directory, or in one. Its key would be served, or its databases
/// while they are written.
pub(super) fn check_data_directory(path: &Path, own: &Path) -> Result<(), ShareError> {
    if path.starts_with(own) || path.ancestors().any(is_data_directory) {
        return Err(ShareError::DataDirectory { path: path.to_owned() });
    }
    Ok(())
}

/// What is at and below a path of a root, which may be the root itself, in a fixed order. Links are not followed: a link
/// could lead anywhere. Data directories of nodes, and what `rules` leave out, are not looked into, nor are `away`.
pub(super) fn scan(
    root: &Root,
    below: &Path,
    own: &Path,
    mut rules: Rules,
    away: BTreeSet<PathBuf>,
) -> Result<Found, ShareError> {
    let gone = |source| ShareError::Path { path: below.to_owned(), source };
    let metadata = std::fs::symlink_metadata(below).map_err(gone)?;
    check_data_directory(&root.path, own)?;
    let mut found = Found { unread: away, ..Found::nothing(below) };
    if below == root.path {
        if !metadata.is_dir() {
            let name = name_of(root, below).map_err(|source| ShareError::Name { path: below.to_owned(), source })?;
            found.candidates.push(Candidate::new(name, below, &metadata));
            found.direct = true;
            return Ok(found);
        }
    } else if !descend(&root.path, below, &metadata, own, &mut rules, &mut found) {
        return Ok(found);
    }
    walk(root, below, own, &mut rules, &mut found);
    Ok(found)
}

/// Goes from a root to the folder that holds a path of it. False if the path, or a folder on the way, is left out.
fn descend(root: &Path, below: &Path, metadata: &Metadata, own: &Path, rules: &mut Rules, found: &mut Found) -> bool {
    let relative = below.strip_prefix(root).unwrap_or(below);
    let mut folder = root.to_owned();
    let last = relative.components().count().saturating_sub(1);
    for (number, segment) in relative.components().enumerate() {
        if !enter(&folder, rules, found) {
            found.at = folder;
            return false;
        }
        let path = folder.join(segment);
        let is_folder = number < last || metadata.is_dir();
        let why = if is_folder && (path == own || is_data_directory(&path)) {
            Some(Why::Node)
        } else {
            rules.judge(&path, is_folder, metadata.len())
        };
        if let Some(why) = why {
            found.leave_out(&path, why);
            found.at = path;
            return false;
        }
        folder = path;
    }
    true
}

/// Reads a folder's ignore file. False if nothing of the folder is to be shared.
fn enter(folder: &Path, rules: &mut Rules, found: &mut Found) -> bool {
    match rules.enter(folder) {
        Ok(None) => true,
        Ok(Some(wrong)) => {
            let path = folder.join(super::select::IGNORE_FILE);
            found.skipped.push(Skipped {
                path,
                reason: format!("a part of it is not understood: {wrong}"),
                failed: false,
            });
            true
        }
        Err(reason) => {
            found.skip(folder, reason);
            false
        }
    }
}

fn walk(root: &Root, below: &Path, own: &Path, rules: &mut Rules, found: &mut Found) {
    let mut walk = WalkDir::new(below).follow_links(false).follow_root_links(false).sort_by_file_name().into_iter();
    while let Some(item) = walk.next() {
        match item {
            Ok(item) if item.file_type().is_dir() => {
                let path = item.path();
                let why = if path == own || is_data_directory(path) {
                    Some(Why::Node)
                } else if path == root.path || item.depth() == 0 {
                    // The root was named, and the way to what is looked at was judged.
                    None
                } else {
                    rules.judge(path, true, 0)
                };
                if let Some(why) = why {
                    found.leave_out(path, why);
                    walk.skip_current_dir();
                } else if found.unread.contains(path) || !enter(path, rules, found) {
                    walk.skip_current_dir();
                } else if is_mount(path) {
                    found.mounts.insert(path.to_owned());
                }
            }
            Ok(item) => visit(root, &item, rules, found),
            Err(error) => {
                let path = error.path().unwrap_or(below).to_owned();
                let is_gone = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
                // What went meanwhile is gone; of what cannot be read nobody knows.
                if !is_gone {
                    found.fail(&path, &error);
                    found.unread.insert(path);
                }
            }
        }
    }
}

fn visit(root: &Root, item: &walkdir::DirEntry, rules: &Rules, found: &mut Found) {
    let path = item.path();
    let metadata = item.metadata();
    let length = metadata.as_ref().map_or(0, Metadata::len);
    if item.depth() > 0
        && let Some(why) = rules.judge(path, false, length)
    {
        return found.leave_out(path, why);
    }
    if item.file_type().is_symlink() {
        return found.skip(path, "a symbolic link is not followed".to_owned());
    }
    if !item.file_type().is_file() {
        return found.skip(path, "it is no regular file".to_owned());
    }
    if path.strip_prefix(&root.path).is_ok_and(|relative| relative.to_str().is_none()) {
        return found.skip(path, "its name is not UTF-8".to_owned());
    }
    match (name_of(root, path), metadata) {
        (Ok(name), Ok(metadata)) => {
            found.candidates.push(Candidate::new(name, path, &metadata));
        }
        (Err(error), _) => found.skip(path, error.to_string()),
        (_, Err(error)) if error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) => {}
        (_, Err(error)) => found.fail(path, &error),
    }
}

/// How a file of a root is named.
pub(super) fn name_of(root: &Root, path: &Path) -> Result<Name, InvalidName> {
    let relative = path.strip_prefix(&root.path).unwrap_or(path);
    if relative.as_os_str().is_empty() {
        return match &root.prefix {
            Some(name) => Ok(name.clone()),
            None => Name::from_path_text(&path.file_name().unwrap_or_default().to_string_lossy()),
        };
    }
    // A relative path as text with `/` between its components.
    let parts: Vec<_> = relative.iter().map(OsStr::to_string_lossy).collect();
    let name = Name::from_path_text(&parts.join("/"))?;
    match &root.prefix {
        Some(prefix) => Name::join_prefix(prefix, &name),
        None => Ok(name),
    }
}
