//! When a download waits, looks for more sources, and gives up.

use std::time::{Duration, Instant};

use super::{Action, Download, Exhausted, MAX_FAILURES, Source};

/// For how long a download goes on although no source has a chunk that is missing.
pub(super) const STALL: Duration = Duration::from_secs(30);
/// First pause after a failure or a busy answer; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How soon a source without work looks again for a request to take over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How often a download without sources looks for one that is back.
const LOOK_FOR_OWNER: Duration = Duration::from_secs(2);

/// How soon more sources are looked for when nothing has come yet: whoever is known may not be there any more, and that is
/// not certain before it would be too late.
const LOOK_EARLY: Duration = Duration::from_secs(1);

impl<S: Copy + Ord> Download<S> {
    /// No connection to the source came about, at any of its addresses: it is given up until it is found again. `first` is
    /// the request that was to be made, if there was one.
    pub(crate) fn on_unreachable(&mut self, source: S, first: Option<u64>) {
        if let Some(first) = first {
            self.give_up(source, first);
        }
        let Some(state) = self.sources.get_mut(&source) else { return };
        if state.failures == 0 {
            self.actions.push_back(Action::Report(source));
        }
        state.failures = MAX_FAILURES;
        self.lose(source, Exhausted::Unreachable);
    }

    /// This host has another address: whoever could not be reached from the last one may be from this.
    pub(crate) fn on_moved(&mut self) {
        for state in self.sources.values_mut() {
            state.come_back(false);
            state.not_before = None;
        }
        self.looked_again = None;
    }

    /// Waits for sources from now on, although nothing has come yet.
    pub(crate) fn wait_from(&mut self, now: Instant) {
        self.waits_since = Some(now);
    }

    /// Those who had the content have another one by now: it is not waited for them.
    pub(crate) fn on_superseded(&mut self) {
        self.superseded = true;
    }

    /// Whether sources that are lost are waited for.
    pub(crate) fn is_patient(&self) -> bool {
        self.came.is_some() || self.waits_since.is_some()
    }

    /// Whether nobody is left, and it is waited for one to be back.
    pub(crate) fn is_waiting(&self) -> bool {
        let is_over = self.ended || self.written == self.geometry.chunks();
        self.is_patient() && !is_over && self.live() == 0
    }

    /// Whether a chunk has come.
    pub(crate) fn has_come(&self) -> bool {
        self.came.is_some()
    }

    /// When to look for more sources although some are left, unless something comes.
    fn looks_early(&self) -> Option<Instant> {
        let is_young = self.came.is_none() && self.looked_again.is_none() && !self.searching;
        self.begun.filter(|_| is_young).map(|begun| begun + LOOK_EARLY)
    }

    /// With nobody left: looks for more sources; then waits for those that were lost while chunks came; then gives up.
    pub(super) fn lose_patience(&mut self, now: Instant) -> Option<Action<S>> {
        if self.looks_early().is_some_and(|at| now >= at) {
            (self.looked_again, self.searching) = (Some(now), true);
            return Some(Action::Search);
        }
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
    /// name is somebody else's. One that was just restarted, and could not be reached, says that it has the content no more until
    /// it has looked what it has. A download to which nothing came is not kept waiting unless its user said so, and who lied is not waited for.
    pub(super) fn waits_for_owner(&self, now: Instant) -> bool {
        let lost = |state: &Source| match state.lost {
            Some(Exhausted::Unreachable) => true,
            Some(Exhausted::Gone) => state.failures > 0,
            Some(Exhausted::Wrong) | None => false,
        };
        let is_away = self.sources.is_empty() || self.sources.values().any(lost);
        let since = self.came.max(self.waits_since);
        is_away && !self.superseded && since.is_some_and(|since| now < since + self.policy.patience)
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

    /// When to call [`Download::poll_action`] again although nothing happened.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let live = || self.sources.values().filter(|state| state.lost.is_none());
        let pauses = live().filter_map(|state| state.not_before);
        // Questions which chunks a source has.
        let haves = live().filter_map(|state| state.have_due);
        // A request to take over.
        let idle = live().any(|state| state.asked.is_empty() && !state.is_paused(now));
        let look = (idle && !self.flights.is_empty()).then(|| now + LOOK_AGAIN);
        // The end of patience.
        let stall = self.progress.map(|at| at + STALL).filter(|at| *at > now);
        // Looks for who is back, and for those who are there.
        let again = self.looked_again.map(|at| at + LOOK_FOR_OWNER).filter(|at| *at > now);
        let early = self.looks_early().filter(|at| *at > now);
        pauses.chain(haves).chain(look).chain(stall).chain(again).chain(early).min()
    }

    /// Pauses end by themselves: nothing to do but to poll for actions.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for source in self.sources.values_mut() {
            if source.not_before.is_some_and(|until| until <= now) {
                source.not_before = None;
            }
        }
    }
}

/// How long a source is left alone after so many failures in a row.
pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_PAUSE)
}
