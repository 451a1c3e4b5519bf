//! What members reported of their share since they joined, as the master counts it.

use std::collections::BTreeMap;

use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{Refusal, RefusalCode, ShareDigest, ShareSum};

/// Offers of one report beyond twice the size of the share that the join told: files come and go meanwhile. A report
/// that takes more is no report.
const MORE_OFFERS: u64 = 100_000;

/// How far a member has told its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// It is telling it.
    Open {
        /// What was granted in this session.
        granted: ShareSum,
        /// Offers left, each batch counted as one more.
        left: u64,
        /// Entries of the share that the join told, and that were not offered so far.
        missing: u64,
    },
    /// It has told everything: what is not in the index it does not hold.
    Whole,
}

/// The reports of all members that joined in this run of the master.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    members: BTreeMap<PeerId, Report>,
}

impl Reports {
    /// A peer joined; if its share of so many entries is not what the index holds, it tells everything.
    pub(crate) fn on_joined(&mut self, peer: PeerId, unchanged: bool, entries: u64) {
        let left = entries.saturating_mul(2).saturating_add(MORE_OFFERS);
        let open = Report::Open { granted: ShareSum::default(), left, missing: entries };
        self.members.insert(peer, if unchanged { Report::Whole } else { open });
    }

    /// A peer has back what it left with: it has told everything.
    pub(crate) fn on_returned(&mut self, peer: PeerId) {
        self.members.insert(peer, Report::Whole);
    }

    /// A batch of so many offers came.
    ///
    /// # Errors
    ///
    /// The report never ends.
    pub(crate) fn on_offers(&mut self, peer: &PeerId, offers: usize) -> Result<(), Refusal> {
        if let Some(Report::Open { left, missing, .. }) = self.members.get_mut(peer) {
            *missing = missing.saturating_sub(offers as u64);
            let cost = (offers as u64).saturating_add(1);
            let Some(rest) = left.checked_sub(cost) else {
                let reason = "this report of a share never ends: join again";
                return Err(Refusal::new(RefusalCode::NotJoined, reason));
            };
            *left = rest;
        }
        Ok(())
    }

    /// A name was granted, for the first time in its owner's present session.
    pub(crate) fn on_granted(&mut self, peer: &PeerId, entry: &ShareDigest) {
        if let Some(Report::Open { granted, .. }) = self.members.get_mut(peer) {
            granted.add(entry);
        }
    }

    /// What was granted in its owner's present session was replaced or given up.
    pub(crate) fn on_lost(&mut self, peer: &PeerId, entry: &ShareDigest) {
        if let Some(Report::Open { granted, .. }) = self.members.get_mut(peer) {
            granted.remove(entry);
        }
    }

    /// A peer says that it has told everything, and that `total` of it was granted. Whether what it did not announce
    /// may be freed. Peers of earlier builds do not say how much was granted, and may end a report of many batches
    /// early. Where such a one has offered less than its join told, it keeps everything.
    ///
    /// # Errors
    ///
    /// The peer and this master count differently: nothing may be freed, and the peer has to report anew.
    pub(crate) fn on_end(&mut self, peer: PeerId, total: Option<&ShareSum>) -> Result<bool, Refusal> {
        let (granted, missing) = match self.members.get(&peer) {
            Some(Report::Open { granted, missing, .. }) => (granted, *missing),
            // An end that is repeated, or one that nobody waits for.
            Some(Report::Whole) => return Ok(false),
            None => return Err(Refusal::new(RefusalCode::NotJoined, "this peer is no member: join first")),
        };
        if let Some(total) = total.filter(|total| *total != granted) {
            let reason = if total.entries == granted.entries {
                format!("the report ends with {} names, and they are not those that were granted", total.entries)
            } else {
                format!("the report ends with {} names, and {} were granted", total.entries, granted.entries)
            };
            return Err(Refusal::new(RefusalCode::Differs, format!("{reason}: join and report again")));
        }
        self.members.insert(peer, Report::Whole);
        Ok(total.is_some() || missing == 0)
    }

    /// Whether a peer has told its whole share since it joined.
    pub(crate) fn is_whole(&self, peer: &PeerId) -> bool {
        self.members.get(peer) == Some(&Report::Whole)
    }

    /// How far a peer is, for [`Reports::put_back`].
    pub(crate) fn of(&self, peer: &PeerId) -> Option<Report> {
        self.members.get(peer).copied()
    }

    /// Undoes what a request that failed did; `None` forgets the peer.
    pub(crate) fn put_back(&mut self, peer: PeerId, report: Option<Report>) {
        match report {
            Some(report) => self.members.insert(peer, report),
            None => self.members.remove(&peer),
        };
    }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::{ContentId, Version};

    use super::*;

    fn entry(number: u64) -> ShareDigest {
        ShareDigest::of(&format!("file {number}"), &ContentId::of(b""), 0, Version(number))
    }

    fn sum(numbers: impl IntoIterator<Item = u64>) -> ShareSum {
        let mut sum = ShareSum::default();
        numbers.into_iter().for_each(|number| sum.add(&entry(number)));
        sum
    }

    #[test]
    fn a_report_ends_only_if_both_count_the_same() {
        let (mut reports, peer) = (Reports::default(), PeerId::random());
        reports.on_joined(peer, false, 3);
        (1..=3).for_each(|number| reports.on_granted(&peer, &entry(number)));
        for lie in [sum([]), sum(1..=2), sum(1..=4), sum([1, 2, 4]), ShareSum { entries: 1_000_000, ..sum([]) }] {
            assert_eq!(reports.on_end(peer, Some(&lie)).unwrap_err().code, RefusalCode::Differs);
            assert!(!reports.is_whole(&peer));
        }
        reports.on_lost(&peer, &entry(2));
        assert!(reports.on_end(peer, Some(&sum([1, 3]))).unwrap());
        assert!(reports.is_whole(&peer));
        assert!(!reports.on_end(peer, Some(&sum([1, 3]))).unwrap(), "once");
    }

    #[test]
    fn a_peer_of_an_earlier_build_ends_its_report_without_a_count() {
        let (mut reports, peer) = (Reports::default(), PeerId::random());
        assert_eq!(reports.on_end(peer, None).unwrap_err().code, RefusalCode::NotJoined);
        for (offers, frees) in [(3, true), (4, true), (2, false), (0, false)] {
            reports.on_joined(peer, false, 3);
            reports.on_offers(&peer, offers).unwrap();
            reports.on_granted(&peer, &entry(1));
            assert_eq!(reports.on_end(peer, None).unwrap(), frees, "{offers} of 3");
            assert!(reports.is_whole(&peer));
        }
    }

    #[test]
    fn a_report_that_never_ends_is_ended() {
        let (mut reports, peer) = (Reports::default(), PeerId::random());
        reports.on_joined(peer, false, 10_000);
        let batches = (0..10_000).take_while(|_| reports.on_offers(&peer, 1000).is_ok()).count();
        assert!((20..=200).contains(&batches), "{batches}");
        let empty = (0..u64::MAX).take_while(|_| reports.on_offers(&peer, 0).is_ok()).count();
        assert!(empty <= 1000);
        reports.on_joined(peer, true, 10_000);
        assert!((0..10_000).all(|_| reports.on_offers(&peer, 1000).is_ok()), "changes of a known share have no end");
    }

    #[test]
    fn what_fails_is_undone() {
        let (mut reports, peer) = (Reports::default(), PeerId::random());
        reports.on_joined(peer, false, 1);
        let before = reports.of(&peer);
        reports.on_granted(&peer, &entry(1));
        reports.put_back(peer, before);
        reports.on_end(peer, Some(&sum([]))).unwrap();
        reports.put_back(peer, None);
        assert_eq!(reports.of(&peer), None);
    }
}
