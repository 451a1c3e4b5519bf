//! The digest by which a peer and its master see that they agree about a share.

use serde::{Deserialize, Serialize};

use crate::content::ContentId;
use crate::statement::Version;

/// Digest of a share: equal when two nodes hold the same set of (name, content id, size, version); the version is
/// that of the certificate, 0 without one.
///
/// The exclusive-or of the BLAKE3 hashes of the entries, so that adding or removing one entry costs
/// one hash. It guards against differences, not against malice: the only peer that a collision could
/// mislead is the one that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShareDigest([u8; 32]);

impl ShareDigest {
    /// Adds an entry that is not in the set, or removes one that is.
    pub fn toggle(&mut self, name: &str, content: &ContentId, size: u64, version: Version) {
        self.join(&Self::of(name, content, size, version));
    }

    /// The digest of a single entry: the BLAKE3 hash of all that it says.
    pub fn of(name: &str, content: &ContentId, size: u64, version: Version) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(content.as_bytes());
        hasher.update(&size.to_be_bytes());
        hasher.update(&version.0.to_be_bytes());
        hasher.update(name.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The first eight bytes as a number: by those of a single entry two nodes see that they hold a name alike.
    pub fn mark(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Adds the entries of another set; those that are in both are in neither.
    pub fn join(&mut self, other: &Self) {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine ^= other;
        }
    }

    /// The digest of the empty share: all zero.
    pub const fn empty() -> Self {
        Self([0; 32])
    }

    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a set of entries comes to: how many they are, and their digest. Two nodes with equal sums hold the same set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShareSum {
    /// Number of entries.
    #[serde(rename = "k")]
    pub entries: u64,
    /// Their digest.
    #[serde(rename = "d")]
    pub digest: ShareDigest,
}

impl ShareSum {
    /// Adds an entry, given by its digest, that is not in the set.
    pub fn add(&mut self, entry: &ShareDigest) {
        self.entries = self.entries.saturating_add(1);
        self.digest.join(entry);
    }

    /// Removes an entry, given by its digest, that is in the set.
    pub fn remove(&mut self, entry: &ShareDigest) {
        self.entries = self.entries.saturating_sub(1);
        self.digest.join(entry);
    }

    /// Adds a set that has no entry in common with this one.
    pub fn join(&mut self, other: &Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.digest.join(&other.digest);
    }
}

impl Serialize for ShareDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ContentId::from_bytes(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShareDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ContentId::deserialize(deserializer).map(|id| Self(*id.as_bytes()))
    }
}

/// The digest of a whole share.
pub fn share_digest<'a>(entries: impl IntoIterator<Item = (&'a str, &'a ContentId, u64, Version)>) -> ShareDigest {
    let mut digest = ShareDigest::empty();
    for (name, content, size, version) in entries {
        digest.toggle(name, content, size, version);
    }
    digest
}
