//! Addresses at which nobody answered: which of them lately, since when, and how many attempts are under way there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::Multiaddr;

use super::quota::Counts;

/// For how long little is hoped of an address that failed.
const LATELY: Duration = Duration::from_secs(30);
/// For how long it is remembered since when an address fails.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Addresses that are remembered; beyond that the one that failed longest ago is forgotten.
const MAX_ADDRESSES: usize = 1024;
/// Attempts at one address at a time. So naming one address for many nodes makes this node knock there no harder.
const MAX_UNDER_WAY: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Silence {
    /// When it first failed, and when last, without an answer in between.
    since: Instant,
    last: Instant,
}

/// What became of attempts at addresses, without peer ids.
#[derive(Debug)]
pub(crate) struct Unanswered {
    silent: BTreeMap<Multiaddr, Silence>,
    under_way: Counts<Multiaddr>,
}

impl Default for Unanswered {
    fn default() -> Self {
        Self { silent: BTreeMap::new(), under_way: Counts::bounded(MAX_UNDER_WAY, usize::MAX) }
    }
}

impl Unanswered {
    /// An attempt begins; false if enough are under way there. Then [`Unanswered::on_end`] is not to be called.
    pub(crate) fn begin(&mut self, address: &Multiaddr) -> bool {
        self.under_way.try_add(address.clone())
    }

    /// An attempt that began is over.
    pub(crate) fn on_end(&mut self, address: &Multiaddr) {
        self.under_way.remove(address);
    }

    /// Nobody answered there, after waiting from `begun` on.
    pub(crate) fn on_failed(&mut self, address: &Multiaddr, begun: Instant, now: Instant) {
        match self.silent.get_mut(address) {
            Some(silence) if !is_over(silence, now) => return silence.last = now,
            Some(silence) => return *silence = Silence { since: begun, last: now },
            None => {}
        }
        if self.silent.len() >= MAX_ADDRESSES {
            let oldest = self.silent.iter().min_by_key(|(_, silence)| silence.last).map(|(address, _)| address.clone());
            oldest.and_then(|oldest| self.silent.remove(&oldest));
        }
        self.silent.insert(address.clone(), Silence { since: begun, last: now });
    }

    /// Somebody answered there.
    pub(crate) fn on_answered(&mut self, address: &Multiaddr) {
        self.silent.remove(address);
    }

    /// Whether an address failed a moment ago.
    pub(crate) fn lately(&self, address: &Multiaddr, now: Instant) -> bool {
        self.silent.get(address).is_some_and(|silence| now.saturating_duration_since(silence.last) < LATELY)
    }

    /// Since when nobody answers at any of these: at the last of them at which somebody may have.
    pub(crate) fn since<'a>(&self, addresses: impl Iterator<Item = &'a Multiaddr>, now: Instant) -> Option<Instant> {
        let silences = addresses.filter_map(|address| self.silent.get(address));
        silences.filter(|silence| !is_over(silence, now)).map(|silence| silence.since).max()
    }
}

fn is_over(silence: &Silence, now: Instant) -> bool {
    now.saturating_duration_since(silence.last) >= REMEMBERED
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

    use super::*;

    fn address(number: usize) -> Multiaddr {
        format!("/ip4/10.{}.{}.1/tcp/1", number / 256, number % 256).parse().unwrap()
    }

    #[test]
    fn an_address_fails_lately_for_a_while_and_until_it_answers() {
        let (mut table, begin) = (Unanswered::default(), Instant::now());
        let (one, other) = (address(1), address(2));
        let end = begin + Duration::from_secs(5);
        assert_eq!(table.since([&one].into_iter(), begin), None);
        table.on_failed(&one, begin, end);
        assert!(table.lately(&one, end) && !table.lately(&other, end));
        assert!(!table.lately(&one, end + LATELY));
        let later = end + LATELY * 2;
        table.on_failed(&one, later, later);
        assert!(table.lately(&one, later));
        assert_eq!(table.since([&other, &one].into_iter(), later), Some(begin), "no answer came in between");
        table.on_failed(&other, later, later);
        assert_eq!(
            table.since([&other, &one].into_iter(), later),
            Some(later),
            "there somebody may have answered before"
        );
        table.on_answered(&one);
        assert!(!table.lately(&one, later) && table.since([&one].into_iter(), later).is_none());
    }

    #[test]
    fn silence_of_long_ago_is_over() {
        let (mut table, begin) = (Unanswered::default(), Instant::now());
        table.on_failed(&address(1), begin, begin);
        let later = begin + REMEMBERED;
        assert_eq!(table.since([&address(1)].into_iter(), later), None);
        table.on_failed(&address(1), later, later);
        assert_eq!(table.since([&address(1)].into_iter(), later), Some(later));
    }

    #[test]
    fn however_many_fail_the_latest_are_remembered() {
        let (mut table, begin) = (Unanswered::default(), Instant::now());
        for number in 0..3 * MAX_ADDRESSES {
            table.on_failed(&address(number), begin, begin + Duration::from_millis(number as u64));
        }
        assert_eq!(table.silent.len(), MAX_ADDRESSES);
        assert!(table.lately(&address(3 * MAX_ADDRESSES - 1), begin) && !table.lately(&address(0), begin));
    }

    #[test]
    fn few_attempts_at_one_address_are_under_way_at_a_time() {
        let mut table = Unanswered::default();
        let one = address(1);
        assert_eq!((0..10).filter(|_| table.begin(&one)).count(), MAX_UNDER_WAY);
        assert!(table.begin(&address(2)));
        table.on_end(&one);
        assert!(table.begin(&one) && !table.begin(&one));
        (0..MAX_UNDER_WAY).for_each(|_| table.on_end(&one));
        table.on_end(&address(2));
        assert!(table.under_way.is_empty());
    }
}
