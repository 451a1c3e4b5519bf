//! Renewals and comparisons: does the index hold what a member says?

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use libp2p::PeerId;
use swarmdex_protocols::index::{
    Compare, Compared, IndexRequest, IndexResponse, Range, Refusal, RefusalCode, Renew, Renewed,
};
use swarmdex_protocols::limits::MAX_COMPARED_RANGES;

use super::super::renewals;
use super::{Done, DoneKind, IndexStep, Master, Outcome};
use crate::state::lease::Holding;
use crate::storage::index::{CompareStep, IndexStore, ReadOp, ReadOutcome};

/// Comparisons at a time, of all members; each keeps the reader busy for some tens of milliseconds at a time.
const MAX_COMPARING: usize = 4;

impl Master {
    /// Answers from memory: ten thousand members renew every few seconds.
    pub(super) fn renew(&mut self, peer: &PeerId, renew: &Renew, now: Instant) -> Outcome<IndexResponse> {
        let renewal = self.leases.on_renew(peer, renew.session, &renew.held).inspect_err(|refusal| {
            tracing::warn!(%peer, reason = refusal.reason, "a renewal is refused");
        })?;
        let (theirs, ours) = (renew.held.entries, renewal.held.entries);
        if !renewal.agreed {
            tracing::warn!(%peer, theirs, ours, "this index and a peer do not hold the same names; they are compared");
        } else if renew.repaired > 0 {
            tracing::warn!(%peer, differed = renew.repaired, names = ours, "this index and a peer hold the same names again");
        }
        let notice = self.runs.twin_notice(peer, now);
        self.leases.set_notice(peer, notice.is_some());
        Ok(renewed(renewal.agreed, renewal.wait, notice))
    }

    /// Answers the renewals of a member that need no more than a look, until one does. The lease itself is renewed by the
    /// pings on the same connection.
    pub(in crate::net) fn standing_answer(&self, peer: &PeerId) -> Option<renewals::StandingAnswer> {
        let standing = self.leases.standing_answer(peer)?;
        Some(Arc::new(move |request| {
            let IndexRequest::Renew(renew) = request else { return None };
            let wait = standing.agrees(renew)?;
            Some(renewed(true, wait, None))
        }))
    }

    /// Waits until the index was found to hold something else than its last answers said.
    pub(in crate::net) async fn found(&self) {
        self.store.found().await;
    }

    /// What the index was found to hold, if that is not what its last answer said.
    pub(in crate::net) fn take_corrected(&mut self, now: Instant) {
        for (peer, holding) in self.store.take_corrected() {
            self.set_holding(&peer, holding, now);
        }
        // Whoever is no member in the database any more has to join: one that joined a moment ago does so once more.
        if let Some(members) = self.store.take_members() {
            let gone: Vec<_> = self.leases.peers_after(None).filter(|peer| !members.contains(peer)).collect();
            gone.iter().for_each(|peer| self.leases.end_session(peer));
        }
    }

    /// A peer that is no member but holds names gets a lease to come back in.
    pub(super) fn set_holding(&mut self, peer: &PeerId, holding: Holding, now: Instant) {
        if self.leases.get(peer).is_none() {
            self.leases.restore([(*peer, Vec::new(), holding)], now);
        }
        self.leases.set_holding(peer, holding);
    }

    pub(super) fn compare(&mut self, peer: PeerId, Compare { session, ranges }: Compare) -> Outcome<IndexStep> {
        check_ranges(&ranges)?;
        if self.comparing >= MAX_COMPARING {
            return Err(Refusal::new(RefusalCode::Busy, "the master compares names with other peers; ask again"));
        }
        let most = self.leases.admit_comparison(&peer, session)?;
        self.comparing += 1;
        let store = self.store.clone();
        let comparing = async move {
            let (answers, looks) = compare_ranges(&store, peer, ranges, most).await;
            Done { peer, outcome: Ok(DoneKind::Compared(answers, looks)) }
        };
        Ok(IndexStep::Wait(comparing.boxed()))
    }
}

fn renewed(agreed: bool, wait: Duration, notice: Option<String>) -> IndexResponse {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    IndexResponse::Renewed(Renewed { agreed, wait_ms, notice })
}

/// Compares one range after the other, each in steps between which the index answers others. Also how many names
/// were looked at.
async fn compare_ranges(
    store: &IndexStore,
    peer: PeerId,
    ranges: Vec<Range>,
    most: u64,
) -> (Outcome<Vec<Compared>>, u64) {
    let (mut answers, mut before) = (Vec::with_capacity(ranges.len()), 0);
    for range in ranges {
        let mut step = CompareStep::new(peer, range);
        loop {
            let looks = before + step.looks();
            if looks > most {
                return (
                    Err(Refusal::new(RefusalCode::Quota, "too many names are compared: join and report anew")),
                    looks,
                );
            }
            let next = async {
                let stopping = |_| Refusal::new(RefusalCode::Busy, "the master is stopping");
                match store.try_read(ReadOp::Compare(step))?.await.map_err(stopping)?? {
                    ReadOutcome::Compared(step) => Ok(step),
                    _ => Err(Refusal::new(RefusalCode::Storage, "the names could not be compared")),
                }
            };
            step = match next.await {
                Ok(step) => step,
                Err(refusal) => return (Err(refusal), looks),
            };
            let looks = step.looks();
            match step.finish() {
                Ok(answer) => {
                    before += looks;
                    answers.push(answer);
                    break;
                }
                Err(more) => step = more,
            }
        }
    }
    (Ok(answers), before)
}

/// Ranges come in order and apart, so that no name is looked at twice for one request.
fn check_ranges(ranges: &[Range]) -> Outcome<()> {
    let refused = |reason: &str| Err(Refusal::new(RefusalCode::Malformed, reason));
    if ranges.is_empty() || ranges.len() > MAX_COMPARED_RANGES {
        return refused("a comparison has 1 to 16 ranges");
    }
    let ends = ranges.iter().all(|range| range.to.as_ref().is_none_or(|to| range.from < *to));
    let apart = ranges.windows(2).all(|pair| matches!(pair, [a, b] if a.to.as_ref().is_some_and(|to| *to <= b.from)));
    if ends && apart { Ok(()) } else { refused("the ranges of a comparison are not in order and apart") }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::index::ShareSum;

    use super::*;

    fn range(from: &str, to: Option<&str>) -> Range {
        Range { from: from.to_owned(), to: to.map(str::to_owned), held: ShareSum::default() }
    }

    #[test]
    fn ranges_have_to_be_in_order_and_apart() {
        let good = [vec![range("", None)], vec![range("", Some("a")), range("a", Some("b")), range("c", None)]];
        assert!(good.iter().all(|ranges| check_ranges(ranges).is_ok()));
        let bad = [
            vec![],
            vec![range("", None); 2],
            vec![range("b", Some("a"))],
            vec![range("a", Some("a"))],
            vec![range("a", Some("c")), range("b", Some("d"))],
            vec![range("c", Some("d")), range("a", Some("b"))],
            (0..=MAX_COMPARED_RANGES)
                .map(|number| range(&format!("{number:02}"), Some(&format!("{number:02}a"))))
                .collect(),
        ];
        for ranges in bad {
            assert_eq!(check_ranges(&ranges).unwrap_err().code, RefusalCode::Malformed, "{ranges:?}");
        }
    }
}
