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
