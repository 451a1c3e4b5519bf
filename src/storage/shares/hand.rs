//! Sharing, giving up and ending shares by hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use swarmdex_protocols::Name;

use super::database::{GivenUp, Root};
use super::look::Open;
use super::roots::{absolute, is_declared, resolve};
use super::select::{Rules, Why, check_patterns};
use super::{OnProgress, ShareError, ShareOutcome, ShareTable, SharedEntry, lock, scan};
use crate::config::{Origin, ShareOptions};

impl ShareTable {
    /// Shares files and folders by hand, and remembers that. `name` renames a file, or puts `name/` in front of what is in
    /// a folder.
    pub(crate) fn add(
        &self,
        paths: &[PathBuf],
        name: Option<&str>,
        options: &ShareOptions,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let ShareOptions { selection, rehash } = options;
        if name.is_some() && paths.len() != 1 {
            return Err(ShareError::OneName);
        }
        check_patterns(&selection.exclude)?;
        let mut roots = Vec::new();
        for path in paths {
            let found = path.canonicalize().map_err(|source| ShareError::Path { path: path.clone(), source })?;
            scan::check_data_directory(&found, self.own_folder())?;
            let prefix = match name {
                Some(name) => {
                    Some(Name::from_path_text(name).map_err(|source| ShareError::Name { path: path.clone(), source })?)
                }
                None => None,
            };
            roots.push((found, absolute(path), prefix));
        }
        let mut outcome = ShareOutcome::default();
        for (path, given, prefix) in roots {
            let _scan = self.shared.scans.begin(&path, cancel)?;
            let before = lock(&self.shared.database).root(&path)?;
            let origins = before.as_ref().map(|before| before.origins.clone()).unwrap_or_default();
            let mut root = Root { prefix, selection: selection.clone(), origins, path };
            root.origins.remove(&Origin::Earlier);
            root.origins.insert(Origin::Command, given);
            match self.add_root(&root, *rehash, progress, cancel) {
                Ok(added) => outcome.extend(added),
                Err(error) => {
                    // As it was before.
                    let database = lock(&self.shared.database);
                    match before {
                        Some(before) => database.put_roots(&[before], &[])?,
                        None => database.put_roots(&[], &[&root.path])?,
                    }
                    return Err(error);
                }
            }
        }
        // Folders without files are watched too, and what was not at rest is looked at again.
        let Open { busy, changing, .. } = &outcome.open;
        let stale: Vec<_> = busy.iter().chain(changing).map(|path| Arc::from(path.as_path())).collect();
        self.change(|table| table.stale.extend(stale));
        // Whoever is told that it is shared finds it shared after a power cut.
        self.shared.outboards.sync()?;
        lock(&self.shared.database).settle()?;
        Ok(outcome)
    }

    fn add_root(
        &self,
        root: &Root,
        rehash: bool,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let rules = Rules::new(&root.path, &self.selection(root))?;
        let found = scan::scan(root, &root.path, self.own_folder(), rules, BTreeSet::new())?;
        {
            let names: Vec<_> = found.candidates.iter().map(|candidate| &candidate.name).collect();
            let database = lock(&self.shared.database);
            // Sharing anew brings back what was revoked.
            database.include(&root.path, &names)?;
            database.put_roots(std::slice::from_ref(root), &[])?;
            database.forget_unshared(&[&root.path])?;
        }
        self.note_mounts(root, &root.path, found.mounts.clone())?;
        {
            let mut states = self.states();
            states.is_back(&root.path);
            states.set_ended(&root.path, false);
        }
        let direct = found.direct;
        let added = self.take_in_whole(&root.path, found, rehash, progress, cancel)?;
        match added.skipped.first() {
            Some(skipped) if direct => Err(self.explain(root, skipped)),
            _ => Ok(added),
        }
    }

    /// Why a file that was named directly is not shared.
    fn explain(&self, root: &Root, skipped: &super::Skipped) -> ShareError {
        let name = scan::name_of(root, &root.path).ok();
        let taken = name.and_then(|name| lock(&self.shared.table).get(&name).cloned());
        match taken {
            Some(other) => {
                ShareError::Taken { path: root.path.clone(), name: other.name, other: other.path.to_path_buf() }
            }
            None => ShareError::Path { path: root.path.clone(), source: std::io::Error::other(skipped.reason.clone()) },
        }
    }

    /// Gives names up, all of them or none; returns those that were shared. They stay so, whoever names their folders,
    /// until the file or a folder above it is shared anew by hand.
    pub(crate) fn remove(&self, names: &[Name]) -> Result<Vec<Name>, ShareError> {
        let database = lock(&self.shared.database);
        let roots = database.roots()?;
        let paths: Vec<_> = roots.iter().map(|root| root.path.as_path()).collect();
        let (entries, everywhere): (Vec<_>, Vec<_>) = {
            let table = lock(&self.shared.table);
            let going: BTreeSet<_> = names.iter().collect();
            let entries = going.iter().filter_map(|name| table.get(name).cloned());
            let stays = |entry: &SharedEntry| table.names_of(entry, &paths).any(|name| !going.contains(name));
            let with_others = entries.map(|entry| {
                let everywhere = !stays(&entry);
                (entry, everywhere)
            });
            with_others.unzip()
        };
        let given_up = entries.iter().zip(everywhere).map(|(entry, everywhere)| GivenUp {
            name: &entry.name,
            root: &entry.root,
            path: &entry.path,
            everywhere,
        });
        let given_up: Vec<_> = given_up.collect();
        let (mut put, mut ended) = (Vec::new(), Vec::new());
        for entry in entries.iter().filter(|entry| entry.root == entry.path) {
            // What was shared by hand ends; what else names the file finds that it was given up.
            let Some(mut root) = roots.iter().find(|root| *root.path == *entry.root).cloned() else { continue };
            root.origins.retain(|origin, _| is_declared(*origin));
            if root.origins.is_empty() { ended.push(&*entry.root) } else { put.push(root) }
        }
        database.give_up(&given_up, &put, &ended)?;
        let places: Vec<_> = entries.iter().map(|entry| (&*entry.root, &*entry.path)).collect();
        database.note(&[], &places)?;
        drop(database);
        {
            let mut states = self.states();
            ended.iter().for_each(|root| states.forget(root));
            for entry in &entries {
                if let Some(left) = states.left_out.get_mut(&*entry.root) {
                    left.put(&entry.root, &entry.path, &[(entry.path.to_path_buf(), Why::Revoked)]);
                }
            }
        }
        let removed: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        self.change(|table| removed.iter().for_each(|name| table.remove(name)));
        Ok(removed)
    }

    /// Ends shares: all of them, or none if one is no root. Returns the roots, and the names that each had.
    pub(crate) fn unshare(&self, paths: &[PathBuf]) -> Result<Vec<(PathBuf, Vec<Name>)>, ShareError> {
        let declared = self.states().declared.clone();
        let database = lock(&self.shared.database);
        let roots = database.roots()?;
        let (mut ended, mut named) = (BTreeSet::new(), BTreeSet::new());
        for path in paths {
            let given = absolute(path);
            let (resolved, _) = resolve(&given);
            let is_it = |other: &Path| other == given || other == resolved;
            let declared: Vec<_> = declared
                .iter()
                .filter(|named| is_it(&named.given) || named.root.as_deref().is_some_and(is_it))
                .filter(|named| !named.ended)
                .collect();
            let root = roots.iter().find(|root| {
                is_it(&root.path)
                    || root.origins.values().any(|other| is_it(other))
                    || declared.iter().any(|named| named.root.as_ref() == Some(&root.path))
            });
            if root.is_none() && declared.is_empty() {
                let above = roots.iter().find(|root| resolved.starts_with(&root.path));
                return Err(ShareError::NotRoot { path: given, above: above.map(|root| root.path.clone()) });
            }
            if !declared.is_empty() {
                named.insert(root.map_or(resolved, |root| root.path.clone()));
            }
            ended.extend(root.map(|root| root.path.clone()));
        }
        let [gone, stay] = [&ended, &named].map(|paths| paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        database.unshare(&gone, &stay)?;
        drop(database);
        named.iter().for_each(|root| self.states().set_ended(root, true));
        let waiting = named.difference(&ended).map(|path| (path.clone(), Vec::new()));
        Ok(ended.iter().map(|root| (root.clone(), self.drop_root(root))).chain(waiting).collect())
    }

    /// Takes all names of a root that ended out of the table.
    pub(super) fn drop_root(&self, root: &Path) -> Vec<Name> {
        self.states().forget(root);
        let names: Vec<_> = lock(&self.shared.table).below(root, root).cloned().collect();
        self.change(|table| names.iter().for_each(|name| table.remove(name)));
        names
    }
}
