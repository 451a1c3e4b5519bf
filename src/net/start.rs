//! The beginning of the swarm: behaviour, loop and handle.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use libp2p::identity::Keypair;
use swarmdex_protocols::index::Run;
use tokio::sync::{broadcast, mpsc, watch};

use super::calls::Called;
use super::command::Commands;
use super::error::NetError;
use super::handle::Net;
use super::links::Links;
use super::mirror::Mirror;
use super::rpc::codec::{Arrived, FetchCodec, OnArrival};
use super::services::Services;
use super::{behaviour, dht, driver};
use crate::config::Config;
use crate::storage::library::Library;
use crate::tasks;

/// Commands that wait for the event loop.
const COMMAND_QUEUE: usize = 256;
/// Lost connections that a slow observer may be behind.
const EVENT_QUEUE: usize = 256;

impl Net {
    /// Starts the swarm and its event loop; the task ends after [`Net::shutdown`].
    pub(crate) fn start(
        keypair: Keypair,
        config: &Config,
        services: Services,
    ) -> Result<(Self, tokio::task::JoinHandle<()>), NetError> {
        let local = keypair.public().to_peer_id();
        let run = Run(rand::random());
        let received = Arc::new(AtomicU64::new(0));
        let library = &services.library;
        let codec = FetchCodec::new(library.buffers.clone(), received.clone(), arrivals(library));
        let links = Links::default();
        let swarm = behaviour::swarm(keypair, run, config, codec, &links)?;
        let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
        let (lost, _) = broadcast::channel(EVENT_QUEUE);
        let (came, _) = broadcast::channel(EVENT_QUEUE);
        let (listening, listen) = watch::channel(Vec::new());
        let (seen, masters) = watch::channel(Vec::new());
        let (met, twins) = watch::channel(None);
        let authority = Arc::new(watch::Sender::new(None));
        let dht = dht::Dht::new(local, config.network.clone(), authority.subscribe(), config.dht.lifetime);
        let outside = driver::Outside::new(lost.clone(), came.clone(), listening, seen, met, links.clone(), config);
        let trips = outside.trips.clone();
        let (own, reachable) = watch::channel(None);
        let net = Self {
            local,
            run,
            commands: Commands::Strong(commands),
            lost,
            came,
            listen,
            masters,
            twins,
            authority,
            received,
            trips,
            links,
            reachable,
            called: Called::default(),
        };
        let mut services = services;
        if let Some(master) = &mut services.index {
            master.consult(Mirror::new(net.downgrade(), config.network.clone(), true), run);
        }
        let reachability = driver::Reachability::new(own);
        let driver = driver::Driver::new(swarm, queue, outside, dht, config, reachability, services)?;
        let task = tasks::spawn("network", driver.run());
        Ok((net, task))
    }
}

/// Whoever asks for what this node downloads learns of chunks as soon as they begin to arrive.
fn arrivals(library: &Library) -> OnArrival {
    let holdings = library.holdings.clone();
    Arc::new(move |content, index| {
        let expected = holdings.expect(content, index)?;
        Some(Box::new(move || expected.came()) as Arrived)
    })
}
