//! Which chunks are wanted, and which of them first: those that readers wait for, then all the rest if somebody wants the whole.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Download;

/// What those who use one content want of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wanted {
    whole: bool,
    /// For each reader, the chunks from its place to the end of what it reads ahead.
    readers: BTreeMap<u64, Range<u64>>,
}

impl Wanted {
    /// Every chunk, as for a download into a file.
    pub(crate) fn whole() -> Self {
        Self { whole: true, readers: BTreeMap::new() }
    }

    /// From here on somebody wants every chunk, or nobody does.
    pub(crate) fn set_whole(&mut self, whole: bool) {
        self.whole = whole;
    }

    /// A reader wants these chunks and no others: the first of them now, the rest soon.
    pub(crate) fn read(&mut self, reader: u64, chunks: Range<u64>) {
        self.readers.insert(reader, chunks);
    }

    /// A reader is gone.
    pub(crate) fn leave(&mut self, reader: u64) {
        self.readers.remove(&reader);
    }

    /// Readers, those included that want nothing at the moment.
    pub(crate) fn readers(&self) -> usize {
        self.readers.len()
    }

    /// Whether somebody wants every chunk.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether a reader waits for a chunk, or will soon.
    pub(crate) fn is_urgent(&self, index: u64) -> bool {
        self.readers.values().any(|chunks| chunks.contains(&index))
    }

    /// Whether anybody wants a chunk.
    pub(crate) fn contains(&self, index: u64) -> bool {
        self.whole || self.is_urgent(index)
    }

    /// What readers wait for: what each wants now, then what each wants next, and so on. A chunk may come up twice.
    pub(crate) fn urgent(&self) -> impl Iterator<Item = u64> + '_ {
        let longest = self.readers.values().map(|chunks| chunks.end.saturating_sub(chunks.start)).max().unwrap_or(0);
        (0..longest).flat_map(move |ahead| {
            let chunks = self
                .readers
                .values()
                .filter_map(move |chunks| chunks.start.checked_add(ahead).map(|at| (at, chunks.end)));
            chunks.filter(|(at, end)| at < end).map(|(at, _)| at)
        })
    }
}

/// How far one reader reads ahead. Nothing at first, and twice as far with each chunk that it reads in order: who reads a few bytes
/// here and there costs a chunk each time.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReadAhead {
    /// The chunk that was read last.
    last: Option<u64>,
    /// Chunks from the reader's place on that are wanted.
    ahead: u64,
}

impl ReadAhead {
    /// The reader is at chunk `index`: the chunks that it wants, at most `most` of them. It wants the first in any case.
    pub(crate) fn at(&mut self, index: u64, most: u64) -> Range<u64> {
        match self.last {
            Some(last) if last == index => {}
            Some(last) if last.checked_add(1) == Some(index) => self.ahead = self.ahead.saturating_mul(2),
            _ => self.ahead = 1,
        }
        self.last = Some(index);
        self.ahead = self.ahead.clamp(1, most.max(1));
        index..index.saturating_add(self.ahead)
    }
}

impl<S: Copy + Ord> Download<S> {
    /// Somebody wants something else than before. What was asked for and is wanted no more still comes.
    pub(crate) fn set_wanted(&mut self, wanted: Wanted, now: std::time::Instant) {
        let idle = !self.is_wanting();
        self.wanted = wanted;
        // Nobody was expected to send anything while nothing was wanted.
        if idle && !self.wanted.is_whole() && self.is_wanting() {
            self.progress = Some(now);
        }
    }

    /// Whether anything that is wanted is missing and was not received yet. A download into a file wants something to its end.
    pub(crate) fn is_wanting(&self) -> bool {
        let flies = |index: u64| {
            let flight = self.flights.range(..=index).next_back();
            flight.is_some_and(|(first, flight)| index < first.saturating_add(u64::from(flight.count)))
        };
        self.wanted.is_whole()
            || self.wanted.urgent().any(|index| self.is_unasked(index, index.saturating_add(1)) || flies(index))
    }

    /// Whether a reader waits for a chunk.
    pub(crate) fn is_urgent(&self, index: u64) -> bool {
        self.wanted.is_urgent(index)
    }

    /// A chunk that was written is there no more: it made room for others.
    pub(crate) fn on_dropped(&mut self, index: u64) {
        let end = index.saturating_add(1);
        let among = |(first, count): (&u64, u32)| index < first.saturating_add(u64::from(count));
        let flies =
            self.flights.range(..end).next_back().map(|(first, flight)| (first, flight.count)).is_some_and(among);
        let arrived = self.arrived.range(..end).next_back().map(|(first, count)| (first, *count)).is_some_and(among);
        if index < self.geometry.chunks() && !flies && !arrived && !self.is_unasked(index, end) {
            self.put_back(index, 1);
            self.written = self.written.saturating_sub(1);
            self.ended = false;
        }
    }

    /// The chunk to do that a reader waits for most, of those that a source has.
    pub(super) fn most_urgent(&self, has: impl Fn(u64) -> bool) -> Option<u64> {
        self.wanted.urgent().find(|index| self.is_unasked(*index, index.saturating_add(1)) && has(*index))
    }

    /// Whether something that is wanted was not asked for yet.
    pub(super) fn has_more(&self) -> bool {
        if self.wanted.is_whole() { !self.unasked.is_empty() } else { self.most_urgent(|_| true).is_some() }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use swarmdex_protocols::ChunkSet;
    use swarmdex_protocols::content::Geometry;

    use super::*;
    use crate::state::fetch::{Action, FetchPolicy};

    const POLICY: FetchPolicy = FetchPolicy {
        window_bytes: 8 << 20,
        total_bytes: 24 << 20,
        swarm: true,
        announces: false,
        patience: Duration::from_secs(30),
        seed: 7,
    };

    fn download(chunks: u64, wanted: Wanted, now: Instant) -> Download<u8> {
        let mut download = Download::new(Geometry::new(chunks * (256 << 10)).unwrap(), POLICY, None);
        download.set_wanted(wanted, now);
        download
    }

    fn reading(chunks: Range<u64>) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.read(1, chunks);
        wanted
    }

    /// Runs that are asked for at a moment. Every source has everything.
    fn asked(download: &mut Download<u8>, now: Instant) -> Vec<(u8, u64, u32)> {
        asked_where(download, |_| None, now)
    }

    /// The same where sources say what they have.
    fn asked_where(
        download: &mut Download<u8>,
        says: impl Fn(u8) -> Option<ChunkSet>,
        now: Instant,
    ) -> Vec<(u8, u64, u32)> {
        let mut runs = Vec::new();
        while let Some(action) = download.poll_action(now) {
            match action {
                Action::Request { source, first, count } => runs.push((source, first, count)),
                Action::Have(source) => download.on_have(source, says(source), now),
                Action::Exhausted(reason) => panic!("{reason:?}"),
                _ => {}
            }
        }
        runs
    }

    fn chunks_of(runs: &[(u8, u64, u32)]) -> Vec<u64> {
        runs.iter().flat_map(|(_, first, count)| *first..first + u64::from(*count)).collect()
    }

    #[test]
    fn readers_take_turns_from_what_each_needs_now_on() {
        let mut wanted = reading(10..13);
        wanted.read(2, 50..55);
        assert_eq!(wanted.urgent().collect::<Vec<_>>(), [10, 50, 11, 51, 12, 52, 53, 54]);
        assert!(wanted.contains(12) && !wanted.contains(13) && !wanted.is_whole());
        wanted.set_whole(true);
        assert!(wanted.contains(13) && !wanted.is_urgent(13));
        wanted.leave(1);
        assert_eq!((wanted.urgent().next(), wanted.readers()), (Some(50), 1));
        // However far off the end is.
        assert_eq!(reading(u64::MAX - 1..u64::MAX).urgent().collect::<Vec<_>>(), [u64::MAX - 1]);
    }

    #[test]
    fn who_reads_in_order_reads_further_and_further_ahead_and_who_jumps_does_not() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.at(5, 8), 5..6);
        assert_eq!(ahead.at(5, 8), 5..6, "still the same chunk");
        assert_eq!([6, 7, 8, 9].map(|index| ahead.at(index, 8).end - index), [2, 4, 8, 8]);
        assert_eq!(ahead.at(9, 3), 9..12, "there are more readers by now");
        assert_eq!(ahead.at(100, 8), 100..101);
        assert_eq!(ahead.at(3, 0), 3..4);
        assert_eq!(ahead.at(u64::MAX, 8).start, u64::MAX);
    }

    #[test]
    fn a_reader_alone_gets_what_it_asks_for_and_nothing_else() {
        let now = Instant::now();
        let mut download = download(1000, reading(700..703), now);
        download.add_source(1, true, now);
        assert_eq!(chunks_of(&asked(&mut download, now)), [700, 701, 702]);
        assert!(download.is_wanting());
        for index in 700..703 {
            assert!(download.on_chunks(1, index, 1, now));
            download.on_written(1, index, 1);
        }
        assert!(!download.is_wanting() && asked(&mut download, now).is_empty());
        // What made room for others is fetched again when it is wanted again.
        download.on_dropped(701);
        download.on_dropped(701);
        assert!(download.is_wanting());
        assert_eq!((chunks_of(&asked(&mut download, now)), download.written()), (vec![701], 2));
        download.on_dropped(701);
        assert_eq!(download.written(), 2, "it is on its way");
    }

    #[test]
    fn a_reader_goes_before_the_rest_of_a_download_into_a_file() {
        let now = Instant::now();
        let mut wanted = reading(700..702);
        wanted.set_whole(true);
        let mut download = download(1000, wanted, now);
        download.add_source(1, true, now);
        let chunks = chunks_of(&asked(&mut download, now));
        assert_eq!(chunks[..2], [700, 701]);
        // The rest is what it would be without.
        assert_eq!(chunks[2..4], [7, 8]);
    }

    #[test]
    fn a_chunk_that_is_waited_for_is_not_left_to_the_sources_choice_nor_given_up_for_a_rare_one() {
        let now = Instant::now();
        let mut wanted = reading(20..21);
        wanted.set_whole(true);
        let mut download = download(100, wanted, now);
        download.add_source(1, true, now);
        assert_eq!(download.poll_action(now), Some(Action::Have(1)));
        assert_eq!(download.poll_action(now), Some(Action::Request { source: 1, first: 20, count: 1 }));
        let mut some = ChunkSet::none(100);
        some.insert(20);
        download.add_source(2, false, now);
        download.on_have_update(2, &some, now);
        let actions: Vec<_> = std::iter::from_fn(|| download.poll_action(now)).collect();
        assert!(!actions.contains(&Action::Cancel { source: 1, first: 20, count: 1 }), "{actions:?}");
        download.set_wanted(reading(20..21), now);
        assert!(download.alternatives(1).is_none(), "nothing else would do");
    }

    #[test]
    fn a_reader_that_did_not_read_for_long_has_not_lost_its_sources() {
        let begin = Instant::now();
        let mut download = download(1000, reading(0..1), begin);
        download.add_source(1, true, begin);
        assert_eq!(chunks_of(&asked(&mut download, begin)), [0]);
        assert!(download.on_chunks(1, 0, 1, begin));
        download.on_written(1, 0, 1);
        let later = begin + Duration::from_secs(3600);
        download.set_wanted(reading(500..501), later);
        assert_eq!(chunks_of(&asked(&mut download, later)), [500]);
    }

    #[test]
    fn what_is_late_and_not_wanted_any_more_is_not_asked_of_others() {
        let now = Instant::now();
        let mut download = download(1000, reading(0..1), now);
        download.add_source(1, true, now);
        assert_eq!(chunks_of(&asked(&mut download, now)), [0]);
        download.add_source(2, true, now);
        let later = now + Duration::from_secs(5);
        download.set_wanted(reading(500..501), later);
        assert_eq!(chunks_of(&asked(&mut download, later)), [500]);
        download.set_wanted(reading(0..1), later);
        let again = asked(&mut download, later);
        assert!(again.iter().all(|(source, first, _)| (*source, *first) == (2, 0)), "{again:?}");
    }

    proptest! {
        /// Whatever readers do and sources have: what they want is asked for, and nothing else.
        #[test]
        fn readers_get_all_that_they_want_and_nothing_more(
            chunks in 20u64..400,
            places in prop::collection::vec((0u64..4, 0u64..400, 1u64..20), 1..20),
            part in 1u64..5,
            seed in any::<u64>(),
        ) {
            let mut now = Instant::now();
            let geometry = Geometry::new(chunks * (256 << 10)).unwrap();
            let mut download = Download::new(geometry, FetchPolicy { seed, ..POLICY }, None);
            let mut wanted = Wanted::default();
            download.set_wanted(wanted.clone(), now);
            download.add_source(1u8, true, now);
            download.add_source(2, false, now);
            let mut some = ChunkSet::none(chunks);
            for index in (0..chunks).filter(|index| index % part == 0) {
                some.insert(index);
            }
            download.on_have_update(2, &some, now);
            let mut here = BTreeSet::new();
            for (reader, first, length) in places {
                let first = first % chunks;
                wanted.read(reader, first..(first + length).min(chunks));
                download.set_wanted(wanted.clone(), now);
                for _ in 0..200 {
                    now += Duration::from_millis(100);
                    download.handle_timeout(now);
                    let says = |source| (source == 2).then(|| some.clone());
                    for (source, first, count) in asked_where(&mut download, says, now) {
                        for index in first..first + u64::from(count) {
                            prop_assert!(wanted.contains(index), "{} was not wanted", index);
                            prop_assert!(source == 1 || some.contains(index));
                            here.insert(index);
                        }
                        if download.on_chunks(source, first, count, now) {
                            download.on_written(source, first, count);
                        }
                    }
                    if !download.is_wanting() {
                        break;
                    }
                }
                prop_assert!(!download.is_wanting());
                prop_assert!(wanted.urgent().all(|index| here.contains(&index)));
                prop_assert_eq!(download.written(), here.len() as u64);
            }
        }
    }
}
