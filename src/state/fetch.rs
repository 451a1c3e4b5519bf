//! The scheduler of one download: which chunks to ask of whom, and when to give up.
//!
//! Every chunk is in exactly one state: missing, asked for, or arrived (being verified and written), or there.
//! Missing chunks are kept as ranges, so that a file of millions of chunks costs little. The policy of
//! this version is one source at a time, with fail-over to the next; windows, time-outs and penalties
//! are kept for each source, so that several at once is a change inside this file.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use swarmdex_protocols::content::Geometry;
use swarmdex_protocols::fetch::Refusal;

use crate::config::FetchConfig;

/// Requests that a new source is trusted with at first.
const FIRST_WINDOW: usize = 4;
/// Failures in a row after which a source is given up.
const MAX_FAILURES: u32 = 3;
/// Refusals because of too much work, in a row, after which a source is given up.
const MAX_BUSY: u32 = 30;
/// First pause after a failure or a busy answer; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What a download may use.
#[derive(Debug, Clone, Copy)]
pub struct FetchPolicy {
    /// Most requests to one source under way.
    pub window: usize,
}

impl From<&FetchConfig> for FetchPolicy {
    fn from(config: &FetchConfig) -> Self {
        // A request is for at most 1 MiB.
        Self { window: config.window_mib.max(1) }
    }
}

/// What the download wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<S> {
    /// Ask `source` for `count` chunks from `first` on.
    Request {
        /// Whom.
        source: S,
        /// First chunk.
        first: u64,
        /// How many.
        count: u32,
    },
    /// Tell the master that `source` cannot be reached.
    Report(S),
    /// Every chunk is written.
    Done,
    /// Nobody is left to ask.
    Exhausted(Exhausted),
}

/// Why nobody is left to ask: the gravest of the reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exhausted {
    /// Those who should have the content do not.
    Gone,
    /// Sources could not be reached.
    Unreachable,
    /// Sources sent something else.
    Wrong,
}

#[derive(Debug)]
struct Source {
    /// Requests that may be under way; adapts.
    window: usize,
    /// First chunk and number of chunks of each request under way.
    asked: BTreeMap<u64, u32>,
    /// Answers that are not written yet: they are in memory, and count for the window.
    unwritten: usize,
    failures: u32,
    busy: u32,
    /// Not to be asked before this time.
    not_before: Option<Instant>,
    lost: Option<Exhausted>,
}

impl Source {
    fn new() -> Self {
        Self {
            window: FIRST_WINDOW,
            asked: BTreeMap::new(),
            unwritten: 0,
            failures: 0,
            busy: 0,
            not_before: None,
            lost: None,
        }
    }
}

/// One download. `S` identifies a source.
#[derive(Debug)]
pub struct Download<S> {
    geometry: Geometry,
    policy: FetchPolicy,
    /// Missing chunks: first chunk -> end (exclusive). Ranges neither touch nor overlap.
    missing: BTreeMap<u64, u64>,
    /// Runs that arrived and are being verified and written: first chunk -> number of chunks.
    arrived: BTreeMap<u64, u32>,
    written: u64,
    sources: BTreeMap<S, Source>,
    /// Sources in the order in which they are to be used.
    order: Vec<S>,
    actions: VecDeque<Action<S>>,
    ended: bool,
}

impl<S: Copy + Ord> Download<S> {
    /// A download of which nothing is there yet.
    pub fn new(geometry: Geometry, policy: FetchPolicy) -> Self {
        Self {
            geometry,
            policy,
            missing: BTreeMap::from([(0, geometry.chunks())]),
            arrived: BTreeMap::new(),
            written: 0,
            sources: BTreeMap::new(),
            order: Vec::new(),
            actions: VecDeque::new(),
            ended: false,
        }
    }

    /// Another source, used after those added before.
    pub fn add_source(&mut self, source: S) {
        self.sources.entry(source).or_insert_with(|| {
            self.order.push(source);
            Source::new()
        });
    }

    /// Chunks arrived. True if they are wanted: verify and write them, then call [`Download::on_written`] or
    /// [`Download::on_bad`]. False if the request was given up meanwhile.
    pub fn on_chunks(&mut self, source: S, first: u64, count: u32, _now: Instant) -> bool {
        let Some(state) = self.sources.get_mut(&source) else { return false };
        if state.asked.get(&first) != Some(&count) {
            return false;
        }
        state.asked.remove(&first);
        (state.failures, state.busy, state.not_before) = (0, 0, None);
        // Grows by one for each answer, as TCP's slow start does.
        state.window = (state.window + 1).min(self.policy.window.max(1));
        state.unwritten += 1;
        self.arrived.insert(first, count);
        true
    }

    /// Chunks that arrived are verified and written.
    pub fn on_written(&mut self, source: S, first: u64, count: u32, _now: Instant) {
        if self.arrived.get(&first) == Some(&count) {
            self.settle(source, first);
            self.written += u64::from(count);
        }
    }

    /// What arrived is dealt with; the number of its chunks.
    fn settle(&mut self, source: S, first: u64) -> Option<u32> {
        let count = self.arrived.remove(&first)?;
        if let Some(state) = self.sources.get_mut(&source) {
            state.unwritten = state.unwritten.saturating_sub(1);
        }
        Some(count)
    }

    /// The source sent something else than was asked for: it is not asked again.
    pub fn on_bad(&mut self, source: S, first: u64, _now: Instant) {
        if let Some(count) = self.settle(source, first) {
            self.put_back(first, count);
        }
        self.lose(source, Exhausted::Wrong);
    }

    /// The source refused.
    pub fn on_refused(&mut self, source: S, first: u64, refusal: Refusal, now: Instant) {
        self.give_up(source, first);
        if !matches!(refusal, Refusal::Busy) {
            return self.lose(source, Exhausted::Gone);
        }
        let Some(state) = self.sources.get_mut(&source) else { return };
        state.busy += 1;
        state.window = (state.window / 2).max(1);
        state.not_before = Some(now + pause(state.busy));
        if state.busy >= MAX_BUSY {
            self.lose(source, Exhausted::Unreachable);
        }
    }

    /// The source did not answer, or the connection to it failed.
    pub fn on_failed(&mut self, source: S, first: u64, now: Instant) {
        if !self.give_up(source, first) {
            return;
        }
        let Some(state) = self.sources.get_mut(&source) else { return };
        state.window = (state.window / 2).max(1);
        // Requests that were under way together fail together: that is one failure.
        if state.not_before.is_some_and(|until| until > now) {
            return;
        }
        state.failures += 1;
        state.not_before = Some(now + pause(state.failures));
        if state.failures == 1 {
            self.actions.push_back(Action::Report(source));
        }
        // Its turn comes again when the others have failed as well.
        self.order.retain(|other| *other != source);
        self.order.push(source);
        if self.sources.get(&source).is_some_and(|state| state.failures >= MAX_FAILURES) {
            self.lose(source, Exhausted::Unreachable);
        }
    }

    /// The next thing to do. Safe to call when there is nothing.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action<S>> {
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
        let Some(source) = self.current() else {
            if self.arrived.is_empty() {
                self.ended = true;
                return Some(Action::Exhausted(self.reason()));
            }
            return None;
        };
        self.request(source, now)
    }

    /// When to call [`Download::poll_action`] again although nothing happened.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let source = self.sources.get(&self.current()?)?;
        source.not_before.filter(|_| source.asked.is_empty()).map(|at| (at, "pause of a source"))
    }

    /// Pauses end by themselves: nothing to do but to poll for actions.
    pub fn handle_timeout(&mut self, now: Instant) {
        for source in self.sources.values_mut() {
            if source.not_before.is_some_and(|until| until <= now) {
                source.not_before = None;
            }
        }
    }

    /// Chunks that are written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The source in use: the first that is not lost.
    fn current(&self) -> Option<S> {
        self.order.iter().copied().find(|source| self.sources.get(source).is_some_and(|state| state.lost.is_none()))
    }

    fn request(&mut self, source: S, now: Instant) -> Option<Action<S>> {
        let most = self.geometry.chunks_per_response().max(1);
        let state = self.sources.get_mut(&source)?;
        let paused = state.not_before.is_some_and(|until| until > now);
        if paused || state.asked.len() + state.unwritten >= state.window {
            return None;
        }
        let (first, end) = self.missing.pop_first()?;
        let run = (end - first).min(most);
        if first + run < end {
            self.missing.insert(first + run, end);
        }
        // At most the chunks of one response.
        let count = u32::try_from(run).unwrap_or(u32::MAX);
        state.asked.insert(first, count);
        Some(Action::Request { source, first, count })
    }

    /// Ends a request; its chunks are missing again. False if it was ended before.
    fn give_up(&mut self, source: S, first: u64) -> bool {
        let Some(count) = self.sources.get_mut(&source).and_then(|state| state.asked.remove(&first)) else {
            return false;
        };
        self.put_back(first, count);
        true
    }

    fn put_back(&mut self, first: u64, count: u32) {
        let (mut begin, mut end) = (first, first + u64::from(count));
        if let Some((&before, &reach)) = self.missing.range(..begin).next_back()
            && reach == begin
        {
            self.missing.remove(&before);
            begin = before;
        }
        if let Some(reach) = self.missing.remove(&end) {
            end = reach;
        }
        self.missing.insert(begin, end);
    }

    fn lose(&mut self, source: S, reason: Exhausted) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        state.lost = Some(state.lost.map_or(reason, |before| before.max(reason)));
        for (first, count) in std::mem::take(&mut state.asked) {
            self.put_back(first, count);
        }
    }

    fn reason(&self) -> Exhausted {
        self.sources.values().filter_map(|state| state.lost).max().unwrap_or(Exhausted::Unreachable)
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_PAUSE)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CHUNK: u64 = 256 << 10;

    /// How a source behaves.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Manner {
        Honest,
        Liar,
        Dead,
        Forgetful,
        Busy,
        /// Answers some requests and fails others.
        Flaky,
    }

    struct Outcome {
        end: Action<u8>,
        asked: usize,
    }

    /// Runs a download to its end against sources of given manners, checking the invariants on the way.
    fn run(chunks: u64, manners: &[Manner], order: &[u8]) -> Outcome {
        let geometry = Geometry::new(chunks * CHUNK).unwrap();
        let mut now = Instant::now();
        let mut download = Download::new(geometry, FetchPolicy { window: 8 });
        for source in 0..manners.len() {
            download.add_source(source as u8);
        }
        let mut under_way: Vec<(u8, u64, u32)> = Vec::new();
        let mut written = BTreeSet::new();
        let (mut asked, mut turn) = (0, 0usize);
        for _ in 0..100_000 {
            while let Some(action) = download.poll_action(now) {
                match action {
                    Action::Request { source, first, count } => {
                        let new = first..first + u64::from(count);
                        // What a source that was given up still owes is nobody's any more.
                        for (_, other, length) in under_way.iter().filter(|(other, ..)| *other == source) {
                            let old = *other..*other + u64::from(*length);
                            assert!(new.end <= old.start || old.end <= new.start, "asked twice at a time");
                        }
                        assert!(new.clone().all(|chunk| !written.contains(&chunk)), "asked although written");
                        under_way.push((source, first, count));
                        let of_source = under_way.iter().filter(|(other, ..)| *other == source).count();
                        assert!(of_source <= 8, "window");
                        asked += 1;
                    }
                    Action::Report(_) => {}
                    end => {
                        assert_eq!(end == Action::Done, written.len() as u64 == chunks);
                        return Outcome { end, asked };
                    }
                }
            }
            if under_way.is_empty() {
                let (at, _) = download.poll_timeout().expect("a download that waits says for what");
                now = now.max(at);
                download.handle_timeout(now);
                continue;
            }
            turn += 1;
            let pick = order.get(turn % order.len().max(1)).copied().unwrap_or(0) as usize % under_way.len();
            let (source, first, count) = under_way.swap_remove(pick);
            let manner = match manners[source as usize] {
                Manner::Flaky if turn % 3 == 0 => Manner::Dead,
                Manner::Flaky => Manner::Honest,
                manner => manner,
            };
            match manner {
                Manner::Honest | Manner::Flaky => {
                    if download.on_chunks(source, first, count, now) {
                        download.on_written(source, first, count, now);
                        for chunk in first..first + u64::from(count) {
                            assert!(written.insert(chunk), "written twice");
                        }
                    }
                }
                Manner::Liar => {
                    if download.on_chunks(source, first, count, now) {
                        download.on_bad(source, first, now);
                    }
                }
                Manner::Dead => download.on_failed(source, first, now),
                Manner::Forgetful => download.on_refused(source, first, Refusal::NotFound, now),
                Manner::Busy => download.on_refused(source, first, Refusal::Busy, now),
            }
        }
        panic!("no end");
    }

    fn manner() -> impl Strategy<Value = Manner> {
        prop_oneof![
            Just(Manner::Honest),
            Just(Manner::Liar),
            Just(Manner::Dead),
            Just(Manner::Forgetful),
            Just(Manner::Busy),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn ends_done_if_one_honest_source_stays_and_exhausted_otherwise(
            chunks in 1u64..200,
            manners in prop::collection::vec(manner(), 1..6),
            order in prop::collection::vec(any::<u8>(), 1..50),
        ) {
            let outcome = run(chunks, &manners, &order);
            prop_assert_eq!(outcome.end == Action::Done, manners.contains(&Manner::Honest));
        }
    }

    #[test]
    fn the_gravest_reason_is_given() {
        assert_eq!(run(3, &[Manner::Dead, Manner::Liar], &[0]).end, Action::Exhausted(Exhausted::Wrong));
        assert_eq!(run(3, &[Manner::Forgetful, Manner::Dead], &[0]).end, Action::Exhausted(Exhausted::Unreachable));
        assert_eq!(run(3, &[Manner::Forgetful], &[0]).end, Action::Exhausted(Exhausted::Gone));
    }

    #[test]
    fn small_chunks_are_asked_for_in_runs() {
        assert_eq!(run(100, &[Manner::Honest], &[0]).asked, 25);
    }

    #[test]
    fn a_flaky_source_is_not_given_up() {
        assert_eq!(run(100, &[Manner::Flaky], &[0]).end, Action::Done);
    }

    #[test]
    fn what_comes_after_it_was_given_up_is_ignored() {
        let now = Instant::now();
        let mut download = Download::new(Geometry::new(CHUNK).unwrap(), FetchPolicy { window: 8 });
        download.add_source(1u8);
        let request = download.poll_action(now);
        assert_eq!(request, Some(Action::Request { source: 1, first: 0, count: 1 }));
        download.on_failed(1, 0, now);
        assert!(!download.on_chunks(1, 0, 1, now));
        assert!(!download.on_chunks(2, 0, 1, now));
        assert_eq!(download.written(), 0);
    }

    #[test]
    fn chunks_that_are_not_written_yet_fill_the_window_too() {
        let now = Instant::now();
        let mut download = Download::new(Geometry::new(1000 * CHUNK).unwrap(), FetchPolicy { window: 8 });
        download.add_source(1u8);
        let mut unwritten = Vec::new();
        while let Some(Action::Request { source, first, count }) = download.poll_action(now) {
            assert!(download.on_chunks(source, first, count, now));
            unwritten.push((first, count));
        }
        assert_eq!(unwritten.len(), 8, "a slow disk holds the download up, and memory stays bounded");
        download.on_written(1, unwritten[0].0, unwritten[0].1, now);
        assert!(matches!(download.poll_action(now), Some(Action::Request { .. })));
    }

    #[test]
    fn a_source_that_fails_yields_to_the_next_at_once() {
        let now = Instant::now();
        let mut download = Download::new(Geometry::new(CHUNK).unwrap(), FetchPolicy { window: 8 });
        download.add_source(1u8);
        download.add_source(2u8);
        assert_eq!(download.poll_action(now), Some(Action::Request { source: 1, first: 0, count: 1 }));
        download.on_failed(1, 0, now);
        assert_eq!(download.poll_action(now), Some(Action::Report(1)));
        assert_eq!(download.poll_action(now), Some(Action::Request { source: 2, first: 0, count: 1 }));
    }

    #[test]
    fn millions_of_chunks_cost_little() {
        let geometry = Geometry::new(swarmdex_protocols::limits::MAX_FILE_BYTES).unwrap();
        let download = Download::<u8>::new(geometry, FetchPolicy { window: 8 });
        assert_eq!(download.missing.len(), 1);
    }
}
