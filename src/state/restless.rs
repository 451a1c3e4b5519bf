//! Files that were found changing while they were read. Whether the system tells when they are at rest is not certain: they are
//! looked at again, at rising intervals, as long as they are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The first interval; each is twice as long as the one before.
const FIRST: Duration = Duration::from_secs(1);
/// The longest: each look may read a file of any size.
const LONGEST: Duration = Duration::from_secs(60);
/// Files that are kept in mind.
const MOST: usize = 1024;

/// How often a file was found changing, and when it is looked at again; `None` while that is done.
#[derive(Debug)]
struct Recheck {
    interval: Duration,
    due: Option<Instant>,
}

/// The files.
#[derive(Debug, Default)]
pub(crate) struct Restless {
    turns: BTreeMap<PathBuf, Recheck>,
}

impl Restless {
    /// A file was found changing. False if there is no room for it.
    pub(crate) fn on_changing(&mut self, path: PathBuf, now: Instant) -> bool {
        if let Some(turn) = self.turns.get_mut(&path) {
            if turn.due.is_none() {
                turn.interval = (turn.interval * 2).min(LONGEST);
                turn.due = Some(now + turn.interval);
            }
        } else if self.turns.len() < MOST {
            self.turns.insert(path, Recheck { interval: FIRST, due: Some(now + FIRST) });
        } else {
            return false;
        }
        true
    }

    /// A file was looked at and is at rest, or gone.
    pub(crate) fn on_rested(&mut self, path: &Path) {
        self.turns.remove(path);
    }

    /// Files to look at now. Of each [`Restless::on_changing`] or [`Restless::on_rested`] is to be told then.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<PathBuf> {
        let due = self.turns.iter_mut().filter(|(_, turn)| turn.due.is_some_and(|due| due <= now));
        due.map(|(path, turn)| {
            turn.due = None;
            path.clone()
        })
        .collect()
    }

    /// When to call [`Restless::take_due`] next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.turns.values().filter_map(|turn| turn.due).min()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_changing_is_looked_at_at_rising_intervals_until_it_rests() {
        let (mut restless, begin) = (Restless::default(), Instant::now());
        let path = Path::new("/a/file");
        let (mut now, mut intervals) = (begin, Vec::new());
        for _ in 0..9 {
            assert!(restless.on_changing(path.to_owned(), now));
            // Heard of by another way meanwhile.
            assert!(restless.on_changing(path.to_owned(), now));
            let due = restless.poll_timeout().unwrap();
            assert!(restless.take_due(due - Duration::from_millis(1)).is_empty());
            assert_eq!(restless.take_due(due), [path]);
            assert_eq!((restless.take_due(due), restless.poll_timeout()), (Vec::new(), None));
            intervals.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(intervals, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        restless.on_rested(path);
        restless.on_changing(path.to_owned(), now);
        assert_eq!(restless.poll_timeout(), Some(now + FIRST));
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let (mut restless, now) = (Restless::default(), Instant::now());
        let path = |number: usize| PathBuf::from(number.to_string());
        assert!((0..MOST).all(|number| restless.on_changing(path(number), now)));
        assert!(!restless.on_changing(path(MOST), now) && restless.on_changing(path(0), now));
        restless.on_rested(&path(7));
        assert!(restless.on_changing(path(MOST), now));
    }
}
