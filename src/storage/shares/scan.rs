//! Which files a shared file or folder holds, and how each is named.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use swarmdex_protocols::Name;
use walkdir::WalkDir;

use super::{ShareError, Skipped};
use crate::storage::hash::FileStamp;
use crate::storage::partial::is_partial;

/// Folders that hold keys: who shares what is around them hardly means them. They can be shared themselves.
const PRIVATE: [&str; 2] = [".ssh", ".gnupg"];

/// A file that may be shared.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    pub(super) stamp: FileStamp,
}

/// What is below one root.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) candidates: Vec<Candidate>,
    pub(super) skipped: Vec<Skipped>,
    /// The root is a file itself.
    pub(super) direct: bool,
    /// What was hashed has to be kept: somebody waits for it, and is told if it cannot be.
    pub(super) strict: bool,
}

/// What is at and below a path of a root, which may be the root itself.
pub(super) fn scan_below(root: &Path, prefix: Option<&Name>, below: &Path, own: &Path) -> Result<Found, ShareError> {
    if below == root {
        return scan(root, prefix, own);
    }
    let gone = |source| ShareError::Path { path: below.to_owned(), source };
    std::fs::symlink_metadata(below).map_err(gone)?;
    if below.strip_prefix(root).is_ok_and(|relative| relative.iter().any(is_private)) {
        return Ok(Found::default());
    }
    Ok(walk(root, prefix, below, own))
}

/// Walks a root in a fixed order. Links are not followed: a link could lead anywhere. The node's own
/// data directory, partial files and folders of keys are left out.
pub(super) fn scan(root: &Path, prefix: Option<&Name>, own: &Path) -> Result<Found, ShareError> {
    let failed = |source| ShareError::Path { path: root.to_owned(), source };
    let metadata = std::fs::symlink_metadata(root).map_err(failed)?;
    if !metadata.is_dir() {
        let name = match (prefix, root.file_name()) {
            (Some(prefix), _) => prefix.clone(),
            (None, file) => Name::from_path_text(&file.unwrap_or_default().to_string_lossy())
                .map_err(|source| ShareError::Name { path: root.to_owned(), source })?,
        };
        let candidate = Candidate { name, path: root.to_owned(), stamp: FileStamp::of(&metadata) };
        return Ok(Found { candidates: vec![candidate], direct: true, ..Found::default() });
    }
    Ok(walk(root, prefix, root, own))
}

fn walk(root: &Path, prefix: Option<&Name>, below: &Path, own: &Path) -> Found {
    let mut found = Found::default();
    let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
    let walk = WalkDir::new(below).follow_links(false).follow_root_links(false).sort_by_file_name().into_iter();
    let mut walk = walk.filter_entry(|item| !item.path().starts_with(&own) && !is_partial(item.file_name()));
    while let Some(item) = walk.next() {
        match item {
            Ok(item) if item.file_type().is_dir() => {
                if is_private(item.file_name()) && item.path() != root {
                    let reason = "it holds keys; share it by itself if you mean it".to_owned();
                    found.skipped.push(Skipped { path: item.path().to_owned(), reason });
                    walk.skip_current_dir();
                }
            }
            Ok(item) => visit(root, prefix, &item, &mut found),
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                found.skipped.push(Skipped { path, reason: format!("cannot be read: {error}") });
            }
        }
    }
    found
}

fn is_private(name: &OsStr) -> bool {
    PRIVATE.iter().any(|private| name == *private)
}

fn visit(root: &Path, prefix: Option<&Name>, item: &walkdir::DirEntry, found: &mut Found) {
    let path = item.path().to_owned();
    let mut skip = |reason: String| found.skipped.push(Skipped { path: path.clone(), reason });
    if item.file_type().is_symlink() {
        return skip("a symbolic link is not followed".to_owned());
    }
    if !item.file_type().is_file() {
        return skip("it is no regular file".to_owned());
    }
    let relative = path.strip_prefix(root).unwrap_or(&path);
    let Some(text) = joined(relative) else { return skip("its name is not UTF-8".to_owned()) };
    let name = Name::from_path_text(&text).and_then(|name| match prefix {
        Some(prefix) => Name::join_prefix(prefix, &name),
        None => Ok(name),
    });
    match (name, item.metadata()) {
        (Ok(name), Ok(metadata)) => found.candidates.push(Candidate { name, stamp: FileStamp::of(&metadata), path }),
        (Err(error), _) => skip(error.to_string()),
        (_, Err(error)) => skip(format!("cannot be read: {error}")),
    }
}

/// A relative path as text with `/` between its components.
fn joined(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    Some(parts?.join("/"))
}
