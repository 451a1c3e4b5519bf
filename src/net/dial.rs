//! Connections that this node is making, and who waits for each.

use std::collections::HashMap;

use libp2p::core::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Swarm};
use libp2p::{Multiaddr, PeerId, TransportError};
use tokio::sync::oneshot;

use super::ConnectError;
use super::behaviour::Behaviour;

/// Attempts under way at a time.
const MAX_ATTEMPTS: usize = 256;
/// Callers that wait for one attempt.
const MAX_WAITING: usize = 256;

type Answer = oneshot::Sender<Result<PeerId, ConnectError>>;

struct Attempt {
    peer: Option<PeerId>,
    /// Addresses to try if those under way fail: QUIC after TCP, which is faster on every network measured.
    rest: Vec<Multiaddr>,
    answers: Vec<Answer>,
}

/// Connections being made.
#[derive(Default)]
pub(super) struct Dials {
    attempts: HashMap<ConnectionId, Attempt>,
}

impl Dials {
    /// Begins to connect, unless that is under way or done already.
    pub(super) fn connect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
        answer: Answer,
    ) {
        if let Some(peer) = peer {
            if swarm.is_connected(&peer) {
                let _ = answer.send(Ok(peer));
                return;
            }
            if peer == *swarm.local_peer_id() {
                let _ = answer.send(Err(ConnectError::Own));
                return;
            }
            if let Some(attempt) = self.attempts.values_mut().find(|attempt| attempt.peer == Some(peer)) {
                if attempt.answers.len() < MAX_WAITING {
                    attempt.answers.push(answer);
                } else {
                    let _ = answer.send(Err(ConnectError::Busy));
                }
                return;
            }
        }
        if self.attempts.len() >= MAX_ATTEMPTS {
            let _ = answer.send(Err(ConnectError::Busy));
            return;
        }
        let (tcp, rest): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_tcp);
        let attempt = Attempt { peer, rest, answers: vec![answer] };
        self.dial(swarm, tcp, attempt);
    }

    /// Dials without anybody waiting: nodes found by mDNS, members that are probed.
    pub(super) fn dial_in_background(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId, addresses: Vec<Multiaddr>) {
        let (answer, _) = oneshot::channel();
        self.connect(swarm, Some(peer), addresses, answer);
    }

    fn dial(&mut self, swarm: &mut Swarm<Behaviour>, mut addresses: Vec<Multiaddr>, mut attempt: Attempt) {
        loop {
            if addresses.is_empty() {
                addresses = std::mem::take(&mut attempt.rest);
            }
            if addresses.is_empty() {
                return finish(attempt, &Err(ConnectError::NoAddress));
            }
            let options = match attempt.peer {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::Disconnected)
                    .addresses(std::mem::take(&mut addresses))
                    .build(),
                // One address for each attempt at an unknown peer: `swap_remove` cannot panic on a list that is not empty.
                None => DialOpts::unknown_peer_id().address(addresses.swap_remove(0)).build(),
            };
            let connection = options.connection_id();
            match swarm.dial(options) {
                Ok(()) => {
                    self.attempts.insert(connection, attempt);
                    return;
                }
                Err(_) if !attempt.rest.is_empty() => addresses.clear(),
                Err(error) => return finish(attempt, &Err(connect_error(&error))),
            }
        }
    }

    /// A connection stands: answers all who waited for it or for its peer.
    pub(super) fn on_established(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some(attempt) = self.attempts.remove(&connection) {
            finish(attempt, &Ok(peer));
        }
        for attempt in self.attempts.values_mut().filter(|attempt| attempt.peer == Some(peer)) {
            for answer in attempt.answers.drain(..) {
                let _ = answer.send(Ok(peer));
            }
        }
    }

    /// An attempt failed: tries the addresses that are left. True if the peer was given up.
    pub(super) fn on_failed(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        connection: ConnectionId,
        error: &DialError,
    ) -> bool {
        let Some(attempt) = self.attempts.remove(&connection) else { return true };
        if let Some(peer) = attempt.peer
            && swarm.is_connected(&peer)
        {
            finish(attempt, &Ok(peer));
            return false;
        }
        if attempt.rest.is_empty() || matches!(error, DialError::WrongPeerId { .. }) {
            finish(attempt, &Err(connect_error(error)));
            return true;
        }
        self.dial(swarm, Vec::new(), attempt);
        false
    }
}

fn finish(attempt: Attempt, result: &Result<PeerId, ConnectError>) {
    for answer in attempt.answers {
        let _ = answer.send(result.clone());
    }
}

/// Whether an address is one over TCP.
pub(super) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

fn connect_error(error: &DialError) -> ConnectError {
    match error {
        DialError::WrongPeerId { obtained, address } => {
            ConnectError::WrongPeer { address: address.clone(), obtained: *obtained }
        }
        DialError::LocalPeerId { .. } => ConnectError::Own,
        DialError::NoAddresses => ConnectError::NoAddress,
        DialError::Denied { cause } => ConnectError::Unreachable { reason: innermost(cause) },
        DialError::Transport(attempts) => ConnectError::Unreachable { reason: describe(attempts) },
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => {
            ConnectError::Unreachable { reason: "the attempt was given up".to_owned() }
        }
    }
}

/// What each address came to, the innermost cause of each; at most three of them.
fn describe(attempts: &[(Multiaddr, TransportError<std::io::Error>)]) -> String {
    let mut text = attempts
        .iter()
        .take(3)
        .map(|(address, error)| match error {
            TransportError::MultiaddrNotSupported(_) => format!("{address}: this kind of address is not supported"),
            TransportError::Other(error) => format!("{address}: {}", innermost(error)),
        })
        .collect::<Vec<_>>()
        .join("; ");
    if attempts.len() > 3 {
        text.push_str("; …");
    }
    text
}

/// The transports wrap errors many times over; the last one says what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    // Timed-out handshakes and the like say nothing below the outermost text.
    if text.is_empty() { error.to_string() } else { text }
}
