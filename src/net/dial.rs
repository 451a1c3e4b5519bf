//! Connections that this node is making, and who waits for each.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Swarm};
use libp2p::{Multiaddr, PeerId, TransportError};
use swarmdex_protocols::address::{is_tcp, without_peer};
use tokio::sync::oneshot;

use super::behaviour::Behaviour;
use super::error::ConnectError;

/// Attempts under way at a time.
const MAX_ATTEMPTS: usize = 256;
/// Addresses that an error names.
const MAX_NAMED: usize = 4;
/// Callers that wait for one attempt.
const MAX_WAITING: usize = 256;
/// Attempts at one node at a time: one more where it is heard of at another address meanwhile.
const MAX_ATTEMPTS_AT_ONE: usize = 4;

type Answer = oneshot::Sender<Result<PeerId, ConnectError>>;

struct Attempt {
    peer: Option<PeerId>,
    /// What is tried, all at once: see `net::racing`.
    addresses: Vec<Multiaddr>,
    /// Addresses to try after that: of an unknown node one at a time, over TCP before QUIC.
    rest: Vec<Multiaddr>,
    answers: Vec<Answer>,
}

impl Attempt {
    /// One more waits for it.
    fn wait(&mut self, answer: Answer) {
        if self.answers.len() < MAX_WAITING {
            self.answers.push(answer);
        } else {
            let _ = answer.send(Err(ConnectError::Busy));
        }
    }
}

/// Connections being made.
#[derive(Default)]
pub(super) struct Dials {
    attempts: HashMap<ConnectionId, Attempt>,
    /// Who waits for a node to connect to this one.
    awaited: Vec<(PeerId, Answer)>,
}

impl Dials {
    /// Begins to connect, unless that is under way or done already.
    pub(super) fn connect(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: Option<PeerId>,
        mut addresses: Vec<Multiaddr>,
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
            // What is not being tried yet is tried beside it: nobody waits for where the node was before.
            addresses.retain(|address| self.of(peer).all(|attempt| !attempt.addresses.contains(address)));
            let enough = addresses.is_empty() || self.of(peer).count() >= MAX_ATTEMPTS_AT_ONE;
            if let Some(attempt) = self.attempts.values_mut().find(|attempt| enough && attempt.peer == Some(peer)) {
                attempt.wait(answer);
                return;
            }
        }
        if self.attempts.len() >= MAX_ATTEMPTS {
            let _ = answer.send(Err(ConnectError::Busy));
            return;
        }
        if addresses.is_empty() {
            let _ = answer.send(Err(ConnectError::NoAddress));
            return;
        }
        let (addresses, mut rest) = if peer.is_some() { (addresses, Vec::new()) } else { (Vec::new(), addresses) };
        rest.sort_by_key(is_tcp);
        self.dial(swarm, Attempt { peer, addresses, rest, answers: vec![answer] });
    }

    /// Whether somebody waits for a node to connect to this one.
    pub(super) fn is_awaited(&self, peer: &PeerId) -> bool {
        self.awaited.iter().any(|(awaited, answer)| awaited == peer && !answer.is_closed())
    }

    /// Answers when a node is connected, by whomever the connection is made. Who does not wait any more drops the answer.
    pub(super) fn wait(&mut self, swarm: &Swarm<Behaviour>, peer: PeerId, answer: Answer) {
        self.awaited.retain(|(_, answer)| !answer.is_closed());
        if swarm.is_connected(&peer) {
            let _ = answer.send(Ok(peer));
        } else if self.awaited.len() >= MAX_WAITING {
            let _ = answer.send(Err(ConnectError::Busy));
        } else {
            self.awaited.push((peer, answer));
        }
    }

    /// The attempts at a node.
    fn of(&self, peer: PeerId) -> impl Iterator<Item = &Attempt> {
        self.attempts.values().filter(move |attempt| attempt.peer == Some(peer))
    }

    /// Dials without anybody waiting: nodes found by mDNS, members that are probed.
    pub(super) fn dial_in_background(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId, addresses: Vec<Multiaddr>) {
        let (answer, _) = oneshot::channel();
        self.connect(swarm, Some(peer), addresses, answer);
    }

    fn dial(&mut self, swarm: &mut Swarm<Behaviour>, mut attempt: Attempt) {
        let options = match attempt.peer {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Disconnected)
                .addresses(attempt.addresses.clone())
                .build(),
            None => match attempt.rest.pop() {
                Some(address) => {
                    attempt.addresses = vec![address.clone()];
                    DialOpts::unknown_peer_id().address(address).build()
                }
                None => return finish(attempt, &Err(ConnectError::NoAddress)),
            },
        };
        let connection = options.connection_id();
        match swarm.dial(options) {
            Ok(()) => drop(self.attempts.insert(connection, attempt)),
            Err(error) => {
                let error = connect_error(&error, None);
                finish(attempt, &Err(error));
            }
        }
    }

    /// A connection stands: answers all who waited for it or for its peer.
    pub(super) fn on_established(&mut self, connection: ConnectionId, peer: PeerId) {
        for (_, answer) in self.awaited.extract_if(.., |(awaited, _)| *awaited == peer) {
            let _ = answer.send(Ok(peer));
        }
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
        if let Some(peer) = attempt.peer
            && let Some(other) = self.attempts.values_mut().find(|other| other.peer == Some(peer))
        {
            attempt.answers.into_iter().for_each(|answer| other.wait(answer));
            return false;
        }
        if attempt.rest.is_empty() || matches!(error, DialError::WrongPeerId { .. }) {
            let since = swarm.behaviour().admission.races().silent_since(attempt.addresses.iter());
            finish(attempt, &Err(connect_error(error, since)));
            return true;
        }
        self.dial(swarm, attempt);
        false
    }
}

fn finish(attempt: Attempt, result: &Result<PeerId, ConnectError>) {
    for answer in attempt.answers {
        let _ = answer.send(result.clone());
    }
}

fn connect_error(error: &DialError, since: Option<Instant>) -> ConnectError {
    match error {
        DialError::WrongPeerId { obtained, address } => {
            ConnectError::WrongPeer { address: address.clone(), obtained: *obtained }
        }
        DialError::LocalPeerId { .. } => ConnectError::Own,
        DialError::NoAddresses => ConnectError::NoAddress,
        DialError::Denied { cause } => ConnectError::Unreachable { reason: innermost(cause), since: None },
        DialError::Transport(attempts) => ConnectError::Unreachable { reason: describe(attempts), since },
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => {
            ConnectError::Unreachable { reason: "the attempt was given up".to_owned(), since: None }
        }
    }
}

/// What each address came to, the innermost cause of each; at most [`MAX_NAMED`] of them, and some over each transport.
fn describe(attempts: &[(Multiaddr, TransportError<std::io::Error>)]) -> String {
    let (tcp, others): (Vec<_>, Vec<_>) = attempts.iter().partition(|(address, _)| is_tcp(address));
    let of_tcp = tcp.len().min(MAX_NAMED - others.len().min(MAX_NAMED / 2));
    let named = tcp.iter().take(of_tcp).chain(others.iter().take(MAX_NAMED - of_tcp));
    let name = |(address, error): &&(Multiaddr, TransportError<std::io::Error>)| {
        let address = without_peer(address.clone());
        match error {
            TransportError::MultiaddrNotSupported(_) => format!("{address}: this kind of address is not supported"),
            TransportError::Other(error) => format!("{address}: {}", innermost(error)),
        }
    };
    let mut text = named.map(name).collect::<Vec<_>>().join("; ");
    if attempts.len() > MAX_NAMED {
        text.push_str(&format!("; and {} more", attempts.len() - MAX_NAMED));
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
