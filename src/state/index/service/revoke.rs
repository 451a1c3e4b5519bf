//! A member gives names up.

use swarmdex_protocols::{Name, PeerId, Version};

use super::{Authority, Done, Execution};
use crate::state::index::rules::{evict, revoke};
use crate::state::index::{IndexTable, WriteOutcome};

impl<A: Authority, T: IndexTable> Execution<'_, A, T> {
    pub(super) fn revoke(&mut self, id: PeerId, names: &[String]) -> Done<WriteOutcome, T::Error> {
        let mut member = self.member(id)?;
        let mut outcomes = Vec::with_capacity(names.len());
        for name in names {
            let (outcome, change) = revoke(&self.view(&member, 0), id, name, self.at)?;
            if let Some(change) = change {
                self.change(&mut member, change)?;
            }
            outcomes.push(outcome);
        }
        self.table.set_held(&id, &member.held)?;
        Ok(WriteOutcome::Revoked { outcomes, holding: self.holding(&member) })
    }

    /// Frees names that a member gave up while it could not tell, if it still holds them at just these versions.
    pub(super) fn free_overtaken(&mut self, id: PeerId, names: &[(Name, Version)]) -> Done<WriteOutcome, T::Error> {
        let mut member = self.member(id)?;
        for (name, version) in names {
            let held = self.table.take_up(name)?.map(|row| (row.entry.owner, row.entry.version));
            if held == Some((id, *version)) {
                let change = evict(name.clone(), id, self.service.totals.last, self.at);
                self.change(&mut member, change)?;
            }
        }
        self.table.set_held(&id, &member.held)?;
        Ok(WriteOutcome::Revoked { outcomes: Vec::new(), holding: self.holding(&member) })
    }
}
