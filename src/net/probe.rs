//! Sees whether a node can be reached where it says that it listens.
//!
//! It does so with a key that is made for it, and on sockets of its own. So the node takes the connection for a
//! stranger's. Neither side takes it for one more between the two, on which requests would be lost when it is closed. A
//! router in between knows nothing of it either.

use std::pin::pin;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, PortUse};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId, Transport, dns, quic, yamux};
use swarmdex_protocols::address::{Kind, is_tcp};

use super::gate::Door;
use super::transport;

/// How long connections over TCP may take, and then those over QUIC.
const PATIENCE: Duration = Duration::from_secs(3);
/// Addresses that are tried: whoever names many costs no more.
const MOST: usize = 8;

/// Makes connections that are of no other use.
#[derive(Default)]
pub(super) struct Prober {
    /// From the first time on.
    transport: Option<Boxed<(PeerId, StreamMuxerBox)>>,
}

impl Prober {
    /// Whether one of these addresses leads to `peer`. `None` if none can be tried now.
    pub(super) fn probe(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) -> Option<BoxFuture<'static, bool>> {
        if self.transport.is_none() {
            self.transport = transport(&Keypair::generate_ed25519());
        }
        let transport = self.transport.as_mut()?;
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        addresses.sort_by_key(Kind::of);
        addresses.truncate(MOST);
        let (mut tcp, mut others) = (Vec::new(), Vec::new());
        for address in addresses {
            // What cannot even be dialled does not lead there.
            if let Ok(dial) = transport.dial(address.clone(), options) {
                (if is_tcp(&address) { &mut tcp } else { &mut others }).push(dial);
            }
        }
        Some(async move { any_leads_to(peer, tcp).await || any_leads_to(peer, others).await }.boxed())
    }
}

/// TCP and QUIC for a key; `None` if the system does not give what they take.
pub(super) fn transport(key: &Keypair) -> Option<Boxed<(PeerId, StreamMuxerBox)>> {
    let tcp = transport::tcp(key, yamux::Config::default(), Door::new(1)).ok()?;
    let quic = quic::tokio::Transport::new(quic::Config::new(key));
    let both = tcp
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .or_transport(quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))))
        .map(|either, _| either.into_inner());
    Some(dns::tokio::Transport::system(both).ok()?.boxed())
}

/// Whether one of these connections comes about in time, with `peer` at its other end.
async fn any_leads_to<D, E>(peer: PeerId, dials: Vec<D>) -> bool
where
    D: Future<Output = Result<(PeerId, StreamMuxerBox), E>> + Unpin,
{
    let dials: FuturesUnordered<_> = dials.into_iter().collect();
    let mut led = pin!(dials.filter(|outcome| std::future::ready(matches!(outcome, Ok((other, _)) if *other == peer))));
    tokio::time::timeout(PATIENCE, led.next()).await.ok().flatten().is_some()
}

#[cfg(test)]
mod tests {
    use futures::future::poll_fn;
    use libp2p::core::transport::{ListenerId, TransportEvent};

    use super::*;

    /// A node that listens there, and takes connections.
    async fn listener(key: &Keypair, listen: &str) -> Multiaddr {
        let mut node = transport(key).unwrap();
        node.listen_on(ListenerId::next(), listen.parse().unwrap()).unwrap();
        let event = poll_fn(|context| std::pin::Pin::new(&mut node).poll(context)).await;
        let TransportEvent::NewAddress { listen_addr, .. } = event else { panic!("{event:?}") };
        tokio::spawn(async move {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } =
                    poll_fn(|context| std::pin::Pin::new(&mut node).poll(context)).await
                {
                    tokio::spawn(upgrade);
                }
            }
        });
        listen_addr
    }

    #[tokio::test]
    async fn only_the_node_that_is_meant_counts_over_tcp_or_quic() {
        let (key, other) = (Keypair::generate_ed25519(), PeerId::random());
        let peer = key.public().to_peer_id();
        let mut prober = Prober::default();
        for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
            let at = listener(&key, listen).await;
            assert!(prober.probe(peer, vec![at.clone()]).unwrap().await, "{at}");
            assert!(!prober.probe(other, vec![at.clone()]).unwrap().await, "{at} is somebody else");
            let dead = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
            assert!(prober.probe(peer, vec![dead, at.clone()]).unwrap().await, "beside a dead one");
        }
        assert!(!prober.probe(peer, vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()]).unwrap().await);
        assert!(!prober.probe(peer, Vec::new()).unwrap().await, "who names nothing is reached nowhere");
    }
}
