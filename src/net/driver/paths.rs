//! Connections that lead nowhere: given up, so that better ones can be made.

use std::collections::BTreeMap;
use std::error::Error;

use swarmdex_protocols::address::{Source, first_those_of, ip_of};

use super::*;
use crate::net::admission::TooManyFromAddress;
use crate::net::refused::Reason;

/// How long an older connection may take to answer a ping when its peer makes another one.
const PATIENCE: Duration = Duration::from_secs(5);
/// Looks at all connections in the time after which one without a pong is silent.
pub(super) const TICKS: u32 = 4;
/// Connections suspected at a time.
const MAX_SUSPICIONS: usize = 1024;

/// Connections whose peers made others, and since when: a node whose address changed comes back by its new one, and does not close what
/// it had. As many as the limit for one peer would keep it out.
#[derive(Debug, Default)]
pub(super) struct Suspicions(BTreeMap<ConnectionId, Instant>);

impl Suspicions {
    /// Whether a connection is to be pinged: it was not suspected.
    fn begin(&mut self, connection: ConnectionId, now: Instant) -> bool {
        let new = self.0.len() < MAX_SUSPICIONS && !self.0.contains_key(&connection);
        if new {
            self.0.insert(connection, now);
        }
        new
    }

    /// A ping was answered.
    pub(super) fn on_pong(&mut self, connection: &ConnectionId) {
        self.0.remove(connection);
    }

    /// A connection ended.
    pub(super) fn on_closed(&mut self, connection: &ConnectionId) {
        self.0.remove(connection);
    }

    /// Those that have not answered.
    fn over(&mut self, now: Instant) -> Vec<ConnectionId> {
        let over: Vec<_> = self.0.iter().filter(|(_, since)| now >= **since + PATIENCE).map(|(at, _)| *at).collect();
        for connection in &over {
            self.0.remove(connection);
        }
        over
    }

    /// When to look again.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.0.values().min().map(|since| *since + PATIENCE)
    }
}

impl Driver {
    /// This host lost one of its addresses: no connection from there leads anywhere any more.
    pub(super) fn on_expired(&mut self, address: &Multiaddr) {
        if let Some(ip) = ip_of(address).filter(|ip| !self.swarm.listeners().any(|other| ip_of(other) == Some(*ip))) {
            let connections = self.outside.links.cut_from(ip);
            self.outside.links.on_expired(ip);
            tracing::info!(%ip, connections, "this host has lost an address: connections from there are cut");
        }
        self.publish_listen();
    }

    /// A connection from outside came to nothing.
    pub(super) fn on_refused(&self, error: ListenError, from: &Multiaddr) {
        let (ListenError::Denied { cause }, Some(ip)) = (error, ip_of(from)) else { return };
        let reason = match cause.downcast::<TooManyFromAddress>() {
            Ok(_) => Reason::Connections,
            // One node with several connections is no news.
            Err(cause) if cause.source().is_some_and(|limit| limit.to_string().contains("per peer")) => return,
            Err(_) => Reason::Full,
        };
        self.swarm.behaviour().admission.refused().add(reason, Source::of(ip).0);
    }

    /// Gives up connections that lead nowhere any more.
    pub(super) fn on_tick(&mut self, late: Duration) {
        let now = Instant::now();
        self.swarm.behaviour().admission.refused().say();
        self.swarm.behaviour_mut().kad.store_mut().expire();
        while let Some(address) = self.requests.meetings.handle_timeout(now) {
            self.outside.twins.send_replace(Some(address));
        }
        if let Some(master) = &mut self.services.index {
            // Chunks show as much as pongs, which may be behind them on a link that is full.
            let since = now.checked_sub(self.outside.silence / TICKS).unwrap_or(now);
            let heard = self.outside.links.heard_since(since);
            heard.iter().for_each(|peer| master.on_sign(peer, None, now));
        }
        if late > self.outside.silence {
            return self.requests.nodes.on_overslept(now);
        }
        // On a link that is full a pong may be late. What comes instead shows as much.
        let since = now.checked_sub(self.outside.silence).unwrap_or(now);
        let is_heard = |peer: &PeerId| self.outside.links.last_data(peer).is_some_and(|at| at > since);
        let silent = self.requests.nodes.silent(self.outside.silence, now);
        for peer in silent.into_iter().filter(|peer| !is_heard(peer)).collect::<Vec<_>>() {
            tracing::debug!(%peer, "no answer to pings: disconnected");
            self.lose(&peer);
            self.cut(&peer);
        }
    }

    /// A ping was answered. A connection that is neither kept nor in use ends soon by itself: it is pinged less often, since nodes of a
    /// large network have many of these. Two answers fit into the time after which it is silent.
    pub(super) fn on_pong(&mut self, peer: PeerId, connection: ConnectionId, now: Instant) {
        self.requests.nodes.on_pong(peer, now);
        self.requests.suspicions.on_pong(&connection);
        if let Some(master) = &mut self.services.index {
            master.on_sign(&peer, Some(connection), now);
        }
        let quiet = self.outside.silence / 2;
        let is_used = self.outside.links.last_data(&peer).is_some_and(|at| at + quiet / 2 > now);
        let behaviour = self.swarm.behaviour_mut();
        if !is_used && !behaviour.admission.is_kept(&peer) {
            behaviour.pings.rest(peer, connection, quiet);
        }
    }

    pub(super) fn publish_listen(&mut self) {
        let addresses: Vec<_> = self.swarm.listeners().cloned().map(without_peer).collect();
        // Messages have no room for more: those come first that have shown that they lead somewhere.
        let addresses = match addresses.len() > MAX_ADDRESSES {
            true => first_those_of(addresses, &self.outside.links.used()),
            false => addresses,
        };
        self.outside.listen.send_if_modified(|before| {
            let is_news = *before != addresses;
            *before = addresses;
            is_news
        });
    }

    /// What is due from a node does not come, or it does not answer.
    pub(super) fn cut(&self, peer: &PeerId) {
        let addresses = self.outside.links.cut(peer);
        self.swarm.behaviour().admission.races().on_dead(&addresses);
    }

    /// A node made another connection: do the older ones still lead to it?
    pub(super) fn suspect_others(&mut self, peer: PeerId, new: ConnectionId) {
        let (now, behaviour) = (Instant::now(), self.swarm.behaviour_mut());
        for connection in behaviour.admission.connections_with(&peer).filter(|other| *other != new) {
            if self.requests.suspicions.begin(connection, now) {
                behaviour.pings.ping_now(peer, connection);
            }
        }
    }

    /// Closes what is suspected and has not answered.
    pub(super) fn end_suspicions(&mut self, now: Instant) {
        for connection in self.requests.suspicions.over(now) {
            tracing::debug!(?connection, "its peer has another one, and it does not answer: closed");
            self.swarm.close_connection(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_over_and_the_number_is_bounded() {
        let (mut suspicions, now) = (Suspicions::default(), Instant::now());
        let connection = ConnectionId::new_unchecked;
        assert!((0..3).all(|number| suspicions.begin(connection(number), now)));
        assert!(!suspicions.begin(connection(1), now + PATIENCE / 2), "it is pinged once");
        suspicions.on_pong(&connection(0));
        suspicions.on_closed(&connection(2));
        assert!(suspicions.over(now + PATIENCE / 2).is_empty());
        assert_eq!(suspicions.timeout(), Some(now + PATIENCE));
        assert_eq!(suspicions.over(now + PATIENCE), [connection(1)]);
        assert_eq!(suspicions.timeout(), None);
        let admitted = (0..2 * MAX_SUSPICIONS).filter(|number| suspicions.begin(connection(*number), now)).count();
        assert_eq!(admitted, MAX_SUSPICIONS);
    }
}
