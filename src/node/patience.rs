//! How long a download waits for those who are away.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use crate::locks::lock;
use crate::node::operation::{Control, ControlRequest};
use crate::node::types::GetOptions;
use crate::node::{Error, ErrorKind};

/// Longest time that can be waited.
const MOST: Duration = Duration::from_secs(30 * 24 * 3600);
/// The part of a lease for which a download waits beyond it, one in this many: an owner that comes back at its very end has
/// to be found.
const MORE: u32 = 2;
/// The longest time beyond a lease.
const MOST_MORE: Duration = Duration::from_secs(15);
/// How often it is looked whether somebody is back.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it is waited for a name of an owner that is there: one that was just restarted has not announced all of its names.
const ANNOUNCING: Duration = Duration::from_secs(5);

/// The patience of one operation, which may be with many files.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// Whether the user said how long: then it is waited from the start.
    wanted: bool,
    /// When something last came, or was found.
    last: Mutex<Instant>,
    /// Whether anything came: what never did is not waited for by itself.
    came: AtomicBool,
}

impl Patience {
    pub(super) fn new(options: &GetOptions, lease: Duration) -> Self {
        let given = options.wait_seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(MOST).min(MOST));
        let limit = given.unwrap_or(lease + (lease / MORE).min(MOST_MORE));
        let wanted = given.is_some_and(|given| !given.is_zero());
        Self { limit, wanted, last: Mutex::new(Instant::now()), came: AtomicBool::new(false) }
    }

    /// How long it is waited for whoever has something.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether it is also waited for what nobody had so far.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Something came: patience begins anew.
    pub(super) fn on_progress(&self) {
        self.came.store(true, Ordering::Relaxed);
        self.on_found();
    }

    /// Something was found that nobody had.
    pub(super) fn on_found(&self) {
        *lock(&self.last) = Instant::now();
    }

    fn left(&self) -> Duration {
        let last = *lock(&self.last);
        self.limit.saturating_sub(last.elapsed())
    }

    /// Waits a moment, and says for what. False if it was waited long enough.
    pub(super) async fn pause(&self, control: &Control, what: &str) -> Result<bool, Error> {
        let left = self.left();
        if left.is_zero() || !(self.wanted || self.came.load(Ordering::Relaxed)) {
            return Ok(false);
        }
        say(control, Some(self.sentence(what)));
        let mut requested = control.requested.clone();
        tokio::select! {
            () = tokio::time::sleep(PAUSE.min(left)) => Ok(true),
            Ok(_) = requested.wait_for(|requested| *requested == ControlRequest::Cancel) => Err(Error::Cancelled),
        }
    }

    /// A sentence that says for what it is waited, and how that is changed.
    pub(super) fn sentence(&self, what: &str) -> String {
        format!("{what}; waiting for up to {} s (--wait TIME, --no-wait)", self.limit.as_secs_f64().ceil())
    }

    /// Whether a file that was listed may come yet, and patience is left. `there` says whether its owner is, `since` when it was
    /// first missed.
    pub(super) fn may_come(&self, error: &Error, there: bool, since: Instant) -> bool {
        is_away(error) && !self.limit.is_zero() && (!there || since.elapsed() < ANNOUNCING)
    }
}

/// Says for what it is waited; `None` that it goes on.
pub(super) fn say(control: &Control, waiting: Option<String>) {
    control.progress.send_if_modified(|progress| {
        let news = progress.waiting != waiting;
        progress.waiting = waiting;
        news
    });
}

/// What is said of an owner that does not answer.
pub(super) fn away(owner: &PeerId) -> String {
    format!("the owner {owner} is away")
}

/// Whether an error is about somebody who may be back soon.
pub(super) fn is_away(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(seconds: Option<f64>, lease: u64) -> Patience {
        let options = GetOptions { wait_seconds: seconds, ..GetOptions::default() };
        Patience::new(&options, Duration::from_secs(lease))
    }

    #[test]
    fn by_itself_it_is_waited_longer_than_a_lease_and_at_most_as_long_as_is_said() {
        assert_eq!([4, 30, 600].map(|lease| patience(None, lease).limit().as_secs()), [6, 45, 615]);
        assert!(!patience(None, 30).is_wanted());
        let given = patience(Some(0.5), 30);
        assert!(given.is_wanted() && given.limit() == Duration::from_millis(500));
        let none = patience(Some(0.0), 30);
        assert!(!none.is_wanted() && none.left().is_zero());
        // Whatever else an interface is told.
        for seconds in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(patience(Some(seconds), 30).limit(), MOST, "{seconds}");
        }
    }

    #[test]
    fn a_name_that_an_owner_who_is_there_does_not_have_is_soon_given_up() {
        let patience = patience(None, 30);
        let gone = Error::NotFound { name: "a".to_owned() };
        assert!(patience.may_come(&gone, false, Instant::now()));
        assert!(patience.may_come(&gone, true, Instant::now()));
        let long_ago = Instant::now().checked_sub(2 * ANNOUNCING).unwrap();
        assert!(patience.may_come(&gone, false, long_ago) && !patience.may_come(&gone, true, long_ago));
        assert!(!patience.may_come(&Error::Bug, false, Instant::now()));
    }
}
