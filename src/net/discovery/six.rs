//! mDNS over IPv6, on every interface.
//!
//! libp2p's own has one of both kinds, and over IPv6 it leaves the interface to the system, which takes one of them. Here one socket
//! belongs to the group on each interface, those that come later among them, and says on each where this node listens there.
//! Link-local addresses mean something together with the interface alone: the one that they were heard on.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Socket, Type};
use swarmdex_protocols::address::ip_of;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::packets::{LanAddress, Packet, answers, parse, query};
use super::{Interface, QUERY_INTERVAL};

/// Where mDNS speaks; source: RFC 6762.
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;
/// How often it is looked which interfaces there are.
const LOOK: Duration = Duration::from_secs(3);
/// How soon this node asks again at first; doubled each time, up to [`QUERY_INTERVAL`].
const FIRST_QUERY: Duration = Duration::from_millis(500);
/// How long others may believe what it says.
const LIVES: Duration = Duration::from_secs(360);
/// How often this node answers on one interface, whoever asks.
const ANSWER_PAUSE: Duration = Duration::from_millis(500);
/// Addresses that are remembered, until they are over.
const MAX_KNOWN: usize = 4096;
/// Longest packet that RFC 6762 allows.
const MAX_PACKET: usize = 9000;

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SixEvent {
    /// A node is there.
    Here(PeerId, Multiaddr),
    /// It was, and has not said so again.
    Gone(PeerId, Multiaddr),
}

/// Speaks mDNS until nobody listens any more.
pub(super) struct Six {
    local: PeerId,
    /// Not that of another node on this host.
    name: String,
    socket: UdpSocket,
    interfaces: BTreeMap<u32, Interface>,
    /// When it last answered on each.
    answered: BTreeMap<u32, Instant>,
    known: BTreeMap<(PeerId, Multiaddr), Instant>,
}

impl Six {
    pub(super) fn new(local: PeerId) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(socket2::Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_multicast_loop_v6(true)?;
        socket.set_multicast_hops_v6(255)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let name = format!("{:016x}", rand::random::<u64>());
        let (interfaces, answered, known) = Default::default();
        Ok(Self { local, name, socket, interfaces, answered, known })
    }

    /// `listen` has where this node listens, without its peer id; what is heard goes to `heard`.
    pub(super) async fn run(mut self, mut listen: watch::Receiver<Vec<Multiaddr>>, heard: mpsc::Sender<SixEvent>) {
        let (mut pause, mut buffer) = (FIRST_QUERY, vec![0; MAX_PACKET]);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = Box::pin(tokio::time::sleep(Duration::ZERO));
        self.look();
        loop {
            let mut news = Vec::new();
            tokio::select! {
                () = heard.closed() => return,
                _ = looks.tick() => {
                    if self.look() {
                        pause = FIRST_QUERY;
                        asks.as_mut().reset(tokio::time::Instant::now() + pause);
                    }
                    news = self.expire(Instant::now());
                }
                () = &mut asks => {
                    self.ask().await;
                    pause = (pause * 2).min(QUERY_INTERVAL);
                    asks.as_mut().reset(tokio::time::Instant::now() + pause);
                }
                Ok(()) = listen.changed() => {
                    // Those who are there need not ask.
                    let listen = listen.borrow_and_update().clone();
                    for index in self.interfaces.keys().copied().collect::<Vec<_>>() {
                        self.answer(index, &listen).await;
                    }
                }
                received = self.socket.recv_from(&mut buffer) => if let Ok((length, from)) = received {
                    match parse(&buffer[..length]) {
                        Some(Packet::Query) => {
                            let listen = listen.borrow().clone();
                            self.on_query(from, &listen, Instant::now()).await;
                        }
                        Some(Packet::Addresses(told)) => news = self.on_addresses(told, from, Instant::now()),
                        None => {}
                    }
                },
            }
            for news in news {
                // Whoever listens is behind when very much is said at a time: what is lost is news the next time.
                if let Err(mpsc::error::TrySendError::Full(SixEvent::Here(peer, address))) = heard.try_send(news) {
                    self.known.remove(&(peer, address));
                }
            }
        }
    }

    /// Looks which interfaces there are; whether any is new or gone.
    fn look(&mut self) -> bool {
        let now = super::interfaces();
        let old: Vec<_> = self.interfaces.keys().filter(|index| !now.contains_key(index)).copied().collect();
        for index in &old {
            self.interfaces.remove(index);
            self.answered.remove(index);
        }
        let mut changed = !old.is_empty();
        for (index, interface) in now {
            if !interface.has_six() {
                changed |= self.interfaces.remove(&index).is_some();
                continue;
            }
            if !self.interfaces.contains_key(&index) {
                // It is a member already where the interface was away for a moment.
                if let Err(error) = self.socket.join_multicast_v6(&GROUP, index)
                    && error.kind() != io::ErrorKind::AddrInUse
                {
                    tracing::debug!(interface = %interface.name, %error, "no mDNS over IPv6 there");
                    continue;
                }
                tracing::info!(interface = %interface.name, "looks for nodes by mDNS over IPv6");
            }
            changed |= self.interfaces.insert(index, interface.clone()).is_none_or(|before| before != interface);
        }
        changed
    }

    async fn ask(&self) {
        let Some(query) = query() else { return };
        for index in self.interfaces.keys() {
            self.send(*index, &query).await;
        }
    }

    async fn on_query(&mut self, from: SocketAddr, listen: &[Multiaddr], now: Instant) {
        let scope = scope_of(from);
        let all = self.interfaces.keys().copied().filter(|index| scope == 0 || scope == *index);
        for index in all.collect::<Vec<_>>() {
            let recent = self.answered.get(&index).is_some_and(|at| now.saturating_duration_since(*at) < ANSWER_PAUSE);
            if !recent {
                self.answered.insert(index, now);
                self.answer(index, listen).await;
            }
        }
    }

    /// Says on an interface where this node listens there.
    async fn answer(&self, index: u32, listen: &[Multiaddr]) {
        let Some(interface) = self.interfaces.get(&index) else { return };
        let is_there = |address: &&Multiaddr| ip_of(address).is_some_and(|ip| interface.ips.contains(&ip));
        let there: Vec<_> = listen.iter().filter(is_there).cloned().collect();
        for packet in answers(self.local, &self.name, &there, LIVES) {
            self.send(index, &packet).await;
        }
    }

    async fn send(&self, index: u32, packet: &[u8]) {
        let group = SocketAddrV6::new(GROUP, PORT, 0, index);
        if let Err(error) = self.socket.send_to(packet, group).await {
            tracing::debug!(index, %error, "mDNS over IPv6");
        }
    }

    fn on_addresses(&mut self, told: Vec<LanAddress>, from: SocketAddr, now: Instant) -> Vec<SixEvent> {
        let zone = self.interfaces.get(&scope_of(from)).map(|interface| interface.name.clone());
        let mut news = Vec::new();
        for LanAddress { peer, address, lives } in told.into_iter().filter(|told| told.peer != self.local) {
            let Some(address) = zoned(address, zone.as_deref()) else { continue };
            let key = (peer, address);
            if lives.is_zero() {
                news.extend(self.known.remove(&key).map(|_| SixEvent::Gone(key.0, key.1)));
            } else if let Some(until) = self.known.get_mut(&key) {
                // It says so again and again.
                *until = now + lives;
            } else if self.known.len() < MAX_KNOWN {
                self.known.insert(key.clone(), now + lives);
                news.push(SixEvent::Here(key.0, key.1));
            }
        }
        news
    }

    fn expire(&mut self, now: Instant) -> Vec<SixEvent> {
        let over = self.known.extract_if(.., |_, until| *until <= now);
        over.map(|((peer, address), _)| SixEvent::Gone(peer, address)).collect()
    }
}

/// The interface that a packet came over; 0 if that cannot be said.
fn scope_of(from: SocketAddr) -> u32 {
    match from {
        SocketAddr::V6(from) => from.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// A link-local address with its zone; one that has none means nothing.
fn zoned(address: Multiaddr, zone: Option<&str>) -> Option<Multiaddr> {
    match ip_of(&address) {
        Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => {
            let zone = Protocol::Ip6zone(zone?.to_owned().into());
            Some(std::iter::once(zone).chain(address.iter()).collect())
        }
        _ => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(peer: PeerId, address: &str, seconds: u64) -> LanAddress {
        LanAddress { peer, address: address.parse().unwrap(), lives: Duration::from_secs(seconds) }
    }

    #[tokio::test]
    async fn what_is_heard_is_remembered_for_its_time_bounded_and_with_its_zone() {
        let Ok(mut six) = Six::new(PeerId::random()) else { return println!("SKIPPED: no mDNS over IPv6 here") };
        let (peer, now) = (PeerId::random(), Instant::now());
        six.interfaces.insert(7, Interface { name: "eth7".to_owned(), ips: Vec::new() });
        let from = |scope| SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), PORT, 0, scope));
        let link = told(peer, "/ip6/fe80::2/tcp/1", 60);
        let zoned: Multiaddr = "/ip6zone/eth7/ip6/fe80::2/tcp/1".parse().unwrap();
        assert_eq!(six.on_addresses(vec![link.clone()], from(7), now), [SixEvent::Here(peer, zoned.clone())]);
        assert_eq!(six.on_addresses(vec![link.clone()], from(7), now), [], "that is no news");
        assert_eq!(six.on_addresses(vec![link], from(8), now), [], "heard nobody knows where");
        let own = told(six.local, "/ip6/fd00::1/tcp/1", 60);
        assert_eq!(six.on_addresses(vec![own], from(7), now), []);
        assert_eq!(six.expire(now + Duration::from_secs(59)), []);
        assert_eq!(six.expire(now + Duration::from_secs(60)), [SixEvent::Gone(peer, zoned)]);
        let global = "/ip6/fd00::1/tcp/1";
        assert_eq!(six.on_addresses(vec![told(peer, global, 60), told(peer, global, 0)], from(7), now).len(), 2);
        (0..2 * MAX_KNOWN).for_each(|_| drop(six.on_addresses(vec![told(PeerId::random(), global, 60)], from(7), now)));
        assert_eq!(six.known.len(), MAX_KNOWN);
    }
}
