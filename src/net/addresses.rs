//! Which addresses of a node are told to Kademlia.

use libp2p::Multiaddr;
use swarmdex_protocols::address::{is_loopback, is_tcp};

/// Addresses of one node in the routing table.
const MAX_ROUTING_ADDRESSES: usize = 8;

/// The addresses by which Kademlia is to reach a node: over TCP if it has any. A node that is gone refuses a
/// connection over TCP at once, while QUIC waits for seconds, and with it every query. And not over loopback if it has others, which
/// work here as well: Kademlia tells everybody what it has.
pub(super) fn routing_addresses(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let mut addresses = preferred(addresses.to_vec(), |address| !is_loopback(address));
    addresses = preferred(addresses, is_tcp);
    addresses.truncate(MAX_ROUTING_ADDRESSES);
    addresses
}

/// Those that are better, or all if none is.
fn preferred(addresses: Vec<Multiaddr>, better: impl Fn(&Multiaddr) -> bool) -> Vec<Multiaddr> {
    let (better, rest): (Vec<_>, Vec<_>) = addresses.into_iter().partition(better);
    if better.is_empty() { rest } else { better }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kademlia_is_told_of_tcp_and_of_loopback_only_if_there_is_nothing_else() {
        let all = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/127.0.0.1/udp/1/quic-v1",
            "/ip4/10.0.0.1/udp/1/quic-v1",
            "/ip4/10.0.0.1/tcp/1",
        ];
        let all = all.map(|text| text.parse::<Multiaddr>().unwrap());
        assert_eq!(routing_addresses(&all), all[3..]);
        assert_eq!(routing_addresses(&all[..3]), all[2..3]);
        assert_eq!(routing_addresses(&all[..2]), all[..1]);
    }
}
