//! What is shared, in memory: by name, by place and by content, so that a change of one file costs the same in a share of
//! a million.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use swarmdex_protocols::{ContentId, Name};

use super::{SharedEntry, Skipped};

/// A root, and a file in it.
type RootedPath = (Arc<Path>, Arc<Path>);

/// The entries of a share table.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Name, SharedEntry>,
    /// All entries in the order of their names, and those of them that are served, until one of them changes.
    kept: Option<Arc<Vec<SharedEntry>>>,
    listed: Option<Arc<Vec<SharedEntry>>>,
    suspended: usize,
    places: BTreeMap<RootedPath, Name>,
    /// Always with a name; none of it stands before all names of its content.
    by_content: BTreeSet<(ContentId, Option<Name>)>,
    /// Files that changed since they were hashed.
    pub(super) stale: BTreeSet<Arc<Path>>,
}

impl Table {
    pub(super) fn get(&self, name: &Name) -> Option<&SharedEntry> {
        self.entries.get(name)
    }

    /// Adds an entry, in place of the one that has its name.
    pub(super) fn insert(&mut self, entry: SharedEntry) {
        self.remove(&entry.name);
        self.places.insert((entry.root.clone(), entry.path.clone()), entry.name.clone());
        if entry.suspended {
            self.suspended += 1;
        } else {
            self.by_content.insert((entry.content, Some(entry.name.clone())));
        }
        self.entries.insert(entry.name.clone(), entry);
    }

    /// Keeps a name, and serves what it stands for no more.
    pub(super) fn suspend(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get(name).filter(|entry| !entry.suspended) {
            let entry = SharedEntry { suspended: true, ..entry.clone() };
            self.insert(entry);
        }
    }

    /// Keeps a name, serves it no more, and counts its file as changed, whatever its times are.
    pub(super) fn distrust(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get(name).cloned() {
            self.insert(SharedEntry { suspended: true, stamp: entry.stamp.distrusted(), ..entry });
        }
    }

    pub(super) fn remove(&mut self, name: &Name) {
        // A list is made anew when somebody asks.
        (self.kept, self.listed) = (None, None);
        let Some(entry) = self.entries.remove(name) else { return };
        self.suspended -= usize::from(entry.suspended);
        let place = (entry.root, entry.path);
        // Another name may have the place by now.
        if self.places.get(&place) == Some(name) {
            self.places.remove(&place);
        }
        self.by_content.remove(&(entry.content, Some(entry.name)));
    }

    /// The names of a root's files at and below a path.
    pub(super) fn below<'a>(&'a self, root: &'a Path, path: &'a Path) -> impl Iterator<Item = &'a Name> {
        let first: RootedPath = (root.into(), path.into());
        // Paths are ordered by their segments: what is below one comes right after it.
        let from = self.places.range((Bound::Included(first), Bound::Unbounded));
        from.take_while(move |((other, file), _)| **other == *root && file.starts_with(path)).map(|(_, name)| name)
    }

    /// The first entry with a content whose name comes after another.
    pub(super) fn with_content(&self, content: &ContentId, after: Option<&Name>) -> Option<&SharedEntry> {
        let from = (Bound::Excluded((*content, after.cloned())), Bound::Unbounded);
        let (found, name) = self.by_content.range(from).next()?;
        self.entries.get(name.as_ref().filter(|_| found == content)?)
    }

    /// All entries in the order of their names, those that are away among them.
    pub(super) fn kept(&mut self) -> Arc<Vec<SharedEntry>> {
        let list = || Arc::new(self.entries.values().cloned().collect());
        self.kept.get_or_insert_with(list).clone()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// All entries that are served, in the order of their names.
    pub(super) fn listed(&mut self) -> Arc<Vec<SharedEntry>> {
        if self.suspended == 0 {
            return self.kept();
        }
        let list = || Arc::new(self.entries.values().filter(|entry| !entry.suspended).cloned().collect());
        self.listed.get_or_insert_with(list).clone()
    }

    /// The names of an entry's file in these roots.
    pub(super) fn names_of(&self, entry: &SharedEntry, roots: &[&Path]) -> impl Iterator<Item = &Name> {
        let above = roots.iter().filter(|root| entry.path.starts_with(root));
        above.filter_map(|root| self.places.get(&((*root).into(), entry.path.clone())))
    }

    /// Why a file of a root cannot have a name, if another file has it.
    pub(super) fn taken(&self, name: &Name, root: &Path, path: &Path) -> Option<Skipped> {
        let other = self.entries.get(name).filter(|other| *other.root != *root && *other.path != *path)?;
        let reason = format!("the name {name} is taken by {}", other.path.display());
        Some(Skipped { path: path.to_owned(), reason, failed: false })
    }
}
