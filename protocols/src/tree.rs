//! The tree above the chunks of a content that is only partly there: what is needed to pass chunks on with their
//! proofs before the last one has come.

use crate::chunks::ChunkSet;
use crate::content::{ChainingValue, ContentId, Geometry, Outboard, Proof, proof_positions};

/// The values that proofs have brought so far: 32 bytes in memory for each node of the tree, and one bit for each chunk.
#[derive(Debug, Clone)]
pub struct Tree {
    content: ContentId,
    geometry: Geometry,
    /// As in an [`Outboard`]; all zero where nothing is known.
    nodes: Vec<ChainingValue>,
    have: ChunkSet,
}

impl Tree {
    /// A tree of which nothing is known.
    pub fn new(content: ContentId, geometry: Geometry) -> Self {
        let nodes = usize::try_from(Outboard::node_count(&geometry)).unwrap_or(usize::MAX);
        Self { content, geometry, nodes: vec![[0; 32]; nodes], have: ChunkSet::none(geometry.chunks()) }
    }

    /// The content.
    pub fn content(&self) -> &ContentId {
        &self.content
    }

    /// How the content is cut.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Takes in a chunk that was checked by [`crate::content::check_chunk`], which gave `path`: the values from the chunk up,
    /// each with its position.
    pub fn insert(&mut self, index: u64, path: &[(u64, ChainingValue)], proof: &Proof) {
        let siblings = proof_positions(&self.geometry, index).zip(proof.siblings().iter().copied());
        for (position, value) in path.iter().copied().chain(siblings) {
            if let Some(node) = usize::try_from(position).ok().and_then(|position| self.nodes.get_mut(position)) {
                *node = value;
            }
        }
        self.have.insert(index);
    }

    /// Chunks that are there.
    pub fn have(&self) -> &ChunkSet {
        &self.have
    }

    /// The proof of a chunk; `None` if it is not there.
    pub fn proof(&self, index: u64) -> Option<Proof> {
        if !self.have.contains(index) {
            return None;
        }
        let at = |position| self.nodes.get(usize::try_from(position).ok()?).copied();
        proof_positions(&self.geometry, index).map(at).collect::<Option<Vec<_>>>().map(Proof::new)
    }

    /// The outboard, once every chunk is there.
    pub fn outboard(&self) -> Option<Outboard> {
        self.have.is_full().then(|| Outboard::from_bytes(self.geometry, self.nodes.as_flattened())).flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::{check_chunk, chunk_value};

    fn outboard(bytes: &[u8]) -> (Geometry, Outboard, ContentId) {
        let geometry = Geometry::new(bytes.len() as u64).unwrap();
        let length = geometry.chunk_bytes() as usize;
        let values = bytes.chunks(length).enumerate().map(|(index, chunk)| chunk_value(&geometry, index as u64, chunk));
        let (outboard, content) = Outboard::build(geometry, values.collect()).unwrap();
        (geometry, outboard, content)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn chunks_in_any_order_give_the_proofs_of_those_there_and_the_outboard_in_the_end(
            chunks in 2u64..12, last in 1u64..(256 << 10), seed in any::<u64>()
        ) {
            let bytes: Vec<u8> = (0..(chunks - 1) * (256 << 10) + last).map(|number| (number.wrapping_mul(seed | 1) >> 7) as u8).collect();
            let (geometry, outboard, content) = outboard(&bytes);
            let mut tree = Tree::new(content, geometry);
            let mut order: Vec<u64> = (0..geometry.chunks()).collect();
            order.sort_by_key(|index| (index + 1).wrapping_mul(seed | 1));
            for index in order {
                prop_assert!(tree.proof(index).is_none() && tree.outboard().is_none());
                let at = geometry.offset(index) as usize;
                let chunk = &bytes[at..at + geometry.len(index) as usize];
                let proof = outboard.proof(index).unwrap();
                let path = check_chunk(&content, &geometry, index, chunk, &proof).unwrap();
                tree.insert(index, &path, &proof);
                for there in tree.have().iter() {
                    prop_assert_eq!(tree.proof(there), outboard.proof(there));
                }
            }
            prop_assert_eq!(tree.outboard(), Some(outboard));
        }
    }
}
