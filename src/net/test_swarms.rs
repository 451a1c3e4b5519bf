//! Swarms of a single behaviour, for tests.

use std::time::Duration;

use futures::StreamExt;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, Swarm, SwarmBuilder, tcp, tls, yamux};

/// One over TCP that keeps its connections.
pub(in crate::net) fn swarm<B: NetworkBehaviour>(behaviour: B) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| behaviour)
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
        .build()
}

/// Lets one begin to connect to the other; where that listens.
pub(in crate::net) async fn dial<A: NetworkBehaviour, B: NetworkBehaviour>(
    ours: &mut Swarm<A>,
    theirs: &mut Swarm<B>,
) -> Multiaddr {
    theirs.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = theirs.select_next_some().await {
            break address;
        }
    };
    ours.dial(address.clone()).unwrap();
    address
}
