//! What an address says of itself: over which transport it leads, to which host, and for whom that can work.
//!
//! Everything that orders, cuts or chooses addresses does it here: by their [`Kind`], for whom they work ([`works`]), and how many a
//! message has room for ([`bounded`]).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::collections::BTreeSet;

use libp2p_identity::PeerId;
use multiaddr::{Multiaddr, Protocol};

use crate::limits::{MAX_ADDRESS_BYTES, MAX_ADDRESSES};

/// Addresses of one node in a routing table.
const MAX_ROUTING_ADDRESSES: usize = 8;

/// The IP address that an address begins with, an IPv4 one mapped into IPv6 as IPv4; `None` for a DNS name.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_ipv4_mapped().map_or(ip.into(), IpAddr::from)),
        _ => None,
    }
}

/// Bits of an IPv6 address that its host's provider chose. The rest is the host's own: it has as many addresses as it likes.
const NETWORK_BITS: u32 = 64;

/// What counts as one address where strangers are counted: an IPv4 address, or the /64 of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(pub IpAddr);

impl Source {
    /// That of an IP address.
    pub fn of(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(six) => match six.to_ipv4_mapped() {
                Some(four) => four.into(),
                None => Ipv6Addr::from_bits(six.to_bits() >> NETWORK_BITS << NETWORK_BITS).into(),
            },
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/{NETWORK_BITS}"),
        }
    }
}

/// Whether an address leads to the very host of whoever uses it.
pub fn is_loopback(address: &Multiaddr) -> bool {
    let is_name_of_host = |name: &str| name == "localhost" || name.ends_with(".localhost");
    match address.iter().next() {
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => is_name_of_host(&name),
        _ => ip_of(address).is_some_and(|ip| ip.is_loopback()),
    }
}

/// Whether an address of a third node can work for two that tell each other of it, or one of the teller's own for the other.
/// A loopback address leads to whoever listens on the same host: it works for nodes `here` alone, which are connected over one.
pub fn works(address: &Multiaddr, here: bool) -> bool {
    is_dialable(address) && (here || !is_loopback(address))
}

/// Whether an address is link-local with its zone, over TCP: it means something on this host alone, and is not told to others.
pub fn is_zoned(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let zone = matches!(parts.next(), Some(Protocol::Ip6zone(zone)) if !zone.is_empty());
    let local = matches!(parts.next(), Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local());
    zone && local && matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0) && parts.next().is_none()
}

/// How an address leads to its node, the preferred kind first: direct before through another node, and TCP before QUIC,
/// which takes seconds to find out that nobody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Directly, over TCP.
    Tcp,
    /// Directly, over UDP and QUIC.
    Quic,
    /// Through another node, over whatever leads to that one.
    Relayed,
    /// Anything else: nobody here can dial it.
    Other,
}

impl Kind {
    /// That of an address.
    pub fn of(address: &Multiaddr) -> Self {
        let has = |what: fn(&Protocol<'_>) -> bool| address.iter().any(|part| what(&part));
        if has(|part| matches!(part, Protocol::P2pCircuit)) {
            Self::Relayed
        } else if has(|part| matches!(part, Protocol::Tcp(_))) {
            Self::Tcp
        } else if has(|part| matches!(part, Protocol::QuicV1)) {
            Self::Quic
        } else {
            Self::Other
        }
    }
}

/// Whether an address leads directly over TCP.
pub fn is_tcp(address: &Multiaddr) -> bool {
    Kind::of(address) == Kind::Tcp
}

/// The place of an address among those of one node, to sort by: from other machines before from this one alone, then by kind.
pub fn preference(address: &Multiaddr) -> (bool, Kind) {
    (is_loopback(address), Kind::of(address))
}

/// The addresses that are better, in their order; all addresses if none is.
pub fn preferred(addresses: Vec<Multiaddr>, better: impl Fn(&Multiaddr) -> bool) -> Vec<Multiaddr> {
    let (better, rest): (Vec<_>, Vec<_>) = addresses.into_iter().partition(better);
    if better.is_empty() { rest } else { better }
}

/// The addresses with those of some IP addresses first, otherwise in the order in which they came. Whoever passes on a bounded number
/// passes on those: a host may have more interfaces that lead nowhere (bridges, tunnels) than a message has room for.
pub fn first_those_of(mut addresses: Vec<Multiaddr>, ips: &BTreeSet<IpAddr>) -> Vec<Multiaddr> {
    addresses.sort_by_key(|address| ip_of(address).is_none_or(|ip| !ips.contains(&ip)));
    addresses
}

/// Takes the addresses that are worth keeping out of those that a node names for itself: those that can work, as many
/// as a message has room for, [`MAX_ADDRESSES`]. The node is on the same host if it is `here`. Addresses at which it is `seen` come first.
pub fn worth_keeping(addresses: Vec<Multiaddr>, here: bool, seen: &BTreeSet<IpAddr>) -> Vec<Multiaddr> {
    let addresses = addresses.into_iter().filter(|address| works(address, here)).collect();
    let mut addresses = first_those_of(addresses, seen);
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// The addresses by which Kademlia is to reach a node: over TCP if it has any. A node that is gone refuses a connection over TCP at
/// once, while QUIC waits for seconds, and with it every query. Kademlia tells everybody what it has, so loopback is left out where
/// there is another. At most 8 are given.
pub fn routing_addresses(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let mut addresses = preferred(addresses.to_vec(), |address| !is_loopback(address));
    addresses = preferred(addresses, is_tcp);
    addresses.truncate(MAX_ROUTING_ADDRESSES);
    addresses
}

/// The first of some addresses, without peer ids, that a node can be dialled at: as many as a message has room for, [`MAX_ADDRESSES`].
pub fn bounded(addresses: impl IntoIterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    addresses.into_iter().map(without_peer).filter(is_dialable).take(MAX_ADDRESSES).collect()
}

/// An address as the peer id at its end, if it has one, and the rest.
pub fn split_peer(mut address: Multiaddr) -> (Option<PeerId>, Multiaddr) {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => {
            address.pop();
            (Some(peer), address)
        }
        _ => (None, address),
    }
}

/// The address without a peer id at its end.
pub fn without_peer(address: Multiaddr) -> Multiaddr {
    split_peer(address).1
}

/// Whether an address is of a kind that a node can listen on, also at a port that the system chooses.
pub fn can_be_listened_on(address: &Multiaddr) -> bool {
    use Protocol::{Ip4, Ip6, QuicV1, Tcp, Udp};
    let parts: Vec<_> = address.iter().collect();
    matches!(parts.as_slice(), [Ip4(_) | Ip6(_), Tcp(_)] | [Ip4(_) | Ip6(_), Udp(_), QuicV1])
}

/// Whether an address is of a kind that a user can name for another node: also a link-local one with its zone, which nobody is told.
pub fn can_be_dialled(address: &Multiaddr) -> bool {
    use Protocol::{Dns, Dns4, Dns6, Ip6, Ip6zone, QuicV1, Tcp, Udp};
    let address = without_peer(address.clone());
    let parts: Vec<_> = address.iter().collect();
    can_be_listened_on(&address)
        || matches!(
            parts.as_slice(),
            [Ip6zone(_), Ip6(_), Tcp(_)]
                | [Dns(_) | Dns4(_) | Dns6(_), Tcp(_)]
                | [Dns(_) | Dns4(_) | Dns6(_), Udp(_), QuicV1]
        )
}

/// The socket address of an address over TCP with a fixed port; `None` for others, and for DNS names.
pub fn tcp_socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) if port != 0 => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// Addresses of one peer id together, so that they are tried at once; those without a peer id one by one. A group with the better
/// kind of address comes first.
pub fn group_by_peer(addresses: &[Multiaddr]) -> Vec<(Option<PeerId>, Vec<Multiaddr>)> {
    let mut groups: Vec<(Option<PeerId>, Vec<Multiaddr>)> = Vec::new();
    for (peer, address) in addresses.iter().cloned().map(split_peer) {
        match groups.iter_mut().find(|(other, _)| peer.is_some() && *other == peer) {
            Some((_, group)) => group.push(address),
            None => groups.push((peer, vec![address])),
        }
    }
    groups.sort_by_key(|(_, group)| group.iter().map(Kind::of).min());
    groups
}

/// Whether an address is one that a node can be reached at: an IP address or DNS name with TCP, or UDP and
/// QUIC, and at most a peer id behind it. Link-local ones of IPv6 mean nothing without the interface. It has at most
/// [`MAX_ADDRESS_BYTES`] bytes.
pub fn is_dialable(address: &Multiaddr) -> bool {
    if address.len() > MAX_ADDRESS_BYTES {
        return false;
    }
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => is_host(ip),
        Some(Protocol::Ip6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => is_host(ip),
            None => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
        },
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => !name.is_empty(),
        _ => false,
    };
    let transport = match (parts.next(), parts.next()) {
        (Some(Protocol::Tcp(port)), rest) => return host && port != 0 && ends_there(rest, parts.next()),
        (Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) => port != 0,
        _ => false,
    };
    host && transport && ends_there(parts.next(), parts.next())
}

fn is_host(ip: Ipv4Addr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast()
}

fn ends_there(next: Option<Protocol<'_>>, after: Option<Protocol<'_>>) -> bool {
    matches!(next, None | Some(Protocol::P2p(_))) && after.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_with_many_addresses_of_ipv6_counts_once() {
        let of = |text: &str| Source::of(text.parse().unwrap()).to_string();
        for (ip, source) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(of(ip), source, "{ip}");
        }
    }

    #[test]
    fn addresses_that_lead_somewhere_come_first() {
        let all: Vec<_> =
            ["/ip4/10.0.0.1/tcp/1", "/dns4/host/tcp/1", "/ip4/10.0.0.2/tcp/1", "/ip4/10.0.0.2/udp/1/quic-v1"]
                .map(address)
                .into();
        let ips = [IpAddr::from([10, 0, 0, 2])].into();
        let sorted = [2, 3, 0, 1].map(|place: usize| all[place].clone());
        assert_eq!(first_those_of(all.clone(), &ips), sorted);
        assert_eq!(first_those_of(all.clone(), &BTreeSet::new()), all);
    }

    #[test]
    fn an_address_says_where_it_leads() {
        let ip = |text| ip_of(&address(text)).map(|ip| ip.to_string());
        assert_eq!(ip("/ip4/10.0.0.1/tcp/1").as_deref(), Some("10.0.0.1"));
        assert_eq!(ip("/ip6/::ffff:10.0.0.1/tcp/1").as_deref(), Some("10.0.0.1"));
        assert_eq!(ip("/dns4/host/tcp/1"), None);
        for own in ["/ip4/127.1.2.3/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1", "/dns4/localhost/tcp/1"] {
            assert!(is_loopback(&address(own)), "{own}");
        }
        for other in ["/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1", "/dns4/host/tcp/1", "/dns4/notlocalhost/tcp/1"] {
            assert!(!is_loopback(&address(other)), "{other}");
        }
        assert!(is_zoned(&address("/ip6zone/eth0/ip6/fe80::1/tcp/1")));
        for other in ["/ip6/fe80::1/tcp/1", "/ip6zone/eth0/ip6/fd00::1/tcp/1", "/ip6zone/eth0/ip6/fe80::1/udp/1"] {
            assert!(!is_zoned(&address(other)), "{other}");
        }
        assert!(!works(&address("/ip6zone/eth0/ip6/fe80::1/tcp/1"), true), "it is not told to others");
        assert!(is_tcp(&address("/ip6/::1/tcp/1")) && !is_tcp(&address("/ip6/::1/udp/1/quic-v1")));
        let peer = PeerId::random();
        let plain = address("/ip4/10.0.0.1/tcp/1");
        assert_eq!(without_peer(plain.clone().with(Protocol::P2p(peer))), plain);
        assert_eq!(without_peer(plain.clone()), plain);
    }

    #[test]
    fn the_kind_of_a_way_decides_which_is_tried_first() {
        let peer = PeerId::random();
        let relayed = format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}/p2p-circuit");
        let texts =
            ["/ip4/127.0.0.1/tcp/1", &relayed, "/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1", "/memory/1"];
        let mut all = texts.map(address);
        let kinds = all.each_ref().map(Kind::of);
        assert_eq!(kinds, [Kind::Tcp, Kind::Relayed, Kind::Quic, Kind::Tcp, Kind::Other]);
        assert!(!is_tcp(&all[1]), "another node is between");
        all.sort_by_key(preference);
        assert_eq!(all.each_ref().map(Kind::of), [Kind::Tcp, Kind::Quic, Kind::Relayed, Kind::Other, Kind::Tcp]);
        assert_eq!(preferred(all.to_vec(), is_loopback), [address("/ip4/127.0.0.1/tcp/1")]);
        assert_eq!(preferred(all.to_vec(), |_| false), all);
    }

    #[test]
    fn kademlia_is_told_of_tcp_and_of_loopback_only_if_there_is_nothing_else() {
        let all = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip4/10.0.0.1/tcp/1",
        ];
        let all = all.map(address);
        assert_eq!(routing_addresses(&all), all[3..]);
        assert_eq!(routing_addresses(&all[..3]), all[2..3]);
        assert_eq!(routing_addresses(&all[..2]), all[..1]);
        let many: Vec<_> = (1..100).map(|port| address(&format!("/ip4/10.0.0.1/tcp/{port}"))).collect();
        assert_eq!(routing_addresses(&many).len(), MAX_ROUTING_ADDRESSES);
    }

    #[test]
    fn what_a_user_may_name_depends_on_what_for() {
        let peer = PeerId::random();
        for (text, listen, dial) in [
            ("/ip4/0.0.0.0/tcp/0", true, true),
            ("/ip6/::/udp/0/quic-v1", true, true),
            ("/dns4/host/tcp/1", false, true),
            ("/dns/host/udp/1/quic-v1", false, true),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/1", false, true),
            (&format!("/ip4/10.0.0.1/tcp/1/p2p/{peer}"), false, true),
            ("/ip4/10.0.0.1/udp/1", false, false),
            ("/ip4/10.0.0.1/tcp/1/ws", false, false),
            ("/memory/1", false, false),
        ] {
            let address = address(text);
            assert_eq!((can_be_listened_on(&address), can_be_dialled(&address)), (listen, dial), "{text}");
        }
        let socket = |text: &str| tcp_socket(&address(text)).map(|socket| socket.to_string());
        assert_eq!(socket("/ip6/::1/tcp/7").as_deref(), Some("[::1]:7"));
        assert_eq!((socket("/ip4/1.2.3.4/tcp/0"), socket("/ip4/1.2.3.4/udp/7/quic-v1")), (None, None));
    }

    #[test]
    fn no_more_addresses_are_taken_than_a_message_has_room_for() {
        let peer = PeerId::random();
        let many = (1..1000).map(|port| address(&format!("/ip4/10.0.0.1/tcp/{port}/p2p/{peer}")));
        let taken = bounded([address("/memory/1")].into_iter().chain(many));
        assert_eq!(taken.len(), MAX_ADDRESSES);
        assert_eq!(taken[0], address("/ip4/10.0.0.1/tcp/1"));
    }

    #[test]
    fn addresses_of_one_peer_are_tried_together_and_tcp_first() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let addresses = [
            address("/ip4/10.0.0.1/udp/1/quic-v1"),
            address(&format!("/ip4/10.0.0.2/udp/2/quic-v1/p2p/{a}")),
            address(&format!("/ip4/10.0.0.3/udp/3/quic-v1/p2p/{b}")),
            address(&format!("/ip4/10.0.0.2/tcp/4/p2p/{a}")),
            address("/ip4/10.0.0.1/tcp/5"),
        ];
        let groups = group_by_peer(&addresses);
        let peers: Vec<_> = groups.iter().map(|(peer, group)| (*peer, group.len())).collect();
        assert_eq!(peers, [(Some(a), 2), (None, 1), (None, 1), (Some(b), 1)]);
    }

    #[test]
    fn nobody_is_told_what_does_not_work() {
        for anywhere in
            ["/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/udp/1/quic-v1", "/dns/host/tcp/1", "/ip4/169.254.1.1/tcp/1"]
        {
            assert!(works(&address(anywhere), true) && works(&address(anywhere), false), "{anywhere}");
        }
        for own in
            ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/udp/1/quic-v1", "/ip6/::ffff:127.0.0.1/tcp/1", "/dns/localhost/tcp/1"]
        {
            assert!(works(&address(own), true) && !works(&address(own), false), "{own}");
        }
        // Without its zone a link-local address leads nowhere.
        let never = [
            "/ip4/0.0.0.0/tcp/1",
            "/ip6/::/tcp/1",
            "/ip4/224.0.0.251/udp/1/quic-v1",
            "/ip6/ff02::1/tcp/1",
            "/ip4/10.0.0.1/tcp/0",
            "/ip6/fe80::1/tcp/1",
            "/ip6/::ffff:0.0.0.0/tcp/1",
            "/memory/1",
        ];
        for never in never {
            assert!(!works(&address(never), true), "{never}");
        }
    }
}
