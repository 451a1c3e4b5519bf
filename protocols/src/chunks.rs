//! Which chunks of a content somebody has: one bit each.

use crate::limits::MAX_HAVE_ALONG;

/// A set of chunks of one content: in memory, and on the wire, one bit for each chunk that the content has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkSet {
    bits: Vec<u8>,
    chunks: u64,
    count: u64,
}

impl ChunkSet {
    /// No chunk, of a content that has `chunks` of them.
    pub fn none(chunks: u64) -> Self {
        let bytes = usize::try_from(chunks.div_ceil(8)).unwrap_or(usize::MAX);
        Self { bits: vec![0; bytes], chunks, count: 0 }
    }

    /// The set with these bytes, chunk 0 being the lowest bit of the first; `None` if there are too many or too few
    /// bytes for `chunks`, or bits beyond the last.
    pub fn from_bytes(bytes: &[u8], chunks: u64) -> Option<Self> {
        let beyond = chunks % 8;
        let fits = bytes.len() as u64 == chunks.div_ceil(8)
            && (beyond == 0 || bytes.last().is_none_or(|last| u64::from(*last) >> beyond == 0));
        let count = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
        fits.then(|| Self { bits: bytes.to_vec(), chunks, count })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// The bytes, if they are few enough to travel along with something else; none if not.
    pub fn along(&self) -> Vec<u8> {
        if self.bits.len() <= MAX_HAVE_ALONG { self.bits.clone() } else { Vec::new() }
    }

    /// Whether chunk `index` is in the set.
    pub fn contains(&self, index: u64) -> bool {
        let byte = usize::try_from(index / 8).ok().and_then(|byte| self.bits.get(byte));
        byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }

    /// Adds chunk `index`; false if it was there, or is none of the content.
    pub fn insert(&mut self, index: u64) -> bool {
        if index >= self.chunks || self.contains(index) {
            return false;
        }
        if let Some(byte) = usize::try_from(index / 8).ok().and_then(|byte| self.bits.get_mut(byte)) {
            *byte |= 1 << (index % 8);
            self.count += 1;
        }
        true
    }

    /// Number of chunks in the set.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether no chunk is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every chunk is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.chunks
    }

    /// The chunks in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let bytes = (0..).zip(&self.bits).filter(|(_, byte)| **byte != 0);
        bytes.flat_map(|(place, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| place * 8 + bit))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_travels_along_is_bounded() {
        let most = MAX_HAVE_ALONG as u64 * 8;
        assert_eq!(ChunkSet::none(most).along().len(), MAX_HAVE_ALONG);
        assert!(ChunkSet::none(most + 1).along().is_empty());
    }

    proptest! {
        #[test]
        fn a_set_of_chunks_is_a_set(chunks in 1u64..200, inserted in prop::collection::vec(0u64..220, 0..100)) {
            let mut set = ChunkSet::none(chunks);
            let mut model = BTreeSet::new();
            for index in inserted {
                prop_assert_eq!(set.insert(index), index < chunks && model.insert(index));
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!((set.len(), set.is_full()), (model.len() as u64, model.len() as u64 == chunks));
            prop_assert_eq!(ChunkSet::from_bytes(set.as_bytes(), chunks), Some(set));
        }

        #[test]
        fn bytes_of_another_length_or_with_bits_beyond_the_end_are_no_set(chunks in 1u64..100, bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(set) = ChunkSet::from_bytes(&bytes, chunks) {
                prop_assert!(set.iter().all(|index| index < chunks));
                prop_assert_eq!(set.as_bytes(), bytes);
            }
        }
    }
}
