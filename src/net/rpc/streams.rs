//! Streams of protocols that libp2p serves by itself: each is asked for at [`Access`] before its protocol sees it.

use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::access::{Access, Kind};

/// A behaviour whose inbound streams pass [`Access`]. One that is denied is dropped, and its protocol never hears of it.
pub(in crate::net) struct Guarded<B> {
    inner: B,
    access: Access,
    kind: Kind,
}

impl<B> Guarded<B> {
    /// Streams of `inner` are of this kind.
    pub(in crate::net) fn new(inner: B, access: &Access, kind: Kind) -> Self {
        Self { inner, access: access.clone(), kind }
    }

    fn handler<H>(&self, inner: H, peer: PeerId) -> GuardedHandler<H> {
        GuardedHandler { inner, peer, access: self.access.clone(), kind: self.kind }
    }
}

impl<B> Deref for Guarded<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Guarded<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Guarded<B> {
    type ConnectionHandler = GuardedHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.handler(inner, peer))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_outbound_connection(connection, peer, address, role, port)?;
        Ok(self.handler(inner, peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(context)
    }
}

/// One connection's part.
pub(in crate::net) struct GuardedHandler<H> {
    inner: H,
    peer: PeerId,
    access: Access,
    kind: Kind,
}

impl<H: ConnectionHandler> ConnectionHandler for GuardedHandler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.inner.poll(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(context)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        if let ConnectionEvent::FullyNegotiatedInbound(_) = &event
            && let Err(denied) = self.access.check(&self.peer, self.kind, Instant::now())
        {
            tracing::debug!(peer = %self.peer, kind = ?self.kind, %denied, "a stream is dropped");
            return;
        }
        self.inner.on_connection_event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use libp2p::swarm::SwarmEvent;
    use libp2p::{Swarm, ping};

    use super::*;
    use crate::net::test_swarms::{dial, swarm};

    fn guarded(access: &Access) -> Swarm<Guarded<ping::Behaviour>> {
        let pings = ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(50)));
        swarm(Guarded::new(pings, access, Kind::Ping))
    }

    /// What comes of the next ping of the first, while both run.
    async fn pinged(ours: &mut Swarm<Guarded<ping::Behaviour>>, theirs: &mut Swarm<Guarded<ping::Behaviour>>) -> bool {
        loop {
            tokio::select! {
                event = ours.select_next_some() => {
                    if let SwarmEvent::Behaviour(ping::Event { result, .. }) = event {
                        return result.is_ok();
                    }
                }
                _ = theirs.select_next_some() => {}
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_denied_comes_to_nothing_and_others_go_on() {
        let (ours_access, theirs_access) = (Access::default(), Access::default());
        let (mut ours, mut theirs) = (guarded(&ours_access), guarded(&theirs_access));
        let address = dial(&mut ours, &mut theirs).await;
        assert!(tokio::time::timeout(Duration::from_secs(20), pinged(&mut ours, &mut theirs)).await.unwrap());
        // Those that stand go on: it is asked for each stream, and not for each ping on it.
        theirs_access.deny(Kind::Ping);
        assert!(tokio::time::timeout(Duration::from_secs(20), pinged(&mut ours, &mut theirs)).await.unwrap());
        let mut late = guarded(&ours_access);
        late.dial(address).unwrap();
        assert!(!tokio::time::timeout(Duration::from_secs(60), pinged(&mut late, &mut theirs)).await.unwrap());
    }
}
