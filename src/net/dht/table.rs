//! What Kademlia's routing table has.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId, kad};
use swarmdex_protocols::RecordKey;
use swarmdex_protocols::address::bounded;

use super::{Kad, Located};
use crate::state::publish::REPLICATION;

/// The nodes closest to a key in the routing table, the closest first, as many as store a record. Kademlia's own walk copies every
/// bucket, empty ones among them: an eighth of a node's time while many look for each other.
pub(super) fn known_closest(kad: &mut Kad, key: &RecordKey) -> Vec<Located> {
    let target = kad::KBucketKey::new(key.as_bytes().to_vec());
    let mut closest = BTreeMap::new();
    for bucket in kad.kbuckets() {
        for entry in bucket.iter() {
            let distance = entry.node.key.distance(&target);
            if closest.len() < REPLICATION || closest.last_key_value().is_some_and(|(far, _)| distance < *far) {
                closest.insert(distance, (*entry.node.key.preimage(), entry.node.value.clone()));
            }
            if closest.len() > REPLICATION {
                closest.pop_last();
            }
        }
    }
    closest.into_values().map(|(peer, addresses)| (peer, bounded(addresses.into_vec()))).collect()
}

/// The addresses of a node in the routing table, as they stand there.
pub(in crate::net) fn addresses_of(kad: &mut Kad, peer: &PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(*peer) else { return Vec::new() };
    let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer);
    entry.map(|entry| entry.node.value.iter().cloned().collect()).unwrap_or_default()
}
