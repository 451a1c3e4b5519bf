//! Grants a peer that is back what it left with.

use std::collections::VecDeque;

use rusqlite::params;
use swarmdex_protocols::index::{Refusal, RefusalCode, Returned, ShareSum};
use swarmdex_protocols::limits::MAX_BATCH_ENTRIES;
use swarmdex_protocols::{Entry, Name, PeerId};

use super::apply::{Peer, View};
use super::{Failure, Sql, Writer};
use crate::state::again::{Left, grant_again};
use crate::state::index::Change;
use crate::storage::index::away::{self, Noted};
use crate::storage::index::{WriteOutcome, schema};

/// Names that are dealt with in one transaction: others do not wait for all of 200,000.
pub(super) const SLICE: usize = 4000;

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

impl Writer {
    /// A peer joins: whether it left with just this share and is to have it back, if that is `wanted`. Whatever else it
    /// comes with, what was noted serves no more.
    pub(super) fn returns(&mut self, id: &PeerId, share: &ShareSum, wanted: bool) -> Sql<bool> {
        let Some(noted) = away::noted(&self.connection, id)? else { return Ok(false) };
        let version = self.moment((self.options.clock)()).version_after(self.totals.last);
        let Some(departure) = noted.departure.on_joined(share, version).filter(|_| wanted) else {
            self.litter |= away::forget(&self.connection, id)?;
            return Ok(false);
        };
        self.totals.last = version;
        away::note(&self.connection, id, &Noted { departure, ..noted })?;
        Ok(true)
    }

    /// Grants the next part of what a peer left with.
    pub(super) fn again(&mut self, id: PeerId, neighbours: u64) -> Result<WriteOutcome, Failure> {
        let mut peer = self.member(id)?;
        let noted = away::noted(&self.connection, &id)?;
        let (Some(mut noted), Some(version)) = (
            noted.as_ref().map(|noted| Noted { through: noted.through.clone(), ..*noted }),
            noted.as_ref().and_then(|noted| noted.departure.version),
        ) else {
            return Err(differs());
        };
        let unix_ms = (self.options.clock)();
        let (items, all) = self.next_items(&peer, &noted)?;
        let (mut except, mut through) = (Vec::new(), None);
        let count = items.len();
        let mut done = 0;
        for item in items {
            if except.len() == MAX_BATCH_ENTRIES {
                break;
            }
            done += 1;
            noted.departure.take(item.entry());
            through = Some(item.name().as_str().to_owned());
            let entry = match item {
                Item::Left(left) => {
                    let view = View {
                        connection: &self.connection,
                        totals: &self.totals,
                        reports: &self.reports,
                        names_of_peer: peer.held.entries,
                        neighbours,
                    };
                    let again = grant_again(&view, &left, version, &self.options.limits)?;
                    if again.is_none() {
                        except.push(left.entry.name.as_str().to_owned());
                    }
                    again
                }
                Item::Held(entry) => Some(Entry { version, ..entry }),
            };
            if let Some(entry) = entry {
                self.change(&mut peer, Change::Put(entry), unix_ms)?;
            }
        }
        self.store(&peer)?;
        noted.through = through.clone().unwrap_or(noted.through);
        away::forget_names(&self.connection, &id, &noted)?;
        let end = all && done == count;
        if end {
            // Something was remembered otherwise, or is missing: the peer tells all of its share.
            if !noted.departure.is_whole() {
                return Err(differs());
            }
            away::forget(&self.connection, &id)?;
            self.reports.on_returned(id);
        } else {
            away::note(&self.connection, &id, &noted)?;
        }
        let returned = Returned { version, through: through.filter(|_| !end), except };
        Ok(WriteOutcome::Returned { returned, holding: self.holding(&peer) })
    }

    /// The next names in order, and whether there are no more.
    fn next_items(&self, peer: &Peer, noted: &Noted) -> Sql<(Vec<Item>, bool)> {
        let mut left: VecDeque<_> = away::names(&self.connection, &peer.id, noted, SLICE)?.into();
        let mut held: VecDeque<_> = self.held_from_before(peer, noted)?.into();
        let mut items = Vec::with_capacity(SLICE);
        while items.len() < SLICE {
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

    /// The next names that the peer has from its session before.
    fn held_from_before(&self, peer: &Peer, noted: &Noted) -> Sql<Vec<Entry>> {
        let sql = format!(
            "SELECT {} FROM names AS n WHERE n.owner = ?1 AND n.name > ?2 AND n.session < ?3 ORDER BY n.name LIMIT ?4",
            schema::ENTRY
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let limit = i64::try_from(SLICE).unwrap_or(i64::MAX);
        let mut rows =
            statement.query(params![peer.id.to_bytes(), noted.through, peer.session.0.cast_signed(), limit])?;
        let mut held = Vec::new();
        while let Some(row) = rows.next()? {
            match schema::entry(row) {
                Ok((_, entry)) => held.push(entry),
                // It is missing in the sum, then.
                Err(error) if schema::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }
}

fn differs() -> Failure {
    let reason = "what this peer left with is not remembered as it was: join and report it";
    Failure::Refused(Refusal::new(RefusalCode::Differs, reason))
}
