//! The folders that downloads go to: made on the way, and on disk with what is in them.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::error::{PartialError, failed, wrong_name};
use crate::storage::durable::{folders_of, sync_folder};

/// The folder that a path is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path of `segments` below `folder`; makes the folders on the way, and follows no link among them.
pub(crate) fn output_path<'a>(
    folder: &Path,
    segments: impl IntoIterator<Item = &'a str>,
) -> Result<PathBuf, PartialError> {
    fs::create_dir_all(folder).map_err(failed("make the folder", folder, 0))?;
    let mut path = folder.to_owned();
    let mut segments = segments.into_iter().peekable();
    while let Some(segment) = segments.next() {
        // Names have no such segments; a path made of anything else must not escape either.
        let mut components = Path::new(segment).components();
        let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
            return Err(PartialError::NoFile { path: path.join(segment) });
        };
        path.push(segment);
        if segments.peek().is_some() {
            make_folder(&path)?;
        }
    }
    Ok(path)
}

/// Makes the folders that a path needs and that are not there; those that were made, the outermost first.
pub(crate) fn make_parents(path: &Path) -> Result<Vec<PathBuf>, PartialError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let missing =
        |folder: &&Path| matches!(fs::metadata(folder), Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut made: Vec<_> = parent
        .into_iter()
        .flat_map(Path::ancestors)
        .take_while(|folder| !folder.as_os_str().is_empty() && missing(folder))
        .map(Path::to_owned)
        .collect();
    made.reverse();
    if let Some(parent) = parent.filter(|_| !made.is_empty()) {
        fs::create_dir_all(parent).map_err(failed("make the folder", parent, 0))?;
    }
    Ok(made)
}

/// Waits until the names of files below `top` are on disk, with the folders on the way.
pub(crate) fn sync_folders_of<'a>(files: impl IntoIterator<Item = &'a Path>, top: &Path) -> Result<(), PartialError> {
    folders_of(files, top).iter().try_for_each(|folder| sync_folder(folder).map_err(failed("write", folder, 0)))
}

/// Waits until folders that were made are on disk, the outermost first.
pub(crate) fn sync_made(made: &[PathBuf]) -> Result<(), PartialError> {
    made.iter()
        .filter_map(|folder| folder.parent())
        .try_for_each(|above| sync_folder(above).map_err(failed("write", above, 0)))
}

fn make_folder(path: &Path) -> Result<(), PartialError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path).map_err(failed("look at", path, 0))?;
            if found.is_dir() { Ok(()) } else { Err(PartialError::NoFolder { path: path.to_owned() }) }
        }
        Err(error) => match wrong_name(&error) {
            Some(reason) => Err(PartialError::Name { path: path.to_owned(), reason }),
            None => Err(failed("make the folder", path, 0)(error)),
        },
    }
}
