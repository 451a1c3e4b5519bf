//! Renews the lease and, with each renewal, sees whether master and node hold the same names; what differs is found and
//! put right.

use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Compare, IndexRequest, IndexResponse, RefusalCode, Renew};
use swarmdex_protocols::limits::MAX_REASON_BYTES;

use super::{Failed, Member, Membership, Renewed};
use crate::state::agreement::{Comparison, Differences};

/// Shortest pause between two renewals, whatever the master says.
const SHORTEST: Duration = Duration::from_millis(100);
/// Pause between renewals with a master of an earlier build, as a part of the lease.
const PART_OF_LEASE: u32 = 3;
/// Names that a line of the log gives as examples.
const EXAMPLES: usize = 3;

/// A notice, cut to what a reason may have.
fn shortened(mut notice: String) -> String {
    notice.truncate(notice.floor_char_boundary(MAX_REASON_BYTES));
    notice
}

impl Membership {
    /// Renews the lease, and compares where the master holds something else. An error ends the session.
    pub(super) async fn renew(&self, member: &mut Member) -> Result<Renewed, Failed> {
        let lease = self.context.standings.lease();
        member.renewal = tokio::time::Instant::now() + (lease / PART_OF_LEASE).max(SHORTEST);
        let Some(held) = self.context.standings.lock().granted() else { return Ok(Renewed::News) };
        let renew = Renew { session: member.session, held, repaired: member.repaired };
        let renewed = match self.ask(member.master, IndexRequest::Renew(renew)).await {
            Ok(IndexResponse::Renewed(renewed)) => renewed,
            Ok(_) => return Err(Failed::Misfit),
            // A master of an earlier build does not know renewals: what it granted last counts.
            Err(failed) if matches!(failed.code(), Some(RefusalCode::Unsupported | RefusalCode::Malformed)) => {
                self.context.standings.on_agreed(Instant::now(), false);
                return Ok(Renewed::Agreed);
            }
            Err(failed) => return Err(failed),
        };
        self.context.twins.on_notice(renewed.notice.map(shortened));
        let wait = Duration::from_millis(renewed.wait_ms).clamp(SHORTEST, lease.max(SHORTEST));
        if renewed.agreed {
            if member.repaired > 0 {
                tracing::warn!(
                    differed = member.repaired,
                    names = held.entries,
                    "the master and this node hold the same names again"
                );
            }
            member.repaired = 0;
            member.renewal = tokio::time::Instant::now() + wait;
            self.context.standings.on_agreed(Instant::now(), true);
            self.context.standings.restore().await;
            return Ok(Renewed::Agreed);
        }
        let Some(differences) = self.compare(member).await? else { return Ok(Renewed::Hopeless) };
        self.log_differences(&differences);
        member.repaired = member.repaired.saturating_add(differences.count() as u64);
        // What is wrong is told first; then both are to agree.
        member.renewal = tokio::time::Instant::now();
        self.context.standings.on_repaired(differences.count() as u64);
        self.context.standings.change(|announcer| announcer.on_differences(&differences));
        Ok(Renewed::News)
    }

    /// What differs; `None` if everything is to be told anew.
    async fn compare(&self, member: &Member) -> Result<Option<Differences>, Failed> {
        let mut comparison = Comparison::default();
        loop {
            let ranges = comparison.next_ranges(&*self.context.standings.lock());
            if ranges.is_empty() {
                return Ok(Some(comparison.finish()));
            }
            let compare = Compare { session: member.session, ranges };
            let IndexResponse::Compared(answers) = self.ask(member.master, IndexRequest::Compare(compare)).await?
            else {
                return Err(Failed::Misfit);
            };
            let outcome = comparison.on_compared(answers, &*self.context.standings.lock());
            if let Err(hopeless) = outcome {
                tracing::warn!(reason = %hopeless, "the master and this node do not hold the same names; everything is told anew");
                return Ok(None);
            }
        }
    }

    fn log_differences(&self, differences: &Differences) {
        let Differences { missing, surplus, other } = differences;
        let all = missing.iter().chain(surplus).chain(other);
        let examples: Vec<_> = all.take(EXAMPLES).map(|name| name.as_str()).collect();
        tracing::warn!(
            missing = missing.len(),
            surplus = surplus.len(),
            other = other.len(),
            ?examples,
            "the master does not hold the names that it granted to this node; they are told again"
        );
    }
}
