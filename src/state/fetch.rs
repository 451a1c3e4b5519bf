//! The scheduler of one download: which chunks to ask of whom, and when to give up.
//!
//! Every chunk is in exactly one state: unasked, asked for (of one source, or of more when it is late), arrived (being
//! verified and written), or written. Unasked chunks are kept as ranges, so that a file of millions of chunks costs
//! little.
//!
//! **Which chunk.** While all sources have everything, the next ones in order, from a random place on: disks like that.
//! As soon as some have only parts, the rarest first (BitTorrent's rule: B. Cohen, Incentives Build Robustness in
//! BitTorrent, 2003), ties broken at random, so that downloaders get different chunks and can pass them on.
//!
//! **How much.** As many bytes as keep a source busy, at its measured rate, for half a second and for four round trips, within
//! the policy. So what is under way doubles again and again while that makes the rate rise.
//!
//! **What is wanted.** All of it by a download into a file. What readers wait for goes first, in order, and is all that comes if
//! nobody wants the whole.
//!
//! **Who is late.** A source with nothing left to do takes over the request that will take longest elsewhere, if it is
//! clearly faster; the first answer counts, and the other request is cancelled. That is the end game, and the way
//! around sources that slow down, at any time of a download.

mod holders;
#[cfg(test)]
mod path_sim;
mod patience;
mod pick;
#[cfg(test)]
mod sim;
mod source;
pub(crate) mod stalls;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use patience::pause;
use source::{Holds, Source};
use swarmdex_protocols::ChunkSet;
use swarmdex_protocols::content::Geometry;
use swarmdex_protocols::fetch::FetchRefusal;
pub(crate) use wanted::{ReadAhead, Wanted};

use crate::config::FetchConfig;
use crate::state::random::Random;

/// Failures in a row after which a source is given up.
const MAX_FAILURES: u32 = 3;
/// Refusals because of too much work, in a row, after which a source is given up.
const MAX_BUSY: u32 = 30;
/// Refusals because of its disk, in a row, after which a source is given up.
const MAX_UNREAD: u32 = 6;
/// Refusals of chunks that a source said it had, in a row, after which it is given up.
const MAX_BROKEN_WORDS: u32 = 3;
/// Sources that are used at a time.
pub(crate) const MAX_SOURCES: usize = 48;
/// Contents of fewer chunks are not worth the talk of who has what.
const SWARM_CHUNKS: u64 = 16;

/// Longest round trip that counts: what is longer is a queue, or a lie.
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(2);

/// What a download may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FetchPolicy {
    /// Most bytes asked of one source and not yet written.
    pub window_bytes: u64,
    /// The same for all together.
    pub total_bytes: u64,
    /// Whether to look for others that have a part.
    pub swarm: bool,
    /// Whether what has come is announced to others.
    pub announces: bool,
    /// For how long a download that has come by something waits for its sources to be back: as long as their owner's lease.
    pub patience: Duration,
    /// Where randomness begins.
    pub seed: u64,
}

impl FetchPolicy {
    /// The policy of a configuration.
    pub(crate) fn new(config: &FetchConfig, announces: bool, patience: Duration, seed: u64) -> Self {
        let window_bytes = (config.window_mib.max(1) as u64) << 20;
        // Memory for three sources at full speed is enough for any number of slower ones.
        Self { window_bytes, total_bytes: 3 * window_bytes, swarm: true, announces, patience, seed }
    }
}

/// What the download wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action<S> {
    /// Ask `source` for `count` chunks from `first` on.
    Request {
        /// Whom.
        source: S,
        /// First chunk.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Forget a request: another source was faster.
    Cancel {
        /// Whose.
        source: S,
        /// First chunk.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Ask `source` which chunks it has, and who else has some.
    Have(S),
    /// Tell the master that `source` cannot be reached.
    Report(S),
    /// Look for more sources, now: none is left. [`Download::set_searching`] says when that is over.
    Search,
    /// Every chunk is written.
    Done,
    /// Nobody is left to ask.
    Exhausted(Exhausted),
}

/// Why nobody is left to ask: the gravest of the reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exhausted {
    /// Those who should have the content do not.
    Gone,
    /// Sources could not be reached.
    Unreachable,
    /// Sources sent something else.
    Wrong,
}

/// A run of chunks that was asked for.
#[derive(Debug)]
struct Flight<S> {
    count: u32,
    /// Whom it was asked of: one source, or more if that is late.
    askers: Vec<S>,
}

/// One download. `S` identifies a source.
#[derive(Debug)]
pub(crate) struct Download<S> {
    geometry: Geometry,
    policy: FetchPolicy,
    /// What of it is wanted: everything unless [`Download::set_wanted`] says otherwise.
    wanted: Wanted,
    /// Chunks that nobody was asked for yet: first chunk -> end (exclusive). Ranges neither touch nor overlap.
    unasked: BTreeMap<u64, u64>,
    /// Runs that were asked for, by their first chunk.
    flights: BTreeMap<u64, Flight<S>>,
    /// Runs that arrived and are being verified and written: first chunk -> number of chunks.
    arrived: BTreeMap<u64, u32>,
    written: u64,
    /// Bytes that came although they were there already, or were wrong.
    wasted: u64,
    sources: BTreeMap<S, Source>,
    /// For each chunk, how many sources that have only a part have it; empty while there is none.
    availability: Vec<u16>,
    /// Chunks that were announced to others before they were written.
    announced: BTreeSet<u64>,
    random: Random,
    actions: VecDeque<Action<S>>,
    /// When the first source appeared.
    begun: Option<Instant>,
    /// When something last came, or somebody new appeared.
    progress: Option<Instant>,
    /// Whether more sources may yet be found.
    searching: bool,
    /// When more sources were last looked for because none was left, if nothing came of it since.
    looked_again: Option<Instant>,
    /// When a chunk last came.
    came: Option<Instant>,
    /// Since when it is waited for sources although nothing has come yet, if it is.
    waits_since: Option<Instant>,
    /// Whether those who had the content have another one by now.
    superseded: bool,
    ended: bool,
}

impl<S: Copy + Ord> Download<S> {
    /// A download of which the chunks in `have` are there already.
    pub(crate) fn new(geometry: Geometry, policy: FetchPolicy, have: Option<&ChunkSet>) -> Self {
        let mut unasked = BTreeMap::from([(0, geometry.chunks())]);
        if let Some(have) = have {
            unasked.clear();
            let mut begin = None;
            for index in 0..=geometry.chunks() {
                let missing = index < geometry.chunks() && !have.contains(index);
                match (missing, begin) {
                    (true, None) => begin = Some(index),
                    (false, Some(first)) => {
                        unasked.insert(first, index);
                        begin = None;
                    }
                    _ => {}
                }
            }
        }
        Self {
            geometry,
            policy,
            wanted: Wanted::whole(),
            unasked,
            flights: BTreeMap::new(),
            arrived: BTreeMap::new(),
            written: have.map_or(0, ChunkSet::len),
            wasted: 0,
            sources: BTreeMap::new(),
            availability: Vec::new(),
            announced: BTreeSet::new(),
            random: Random(policy.seed),
            actions: VecDeque::new(),
            begun: None,
            progress: None,
            searching: false,
            looked_again: None,
            came: None,
            waits_since: None,
            superseded: false,
            ended: false,
        }
    }

    /// Whether it looks for others that have a part: small contents are not worth it.
    pub(crate) fn is_swarm(&self) -> bool {
        self.policy.swarm && self.geometry.chunks() >= SWARM_CHUNKS
    }

    /// Another source; `whole` if it is known to have everything. False if there are enough, or it is known and was not given up
    /// because it could not be reached.
    pub(crate) fn add_source(&mut self, source: S, whole: bool, now: Instant) -> bool {
        // One that has the content no more may just have begun to look what it has.
        let again = whole && self.live() == 0 && self.waits_for_owner(now);
        if let Some(known) = self.sources.get_mut(&source) {
            return known.come_back(again);
        }
        if !self.make_room() {
            return false;
        }
        let mut state = Source::new(if whole { Holds::All } else { Holds::Unknown });
        state.have_due = (!whole || self.is_swarm()).then_some(now);
        self.sources.insert(source, state);
        self.begun.get_or_insert(now);
        self.progress = Some(now);
        true
    }

    /// Room for a new source: one that was given up goes, or the slowest if the others are much faster.
    fn make_room(&mut self) -> bool {
        if self.sources.len() < MAX_SOURCES {
            return true;
        }
        let lost = self.sources.iter().find(|(_, state)| state.lost.is_some()).map(|(source, _)| *source);
        let slowest = || {
            let rates = self.sources.iter().filter_map(|(source, state)| Some((state.rate()?, *source)));
            let mut rates: Vec<_> = rates.collect();
            rates.sort_by(|a, b| a.0.total_cmp(&b.0));
            let median = rates.get(rates.len() / 2)?.0;
            rates.first().filter(|(rate, _)| *rate * 8.0 < median).map(|(_, source)| *source)
        };
        let Some(out) = lost.or_else(slowest) else { return false };
        let asked = self.sources.get(&out).map(|state| state.asked.clone()).unwrap_or_default();
        for (first, asked) in asked {
            self.give_up(out, first);
            self.actions.push_back(Action::Cancel { source: out, first, count: asked.count });
        }
        self.forget_holdings(out);
        self.sources.remove(&out);
        true
    }

    /// Sources that have not answered yet.
    pub(crate) fn unheard(&self) -> impl Iterator<Item = S> + '_ {
        self.sources
            .iter()
            .filter(|(_, state)| state.lost.is_none() && state.rate().is_none())
            .map(|(source, _)| *source)
    }

    /// Sources that owe chunks, since when at least, and whether they have all of them.
    pub(crate) fn owing(&self) -> impl Iterator<Item = (S, Instant, bool)> + '_ {
        let live = self.sources.iter().filter(|(_, state)| state.lost.is_none());
        live.filter_map(|(source, state)| {
            let since = state.asked.values().map(|asked| asked.at).min()?;
            Some((*source, since, !state.has_part()))
        })
    }

    /// How long a round trip to a source takes; zero if that is not known.
    pub(crate) fn set_round_trip(&mut self, source: S, round_trip: Duration) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.round_trip = round_trip.min(LONGEST_ROUND_TRIP);
        }
    }

    /// Whether more sources may be found: while they may, a download without any waits.
    pub(crate) fn set_searching(&mut self, searching: bool) {
        self.searching = searching;
    }

    /// Chunks arrived. True if they are wanted: verify and write them, then call [`Download::on_written`] or
    /// [`Download::on_bad`]. False if the request was given up meanwhile.
    pub(crate) fn on_chunks(&mut self, source: S, first: u64, count: u32, now: Instant) -> bool {
        let bytes = self.bytes(first, count);
        let asked = self.sources.get(&source).and_then(|state| state.asked.get(&first));
        // What comes although its request was cancelled is welcome if it is still missing.
        if asked.is_none_or(|asked| asked.count != count) && !self.is_missing(source, first, count) {
            self.wasted += bytes;
            return false;
        }
        let Some(state) = self.sources.get_mut(&source) else { return false };
        let asked = state.end(first);
        state.on_answer(bytes, asked, now);
        (self.progress, self.came) = (Some(now), Some(now));
        let askers = match self.flights.remove(&first) {
            Some(flight) => flight.askers,
            None => {
                self.take(first, count);
                Vec::new()
            }
        };
        for other in askers.into_iter().filter(|other| *other != source) {
            if let Some(state) = self.sources.get_mut(&other) {
                state.end(first);
            }
            self.actions.push_back(Action::Cancel { source: other, first, count });
        }
        self.arrived.insert(first, count);
        true
    }

    /// Whether a run of a source that is not given up is unasked, or asked for of others just so.
    fn is_missing(&self, source: S, first: u64, count: u32) -> bool {
        let live = self.sources.get(&source).is_some_and(|state| state.lost.is_none());
        let end = first + u64::from(count);
        live && (self.is_unasked(first, end) || self.flights.get(&first).is_some_and(|flight| flight.count == count))
    }

    /// Another chunk arrived than the one that was asked for. True as in [`Download::on_chunks`].
    pub(crate) fn on_instead(&mut self, source: S, asked: u64, first: u64, now: Instant) -> bool {
        self.give_up(source, asked);
        self.on_chunks(source, first, 1, now)
    }

    /// Chunks that arrived are verified and written.
    pub(crate) fn on_written(&mut self, source: S, first: u64, count: u32) {
        if self.arrived.get(&first) == Some(&count) {
            self.settle(source, first);
            if !self.announced.remove(&first) {
                self.announce(first);
            }
            self.written += u64::from(count);
            self.looked_again = None;
        }
    }

    /// What arrived is dealt with; the number of its chunks.
    fn settle(&mut self, source: S, first: u64) -> Option<u32> {
        let count = self.arrived.remove(&first)?;
        let bytes = self.bytes(first, count);
        if let Some(state) = self.sources.get_mut(&source) {
            state.unwritten = state.unwritten.saturating_sub(bytes);
        }
        Some(count)
    }

    /// The source sent something else than was asked for: it is not asked again.
    pub(crate) fn on_bad(&mut self, source: S, first: u64) {
        if let Some(count) = self.settle(source, first) {
            self.wasted += self.bytes(first, count);
            self.put_back(first, count);
        }
        self.lose(source, Exhausted::Wrong);
    }

    /// What the source sent is not part of the content any more, by no fault of its own.
    pub(crate) fn on_changed(&mut self, source: S, first: u64) {
        if let Some(count) = self.settle(source, first) {
            self.put_back(first, count);
        }
        self.lose(source, Exhausted::Gone);
    }

    /// The source refused.
    pub(crate) fn on_refused(&mut self, source: S, first: u64, refusal: FetchRefusal, now: Instant) {
        self.give_up(source, first);
        let Some(state) = self.sources.get_mut(&source) else { return };
        match (refusal, &state.holds) {
            // A disk that does not answer may do so again.
            (FetchRefusal::Busy | FetchRefusal::Storage, _) => {
                state.busy += 1;
                state.not_before = Some(now + pause(state.busy));
                let most = if refusal == FetchRefusal::Busy { MAX_BUSY } else { MAX_UNREAD };
                if state.busy >= most {
                    self.lose(source, Exhausted::Unreachable);
                }
            }
            // One that has a part may have lost it again; one that says so too often lies.
            (FetchRefusal::NotFound, Holds::Some(_)) => {
                state.broken_words += 1;
                if state.broken_words >= MAX_BROKEN_WORDS {
                    return self.lose(source, Exhausted::Gone);
                }
                state.have_due = state.have_due.map(|_| now);
                self.forget_holdings(source);
            }
            _ => self.lose(source, Exhausted::Gone),
        }
    }

    /// The source did not answer, or the connection to it failed.
    pub(crate) fn on_failed(&mut self, source: S, first: u64, now: Instant) {
        if !self.give_up(source, first) {
            return;
        }
        let Some(state) = self.sources.get_mut(&source) else { return };
        // Requests that were under way together fail together: that is one failure.
        if state.is_paused(now) {
            return;
        }
        state.failures += 1;
        state.not_before = Some(now + pause(state.failures));
        if state.failures == 1 {
            self.actions.push_back(Action::Report(source));
        }
        if self.sources.get(&source).is_some_and(|state| state.failures >= MAX_FAILURES) {
            self.lose(source, Exhausted::Unreachable);
        }
    }

    /// The next thing to do. Safe to call when there is nothing.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<Action<S>> {
        if self.ended {
            return None;
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.written == self.geometry.chunks() {
            self.ended = true;
            return Some(Action::Done);
        }
        let due =
            |state: &Source| state.lost.is_none() && state.have_due.is_some_and(|at| at <= now || state.unannounced);
        if let Some((source, state)) = self.sources.iter_mut().find(|(_, state)| due(state)) {
            (state.have_due, state.unannounced) = (None, false);
            return Some(Action::Have(*source));
        }
        if let Some(action) = self.request(now) {
            // Cancellations go first: they make room where the request is to go.
            self.actions.push_back(action);
            return self.actions.pop_front();
        }
        self.lose_patience(now)
    }

    /// Chunks that are written.
    #[cfg(test)]
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that were fetched for nothing: twice, or wrong.
    pub(crate) fn wasted(&self) -> u64 {
        self.wasted
    }

    /// Sources that are not given up.
    pub(crate) fn live(&self) -> usize {
        self.sources.values().filter(|state| state.lost.is_none()).count()
    }

    fn bytes(&self, first: u64, count: u32) -> u64 {
        (first..first.saturating_add(u64::from(count))).map(|index| self.geometry.len(index)).sum()
    }

    /// Ends a request; unless another source was asked as well, its chunks are to do again. False if it was
    /// ended before.
    fn give_up(&mut self, source: S, first: u64) -> bool {
        let Some(asked) = self.sources.get_mut(&source).and_then(|state| state.end(first)) else { return false };
        if let Some(flight) = self.flights.get_mut(&first) {
            flight.askers.retain(|asker| *asker != source);
            if flight.askers.is_empty() {
                self.flights.remove(&first);
                self.put_back(first, asked.count);
            }
        }
        true
    }

    fn put_back(&mut self, first: u64, count: u32) {
        let (mut begin, mut end) = (first, first + u64::from(count));
        if let Some((&before, &reach)) = self.unasked.range(..begin).next_back()
            && reach == begin
        {
            self.unasked.remove(&before);
            begin = before;
        }
        if let Some(reach) = self.unasked.remove(&end) {
            end = reach;
        }
        self.unasked.insert(begin, end);
    }

    fn lose(&mut self, source: S, reason: Exhausted) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        state.lost = Some(state.lost.map_or(reason, |before| before.max(reason)));
        for first in state.asked.keys().copied().collect::<Vec<_>>() {
            self.give_up(source, first);
        }
        self.forget_holdings(source);
    }

    fn reason(&self) -> Exhausted {
        self.sources.values().filter_map(|state| state.lost).max().unwrap_or(Exhausted::Unreachable)
    }
}
