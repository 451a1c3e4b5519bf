//! The event loop.

mod chunks;
mod complaints;
mod paths;
mod reach;
mod routing;
mod serve;

use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, mdns, ping};
use swarmdex_protocols::address::{routing_addresses, without_peer};
use swarmdex_protocols::fetch as fetch_protocol;
use swarmdex_protocols::index::{IndexRequest, IndexResponse, Run};
use swarmdex_protocols::limits::MAX_ADDRESSES;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::behaviour::{Behaviour, BehaviourEvent, protocol_version};
use super::command::Command;
use super::crowd::Crowd;
use super::dht::{self, Checked, Dht};
use super::dial::Dials;
use super::error::NetError;
use super::fetch::Uploads;
use super::index::{Done, Effect, Master};
use super::links::Links;
use super::listen::listen_everywhere;
use super::nodes::{Nodes, Seen};
use super::rpc::access::Access;
use super::rpc::pending::{MAX_REQUESTS, Pending};
use super::rpc::{self, Reply};
use super::services::Services;
use super::trips::Trips;
use super::types::{Came, Identified, Snapshot};
use crate::clock::sleep_until;
use crate::config::{Config, Role};
use crate::state::meetings::Meetings;
use crate::state::quota::Counts;
use chunks::read;
use complaints::Hearing;
use paths::{Suspicions, TICKS};
pub(super) use reach::Reachability;
use serve::IndexReply;

/// How long uploads may take to finish when the node stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Nodes that are remembered as masters.
const MAX_MASTERS: usize = 16;
/// How soon to try again what the store had no room for.
const RETRY: Duration = Duration::from_millis(100);

/// Waits until the index of a master was found to hold something else than was said.
async fn found(index: Option<&Master>) {
    match index {
        Some(master) => master.found().await,
        None => std::future::pending().await,
    }
}

/// Work that ended outside the loop.
enum Job {
    Index { reply: IndexReply, done: Box<Done> },
    Eviction { peer: PeerId, written: bool },
    Upload { reply: Reply<rpc::FetchProtocol>, response: fetch_protocol::FetchResponse },
    Owned { peer: PeerId, reply: IndexReply, response: Box<IndexResponse> },
    Checked(Box<Checked>),
    Tried { peer: PeerId, reached: bool },
}

/// The swarm with all that its loop needs.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    outside: Outside,
    jobs: FuturesUnordered<BoxFuture<'static, Job>>,
    requests: Requests,
    access: Access,
    uploads: Uploads,
    crowd: Crowd,
    complaints: Hearing,
    reachability: Reachability,
    services: Services,
    dht: Dht,
}

/// Those who watch.
pub(super) struct Outside {
    lost: broadcast::Sender<PeerId>,
    came: broadcast::Sender<Came>,
    /// How far away connected nodes are.
    pub(super) trips: Trips,
    listen: watch::Sender<Vec<Multiaddr>>,
    masters: watch::Sender<Vec<Identified>>,
    twins: watch::Sender<Option<Multiaddr>>,
    links: Links,
    network: String,
    /// How long a connected node may leave pings unanswered.
    silence: Duration,
    stopping: Option<oneshot::Sender<()>>,
}

impl Outside {
    pub(super) fn new(
        lost: broadcast::Sender<PeerId>,
        came: broadcast::Sender<Came>,
        listen: watch::Sender<Vec<Multiaddr>>,
        masters: watch::Sender<Vec<Identified>>,
        twins: watch::Sender<Option<Multiaddr>>,
        links: Links,
        config: &Config,
    ) -> Self {
        let lease = &config.lease;
        let silence = lease.ping_interval.saturating_mul(lease.missed_pings.saturating_add(2));
        let trips = Trips::default();
        let network = protocol_version(config);
        Self { trips, lost, came, listen, masters, twins, links, network, silence, stopping: None }
    }

    /// Nodes were heard of by mDNS: a master that connected before it was heard of is one of this LAN all the same.
    fn on_heard(&self, event: &mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        self.masters.send_if_modified(|masters| {
            let heard = masters.iter_mut().filter(|node| !node.lan && found.iter().any(|(peer, _)| *peer == node.peer));
            heard.map(|node| node.lan = true).count() > 0
        });
    }

    /// Remembers a node that says that it is the master.
    fn on_master(&self, node: Identified) {
        self.masters.send_modify(|masters| {
            masters.retain(|other| other.peer != node.peer);
            if masters.len() >= MAX_MASTERS {
                masters.remove(0);
            }
            masters.push(node);
        });
    }
}

/// What this node asked of others.
struct Requests {
    dials: Dials,
    nodes: Nodes,
    meetings: Meetings,
    suspicions: Suspicions,
    renewals: Pending<PeerId, IndexResponse>,
    /// Questions about names of this node that are being answered.
    owned: Counts<PeerId>,
}

impl Driver {
    pub(super) fn new(
        (mut swarm, access): (Swarm<Behaviour>, Access),
        commands: mpsc::Receiver<Command>,
        outside: Outside,
        dht: Dht,
        config: &Config,
        reachability: Reachability,
        services: Services,
    ) -> Result<Self, NetError> {
        listen_everywhere(&mut swarm, config)?;
        let uploads = Uploads::new(&config.fetch, outside.trips.clone());
        Ok(Self {
            swarm,
            commands,
            outside,
            jobs: FuturesUnordered::new(),
            requests: Requests {
                dials: Dials::default(),
                nodes: Nodes::default(),
                meetings: Meetings::default(),
                suspicions: Suspicions::default(),
                renewals: Pending::new(MAX_REQUESTS),
                owned: serve::owned_questions(),
            },
            access,
            uploads,
            crowd: Crowd::default(),
            complaints: Hearing::default(),
            reachability,
            services,
            dht,
        })
    }

    /// Runs until the handle says to stop, or is gone.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.outside.silence / TICKS);
        while self.outside.stopping.is_none() {
            let timeout = self.timeout();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                Some(job) = self.jobs.next() => self.on_job(job),
                () = self.services.library.holdings.settled() => self.on_settled(),
                () = found(self.services.index.as_ref()) => self.on_found(),
                () = sleep_until(timeout) => {}
                due = ticks.tick() => self.on_tick(due.elapsed()),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
            self.settle(Instant::now());
        }
        Box::pin(self.drain()).await;
    }

    /// Finishes what is under way; new work is refused.
    async fn drain(mut self) {
        self.uploads.close();
        self.commands.close();
        let deadline = tokio::time::Instant::now() + DRAIN;
        while self.uploads.len() > 0 || !self.jobs.is_empty() {
            tokio::select! {
                Some(job) = self.jobs.next() => self.on_job(job),
                () = self.services.library.holdings.settled() => self.on_settled(),
                event = self.swarm.select_next_some() => self.on_event(event),
                () = tokio::time::sleep_until(deadline) => break,
            }
            self.settle(Instant::now());
        }
        // Answers that were handed over are still to be flushed: connections are closed in order, and the
        // loop goes on until they are.
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        if let Some(answer) = self.outside.stopping.take() {
            let _ = answer.send(());
        }
    }

    /// Chunks are here, or do not come, that others may have asked for early.
    fn on_settled(&mut self) {
        let holdings = &self.services.library.holdings;
        self.uploads.on_settled(|content, index| holdings.is_incoming(content, index));
    }

    /// The index holds something else than was said.
    fn on_found(&mut self) {
        if let Some(master) = &mut self.services.index {
            master.take_corrected(Instant::now());
        }
    }

    fn timeout(&self) -> Option<Instant> {
        let master =
            self.services.index.as_ref().and_then(|master| {
                if master.owes_evictions() { Some(Instant::now() + RETRY) } else { master.timeout() }
            });
        [master, self.uploads.timeout(), self.requests.suspicions.timeout()].into_iter().flatten().min()
    }

    /// Does what the state machines ask for.
    fn settle(&mut self, now: Instant) {
        while let Some(upload) = self.uploads.next(now) {
            self.jobs.push(read(self.services.library.clone(), upload));
        }
        if let Some(peer) = self.uploads.worst(now) {
            tracing::info!(%peer, "does not read what it asked for, and others wait: disconnected");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        self.end_suspicions(now);
        let Some(master) = &mut self.services.index else { return };
        // The master is a member of its own network, and always alive.
        master.on_sign(self.swarm.local_peer_id(), None, now);
        if master.timeout().is_some_and(|at| at <= now) {
            master.on_timeout(now);
        }
        let (mut tries, mut told) = (Vec::new(), Vec::new());
        while let Some(effect) = master.poll_effect() {
            match effect {
                Effect::Probe(peer, addresses) => {
                    // A connection that stands is probed by the pings on it.
                    if !self.swarm.is_connected(&peer) {
                        self.requests.dials.dial_in_background(&mut self.swarm, peer, addresses);
                    }
                }
                Effect::Keep(peer) => self.swarm.behaviour_mut().admission.keep(peer, true),
                Effect::Release(peer) => self.swarm.behaviour_mut().admission.keep(peer, false),
                Effect::Try(peer, addresses) => tries.push((peer, addresses)),
                Effect::Tell(peer, request) => told.push((peer, request)),
                // One that ended by itself is closed already.
                Effect::Close(connection) => drop(self.swarm.close_connection(connection)),
            }
        }
        while let Some(eviction) = master.poll_eviction() {
            self.jobs.push(eviction.map(|(peer, written)| Job::Eviction { peer, written }).boxed());
        }
        tries.into_iter().for_each(|(peer, addresses)| self.try_to_reach(peer, addresses));
        told.into_iter().for_each(|(peer, request)| self.tell(peer, request));
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect { peer, mut addresses, answer } => {
                // What is heard on the link is known here alone.
                let heard = peer.iter().flat_map(|peer| self.requests.nodes.heard_at(peer));
                let new: Vec<_> = heard.filter(|address| !addresses.contains(address)).cloned().collect();
                addresses.extend(new);
                self.requests.dials.connect(&mut self.swarm, peer, addresses, answer);
            }
            Command::Index { to, request, answer } => self.ask_index(to, request, answer),
            Command::Mirror { to, request, answer } => self.ask_mirror(to, request, answer),
            Command::Dht(ask) => self.dht.ask(&mut self.swarm.behaviour_mut().kad, ask),
            Command::Fetch { from, request, answer, unsent } => {
                if self.swarm.is_connected(&from) {
                    self.swarm.behaviour_mut().fetch.ask(&from, request, answer);
                } else {
                    // Whoever does not wait for it any more has no use for it.
                    let _ = unsent.send(request);
                }
            }
            Command::Disconnect { peer } => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Cut { peer } => self.cut(&peer),
            Command::Await { peer, answer } => self.requests.dials.wait(&self.swarm, peer, answer),
            Command::Listen { content, have_updates } => self.crowd.listen(content, have_updates),
            Command::Neighbours { answer } => {
                let _ = answer.send(self.requests.nodes.neighbours());
            }
            Command::GiveWay { reason } => {
                if let Some(master) = &mut self.services.index {
                    master.give_way(reason);
                }
            }
            Command::Keep { peer, keep } => self.swarm.behaviour_mut().admission.keep(peer, keep),
            Command::Snapshot { answer } => {
                let _ = answer.send(Snapshot {
                    connected: self.swarm.connected_peers().count(),
                    uploaded_bytes: self.uploads.sent_bytes,
                    members: self.services.index.as_ref().map(Master::counts),
                });
            }
            Command::Shutdown { answer } => self.outside.stopping = Some(answer),
        }
    }

    fn on_job(&mut self, job: Job) {
        match job {
            Job::Index { reply, done } => {
                if let Some(master) = &mut self.services.index {
                    let response = master.finish(*done, Instant::now());
                    self.reply(reply, response);
                }
            }
            Job::Eviction { peer, written } => {
                if let Some(master) = &mut self.services.index {
                    master.finish_eviction(peer, written);
                }
                if written {
                    let _ = self.swarm.disconnect_peer_id(peer);
                }
            }
            Job::Tried { peer, reached } => self.on_tried(&peer, Some(reached)),
            Job::Owned { peer, reply, response } => {
                self.requests.owned.remove(&peer);
                self.reply(reply, *response);
            }
            Job::Checked(checked) => {
                let (reply, response) = self.dht.finish(&mut self.swarm.behaviour_mut().kad, *checked);
                self.reply_mirror(reply, response);
            }
            Job::Upload { reply, response } => {
                let id = reply.id;
                self.uploads.on_read(&id, response.body.len(), Instant::now());
                if !self.send(reply, response) {
                    self.uploads.finish(&id, Instant::now());
                }
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::NewListenAddr { .. } => self.publish_listen(),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_expired(&address),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                if let Err(error) = reason {
                    tracing::warn!(?addresses, %error, "a listener closed");
                }
                self.publish_listen();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, num_established, endpoint, .. } => {
                if endpoint.is_listener() && self.requests.dials.is_awaited(&peer_id) {
                    self.keep_guest(peer_id);
                }
                self.requests.dials.on_established(connection_id, peer_id);
                if self.outside.listen.borrow().len() > MAX_ADDRESSES {
                    self.publish_listen();
                }
                if num_established.get() > 1 {
                    self.suspect_others(peer_id, connection_id);
                }
                if let Some(master) = &mut self.services.index {
                    master.on_linked(peer_id, connection_id, Instant::now());
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.requests.suspicions.on_closed(&connection_id);
                if let Some(master) = &mut self.services.index {
                    master.on_unlinked(peer_id, connection_id);
                }
                if num_established == 0 {
                    self.on_disconnected(peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::LocalPeerId { address }, .. } => {
                self.requests.meetings.on_answered(address, Instant::now());
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                self.requests.meetings.on_failed(Instant::now());
                self.on_refused(error, &send_back_addr);
            }
            other => tracing::trace!(?other, "swarm event"),
        }
    }

    fn on_disconnected(&mut self, peer: PeerId) {
        self.requests.nodes.on_disconnected(&peer);
        self.outside.trips.on_disconnected(&peer);
        // Nobody watching is no failure.
        let _ = self.outside.lost.send(peer);
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        tracing::debug!(?peer, %error, "a connection could not be made");
        match error {
            DialError::LocalPeerId { address } => self.requests.meetings.on_dialled(address.clone(), Instant::now()),
            DialError::WrongPeerId { obtained, address } if obtained == self.swarm.local_peer_id() => {
                self.requests.meetings.on_dialled(address.clone(), Instant::now());
            }
            _ => {}
        }
        let given_up = self.requests.dials.on_failed(&mut self.swarm, connection, error);
        let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) else { return };
        // Kademlia forgets nobody by itself; a node that comes back says so. Addresses that are left are tried without
        // it: every query would wait for that.
        if !matches!(error, DialError::Denied { .. } | DialError::Aborted | DialError::DialPeerConditionFalse(_)) {
            self.lose(&peer);
        }
        if given_up && let Some(master) = &mut self.services.index {
            master.on_unreachable(&peer);
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Index(event) => self.on_rpc(event),
            BehaviourEvent::Renewals(event) => self.on_renewal(event),
            BehaviourEvent::Mirror(event) => self.on_rpc(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Fetch(event) => self.on_rpc(event),
            BehaviourEvent::Pings(ping::Event { peer, connection, result }) => {
                if let Ok(took) = result {
                    self.outside.trips.on_pong(peer, took, Instant::now());
                    self.on_pong(peer, connection, Instant::now());
                }
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                if let (Some(master), Some(run)) = (&mut self.services.index, Run::of_agent(&info.agent_version)) {
                    master.on_run(peer_id, connection_id, run);
                }
                self.on_identify(peer_id, &info)
            }
            BehaviourEvent::Discovery(event) => {
                self.outside.on_heard(&event);
                for (peer, addresses) in self.requests.nodes.on_mdns(event, Instant::now()) {
                    self.requests.dials.dial_in_background(&mut self.swarm, peer, addresses);
                }
            }
            BehaviourEvent::Identify(event) => tracing::trace!(?event, "identify"),
            BehaviourEvent::Admission(never) => void::unreachable(never),
            BehaviourEvent::Limits(never) => match never {},
        }
    }
}
