//! Who has which chunks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::ChunkSet;

use super::source::{Holds, Source};
use super::{Download, Exhausted, MAX_FAILURES, pause};

/// How often a source that has a part is asked which if it does not say so by itself: when it has nothing that is wanted, and
/// otherwise. (Asked every 50 ms, a crowd that begins together is busy with these questions alone.)
const HAVE_SOON: Duration = Duration::from_millis(200);
const HAVE_LATER: Duration = Duration::from_millis(400);
/// To how many of a crowd a chunk that nobody else has is announced: as many as it can be sent to at a time. They and
/// it say so along with what they ask for next, so that the others soon know.
const ANNOUNCED_TO: usize = 6;
/// How often a source that has everything is asked who else has a part, in the end; and how soon at first, doubled
/// each time.
const OTHERS: Duration = Duration::from_secs(1);
const FIRST_OTHERS: Duration = Duration::from_millis(100);

impl<S: Copy + Ord> Download<S> {
    /// A source said which chunks it has; `None` for all.
    pub(crate) fn on_have(&mut self, source: S, chunks: Option<ChunkSet>, now: Instant) {
        self.forget_holdings(source);
        let Some(state) = self.sources.get_mut(&source) else { return };
        // A crowd that begins together finds each other at once, and later nobody has to be asked often.
        let mut due = (FIRST_OTHERS * (1 << state.answers.min(10))).min(OTHERS);
        state.answers += 1;
        state.holds = if chunks.is_none() { Holds::All } else { Holds::Unknown };
        if let Some(chunks) = chunks {
            (_, due) = self.learn(source, &chunks);
        }
        if let Some(state) = self.sources.get_mut(&source) {
            state.have_due = Some(now + due);
        }
    }

    /// A source said along with something else which chunks it has: these, and what it said before. It need not be asked
    /// so soon. False if that is nothing new.
    pub(crate) fn on_have_update(&mut self, source: S, chunks: &ChunkSet, now: Instant) -> bool {
        let useful = |state: &&Source| state.lost.is_none() && !matches!(state.holds, Holds::All);
        if self.sources.get(&source).filter(useful).is_none() {
            return false;
        }
        let (news, due) = self.learn(source, chunks);
        if let Some(state) = self.sources.get_mut(&source) {
            state.have_due = state.have_due.map(|_| now + due);
        }
        news
    }

    /// Adds to the part that a source is known to have: whether that is news, and after which time to ask it again.
    fn learn(&mut self, source: S, chunks: &ChunkSet) -> (bool, Duration) {
        let Some(state) = self.sources.get_mut(&source) else { return (false, HAVE_LATER) };
        let mut known = match std::mem::replace(&mut state.holds, Holds::Unknown) {
            Holds::Some(known) => known,
            Holds::Unknown | Holds::All => ChunkSet::none(self.geometry.chunks()),
        };
        if self.availability.is_empty() {
            self.availability = vec![0; usize::try_from(self.geometry.chunks()).unwrap_or(usize::MAX)];
        }
        let before = known.len();
        for index in chunks.iter().filter(|index| known.insert(*index)) {
            if let Some(count) = usize::try_from(index).ok().and_then(|index| self.availability.get_mut(index)) {
                *count = count.saturating_add(1);
            }
        }
        let due = if wants_any(&self.unasked, &known) { HAVE_LATER } else { HAVE_SOON };
        let news = known.len() > before;
        state.holds = Holds::Some(known);
        (news, due)
    }

    /// A chunk begins to arrive, and others may ask for it before it is here. If nobody else of a crowd is known to
    /// have it, it is announced to some of them now, and not when it is written.
    pub(crate) fn on_incoming(&mut self, index: u64) {
        self.announced.insert(index);
        self.announce(index);
    }

    /// This download has a chunk, or soon will. If nobody else of a crowd is known to have it, some of them learn of it
    /// at once, by the question what they have.
    pub(super) fn announce(&mut self, index: u64) {
        if !self.policy.announces || self.availability.is_empty() || self.rarity(index) > 0 {
            return;
        }
        let parts = self.sources.values().filter(|state| state.has_part()).count();
        // Every time others, from a random one on.
        let from = usize::try_from(self.random.below(parts.max(1) as u64)).unwrap_or(0);
        let is_chosen = |place: usize| (place + parts - from) % parts < ANNOUNCED_TO;
        let parts = self.sources.values_mut().filter(|state| state.has_part()).enumerate();
        parts.filter(|(place, _)| is_chosen(*place)).for_each(|(_, state)| state.unannounced = true);
    }

    /// Whether a source is one of a crowd, that has a part.
    pub(crate) fn has_part(&self, source: S) -> bool {
        self.sources.get(&source).is_some_and(Source::has_part)
    }

    /// A source did not say which chunks it has.
    pub(crate) fn on_have_failed(&mut self, source: S, now: Instant) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        match state.holds {
            Holds::Unknown => self.lose(source, Exhausted::Gone),
            // A source that had everything a moment ago has nothing more to say.
            Holds::All => state.have_due = None,
            Holds::Some(_) => {
                state.failures += 1;
                state.have_due = Some(now + pause(state.failures).max(HAVE_LATER));
                if state.failures >= MAX_FAILURES {
                    self.lose(source, Exhausted::Gone);
                }
            }
        }
    }

    /// What a source has no longer counts.
    pub(super) fn forget_holdings(&mut self, source: S) {
        let Some(state) = self.sources.get_mut(&source) else { return };
        if let Holds::Some(chunks) = &state.holds {
            for index in chunks.iter() {
                if let Some(count) = usize::try_from(index).ok().and_then(|index| self.availability.get_mut(index)) {
                    *count = count.saturating_sub(1);
                }
            }
            state.holds = Holds::Unknown;
        }
    }

    /// Chunks that `source` may send instead of the one asked for: those that nobody was asked for yet and nobody else
    /// is known to have. `None` unless a crowd downloads and this source is the only one that has everything. It knows
    /// better than this downloader which of them it has sent to others meanwhile. Who does not want the whole wants no
    /// others.
    pub(crate) fn alternatives(&self, source: S) -> Option<impl Iterator<Item = u64> + '_> {
        let whole = |state: &Source| state.lost.is_none() && matches!(state.holds, Holds::All);
        let mut whole = self.sources.iter().filter(|(_, state)| whole(state)).map(|(source, _)| *source);
        // Two of them might send the same chunk.
        let only_one = whole.next() == Some(source) && whole.next().is_none();
        let unasked =
            self.unasked.iter().flat_map(|(begin, end)| *begin..*end).filter(|index| self.rarity(*index) == 0);
        (!self.availability.is_empty() && only_one && self.wanted.is_whole()).then_some(unasked)
    }
}

/// Whether an unasked chunk is among these.
fn wants_any(unasked: &BTreeMap<u64, u64>, chunks: &ChunkSet) -> bool {
    unasked.iter().any(|(begin, end)| (*begin..*end).any(|index| chunks.contains(index)))
}
