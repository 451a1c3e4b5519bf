//! Names that are one file where capital letters and small ones are the same.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::path::Path;

use swarmdex_protocols::{Entry, Name};

use crate::node::ErrorKind;
use crate::node::record::rest_of;
use crate::node::types::FailedFile;

/// Names of files by which it is tried whether a folder tells capitals from small letters.
const TRIED: [&str; 2] = [".swarmdex-case", ".SWARMDEX-CASE"];

/// All but the first of those names that would be one file in a folder, which exists. Blocks on the disk.
pub(super) fn find(folder: &Path, prefix: Option<&Name>, names: &BTreeMap<Name, Entry>) -> Vec<FailedFile> {
    let mut first = HashMap::<String, Name>::new();
    let mut others = Vec::new();
    for name in names.keys() {
        let place = rest_of(name, prefix).to_lowercase();
        match first.get(&place) {
            Some(before) => others.push((name.clone(), before.clone())),
            None => drop(first.insert(place, name.clone())),
        }
    }
    if others.is_empty() || tells_letters_apart(folder) {
        return Vec::new();
    }
    let failed = others.into_iter().map(|(name, before)| {
        let message = format!(
            "{name} and {before} are one file in {}, whose file system does not tell capital letters from small ones; get it into \
             another folder by -o",
            folder.display()
        );
        FailedFile { name, kind: ErrorKind::Storage, message }
    });
    failed.collect()
}

/// Whether a folder can hold two names that differ in capital letters alone. If it cannot be tried, the files say so themselves.
pub(super) fn tells_letters_apart(folder: &Path) -> bool {
    let [small, capital] = TRIED.map(|name| folder.join(name));
    if OpenOptions::new().write(true).create_new(true).open(&small).is_err() {
        return true;
    }
    let apart = fs::symlink_metadata(&capital).is_err();
    let _ = fs::remove_file(&small);
    apart
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::{ContentId, PeerId, Version};
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn where_letters_are_told_apart_every_name_is_a_file() {
        let folder = TempDir::new().unwrap();
        let entry = |text: &str| {
            let (name, owner) = (Name::parse(text).unwrap(), PeerId::from_bytes(&[0, 1, 7]).unwrap());
            let content = ContentId::of(b"x");
            (name.clone(), Entry { name, content, size: 1, owner, version: Version(1), attributes: None })
        };
        let names: BTreeMap<_, _> = ["a/Same", "a/same", "a/other"].map(entry).into();
        assert!(find(folder.path(), None, &names).is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
