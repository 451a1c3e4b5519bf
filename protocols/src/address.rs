//! What an address says of itself: over which transport it leads, to which host, and for whom that can work.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeSet;

use multiaddr::{Multiaddr, Protocol};

use crate::index::check_address;
use crate::limits::MAX_ADDRESSES;

/// The IP address that an address begins with.
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
    check_address(address) && (here || !is_loopback(address))
}

/// Whether an address is link-local with its zone, over TCP: it means something on this host alone, and is not told to others.
pub fn is_zoned(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let zone = matches!(parts.next(), Some(Protocol::Ip6zone(zone)) if !zone.is_empty());
    let local = matches!(parts.next(), Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local());
    zone && local && matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0) && parts.next().is_none()
}

/// Whether an address is one over TCP.
pub fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

/// The addresses with those of some IP addresses first, otherwise in the order in which they came. Whoever passes on a bounded number
/// passes on those: a host may have more interfaces that lead nowhere (bridges, tunnels) than a message has room for.
pub fn first_those_of(mut addresses: Vec<Multiaddr>, ips: &BTreeSet<IpAddr>) -> Vec<Multiaddr> {
    addresses.sort_by_key(|address| ip_of(address).is_none_or(|ip| !ips.contains(&ip)));
    addresses
}

/// Of what a node says of itself, the addresses that are worth keeping: those that can work, as many as a message has
/// room for. The node is on the same host if it is `here`. Addresses at which it is `seen` come first.
pub fn worth_keeping(addresses: Vec<Multiaddr>, here: bool, seen: &BTreeSet<IpAddr>) -> Vec<Multiaddr> {
    let addresses = addresses.into_iter().filter(|address| works(address, here)).collect();
    let mut addresses = first_those_of(addresses, seen);
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// The address without a peer id at its end.
pub fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address
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
        let peer = libp2p_identity::PeerId::random();
        let plain = address("/ip4/10.0.0.1/tcp/1");
        assert_eq!(without_peer(plain.clone().with(Protocol::P2p(peer))), plain);
        assert_eq!(without_peer(plain.clone()), plain);
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
