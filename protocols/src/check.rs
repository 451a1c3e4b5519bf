//! Whether two nodes hold the same of what one of them said. They compare ranges of keys by a count and a digest, so
//! that what is alike costs one small message and what differs is found.
//!
//! An item is a statement under the key of its name, or a key under which the sayer is found. Its **mark** is 8 bytes;
//! the digest of a range is the exclusive-or of the marks in it. It guards against accidents, not against malice: whoever
//! is asked can say anything, and what it says costs the asker no more than to send its own records once more.

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_MIRROR_RANGES;
use crate::mirror::RecordKey;
use crate::statement::Statement;

/// Begins what marks are hashes of.
const MARK_DOMAIN: &[u8] = b"swarmdex mark 1\0";

/// What tells one version of an item from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyMark(pub u64);

impl KeyMark {
    /// The mark of a statement: the first 8 bytes of a BLAKE3 hash. Hashed are the domain, the key, a letter for the
    /// kind, version and end, these as 8 bytes each, big-endian.
    pub fn statement(key: &RecordKey, statement: &Statement) -> Self {
        let kind = match statement {
            Statement::Certificate(_) => b'c',
            Statement::Tombstone(_) => b't',
            Statement::Revocation(_) => b'r',
            Statement::Claim(claim) if claim.withdrawn => b'w',
            Statement::Claim(_) => b'k',
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(MARK_DOMAIN).update(key.as_bytes()).update(&[kind]);
        hasher.update(&statement.version().0.to_be_bytes()).update(&statement.expires_ms().to_be_bytes());
        Self(first_bytes(hasher.finalize().as_bytes()))
    }

    /// The mark of a key under which a node is found: the first 8 bytes of the key.
    pub fn provided(key: &RecordKey) -> Self {
        Self(first_bytes(key.as_bytes()))
    }

    /// Joins a mark to a digest, or takes it out.
    pub fn toggle(&mut self, mark: Self) {
        self.0 ^= mark.0;
    }
}

/// A peer in 8 bytes, to compare with: two peers may have the same.
pub fn tag(peer: &PeerId) -> u64 {
    first_bytes(blake3::hash(&peer.to_bytes()).as_bytes())
}

fn first_bytes(bytes: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *bytes;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What the asker said in a range of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    /// The first key.
    #[serde(rename = "f")]
    pub from: RecordKey,
    /// The last key, which belongs to the range.
    #[serde(rename = "t")]
    pub to: RecordKey,
    /// How many items there are.
    #[serde(rename = "k")]
    pub count: u32,
    /// Exclusive-or of their marks.
    #[serde(rename = "d")]
    pub digest: KeyMark,
}

impl KeyRange {
    /// All keys, with so many items.
    pub fn whole(count: u32, digest: KeyMark) -> Option<Self> {
        let (from, to) = (RecordKey::from_slice(&[0x00; 32])?, RecordKey::from_slice(&[0xff; 32])?);
        Some(Self { from, to, count, digest })
    }

    /// Whether a request may have these: not too many, in order, and none overlaps another, so that all of them
    /// together are one look through what is stored.
    pub fn are_in_order(ranges: &[Self]) -> bool {
        let forward = ranges.iter().all(|range| range.from <= range.to);
        let apart = ranges.iter().zip(ranges.iter().skip(1)).all(|(before, after)| before.to < after.from);
        ranges.len() <= MAX_MIRROR_RANGES && forward && apart
    }
}

/// What a node holds of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeysCompared {
    /// The same.
    #[serde(rename = "same")]
    Same,
    /// Other items; these.
    #[serde(rename = "differs")]
    Differs(Held),
    /// Other items, so many that they find no room in the answer: ask by smaller ranges.
    #[serde(rename = "many")]
    Many(u32),
}

/// Items of the asker that a node holds in a range; at most [`crate::limits::MAX_MIRROR_HELD`] in one answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Marks of statements.
    #[serde(rename = "s", default)]
    pub statements: Vec<KeyMark>,
    /// Keys under which the asker is found.
    #[serde(rename = "p", default)]
    pub provided: Vec<RecordKey>,
}

impl Held {
    /// How many items.
    pub fn len(&self) -> usize {
        self.statements.len() + self.provided.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The answer for one range, from the items that are held there; `room` is how many more items the answer may have, and is reduced by
/// those that it has.
pub fn compare(range: &KeyRange, held: Held, room: &mut usize) -> KeysCompared {
    let marks = held.statements.iter().copied().chain(held.provided.iter().map(KeyMark::provided));
    let (mut count, mut digest) = (0u32, KeyMark::default());
    for mark in marks {
        count = count.saturating_add(1);
        digest.toggle(mark);
    }
    if (count, digest) == (range.count, range.digest) {
        return KeysCompared::Same;
    }
    if held.len() > *room {
        return KeysCompared::Many(count);
    }
    *room -= held.len();
    KeysCompared::Differs(held)
}
