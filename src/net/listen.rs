//! Where a node listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use libp2p::{Multiaddr, Swarm, TransportError};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
use swarmdex_protocols::address::tcp_socket;

use super::behaviour::Behaviour;
use super::error::NetError;
use crate::config::{Config, Role};

/// Well-known port of a master.
const MASTER_PORT: u16 = 4747;

/// Listens where the configuration says, or on all interfaces.
pub(super) fn listen_everywhere(swarm: &mut Swarm<Behaviour>, config: &Config) -> Result<(), NetError> {
    for address in &config.listen {
        listen_on(swarm, address)?;
    }
    if !config.listen.is_empty() {
        return Ok(());
    }
    let port = if config.role == Role::Master { MASTER_PORT } else { 0 };
    for (ip, required) in [("/ip4/0.0.0.0", true), ("/ip6/::", false)] {
        for transport in [format!("tcp/{port}"), format!("udp/{port}/quic-v1")] {
            let Ok(address) = format!("{ip}/{transport}").parse::<Multiaddr>() else { continue };
            match listen_on(swarm, &address) {
                Err(error) if required => return Err(error),
                // Many machines have no IPv6.
                Err(error) => tracing::info!(%error, "not listening everywhere"),
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

fn listen_on(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<(), NetError> {
    let failed = |reason: String| NetError::Listen { address: address.clone(), reason };
    if let Some(socket) = tcp_socket(address) {
        check_free(socket).map_err(|error| failed(error.to_string()))?;
    }
    swarm.listen_on(address.clone()).map(drop).map_err(|error| match error {
        TransportError::MultiaddrNotSupported(_) => failed("this kind of address is not supported".to_owned()),
        TransportError::Other(error) => failed(error.to_string()),
    })
}

/// Whether nobody listens there. libp2p's TCP transport sets `SO_REUSEPORT`, with which two nodes of one user
/// would share a port, and each get a part of the connections.
fn check_free(address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let probe = socket(family, SocketType::STREAM, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&probe, true)?;
    }
    // Connections that linger from before do not count.
    sockopt::set_socket_reuseaddr(&probe, true)?;
    match bind(&probe, &address).and_then(|()| listen(&probe, 1)) {
        Ok(()) => Ok(()),
        // Connections that an earlier run of this node made from that port may linger for a minute.
        Err(Errno::ADDRINUSE) if !is_answered(address) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether somebody takes connections there.
fn is_answered(mut address: SocketAddr) -> bool {
    /// A host answers itself at once.
    const PATIENCE: Duration = Duration::from_millis(500);
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::ConnectionRefused,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_busy_port_is_found_although_the_transport_would_share_it() {
        for ip in ["127.0.0.1", "::1"] {
            let held = TcpListener::bind((ip, 0)).unwrap();
            let address = held.local_addr().unwrap();
            assert_eq!(check_free(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(held);
            check_free(address).unwrap();
        }
    }

    #[test]
    fn a_connection_that_was_made_from_the_port_is_not_in_the_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseport(&own, true).unwrap();
        bind(&own, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&own).unwrap().try_into().unwrap();
        rustix::net::connect(&own, &listener.local_addr().unwrap()).unwrap();
        let _accepted = listener.accept().unwrap();
        check_free(address).unwrap();
    }
}
