//! Whether the nodes that store what this node publishes still do, asked between its repetitions.
//!
//! A node is asked about just what it said that it stored, by count and digest of ranges of keys; only ranges that
//! differ are looked into. At rest that is one message a node, of a hundred bytes.

use std::collections::{BTreeMap, BTreeSet};

use swarmdex_protocols::RecordKey;
use swarmdex_protocols::check::{Compared, Mark, Range};
use swarmdex_protocols::limits::{MAX_MIRROR_HELD, MAX_MIRROR_RANGES};

use super::publish::{What, mark};

/// Messages to one node in one round.
const MESSAGES: usize = 64;
/// Items sent again to one node in one round, and keys withdrawn there: whoever lies costs no more. What is left differs
/// in the next round, too.
pub const MAX_REPAIRS: usize = 4096;
/// Items that a range is to have after it was divided.
const ITEMS_A_RANGE: usize = MAX_MIRROR_HELD / 4;

/// A comparison with one node: what to ask it, and what comes of its answers.
#[derive(Debug)]
pub struct Comparison {
    items: BTreeMap<RecordKey, (What, Mark)>,
    /// Ranges still to compare, by their first key.
    ranges: BTreeMap<RecordKey, RecordKey>,
    messages: usize,
    missing: BTreeSet<RecordKey>,
    surplus: BTreeSet<RecordKey>,
}

impl Comparison {
    /// Of these items: what the node said that it stores.
    pub fn new(items: impl IntoIterator<Item = (RecordKey, What)>) -> Self {
        let marked = |(key, what): (RecordKey, What)| {
            let mark = mark(&key, &what);
            (key, (what, mark))
        };
        let whole = bound(0x00).zip(bound(0xff));
        Self {
            items: items.into_iter().map(marked).collect(),
            ranges: whole.into_iter().collect(),
            messages: 0,
            missing: BTreeSet::new(),
            surplus: BTreeSet::new(),
        }
    }

    /// What to ask next; `None` at the end.
    pub fn next_ranges(&mut self) -> Option<Vec<Range>> {
        if self.ranges.is_empty() || self.messages >= MESSAGES || self.missing.len() >= MAX_REPAIRS {
            return None;
        }
        self.messages += 1;
        Some(self.ranges.iter().take(MAX_MIRROR_RANGES).map(|(from, to)| self.range(*from, *to)).collect())
    }

    fn range(&self, from: RecordKey, to: RecordKey) -> Range {
        let (mut count, mut digest) = (0u32, Mark::default());
        for (_, mark) in self.items.range(from..=to).map(|(_, item)| item) {
            count = count.saturating_add(1);
            digest.toggle(*mark);
        }
        Range { from, to, count, digest }
    }

    /// Takes in the answer to the ranges that were asked about; false if it does not fit the question.
    pub fn on_answer(&mut self, asked: &[Range], answer: Vec<Compared>) -> bool {
        if asked.len() != answer.len() {
            return false;
        }
        for (range, compared) in asked.iter().zip(answer) {
            self.ranges.remove(&range.from);
            match compared {
                Compared::Same => {}
                Compared::Differs(held) => {
                    let statements: BTreeSet<_> = held.statements.into_iter().take(MAX_MIRROR_HELD).collect();
                    let provided: BTreeSet<_> = held.provided.into_iter().take(MAX_MIRROR_HELD).collect();
                    let is_held = |key: &RecordKey, what: &What, mark: &Mark| match what {
                        What::Statement(_) => statements.contains(mark),
                        What::Provide | What::Withdraw => provided.contains(key),
                    };
                    let items = self.items.range(range.from..=range.to);
                    let missing = items.filter(|(key, (what, mark))| !is_held(key, what, mark)).map(|(key, _)| *key);
                    let room = MAX_REPAIRS.saturating_sub(self.missing.len());
                    self.missing.extend(missing.take(room).collect::<Vec<_>>());
                    let is_ours = |key: &RecordKey| self.items.get(key).is_some_and(|(what, _)| *what == What::Provide);
                    let surplus =
                        provided.into_iter().filter(|key| (range.from..=range.to).contains(key) && !is_ours(key));
                    self.surplus.extend(surplus.take(MAX_REPAIRS.saturating_sub(self.surplus.len())));
                }
                Compared::Many(count) => {
                    let most = (count.max(range.count) as usize).min(MAX_MIRROR_HELD * MAX_MIRROR_RANGES);
                    // One that only found no room beside others is asked about again.
                    let parts =
                        if most <= ITEMS_A_RANGE { 1 } else { (most / ITEMS_A_RANGE + 1).min(MAX_MIRROR_RANGES) };
                    self.ranges.extend(divide(range.from, range.to, parts));
                }
            }
        }
        true
    }

    /// What the node lacks or has otherwise, at most [`MAX_REPAIRS`]; and keys under which it says that this node is
    /// found although it did not say so itself, as many: those that are not published at all are to be withdrawn.
    pub fn differences(mut self) -> (Vec<(RecordKey, What)>, Vec<RecordKey>) {
        let missing = self.missing.into_iter().filter_map(|key| Some((key, self.items.remove(&key)?.0)));
        (missing.collect(), self.surplus.into_iter().collect())
    }
}

/// The key with these bytes throughout.
fn bound(byte: u8) -> Option<RecordKey> {
    RecordKey::from_slice(&[byte; 32])
}

/// Cuts a range into parts of about equal size by the first 8 bytes of their keys, which are hashes.
fn divide(from: RecordKey, to: RecordKey, parts: usize) -> Vec<(RecordKey, RecordKey)> {
    let (low, high) = (Mark::provided(&from).0, Mark::provided(&to).0);
    let step = (high - low) / parts as u64;
    if step == 0 {
        return vec![(from, to)];
    }
    let edge = |part: usize, tail: u8| {
        let first = low + step * part as u64;
        let mut bytes = [tail; 32];
        let start = if tail == 0 { first } else { first - 1 };
        bytes.iter_mut().zip(start.to_be_bytes()).for_each(|(byte, value)| *byte = value);
        RecordKey::from_slice(&bytes)
    };
    let begin = |part: usize| if part == 0 { Some(from) } else { edge(part, 0) };
    let end = |part: usize| if part + 1 == parts { Some(to) } else { edge(part + 1, 0xff) };
    (0..parts).filter_map(|part| begin(part).zip(end(part))).collect()
}

#[cfg(test)]
mod tests;
