//! What this node stores in a part of the key space, for a node that came there; and what such a node takes over.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use swarmdex_protocols::limits::{MAX_MIRROR_KEYS, MAX_OTHER_ADDRESSES, MAX_PROVIDERS, MAX_STOCK_STATEMENTS};
use swarmdex_protocols::mirror::{KeySpacePart, Provider, Stock, StoreVerdict};
use swarmdex_protocols::{Multiaddr, PeerId, RecordKey, Statement};

use super::{Distance, Incoming, RecordLimits, Records};
use crate::state::Now;
use crate::state::publish::{Position, distance, leading_zeros};

/// Entries that are looked at for one page: some milliseconds of hashing keys.
pub(crate) const LOOKED_AT: usize = 16 * 1024;
/// Statements about one name.
const STATEMENTS_OF_NAME: usize = 2;

/// A page while it is being filled.
struct Page {
    stock: Stock,
    numbers: BTreeMap<PeerId, u16>,
    now: Instant,
}

impl Page {
    fn has_room(&self, pairs: usize) -> bool {
        self.stock.statements.len() + STATEMENTS_OF_NAME <= MAX_STOCK_STATEMENTS
            && self.stock.pairs.len() + pairs <= MAX_MIRROR_KEYS
            && self.stock.nodes.len() + pairs <= MAX_PROVIDERS
    }

    /// Seconds until something ends, rounded down: nothing lasts longer for being handed on.
    fn seconds(&self, ends: Instant) -> u32 {
        u32::try_from(ends.saturating_duration_since(self.now).as_secs()).unwrap_or(u32::MAX)
    }

    fn pair(&mut self, key: RecordKey, peer: PeerId, addresses: &[Multiaddr], ends: Instant) {
        let number = match self.numbers.get(&peer) {
            Some(number) => *number,
            None => {
                let Ok(number) = u16::try_from(self.stock.nodes.len()) else { return };
                let addresses = addresses.iter().take(MAX_OTHER_ADDRESSES).cloned().collect();
                self.stock.nodes.push(Provider { peer, addresses });
                self.numbers.insert(peer, number);
                number
            }
        };
        self.stock.pairs.push((key, number, self.seconds(ends)));
    }
}

impl Records {
    /// The next page of what lies in a part of the key space; `place` says where a key is.
    pub(crate) fn stock(&self, part: &KeySpacePart, place: fn(&RecordKey) -> Position, now: Now) -> Stock {
        let mut page = Page { stock: Stock::default(), numbers: BTreeMap::new(), now: now.mono };
        let lies_there = |key: &RecordKey| leading_zeros(&distance(&place(key), &part.place)) >= usize::from(part.bits);
        let from = part.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut slots = self.slots.range((from, Bound::Unbounded)).peekable();
        let mut pairs = self.providers.after(part.after).peekable();
        let (mut looked, mut last) = (0, None);
        loop {
            let heads = [slots.peek().map(|(key, _)| **key), pairs.peek().map(|(key, ..)| *key)];
            let Some(key) = heads.into_iter().flatten().min() else { return page.stock };
            let slot = slots.next_if(|(head, _)| **head == key);
            let found: Vec<_> = std::iter::from_fn(|| pairs.next_if(|(head, ..)| *head == key)).collect();
            looked += usize::from(slot.is_some()) + found.len();
            if lies_there(&key) {
                if !page.has_room(found.len()) {
                    break;
                }
                if let Some((_, slot)) = slot {
                    let ledger = slot.ledger();
                    let ends = |statement: &Statement| match statement {
                        Statement::Claim(_) => slot.claimed,
                        _ => slot.settled,
                    };
                    let held = ledger.statements().filter_map(|statement| Some((ends(&statement)?, statement)));
                    let held: Vec<_> = held.map(|(ends, statement)| (statement, page.seconds(ends))).collect();
                    page.stock.statements.extend(held.into_iter().filter(|(_, left)| *left > 0));
                }
                for (key, peer, addresses, ends) in found.into_iter().filter(|(.., ends)| *ends > now.mono) {
                    page.pair(key, peer, addresses, ends);
                }
            }
            last = Some(key);
            if looked >= LOOKED_AT {
                break;
            }
        }
        page.stock.next = last;
        page.stock
    }

    /// Takes over a statement that was verified, which another node still stores for so long.
    pub(crate) fn adopt(
        &mut self,
        key: RecordKey,
        distance: Distance,
        statement: Statement,
        sender: PeerId,
        left: Duration,
        now: Now,
    ) -> StoreVerdict {
        let ends = now.mono + left.min(self.lifetime(&statement, now));
        self.take_in(Incoming { key, distance, statement, sender, own: false, ends }, now)
    }

    /// Lets a node be found under a key for as long as others do; what it said itself stays as it is. False if there is no
    /// room.
    pub(crate) fn adopt_provider(
        &mut self,
        key: RecordKey,
        peer: PeerId,
        addresses: &[Multiaddr],
        left: Duration,
        now: Now,
    ) -> bool {
        let limits = RecordLimits { lifetime: left.min(self.limits.lifetime), ..self.limits };
        let taken = self.providers.adopt(key, peer, addresses, &limits, now.mono);
        if taken == Some(true) {
            self.schedule(now);
        }
        taken.is_some()
    }
}

#[cfg(test)]
mod tests;
