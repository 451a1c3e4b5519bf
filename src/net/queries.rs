//! What the DHT is asked through the handle.

use std::time::Duration;

use swarmdex_protocols::{Multiaddr, PeerId, RecordKey};
use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use super::dht::{self, DhtCounts, FoundRecord, Located};
use super::error::RequestError;
use super::handle::Net;
use crate::state::lost::Reached;

impl Net {
    /// The nodes closest to a key, this one not among them; at most 20, the closest first, or those of them who answered in
    /// time. By Kademlia's own query.
    pub(super) async fn closest_within(
        &self,
        key: &RecordKey,
        patience: Duration,
    ) -> Result<Vec<Located>, RequestError> {
        self.closest_to(key.as_bytes().to_vec(), patience).await
    }

    /// The nodes closest to a key that this node knows, the closest first.
    pub(super) async fn known_closest(&self, key: &RecordKey) -> Vec<Located> {
        let (answer, answered) = oneshot::channel();
        self.dht(dht::Ask::Known { key: *key, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Stores what neighbours told of this node's part of the key space.
    pub(super) async fn adopt(&self, adopt: dht::Adopt) {
        self.dht(dht::Ask::Adopt(adopt)).await;
    }

    /// Where a peer listens, as far as this node knows.
    pub(crate) async fn known_addresses(&self, peer: PeerId) -> Vec<Multiaddr> {
        let (answer, answered) = oneshot::channel();
        self.dht(dht::Ask::Addresses { peer, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Where a peer listens: as this node knows, or as the network says.
    pub(crate) async fn locate(&self, peer: PeerId) -> Vec<Multiaddr> {
        let known = self.known_addresses(peer).await;
        if !known.is_empty() {
            return known;
        }
        let nodes = self.closest_to(peer.to_bytes(), dht::CLOSEST_PATIENCE).await.unwrap_or_default();
        nodes.into_iter().find(|(other, _)| *other == peer).map(|(_, addresses)| addresses).unwrap_or_default()
    }

    pub(super) async fn closest_to(&self, key: Vec<u8>, patience: Duration) -> Result<Vec<Located>, RequestError> {
        let (answer, mut answered) = oneshot::channel();
        self.dht(dht::Ask::Closest { key: key.clone(), answer }).await;
        let answer = match tokio::time::timeout(patience, &mut answered).await {
            Ok(answer) => answer,
            Err(_) => {
                self.dht(dht::Ask::EndClosest { key, patience }).await;
                answered.await
            }
        };
        answer.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Values under a key, each with the node that sent it, as they come; nothing about them was checked. Dropping
    /// the receiver ends the query.
    pub(crate) async fn record(&self, key: RecordKey) -> mpsc::Receiver<FoundRecord> {
        let (found, receiver) = mpsc::channel(dht::FOUND_QUEUE);
        self.dht(dht::Ask::Record { key, found }).await;
        receiver
    }

    /// How many of the nodes closest to a key were lost, and how many answer.
    pub(crate) async fn reach(&self, key: RecordKey) -> Reached {
        let (answer, answered) = oneshot::channel();
        self.dht(dht::Ask::Reach { key, answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Nodes that are found under a key, as they come, some of them more than once. Dropping the receiver ends
    /// the query.
    pub(crate) async fn providers(&self, key: RecordKey) -> mpsc::Receiver<PeerId> {
        let (found, receiver) = mpsc::channel(dht::FOUND_QUEUE);
        self.dht(dht::Ask::Providers { key, found }).await;
        receiver
    }

    /// Nodes in the routing table, with their addresses.
    pub(crate) async fn nodes(&self) -> Vec<Located> {
        let (answer, answered) = oneshot::channel();
        self.dht(dht::Ask::Nodes { answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Counts something.
    pub(super) async fn count(&self, what: dht::Counted) {
        self.dht(dht::Ask::Count(what)).await;
    }

    /// Counts of the DHT.
    pub(crate) async fn dht_counts(&self) -> DhtCounts {
        let (answer, answered) = oneshot::channel();
        self.dht(dht::Ask::Counts { answer }).await;
        answered.await.unwrap_or_default()
    }

    pub(super) async fn dht(&self, ask: dht::Ask) {
        // A loop that is gone drops the question, and whoever waits is told so.
        let _ = self.commands.send(Command::Dht(ask)).await;
    }
}
