//! The nodes closest to a key: see `state::closest`.

use futures::stream::FuturesUnordered;
use swarmdex_protocols::address::bounded;
use swarmdex_protocols::mirror::KeyFound;

use super::*;
use crate::net::dht::{Counted, Located};
use crate::state::closest::Closest;

/// How long those who are being asked may take before others are asked as well.
pub(super) const SLOW: Duration = Duration::from_millis(300);

impl Mirror {
    /// The nodes closest to a key, this one not among them; at most 20, the closest first, or those of them that are known in
    /// time.
    pub(super) async fn closest(&self, key: &RecordKey) -> Vec<Located> {
        let known = self.net.known_closest(key).await;
        // In a small network, or one of nodes of before, Kademlia asks everybody.
        if known.len() >= REPLICATION
            && let Some(nodes) = self.explore(*key, known).await
        {
            return nodes;
        }
        self.net.closest_within(key, self.patience).await.unwrap_or_else(|error| {
            // Alone in the world, or too busy: this node is all there is.
            tracing::debug!(%error, "the closest nodes could not be found");
            Vec::new()
        })
    }

    /// `None` if none of the nodes asked knows the question.
    async fn explore(&self, key: RecordKey, known: Vec<Located>) -> Option<Vec<Located>> {
        self.net.count(Counted::Closest).await;
        let places = known.iter().map(|(peer, _)| (position_of_peer(peer), *peer));
        let mut closest = Closest::new(position_of_key(&key), places);
        let mut located: BTreeMap<_, _> = known.into_iter().collect();
        let mut asking = FuturesUnordered::new();
        let end = tokio::time::Instant::now() + self.patience;
        while !closest.is_over() {
            while let Some(node) = closest.next_node() {
                let addresses = located.get(&node).cloned().unwrap_or_default();
                asking.push(async move { (node, self.ask(node, &addresses, MirrorRequest::Find(key)).await) });
            }
            let (node, answer) = tokio::select! {
                Some(answer) = asking.next() => answer,
                () = tokio::time::sleep(SLOW), if !asking.is_empty() => {
                    closest.on_slow();
                    continue;
                }
                () = tokio::time::sleep_until(end) => break,
            };
            match answer {
                Ok(MirrorResponse::Found(KeyFound { closer, .. })) => {
                    closest.on_answer(node, self.named(closer, &mut located));
                }
                Err(RequestError::Disconnected) => closest.on_failed(node),
                Ok(_) | Err(_) => closest.on_mute(node),
            }
        }
        closest.has_answers().then(|| {
            let addresses = |node: PeerId| (node, located.remove(&node).unwrap_or_default());
            closest.nodes().into_iter().map(addresses).collect()
        })
    }

    /// The nodes that somebody named, this one left out, each with its place; where they listen is kept in `located`.
    pub(super) fn named(
        &self,
        nodes: Vec<Provider>,
        located: &mut BTreeMap<PeerId, Vec<Multiaddr>>,
    ) -> Vec<(Position, PeerId)> {
        let others = nodes.into_iter().filter(|other| other.peer != self.net.local()).take(REPLICATION);
        others
            .map(|Provider { peer, addresses }| {
                located.entry(peer).or_insert_with(|| routing_addresses(&bounded(addresses)));
                (position_of_peer(&peer), peer)
            })
            .collect()
    }
}
