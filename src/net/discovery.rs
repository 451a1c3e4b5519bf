//! mDNS with bounds.
//!
//! libp2p's mDNS keeps whatever anybody on the LAN multicasts, for as long as the sender says, and offers
//! every address to every behaviour. This wrapper lets a bounded number of nodes through, a bounded
//! number of addresses each, and offers none of them to dials that were not made because of mDNS.

use std::collections::BTreeMap;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::mdns;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

/// Most nodes remembered at a time: a LAN of a few hundred machines.
const MAX_NODES: usize = 512;
/// Most addresses of one node remembered at a time.
const MAX_ADDRESSES: usize = 8;
/// How often nodes ask again, so that one that missed the first packet is found.
const QUERY_INTERVAL: Duration = Duration::from_secs(45);

type Inner = mdns::tokio::Behaviour;

/// Nodes heard of by mDNS.
pub(super) struct Discovery {
    inner: Inner,
    heard: Heard,
}

impl Discovery {
    /// Listens on all interfaces for other nodes.
    pub(super) fn new(local: PeerId) -> io::Result<Self> {
        let config = mdns::Config { query_interval: QUERY_INTERVAL, ..mdns::Config::default() };
        Ok(Self { inner: Inner::new(config, local)?, heard: Heard::default() })
    }

    /// Keeps what fits; what does not is forgotten below as well.
    fn filter(&mut self, event: mdns::Event) -> mdns::Event {
        match event {
            mdns::Event::Discovered(found) => {
                let (kept, surplus): (Vec<_>, Vec<_>) =
                    found.into_iter().partition(|(peer, address)| self.heard.insert(*peer, address.clone()));
                for (peer, _) in surplus {
                    if !self.heard.contains(&peer) {
                        // The one way to make the inner list forget, and so stay bounded.
                        #[allow(deprecated)]
                        self.inner.expire_node(&peer);
                    }
                }
                mdns::Event::Discovered(kept)
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in &gone {
                    self.heard.remove(peer, address);
                }
                mdns::Event::Expired(gone)
            }
        }
    }
}

/// What was heard, within bounds.
#[derive(Debug, Default)]
struct Heard {
    nodes: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl Heard {
    fn contains(&self, peer: &PeerId) -> bool {
        self.nodes.contains_key(peer)
    }

    /// Whether there was room for it.
    fn insert(&mut self, peer: PeerId, address: Multiaddr) -> bool {
        if !self.contains(&peer) && self.nodes.len() >= MAX_NODES {
            return false;
        }
        let addresses = self.nodes.entry(peer).or_default();
        if addresses.len() >= MAX_ADDRESSES {
            return false;
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        true
    }

    fn remove(&mut self, peer: &PeerId, address: &Multiaddr) {
        let Some(addresses) = self.nodes.get_mut(peer) else { return };
        addresses.retain(|other| other != address);
        if addresses.is_empty() {
            self.nodes.remove(peer);
        }
    }
}

impl NetworkBehaviour for Discovery {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = mdns::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(context) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    return Poll::Ready(ToSwarm::GenerateEvent(self.filter(event)));
                }
                Poll::Ready(ToSwarm::NewExternalAddrOfPeer { .. }) => {}
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Multiaddr {
        format!("/ip4/10.1.{}.{}/tcp/4747", number / 250, number % 250 + 1).parse().unwrap()
    }

    #[test]
    fn a_flood_of_fake_nodes_is_bounded_and_known_nodes_stay() {
        let mut heard = Heard::default();
        let honest = PeerId::random();
        assert!(heard.insert(honest, address(0)));
        let admitted = (0..10_000).filter(|_| heard.insert(PeerId::random(), address(1))).count();
        assert_eq!(admitted, MAX_NODES - 1);
        assert!(heard.contains(&honest) && heard.insert(honest, address(2)));
    }

    #[test]
    fn one_node_with_many_addresses_is_bounded() {
        let mut heard = Heard::default();
        let peer = PeerId::random();
        let admitted = (0..1000).filter(|number| heard.insert(peer, address(*number))).count();
        assert_eq!(admitted, MAX_ADDRESSES);
    }

    #[test]
    fn room_returns_when_nodes_expire() {
        let mut heard = Heard::default();
        let peers: Vec<_> = (0..MAX_NODES).map(|_| PeerId::random()).collect();
        for peer in &peers {
            assert!(heard.insert(*peer, address(1)));
        }
        heard.remove(&peers[0], &address(1));
        assert!(heard.insert(PeerId::random(), address(1)));
    }
}
