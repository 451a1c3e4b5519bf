//! What is said of those who are refused: who, and how often, at a bounded rate.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use swarmdex_protocols::address::Source;

/// Pause between two reports.
const PAUSE: Duration = Duration::from_secs(10);
/// Sources that are counted one by one in such a pause.
const COUNTED: usize = 64;
/// Sources of these that are named.
const NAMED: usize = 3;

/// Whoever was refused since the last report.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    said: Option<Instant>,
    counts: BTreeMap<IpAddr, u64>,
    total: u64,
}

/// A report of what was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusalReport {
    /// The sources with the most refusals, and how often each was refused; the worst first.
    pub worst: Vec<(IpAddr, u64)>,
    /// How often in all.
    pub total: u64,
}

impl fmt::Display for RefusalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst = self.worst.iter().map(|(ip, count)| format!("{} ({count})", Source(*ip)));
        f.write_str(&worst.collect::<Vec<_>>().join(", "))?;
        let others = self.total - self.worst.iter().map(|(_, count)| count).sum::<u64>();
        if others > 0 { write!(f, ", others ({others})") } else { Ok(()) }
    }
}

impl Refusals {
    /// One from there is refused.
    pub(crate) fn add(&mut self, source: IpAddr) {
        self.total += 1;
        if self.counts.len() >= COUNTED && !self.counts.contains_key(&source) {
            // The rarest source is forgotten for one that may come more often.
            let rarest = self.counts.iter().min_by_key(|(_, count)| **count).map(|(ip, _)| *ip);
            rarest.map(|rarest| self.counts.remove(&rarest));
        }
        *self.counts.entry(source).or_default() += 1;
    }

    /// The report that is due now, if one is: the first one is due at once.
    pub(crate) fn due(&mut self, now: Instant) -> Option<RefusalReport> {
        let is_early = self.said.is_some_and(|said| now.saturating_duration_since(said) < PAUSE);
        if self.total == 0 || is_early {
            return None;
        }
        self.said = Some(now);
        let mut worst: Vec<_> = std::mem::take(&mut self.counts).into_iter().collect();
        worst.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        worst.truncate(NAMED);
        Some(RefusalReport { worst, total: std::mem::take(&mut self.total) })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_of_at_once_and_the_rest_at_a_bounded_rate() {
        let (mut refusals, begin) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.due(begin), None);
        let flood = IpAddr::from([10, 0, 0, 1]);
        let mut reports = Vec::new();
        for number in 0..10_000_u64 {
            refusals.add(flood);
            reports.extend(refusals.due(begin + Duration::from_millis(3 * number)));
        }
        assert_eq!(reports.iter().map(|report| report.total).collect::<Vec<_>>(), [1, 3334, 3334]);
        assert_eq!(reports[1].to_string(), "10.0.0.1 (3334)");
        // What came after the last report is not lost.
        let last = refusals.due(begin + Duration::from_secs(60)).unwrap();
        assert_eq!(last.total, 10_000 - 1 - 3334 - 3334);
        assert_eq!(refusals.due(begin + Duration::from_secs(120)), None);
    }

    #[test]
    fn memory_is_bounded_and_the_worst_is_named_all_the_same() {
        let mut refusals = Refusals::default();
        let flood: IpAddr = "2001:db8::".parse().unwrap();
        for number in 0..10_000_u32 {
            refusals.add(IpAddr::from(number.to_be_bytes()));
            refusals.add(flood);
            assert!(refusals.counts.len() <= COUNTED);
        }
        let report = refusals.due(Instant::now()).unwrap();
        assert_eq!((report.worst[0], report.total), ((flood, 10_000), 20_000));
        assert!(report.to_string().starts_with("2001:db8::/64 (10000), "), "{report}");
        assert!(report.to_string().ends_with(", others (9998)"), "{report}");
    }
}
