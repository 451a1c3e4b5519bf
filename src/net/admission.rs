//! Who may connect, and which connections are kept open.
//!
//! libp2p's own limits count connections in all and by peer id, but a stranger makes as many peer ids as it likes. So
//! this behaviour counts by source: an IPv4 address, or the /64 of an IPv6 one. Connections that are still shaking
//! hands and those that are established have a bound each, so silent ones take no place of the others. Connections over
//! QUIC count from the end of the handshake on: before, their source may be forged. It also keeps connections to chosen
//! peers open when they are idle (libp2p's ping does not).

use std::collections::{HashMap, HashSet, VecDeque};
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, memory_connection_limits};
use swarmdex_protocols::address::{Source, ip_of, is_loopback, is_tcp};
use void::Void;

use super::hosts::Here;
use super::racing::Races;
use super::refused::Refused;
use crate::state::quota::Counts;

/// An address has as many connections as one address may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{source_of} has {limit} connections, the most that one address may have")]
pub(super) struct TooManyFromAddress {
    source_of: Source,
    limit: usize,
}

/// How far an inbound connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    ShakesHands,
    Stands,
}

/// Counts inbound connections by IP address and keeps chosen ones open.
pub(super) struct Admission {
    /// Asked about inbound connections alone: a node that is short of memory still reaches its master.
    memory: memory_connection_limits::Behaviour,
    per_address: usize,
    shaking_hands: Counts<Source>,
    standing: Counts<Source>,
    inbound: HashMap<ConnectionId, (Source, Stage)>,
    kept: HashSet<PeerId>,
    /// Kept for another reason: see [`crate::state::guests`].
    guests: HashSet<PeerId>,
    connections: HashMap<ConnectionId, (PeerId, Multiaddr)>,
    here: Here,
    notices: VecDeque<(PeerId, ConnectionId, bool)>,
    waker: Option<Waker>,
    races: Races,
    refused: Refused,
}

impl Admission {
    /// Admits at most `per_address` inbound connections from one IP address, and none while this process has more than
    /// `memory` bytes.
    pub(super) fn new(per_address: usize, memory: usize, races: Races) -> Self {
        Self {
            memory: memory_connection_limits::Behaviour::with_max_bytes(memory),
            per_address,
            shaking_hands: Counts::bounded(per_address, usize::MAX),
            standing: Counts::bounded(per_address, usize::MAX),
            inbound: HashMap::new(),
            kept: HashSet::new(),
            guests: HashSet::new(),
            connections: HashMap::new(),
            here: Here::default(),
            notices: VecDeque::new(),
            waker: None,
            races,
            refused: Refused::default(),
        }
    }

    /// Who is refused is told by this.
    pub(super) fn telling(self, refused: Refused) -> Self {
        Self { refused, ..self }
    }

    /// Who is refused.
    pub(super) fn refused(&self) -> &Refused {
        &self.refused
    }

    /// Keeps connections with `peer` open although idle, or ceases to.
    pub(super) fn keep(&mut self, peer: PeerId, keep: bool) {
        let changed = if keep { self.kept.insert(peer) } else { self.kept.remove(&peer) };
        if changed && !self.guests.contains(&peer) {
            self.notify(peer, keep);
        }
    }

    /// The same for a guest, whatever else keeps it.
    pub(super) fn keep_guest(&mut self, peer: PeerId, keep: bool) {
        let changed = if keep { self.guests.insert(peer) } else { self.guests.remove(&peer) };
        if changed && !self.kept.contains(&peer) {
            self.notify(peer, keep);
        }
    }

    /// Whether connections with a peer are kept open.
    pub(super) fn is_kept(&self, peer: &PeerId) -> bool {
        self.kept.contains(peer) || self.guests.contains(peer)
    }

    fn notify(&mut self, peer: PeerId, keep: bool) {
        let of_peer = self.connections.iter().filter(|(_, (other, _))| *other == peer);
        self.notices.extend(of_peer.map(|(connection, _)| (peer, *connection, keep)));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What is known of attempts to connect.
    pub(super) fn races(&self) -> &Races {
        &self.races
    }

    /// Which connected nodes are on this host.
    pub(super) fn here(&self) -> &Here {
        &self.here
    }

    /// The connections with a peer.
    pub(super) fn connections_with(&self, peer: &PeerId) -> impl Iterator<Item = ConnectionId> + use<> {
        let with = self.connections.iter().filter(|(_, (other, _))| other == peer);
        with.map(|(connection, _)| *connection).collect::<Vec<_>>().into_iter()
    }

    /// Where the other end of a connection is.
    pub(super) fn remote(&self, connection: &ConnectionId) -> Option<&Multiaddr> {
        self.connections.get(connection).map(|(_, remote)| remote)
    }

    fn release(&mut self, connection: ConnectionId) {
        if let Some((source, stage)) = self.inbound.remove(&connection) {
            self.at(stage).remove(&source);
        }
    }

    fn at(&mut self, stage: Stage) -> &mut Counts<Source> {
        match stage {
            Stage::ShakesHands => &mut self.shaking_hands,
            Stage::Stands => &mut self.standing,
        }
    }

    /// Counts an inbound connection at its stage, if its source may have one more.
    fn admit(&mut self, connection: ConnectionId, remote: &Multiaddr, stage: Stage) -> Result<(), ConnectionDenied> {
        let Some(source) = ip_of(remote).map(Source::of) else { return Ok(()) };
        if !self.standing.has_room(&source) || !self.at(stage).has_room(&source) {
            return Err(ConnectionDenied::new(TooManyFromAddress { source_of: source, limit: self.per_address }));
        }
        // Before that anybody can say to be there.
        if stage == Stage::Stands || is_tcp(remote) {
            self.release(connection);
            self.at(stage).add(source, 1);
            self.inbound.insert(connection, (source, stage));
        }
        Ok(())
    }
}

impl NetworkBehaviour for Admission {
    type ConnectionHandler = Keeper;
    type ToSwarm = Void;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.memory.handle_pending_inbound_connection(connection, local, remote)?;
        self.admit(connection, remote, Stage::ShakesHands)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        // The swarm asks right before it hands the addresses to the transport.
        self.races.begin(addresses);
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(connection, remote, Stage::Stands)?;
        Ok(Keeper { keep: self.is_kept(&peer) })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Keeper { keep: self.is_kept(&peer) })
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let remote = established.endpoint.get_remote_address().clone();
                if is_loopback(&remote) {
                    self.here.on_connected(established.peer_id);
                    self.races.on_here();
                }
                self.connections.insert(established.connection_id, (established.peer_id, remote));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                if let Some((peer, remote)) = self.connections.remove(&connection_id)
                    && is_loopback(&remote)
                {
                    self.here.on_closed(&peer);
                }
                self.release(connection_id);
            }
            FromSwarm::ListenFailure(failure) => self.release(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        void::unreachable(event)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some((peer_id, connection, event)) = self.notices.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Speaks no protocol; only says whether its connection is to be kept open.
#[derive(Debug)]
pub(super) struct Keeper {
    keep: bool,
}

impl ConnectionHandler for Keeper {
    type FromBehaviour = bool;
    type ToBehaviour = Void;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, keep: bool) {
        self.keep = keep;
    }

    fn on_connection_event(&mut self, _: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(admission: &mut Admission, number: usize, from: &str) -> Result<(), ConnectionDenied> {
        let local = "/ip4/127.0.0.1/tcp/4747".parse().unwrap();
        let remote = from.parse().unwrap();
        admission.handle_pending_inbound_connection(ConnectionId::new_unchecked(number), &local, &remote)
    }

    #[test]
    fn half_open_and_idle_connections_from_one_ip_are_bounded() {
        let mut admission = Admission::new(3, usize::MAX, Races::default());
        for number in 0..3 {
            arrive(&mut admission, number, &format!("/ip4/10.0.0.1/tcp/{}", 1000 + number)).unwrap();
        }
        for number in 3..10_000 {
            let denied = arrive(&mut admission, number, "/ip4/10.0.0.1/udp/9/quic-v1").unwrap_err();
            assert!(denied.downcast::<TooManyFromAddress>().is_ok());
        }
        assert_eq!(admission.inbound.len(), 3);
        arrive(&mut admission, 10_000, "/ip4/10.0.0.2/tcp/1").unwrap();
        admission.release(ConnectionId::new_unchecked(1));
        arrive(&mut admission, 10_001, "/ip4/10.0.0.1/tcp/1").unwrap();
    }

    #[test]
    fn a_process_with_too_much_memory_admits_nobody_and_still_reaches_others() {
        let mut admission = Admission::new(3, 1, Races::default());
        assert!(arrive(&mut admission, 0, "/ip4/10.0.0.1/tcp/1").is_err());
        assert!(admission.shaking_hands.is_empty() && admission.standing.is_empty());
        let (id, peer) = (ConnectionId::new_unchecked(1), Some(PeerId::random()));
        assert!(admission.handle_pending_outbound_connection(id, peer, &[], Endpoint::Dialer).is_ok());
    }

    #[test]
    fn an_ipv4_address_counts_as_itself_when_mapped_to_ipv6() {
        let mut admission = Admission::new(1, usize::MAX, Races::default());
        arrive(&mut admission, 0, "/ip4/10.0.0.1/tcp/1").unwrap();
        assert!(arrive(&mut admission, 1, "/ip6/::ffff:10.0.0.1/tcp/1").is_err());
    }

    #[test]
    fn the_addresses_of_one_host_with_ipv6_count_as_one() {
        let mut admission = Admission::new(2, usize::MAX, Races::default());
        for number in 0..2 {
            arrive(&mut admission, number, &format!("/ip6/2001:db8::{number}/tcp/1")).unwrap();
        }
        assert!(arrive(&mut admission, 2, "/ip6/2001:db8::ffff:1:2:3/tcp/1").is_err());
        arrive(&mut admission, 3, "/ip6/2001:db8:0:1::1/tcp/1").unwrap();
    }

    #[test]
    fn those_that_shake_hands_take_no_place_of_those_that_stand() {
        let mut admission = Admission::new(3, usize::MAX, Races::default());
        let remote: Multiaddr = "/ip4/10.0.0.1/tcp/9".parse().unwrap();
        for number in 0..3 {
            arrive(&mut admission, number, &remote.to_string()).unwrap();
        }
        // Two of them get on, and two more come.
        for number in 0..2 {
            let id = ConnectionId::new_unchecked(number);
            assert!(admission.handle_established_inbound_connection(id, PeerId::random(), &remote, &remote).is_ok());
            arrive(&mut admission, 10 + number, &remote.to_string()).unwrap();
        }
        assert!(arrive(&mut admission, 20, &remote.to_string()).is_err(), "three shake hands");
        let id = ConnectionId::new_unchecked(2);
        assert!(admission.handle_established_inbound_connection(id, PeerId::random(), &remote, &remote).is_ok());
        let id = ConnectionId::new_unchecked(10);
        assert!(admission.handle_established_inbound_connection(id, PeerId::random(), &remote, &remote).is_err());
        (0..20).for_each(|number| admission.release(ConnectionId::new_unchecked(number)));
        assert!(admission.shaking_hands.is_empty() && admission.standing.is_empty() && admission.inbound.is_empty());
    }

    #[test]
    fn a_handshake_over_quic_counts_when_it_is_over() {
        let mut admission = Admission::new(2, usize::MAX, Races::default());
        let remote: Multiaddr = "/ip4/10.0.0.1/udp/9/quic-v1".parse().unwrap();
        let local = "/ip4/127.0.0.1/udp/4747/quic-v1".parse().unwrap();
        for number in 0..100 {
            arrive(&mut admission, number, &remote.to_string()).unwrap();
        }
        assert!(admission.shaking_hands.is_empty() && admission.standing.is_empty(), "any of them may be forged");
        let mut establish = |number| {
            let id = ConnectionId::new_unchecked(number);
            admission.handle_established_inbound_connection(id, PeerId::random(), &local, &remote).map(drop)
        };
        assert!(establish(0).is_ok() && establish(1).is_ok());
        let denied = establish(2).unwrap_err();
        assert!(denied.downcast::<TooManyFromAddress>().is_ok());
        assert!(arrive(&mut admission, 100, "/ip4/10.0.0.1/tcp/1").is_err());
        (0..2).for_each(|number| admission.release(ConnectionId::new_unchecked(number)));
        assert!(admission.shaking_hands.is_empty() && admission.standing.is_empty() && admission.inbound.is_empty());
    }

    #[test]
    fn nothing_remains_of_connections_that_ended() {
        let mut admission = Admission::new(2, usize::MAX, Races::default());
        for number in 0..1000 {
            arrive(&mut admission, number, &format!("/ip4/10.0.{}.{}/tcp/1", number / 250, number % 250)).unwrap();
            admission.release(ConnectionId::new_unchecked(number));
        }
        assert!(admission.shaking_hands.is_empty() && admission.standing.is_empty() && admission.inbound.is_empty());
    }
}
