//! The one behaviour of a node, and the transports below it.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport, connection_limits, dns, identify, kad, quic, yamux,
};

use swarmdex_protocols::index::Run;

use super::admission::Admission;
use super::agent::agent_version;
use super::dht::RecordTable;
use super::discovery::Discovery;
use super::error::NetError;
use super::gate::{Door, Gate};
use super::links::Links;
use super::pings::Pings;
use super::racing::{Races, Racing};
use super::refused::Refused;
use super::renewals::Renewals;
use super::rpc::access::{Access, Kind};
use super::rpc::codec::{FetchCodec, IndexCodec, MirrorCodec};
use super::rpc::streams::Guarded;
use super::rpc::{FetchProtocol, IndexProtocol, MAX_STREAMS, MirrorProtocol, Rpc};
use super::transport;
use crate::config::Config;
use crate::descriptors::Plan;
use crate::state::records::RecordLimits;

/// How long an idle connection stays open: long enough for the next file of the same holder. In a large network a node
/// speaks to hundreds of others in turn.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for one exchange of the index protocol, a commit under load included.
const INDEX_TIMEOUT: Duration = Duration::from_secs(15);
/// Inbound substreams that negotiate at a time on one connection.
const MAX_NEGOTIATING: usize = 256;
/// Kademlia messages, in bytes: room for the largest record and 20 peers with their addresses.
const MAX_KAD_PACKET: usize = 32 << 10;

/// Time for the handshake of a connection from outside. This node's own attempts are over sooner, see `state::race`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(6);
/// Time for a handshake over QUIC, which has one round trip less.
const QUIC_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(4);
/// Nodes that one query asks at a time: more than Kademlia's three, so that dead ones hold it up less.
const QUERY_PARALLELISM: usize = 6;
/// How often a node looks around in all directions: whoever comes makes itself known, and every publication meets others.
/// Kademlia's paper (Maymounkov and Mazières, 2002) says an hour; libp2p's five minutes keep a hundred connections open.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(1800);
/// Longest time for one query, dead nodes on its way included.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Every protocol that a node speaks. Those that refuse connections come first.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) admission: Admission,
    limits: connection_limits::Behaviour,
    pub(super) identify: Guarded<identify::Behaviour>,
    pub(super) pings: Guarded<Pings>,
    discovery: Toggle<Discovery>,
    pub(super) kad: Guarded<kad::Behaviour<RecordTable>>,
    pub(super) index: Rpc<IndexProtocol>,
    pub(super) renewals: Renewals,
    pub(super) mirror: Rpc<MirrorProtocol>,
    pub(super) fetch: Rpc<FetchProtocol>,
}

/// What identify says of this network.
pub(super) fn protocol_version(config: &Config) -> String {
    format!("/swarmdex/1/{}", config.network)
}

/// The Kademlia protocol of this network.
pub(super) fn kad_protocol(config: &Config) -> Result<StreamProtocol, NetError> {
    StreamProtocol::try_from_owned(format!("/swarmdex/kad/1/{}", config.network)).map_err(|_| NetError::Network)
}

impl Behaviour {
    fn new(
        keypair: &Keypair,
        run: Run,
        config: &Config,
        plan: &Plan,
        codec: FetchCodec,
        (races, refused): (Races, Refused),
        access: &Access,
    ) -> Result<Self, NetError> {
        let local = keypair.public().to_peer_id();
        let limits = &config.limits;
        let most = |count: usize| Some(u32::try_from(count).unwrap_or(u32::MAX));
        // The gate bounds connections from outside that are still shaking hands.
        let connection_limits = connection_limits::ConnectionLimits::default()
            .with_max_established(most(plan.connections))
            .with_max_established_per_peer(most(limits.connections_per_peer))
            .with_max_pending_outgoing(most(plan.dials));
        let identify = identify::Config::new(protocol_version(config), keypair.public())
            .with_agent_version(agent_version(config.role, run))
            .with_push_listen_addr_updates(true)
            .with_cache_size(0);
        let discovery = if config.mdns { Some(Discovery::new(local).map_err(NetError::Mdns)?) } else { None };
        let admission = Admission::new(plan.connections_per_ip, limits.memory_mib << 20, races).telling(refused);
        let here = admission.here().clone();
        Ok(Self {
            admission,
            limits: connection_limits::Behaviour::new(connection_limits),
            identify: Guarded::new(identify::Behaviour::new(identify), access, Kind::Identify),
            pings: Guarded::new(Pings::new(config.lease.ping_interval), access, Kind::Ping),
            discovery: discovery.into(),
            kad: Guarded::new(kademlia(local, config)?, access, Kind::Kademlia),
            index: Rpc::new(IndexCodec::default(), INDEX_TIMEOUT, here.clone()),
            renewals: Renewals::new(access),
            mirror: Rpc::new(MirrorCodec::default(), INDEX_TIMEOUT, here.clone()),
            fetch: Rpc::new(codec, config.fetch.timeout, here),
        })
    }
}

/// Kademlia: finds nodes, and stores nothing but what `net::dht` lets through. This node publishes by itself.
fn kademlia(local: PeerId, config: &Config) -> Result<kad::Behaviour<RecordTable>, NetError> {
    let mut kad = kad::Config::new(kad_protocol(config)?);
    kad.set_record_filtering(kad::StoreInserts::FilterBoth)
        .disjoint_query_paths(true)
        .set_parallelism(NonZeroUsize::new(QUERY_PARALLELISM).unwrap_or(NonZeroUsize::MIN))
        .set_query_timeout(QUERY_TIMEOUT)
        .set_max_packet_size(MAX_KAD_PACKET)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL))
        .set_record_ttl(Some(config.dht.lifetime))
        .set_provider_record_ttl(Some(config.dht.lifetime))
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_provider_publication_interval(None);
    let table = RecordTable::new(local, RecordLimits::of(&config.dht, config.role));
    let mut kad = kad::Behaviour::with_config(local, table, kad);
    // Left to itself, Kademlia serves nobody until an external address is confirmed. A node that lives for
    // one command would only leave a hole.
    kad.set_mode(Some(if config.transient { kad::Mode::Client } else { kad::Mode::Server }));
    Ok(kad)
}

/// Builds the swarm: TCP with TLS and Yamux; QUIC; DNS names. Also says who may ask for what.
pub(super) fn swarm(
    keypair: Keypair,
    run: Run,
    config: &Config,
    codec: FetchCodec,
    links: &Links,
) -> Result<(Swarm<Behaviour>, Access), NetError> {
    let (plan, refused) = (Plan::of(config), Refused::default());
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(2 * MAX_STREAMS);
    let (of_tcp, of_quic) = (Door::new(plan.handshakes), Door::new(plan.handshakes));
    let tcp = transport::tcp(&keypair, yamux, of_tcp.clone()).map_err(|_| NetError::Encryption)?;
    let tcp = Gate::new(tcp, of_tcp, refused.clone(), None);
    let quic = quic::tokio::Transport::new(quic::Config::new(&keypair));
    let quic = Gate::new(quic, of_quic, refused.clone(), Some(QUIC_HANDSHAKE_TIMEOUT));
    // A node names the addresses of the first transport first when it says where it listens.
    let (of_tcp, of_quic) = (links.clone(), links.clone());
    let both = tcp
        .map(move |(peer, muxer), at| (peer, StreamMuxerBox::new(of_tcp.enter(peer, &at, muxer))))
        .or_transport(quic.map(move |(peer, muxer), at| (peer, StreamMuxerBox::new(of_quic.enter(peer, &at, muxer)))))
        .map(|either, _| either.into_inner());
    let named = dns::tokio::Transport::system(both).map_err(NetError::Dns)?;
    let races = Races::default();
    let racing = Racing::new(named, races.clone(), keypair.public().to_peer_id());
    let notify = NonZeroUsize::new(64).unwrap_or(NonZeroUsize::MIN);
    let access = Access::default();
    let behaviour = Behaviour::new(&keypair, run, config, &plan, codec, (races, refused), &access)?;
    let swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|_| racing)
        .unwrap_or_else(|never| match never {})
        .with_behaviour(|_| behaviour)
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|swarm| {
            swarm
                .with_idle_connection_timeout(IDLE_TIMEOUT)
                // All addresses of an attempt are polled from the beginning: which of them begins when is decided below.
                .with_dial_concurrency_factor(NonZeroU8::MAX)
                // A request goes out with the name of its protocol, and not a round trip later.
                .with_substream_upgrade_protocol_override(libp2p::core::upgrade::Version::V1Lazy)
                .with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
                .with_notify_handler_buffer_size(notify)
                .with_per_connection_event_buffer_size(64)
        })
        .with_connection_timeout(HANDSHAKE_TIMEOUT)
        .build();
    Ok((swarm, access))
}
