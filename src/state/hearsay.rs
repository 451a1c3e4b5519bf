//! What neighbours say of who is found under which key: nobody signs that, so one voice is none.

use std::collections::BTreeMap;
use std::time::Duration;

use swarmdex_protocols::mirror::{Provider, Stock};
use swarmdex_protocols::{Multiaddr, PeerId, RecordKey};

/// Neighbours that have to say so.
const VOICES: usize = 2;
/// Pairs that are kept in mind; about 120 bytes each, for some seconds.
const MAX_PAIRS: usize = 1 << 18;

/// A pair of a key and a node that is found under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Under which key.
    pub key: RecordKey,
    /// Who.
    pub peer: PeerId,
    /// Where it listens, by the first who said so.
    pub addresses: Vec<Multiaddr>,
    /// For how long.
    pub left: Duration,
}

#[derive(Debug)]
struct HeardPair {
    voices: usize,
    /// Who said it last, by number.
    last: usize,
    left: u32,
}

/// What several neighbours said.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    pairs: BTreeMap<(RecordKey, PeerId), HeardPair>,
    addresses: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl Hearsay {
    /// A page of what the neighbour with this number says, as far as it is `wanted`.
    pub(crate) fn add(&mut self, neighbour: usize, page: &Stock, wanted: impl Fn(&RecordKey) -> bool) {
        for (key, number, left) in &page.pairs {
            let Some(Provider { peer, addresses }) = page.nodes.get(usize::from(*number)) else { continue };
            if !wanted(key) {
                continue;
            }
            let room = self.pairs.len() < MAX_PAIRS;
            match self.pairs.get_mut(&(*key, *peer)) {
                Some(said) if said.last == neighbour => {}
                Some(said) => {
                    said.voices += 1;
                    said.last = neighbour;
                    said.left = said.left.max(*left);
                }
                None if room => {
                    self.pairs.insert((*key, *peer), HeardPair { voices: 1, last: neighbour, left: *left });
                    self.addresses.entry(*peer).or_insert_with(|| addresses.clone());
                }
                None => {}
            }
        }
    }

    /// What enough of them said.
    pub(crate) fn agreed(self) -> Vec<Pair> {
        let Self { pairs, addresses } = self;
        let agreed = pairs.into_iter().filter(|(_, said)| said.voices >= VOICES);
        let pair = |((key, peer), said): ((RecordKey, PeerId), HeardPair)| Pair {
            key,
            peer,
            addresses: addresses.get(&peer).cloned().unwrap_or_default(),
            left: Duration::from_secs(u64::from(said.left)),
        };
        agreed.map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> RecordKey {
        RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap()
    }

    fn page(peer: PeerId, keys: impl Iterator<Item = u64>, left: u32) -> Stock {
        let nodes = vec![Provider { peer, addresses: Vec::new() }];
        Stock { nodes, pairs: keys.map(|number| (key(number), 0, left)).collect(), ..Stock::default() }
    }

    #[test]
    fn two_voices_count_and_one_does_not_however_often_it_speaks() {
        let (mut hearsay, peer) = (Hearsay::default(), PeerId::random());
        hearsay.add(0, &page(peer, 0..3, 10), |_| true);
        hearsay.add(0, &page(peer, 0..3, 10), |_| true);
        hearsay.add(1, &page(peer, 2..5, 20), |_| true);
        hearsay.add(1, &page(peer, 2..5, 20), |_| true);
        hearsay.add(2, &page(peer, 0..1, 5), |wanted| *wanted != key(0));
        // A number that names nobody.
        hearsay.add(3, &Stock { pairs: vec![(key(0), 7, 1)], ..Stock::default() }, |_| true);
        let agreed = hearsay.agreed();
        assert_eq!(agreed.len(), 1);
        assert_eq!((agreed[0].key, agreed[0].peer, agreed[0].left), (key(2), peer, Duration::from_secs(20)));
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let (mut hearsay, peer) = (Hearsay::default(), PeerId::random());
        hearsay.add(0, &page(peer, 0..MAX_PAIRS as u64 + 100, 10), |_| true);
        assert_eq!(hearsay.pairs.len(), MAX_PAIRS);
    }
}
