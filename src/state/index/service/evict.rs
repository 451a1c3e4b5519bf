//! A member is gone: its names are freed, some at a time.

use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::Session;

use super::{Authority, Execution, Member};
use crate::state::index::again::Departure;
use crate::state::index::rules::evict;
use crate::state::index::{IndexTable, Noted, WriteOutcome};

impl<A: Authority, T: IndexTable> Execution<'_, A, T> {
    /// Frees the next names. If they are as many as a slice has there may be more.
    pub(super) fn evict(&mut self, id: PeerId) -> Result<WriteOutcome, T::Error> {
        let Some(mut member) = self.find(id)? else { return Ok(WriteOutcome::Evicted { names: 0 }) };
        self.depart(&member)?;
        let most = self.service.slices.evicted;
        let mut names = 0;
        for name in self.table.names_of(&id, None, Some(most))? {
            let change = evict(name, id, self.service.totals.last, self.at);
            self.change(&mut member, change)?;
            names += 1;
        }
        if names == most {
            self.table.set_held(&id, &member.held)?;
        } else {
            self.table.remove_member(&id)?;
            self.service.totals.peers = self.service.totals.peers.saturating_sub(1);
            self.service.reports.put_back(id, None);
            self.service.sequences.remove(&id);
        }
        Ok(WriteOutcome::Evicted { names })
    }

    /// Notes what a peer leaves with, unless its leaving goes on.
    fn depart(&mut self, member: &Member) -> Result<(), T::Error> {
        let Member { id, session, held } = member;
        if *session == Session::default() || held.entries == 0 {
            return Ok(());
        }
        if let Some(before) = self.table.departure(id)? {
            if before.session == *session {
                return Ok(());
            }
            // Names of an earlier departure are of no use any more.
            self.table.forget_departure(id)?;
        }
        let departure = Departure { sum: *held, version: None };
        let noted = Noted { session: *session, departure, through: String::new() };
        self.table.put_departure(id, &noted, self.at.unix_ms)
    }
}
