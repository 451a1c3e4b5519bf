//! Sources that owe chunks while nothing comes: asked what they are doing, and given up if they do not say, or say that they send.
//!
//! A path may carry pings and no data (a link whose packets are smaller than its ends think), or carry nothing and not say so. The
//! requests of a slow source, or of one that serves many, look the same from here: so it is asked, over the same path.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long nothing may come before a source is asked. With [`ANSWER`] that is what a user is to wait for at most.
const QUIET: Duration = Duration::from_secs(2);
/// How long the answer may take, beside some round trips.
const ANSWER: Duration = Duration::from_secs(1);
const ANSWER_TRIPS: u32 = 3;
/// How long a source may take that answers and is not sending: it has others to serve first, or waits for its disk.
const LONGEST: Duration = Duration::from_secs(20);
/// How long a source may take that says that it is sending: it shares a full link with others, or nothing arrives.
const LONGEST_SENDING: Duration = Duration::from_secs(6);

/// What to do about a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StallAction {
    /// Ask whether it is sending what it owes, and call [`Stalls::on_answer`].
    Ask,
    /// Cut the path to it, and begin anew over another.
    Cut,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    Asked(Instant),
    Answered { at: Instant, sends: bool },
}

impl Question {
    fn at(&self) -> Instant {
        match self {
            Self::Asked(at) | Self::Answered { at, .. } => *at,
        }
    }
}

/// The sources of one download that are in doubt.
#[derive(Debug)]
pub(crate) struct Stalls<S> {
    questions: BTreeMap<S, Question>,
}

impl<S> Default for Stalls<S> {
    fn default() -> Self {
        Self { questions: BTreeMap::new() }
    }
}

impl<S: Copy + Ord> Stalls<S> {
    /// Looks at a source that has owed something since `due`, and from which nothing came since. `trip` is the round trip to it; `whole`
    /// unless it waits for chunks itself.
    pub(crate) fn look(
        &mut self,
        source: S,
        due: Instant,
        trip: Duration,
        whole: bool,
        now: Instant,
    ) -> Option<StallAction> {
        let question = self.questions.get(&source).copied().filter(|question| question.at() > due);
        let silent = now.saturating_duration_since(due);
        let quiet = QUIET + trip * ANSWER_TRIPS;
        let cut = match question {
            None if silent < quiet => {
                self.questions.remove(&source);
                return None;
            }
            Some(Question::Answered { sends: true, .. }) if silent >= LONGEST_SENDING => true,
            Some(Question::Answered { at, .. }) if now < at + quiet => return None,
            Some(Question::Asked(at)) if now < at + ANSWER + trip * ANSWER_TRIPS => return None,
            Some(Question::Asked(_)) => true,
            None | Some(Question::Answered { .. }) => whole && silent >= LONGEST,
        };
        if cut {
            self.questions.remove(&source);
            return Some(StallAction::Cut);
        }
        self.questions.insert(source, Question::Asked(now));
        Some(StallAction::Ask)
    }

    /// A source answered; it `sends` if it says that what it owes is on its way.
    pub(crate) fn on_answer(&mut self, source: S, sends: bool, now: Instant) {
        if let Some(question) = self.questions.get_mut(&source) {
            *question = Question::Answered { at: now, sends };
        }
    }

    /// A source owes nothing, or is not connected.
    pub(crate) fn forget(&mut self, source: &S) {
        self.questions.remove(source);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);
    const TRIP: Duration = Duration::from_millis(10);

    /// Looks at a source that owes something from the beginning: when it is cut, and how often it is asked until then. It answers what
    /// `says` says.
    fn silent(whole: bool, says: impl Fn(u32) -> Option<bool>) -> (Option<Duration>, u32) {
        let (mut stalls, begin, mut asked) = (Stalls::default(), Instant::now(), 0);
        for step in 0..600 {
            let now = begin + STEP * step;
            match stalls.look(1, begin, TRIP, whole, now) {
                Some(StallAction::Cut) => return (Some(now - begin), asked),
                Some(StallAction::Ask) => {
                    asked += 1;
                    if let Some(sends) = says(asked) {
                        stalls.on_answer(1, sends, now + TRIP);
                    }
                }
                None => {}
            }
        }
        (None, asked)
    }

    #[test]
    fn a_path_that_carries_nothing_is_cut_within_little_more_than_three_seconds() {
        let (cut, asked) = silent(true, |_| None);
        assert!(cut.unwrap() < Duration::from_millis(3300), "{cut:?}");
        assert_eq!(asked, 1);
        assert_eq!(silent(false, |_| None).0, cut, "a part of a crowd answers as well");
    }

    #[test]
    fn a_path_that_carries_answers_and_no_data_is_cut_in_seconds() {
        for whole in [true, false] {
            let (cut, _) = silent(whole, |_| Some(true));
            assert!(cut.unwrap() < LONGEST_SENDING + Duration::from_millis(300), "{cut:?}");
        }
    }

    #[test]
    fn a_source_that_serves_others_first_has_its_time() {
        let (cut, asked) = silent(true, |_| Some(false));
        assert!(cut.unwrap() >= LONGEST && asked < 12, "{cut:?} {asked}");
        let (cut, asked) = silent(false, |_| Some(false));
        assert!(cut.is_none() && asked < 32, "whoever waits for the chunk itself is no stall: {asked}");
        let (cut, asked) = silent(true, |asked| (asked < 3).then_some(false));
        assert!(cut.unwrap() < Duration::from_secs(9) && asked == 3, "and is asked again: {cut:?} {asked}");
    }

    #[test]
    fn whoever_sends_is_never_asked() {
        let (mut stalls, begin) = (Stalls::default(), Instant::now());
        for step in 0..600 {
            let now = begin + STEP * step;
            assert_eq!(stalls.look(1, now - STEP * (step % 19), TRIP, true, now), None);
        }
        // And one that sends again after it was asked is not cut.
        assert_eq!(stalls.look(1, begin, TRIP, true, begin + QUIET * 2), Some(StallAction::Ask));
        let later = begin + QUIET * 2 + ANSWER * 2;
        assert_eq!(stalls.look(1, later - STEP, TRIP, true, later), None);
    }

    #[test]
    fn a_long_path_has_more_time() {
        let (mut stalls, begin, trip) = (Stalls::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!(stalls.look(1, begin, trip, true, begin + QUIET + trip), None);
        stalls.forget(&1);
        assert_eq!(stalls.look(1, begin, trip, true, begin + QUIET + trip * ANSWER_TRIPS), Some(StallAction::Ask));
    }
}
