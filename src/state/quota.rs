//! Who may have how much: counts with a bound for one and for all, and rates.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What each key has at the moment, and all of them together. A key that has nothing takes no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counts<K> {
    of: BTreeMap<K, usize>,
    all: usize,
    most_of_one: usize,
    most: usize,
}

impl<K> Default for Counts<K> {
    /// Counts without a bound.
    fn default() -> Self {
        Self { of: BTreeMap::new(), all: 0, most_of_one: usize::MAX, most: usize::MAX }
    }
}

impl<K: Ord> Counts<K> {
    /// With these bounds for one key and for all of them.
    pub(crate) fn bounded(most_of_one: usize, most: usize) -> Self {
        Self { most_of_one, most, ..Self::default() }
    }

    /// Whether a key may have more: neither it nor all of them are at their bound.
    pub(crate) fn has_room(&self, key: &K) -> bool {
        self.all < self.most && self.of(key) < self.most_of_one
    }

    /// Counts one more if there is room for it; whether there was.
    pub(crate) fn try_add(&mut self, key: K) -> bool {
        let room = self.has_room(&key);
        if room {
            self.add(key, 1);
        }
        room
    }

    /// Counts so much more, whether or not there is room: for what costs as much as it turns out to, or was admitted before.
    pub(crate) fn add(&mut self, key: K, amount: usize) {
        if amount > 0 {
            let count = self.of.entry(key).or_default();
            let added = amount.min(usize::MAX - (*count).max(self.all));
            *count += added;
            self.all += added;
        }
    }

    /// Counts one less; nothing if the key has none.
    pub(crate) fn remove(&mut self, key: &K) {
        let Some(count) = self.of.get_mut(key) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.of.remove(key);
        }
        self.all = self.all.saturating_sub(1);
    }

    /// What a key has.
    pub(crate) fn of(&self, key: &K) -> usize {
        self.of.get(key).copied().unwrap_or(0)
    }

    /// What all have together.
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// Keys that have something, in order, and how much.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, usize)> {
        self.of.iter().map(|(key, count)| (key, *count))
    }

    /// Whether nobody has anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// How often something may happen: a token comes back in each interval, and so many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Tokens that one may have at once, after a while without taking any.
    pub burst: u32,
    /// The time in which one token comes back.
    pub interval: Duration,
}

/// A token bucket: full at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    rate: Allowance,
    /// When it is full again; `None` if it is.
    full: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Allowance) -> Self {
        Self { rate, full: None }
    }

    /// Takes so many tokens.
    ///
    /// # Errors
    ///
    /// There are fewer: how long to wait until there are enough, [`Duration::MAX`] for more than the bucket ever has. Then none
    /// is taken.
    pub(crate) fn take(&mut self, tokens: u32, now: Instant) -> Result<(), Duration> {
        if tokens > self.rate.burst {
            return Err(Duration::MAX);
        }
        let missing = self.full.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        // Both are far below what a duration can hold unless somebody chose an interval of ages.
        let after = missing.saturating_add(self.rate.interval.saturating_mul(tokens));
        let most = self.rate.interval.saturating_mul(self.rate.burst);
        if after > most {
            return Err(after - most);
        }
        self.full = now.checked_add(after);
        Ok(())
    }

    /// Whether nothing is missing: it says no more than a new one.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full.is_none_or(|full| full <= now)
    }
}

/// A token bucket for each key. One that is full again says no more than a new one, and makes room for others.
#[derive(Debug, Clone)]
pub(crate) struct Buckets<K> {
    rate: Allowance,
    most: usize,
    of: BTreeMap<K, Bucket>,
}

impl<K: Ord> Buckets<K> {
    /// The same rate for every key, and at most so many buckets that are not full.
    pub(crate) fn bounded(rate: Allowance, most: usize) -> Self {
        Self { rate, most, of: BTreeMap::new() }
    }

    /// Takes so many tokens from the bucket of a key.
    ///
    /// # Errors
    ///
    /// There are fewer, see [`Bucket::take`]. Or too many other keys took some lately: then one interval is the time to wait.
    pub(crate) fn take(&mut self, key: K, tokens: u32, now: Instant) -> Result<(), Duration> {
        if self.of.len() >= self.most && !self.of.contains_key(&key) {
            self.of.retain(|_, bucket| !bucket.is_full(now));
            if self.of.len() >= self.most {
                return Err(self.rate.interval);
            }
        }
        self.of.entry(key).or_insert(Bucket::new(self.rate)).take(tokens, now)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_that_wants_everything_leaves_the_rest_to_others() {
        let mut counts = Counts::bounded(4, 10);
        assert_eq!((0..100).filter(|_| counts.try_add("greedy")).count(), 4);
        assert_eq!((0..100).filter(|_| counts.try_add("modest")).count(), 4);
        assert_eq!((0..100).filter(|_| counts.try_add("late")).count(), 2, "ten in all");
        counts.remove(&"greedy");
        assert!(counts.has_room(&"late") && counts.has_room(&"another"));
        assert!(counts.try_add("another") && !counts.try_add("greedy"));
    }

    #[test]
    fn who_has_nothing_is_forgotten_and_owes_nothing() {
        let mut counts = Counts::default();
        (0..1000).for_each(|key| counts.add(key, 1));
        (0..1000).for_each(|key| counts.remove(&key));
        (0..1000).for_each(|key| counts.remove(&key));
        counts.add(1, 0);
        assert!(counts.is_empty());
        assert_eq!(counts, Counts::default());
    }

    #[test]
    fn what_costs_more_than_there_is_room_for_is_counted_all_the_same() {
        let mut counts = Counts::bounded(10, 100);
        assert!(counts.has_room(&1));
        counts.add(1, usize::MAX);
        counts.add(2, usize::MAX);
        assert!(!counts.has_room(&1) && !counts.has_room(&3));
        assert_eq!((counts.of(&1), counts.all()), (usize::MAX, usize::MAX));
    }

    #[test]
    fn a_bucket_gives_what_it_kept_and_then_as_much_as_comes_back() {
        let (rate, begin) = (Allowance { burst: 5, interval: Duration::from_millis(100) }, Instant::now());
        let mut bucket = Bucket::new(rate);
        assert_eq!((0..100).filter(|_| bucket.take(1, begin).is_ok()).count(), 5);
        assert_eq!(bucket.take(1, begin), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(3, begin + Duration::from_millis(50)), Err(Duration::from_millis(250)));
        assert_eq!(bucket.take(3, begin + Duration::from_millis(300)), Ok(()));
        assert_eq!(bucket.take(6, begin + Duration::from_secs(1000)), Err(Duration::MAX), "never so many");
        assert!(!bucket.is_full(begin + Duration::from_millis(799)));
        assert!(bucket.is_full(begin + Duration::from_millis(800)));
        // A clock that stands still, or is behind, takes nothing back.
        assert_eq!(bucket.take(5, begin + Duration::from_millis(800)), Ok(()));
        assert!(bucket.take(1, begin).is_err());
    }

    #[test]
    fn one_that_empties_its_bucket_leaves_those_of_others_full() {
        let rate = Allowance { burst: 4, interval: Duration::from_millis(250) };
        let (mut buckets, begin) = (Buckets::bounded(rate, 64), Instant::now());
        let mut taken = [0; 2];
        for at in 0..10_000 {
            let now = begin + Duration::from_millis(at);
            taken[0] += u32::from(buckets.take(1, 1, now).is_ok());
            if at % 900 == 0 {
                taken[1] += u32::from(buckets.take(2, 1, now).is_ok());
            }
        }
        // Four at once, and one for each quarter of a second from then on.
        assert_eq!(taken, [4 + 39, 12]);
    }

    #[test]
    fn buckets_are_bounded_and_full_ones_make_room() {
        let rate = Allowance { burst: 4, interval: Duration::from_millis(250) };
        let (mut buckets, begin) = (Buckets::bounded(rate, 64), Instant::now());
        assert_eq!((0..1000).filter(|key| buckets.take(*key, 1, begin).is_ok()).count(), 64);
        assert_eq!(buckets.take(1000, 1, begin), Err(rate.interval));
        assert_eq!(buckets.take(0, 3, begin), Ok(()), "one that is known");
        let later = begin + rate.interval;
        assert_eq!((1..1000).rev().filter(|key| buckets.take(*key, 1, later).is_ok()).count(), 63);
        assert_eq!(buckets.of.len(), 64);
    }

    proptest! {
        #[test]
        fn counts_are_what_a_plain_list_would_say(
            steps in prop::collection::vec((0..4_u8, any::<bool>()), 1..200), of_one in 1..5_usize, all in 1..9_usize,
        ) {
            let (mut counts, mut list) = (Counts::bounded(of_one, all), Vec::new());
            for (key, comes) in steps {
                if comes {
                    let room = list.len() < all && list.iter().filter(|other| **other == key).count() < of_one;
                    prop_assert_eq!(counts.try_add(key), room);
                    list.extend(room.then_some(key));
                } else {
                    counts.remove(&key);
                    if let Some(at) = list.iter().position(|other| *other == key) {
                        list.remove(at);
                    }
                }
                prop_assert_eq!(counts.all(), list.len());
                prop_assert!((0..4).all(|key| counts.of(&key) == list.iter().filter(|other| **other == key).count()));
                prop_assert_eq!(counts.iter().map(|(_, count)| count).sum::<usize>(), list.len());
                prop_assert!(counts.iter().all(|(_, count)| count > 0));
            }
        }

        #[test]
        fn no_stretch_of_time_sees_more_than_the_burst_and_what_came_back_in_it(
            steps in prop::collection::vec((0..300_u64, 1..4_u32), 1..100), burst in 3..10_u32,
        ) {
            let rate = Allowance { burst, interval: Duration::from_millis(100) };
            let (mut bucket, mut now) = (Bucket::new(rate), Instant::now());
            let mut taken: Vec<(Instant, u32)> = Vec::new();
            for (wait, tokens) in steps {
                now += Duration::from_millis(wait);
                match bucket.take(tokens, now) {
                    Ok(()) => taken.push((now, tokens)),
                    Err(wait) => {
                        // As long as that, and no shorter.
                        prop_assert!(bucket.clone().take(tokens, now + wait).is_ok());
                        prop_assert!(bucket.clone().take(tokens, now + wait - Duration::from_nanos(1)).is_err());
                    }
                }
            }
            for (at, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (to, tokens) in &taken[at..] {
                    sum += tokens;
                    let came = to.duration_since(*from).as_millis() / rate.interval.as_millis() + 1;
                    prop_assert!(u128::from(sum) <= u128::from(burst) + came);
                }
            }
        }
    }
}
