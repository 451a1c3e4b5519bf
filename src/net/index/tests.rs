use swarmdex_protocols::limits::MAX_ADDRESSES;

use super::*;

#[test]
fn loopback_addresses_of_other_machines_are_dropped() {
    let addresses: Vec<Multiaddr> =
        ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.7/tcp/1"].iter().map(|text| text.parse().unwrap()).collect();
    let remote: Multiaddr = "/ip4/10.0.0.7/tcp/5".parse().unwrap();
    assert_eq!(useful_addresses(addresses.clone(), Some(&remote)), addresses[1..]);
    let near: Multiaddr = "/ip4/127.0.0.1/tcp/5".parse().unwrap();
    assert_eq!(useful_addresses(addresses.clone(), Some(&near)), addresses);
}

#[test]
fn addresses_are_bounded() {
    let addresses = (1..1000).map(|port| format!("/ip4/10.0.0.7/tcp/{port}").parse().unwrap()).collect();
    assert_eq!(useful_addresses(addresses, None).len(), MAX_ADDRESSES);
}

#[test]
fn of_too_many_addresses_the_one_that_the_master_sees_is_kept() {
    let mut addresses: Vec<Multiaddr> =
        (1..100).map(|host| format!("/ip4/10.66.{host}.1/tcp/4747").parse().unwrap()).collect();
    let live: Multiaddr = "/ip4/10.77.0.2/tcp/4747".parse().unwrap();
    addresses.push(live.clone());
    let remote: Multiaddr = "/ip4/10.77.0.2/tcp/50000".parse().unwrap();
    let useful = useful_addresses(addresses, Some(&remote));
    assert_eq!((useful.len(), &useful[0]), (MAX_ADDRESSES, &live));
}
