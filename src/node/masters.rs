//! Other masters of this network. Two people who each start one on the same LAN have two networks with one name: peers
//! join whichever answers first, and find nothing of what the others share. A master that hears of another says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use swarmdex_protocols::address::is_dialable;
use swarmdex_protocols::index::{Followed, IndexRequest, IndexResponse};
use swarmdex_protocols::{Multiaddr, PeerId};

use super::context::Context;
use super::life::Phase;
use crate::clock::sleep_until;
use crate::locks::lock;
use crate::net::{Identified, Net};

/// For how long another master is spoken of after it was last heard of: three times as long as nodes take, at most, to
/// say again who they are.
const MEMORY: Duration = Duration::from_secs(900);
/// How often the log tells of one other master, at most.
const WARNING_PAUSE: Duration = Duration::from_secs(600);
/// How soon after the start peers are asked which master they follow, and how often from then on.
const FIRST_ASKED: Duration = Duration::from_secs(3);
const ASKED_EVERY: Duration = Duration::from_secs(60);
/// Peers that are asked at a time, others the next time; and how long each may take.
const MAX_ASKED: usize = 8;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Other masters that are remembered: peers may name whom they like.
const MAX_OTHERS: usize = 16;

/// Masters that peers of this master follow instead. Shared with the handle.
#[derive(Debug, Clone, Default)]
pub(super) struct OtherMasters {
    followed: Arc<Mutex<BTreeMap<PeerId, Instant>>>,
}

impl OtherMasters {
    /// Masters of this network that were met lately and are not the one that this node follows, and those that peers
    /// said they follow.
    pub(super) fn list(&self, net: &Net) -> Vec<PeerId> {
        let own = net.authority().map(|authority| authority.master.to_peer_id());
        self.at(&net.masters().borrow(), own, Instant::now())
    }

    fn at(&self, met: &[Identified], own: Option<PeerId>, now: Instant) -> Vec<PeerId> {
        let recent = |seen: &Instant| now.saturating_duration_since(*seen) <= MEMORY;
        let met = met.iter().filter(|node| recent(&node.seen)).map(|node| node.peer);
        let mut followed = lock(&self.followed);
        followed.retain(|_, seen| recent(seen));
        let others: BTreeSet<_> = met.chain(followed.keys().copied()).filter(|other| Some(*other) != own).collect();
        // A node that follows nobody has no other master either.
        if own.is_some() { others.into_iter().collect() } else { Vec::new() }
    }

    /// A peer says that it follows `other`.
    fn on_followed(&self, other: PeerId, now: Instant) {
        let mut followed = lock(&self.followed);
        if followed.len() < MAX_OTHERS || followed.contains_key(&other) {
            followed.insert(other, now);
        }
    }
}

/// The task of a master that looks out for others.
pub(super) struct Census {
    context: Context,
    others: OtherMasters,
    warned: BTreeMap<PeerId, Instant>,
    /// The last peer that was asked.
    last: Option<PeerId>,
}

impl Census {
    pub(super) fn new(context: Context, others: OtherMasters) -> Self {
        Self { context, others, warned: BTreeMap::new(), last: None }
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let phase = self.context.phase.clone();
        Phase::limit(&phase, self.watch()).await;
    }

    async fn watch(&mut self) {
        let mut masters = self.context.net.masters();
        let mut next = Instant::now() + FIRST_ASKED;
        loop {
            tokio::select! {
                changed = masters.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    masters.borrow_and_update();
                }
                () = sleep_until(Some(next)) => {
                    self.ask().await;
                    next = Instant::now() + ASKED_EVERY;
                }
            }
            for other in self.others.list(&self.context.net) {
                self.warn(other, Instant::now());
            }
        }
    }

    fn warn(&mut self, other: PeerId, now: Instant) {
        self.warned.retain(|_, warned| now.duration_since(*warned) < WARNING_PAUSE);
        if self.warned.contains_key(&other) || self.warned.len() >= MAX_OTHERS {
            return;
        }
        self.warned.insert(other, now);
        let met = self.context.net.masters().borrow().iter().any(|node| node.peer == other);
        let how = if met { "is on it" } else { "is followed by a peer here" };
        tracing::warn!(
            ours = %self.context.net.local(), theirs = %other, network = %self.context.network(),
            "another master of this network {how}: each has an index of its own, and a new peer joins one of them. Stop one, or give one of the networks another name: --network NAME"
        );
    }

    /// Asks some of the peers that are connected which master they follow; others the next time.
    async fn ask(&mut self) {
        let neighbours = self.context.net.neighbours().await;
        let mut peers: Vec<_> = neighbours.near.into_iter().chain(neighbours.far).collect();
        peers.sort();
        let first = self.last.map_or(0, |last| peers.partition_point(|peer| *peer <= last));
        let count = peers.len();
        peers.rotate_left(first.min(count));
        peers.truncate(MAX_ASKED);
        self.last = peers.last().copied();
        let own = self.context.net.listen().borrow().clone();
        for (_, followed) in ask_all(&self.context.net, peers).await {
            // One with this master's key may be where this one does not listen.
            if followed.master == Some(self.context.net.local()) {
                let elsewhere = |address: &Multiaddr| is_dialable(address) && !own.contains(address);
                self.context.twins.on_heard_at(followed.addresses.into_iter().filter(elsewhere).collect());
                continue;
            }
            if let Some(other) = followed.master.filter(|other| *other != self.context.net.local()) {
                self.others.on_followed(other, Instant::now());
            }
        }
    }
}

/// Which masters these peers follow; those that do not answer in time, or are of a build that does not know the question,
/// are left out.
pub(super) async fn ask_all(net: &Net, peers: Vec<PeerId>) -> Vec<(PeerId, Followed)> {
    let asking = stream::iter(peers).map(|peer| async move {
        match tokio::time::timeout(ASK_TIMEOUT, net.index(peer, IndexRequest::Master)).await {
            Ok(Ok(IndexResponse::Master(followed))) => Some((peer, followed)),
            _ => None,
        }
    });
    asking.buffer_unordered(MAX_ASKED).filter_map(std::future::ready).collect().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    #[test]
    fn masters_that_peers_name_are_bounded_and_forgotten() {
        let (others, now) = (OtherMasters::default(), Instant::now());
        (0..1000).for_each(|_| others.on_followed(PeerId::random(), now));
        let own = Some(PeerId::random());
        assert_eq!(others.at(&[], own, now).len(), MAX_OTHERS);
        assert_eq!(others.at(&[], own, now + MEMORY + Duration::from_secs(1)), Vec::new());
        assert!(others.followed.lock().unwrap().is_empty());
    }

    #[test]
    fn the_master_that_a_node_follows_is_no_other() {
        let (others, now) = (OtherMasters::default(), Instant::now());
        let [own, other] = [PeerId::random(), PeerId::random()];
        let met = [own, other].map(|peer| Identified {
            peer,
            role: Role::Master,
            addresses: Vec::new(),
            lan: true,
            seen: now,
        });
        others.on_followed(own, now);
        assert_eq!(others.at(&met, Some(own), now), [other]);
        assert_eq!(others.at(&met, None, now), Vec::new());
    }
}
