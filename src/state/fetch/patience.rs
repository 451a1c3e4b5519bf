//! When a download waits, looks for more sources, and gives up.

use std::time::{Duration, Instant};

use super::{Action, Download, Exhausted};

/// For how long a download goes on although no source has a chunk that is missing.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// How soon a source without work looks again for a request to take over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often a download without sources looks for one that is back.
const LOOK_FOR_OWNER: Duration = Duration::from_secs(2);

impl<S: Copy + Ord> Download<S> {
    /// With nobody left: looks for more sources; then waits for those that were lost while chunks came; then gives up.
    pub(super) fn lose_patience(&mut self, now: Instant) -> Option<Action<S>> {
        if !self.is_hopeless(now) {
            return None;
        }
        let waits = self.waits_for_owner(now);
        if self.looked_again.is_none_or(|at| waits && now >= at + LOOK_FOR_OWNER) {
            (self.looked_again, self.searching) = (Some(now), true);
            return Some(Action::Search);
        }
        if waits {
            return None;
        }
        self.ended = true;
        Some(Action::Exhausted(self.reason()))
    }

    /// Whether those who had the content may be back: a restart, a change of address or a sleep ends within a lease, or the
    /// name is somebody else's. A download to which nothing came is not kept waiting, and who has the content no more or lied is
    /// not waited for.
    fn waits_for_owner(&self, now: Instant) -> bool {
        let is_away = self.sources.values().any(|state| state.lost == Some(Exhausted::Unreachable));
        is_away && self.came.is_some_and(|came| now < came + self.policy.patience)
    }

    /// Whether nothing is under way, and nobody is left or nobody has had what is missing for long.
    fn is_hopeless(&self, now: Instant) -> bool {
        if !self.arrived.is_empty() || !self.flights.is_empty() || self.searching {
            return false;
        }
        let mut live = self.sources.values().filter(|state| state.lost.is_none()).peekable();
        if live.peek().is_none() {
            return true;
        }
        let waits = live.any(|state| state.not_before.is_some());
        !waits && self.progress.is_some_and(|progress| now >= progress + STALL)
    }

    /// When to call [`Download::poll_action`] again although nothing happened, and why.
    pub fn poll_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        let live = || self.sources.values().filter(|state| state.lost.is_none());
        let pauses = live().filter_map(|state| state.not_before).map(|at| (at, "pause of a source"));
        let haves = live().filter_map(|state| state.have_due).map(|at| (at, "question which chunks a source has"));
        let idle = live().any(|state| state.asked.is_empty() && !state.is_paused(now));
        let look = (idle && !self.flights.is_empty()).then(|| (now + LOOK_AGAIN, "request to take over"));
        let stall = self.progress.map(|at| (at + STALL, "end of patience")).filter(|(at, _)| *at > now);
        let again = self.looked_again.map(|at| (at + LOOK_FOR_OWNER, "another look for who is back"));
        let again = again.filter(|(at, _)| *at > now);
        pauses.chain(haves).chain(look).chain(stall).chain(again).min()
    }

    /// Pauses end by themselves: nothing to do but to poll for actions.
    pub fn handle_timeout(&mut self, now: Instant) {
        for source in self.sources.values_mut() {
            if source.not_before.is_some_and(|until| until <= now) {
                source.not_before = None;
            }
        }
    }
}
