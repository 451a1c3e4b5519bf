//! Renewals on a stream that stays open.
//!
//! Ten thousand members renew five hundred times a second. A stream of its own for each renewal costs its master three
//! times what the renewal does (`benches/renewals`). So a peer opens one stream and asks on it again and again, one
//! question at a time. What is said is what the index protocol says, framed like it. A renewal that agrees is answered
//! on the task of its connection: to wake the loop of the node for it costs as much again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use swarmdex_protocols::index::{IndexRequest, IndexResponse};

use super::error::RequestError;
use super::rpc::access::Access;
use super::rpc::codec::Received;

mod handler;

use handler::{HandlerEvent, RenewalHandler, Say};

/// Protocol id of renewals.
pub(super) const RENEW_PROTOCOL: StreamProtocol = StreamProtocol::new("/swarmdex/renew/1");
/// How long a peer waits for the answer to a renewal.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What happens on these streams.
#[derive(Debug)]
pub(super) enum RenewalEvent {
    /// A peer renews; [`Renewals::answer`] is due.
    Asked { asker: Asker, request: Received<IndexRequest> },
    /// What the other side said to a renewal of this node.
    Answered { peer: PeerId, connection: ConnectionId, answer: Result<IndexResponse, Unanswered> },
}

/// Who renews, where, and with which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    question: u64,
}

/// Answers questions on a connection's own task, without the loop of the node, as long as it can.
pub(super) type StandingAnswer = Arc<dyn Fn(&IndexRequest) -> Option<IndexResponse> + Send + Sync>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The other side knows no such stream, or broke it off at the first question. That comes back.
    Unsupported(IndexRequest),
    /// Anything else.
    Failed(RequestError),
}

/// One stream with each node that this node renews at, and one with each that renews here.
pub(super) struct Renewals {
    access: Access,
    /// Connections in the order in which they were made; the first is spoken on.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    /// Whom this node waits for, and on which connection.
    asked: HashMap<PeerId, ConnectionId>,
    events: VecDeque<ToSwarm<RenewalEvent, Say>>,
    waker: Option<Waker>,
}

impl Renewals {
    /// Each question passes `access` first.
    pub(super) fn new(access: &Access) -> Self {
        Self {
            access: access.clone(),
            connections: HashMap::new(),
            asked: HashMap::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// Asks a connected node. One question at a time: a second one before the answer is refused.
    pub(super) fn ask(&mut self, peer: PeerId, request: IndexRequest) -> Result<(), RequestError> {
        if self.asked.contains_key(&peer) {
            return Err(RequestError::Busy);
        }
        let connection = *self.connections.get(&peer).and_then(|all| all.first()).ok_or(RequestError::Disconnected)?;
        self.asked.insert(peer, connection);
        self.say(peer, connection, Say::Ask(request));
        Ok(())
    }

    /// Answers who asked; with a standing, it answers later questions there first.
    pub(super) fn answer(&mut self, asker: Asker, response: IndexResponse, standing: Option<StandingAnswer>) {
        self.say(asker.peer, asker.connection, Say::Answer(asker.question, response, standing));
    }

    fn say(&mut self, peer_id: PeerId, connection: ConnectionId, event: Say) {
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(all) = self.connections.get_mut(&peer) {
            all.retain(|other| *other != connection);
            if all.is_empty() {
                self.connections.remove(&peer);
            }
        }
        if self.asked.get(&peer) == Some(&connection) {
            self.on_answer(peer, connection, Err(Unanswered::Failed(RequestError::Disconnected)));
        }
    }

    fn on_answer(&mut self, peer: PeerId, connection: ConnectionId, answer: Result<IndexResponse, Unanswered>) {
        if self.asked.get(&peer) == Some(&connection) {
            self.asked.remove(&peer);
            self.events.push_back(ToSwarm::GenerateEvent(RenewalEvent::Answered { peer, connection, answer }));
        }
    }
}

impl NetworkBehaviour for Renewals {
    type ConnectionHandler = RenewalHandler;
    type ToSwarm = RenewalEvent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(RenewalHandler::new(TIMEOUT, peer, &self.access))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(RenewalHandler::new(TIMEOUT, peer, &self.access))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(made) => {
                self.connections.entry(made.peer_id).or_default().push(made.connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.on_closed(peer_id, connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            HandlerEvent::Asked(question, request) => {
                let asker = Asker { peer, connection, question };
                self.events.push_back(ToSwarm::GenerateEvent(RenewalEvent::Asked { asker, request }));
            }
            HandlerEvent::Answered(answer) => self.on_answer(peer, connection, answer),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use libp2p::Swarm;
    use libp2p::swarm::SwarmEvent;
    use swarmdex_protocols::index::{Refusal, RefusalCode, Renew, Session, ShareSum};

    use super::*;
    use crate::net::rpc::access::Kind;
    use crate::net::test_swarms::{dial, swarm};

    fn refusal(reason: &str) -> IndexResponse {
        IndexResponse::Refused(Refusal::new(RefusalCode::Busy, reason))
    }

    /// What the master answers to one renewal. Its loop answers "loop", and gives a standing that says "standing".
    async fn renew(member: &mut Swarm<Renewals>, master: &mut Swarm<Renewals>) -> IndexResponse {
        let to = *master.local_peer_id();
        let renew = Renew { session: Session(1), held: ShareSum::default(), repaired: 0 };
        member.behaviour_mut().ask(to, IndexRequest::Renew(renew)).unwrap();
        loop {
            tokio::select! {
                event = member.select_next_some() => {
                    if let SwarmEvent::Behaviour(RenewalEvent::Answered { answer, .. }) = event {
                        return answer.unwrap();
                    }
                }
                event = master.select_next_some() => {
                    if let SwarmEvent::Behaviour(RenewalEvent::Asked { asker, .. }) = event {
                        let standing: StandingAnswer = Arc::new(|_| Some(refusal("standing")));
                        master.behaviour_mut().answer(asker, refusal("loop"), Some(standing));
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn every_renewal_passes_the_gate_whoever_answers_it() {
        let access = Access::default();
        let (mut member, mut master) = (swarm(Renewals::new(&Access::default())), swarm(Renewals::new(&access)));
        dial(&mut member, &mut master).await;
        let both = async {
            let (mut here, mut there) = (false, false);
            while !(here && there) {
                tokio::select! {
                    event = member.select_next_some() => {
                        here |= matches!(event, SwarmEvent::ConnectionEstablished { .. });
                    }
                    event = master.select_next_some() => {
                        there |= matches!(event, SwarmEvent::ConnectionEstablished { .. });
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        let exchange = async {
            assert_eq!(renew(&mut member, &mut master).await, refusal("loop"));
            assert_eq!(renew(&mut member, &mut master).await, refusal("standing"));
            access.deny(Kind::Renewal);
            assert_eq!(renew(&mut member, &mut master).await, refusal("a test refuses it"));
        };
        tokio::time::timeout(Duration::from_secs(20), exchange).await.unwrap();
    }
}
