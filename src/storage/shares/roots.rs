//! The files and folders that a node was told to share: by hand, by flags, or by its configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use swarmdex_protocols::Name;

use super::database::Root;
use super::select::{LeftOut, Why, check_patterns};
use super::{ShareError, ShareOutcome, ShareTable, lock};
use crate::config::{Origin, Selection};

/// Paths that are left out of one root and remembered for who asks; what is beyond is counted.
const MAX_LEFT_OUT: usize = 4096;

/// What is known of roots besides the database.
#[derive(Debug, Default)]
pub(super) struct RootStates {
    /// What flags and configuration say of what is left out.
    pub(super) policy: Selection,
    /// What flags or configuration name.
    pub(super) declared: Vec<Declared>,
    origin: Option<Origin>,
    /// Roots that are away, and why.
    pub(super) away: BTreeMap<PathBuf, String>,
    pub(super) left_out: BTreeMap<PathBuf, LeftOuts>,
}

/// A path that flags or the configuration name.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) given: PathBuf,
    /// The root that it is, once it was there.
    pub(super) root: Option<PathBuf>,
    /// Ended by hand.
    pub(super) ended: bool,
}

/// What is left out of one root.
#[derive(Debug, Default)]
pub(super) struct LeftOuts {
    paths: BTreeMap<PathBuf, Why>,
    /// Those beyond.
    more: LeftOut,
}

/// What came of what flags and configuration name.
#[derive(Debug, Default)]
pub(crate) struct DeclareOutcome {
    /// Roots that nobody names any more: they ended.
    pub ended: Vec<PathBuf>,
    /// Roots that stay ended by hand.
    pub unshared: Vec<PathBuf>,
    /// Paths where nothing is yet.
    pub missing: Vec<PathBuf>,
}

/// How a root stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootStanding {
    /// It is there.
    Shared,
    /// It is away, and its names are kept.
    Away(String),
    /// It was named, and was not there since.
    Waiting,
    /// It is named by flags or configuration, and was ended by hand.
    Unshared,
}

/// A root, for people.
#[derive(Debug, Clone)]
pub struct RootState {
    /// The file or folder.
    pub path: PathBuf,
    /// Who said that it is shared.
    pub origins: Vec<Origin>,
    /// New name of the file, or what stands in front of the names in the folder.
    pub prefix: Option<Name>,
    /// What of it is shared, all that was said taken together.
    pub selection: Selection,
    /// How it stands.
    pub standing: RootStanding,
    /// Names that it has.
    pub names: u64,
    /// Bytes of what they stand for.
    pub bytes: u64,
    /// How much is left out of it.
    pub left_out: LeftOut,
    /// The first of these.
    pub examples: Vec<(PathBuf, Why)>,
}

impl RootStates {
    /// A root is there. True if it was away before.
    pub(super) fn is_back(&mut self, root: &Path) -> bool {
        self.away.remove(root).is_some()
    }

    /// A root is away. True if that is news.
    pub(super) fn is_away(&mut self, root: &Path, reason: &str) -> bool {
        self.away.insert(root.to_owned(), reason.to_owned()).as_deref() != Some(reason)
    }

    pub(super) fn forget(&mut self, root: &Path) {
        self.away.remove(root);
        self.left_out.remove(root);
    }

    pub(super) fn set_ended(&mut self, root: &Path, ended: bool) {
        let named = |declared: &&mut Declared| declared.given == root || declared.root.as_deref() == Some(root);
        self.declared.iter_mut().filter(named).for_each(|declared| declared.ended = ended);
    }
}

impl LeftOuts {
    /// Replaces what is left out at and below a path.
    pub(super) fn put(&mut self, root: &Path, at: &Path, left_out: &[(PathBuf, Why)]) {
        if at == root {
            self.paths.clear();
            self.more = LeftOut::default();
        } else {
            self.paths.retain(|path, _| !path.starts_with(at));
        }
        for (path, why) in left_out {
            if self.paths.len() < MAX_LEFT_OUT {
                self.paths.insert(path.clone(), *why);
            } else {
                self.more.count(*why);
            }
        }
    }

    fn count(&self) -> LeftOut {
        let mut count = self.more;
        self.paths.values().for_each(|why| count.count(*why));
        count
    }
}

/// Where a path leads, and whether something is there. Links on the way to what is missing are followed as far as they go.
pub(super) fn resolve(given: &Path) -> (PathBuf, bool) {
    if let Ok(path) = given.canonicalize() {
        return (path, true);
    }
    for above in given.ancestors().skip(1) {
        if let (Ok(found), Ok(rest)) = (above.canonicalize(), given.strip_prefix(above)) {
            return (found.join(rest), false);
        }
    }
    (given.to_owned(), false)
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub(super) fn is_declared(origin: Origin) -> bool {
    matches!(origin, Origin::Flag | Origin::Configuration)
}

impl ShareTable {
    pub(super) fn states(&self) -> MutexGuard<'_, RootStates> {
        lock(&self.shared.states)
    }

    /// Takes up what flags or the configuration name, at a start; what they named before and name no more ends, unless it
    /// was shared by hand as well. Nothing is looked at yet: [`ShareTable::rescan`] does that.
    pub(crate) fn declare(
        &self,
        paths: &[PathBuf],
        origin: Origin,
        policy: &Selection,
    ) -> Result<DeclareOutcome, ShareError> {
        check_patterns(&policy.exclude)?;
        let database = lock(&self.shared.database);
        let (mut roots, unshared) = (database.roots()?, database.unshared()?);
        let mut wanted = BTreeMap::new();
        for given in paths.iter().map(|path| absolute(path)) {
            let (mut path, is_there) = resolve(&given);
            // A link that is missing with its disk led to the root that it was before.
            let before = roots.iter().find(|root| root.origins.values().any(|other| *other == given));
            if let Some(root) = before.filter(|_| !is_there) {
                path.clone_from(&root.path);
            }
            wanted.insert(path, (given, is_there));
        }
        let (mut outcome, mut put) = (DeclareOutcome::default(), Vec::new());
        for root in &mut roots {
            let is_earlier = root.origins.is_empty();
            root.origins.retain(|origin, _| !is_declared(*origin));
            match wanted.get(&root.path).filter(|_| !unshared.contains(&root.path)) {
                Some((given, _)) => drop(root.origins.insert(origin, given.clone())),
                None if is_earlier => drop(root.origins.insert(Origin::Earlier, root.path.clone())),
                None => {}
            }
            if root.origins.is_empty() {
                outcome.ended.push(root.path.clone());
            } else {
                put.push(root.clone());
            }
        }
        let mut declared = Vec::new();
        for (path, (given, is_there)) in &wanted {
            let is_known = roots.iter().any(|root| root.path == *path);
            let ended = unshared.contains(path);
            if ended {
                outcome.unshared.push(path.clone());
            } else if *is_there && !is_known {
                put.push(Root { origins: [(origin, given.clone())].into(), ..Root::new(path.clone()) });
            } else if !is_there && !is_known {
                outcome.missing.push(given.clone());
            }
            let root = (*is_there || is_known).then(|| path.clone());
            declared.push(Declared { given: given.clone(), root, ended });
        }
        database.put_roots(&put, &outcome.ended.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        let forgotten: Vec<_> = unshared.iter().filter(|path| !wanted.contains_key(*path)).collect();
        database.forget_unshared(&forgotten.iter().map(|path| path.as_path()).collect::<Vec<_>>())?;
        drop(database);
        let mut states = self.states();
        (states.policy, states.declared, states.origin) = (policy.clone(), declared, Some(origin));
        Ok(outcome)
    }

    /// Takes up what flags or the configuration name and what has come since, or leads elsewhere than before. Returns the
    /// new roots.
    pub(crate) fn take_up(&self) -> Result<Vec<PathBuf>, ShareError> {
        let (declared, origin) = {
            let states = self.states();
            (states.declared.clone(), states.origin.unwrap_or(Origin::Configuration))
        };
        let mut new = Vec::new();
        for Declared { given, root, .. } in declared.into_iter().filter(|declared| !declared.ended) {
            let Ok(path) = given.canonicalize() else { continue };
            if root.as_ref() == Some(&path) {
                continue;
            }
            let mut left = root.and_then(|root| self.without(&root, origin).transpose()).transpose()?;
            let database = lock(&self.shared.database);
            if database.unshared()?.contains(&path) {
                drop(database);
                self.states().set_ended(&given, true);
                continue;
            }
            let mut root = database.root(&path)?.unwrap_or_else(|| Root::new(path.clone()));
            root.origins.insert(origin, given.clone());
            let ended: Vec<_> =
                left.iter().filter(|left| left.origins.is_empty()).map(|left| left.path.clone()).collect();
            let put: Vec<_> = left.take().into_iter().filter(|left| !left.origins.is_empty()).chain([root]).collect();
            database.put_roots(&put, &ended.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
            drop(database);
            ended.iter().for_each(|root| drop(self.drop_root(root)));
            let mut states = self.states();
            states
                .declared
                .iter_mut()
                .filter(|other| other.given == given)
                .for_each(|other| other.root = Some(path.clone()));
            new.push(path);
        }
        if !new.is_empty() {
            // Whoever watches roots learns of the new ones.
            self.change(|_| ());
        }
        Ok(new)
    }

    /// A root as it is when flags or configuration do not name it.
    fn without(&self, root: &Path, origin: Origin) -> Result<Option<Root>, ShareError> {
        let mut root = lock(&self.shared.database).root(root)?;
        if let Some(root) = &mut root {
            root.origins.remove(&origin);
        }
        Ok(root)
    }

    /// Notes what a look left out.
    pub(super) fn note_left_out(
        &self,
        root: &Path,
        at: &Path,
        left_out: &[(PathBuf, Why)],
        outcome: &mut ShareOutcome,
    ) {
        left_out.iter().for_each(|(_, why)| outcome.left_out.count(*why));
        self.states().left_out.entry(root.to_owned()).or_default().put(root, at, left_out);
    }

    /// Every root, and what is to be one, with at most so many examples of what is left out.
    pub(crate) fn root_states(&self, examples: usize) -> Result<Vec<RootState>, ShareError> {
        let (roots, unshared) = {
            let database = lock(&self.shared.database);
            (database.roots()?, database.unshared()?)
        };
        let mut sums: BTreeMap<Arc<Path>, (u64, u64)> = BTreeMap::new();
        for entry in self.kept().iter() {
            let (names, bytes) = sums.entry(entry.root.clone()).or_default();
            *names += 1;
            *bytes = bytes.saturating_add(entry.size);
        }
        let mut found = Vec::new();
        for root in &roots {
            let selection = self.selection(root);
            let states = self.states();
            let left = states.left_out.get(&root.path);
            let shown = left.into_iter().flat_map(|left| left.paths.iter().take(examples));
            let (names, bytes) = sums.get(root.path.as_path()).copied().unwrap_or_default();
            found.push(RootState {
                path: root.path.clone(),
                origins: root.origins.keys().copied().collect(),
                prefix: root.prefix.clone(),
                selection,
                standing: states.away.get(&root.path).cloned().map_or(RootStanding::Shared, RootStanding::Away),
                names,
                bytes,
                left_out: left.map(LeftOuts::count).unwrap_or_default(),
                examples: shown.map(|(path, why)| (path.clone(), *why)).collect(),
            });
        }
        let states = self.states();
        let origins: Vec<_> = states.origin.into_iter().collect();
        for declared in &states.declared {
            let path = declared.root.as_ref().unwrap_or(&declared.given);
            let is_ended = declared.ended || unshared.contains(path);
            let standing = if is_ended { RootStanding::Unshared } else { RootStanding::Waiting };
            if roots.iter().all(|root| root.path != *path) {
                found.push(RootState {
                    path: path.clone(),
                    origins: origins.clone(),
                    prefix: None,
                    selection: states.policy.clone(),
                    standing,
                    names: 0,
                    bytes: 0,
                    left_out: LeftOut::default(),
                    examples: Vec::new(),
                });
            }
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }
}
