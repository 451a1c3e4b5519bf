//! Whether the nodes that store what this node publishes still do, asked between its repetitions.
//!
//! A node is asked about just what it said that it stored, by count and digest of ranges of keys; only ranges that
//! differ are looked into. At rest that is one message a node, of a hundred bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops;

use swarmdex_protocols::RecordKey;
use swarmdex_protocols::check::{Held, KeyMark, KeyRange, KeysCompared};
use swarmdex_protocols::limits::{MAX_MIRROR_HELD, MAX_MIRROR_RANGES};

use super::publish::{What, mark};

/// Messages to one node in one comparison: so many, and as many as it takes to look into every range if they all differ.
const MESSAGES: usize = 64;
/// Items sent again to one node in one go, and keys withdrawn there: whoever lies costs no more. What is left differs
/// in the next round, too.
pub(crate) const MAX_REPAIRS: usize = 4096;
/// Or, of very large shares, one key to withdraw for so many items.
const PART_OF_SURPLUS: usize = 16;
/// Items that a range is to have after it was divided.
const ITEMS_A_RANGE: usize = MAX_MIRROR_HELD / 4;

/// A comparison with one node: what to ask it, and what comes of its answers.
#[derive(Debug)]
pub(crate) struct RangeComparison {
    /// In order of their keys.
    items: Vec<(RecordKey, What, KeyMark)>,
    /// Most items that are looked for.
    most: usize,
    /// Ranges still to compare, by their first key.
    ranges: BTreeMap<RecordKey, RecordKey>,
    /// Ranges in one question: fewer where so much differs that there is no room for the answers.
    width: usize,
    messages: usize,
    /// Items that are missing there, by their places in `items`.
    missing: Vec<usize>,
    surplus: BTreeSet<RecordKey>,
}

impl RangeComparison {
    /// A comparison of these items, which are what the node said that it stores. It looks for at most `most` that are
    /// missing there.
    pub(crate) fn new(items: impl IntoIterator<Item = (RecordKey, What)>, most: usize) -> Self {
        let marked = |(key, what): (RecordKey, What)| {
            let mark = mark(&key, &what);
            (key, what, mark)
        };
        let mut items: Vec<_> = items.into_iter().map(marked).collect();
        items.sort_by_key(|(key, ..)| *key);
        let whole = bound(0x00).zip(bound(0xff));
        Self {
            items,
            most,
            ranges: whole.into_iter().collect(),
            width: MAX_MIRROR_RANGES,
            messages: 0,
            missing: Vec::new(),
            surplus: BTreeSet::new(),
        }
    }

    /// What to ask next; `None` at the end.
    pub(crate) fn next_ranges(&mut self) -> Option<Vec<KeyRange>> {
        let most = MESSAGES + self.items.len() / ITEMS_A_RANGE;
        if self.ranges.is_empty() || self.messages >= most || self.missing.len() >= self.most {
            return None;
        }
        self.messages += 1;
        Some(self.ranges.iter().take(self.width).map(|(from, to)| self.range(*from, *to)).collect())
    }

    /// The items in a range.
    fn within(&self, from: RecordKey, to: RecordKey) -> ops::Range<usize> {
        let begin = self.items.partition_point(|(key, ..)| *key < from);
        begin..begin + self.items[begin..].partition_point(|(key, ..)| *key <= to)
    }

    /// What the node is to hold in a range, as a question.
    pub(crate) fn range(&self, from: RecordKey, to: RecordKey) -> KeyRange {
        let mut digest = KeyMark::default();
        let items = &self.items[self.within(from, to)];
        items.iter().for_each(|(_, _, mark)| digest.toggle(*mark));
        KeyRange { from, to, count: u32::try_from(items.len()).unwrap_or(u32::MAX), digest }
    }

    /// Takes in the answer to the ranges that were asked about; false if it does not fit the question.
    pub(crate) fn on_answer(&mut self, asked: &[KeyRange], answer: Vec<KeysCompared>) -> bool {
        if asked.len() != answer.len() {
            return false;
        }
        let mut full = 0;
        for (range, compared) in asked.iter().zip(answer) {
            self.ranges.remove(&range.from);
            match compared {
                KeysCompared::Same => {}
                KeysCompared::Differs(held) => self.on_differs(range, held),
                KeysCompared::Many(count) => {
                    let most = (count.max(range.count) as usize).min(MAX_MIRROR_HELD * MAX_MIRROR_RANGES);
                    // One that only found no room beside others is asked about again.
                    let parts =
                        if most <= ITEMS_A_RANGE { 1 } else { (most / ITEMS_A_RANGE + 1).min(MAX_MIRROR_RANGES) };
                    full += usize::from(parts == 1);
                    self.ranges.extend(divide(range.from, range.to, parts));
                }
            }
        }
        self.width = if full > 0 { (asked.len() - full).max(1) } else { (self.width * 2).min(MAX_MIRROR_RANGES) };
        true
    }

    fn on_differs(&mut self, range: &KeyRange, held: Held) {
        let statements: BTreeSet<_> = held.statements.into_iter().take(MAX_MIRROR_HELD).collect();
        let provided: BTreeSet<_> = held.provided.into_iter().take(MAX_MIRROR_HELD).collect();
        let within = self.within(range.from, range.to);
        let is_held = |place: &usize| {
            let (key, what, mark) = &self.items[*place];
            match what {
                What::Statement(_) => statements.contains(mark),
                What::Provide | What::Withdraw => provided.contains(key),
            }
        };
        let room = self.most.saturating_sub(self.missing.len());
        let missing: Vec<_> = within.clone().filter(|place| !is_held(place)).take(room).collect();
        let ours = &self.items[within];
        let is_ours = |key: &RecordKey| {
            let found = ours.binary_search_by_key(key, |(key, ..)| *key);
            found.is_ok_and(|place| ours[place].1 == What::Provide)
        };
        let surplus = provided.into_iter().filter(|key| (range.from..=range.to).contains(key) && !is_ours(key));
        let most = MAX_REPAIRS.max(self.items.len() / PART_OF_SURPLUS);
        self.surplus.extend(surplus.take(most.saturating_sub(self.surplus.len())));
        self.missing.extend(missing);
    }

    /// What the node lacks or has otherwise, in portions of at most [`MAX_REPAIRS`], each with what the node then holds in the
    /// range that it lies in, what is too much included.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (KeyRange, Vec<(RecordKey, What)>)> + '_ {
        self.missing.chunks(MAX_REPAIRS).filter_map(|places| {
            let items: Vec<_> =
                places.iter().map(|place| (self.items[*place].0, self.items[*place].1.clone())).collect();
            let mut range = self.range(items.first()?.0, items.last()?.0);
            for key in self.surplus.range(range.from..=range.to) {
                range.count = range.count.saturating_add(1);
                range.digest.toggle(KeyMark::provided(key));
            }
            Some((range, items))
        })
    }

    /// All that was compared.
    pub(crate) fn into_items(self) -> Vec<(RecordKey, What)> {
        self.items.into_iter().map(|(key, what, _)| (key, what)).collect()
    }

    /// Keys under which the node says that this one is found although this one did not say so, at most [`MAX_REPAIRS`]
    /// or a sixteenth of the items. Keys among them that are not published at all are to be withdrawn.
    pub(crate) fn into_surplus(self) -> Vec<RecordKey> {
        self.surplus.into_iter().collect()
    }
}

/// The key with these bytes throughout.
fn bound(byte: u8) -> Option<RecordKey> {
    RecordKey::from_slice(&[byte; 32])
}

/// Cuts a range into parts of about equal size by the first 8 bytes of their keys, which are hashes.
fn divide(from: RecordKey, to: RecordKey, parts: usize) -> Vec<(RecordKey, RecordKey)> {
    let (low, high) = (KeyMark::provided(&from).0, KeyMark::provided(&to).0);
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
