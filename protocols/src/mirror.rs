//! The mirror: keys of records in the DHT, and the protocol by which many of them are stored and read at once.
//!
//! One record travels by Kademlia's own messages. Thousands for one region of the key space go in batches over this
//! protocol, to nodes that Kademlia found. One message holds hundreds of records. Its answer says what became of each,
//! which Kademlia's acknowledgement does not.

use std::collections::BTreeSet;

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::check::{KeyRange, KeysCompared};
use crate::content::ContentId;
use crate::index::Refusal;
use crate::ledger::Rejection;
use crate::limits::MAX_WORD_KEYS;
use crate::name::{Name, Network};
use crate::pattern::{Pattern, RequiredWord};
use crate::statement::Statement;
use crate::words::{self, first};

/// Letters of a word's beginning that make a key.
const FIRST_LETTERS: usize = 3;
/// Begins what keys are hashes of.
const KEY_DOMAIN: &[u8] = b"swarmdex dht 1\0";

/// Key of a record in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey([u8; 32]);

impl RecordKey {
    /// Under which the statements about a name are stored.
    pub fn name(network: &Network, name: &Name) -> Self {
        Self::hash(network, b"name", name.as_str().as_bytes())
    }

    /// Under which holders of a content are found.
    pub fn content(network: &Network, content: &ContentId) -> Self {
        Self::hash(network, b"content", content.as_bytes())
    }

    /// Under which owners of names with this word are found; every owner is found under the empty word.
    pub fn word(network: &Network, word: &str) -> Self {
        Self::hash(network, b"word", word.as_bytes())
    }

    /// Under which owners of names with a word that begins with these letters are found.
    fn beginning(network: &Network, letters: &str) -> Self {
        Self::hash(network, b"beginning", letters.as_bytes())
    }

    /// Under which a node itself is found: whoever finds its own identity there, at addresses of another, has a twin.
    pub fn node(network: &Network, peer: &PeerId) -> Self {
        Self::hash(network, b"node", &peer.to_bytes())
    }

    /// Every key under which the owner of a name is to be found by those who search: its words, the first letters of
    /// each, and the empty word. Words are those of both rules, so that nodes of either find it; most are the same, and
    /// each key is there once. In a script without spaces a pair of characters counts as a word, and a single one is
    /// found under the empty word. At most [`MAX_WORD_KEYS`].
    pub fn of_words(network: &Network, name: &Name) -> Vec<Self> {
        let folded = words::fold(name.as_str());
        let (mut second, mut before) = (Vec::new(), "");
        for word in words::split(&folded) {
            match word {
                words::Word { joined: true, text, .. } => second.push([before, text].concat()),
                words::Word { single: true, .. } => {}
                words::Word { text, .. } => second.push(text.to_owned()),
            }
            before = word.text;
        }
        let (mut keys, mut known) = (Vec::new(), BTreeSet::new());
        let all = std::iter::once(String::new()).chain(first::words(name.as_str())).chain(second);
        for word in all {
            let beginning = first_letters(&word).map(|letters| Self::beginning(network, letters));
            keys.extend(beginning.into_iter().chain([Self::word(network, &word)]).filter(|key| known.insert(*key)));
        }
        keys.truncate(MAX_WORD_KEYS);
        keys
    }

    /// Three keys under which the owner of one name is found, also one that knows the first rule alone. They are those
    /// of its longest word, of the first letters of it (the word again if it has no more), and of the empty word.
    pub fn of_owner(network: &Network, name: &Name) -> [Self; 3] {
        let longest = first::words(name.as_str()).max_by_key(String::len).unwrap_or_default();
        let word = Self::word(network, &longest);
        let beginning = first_letters(&longest).map_or(word, |letters| Self::beginning(network, letters));
        [word, beginning, Self::word(network, "")]
    }

    /// The keys under which the owners of all names that match are found. They follow by the rule that is known here,
    /// and by the first, which is all that owners of earlier builds know. Mostly it is one.
    pub fn of_search(network: &Network, pattern: &Pattern) -> Vec<Self> {
        let mut keys = vec![Self::of_longest(network, pattern.required_words())];
        let first = Self::of_longest(network, pattern.required_first_words());
        keys.extend((first != keys[0]).then_some(first));
        keys
    }

    /// The key of the longest word, by its first letters if matches may have more of it. Length is in bytes: a character of
    /// thousands says more than one of twenty-six.
    fn of_longest(network: &Network, words: Vec<RequiredWord>) -> Self {
        let keyed = words.into_iter().filter_map(|word| match word {
            RequiredWord::Whole(word) => Some((word.len(), Self::word(network, &word))),
            RequiredWord::Begins(word) => {
                first_letters(&word).map(|letters| (word.len(), Self::beginning(network, letters)))
            }
            RequiredWord::Character(_) => None,
        });
        keyed.max().map_or_else(|| Self::word(network, ""), |(_, key)| key)
    }

    /// BLAKE3 of the domain, then the network, the kind and the text, each behind its length as 4 bytes, big-endian.
    fn hash(network: &Network, kind: &[u8], text: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(KEY_DOMAIN);
        for part in [network.as_str().as_bytes(), kind, text] {
            // Parts are names and hashes, all bounded far below 4 GiB.
            hasher.update(&(part.len() as u32).to_be_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The key with these bytes; `None` if there are not 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Serialize for RecordKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RecordKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteArray::<32>::deserialize(deserializer).map(|bytes| Self(bytes.into_array()))
    }
}

/// The letters by which words are found that nobody knows in full; `None` of words that are shorter.
fn first_letters(word: &str) -> Option<&str> {
    let (last, char) = word.char_indices().nth(FIRST_LETTERS - 1)?;
    Some(&word[..last + char.len_utf8()])
}

/// What is asked of a node that is close to keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirrorRequest {
    /// Store records.
    #[serde(rename = "store")]
    Store(Store),
    /// Read the records of these keys, at most [`crate::limits::MAX_MIRROR_RECORDS`].
    #[serde(rename = "read")]
    Read(Vec<RecordKey>),
    /// All nodes that are found under a key: one answer of Kademlia has twenty.
    #[serde(rename = "providers")]
    Providers(RecordKey),
    /// Whether the node still holds what the sender said: ranges of keys in order, none of which overlaps another, at
    /// most [`crate::limits::MAX_MIRROR_RANGES`].
    #[serde(rename = "check")]
    Check(Vec<KeyRange>),
    /// What the node has under one key, and which nodes it knows that are closer to it.
    #[serde(rename = "find")]
    Find(RecordKey),
    /// What the node stores in a part of the key space.
    #[serde(rename = "part")]
    Part(KeySpacePart),
}

/// Records to store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Store {
    /// Statements, each under the key of its name; at most [`crate::limits::MAX_MIRROR_RECORDS`].
    #[serde(rename = "s", default)]
    pub statements: Vec<Statement>,
    /// Keys under which the sender is to be found; at most [`crate::limits::MAX_MIRROR_KEYS`].
    #[serde(rename = "p", default)]
    pub provide: Vec<RecordKey>,
    /// Where the sender listens, for those who find it so.
    #[serde(rename = "a", default)]
    pub addresses: Vec<Multiaddr>,
    /// Keys under which the sender is no longer to be found; at most [`crate::limits::MAX_MIRROR_KEYS`]. A key that
    /// is also in `provide` stays.
    #[serde(rename = "w", default, skip_serializing_if = "Vec::is_empty")]
    pub withdraw: Vec<RecordKey>,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MirrorResponse {
    /// To a store.
    #[serde(rename = "stored")]
    Stored(Stored),
    /// To a read: the statements of each record, in order; empty where there is none.
    #[serde(rename = "records")]
    Records(Vec<Vec<Statement>>),
    /// To a request for providers: at most [`crate::limits::MAX_PROVIDERS`].
    #[serde(rename = "providers")]
    Providers(Vec<Provider>),
    /// To a check: what is held of each range, in order.
    #[serde(rename = "checked")]
    Checked(Vec<KeysCompared>),
    /// To a find.
    #[serde(rename = "found")]
    Found(KeyFound),
    /// To a question for a part.
    #[serde(rename = "part")]
    Part(Stock),
    /// To anything that cannot be granted.
    #[serde(rename = "refused")]
    Refused(Refusal),
}

/// What a node knows of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeyFound {
    /// The statements that it has; none if it has none.
    #[serde(rename = "s", default)]
    pub statements: Vec<Statement>,
    /// The nodes closest to the key that it knows, the closest first; at most [`crate::limits::MAX_CLOSER`].
    #[serde(rename = "c", default)]
    pub closer: Vec<Provider>,
}

/// A part of the key space, asked for by a node that came there; it gets what is stored in pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySpacePart {
    /// A place in it: the SHA-256 of a key or of a peer's id, as Kademlia has it.
    #[serde(rename = "p", with = "serde_bytes")]
    pub place: [u8; 32],
    /// How many of the first bits of every place in the part are those of `place`.
    #[serde(rename = "b")]
    pub bits: u8,
    /// The last page ended there.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RecordKey>,
}

/// A page of what a node stores in a part of the key space, by key. Each thing comes with the seconds for which it is still
/// stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stock {
    /// Statements, at most [`crate::limits::MAX_STOCK_STATEMENTS`].
    #[serde(rename = "s", default)]
    pub statements: Vec<(Statement, u32)>,
    /// Nodes that are found under keys, at most [`crate::limits::MAX_PROVIDERS`].
    #[serde(rename = "n", default)]
    pub nodes: Vec<Provider>,
    /// Under which keys: each with the number of its node in this page; at most [`crate::limits::MAX_MIRROR_KEYS`].
    #[serde(rename = "p", default)]
    pub pairs: Vec<(RecordKey, u16, u32)>,
    /// Where to go on; `None` at the end.
    #[serde(rename = "next", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RecordKey>,
}

/// A node, under a key or close to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// Who.
    #[serde(rename = "p")]
    pub peer: PeerId,
    /// Where it says that it listens; at most [`crate::limits::MAX_OTHER_ADDRESSES`].
    #[serde(rename = "a", default)]
    pub addresses: Vec<Multiaddr>,
}

/// What became of records to store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// A verdict for each statement, in order.
    #[serde(rename = "s")]
    pub statements: Vec<StoreVerdict>,
    /// How many of the keys are provided now.
    #[serde(rename = "p")]
    pub provided: u32,
}

/// What became of one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreVerdict {
    /// It is stored.
    #[serde(rename = "ok")]
    Stored,
    /// A later one is stored.
    #[serde(rename = "older")]
    Older,
    /// The name is certified to another.
    #[serde(rename = "certified")]
    Certified(PeerId),
    /// Another claimed the name before.
    #[serde(rename = "claimed")]
    Claimed(PeerId),
    /// It is false, expired, or signed by a master that the node does not know.
    #[serde(rename = "invalid")]
    Invalid,
    /// The node has no room for it.
    #[serde(rename = "full")]
    Full,
}

impl From<Rejection> for StoreVerdict {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Older => Self::Older,
            Rejection::Certified(owner) => Self::Certified(owner),
            Rejection::Claimed(owner) => Self::Claimed(owner),
            Rejection::Expired => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_searches_looks_where_owners_are_found() {
        let network = Network::default();
        for (query, name) in [
            ("", "a/b"),
            ("photo", "photos/2024/Straße.jpg"),
            ("straße photos", "photos/2024/Straße.jpg"),
            ("ph", "photos/x"),
            ("data/*", "data/x"),
            ("*.txt", "notes.txt"),
            ("ärz", "Ärzte.ods"),
        ] {
            let (pattern, name) = (Pattern::parse(query).unwrap(), Name::parse(name).unwrap());
            assert!(pattern.matches(&name), "{query}");
            let keys = RecordKey::of_words(&network, &name);
            for key in RecordKey::of_search(&network, &pattern) {
                assert!(keys.contains(&key), "{query}: {name}");
            }
        }
    }
}
