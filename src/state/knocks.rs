//! Which strangers may shake hands at a time.
//!
//! Whoever connects has a place until the handshake is over. Places are bounded, in all and for each source (an IPv4
//! address, or the /64 of an IPv6 one). So one that floods fills its own places and nobody else's. A newcomer takes the
//! place of one of the same source that has said nothing, or does not get on. Where all places are taken, it is one of
//! the source that has most of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::quota::Counts;

/// After which time one that has said nothing gives way: a node speaks first, and at once.
const SILENT: Duration = Duration::from_millis(50);
/// After which time one that has spoken gives way.
const SLOW: Duration = Duration::from_secs(2);

/// Those that shake hands.
#[derive(Debug)]
pub(crate) struct Knocks {
    most_of_one: usize,
    next: u64,
    /// In the order in which they came: numbers rise.
    pending: BTreeMap<u64, Knock>,
    counts: Counts<IpAddr>,
}

#[derive(Debug)]
struct Knock {
    source: IpAddr,
    since: Instant,
    spoke: bool,
}

impl Knock {
    fn gives_way(&self, now: Instant) -> bool {
        let patience = if self.spoke { SLOW } else { SILENT };
        now.saturating_duration_since(self.since) >= patience
    }
}

/// What becomes of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnockVerdict {
    /// It has a place, under this number.
    Welcome(u64),
    /// It has the place of another one.
    Instead {
        /// Its number.
        number: u64,
        /// The number of the one that has none any more.
        gone: u64,
    },
    /// There is none for it.
    Refused,
}

impl Knocks {
    /// With so many places in all, and for one source.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self { most_of_one, next: 0, pending: BTreeMap::new(), counts: Counts::bounded(most_of_one, most) }
    }

    /// Somebody connects. `ends` ends whoever is to give way because it is silent. It returns false if that one has
    /// said something just now; then somebody else is looked for.
    pub(crate) fn arrive(&mut self, source: IpAddr, now: Instant, mut ends: impl FnMut(u64) -> bool) -> KnockVerdict {
        let of_source = self.counts.of(&source);
        if self.counts.has_room(&source) {
            return KnockVerdict::Welcome(self.add(source, now));
        }
        let gone = loop {
            let Some(gone) = self.who_gives_way(source, of_source, now) else { return KnockVerdict::Refused };
            match self.pending.get_mut(&gone) {
                Some(knock) if !knock.spoke && !ends(gone) => knock.spoke = true,
                _ => break gone,
            }
        };
        self.leave(gone);
        KnockVerdict::Instead { number: self.add(source, now), gone }
    }

    fn who_gives_way(&self, source: IpAddr, of_source: usize, now: Instant) -> Option<u64> {
        if of_source >= self.most_of_one {
            return self.weakest(source, |knock| knock.gives_way(now));
        }
        let (other, count) = self.counts.iter().max_by_key(|(_, count)| *count)?;
        // Whoever has many places has no right to the last one of somebody else.
        self.weakest(*other, |knock| count > of_source + 1 || knock.gives_way(now))
    }

    fn add(&mut self, source: IpAddr, since: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.pending.insert(number, Knock { source, since, spoke: false });
        self.counts.add(source, 1);
        number
    }

    /// The oldest of a source that has said nothing, else the oldest, among those that are accepted.
    fn weakest(&self, source: IpAddr, accept: impl Fn(&Knock) -> bool) -> Option<u64> {
        let of_source = self.pending.iter().filter(|(_, knock)| knock.source == source && accept(knock));
        of_source.min_by_key(|(number, knock)| (knock.spoke, **number)).map(|(number, _)| *number)
    }

    /// One has said something.
    pub(crate) fn spoke(&mut self, number: u64) {
        if let Some(knock) = self.pending.get_mut(&number) {
            knock.spoke = true;
        }
    }

    /// The handshake of one is over, however it ended.
    pub(crate) fn leave(&mut self, number: u64) {
        if let Some(knock) = self.pending.remove(&number) {
            self.counts.remove(&knock.source);
        }
    }

    /// How many shake hands.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nobody does.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn arrive(knocks: &mut Knocks, from: u8, now: Instant) -> KnockVerdict {
        knocks.arrive(source(from), now, |_| true)
    }

    fn welcome(knocks: &mut Knocks, from: u8, now: Instant) -> u64 {
        match arrive(knocks, from, now) {
            KnockVerdict::Welcome(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_source_that_floods_fills_its_own_places_alone() {
        let (mut knocks, now) = (Knocks::new(256, 64), Instant::now());
        for _ in 0..64 {
            welcome(&mut knocks, 1, now);
        }
        for _ in 0..10_000 {
            assert_eq!(arrive(&mut knocks, 1, now), KnockVerdict::Refused);
        }
        for other in 2..=64 {
            welcome(&mut knocks, other, now);
        }
        assert_eq!(knocks.len(), 64 + 63);
    }

    #[test]
    fn behind_the_address_of_a_flood_whoever_speaks_gets_in() {
        let (mut knocks, begin) = (Knocks::new(256, 3), Instant::now());
        let spoken = welcome(&mut knocks, 1, begin);
        knocks.spoke(spoken);
        let silent = welcome(&mut knocks, 1, begin);
        let later = begin + SILENT;
        welcome(&mut knocks, 1, later);
        let KnockVerdict::Instead { number, gone } = arrive(&mut knocks, 1, later) else { panic!() };
        assert_eq!(gone, silent);
        knocks.spoke(number);
        // What gets on keeps its place until it is slow.
        assert_eq!(arrive(&mut knocks, 1, later), KnockVerdict::Refused);
        assert!(matches!(arrive(&mut knocks, 1, later + SLOW), KnockVerdict::Instead { .. }));
        assert_eq!(knocks.len(), 3);
    }

    #[test]
    fn one_that_speaks_in_the_last_moment_stays_and_the_next_gives_way() {
        let (mut knocks, begin) = (Knocks::new(256, 3), Instant::now());
        let [first, second, third] = [1, 1, 1].map(|from| welcome(&mut knocks, from, begin));
        let (later, mut asked) = (begin + SILENT, Vec::new());
        let answer = knocks.arrive(source(1), later, |number| {
            asked.push(number);
            number == third
        });
        assert!(matches!(answer, KnockVerdict::Instead { gone, .. } if gone == third));
        assert_eq!(asked, [first, second, third]);
        assert_eq!(
            knocks.arrive(source(1), later, |_| unreachable!("those have spoken, and this one came just now")),
            KnockVerdict::Refused
        );
        assert_eq!(knocks.len(), 3);
    }

    #[test]
    fn where_all_places_are_taken_the_source_with_most_of_them_gives_one() {
        let (mut knocks, now) = (Knocks::new(8, 4), Instant::now());
        let first = welcome(&mut knocks, 1, now);
        for from in [1, 1, 1, 2, 2, 2, 3] {
            welcome(&mut knocks, from, now);
        }
        assert_eq!(arrive(&mut knocks, 4, now), KnockVerdict::Instead { number: 8, gone: first }, "at once");
        // Nobody has two more than this one would have.
        let mut even = Knocks::new(2, 2);
        for from in 1..=2 {
            welcome(&mut even, from, now);
        }
        assert_eq!(arrive(&mut even, 3, now), KnockVerdict::Refused);
        assert!(matches!(arrive(&mut even, 3, now + SILENT), KnockVerdict::Instead { number: 2, .. }));
    }

    proptest! {
        #[test]
        fn bounds_hold_and_nothing_remains(steps in prop::collection::vec((0..4_u8, 0..3_u8, 0..400_u64), 1..300)) {
            let (mut knocks, mut now) = (Knocks::new(10, 4), Instant::now());
            let mut inside: Vec<(u64, u8)> = Vec::new();
            for (from, what, wait) in steps {
                now += Duration::from_millis(wait);
                if what == 0 && !inside.is_empty() {
                    knocks.leave(inside.remove(0).0);
                } else {
                    match arrive(&mut knocks, from, now) {
                        KnockVerdict::Welcome(number) => inside.push((number, from)),
                        KnockVerdict::Instead { number, gone } => {
                            inside.retain(|(other, _)| *other != gone);
                            inside.push((number, from));
                        }
                        KnockVerdict::Refused => {}
                    }
                    if what == 1 && let Some((number, _)) = inside.last() {
                        knocks.spoke(*number);
                    }
                }
                prop_assert_eq!(knocks.len(), inside.len());
                prop_assert!(inside.len() <= 10);
                prop_assert!((0..4).all(|from| inside.iter().filter(|(_, other)| *other == from).count() <= 4));
            }
            inside.iter().for_each(|(number, _)| knocks.leave(*number));
            prop_assert!(knocks.is_empty() && knocks.counts.is_empty());
        }
    }
}
