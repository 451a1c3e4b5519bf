//! Who is in the routing table, as nodes say who they are and cease to answer.

use libp2p::kad;

use super::*;
use crate::net::hosts::Addressed;
use crate::net::rpc::access::Kind;

/// Whether a node is in the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoutingEntry {
    /// There is no room: it is far away, and enough others there are known.
    None,
    /// It just entered.
    New,
    /// It was there before.
    Known,
}

impl Driver {
    /// Whether a peer is connected, and on this host.
    pub(super) fn is_here(&self, peer: &PeerId) -> bool {
        self.swarm.behaviour().admission.here().has(peer)
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        use kad::InboundRequest::{AddProvider, PutRecord};
        let sender = match &event {
            kad::Event::InboundRequest { request: AddProvider { record: Some(record) } } => Some(record.provider),
            kad::Event::InboundRequest { request: PutRecord { source, record: Some(_), .. } } => Some(*source),
            _ => None,
        };
        if let Some(sender) = sender
            && let Err(denied) = self.access.check(&sender, Kind::Record, Instant::now())
        {
            tracing::debug!(peer = %sender, %denied, "a record is not stored");
            return;
        }
        let here = match &event {
            kad::Event::InboundRequest { request: AddProvider { record: Some(record) } } => {
                self.is_here(&record.provider)
            }
            // What others say comes from any of those who are connected.
            _ => self.swarm.behaviour().admission.races().is_here(),
        };
        let step = self.dht.on_event(&mut self.swarm.behaviour_mut().kad, event.only_working(here));
        self.on_mirror_step(step);
    }

    pub(super) fn on_identify(&mut self, peer: PeerId, info: &identify::Info) {
        let seen = Seen { here: self.is_here(&peer), at: self.outside.links.remotes(&peer) };
        let Some(identified) = self.requests.nodes.on_identify(peer, info, &self.outside.network, seen) else {
            tracing::debug!(%peer, theirs = %info.protocol_version.escape_debug(), "a node of another network");
            return;
        };
        let kad = &mut self.swarm.behaviour_mut().kad;
        if info.protocols.iter().any(|protocol| kad.protocol_names().contains(protocol)) {
            let place = self.enter_in_routing_table(peer, &identified.addresses);
            let missed = self.dht.on_back(&peer);
            // A node that leaves the table and enters it again still holds what it held. Kademlia takes in by itself
            // whom it asks, before they say who they are.
            let new = match (place, Run::of_agent(&info.agent_version)) {
                (RoutingEntry::None, _) => false,
                (_, Some(run)) => self.requests.nodes.is_new_run(peer, run),
                // A node of before does not tell its run.
                (_, None) => place == RoutingEntry::New,
            };
            if place != RoutingEntry::None && (new || missed.is_some()) {
                // It was silent for a while before that was noticed.
                let silent = |since: Instant| since.checked_sub(self.outside.silence).unwrap_or(since);
                let missed = missed.filter(|_| !new).map(silent);
                // Nobody watching is no failure.
                let _ = self.outside.came.send(Came { peer, missed });
            }
        } else {
            // A node of one command, or one that only asks: every query that it stood in for would come back empty.
            kad.remove_peer(&peer);
        }
        if identified.role == Role::Master {
            self.outside.on_master(identified);
        }
    }

    fn enter_in_routing_table(&mut self, peer: PeerId, addresses: &[Multiaddr]) -> RoutingEntry {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let first = kad.kbuckets().all(|bucket| bucket.is_empty());
        // The routing table never forgets an address by itself: what a node said before is replaced. The node stays
        // in the table meanwhile: each that is new there makes Kademlia look around in all directions.
        let before = dht::addresses_of(kad, &peer);
        let addresses = routing_addresses(addresses);
        for address in &addresses {
            kad.add_address(&peer, address.clone());
        }
        for address in before.iter().filter(|address| !addresses.contains(&without_peer((*address).clone()))) {
            kad.remove_address(&peer, address);
        }
        if first {
            // Through the first node all others are found; an empty list of addresses is no node.
            let _ = kad.bootstrap();
        }
        match (before.is_empty(), dht::addresses_of(kad, &peer).is_empty()) {
            (_, true) => RoutingEntry::None,
            (true, false) => RoutingEntry::New,
            (false, false) => RoutingEntry::Known,
        }
    }

    /// A node does not answer.
    pub(super) fn lose(&mut self, peer: &PeerId) {
        if self.swarm.behaviour_mut().kad.remove_peer(peer).is_some() {
            self.dht.on_lost(*peer);
        }
    }
}
