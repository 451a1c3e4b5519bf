//! mDNS with bounds.
//!
//! libp2p's mDNS keeps whatever anybody on the LAN multicasts, for as long as the sender says, and offers
//! every address to every behaviour. This wrapper lets a bounded number of nodes through, a bounded
//! number of addresses each, and offers none of them to dials that were not made because of mDNS. Over IPv6 it looks by itself.

mod packets;
mod six;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::mdns;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use six::Six;
use tokio::sync::{mpsc, watch};

use crate::tasks;

/// Most nodes remembered at a time: a LAN of a few hundred machines.
const MAX_NODES: usize = 512;
/// Most addresses of one node remembered at a time.
const MAX_ADDRESSES: usize = 8;
/// How often nodes ask again, so that one that missed the first packet is found.
const QUERY_INTERVAL: Duration = Duration::from_secs(45);

/// News that wait to be taken.
const QUEUE: usize = 256;

type MdnsBehaviour = mdns::tokio::Behaviour;

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) ips: Vec<IpAddr>,
}

impl Interface {
    /// Whether other hosts may be behind it over IPv6.
    fn has_six(&self) -> bool {
        self.ips.iter().any(|ip| ip.is_ipv6() && !ip.is_loopback())
    }
}

/// The interfaces of this host that are up, by their numbers.
pub(super) fn interfaces() -> BTreeMap<u32, Interface> {
    let mut all = BTreeMap::<u32, Interface>::new();
    for found in if_addrs::get_if_addrs().unwrap_or_default() {
        let Some(index) = found.index else { continue };
        let ip = found.ip();
        all.entry(index).or_insert_with(|| Interface { name: found.name, ips: Vec::new() }).ips.push(ip);
    }
    all
}

/// The interfaces on which mDNS looks for nodes, for people.
pub(crate) fn mdns_interfaces() -> Vec<String> {
    let kinds = |interface: &Interface| {
        let has = |accept: fn(&IpAddr) -> bool| interface.ips.iter().any(|ip| accept(ip) && !ip.is_loopback());
        match (has(IpAddr::is_ipv4), has(IpAddr::is_ipv6)) {
            (true, true) => Some("IPv4, IPv6"),
            (true, false) => Some("IPv4"),
            (false, true) => Some("IPv6"),
            (false, false) => None,
        }
    };
    let named = |interface: &Interface| Some(format!("{} ({})", interface.name, kinds(interface)?));
    interfaces().values().filter_map(named).collect()
}

/// Nodes heard of by mDNS.
pub(super) struct Discovery {
    /// Over IPv4.
    inner: MdnsBehaviour,
    /// Over IPv6, if that works here.
    six: Option<mpsc::Receiver<six::SixEvent>>,
    /// Where this node listens, for those who ask over IPv6.
    listen: watch::Sender<Vec<Multiaddr>>,
    heard: HeardNodes,
}

impl Discovery {
    /// Listens on all interfaces for other nodes.
    pub(super) fn new(local: PeerId) -> io::Result<Self> {
        let config = mdns::Config { query_interval: QUERY_INTERVAL, ..mdns::Config::default() };
        let (listen, listening) = watch::channel(Vec::new());
        let (heard, news) = mpsc::channel(QUEUE);
        let six = match Six::new(local) {
            Ok(six) => {
                tasks::spawn("mDNS over IPv6", six.run(listening, heard));
                Some(news)
            }
            Err(error) => {
                // Many machines have no IPv6.
                tracing::info!(%error, "mDNS over IPv4 alone");
                None
            }
        };
        Ok(Self { inner: MdnsBehaviour::new(config, local)?, six, listen, heard: HeardNodes::default() })
    }

    /// What was heard over IPv6.
    fn poll_six(&mut self, context: &mut Context<'_>) -> Poll<mdns::Event> {
        while let Some(six) = &mut self.six {
            match ready!(six.poll_recv(context)) {
                Some(six::SixEvent::Here(peer, address)) => {
                    if self.heard.insert(peer, address.clone()) {
                        return Poll::Ready(mdns::Event::Discovered(vec![(peer, address)]));
                    }
                }
                Some(six::SixEvent::Gone(peer, address)) => {
                    self.heard.remove(&peer, &address);
                    return Poll::Ready(mdns::Event::Expired(vec![(peer, address)]));
                }
                None => self.six = None,
            }
        }
        Poll::Pending
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
struct HeardNodes {
    nodes: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl HeardNodes {
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
    type ConnectionHandler = <MdnsBehaviour as NetworkBehaviour>::ConnectionHandler;
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
        match &event {
            FromSwarm::NewListenAddr(new) => self.listen.send_modify(|listen| listen.push(new.addr.clone())),
            FromSwarm::ExpiredListenAddr(old) => {
                self.listen.send_modify(|listen| listen.retain(|address| address != old.addr));
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Poll::Ready(event) = self.poll_six(context) {
            return Poll::Ready(ToSwarm::GenerateEvent(event));
        }
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
        let mut heard = HeardNodes::default();
        let honest = PeerId::random();
        assert!(heard.insert(honest, address(0)));
        let admitted = (0..10_000).filter(|_| heard.insert(PeerId::random(), address(1))).count();
        assert_eq!(admitted, MAX_NODES - 1);
        assert!(heard.contains(&honest) && heard.insert(honest, address(2)));
    }

    #[test]
    fn one_node_with_many_addresses_is_bounded() {
        let mut heard = HeardNodes::default();
        let peer = PeerId::random();
        let admitted = (0..1000).filter(|number| heard.insert(peer, address(*number))).count();
        assert_eq!(admitted, MAX_ADDRESSES);
    }

    #[test]
    fn room_returns_when_nodes_expire() {
        let mut heard = HeardNodes::default();
        let peers: Vec<_> = (0..MAX_NODES).map(|_| PeerId::random()).collect();
        for peer in &peers {
            assert!(heard.insert(*peer, address(1)));
        }
        heard.remove(&peers[0], &address(1));
        assert!(heard.insert(PeerId::random(), address(1)));
    }
}
