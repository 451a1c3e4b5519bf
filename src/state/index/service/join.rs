//! A peer joins.

use swarmdex_protocols::index::{Session, ShareSum};
use swarmdex_protocols::{Multiaddr, PeerId, Version};

use super::{Authority, Execution, Member};
use crate::state::index::rules::after;
use crate::state::index::{IndexTable, MemberRow, Noted, WriteOutcome};

impl<A: Authority, T: IndexTable> Execution<'_, A, T> {
    /// Begins a session of a peer that has such a share, was shown a grant of the version `seen`, and wants back what it
    /// left with.
    pub(super) fn join(
        &mut self,
        id: PeerId,
        addresses: &[Multiaddr],
        share: &ShareSum,
        seen: Version,
        again: bool,
    ) -> Result<WriteOutcome, T::Error> {
        let last = after(self.service.totals.last, seen, self.at.random);
        let before = self.table.member(&id)?;
        self.service.totals.last = last.next(self.at.unix_ms);
        let session = Session(self.service.totals.last.0);
        let held = match &before {
            Some(row) => row.held,
            // None, unless somebody else changed the table.
            None => self.table.count(&id)?,
        };
        self.table.put_member(&id, &MemberRow { session, held }, addresses)?;
        self.service.totals.peers += u64::from(before.is_none());
        let unchanged = held == *share;
        let again = self.returns(&id, share, again && !unchanged)?;
        self.service.reports.on_joined(id, unchanged, share.entries);
        let bare = self.table.has_bare(&id, false)? || again && self.table.has_bare(&id, true)?;
        let holding = self.holding(&Member { id, session, held });
        Ok(WriteOutcome::Joined { session, unchanged, again, bare, holding })
    }

    /// Whether a peer that joins left with just this share and is to have it back, if that is `wanted`. Whatever else it
    /// comes with, what was noted serves no more.
    fn returns(&mut self, id: &PeerId, share: &ShareSum, wanted: bool) -> Result<bool, T::Error> {
        let Some(noted) = self.table.departure(id)? else { return Ok(false) };
        let version = self.at.version_after(self.service.totals.last);
        let Some(departure) = noted.departure.on_joined(share, version).filter(|_| wanted) else {
            self.table.forget_departure(id)?;
            return Ok(false);
        };
        self.service.totals.last = version;
        self.table.set_departure(id, &Noted { departure, ..noted })?;
        Ok(true)
    }
}
