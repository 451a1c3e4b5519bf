//! Asks a node something as a stranger would: with a key that is made for it, and on a connection of its own. So a node can ask one that
//! has its own key, to which it cannot connect as itself.

use std::time::Duration;

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm};
use swarmdex_protocols::index::{Followed, IndexRequest, IndexResponse};

use super::probe;
use super::rpc::codec::IndexCodec;
use super::rpc::{IndexProtocol, Protocol};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the node with this id at an address says of the master that it follows; `None` if none answers there.
pub(super) async fn followed_at(address: Multiaddr, peer: PeerId) -> Option<Followed> {
    tokio::time::timeout(PATIENCE, ask(address, peer)).await.ok().flatten()
}

async fn ask(address: Multiaddr, peer: PeerId) -> Option<Followed> {
    let key = Keypair::generate_ed25519();
    let config = request_response::Config::default().with_request_timeout(PATIENCE);
    let index = request_response::Behaviour::with_codec(
        IndexCodec::default(),
        [(IndexProtocol::ID, ProtocolSupport::Outbound)],
        config,
    );
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE);
    let mut swarm = Swarm::new(probe::transport(&key)?, index, key.public().to_peer_id(), config);
    swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build()).ok()?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => {
                swarm.behaviour_mut().send_request(&peer, Ok(IndexRequest::Master));
            }
            SwarmEvent::Behaviour(request_response::Event::Message {
                message: Message::Response { response, .. },
                ..
            }) => {
                return match response {
                    Ok(IndexResponse::Master(followed)) => Some(followed),
                    _ => None,
                };
            }
            SwarmEvent::Behaviour(request_response::Event::OutboundFailure { .. })
            | SwarmEvent::OutgoingConnectionError { .. }
            | SwarmEvent::ConnectionClosed { .. } => return None,
            _ => {}
        }
    }
}
