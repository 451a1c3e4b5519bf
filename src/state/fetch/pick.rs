//! Which chunks to ask of which source.

use std::time::Instant;

use super::source::Holds;
use super::{Action, Download, Flight};

/// Chunks that are looked at for the rarest: in larger contents a part of them is as good as all.
const LOOK_AT: u64 = 4096;
/// Sources that are asked for one run at most.
const MAX_ASKERS: usize = 6;
/// Sources that have a part and are asked at a time. Else the requests of a large crowd would wait in long queues at
/// all of them, while those who have come by the chunk meanwhile are not asked for it.
const MAX_PARTS: usize = 16;
/// How much faster a source has to be to take over a request, and what its answer takes at least, in seconds.
const CLEARLY: f64 = 1.5;
const ROUND_TRIP: f64 = 0.02;

impl<S: Copy + Ord> Download<S> {
    /// The next request, if a source has room for it: the fastest source first, so that the last chunks are its.
    pub(super) fn request(&mut self, now: Instant) -> Option<Action<S>> {
        self.make_way();
        let mut ready: Vec<(S, f64)> = Vec::new();
        let chunk = self.geometry.chunk_bytes();
        let run = chunk * self.geometry.chunks_per_response().max(1);
        // What late sources owe may come yet, but holds the others up only if it is very much.
        let (mut held, mut owed, mut any_late, mut parts) = (0, 0, false, 0);
        // Whether there is anybody else than those who are late.
        let (mut any_prompt, mut total) = (false, self.policy.total_bytes);
        let no_crowd = self.availability.is_empty();
        for state in self.sources.values() {
            let late = state.is_late(now);
            any_late |= late;
            any_prompt |= !late && state.lost.is_none() && !matches!(state.holds, Holds::Unknown);
            total = total.max(state.most(&self.policy));
            parts += usize::from(!late && !state.asked.is_empty() && state.has_part());
            held += state.unwritten;
            *(if late { &mut owed } else { &mut held }) += state.in_flight;
        }
        held += owed.saturating_sub(total);
        if held + chunk > total && held > 0 {
            return None;
        }
        for (source, state) in &self.sources {
            if parts >= MAX_PARTS && state.asked.is_empty() && state.has_part() {
                continue;
            }
            let usable = state.lost.is_none() && !state.is_paused(now) && !matches!(state.holds, Holds::Unknown);
            // A fast one is asked when there is room for a whole run: many small requests cost more.
            let wanted = if state.is_fast_for(run) { run } else { chunk };
            if usable && state.has_room(wanted, &self.policy, no_crowd) && !(any_prompt && state.is_late(now)) {
                ready.push((*source, state.rate().unwrap_or(f64::MAX)));
            }
        }
        ready.sort_by(|a, b| b.1.total_cmp(&a.1));
        // Within a crowd most sources have nothing to do, and only what is overdue is taken over.
        let takes_over = !self.is_busy_crowd() || any_late;
        ready.into_iter().find_map(|(source, _)| match self.pick(source) {
            Some((first, count)) => self.ask(source, first, count, now),
            None if takes_over => self.take_over(source, now),
            None => None,
        })
    }

    fn ask(&mut self, source: S, first: u64, count: u32, now: Instant) -> Option<Action<S>> {
        self.take(first, count);
        let bytes = self.bytes(first, count);
        self.sources.get_mut(&source)?.ask(first, count, bytes, now);
        self.flights.insert(first, Flight { count, askers: vec![source] });
        Some(Action::Request { source, first, count })
    }

    /// Unasked chunks that the source has: how many from which on.
    fn pick(&mut self, source: S) -> Option<(u64, u32)> {
        let (no_crowd, swarm) = (self.availability.is_empty(), self.is_swarm());
        let state = self.sources.get(&source)?;
        let urgent = self.most_urgent(|index| state.holds.contains(index));
        let first = match urgent {
            Some(first) => first,
            None if !self.wanted.is_whole() => return None,
            None if no_crowd && matches!(state.holds, Holds::All) => self.next_in_order()?,
            None => self.rarest(source)?.1,
        };
        let state = self.sources.get(&source)?;
        let (_, end) = self.unasked.range(..=first).next_back()?;
        let most = self.geometry.chunks_per_response().max(1).min(end - first);
        // Several in one request where that is quick; one by one where others may want to pass them on soon.
        let fits = |count: u64| {
            let bytes = count * self.geometry.chunk_bytes();
            no_crowd
                && state.has_room(bytes, &self.policy, no_crowd)
                && (state.is_fast_for(bytes) || !swarm && state.rate().is_none())
        };
        let as_rare = |index: u64| {
            let as_wanted = urgent.is_none() || self.wanted.is_urgent(index);
            as_wanted && state.holds.contains(index) && (no_crowd || self.rarity(index) <= self.rarity(first))
        };
        let mut count = 1;
        while count < most && fits(count + 1) && as_rare(first + count) {
            count += 1;
        }
        Some((first, u32::try_from(count).unwrap_or(1)))
    }

    /// The next unasked chunk in order, from this download's own place on: a crowd that begins together asks for
    /// different ones from the first on.
    fn next_in_order(&self) -> Option<u64> {
        let from = if self.is_swarm() { self.policy.seed % self.geometry.chunks() } else { 0 };
        match self.unasked.range(..=from).next_back() {
            Some((_, end)) if *end > from => Some(from),
            _ => self.unasked.range(from..).next().or_else(|| self.unasked.first_key_value()).map(|(begin, _)| *begin),
        }
    }

    pub(super) fn rarity(&self, index: u64) -> u16 {
        usize::try_from(index).ok().and_then(|index| self.availability.get(index)).copied().unwrap_or(0)
    }

    /// The rarest of the unasked chunks that the source has, from a random place on, and how many have it in part.
    fn rarest(&mut self, source: S) -> Option<(u16, u64)> {
        let from = self.random.below(self.geometry.chunks().max(1));
        let holds = &self.sources.get(&source)?.holds;
        if let Holds::Some(few) = holds
            && few.len() <= LOOK_AT.min(self.geometry.chunks() / 4)
        {
            let unasked =
                few.iter().filter(|index| self.is_unasked(*index, *index + 1)).map(|index| (self.rarity(index), index));
            return unasked.min_by_key(|(rarity, index)| (*rarity, *index < from, *index));
        }
        let before = self.unasked.range(..from).next_back().map(|(_, end)| (from, *end));
        let later = before.into_iter().chain(self.unasked.range(from..).map(|(begin, end)| (*begin, *end)));
        let earlier = self.unasked.range(..from).map(|(begin, end)| (*begin, (*end).min(from)));
        let chunks = later.chain(earlier).flat_map(|(begin, end)| begin..end);
        let mut best: Option<(u16, u64)> = None;
        for (looked, index) in chunks.enumerate() {
            if looked as u64 >= LOOK_AT && best.is_some() {
                break;
            }
            let rarity = self.rarity(index);
            if best.is_none_or(|(least, _)| rarity < least) && holds.contains(index) {
                best = Some((rarity, index));
                if rarity == 0 {
                    break;
                }
            }
        }
        best
    }

    /// Whether nobody was asked yet for any of the chunks from `first` to before `end`.
    pub(super) fn is_unasked(&self, first: u64, end: u64) -> bool {
        self.unasked.range(..=first).next_back().is_some_and(|(_, reach)| end <= *reach)
    }

    /// Chunks that wait at a source that has everything, and that others have by now, make way for those that nobody
    /// else has. So its uplink carries each chunk once before it carries one twice.
    fn make_way(&mut self) {
        if self.availability.is_empty() || !self.wanted.is_whole() {
            return;
        }
        for source in self.sources.keys().copied().collect::<Vec<_>>() {
            let Some(state) = self.sources.get(&source) else { continue };
            if !matches!(state.holds, Holds::All) || state.asked.is_empty() {
                continue;
            }
            // What a reader waits for is not put off.
            let gives_way = |first: u64| self.rarity(first) > 0 && !self.wanted.is_urgent(first);
            let elsewhere = state.asked.iter().find(|(first, _)| gives_way(**first));
            let Some((first, count)) = elsewhere.map(|(first, asked)| (*first, asked.count)) else { continue };
            if self.rarest(source).is_some_and(|(rarity, _)| rarity == 0) {
                self.give_up(source, first);
                self.actions.push_back(Action::Cancel { source, first, count });
            }
        }
    }

    /// Takes chunks out of those that nobody was asked for.
    pub(super) fn take(&mut self, first: u64, count: u32) {
        let after = first + u64::from(count);
        let Some((&begin, &end)) = self.unasked.range(..=first).next_back() else { return };
        self.unasked.remove(&begin);
        if begin < first {
            self.unasked.insert(begin, first);
        }
        if after < end {
            self.unasked.insert(after, end);
        }
    }

    /// Whether it is one of a crowd, and something is still to be asked for.
    fn is_busy_crowd(&self) -> bool {
        !self.availability.is_empty() && self.has_more()
    }

    /// Asks for what another source is late with.
    fn take_over(&mut self, source: S, now: Instant) -> Option<Action<S>> {
        let state = self.sources.get(&source)?;
        let (no_crowd, crowd) = (self.availability.is_empty(), self.is_busy_crowd());
        // When all is asked for, many of a crowd have little left to send: what was slow while all were busy is not.
        let end_of_crowd = !self.availability.is_empty() && !crowd;
        let late = self.flights.iter().filter_map(|(first, flight)| {
            let run = *first..*first + u64::from(flight.count);
            if flight.askers.contains(&source) || !run.clone().all(|index| state.holds.contains(index)) {
                return None;
            }
            if !run.clone().any(|index| self.wanted.contains(index)) {
                return None;
            }
            let waits = flight.askers.iter().filter_map(|asker| Some(self.sources.get(asker)?.remaining(*first, now)));
            let remaining = waits.fold(f64::INFINITY, f64::min);
            // A second source helps; a third only where the first two are both overdue.
            if flight.askers.len() >= MAX_ASKERS || (crowd || flight.askers.len() > 1) && remaining.is_finite() {
                return None;
            }
            let bytes = run.map(|index| self.geometry.len(index)).sum();
            let wait = if end_of_crowd { state.wait_at_best(bytes) } else { state.wait(bytes) };
            let gain = remaining - CLEARLY * (wait + ROUND_TRIP);
            (gain > 0.0 && state.has_room(bytes, &self.policy, no_crowd)).then_some((gain, *first, flight.count, bytes))
        });
        let (_, first, count, bytes) = late.max_by(|a, b| a.0.total_cmp(&b.0))?;
        self.flights.get_mut(&first)?.askers.push(source);
        self.sources.get_mut(&source)?.ask(first, count, bytes, now);
        Some(Action::Request { source, first, count })
    }
}
