//! Other nodes of the network: who they say they are, and which to connect to because they are near.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, identify, mdns};
use swarmdex_protocols::address::{is_zoned, without_peer, works, worth_keeping};
use swarmdex_protocols::index::Run;
use swarmdex_protocols::limits::MAX_ADDRESSES;

use super::agent::role_of;
use super::types::{Identified, Neighbours};
use crate::config::Role;

/// Most nodes heard of by mDNS that are remembered; the behaviour below passes on no more.
const MAX_HEARD: usize = 512;
/// How long to leave a node alone after connecting to it because of mDNS.
const DIAL_PAUSE: Duration = Duration::from_secs(60);
/// Connections made because of mDNS, at most so many in each [`DIAL_PAUSE`]: whoever fakes announcements
/// makes this node knock at few doors.
const DIALS_PER_PAUSE: usize = 128;
/// Nodes whose runs are remembered.
const MAX_RUNS: usize = 4096;

/// Nodes heard of by mDNS.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    heard: BTreeMap<PeerId, LanNode>,
    /// When connected nodes last answered a ping.
    answered: BTreeMap<PeerId, Instant>,
    /// Connected nodes of this network, with their roles as they say.
    ours: BTreeMap<PeerId, Role>,
    window: Option<(Instant, usize)>,
    /// Runs of nodes that store records: one that was started again has forgotten what it stored.
    runs: BTreeMap<PeerId, Run>,
}

/// How a connected node is seen from here.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// It is on the same host.
    pub(super) here: bool,
    /// Its addresses at the other ends of the connections with it.
    pub(super) at: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct LanNode {
    addresses: Vec<Multiaddr>,
    dialled: Option<Instant>,
}

impl Nodes {
    /// A node answered a ping.
    pub(super) fn on_pong(&mut self, peer: PeerId, now: Instant) {
        self.answered.insert(peer, now);
    }

    /// The last connection with a node ended.
    pub(super) fn on_disconnected(&mut self, peer: &PeerId) {
        self.answered.remove(peer);
        self.ours.remove(peer);
    }

    /// Remembers the run of a node; whether it was not known to be there.
    pub(super) fn is_new_run(&mut self, peer: PeerId, run: Run) -> bool {
        if self.runs.len() >= MAX_RUNS && !self.runs.contains_key(&peer) {
            // If one that was left out comes again, that is not noticed; it is filled in time.
            self.runs.pop_first();
        }
        self.runs.insert(peer, run) != Some(run)
    }

    /// How many nodes are near, and which nodes are connected and no master.
    pub(super) fn neighbours(&self) -> Neighbours {
        let is_peer = |(_, role): &(&PeerId, &Role)| **role == Role::Peer;
        let peers = self.ours.iter().filter(is_peer).map(|(peer, _)| *peer);
        let (near, far) = peers.partition(|peer| self.heard.contains_key(peer));
        Neighbours { heard: self.heard.len(), near, far }
    }

    /// Nodes that answered pings once and have not for longer than `silence`. libp2p's own pings notice
    /// only after tens of seconds: the time-out of the substream that each needs comes on top.
    pub(super) fn silent(&self, silence: Duration, now: Instant) -> Vec<PeerId> {
        let is_silent = |(_, answered): &(&PeerId, &Instant)| now.saturating_duration_since(**answered) > silence;
        self.answered.iter().filter(is_silent).map(|(peer, _)| *peer).collect()
    }

    /// This process slept: nobody could be heard meanwhile.
    pub(super) fn on_overslept(&mut self, now: Instant) {
        self.answered.values_mut().for_each(|answered| *answered = now);
    }

    /// Takes in what mDNS found; returns the nodes to connect to.
    pub(super) fn on_mdns(&mut self, event: mdns::Event, now: Instant) -> Vec<(PeerId, Vec<Multiaddr>)> {
        match event {
            mdns::Event::Discovered(found) => {
                let mut peers = Vec::new();
                for (peer, address) in found {
                    if self.hear(peer, address) && !peers.contains(&peer) {
                        peers.push(peer);
                    }
                }
                peers.into_iter().filter_map(|peer| self.dial(peer, now)).collect()
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    let Some(heard) = self.heard.get_mut(&peer) else { continue };
                    heard.addresses.retain(|other| *other != address);
                    if heard.addresses.is_empty() {
                        self.heard.remove(&peer);
                    }
                }
                Vec::new()
            }
        }
    }

    /// Where a node listens as mDNS says.
    pub(super) fn heard_at(&self, peer: &PeerId) -> &[Multiaddr] {
        self.heard.get(peer).map(|heard| heard.addresses.as_slice()).unwrap_or_default()
    }

    fn hear(&mut self, peer: PeerId, address: Multiaddr) -> bool {
        let address = without_peer(address);
        // Whoever is heard on a network is elsewhere, or has an address there.
        if !(works(&address, false) || is_zoned(&address))
            || (!self.heard.contains_key(&peer) && self.heard.len() >= MAX_HEARD)
        {
            return false;
        }
        let heard = self.heard.entry(peer).or_insert(LanNode { addresses: Vec::new(), dialled: None });
        if heard.addresses.len() < MAX_ADDRESSES && !heard.addresses.contains(&address) {
            heard.addresses.push(address);
        }
        true
    }

    /// The addresses to dial, unless that was done a moment ago or enough others were.
    fn dial(&mut self, peer: PeerId, now: Instant) -> Option<(PeerId, Vec<Multiaddr>)> {
        let (begin, count) = self.window.get_or_insert((now, 0));
        if now.duration_since(*begin) >= DIAL_PAUSE {
            (*begin, *count) = (now, 0);
        }
        let heard = self.heard.get_mut(&peer)?;
        let recent = heard.dialled.is_some_and(|dialled| now.duration_since(dialled) < DIAL_PAUSE);
        if recent || *count >= DIALS_PER_PAUSE {
            return None;
        }
        *count += 1;
        heard.dialled = Some(now);
        Some((peer, heard.addresses.clone()))
    }

    /// What a node says of itself, if it is of this network.
    pub(super) fn on_identify(
        &mut self,
        peer: PeerId,
        info: &identify::Info,
        network: &str,
        seen: Seen,
    ) -> Option<Identified> {
        if info.protocol_version != network {
            return None;
        }
        let role = role_of(&info.agent_version);
        self.ours.insert(peer, role);
        let addresses = info.listen_addrs.iter().map(|address| without_peer(address.clone())).collect();
        let addresses = worth_keeping(addresses, seen.here, &seen.at);
        let lan = self.heard.contains_key(&peer);
        Some(Identified { peer, role, addresses, lan, seen: Instant::now() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::agent::agent_version;

    fn found(count: usize) -> mdns::Event {
        let address: Multiaddr = "/ip4/192.168.1.9/tcp/4747".parse().unwrap();
        mdns::Event::Discovered((0..count).map(|_| (PeerId::random(), address.clone())).collect())
    }

    #[test]
    fn a_node_that_was_started_again_is_new_run() {
        let (mut nodes, peer) = (Nodes::default(), PeerId::random());
        let runs = [1, 1, 2, 2].map(Run);
        assert_eq!(runs.map(|run| nodes.is_new_run(peer, run)), [true, false, true, false]);
        (0..2 * MAX_RUNS).for_each(|_| assert!(nodes.is_new_run(PeerId::random(), Run(3))));
        assert_eq!(nodes.runs.len(), MAX_RUNS);
    }

    #[test]
    fn a_flood_of_fake_nodes_causes_few_connections() {
        let mut nodes = Nodes::default();
        let now = Instant::now();
        assert_eq!(nodes.on_mdns(found(100_000), now).len(), DIALS_PER_PAUSE);
        assert_eq!(nodes.heard.len(), MAX_HEARD);
        assert!(nodes.on_mdns(found(10), now).is_empty());
    }

    #[test]
    fn a_node_is_left_alone_for_a_while_and_then_tried_again() {
        let mut nodes = Nodes::default();
        let now = Instant::now();
        let event = found(1);
        assert_eq!(nodes.on_mdns(event.clone(), now).len(), 1);
        assert!(nodes.on_mdns(event.clone(), now).is_empty());
        assert_eq!(nodes.on_mdns(event, now + DIAL_PAUSE).len(), 1);
    }

    #[test]
    fn identify_with_many_addresses_is_cut_and_other_networks_are_ignored() {
        let key = libp2p::identity::Keypair::generate_ed25519();
        let own: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let listen = |port: u32| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap();
        let info = identify::Info {
            public_key: key.public(),
            protocol_version: "/swarmdex/1/lab".to_owned(),
            agent_version: agent_version(Role::Master, Run(7)),
            listen_addrs: ["/memory/1".parse().unwrap()].into_iter().chain((1..2000).map(listen)).collect(),
            protocols: Vec::new(),
            observed_addr: own,
            signed_peer_record: None,
        };
        let peer = key.public().to_peer_id();
        let mut nodes = Nodes::default();
        let node = nodes.on_identify(peer, &info, "/swarmdex/1/lab", Seen::default()).unwrap();
        assert_eq!((node.addresses.len(), node.role, node.lan), (MAX_ADDRESSES, Role::Master, false));
        assert!(nodes.ours.contains_key(&peer) && nodes.neighbours().far.is_empty(), "a master has no voice");
        nodes.on_disconnected(&peer);
        assert!(nodes.ours.is_empty());
        assert!(Nodes::default().on_identify(peer, &info, "/swarmdex/1/other", Seen::default()).is_none());
        let seen = Seen { here: false, at: [IpAddr::from([10, 0, 0, 2])].into() };
        let live: Multiaddr = "/ip4/10.0.0.2/tcp/1".parse().unwrap();
        let info =
            identify::Info { listen_addrs: info.listen_addrs.into_iter().chain([live.clone()]).collect(), ..info };
        let node = nodes.on_identify(peer, &info, "/swarmdex/1/lab", seen).unwrap();
        assert_eq!(node.addresses[0], live, "the address from which it is seen is not cut off");
    }

    #[test]
    fn a_connection_without_answers_is_given_up() {
        let (mut nodes, peer, now) = (Nodes::default(), PeerId::random(), Instant::now());
        let silence = Duration::from_secs(10);
        nodes.on_pong(peer, now);
        assert!(nodes.silent(silence, now + silence).is_empty());
        assert_eq!(nodes.silent(silence, now + silence * 2), [peer]);
        nodes.on_overslept(now + silence * 2);
        assert!(nodes.silent(silence, now + silence * 2).is_empty());
        nodes.on_disconnected(&peer);
        assert!(nodes.answered.is_empty());
    }

    #[test]
    fn addresses_that_lead_nowhere_are_not_dialled() {
        let mut nodes = Nodes::default();
        let bad = [
            "/ip4/0.0.0.0/tcp/1",
            "/ip4/10.0.0.1/udp/53",
            "/ip4/224.0.0.1/tcp/1",
            "/memory/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fe80::1/tcp/1",
        ];
        for address in bad {
            let event = mdns::Event::Discovered(vec![(PeerId::random(), address.parse().unwrap())]);
            assert!(nodes.on_mdns(event, Instant::now()).is_empty(), "{address}");
        }
    }
}
