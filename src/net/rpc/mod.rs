//! Requests and their answers: what is alike in all protocols that have one answer to each request.
//!
//! [`Rpc`] sends the requests of this node and hands each answer to whoever waits for it. Requests of others it gives to the loop,
//! each with what is needed to answer it. Addresses that work for one side alone are left out both ways, see `net::hosts`.

pub(super) mod access;
pub(super) mod codec;
pub(super) mod pending;
mod protocol;
pub(super) mod streams;
#[cfg(test)]
mod tests;

use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::request_response::{
    self, Behaviour, InboundRequestId, Message, OutboundRequestId, ProtocolSupport, ResponseChannel,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use super::error::RequestError;
use super::hosts::{Addressed, Here};
use codec::Received;
use pending::{MAX_REQUESTS, Pending, request_error};
pub(super) use protocol::{FetchProtocol, IndexProtocol, MirrorProtocol, Protocol};

/// Substreams of one protocol that are open at a time on one connection.
pub(super) const MAX_STREAMS: usize = 256;

/// Who waits for an answer.
pub(super) type Waiting<P> = oneshot::Sender<Result<<P as Protocol>::Response, RequestError>>;

/// What happens.
pub(super) enum Event<P: Protocol> {
    /// Another node asks something.
    Asked(Inbound<P>),
    /// Whoever waited for an answer has it, or knows that none comes.
    Answered,
    /// The answer to a request of another node was sent, or never will be.
    Over(InboundRequestId),
}

impl<P: Protocol> fmt::Debug for Event<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(inbound) => {
                formatter.debug_struct("Asked").field("peer", &inbound.peer).finish_non_exhaustive()
            }
            Self::Answered => formatter.write_str("Answered"),
            Self::Over(id) => formatter.debug_tuple("Over").field(id).finish(),
        }
    }
}

/// A request of another node.
pub(super) struct Inbound<P: Protocol> {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    /// What it asks, or why its bytes are no request.
    pub(super) request: Received<P::Request>,
    pub(super) reply: Reply<P>,
}

/// Where the answer to a request goes.
pub(super) struct Reply<P: Protocol> {
    pub(super) id: InboundRequestId,
    channel: ResponseChannel<Received<P::Response>>,
    /// Whether who asked is on this host.
    here: bool,
}

impl<P: Protocol> Reply<P> {
    /// Whether somebody still waits for the answer.
    pub(super) fn is_open(&self) -> bool {
        self.channel.is_open()
    }
}

/// A behaviour that speaks one protocol, in both directions.
pub(super) struct Rpc<P: Protocol> {
    inner: Behaviour<P::Codec>,
    waiting: Pending<OutboundRequestId, P::Response>,
    here: Here,
}

impl<P: Protocol> Rpc<P> {
    /// One exchange takes at most `timeout`, either way.
    pub(super) fn new(codec: P::Codec, timeout: Duration, here: Here) -> Self {
        let config =
            request_response::Config::default().with_request_timeout(timeout).with_max_concurrent_streams(MAX_STREAMS);
        let inner = Behaviour::with_codec(codec, [(P::ID, ProtocolSupport::Full)], config);
        Self { inner, waiting: Pending::new(MAX_REQUESTS), here }
    }

    /// Asks a connected node. Whoever waits is told at once if there is no connection, or too many wait.
    pub(super) fn ask(&mut self, to: &PeerId, request: P::Request, answer: Waiting<P>) {
        let refusal = if !self.waiting.has_room() {
            RequestError::Busy
        } else if !self.inner.is_connected(to) {
            RequestError::Disconnected
        } else {
            let id = self.send(to, request);
            return self.waiting.insert(id, answer);
        };
        let _ = answer.send(Err(refusal));
    }

    /// Says something to a node, if it is connected and not too many others are asked. Nobody waits for the answer.
    pub(super) fn tell(&mut self, to: &PeerId, request: P::Request) {
        if self.waiting.has_room() && self.inner.is_connected(to) {
            self.send(to, request);
        }
    }

    fn send(&mut self, to: &PeerId, request: P::Request) -> OutboundRequestId {
        let request = request.only_working(self.here.has(to));
        self.inner.send_request(to, Ok(request))
    }

    /// Answers a request; false if nobody waits for that any more. A failure to send comes as an event: who asked asks again, or
    /// somebody else.
    pub(super) fn reply(&mut self, reply: Reply<P>, response: P::Response) -> bool {
        let response = response.only_working(reply.here);
        self.inner.send_response(reply.channel, Ok(response)).is_ok()
    }

    fn on_event(&mut self, event: request_response::Event<Received<P::Request>, Received<P::Response>>) -> Event<P> {
        match event {
            request_response::Event::Message {
                peer,
                connection_id: connection,
                message: Message::Request { request_id: id, request, channel },
            } => {
                let here = self.here.has(&peer);
                let request = request.only_working(here);
                Event::Asked(Inbound { peer, connection, request, reply: Reply { id, channel, here } })
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                let response = response.only_working(self.here.has(&peer));
                self.waiting.answer(&request_id, response.map_err(RequestError::Malformed));
                Event::Answered
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.waiting.answer(&request_id, Err(request_error(&error)));
                Event::Answered
            }
            request_response::Event::InboundFailure { request_id, peer, error, .. } => {
                tracing::debug!(%peer, %error, "{} failed", P::WORK);
                Event::Over(request_id)
            }
            request_response::Event::ResponseSent { request_id, .. } => Event::Over(request_id),
        }
    }
}

impl<P: Protocol> NetworkBehaviour for Rpc<P> {
    type ConnectionHandler = <Behaviour<P::Codec> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event<P>;

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
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
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
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let event = ready!(self.inner.poll(context));
        Poll::Ready(event.map_out(|event| self.on_event(event)))
    }
}
