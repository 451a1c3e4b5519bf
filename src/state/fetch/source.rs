//! What a download knows of one source: which chunks it has, how fast it is, and what it was asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::ChunkSet;

use super::{Exhausted, FetchPolicy, MAX_FAILURES};

/// Bytes that a source is trusted with before its rate is known. On long paths there are more for each millisecond of a
/// round trip, up to a bound. Otherwise the path is empty when the first of them have come.
const FIRST_WINDOW: u64 = 1 << 20;
const FIRST_WINDOW_MORE: u64 = 20 << 10;
const LONG_FIRST_WINDOW: u64 = 5 << 20;
/// For how long the requests at a source keep it busy: long enough to bridge a late timer, short enough that little is
/// stuck when it slows down.
const AHEAD: Duration = Duration::from_millis(500);
/// And for so many round trips to it. With less than a long path carries, less than a chunk would be asked for at a
/// time, and so the measured rate would stay low. A chunk may take two of them (see `state::upload`), and twice what is
/// under way is what BBR has while it looks for a path's rate (N. Cardwell et al., BBR: Congestion-Based Congestion
/// Control, 2016).
const AHEAD_TRIPS: u32 = 4;
/// How many times the policy's window a source on a long path may be asked for.
const LONG_WINDOW: u64 = 4;
/// A source that answers within this time, and some round trips, is asked for more and more at first. That goes on as
/// long as it makes the source faster: until the rate rose by less than a quarter in three round trips (the end of
/// BBR's start).
const PROMPT: Duration = Duration::from_millis(1500);
const PROMPT_TRIPS: u32 = 8;
const STILL_RISES: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
/// Seconds after which a source that has never answered is late.
const FIRST_ANSWER: f64 = 1.0;
/// How much of the quickest answer's rate counts at the next.
const FORGET: f64 = 0.9;
/// Time over which rates are measured.
const MEASURE: Duration = Duration::from_millis(200);

/// Which chunks a source has.
#[derive(Debug, Clone)]
pub(super) enum Holds {
    /// It was not asked yet.
    Unknown,
    /// Every one.
    All,
    /// These.
    Some(ChunkSet),
}

impl Holds {
    pub(super) fn contains(&self, index: u64) -> bool {
        match self {
            Self::Unknown => false,
            Self::All => true,
            Self::Some(chunks) => chunks.contains(index),
        }
    }
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) count: u32,
    pub(super) bytes: u64,
    pub(super) at: Instant,
}

/// What a source is asked for while nobody knows yet how much its path carries.
#[derive(Debug)]
struct Start {
    /// What it is asked for beyond the first bytes.
    more: u64,
    /// A round ends with the answer to what was asked after it began.
    round: Option<Instant>,
    /// The highest rate of a round so far, and how many rounds did not rise above it.
    rate: f64,
    full: u32,
    /// What came in this round, from its first answer on.
    bytes: u64,
    first: Option<Instant>,
}

impl Start {
    /// An answer came; whether the start is over.
    fn on_answer(&mut self, bytes: u64, asked: Asked, prompt: Duration, now: Instant) -> bool {
        if now.saturating_duration_since(asked.at) > prompt {
            return true;
        }
        self.more = self.more.saturating_add(bytes);
        let first = *self.first.get_or_insert(now);
        if self.round.is_none_or(|began| asked.at < began) {
            self.round.get_or_insert(now);
            self.bytes += bytes;
            return false;
        }
        let rate = self.bytes as f64 / now.saturating_duration_since(first).as_secs_f64().max(0.001);
        if rate >= self.rate * STILL_RISES {
            (self.rate, self.full) = (rate, 0);
        } else {
            self.full += 1;
        }
        (self.round, self.bytes, self.first) = (Some(now), bytes, Some(now));
        self.full >= FULL_ROUNDS
    }
}

/// A source.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) holds: Holds,
    /// Requests under way, by their first chunk.
    pub(super) asked: BTreeMap<u64, Asked>,
    /// Bytes asked for, and bytes that came and are not written yet: both are, or will be, in memory.
    pub(super) in_flight: u64,
    pub(super) unwritten: u64,
    rate: Throughput,
    /// Bytes a second of its quickest answer lately.
    quickest: f64,
    /// How long a round trip to it takes.
    pub(super) round_trip: Duration,
    start: Option<Start>,
    pub(super) failures: u32,
    pub(super) busy: u32,
    /// Refusals of chunks that it said it had.
    pub(super) broken_words: u32,
    /// Not to be asked before this time.
    pub(super) not_before: Option<Instant>,
    /// When to ask next which chunks it has; `None` while it is being asked, or never.
    pub(super) have_due: Option<Instant>,
    /// Whether it is to be asked as soon as it is not being asked, for a chunk that it lacks was not announced to it.
    pub(super) unannounced: bool,
    /// Answers to that question so far.
    pub(super) answers: u32,
    pub(super) lost: Option<Exhausted>,
}

impl Source {
    pub(super) fn new(holds: Holds) -> Self {
        Self {
            holds,
            asked: BTreeMap::new(),
            in_flight: 0,
            unwritten: 0,
            rate: Throughput::default(),
            quickest: 0.0,
            round_trip: Duration::ZERO,
            start: Some(Start { more: 0, round: None, rate: 0.0, full: 0, bytes: 0, first: None }),
            failures: 0,
            busy: 0,
            broken_words: 0,
            not_before: None,
            have_due: None,
            unannounced: false,
            answers: 0,
            lost: None,
        }
    }

    /// It was heard of again. True if it was given up for want of an answer, and gets another chance: one failure ends it.
    pub(super) fn come_back(&mut self, even_if_gone: bool) -> bool {
        match self.lost {
            Some(Exhausted::Unreachable) => {}
            Some(Exhausted::Gone) if even_if_gone => self.broken_words = 0,
            _ => return false,
        }
        self.lost = None;
        (self.failures, self.busy, self.not_before) = (MAX_FAILURES - 1, 0, None);
        true
    }

    /// Whether it is one of a crowd, that has a part.
    pub(super) fn has_part(&self) -> bool {
        matches!(self.holds, Holds::Some(_))
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|until| until > now)
    }

    /// Whether it may be asked for `bytes` more. `no_crowd` while all who are asked have everything: within a crowd chunks
    /// that wait at one are of no use to anybody.
    pub(super) fn has_room(&self, bytes: u64, policy: &FetchPolicy, no_crowd: bool) -> bool {
        let window = match self.rate.per_second {
            // Half after a failure, a quarter after two.
            None if self.has_part() => bytes,
            None => self.first_window() >> self.failures.min(8),
            Some(rate) => {
                let trips = if no_crowd { self.round_trip * AHEAD_TRIPS } else { Duration::ZERO };
                let start = self
                    .start
                    .as_ref()
                    .filter(|_| no_crowd && !self.has_part())
                    .map_or(0, |start| start.more.saturating_add(self.first_window()));
                ((rate * (AHEAD + trips).as_secs_f64()) as u64).max(start) >> self.failures.min(8)
            }
        };
        let window = window.min(self.most(policy));
        self.asked.is_empty() && self.unwritten == 0 || self.in_flight + self.unwritten + bytes <= window
    }

    fn first_window(&self) -> u64 {
        let trip = u64::try_from(self.round_trip.as_millis()).unwrap_or(u64::MAX);
        FIRST_WINDOW.saturating_add(trip.saturating_mul(FIRST_WINDOW_MORE)).min(LONG_FIRST_WINDOW)
    }

    /// The most bytes that it may be asked for: on a long path more is under way.
    pub(super) fn most(&self, policy: &FetchPolicy) -> u64 {
        let under_way = self.rate.per_second.unwrap_or_default() * (self.round_trip * AHEAD_TRIPS).as_secs_f64();
        (under_way as u64).clamp(policy.window_bytes, policy.window_bytes.saturating_mul(LONG_WINDOW))
    }

    /// Whether `bytes` are little for it: a tenth of a second.
    pub(super) fn is_fast_for(&self, bytes: u64) -> bool {
        self.rate.per_second.is_some_and(|rate| bytes as f64 <= rate / 10.0)
    }

    pub(super) fn ask(&mut self, first: u64, count: u32, bytes: u64, now: Instant) {
        if self.asked.is_empty() {
            self.rate.resume(now);
        }
        // What is here is told along with the request.
        self.unannounced = false;
        self.asked.insert(first, Asked { count, bytes, at: now });
        self.in_flight += bytes;
    }

    /// Ends a request.
    pub(super) fn end(&mut self, first: u64) -> Option<Asked> {
        let asked = self.asked.remove(&first)?;
        self.in_flight = self.in_flight.saturating_sub(asked.bytes);
        Some(asked)
    }

    /// A request was answered, `asked` unless that was given up before.
    pub(super) fn on_answer(&mut self, bytes: u64, asked: Option<Asked>, now: Instant) {
        if let Some(asked) = asked {
            let took = now.saturating_duration_since(asked.at).as_secs_f64().max(0.001);
            self.quickest = (self.quickest * FORGET).max(bytes as f64 / took);
            let prompt = PROMPT + self.round_trip * PROMPT_TRIPS;
            if self.start.as_mut().is_some_and(|start| start.on_answer(bytes, asked, prompt, now)) {
                self.start = None;
            }
        }
        (self.failures, self.busy, self.broken_words, self.not_before) = (0, 0, 0, None);
        self.unwritten += bytes;
        self.rate.add(bytes, now);
    }

    /// Bytes a second, if that is known.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.per_second
    }

    /// How long `bytes` more would take; half a second for a source that is not known yet.
    pub(super) fn wait(&self, bytes: u64) -> f64 {
        self.rate.per_second.map_or(0.5, |rate| (self.in_flight + bytes) as f64 / rate.max(1.0))
    }

    /// How long `bytes` would take it at its quickest, if it has nothing else to send here.
    pub(super) fn wait_at_best(&self, bytes: u64) -> f64 {
        if self.asked.is_empty() && self.quickest > 0.0 { bytes as f64 / self.quickest } else { self.wait(bytes) }
    }

    /// Whether it owes answers that are overdue.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.asked.keys().any(|first| self.remaining(*first, now).is_infinite())
    }

    /// How long it will still take to answer a request, as far as one can tell; for one that is overdue, for ever.
    pub(super) fn remaining(&self, first: u64, now: Instant) -> f64 {
        let Some(asked) = self.asked.get(&first) else { return 0.0 };
        let age = now.saturating_duration_since(asked.at).as_secs_f64();
        let Some(rate) = self.rate.per_second else {
            return if age > FIRST_ANSWER { f64::INFINITY } else { age.max(0.2) };
        };
        let before: u64 = self.asked.values().filter(|other| other.at <= asked.at).map(|other| other.bytes).sum();
        let expected = 2.0 * self.round_trip.as_secs_f64() + before as f64 / rate.max(1.0);
        // A late answer is taken to need as long again as it is late. Else nobody would take it over until it is
        // overdue.
        if age > 2.0 * expected + 0.5 { f64::INFINITY } else { (expected - age).abs() }
    }
}

/// Bytes a second, measured over [`MEASURE`] and smoothed; times without a request under way do not count.
#[derive(Debug, Default)]
struct Throughput {
    begin: Option<Instant>,
    bytes: u64,
    per_second: Option<f64>,
    settled: bool,
}

impl Throughput {
    fn resume(&mut self, now: Instant) {
        (self.begin, self.bytes) = (Some(now), 0);
    }

    fn add(&mut self, bytes: u64, now: Instant) {
        let begin = *self.begin.get_or_insert(now);
        self.bytes += bytes;
        let elapsed = now.saturating_duration_since(begin).max(Duration::from_micros(200));
        let measured = self.bytes as f64 / elapsed.as_secs_f64();
        if elapsed >= MEASURE {
            self.per_second = Some(match self.per_second {
                Some(rate) if self.settled => (rate + measured) / 2.0,
                _ => measured,
            });
            self.settled = true;
            self.resume(now);
        } else if !self.settled {
            self.per_second = Some(measured);
        }
    }
}
