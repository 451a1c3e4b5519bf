//! Where members and requests come from: one host makes as many peers as it likes, so a master counts by address as well.

use std::collections::{BTreeMap, BTreeSet};

use swarmdex_protocols::PeerId;
use swarmdex_protocols::address::Source;

use super::quota::Counts;

/// Members and waiting requests, by peer and by address. No more rows than there are members and requests.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    of: BTreeMap<PeerId, Source>,
    members: BTreeMap<Source, BTreeSet<PeerId>>,
    /// Requests that wait.
    waiting: Counts<PeerId>,
    /// Where the first of those of a peer came from.
    first: BTreeMap<PeerId, Source>,
    waiting_at: Counts<Source>,
}

impl Origins {
    /// A peer is a member, and came from there; of the master itself that is not known.
    pub(crate) fn on_joined(&mut self, peer: PeerId, source: Option<Source>) {
        self.on_left(&peer);
        if let Some(source) = source {
            self.of.insert(peer, source);
            self.members.entry(source).or_default().insert(peer);
        }
    }

    /// A peer is no member any more.
    pub(crate) fn on_left(&mut self, peer: &PeerId) {
        let Some(source) = self.of.remove(peer) else { return };
        if let Some(members) = self.members.get_mut(&source) {
            members.remove(peer);
            if members.is_empty() {
                self.members.remove(&source);
            }
        }
    }

    /// How many members other than this peer come from an address.
    pub(crate) fn others_at(&self, source: &Source, peer: &PeerId) -> usize {
        let members = self.members.get(source);
        members.map_or(0, |members| members.len() - usize::from(members.contains(peer)))
    }

    /// The members that come from where a member does, itself left out.
    pub(crate) fn neighbours(&self, peer: &PeerId) -> impl Iterator<Item = &PeerId> {
        let members = self.of.get(peer).and_then(|source| self.members.get(source));
        members.into_iter().flatten().filter(move |other| *other != peer)
    }

    /// A request waits from now on.
    pub(crate) fn begin(&mut self, peer: PeerId, source: Option<Source>) {
        if self.waiting.of(&peer) == 0
            && let Some(source) = source
        {
            self.first.insert(peer, source);
        }
        if let Some(source) = self.first.get(&peer) {
            self.waiting_at.add(*source, 1);
        }
        self.waiting.add(peer, 1);
    }

    /// It waits no longer.
    pub(crate) fn end(&mut self, peer: &PeerId) {
        if let Some(source) = self.first.get(peer) {
            self.waiting_at.remove(source);
        }
        self.waiting.remove(peer);
        if self.waiting.of(peer) == 0 {
            self.first.remove(peer);
        }
    }

    /// Requests of a peer that wait.
    pub(crate) fn waiting(&self, peer: &PeerId) -> usize {
        self.waiting.of(peer)
    }

    /// Requests from an address that wait.
    pub(crate) fn waiting_at(&self, source: &Source) -> usize {
        self.waiting_at.of(source)
    }

    /// Requests that wait in all.
    pub(crate) fn total(&self) -> usize {
        self.waiting.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> Source {
        Source::of([10, 0, 0, number].into())
    }

    #[test]
    fn members_are_counted_where_they_are() {
        let (mut origins, peers) = (Origins::default(), [0; 4].map(|_| PeerId::random()));
        peers.iter().for_each(|peer| origins.on_joined(*peer, Some(source(1))));
        origins.on_joined(peers[0], Some(source(1)));
        assert_eq!(
            (origins.others_at(&source(1), &peers[0]), origins.others_at(&source(1), &PeerId::random())),
            (3, 4)
        );
        assert_eq!(origins.neighbours(&peers[0]).count(), 3);
        origins.on_joined(peers[0], Some(source(2)));
        assert_eq!((origins.neighbours(&peers[0]).count(), origins.neighbours(&peers[1]).count()), (0, 2));
        origins.on_joined(peers[1], None);
        peers.iter().for_each(|peer| origins.on_left(peer));
        assert!(origins.of.is_empty() && origins.members.is_empty(), "nothing is left of those who went");
    }

    #[test]
    fn requests_are_counted_by_peer_by_address_and_in_all() {
        let (mut origins, peers) = (Origins::default(), [0; 2].map(|_| PeerId::random()));
        for peer in peers {
            origins.begin(peer, Some(source(1)));
            // It moved in the midst of it: what began there ends there.
            origins.begin(peer, Some(source(2)));
        }
        origins.begin(PeerId::random(), None);
        let counts = |origins: &Origins| (origins.waiting(&peers[0]), origins.waiting_at(&source(1)), origins.total());
        assert_eq!(counts(&origins), (2, 4, 5));
        origins.end(&peers[0]);
        assert_eq!(counts(&origins), (1, 3, 4));
        origins.end(&PeerId::random());
        peers.iter().chain(&peers).for_each(|peer| origins.end(peer));
        assert_eq!((counts(&origins), origins.waiting.iter().count()), ((0, 0, 1), 1));
        assert!(origins.waiting_at.is_empty() && origins.first.is_empty());
    }
}
