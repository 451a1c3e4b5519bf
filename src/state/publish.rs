//! What to publish to the mirror when, and at which nodes.
//!
//! Records go to the nodes closest to their keys. Asking the network for the closest nodes of each key would cost
//! a query of some dozen messages a record; but neighbouring keys have the same closest nodes. A [`Sweep`] goes
//! through due keys in the order of the key space, asks once for each region, and assigns every key of the region
//! from what it learned. (The idea of the "sweeping" provider of go-libp2p-kad-dht, 2025.)

mod due;
mod holders;
mod neighbourhood;
mod sweep;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holders::Holders;
pub(crate) use neighbourhood::Neighbourhood;
use swarmdex_protocols::check::{KeyMark, KeyRange};
use swarmdex_protocols::{PeerId, RecordKey, Statement};
pub(crate) use sweep::Sweep;
pub(crate) use wanted::{RecordChange, WantedRecords};

/// Place in the key space of Kademlia: the SHA-256 of a key or of a peer id.
pub(crate) type Position = [u8; 32];

/// Nodes that store each record: Kademlia's k.
pub(crate) const REPLICATION: usize = 20;
/// Records that wait for publication or its repetition, unless [`Publications::with_room`] allows for more.
pub(crate) const MAX_PUBLICATIONS: usize = 1_500_000;
/// What was left out is tried again once this part of them is free.
const ROOM: usize = 10;
/// Statements of others that wait to be published once, or to be tried again: about 900 bytes each. A master that grants more at a time
/// leaves the rest to their owners.
pub(crate) const MAX_PUSHED: usize = 1 << 15;
/// Keys that are to be withdrawn, at most: what finds no room ends with its lifetime.
pub(crate) const MAX_WITHDRAWALS: usize = 1 << 16;
/// How often a withdrawal is tried that not every node took. The last time is half a minute after the first.
pub(crate) const WITHDRAWAL_ATTEMPTS: u32 = 4;

/// Kademlia's distance.
pub(crate) fn distance(a: &Position, b: &Position) -> Position {
    std::array::from_fn(|index| a[index] ^ b[index])
}

/// Leading bits of a distance that are zero: as many leading bits two places share.
pub(crate) fn leading_zeros(distance: &Position) -> usize {
    let bytes = distance.iter().take_while(|byte| **byte == 0).count();
    bytes * 8 + distance.get(bytes).map_or(0, |byte| byte.leading_zeros() as usize)
}

/// `position` with all but the first `bits` bits replaced.
fn with_tail(position: &Position, bits: usize, tail: u8) -> Position {
    std::array::from_fn(|index| {
        let keep = bits.saturating_sub(index * 8).min(8) as u32;
        let mask = 0xffu8.checked_shr(keep).unwrap_or(0);
        (position[index] & !mask) | (tail & mask)
    })
}

/// Where keys and nodes are in the key space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeySpace {
    /// Of a key.
    pub key: fn(&RecordKey) -> Position,
    /// Of a node.
    pub peer: fn(&PeerId) -> Position,
}

/// What is published under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A statement about a name.
    Statement(Arc<Statement>),
    /// That this node is found under the key.
    Provide,
    /// That it no longer is.
    Withdraw,
}

#[derive(Debug)]
struct Publication {
    what: What,
    due: Instant,
    /// Attempts in a row that no other node took, and whether none had room the last time.
    failures: u32,
    refused: bool,
    /// Whether it is published once only: somebody else repeats it.
    once: bool,
    /// Nodes that stored it the last time, and those of them that are to be asked whether they still do.
    copies: u32,
    holders: Box<[u16]>,
    /// Which of these are new, a bit for each in their order, and since which round: they count once they said that they hold it.
    new: u32,
    since: u64,
}

/// Everything that this node publishes, and when it is due again.
#[derive(Debug)]
pub(crate) struct Publications {
    interval: Duration,
    most: usize,
    turn: u8,
    masterless: bool,
    /// When what the master may not have published is due if it stays lost, and since when it is; and when that was the last time.
    hurry: Option<(Instant, Instant)>,
    hurried: Option<Instant>,
    items: BTreeMap<RecordKey, Publication>,
    due: BTreeSet<(Instant, RecordKey)>,
    /// How many of the items are withdrawals, and how many some node stored.
    withdrawals: usize,
    published: usize,
    /// How many of the items are published once.
    once: usize,
    /// How many found no room since everything was last wanted anew, and how many found none at other nodes.
    left_out: usize,
    refused: usize,
    holders: Holders,
    /// Rounds in which holders were asked.
    rounds: u64,
    /// When something was last wanted that was not before.
    changed: Option<Instant>,
    /// No statement expires before, in milliseconds since 1970.
    first_end: u64,
}

impl Publications {
    /// Nothing yet; what lasts is published every `interval`.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            most: MAX_PUBLICATIONS,
            turn: 0,
            masterless: false,
            hurry: None,
            hurried: None,
            items: BTreeMap::new(),
            due: BTreeSet::new(),
            withdrawals: 0,
            published: 0,
            once: 0,
            left_out: 0,
            refused: 0,
            holders: Holders::default(),
            rounds: 1,
            changed: None,
            first_end: u64::MAX,
        }
    }

    /// Makes room for this many records, if that is more: whoever allows for larger shares has more to publish.
    pub(crate) fn with_room(mut self, records: usize) -> Self {
        self.most = self.most.max(records);
        self
    }

    /// Sets the turn of the node, out of 256: nodes that came at once do not publish at once.
    pub(crate) fn with_turn(mut self, turn: u8) -> Self {
        self.turn = turn;
        self
    }

    /// Publishes a statement as soon as possible, and once: somebody else repeats it, or it is pushed again.
    pub(crate) fn push(&mut self, key: RecordKey, statement: Statement, now: Instant) {
        let what = statement_of(statement);
        match self.items.get(&key) {
            // A later statement about the name replaces the earlier.
            Some(held) if rank(&held.what) >= rank(&what) => {}
            // Its owner publishes it, or it is pushed again.
            None if self.once - self.withdrawals >= MAX_PUSHED => {}
            _ => {
                self.changed = Some(now);
                self.insert(key, what, true, now);
            }
        }
    }

    fn insert(&mut self, key: RecordKey, what: What, once: bool, due: Instant) {
        if self.items.len() >= self.most && !self.items.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        self.remove(&key);
        self.withdrawals += usize::from(what == What::Withdraw);
        self.once += usize::from(once);
        self.first_end = self.first_end.min(end_of(&what));
        self.items.insert(
            key,
            Publication {
                what,
                due,
                failures: 0,
                refused: false,
                once,
                copies: 0,
                holders: Box::default(),
                new: 0,
                since: 0,
            },
        );
        self.due.insert((due, key));
    }

    fn remove(&mut self, key: &RecordKey) -> Option<Publication> {
        let item = self.items.remove(key)?;
        self.due.remove(&(item.due, *key));
        self.withdrawals -= usize::from(item.what == What::Withdraw);
        self.once -= usize::from(item.once);
        self.published -= usize::from(item.copies > 0);
        self.refused -= usize::from(item.refused);
        let mark = mark(key, &item.what);
        item.holders.iter().for_each(|number| self.holders.remove(*number, mark));
        Some(item)
    }

    /// What is no longer wanted: nodes that may have stored that this node is found so are told.
    fn give_up(&mut self, key: RecordKey, now: Instant) {
        let Some(dropped) = self.remove(&key) else { return };
        let tried = dropped.copies > 0 || dropped.failures > 0;
        if dropped.what == What::Provide && tried && self.withdrawals < self.withdrawals_limit() {
            self.insert(key, What::Withdraw, true, now);
        }
    }

    fn withdrawals_limit(&self) -> usize {
        self.most.min(MAX_WITHDRAWALS)
    }

    /// What is to be published under a key from now on, again and again. What is new or changed is due at once. What is
    /// no longer wanted is dropped, and withdrawn where this node was to be found by it.
    pub(crate) fn want(&mut self, key: RecordKey, what: Option<What>, now: Instant) {
        let held = self.items.get_mut(&key);
        let Some(what) = what else {
            // What is published once is somebody else's to repeat.
            if held.is_some_and(|held| !held.once) {
                self.give_up(key, now);
            }
            return;
        };
        if let Some(held) = held
            && held.what == what
        {
            self.once -= usize::from(std::mem::take(&mut held.once));
        } else {
            let granted =
                matches!(&what, What::Statement(statement) if matches!(**statement, Statement::Certificate(_)));
            let due = if granted && !self.masterless { self.after_the_master(&key, now) } else { now };
            self.changed = Some(now);
            self.insert(key, what, false, due);
        }
    }

    /// Whether anything was published since that was not there before: a node that could not be reached meanwhile may lack it.
    pub(crate) fn has_changed_since(&self, since: Instant) -> bool {
        self.changed.is_some_and(|changed| changed >= since)
    }

    /// How many wait for room at other nodes.
    pub(crate) fn refused(&self) -> usize {
        self.refused
    }

    /// These nodes stored what was due: they are asked from now on whether they still do.
    pub(crate) fn on_held<'a>(&mut self, key: &RecordKey, what: &What, nodes: impl Iterator<Item = &'a PeerId>) {
        let Some(item) = self.items.get_mut(key).filter(|item| item.what == *what && !item.once) else { return };
        let mark = mark(key, what);
        let before = std::mem::take(&mut item.holders);
        item.holders = nodes.take(REPLICATION).filter_map(|node| self.holders.add(node, mark)).collect();
        let unsure = unsure(&before, item.new, item.since, &self.holders);
        item.count(|number| !before.contains(number) || unsure.contains(number), self.rounds);
        for number in item.holders.iter().filter(|number| !before.contains(number)) {
            self.holders.on_new(*number, self.rounds);
        }
        before.iter().for_each(|number| self.holders.remove(*number, mark));
    }

    /// Whether some node is to be asked soon whether it holds what it was just sent.
    pub(crate) fn has_unasked(&self) -> bool {
        self.holders.has_unasked()
    }

    /// What the node with this number said in this round: that it holds all that it stored, or that it does not.
    pub(crate) fn on_asked(&mut self, number: u16, holds: bool) {
        self.holders.on_asked(number, holds);
    }

    /// Copies of records at other nodes that said afterwards that they hold them: the mean, and the fewest of any record
    /// that this node published itself.
    pub(crate) fn confirmed_copies(&self) -> (f64, usize) {
        let (mut records, mut sum, mut fewest) = (0usize, 0usize, usize::MAX);
        // What the master published for this node is not counted: nobody said where it is.
        let own = |item: &&Publication| !item.once && (item.copies > 0 || item.failures > 0);
        for item in self.items.values().filter(own) {
            let unsure = unsure(&item.holders, item.new, item.since, &self.holders);
            let holds = |number: &&u16| self.holders.is_confirmed(**number, 0) && !unsure.contains(number);
            let copies = item.holders.iter().filter(holds).count();
            (records, sum, fewest) = (records + 1, sum + copies, fewest.min(copies));
        }
        if records == 0 { (0.0, 0) } else { (sum as f64 / records as f64, fewest) }
    }

    /// Begins a round: whom to ask whether they still hold what they stored, by number. `all`, or those that stored something
    /// new since they were asked.
    pub(crate) fn round(&mut self, all: bool) -> BTreeMap<u16, PeerId> {
        self.rounds += 1;
        self.holders.round(self.rounds, all)
    }

    /// What the node with this number stored, as one range: if it says the same, nothing else has to be looked at.
    pub(crate) fn sum_of(&self, number: u16) -> Option<KeyRange> {
        let (count, digest) = self.holders.sum(number)?;
        KeyRange::whole(count, digest)
    }

    /// What the node with this number stored.
    pub(crate) fn held_by(&self, number: u16) -> Vec<(RecordKey, What)> {
        let held = self.items.iter().filter(|(_, item)| item.holders.contains(&number));
        held.map(|(key, item)| (*key, item.what.clone())).collect()
    }

    /// What a node that came is to hold. It is closer to these keys than a node that stored them. Or, where others
    /// published for this node, it is one of the closest of `known`: the positions of the nodes that this one knows of,
    /// itself included.
    pub(crate) fn belonging(&self, node: &Position, known: &[Position], places: &KeySpace) -> Vec<(RecordKey, What)> {
        let holders = self.holders.positions(places.peer);
        let around = Neighbourhood::around(node, known);
        let belongs = |(key, item): &(&RecordKey, &Publication)| {
            if item.once || item.what == What::Withdraw {
                return false;
            }
            let key = (places.key)(key);
            if item.holders.len() < REPLICATION {
                return around.belongs(&key);
            }
            let own = distance(node, &key);
            let farther = |number: &u16| holders.get(number).is_none_or(|holder| distance(holder, &key) > own);
            item.holders.iter().any(farther)
        };
        let belonging = self.items.iter().filter(belongs);
        belonging.map(|(key, item)| (*key, item.what.clone())).collect()
    }

    /// A node holds these now, in place of the one that is farthest from the key if there are enough.
    pub(crate) fn on_came(&mut self, node: &PeerId, keys: impl IntoIterator<Item = RecordKey>, places: &KeySpace) {
        let mut positions = self.holders.positions(places.peer);
        for key in keys {
            let Some(item) = self.items.get_mut(&key).filter(|item| !item.once) else { continue };
            let mark = mark(&key, &item.what);
            let Some(number) = self.holders.add(node, mark) else { break };
            positions.entry(number).or_insert_with(|| (places.peer)(node));
            let mut held = std::mem::take(&mut item.holders).into_vec();
            let unsure = unsure(&held, item.new, item.since, &self.holders);
            let is_new = !held.contains(&number);
            if is_new {
                held.push(number);
            } else {
                self.holders.remove(number, mark);
            }
            if held.len() > REPLICATION {
                let key = (places.key)(&key);
                held.sort_by_key(|number| positions.get(number).map(|position| distance(position, &key)));
                held.drain(REPLICATION..).for_each(|number| self.holders.remove(number, mark));
            }
            item.holders = held.into();
            item.count(|held| is_new && *held == number || unsure.contains(held), self.rounds);
        }
        // It counts once it is read back.
        if let Some(number) = self.holders.number(node) {
            self.holders.on_new(number, self.rounds);
        }
    }

    /// A node says that this one is found under a key although it is not: from an earlier run, say. Nodes are told.
    pub(crate) fn withdraw(&mut self, key: RecordKey, now: Instant) {
        if !self.items.contains_key(&key) && self.withdrawals < self.withdrawals_limit() {
            self.insert(key, What::Withdraw, true, now);
        }
    }

    /// Number of records, withdrawals not counted, and of those that some node stored.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.items.len() - self.withdrawals, self.published)
    }

    /// How many that are wanted found no room.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether there is room again for what was left out: then everything is to be wanted anew.
    pub(crate) fn has_room_again(&mut self) -> bool {
        let again = self.left_out > 0 && self.items.len() + self.most / ROOM <= self.most;
        if again {
            self.left_out = 0;
        }
        again
    }

    /// Keys that are being withdrawn.
    pub(crate) fn withdrawals(&self) -> usize {
        self.withdrawals
    }

    /// Drops statements that have expired.
    pub(crate) fn expire(&mut self, unix_ms: u64) {
        if unix_ms <= self.first_end {
            return;
        }
        let over = self.items.iter().filter(|(_, item)| end_of(&item.what) < unix_ms);
        for key in over.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.remove(&key);
        }
        self.first_end = self.items.values().map(|item| end_of(&item.what)).min().unwrap_or(u64::MAX);
    }
}

/// When it expires, in milliseconds since 1970.
fn end_of(what: &What) -> u64 {
    match what {
        What::Statement(statement) => statement.expires_ms(),
        What::Provide | What::Withdraw => u64::MAX,
    }
}

fn statement_of(statement: Statement) -> What {
    What::Statement(Arc::new(statement))
}

impl Publication {
    /// Notes which of its holders are to say first that they hold it, from this round on.
    fn count(&mut self, is_new: impl Fn(&u16) -> bool, round: u64) {
        let bits = self.holders.iter().enumerate().filter(|(_, number)| is_new(number)).map(|(at, _)| 1 << at);
        self.new = bits.sum();
        if self.new != 0 {
            self.since = round;
        }
    }
}

/// The holders of a record that have not said yet that they hold it.
fn unsure(held: &[u16], new: u32, since: u64, holders: &Holders) -> Vec<u16> {
    let numbers = held.iter().enumerate().filter(|(at, _)| new >> at & 1 == 1).map(|(_, number)| *number);
    numbers.filter(|number| !holders.is_confirmed(*number, since)).collect()
}

/// What tells one item from another.
pub(super) fn mark(key: &RecordKey, what: &What) -> KeyMark {
    match what {
        What::Statement(statement) => KeyMark::statement(key, statement),
        What::Provide | What::Withdraw => KeyMark::provided(key),
    }
}

fn rank(what: &What) -> Option<(swarmdex_protocols::statement::Rank, u64)> {
    match what {
        What::Statement(statement) => statement.rank().map(|rank| (rank, statement.expires_ms())),
        What::Provide | What::Withdraw => None,
    }
}
