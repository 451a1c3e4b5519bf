//! Connections over TCP from the port that this node listens on, or from another if that one is taken.
//!
//! libp2p makes connections from the listening port, bound to all addresses at once. That fails while another program
//! has that port on any address, although the node listens on a free one. A port that the system chose for 127.0.0.1
//! may be in use on an interface. The transport itself tries another port only where the same connection exists
//! already.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, Transport, tcp};

use crate::net::discovery::interfaces;
use crate::net::gate::{Door, FirstByte};

/// For how long one that connects may say nothing. It is the one to begin, and a first packet that is lost comes again after a
/// second.
const SILENCE: Duration = Duration::from_secs(3);

/// TCP whose connections leave from the listening port if they can, and which lets in who says something.
pub(in crate::net) struct AnyPort {
    inner: tcp::tokio::Transport,
    config: tcp::Config,
    door: Option<Door>,
}

impl AnyPort {
    pub(in crate::net) fn new(config: tcp::Config) -> Self {
        Self { inner: tcp::tokio::Transport::new(config.clone()), config, door: None }
    }

    /// Tells a gate above who has said something.
    pub(in crate::net) fn behind(self, door: Door) -> Self {
        Self { door: Some(door), ..self }
    }
}

/// Waits until something can be read, but not for long.
async fn first_word(
    accepted: impl Future<Output = io::Result<tcp::tokio::TcpStream>>,
    word: Arc<FirstByte>,
) -> io::Result<tcp::tokio::TcpStream> {
    let stream = accepted.await?;
    // Looked at and not taken: a socket that was just accepted may be called readable with nothing to read.
    let first = tokio::time::timeout(SILENCE, stream.0.peek(&mut [0]))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "whoever connected said nothing"))??;
    if first == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !word.say() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "others of its address took its place"));
    }
    Ok(stream)
}

impl Transport for AnyPort {
    type Output = tcp::tokio::TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Self::Output>>;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        if let Some(Protocol::Ip6zone(zone)) = address.iter().next() {
            // libp2p's leaves the zone away, and the system refuses the rest.
            let socket = zoned(&address, &zone).ok_or(TransportError::MultiaddrNotSupported(address.clone()))?;
            return Ok(async move {
                let stream = tokio::net::TcpStream::connect(socket).await?;
                stream.set_nodelay(true)?;
                Ok(tcp::tokio::TcpStream(stream))
            }
            .boxed());
        }
        let dial = self.inner.dial(address.clone(), options)?;
        let config = self.config.clone();
        Ok(async move {
            match dial.await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && options.port_use == PortUse::Reuse => {
                    tracing::debug!(%address, "the listening port is taken elsewhere: from another one");
                    let options = DialOpts { port_use: PortUse::New, ..options };
                    // One that listens nowhere is made of nothing, and asks the system for a port.
                    let dial = tcp::tokio::Transport::new(config).dial(address, options);
                    dial.map_err(|error| match error {
                        TransportError::Other(error) => error,
                        error @ TransportError::MultiaddrNotSupported(_) => io::Error::other(error),
                    })?
                    .await
                }
                outcome => outcome,
            }
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(context).map(|event| {
            let word = Arc::<FirstByte>::default();
            if let (TransportEvent::Incoming { .. }, Some(door)) = (&event, &self.door) {
                door.announce(word.clone());
            }
            event.map_upgrade(|accepted| first_word(accepted, word).boxed())
        })
    }
}

/// Where an address with a zone leads, if there is an interface of that name or number.
fn zoned(address: &Multiaddr, zone: &str) -> Option<SocketAddr> {
    let mut parts = address.iter().skip(1);
    let (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { return None };
    let by_name = || interfaces().into_iter().find(|(_, interface)| interface.name == zone).map(|(index, _)| index);
    let index = by_name().or_else(|| zone.parse().ok())?;
    Some(SocketAddrV6::new(ip, port, 0, index).into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use futures::future::poll_fn;
    use libp2p::core::Endpoint;

    use super::*;

    /// Listens on `port` of 127.0.0.2, 0 for any; the port, and the one that a connection to another program leaves from.
    async fn ports(port: u16) -> (u16, u16) {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut transport = AnyPort::new(tcp::Config::new());
        let listen = format!("/ip4/127.0.0.2/tcp/{port}").parse().unwrap();
        transport.listen_on(ListenerId::next(), listen).unwrap();
        let event = poll_fn(|context| Pin::new(&mut transport).poll(context)).await;
        let TransportEvent::NewAddress { listen_addr, .. } = event else { panic!("{event:?}") };
        let Some(Protocol::Tcp(port)) = listen_addr.iter().nth(1) else { panic!("{listen_addr}") };
        let address = format!("/ip4/127.0.0.1/tcp/{}", other.local_addr().unwrap().port()).parse().unwrap();
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let stream = transport.dial(address, options).unwrap().await.unwrap();
        (port, stream.0.local_addr().unwrap().port())
    }

    #[tokio::test]
    async fn a_connection_leaves_from_the_listening_port() {
        let (port, from) = ports(0).await;
        assert_eq!(port, from);
    }

    #[tokio::test]
    async fn or_from_another_one_if_some_program_has_it_on_another_address() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, from) = ports(held.local_addr().unwrap().port()).await;
        assert_ne!(port, from);
    }

    #[test]
    fn a_zone_is_an_interface_by_name_or_number() {
        let lo =
            interfaces().into_iter().find(|(_, interface)| interface.ips.iter().any(std::net::IpAddr::is_loopback));
        let Some((index, interface)) = lo else { return };
        let scope = |zone: &str| {
            let address: Multiaddr = format!("/ip6zone/{zone}/ip6/fe80::1/tcp/7").parse().unwrap();
            match zoned(&address, zone)? {
                SocketAddr::V6(socket) => Some(socket.scope_id()),
                SocketAddr::V4(_) => None,
            }
        };
        assert_eq!(
            (scope(&interface.name), scope(&index.to_string()), scope("nothing")),
            (Some(index), Some(index), None)
        );
    }
}
