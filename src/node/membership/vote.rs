//! Which master to take when none is known: the one that the peers here follow, even if it is down at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use swarmdex_protocols::address::bounded;
use swarmdex_protocols::index::Followed;
use swarmdex_protocols::{Multiaddr, PeerId};

use crate::net::{Identified, Net};
use crate::node::masters::ask_all;

/// How long peers may take to show up and to say whom they follow: if there are other nodes here, and if there seem to be
/// none.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_WITHOUT_OTHERS: Duration = Duration::from_millis(500);
/// How often it is seen who has shown up.
const LOOK: Duration = Duration::from_millis(100);
/// Peers that are asked; each has one voice.
const MAX_VOICES: usize = 32;

/// The master that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) master: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    /// Whether it was met, and not only named by others.
    pub(super) met: bool,
    /// How many peers here follow it.
    voices: usize,
    /// Other masters that were met or named.
    others: Vec<PeerId>,
}

impl Choice {
    /// Says which master it is, and why.
    pub(super) fn tell(&self) {
        let Self { master, met, voices, others, .. } = self;
        match (others.as_slice(), *voices) {
            ([], _) => tracing::info!(%master, voices, "this master is taken, the only one that was found"),
            (others, 0) => tracing::warn!(
                %master, ?others,
                "there are several masters of this network, and no peer here follows any: the first is taken. Name another by --master, or give the networks different names: --network NAME"
            ),
            (others, voices) => tracing::warn!(
                %master, voices, up = met, ?others,
                "there are several masters of this network: the one that most peers here follow is taken. Name another by --master, or give the networks different names: --network NAME"
            ),
        }
    }
}

/// Waits a moment for peers to say which master they follow, and chooses. `candidates` are the masters that may be taken,
/// the first found first: at least one. `trusted` are peers that count although mDNS did not find them.
pub(super) async fn choose(
    net: &Net,
    trusted: &[PeerId],
    candidates: impl Fn(&[Identified]) -> Vec<Identified>,
) -> Option<Choice> {
    let begin = tokio::time::Instant::now();
    let (mut asked, mut voices) = (BTreeSet::new(), BTreeMap::new());
    loop {
        let neighbours = net.neighbours().await;
        let found = candidates(&net.masters().borrow());
        let far = neighbours.far.into_iter().filter(|peer| trusted.contains(peer));
        let fresh: Vec<_> = neighbours.near.into_iter().chain(far).filter(|peer| !asked.contains(peer)).collect();
        let fresh: Vec<_> = fresh.into_iter().take(MAX_VOICES - asked.len()).collect();
        asked.extend(fresh.iter().copied());
        // mDNS finds the masters, too.
        let nobody_else = neighbours.heard <= found.len() && asked.is_empty();
        let end = begin + if nobody_else { PATIENCE_WITHOUT_OTHERS } else { PATIENCE };
        if let Ok(answers) = tokio::time::timeout_at(end, ask_all(net, fresh)).await {
            voices.extend(answers);
        }
        if tokio::time::Instant::now() + LOOK >= end {
            return decide(&candidates(&net.masters().borrow()), &voices);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The master with the most voices; among equals one that was met, the first found first.
fn decide(candidates: &[Identified], voices: &BTreeMap<PeerId, Followed>) -> Option<Choice> {
    let mut counts: BTreeMap<PeerId, usize> = candidates.iter().map(|node| (node.peer, 0)).collect();
    for master in voices.values().filter_map(|followed| followed.master) {
        *counts.entry(master).or_default() += 1;
    }
    let place = |master: &PeerId| candidates.iter().position(|node| node.peer == *master).unwrap_or(usize::MAX);
    let best = counts.iter().min_by_key(|(master, count)| (std::cmp::Reverse(**count), place(master)));
    let (master, voices_of) = best.map(|(master, count)| (*master, *count))?;
    let met = candidates.iter().find(|node| node.peer == master);
    let named = voices.values().filter(|followed| followed.master == Some(master));
    let named = named.flat_map(|followed| followed.addresses.clone());
    Some(Choice {
        master,
        addresses: met.map_or_else(|| bounded(named), |node| node.addresses.clone()),
        met: met.is_some(),
        voices: voices_of,
        others: counts.into_keys().filter(|other| *other != master).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use swarmdex_protocols::limits::MAX_ADDRESSES;

    use super::*;
    use crate::config::Role;

    fn met(peer: PeerId) -> Identified {
        Identified { peer, role: Role::Master, addresses: Vec::new(), lan: true, seen: Instant::now() }
    }

    fn voices(of: &[PeerId]) -> BTreeMap<PeerId, Followed> {
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/4747".parse().unwrap();
        let follow =
            |master: &PeerId| Followed { master: Some(*master), addresses: vec![address.clone(); 100], reign: None };
        of.iter().map(|master| (PeerId::random(), follow(master))).collect()
    }

    #[test]
    fn the_masters_that_peers_follow_come_before_those_that_are_up() {
        let [down, up, other] = [(); 3].map(|()| PeerId::random());
        let choice = decide(&[met(up)], &voices(&[down])).unwrap();
        assert_eq!((choice.master, choice.met, choice.others), (down, false, vec![up]));
        assert_eq!(choice.addresses.len(), MAX_ADDRESSES);
        let choice = decide(&[met(up), met(other)], &voices(&[other, other, up, down])).unwrap();
        assert_eq!((choice.master, choice.voices, choice.others.len()), (other, 2, 2));
    }

    #[test]
    fn among_equals_the_first_that_was_found_is_taken() {
        let [first, second, down] = [(); 3].map(|()| PeerId::random());
        assert_eq!(decide(&[met(first), met(second)], &voices(&[])).unwrap().master, first);
        assert_eq!(decide(&[met(second), met(first)], &voices(&[first, second, down])).unwrap().master, second);
        let nobody = BTreeMap::from([(PeerId::random(), Followed::default())]);
        assert_eq!(decide(&[met(first)], &nobody).unwrap().master, first);
        assert_eq!(decide(&[], &nobody), None);
    }
}
