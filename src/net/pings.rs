//! Pings that are left out where something else says the same.
//!
//! A renewal that is answered shows as much as a ping, so a member that renews does not ping its master as well. The
//! renewals of very many members then cost the master less than their pings did (`benches/renewals`). And pings at once
//! where somebody doubts that a connection leads anywhere. The pings themselves are libp2p's.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, ping};
use tokio::time::{Instant, Sleep};

type OneWay = <ping::Behaviour as NetworkBehaviour>::ConnectionHandler;
type Result = std::result::Result<Duration, ping::Failure>;

/// Pauses between pings that pass without one, at most.
const MOST_INTERVALS: u32 = 3;

/// Answers pings, and pings where nothing was heard for a while.
pub(super) struct Pings {
    inner: ping::Behaviour,
    interval: Duration,
    events: VecDeque<ToSwarm<ping::Event, PingCommand>>,
    waker: Option<Waker>,
}

/// What the handler of a connection is told.
pub(super) enum PingCommand {
    /// Not to ping for so long.
    Rest(Duration),
    /// To ping at once, by this handler, which has not pinged yet.
    Ping(Box<OneWay>),
}

impl fmt::Debug for PingCommand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rest(quiet) => formatter.debug_tuple("Rest").field(quiet).finish(),
            // libp2p's handler shows nothing of itself.
            Self::Ping(_) => formatter.write_str("Ping"),
        }
    }
}

impl Pings {
    /// Pings each `interval`; an answer may take as long.
    pub(super) fn new(interval: Duration) -> Self {
        let config = ping::Config::new().with_interval(interval).with_timeout(interval);
        let inner = ping::Behaviour::new(config);
        Self { inner, interval, events: VecDeque::new(), waker: None }
    }

    /// The other side of a connection has just answered something else, and is asked again after `next`: until then, and
    /// a little longer, it is not pinged. A node that is silent is noticed after four intervals by default; so many may
    /// not pass.
    pub(super) fn on_heard(&mut self, peer_id: PeerId, connection: ConnectionId, next: Duration) {
        let rest = next.saturating_add(self.interval / 2).min(self.interval * MOST_INTERVALS);
        self.rest(peer_id, connection, rest);
    }

    /// Nothing hangs on a connection: it is not pinged again before so much time has passed.
    pub(super) fn rest(&mut self, peer_id: PeerId, connection: ConnectionId, quiet: Duration) {
        self.notify(peer_id, connection, PingCommand::Rest(quiet));
    }

    /// Pings over a connection at once, and not when it is time.
    pub(super) fn ping_now(&mut self, peer: PeerId, connection: ConnectionId) {
        let nowhere = Multiaddr::empty();
        // It looks at none of these.
        if let Ok(fresh) = self.inner.handle_established_inbound_connection(connection, peer, &nowhere, &nowhere) {
            self.notify(peer, connection, PingCommand::Ping(Box::new(fresh)));
        }
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, event: PingCommand) {
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Pings {
    type ConnectionHandler = PingHandler;
    type ToSwarm = ping::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> std::result::Result<THandler<Self>, ConnectionDenied> {
        let mut inner = || self.inner.handle_established_inbound_connection(connection, peer, local, remote);
        Ok(PingHandler::new(inner()?, inner()?))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> std::result::Result<THandler<Self>, ConnectionDenied> {
        let mut inner = || self.inner.handle_established_outbound_connection(connection, peer, address, role, port);
        Ok(PingHandler::new(inner()?, inner()?))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.events.push_back(ToSwarm::GenerateEvent(ping::Event { peer, connection, result: event }));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// libp2p's handler twice: one that only answers, and one that only asks and rests while it is not needed.
pub(super) struct PingHandler {
    answers: OneWay,
    asks: OneWay,
    rests: Option<Pin<Box<Sleep>>>,
}

impl PingHandler {
    fn new(answers: OneWay, asks: OneWay) -> Self {
        Self { answers, asks, rests: None }
    }

    fn is_resting(&mut self, context: &mut Context<'_>) -> bool {
        let resting = self.rests.as_mut().is_some_and(|rest| rest.poll_unpin(context).is_pending());
        if !resting {
            self.rests = None;
        }
        resting
    }
}

impl ConnectionHandler for PingHandler {
    type FromBehaviour = PingCommand;
    type ToBehaviour = Result;
    type InboundProtocol = <OneWay as ConnectionHandler>::InboundProtocol;
    type OutboundProtocol = <OneWay as ConnectionHandler>::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        self.answers.listen_protocol()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        // It asks for a stream to ping on, once, and waits for it from then on.
        while self.answers.poll(context).is_ready() {}
        if self.is_resting(context) { Poll::Pending } else { self.asks.poll(context) }
    }

    fn on_behaviour_event(&mut self, command: PingCommand) {
        match command {
            PingCommand::Rest(quiet) => {
                let until = Instant::now() + quiet;
                match &mut self.rests {
                    Some(rest) => rest.as_mut().reset(until),
                    None => self.rests = Some(Box::pin(tokio::time::sleep_until(until))),
                }
            }
            PingCommand::Ping(fresh) => (self.asks, self.rests) = (*fresh, None),
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(_) => self.answers.on_connection_event(event),
            event => self.asks.on_connection_event(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use libp2p::swarm::SwarmEvent;

    use super::*;
    use crate::net::test_swarms::{dial, swarm};

    #[tokio::test]
    async fn a_connection_that_is_heard_otherwise_is_not_pinged_and_pings_are_answered() {
        const INTERVAL: Duration = Duration::from_millis(20);
        // Long rests, whatever the pause between pings.
        let mut ours = swarm(Pings { interval: Duration::from_secs(3600), ..Pings::new(INTERVAL) });
        let mut theirs = swarm(ping::Behaviour::new(ping::Config::new().with_interval(INTERVAL)));
        dial(&mut ours, &mut theirs).await;
        let (mut sent, mut after, mut answered, mut heard) = (0, 0, 0, false);
        let deadline = Instant::now() + Duration::from_secs(30);
        while answered < 20 {
            tokio::select! {
                event = ours.select_next_some() => if let SwarmEvent::Behaviour(event) = event {
                    assert!(event.result.is_ok());
                    sent += 1;
                    after += usize::from(heard);
                    if sent >= 3 && !heard {
                        ours.behaviour_mut().on_heard(event.peer, event.connection, INTERVAL);
                        heard = true;
                    }
                },
                event = theirs.select_next_some() => if let SwarmEvent::Behaviour(event) = event {
                    assert!(event.result.is_ok());
                    answered += usize::from(heard);
                },
                () = tokio::time::sleep_until(deadline) => panic!("{sent} pings, {answered} answered"),
            }
        }
        assert!(after <= 1, "one that was on its way, and none of {after}");
    }

    #[tokio::test]
    async fn a_connection_is_pinged_at_once_when_asked() {
        let pings = || Pings::new(Duration::from_secs(3600));
        let (mut ours, mut theirs) = (swarm(pings()), swarm(pings()));
        dial(&mut ours, &mut theirs).await;
        let mut answered = 0;
        let deadline = Instant::now() + Duration::from_secs(30);
        while answered < 3 {
            tokio::select! {
                event = ours.select_next_some() => if let SwarmEvent::Behaviour(event) = event {
                    assert!(event.result.is_ok());
                    answered += 1;
                    ours.behaviour_mut().ping_now(event.peer, event.connection);
                },
                _ = theirs.select_next_some() => {}
                () = tokio::time::sleep_until(deadline) => panic!("{answered} pings in all"),
            }
        }
    }
}
