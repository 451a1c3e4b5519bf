//! Nodes that cannot be reached: found by the master, called by those who want something of them, and kept connected.

use swarmdex_protocols::index::{Connect, Reach};

use super::*;
use crate::net::probe::Prober;
use crate::state::guests::Guests;

/// What this node knows of how it is reached.
pub(in crate::net) struct Reachability {
    /// Whether the master could connect to it, if it tried.
    own: watch::Sender<Option<bool>>,
    /// Nodes whose connections are kept because one of the two cannot be reached.
    guests: Guests,
    prober: Prober,
}

impl Reachability {
    pub(in crate::net) fn new(own: watch::Sender<Option<bool>>) -> Self {
        Self { own, guests: Guests::default(), prober: Prober::default() }
    }
}

impl Driver {
    /// Sees whether a connection to a member comes about.
    pub(super) fn try_to_reach(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if peer == *self.swarm.local_peer_id() {
            return self.on_tried(&peer, Some(true));
        }
        match self.reachability.prober.probe(peer, addresses) {
            Some(probe) => self.jobs.push(probe.map(move |reached| Job::Tried { peer, reached }).boxed()),
            None => self.on_tried(&peer, None),
        }
    }

    pub(super) fn on_tried(&mut self, peer: &PeerId, reached: Option<bool>) {
        if let Some(master) = &mut self.services.index {
            master.on_tried(peer, reached, Instant::now());
        }
    }

    /// Says something to a member, if it is connected; builds from before do not know what it means.
    pub(super) fn tell(&mut self, peer: PeerId, request: IndexRequest) {
        self.swarm.behaviour_mut().index.tell(&peer, request);
    }

    /// The master says whether this node can be reached.
    pub(super) fn on_reach(&mut self, reach: Reach) {
        let before = self.reachability.own.send_replace(Some(reach.reachable));
        match (before, reach.reachable) {
            (None | Some(true), false) => tracing::warn!(
                "the master cannot connect to this node: it is behind a router or a firewall. Others get its files by connections \
                 that it makes itself; to be reached directly, let its port through (--listen names a fixed one)"
            ),
            (Some(false), true) => tracing::info!("the master can connect to this node again"),
            _ => {}
        }
    }

    /// The master says who wants this node to connect.
    pub(super) fn on_call(&mut self, call: Connect) {
        let Connect { peer, addresses } = call;
        let addresses: Vec<_> = addresses.into_iter().take(MAX_ADDRESSES).collect();
        tracing::debug!(%peer, "wants this node to connect to it");
        self.requests.dials.dial_in_background(&mut self.swarm, peer, addresses);
    }

    /// A node asked this one for something. If this one cannot be reached, the connection stays for the next time.
    pub(super) fn on_asked_for_chunks(&mut self, peer: PeerId) {
        if *self.reachability.own.borrow() == Some(false) {
            self.keep_guest(peer);
        }
    }

    /// Keeps the connection with a node for a while.
    pub(super) fn keep_guest(&mut self, peer: PeerId) {
        let now = Instant::now();
        let admission = &mut self.swarm.behaviour_mut().admission;
        if self.reachability.guests.on_seen(peer, now) {
            admission.keep_guest(peer, true);
        }
        while let Some(gone) = self.reachability.guests.next_gone(now) {
            admission.keep_guest(gone, false);
        }
    }
}
