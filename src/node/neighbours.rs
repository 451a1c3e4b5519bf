//! The address book: nodes that were there before, for a start without a master.

use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use swarmdex_protocols::address::split_peer;
use swarmdex_protocols::{Multiaddr, PeerId};

use super::context::Context;
use crate::tasks;

/// Nodes that are remembered for the next start.
const REMEMBERED: usize = 64;
/// How many of them are tried at a time.
const DIALS: usize = 8;

/// Connects to nodes that were known before, and to those that the configuration names: the network may be there although its
/// master is not, or be larger than its master knows.
pub(super) fn enter(context: &Context) {
    let mut known = context.dir.known_nodes(context.network());
    known.extend(context.config.bootstrap.iter().cloned());
    let net = context.net.clone();
    tasks::spawn(
        "entrance",
        futures::stream::iter(known).for_each_concurrent(DIALS, move |address| {
            let net = net.clone();
            async move {
                let (peer, address) = split_peer(address);
                if let Err(error) = net.connect(peer, vec![address]).await {
                    tracing::debug!(%error, "a node that was known before is gone");
                }
            }
        }),
    );
}

/// Writes down who is there, for a start without a master.
pub(super) async fn remember(context: &Context) {
    let nodes = context.net.nodes().await;
    let address = |(peer, addresses): (PeerId, Vec<Multiaddr>)| {
        addresses.into_iter().next().map(|address| address.with(Protocol::P2p(peer)))
    };
    let nodes: Vec<_> = nodes.into_iter().filter_map(address).take(REMEMBERED).collect();
    // An empty table says nothing new.
    if nodes.is_empty() {
        return;
    }
    let (dir, network) = (context.dir.clone(), context.network().clone());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || dir.remember_nodes(&network, &nodes)).await {
        tracing::warn!(%error, "the nodes that are known could not be written down");
    }
}
