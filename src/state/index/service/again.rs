//! Grants a peer that is back what it left with.

use std::collections::VecDeque;

use swarmdex_protocols::index::{Refusal, RefusalCode, Returned};
use swarmdex_protocols::{Entry, Name, PeerId, Version};

use super::{Authority, Done, Execution, Failure, Member};
use crate::state::index::again::{Left, grant_again};
use crate::state::index::{IndexTable, Noted, WriteOutcome};

/// A name that a peer left with, or still has: it was back before all of them were freed.
enum Item {
    Left(Left),
    Held(Entry),
}

impl Item {
    fn entry(&self) -> &Entry {
        match self {
            Self::Left(left) => &left.entry,
            Self::Held(entry) => entry,
        }
    }

    fn name(&self) -> &Name {
        &self.entry().name
    }
}

impl<A: Authority, T: IndexTable> Execution<'_, A, T> {
    /// Grants the next part of what a peer left with.
    pub(super) fn again(&mut self, id: PeerId, neighbours: u64) -> Done<WriteOutcome, T::Error> {
        let mut member = self.member(id)?;
        let Some(mut noted) = self.table.departure(&id)? else { return Err(differs()) };
        let Some(version) = noted.departure.version else { return Err(differs()) };
        let (items, all) = self.next_items(&member, &noted)?;
        let (mut except, mut through) = (Vec::new(), None);
        let count = items.len();
        let mut done = 0;
        for item in items {
            if except.len() == self.service.slices.except {
                break;
            }
            done += 1;
            noted.departure.take(item.entry());
            through = Some(item.name().as_str().to_owned());
            except.extend(self.give_back(&mut member, item, version, neighbours)?);
        }
        self.table.set_held(&id, &member.held)?;
        noted.through = through.clone().unwrap_or(noted.through);
        self.table.forget_left(&id, &noted)?;
        let end = all && done == count;
        if end {
            // Something was remembered otherwise, or is missing: the peer tells all of its share.
            if !noted.departure.is_whole() {
                return Err(differs());
            }
            self.table.forget_departure(&id)?;
            self.service.reports.on_returned(id);
        } else {
            self.table.set_departure(&id, &noted)?;
        }
        let returned = Returned { version, through: through.filter(|_| !end), except };
        Ok(WriteOutcome::Returned { returned, holding: self.holding(&member) })
    }

    /// Grants one name again, or returns it: its owner cannot have it back.
    fn give_back(
        &mut self,
        member: &mut Member,
        item: Item,
        version: Version,
        neighbours: u64,
    ) -> Done<Option<String>, T::Error> {
        let entry = match item {
            Item::Left(left) => {
                let again = grant_again(&self.view(member, neighbours), &left, version, &self.service.limits)?;
                let Some(entry) = again else { return Ok(Some(left.entry.name.as_str().to_owned())) };
                entry
            }
            Item::Held(entry) => Entry { version, ..entry },
        };
        self.put(member, &entry)?;
        Ok(None)
    }

    /// The next names in order, and whether there are no more.
    fn next_items(&self, member: &Member, noted: &Noted) -> Result<(Vec<Item>, bool), T::Error> {
        let most = self.service.slices.again;
        let mut left: VecDeque<_> = self.table.left(&member.id, noted, most)?.into();
        let mut held: VecDeque<_> = self.table.entries_of(&member.id, &noted.through, member.session, most)?.into();
        let mut items = Vec::with_capacity(most);
        while items.len() < most {
            let next = match (left.front(), held.front()) {
                (Some(a), Some(b)) if b.name < a.entry.name => held.pop_front().map(Item::Held),
                (Some(_), _) => left.pop_front().map(Item::Left),
                (None, _) => held.pop_front().map(Item::Held),
            };
            let Some(item) = next else { return Ok((items, true)) };
            items.push(item);
        }
        Ok((items, false))
    }
}

fn differs<E>() -> Failure<E> {
    let reason = "what this peer left with is not remembered as it was: join and report it";
    Failure::Refused(Refusal::new(RefusalCode::Differs, reason))
}
