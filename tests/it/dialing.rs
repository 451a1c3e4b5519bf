//! How nodes connect: from which port, to which addresses, and how soon they know that nobody is there.

use std::net::TcpListener;

use crate::harness::{TestNode, address, found, host, tcp_address};

/// A node listens on one address, and another program has that port on another one: its connections leave from
/// another port, and do not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_elsewhere_is_not_in_the_way() {
    let master = TestNode::master().await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    // Over TCP alone: QUIC has ports of its own.
    let peer = TestNode::peer_with(&master, |config| {
        config.listen = vec![address(&format!("/ip4/{}/tcp/{port}", host()))];
        config.master = vec![tcp_address(&master)];
    })
    .await;
    peer.share_file("name", b"x").await;
    found(&master, "name").await;
}
