//! Which files changed, told once they are at rest.
//!
//! A file that is being written changes many times a second, and half of it is of use to nobody. So a path is due when
//! nothing was heard of it for [`QUIET`], whatever is heard of others. What in a folder is not at rest then stays due.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// For how long nothing may be heard of a path before it counts as at rest.
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// Paths that wait; with more, everything is looked through.
pub(crate) const MAX_PENDING: usize = 4096;
/// What comes to rest within this is looked for together: each look goes through all that waits.
const TOGETHER: Duration = Duration::from_millis(100);

/// What is at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rested {
    /// Files and folders; none is below another.
    Paths(Vec<PathBuf>),
    /// It is not known what changed: everything that is watched.
    Everything,
}

/// Changes that were heard of.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// When a path last changed.
    pending: BTreeMap<PathBuf, Instant>,
    /// When it was first unknown what changed.
    unknown: Option<Instant>,
    /// Before this no path is at rest.
    next: Option<Instant>,
}

impl Changes {
    /// Something happened to a path.
    pub(crate) fn on_change(&mut self, path: PathBuf, now: Instant) {
        // Looking through everything finds it too, unless it goes on changing until then.
        self.pending.insert(path, now);
        self.next.get_or_insert(now + QUIET);
        if self.pending.len() > MAX_PENDING {
            self.on_lost(now);
        }
    }

    /// Something happened, and it is not known where.
    pub(crate) fn on_lost(&mut self, now: Instant) {
        self.pending.clear();
        self.next = None;
        self.unknown.get_or_insert(now);
    }

    /// What is at rest by now; it is told once.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Rested> {
        if self.unknown.is_some_and(|since| since + QUIET <= now) {
            self.unknown = None;
            return Some(Rested::Everything);
        }
        let mut rested: Vec<PathBuf> = Vec::new();
        // Paths are sorted so that a folder comes right before what is below it.
        self.pending.retain(|path, at| {
            let rests = *at + QUIET <= now;
            let covered = rested.last().is_some_and(|above| path.starts_with(above));
            if rests && !covered {
                rested.push(path.clone());
            }
            !rests
        });
        let next = self.pending.values().min().map(|at| *at + QUIET);
        self.next = next.map(|at| at.max(now + TOGETHER));
        (!rested.is_empty()).then_some(Rested::Paths(rested))
    }

    /// When to call [`Changes::poll_action`] next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.unknown.map(|since| since + QUIET)).min()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn paths(rested: Option<Rested>) -> Vec<String> {
        match rested {
            Some(Rested::Paths(paths)) => paths.iter().map(|path| path.display().to_string()).collect(),
            Some(Rested::Everything) => vec!["everything".to_owned()],
            None => Vec::new(),
        }
    }

    #[test]
    fn a_file_is_told_once_it_is_at_rest_whatever_goes_on_beside_it() {
        let begin = Instant::now();
        let at = |tenths: u64| begin + Duration::from_millis(100 * tenths);
        let mut changes = Changes::default();
        changes.on_change("/a/file".into(), at(0));
        changes.on_change("/a/file".into(), at(5));
        // What goes on changing is looked at once a second, and not at each change.
        assert_eq!(changes.poll_timeout(), Some(at(10)));
        assert_eq!((changes.poll_action(at(14)), changes.poll_timeout()), (None, Some(at(15))));
        assert_eq!(paths(changes.poll_action(at(15))), ["/a/file"]);
        assert_eq!((changes.poll_action(at(99)), changes.poll_timeout()), (None, None));
        // A folder that is moved in while a file in it is being written; a neighbour whose name begins alike is not below
        // it.
        changes.on_change("/b".into(), at(100));
        changes.on_change("/b/short".into(), at(100));
        changes.on_change("/b.txt".into(), at(100));
        for tenth in (101..130).step_by(3) {
            changes.on_change("/b/long".into(), at(tenth));
            let expected: &[&str] = if tenth == 110 { &["/b", "/b.txt"] } else { &[] };
            assert_eq!(paths(changes.poll_action(at(tenth))), expected, "{tenth}");
        }
        assert_eq!(paths(changes.poll_action(at(138))), ["/b/long"]);
        assert_eq!(changes.poll_timeout(), None);
    }

    #[test]
    fn what_waits_is_bounded_and_what_was_not_heard_is_looked_for() {
        let begin = Instant::now();
        let mut changes = Changes::default();
        for number in 0..3 * MAX_PENDING {
            changes.on_change(format!("/a/{number}").into(), begin);
            assert!(changes.pending.len() <= MAX_PENDING);
        }
        assert_eq!(changes.poll_action(begin + QUIET), Some(Rested::Everything));
        changes.on_lost(begin);
        // Not put off for ever by what goes on.
        changes.on_lost(begin + QUIET / 2);
        assert_eq!(changes.poll_action(begin + QUIET), Some(Rested::Everything));
    }

    proptest! {
        /// Whatever changes is told after its last change, by itself, by a folder above it, or by everything.
        #[test]
        fn every_change_is_told(events in prop::collection::vec((0u64..40, "(/[ab]){1,4}"), 1..60)) {
            let begin = Instant::now();
            let at = |step: u64| begin + QUIET / 8 * u32::try_from(step).unwrap();
            let mut events = events;
            events.sort();
            let mut changes = Changes::default();
            let mut owed: Vec<String> = Vec::new();
            for step in 0..60 {
                for (_, path) in events.iter().filter(|(when, _)| *when == step) {
                    changes.on_change(path.into(), at(step));
                    owed.push(path.clone());
                }
                let due = changes.poll_timeout().is_some_and(|due| due <= at(step));
                if let Some(Rested::Paths(told)) = due.then(|| changes.poll_action(at(step))).flatten() {
                    for (number, path) in told.iter().enumerate() {
                        prop_assert!(!told.iter().enumerate().any(|(other, above)| other != number && path.starts_with(above)));
                    }
                    owed.retain(|path| !told.iter().any(|above| Path::new(path).starts_with(above)));
                }
            }
            prop_assert!(owed.is_empty(), "{owed:?}");
            prop_assert_eq!(changes.poll_timeout(), None);
        }
    }
}
