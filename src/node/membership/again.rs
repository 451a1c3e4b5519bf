//! Takes back what this node left with, and fetches the seals of it when there is time.

use std::time::Instant;

use swarmdex_protocols::index::{Again, IndexRequest, IndexResponse, RefusalCode, Seals};
use tokio::sync::watch;

use super::{Failed, Member, Membership, ReportOutcome};
use crate::clock::unix_ms;
use crate::node::life::Phase;
use crate::state::Now;
use crate::storage::shares::SharedEntry;

impl Membership {
    /// Has granted again what this node left with: `share`, part by part. An error ends the session.
    pub(super) async fn take_back(&self, member: &mut Member, share: &[SharedEntry]) -> Result<ReportOutcome, Failed> {
        let mut rest = share;
        while *self.context.phase.borrow() <= Phase::Runs {
            member.sequence.0 += 1;
            let again = Again { session: member.session, sequence: member.sequence };
            let returned = match self.ask(member.master, IndexRequest::Again(again)).await {
                Ok(IndexResponse::Returned(returned)) => returned,
                Ok(_) => return Err(Failed::Misfit),
                Err(failed) if failed.code() == Some(RefusalCode::Differs) => {
                    tracing::info!(
                        reason = failed.to_string(),
                        "what this node left with is not granted again at once; it is reported"
                    );
                    return Ok(ReportOutcome::Rejoin);
                }
                Err(failed) => return Err(failed),
            };
            let now = Now { mono: Instant::now(), unix_ms: unix_ms() };
            let entries = rest.iter().map(|entry| (&entry.name, &entry.content, entry.size));
            if !self.context.standings.change(|announcer| announcer.on_returned(entries, &returned, now)) {
                return Err(Failed::Misfit);
            }
            let Some(through) = &returned.through else {
                tracing::info!(version = returned.version.0, "what this node left with is granted again");
                break;
            };
            let dealt_with = rest.partition_point(|entry| entry.name.as_str() <= through.as_str());
            rest = rest.get(dealt_with..).unwrap_or_default();
        }
        Ok(ReportOutcome::All)
    }

    /// Fetches some seals. True if there may be something to tell the master.
    pub(super) async fn fetch_seals(&self, member: &Member, asked: &mut watch::Receiver<u64>) -> Result<bool, Failed> {
        let Some(from) = self.context.standings.lock().first_unsealed().map(|name| name.as_str().to_owned()) else {
            return Ok(false);
        };
        let seals = Seals { session: member.session, from };
        let IndexResponse::Sealed(sealed) = self.ask(member.master, IndexRequest::Seals(seals)).await? else {
            return Err(Failed::Misfit);
        };
        let before = *asked.borrow();
        let news = asked.has_changed().unwrap_or(true);
        let ((fits, due), number) = self.context.standings.change_at(|announcer| {
            let told = announcer.granted();
            let fits = announcer.on_sealed(sealed);
            (fits, announcer.granted() != told)
        });
        if !fits {
            return Err(Failed::Misfit);
        }
        self.context.standings.save().await;
        // New seals alone are nothing that the master does not know.
        let after = *asked.borrow_and_update();
        Ok(news || due || number != before + 1 || after != number)
    }
}
