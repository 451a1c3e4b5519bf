//! A node that speaks the transports honestly and the protocols as it likes.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{StreamProtocol, Swarm, identify, ping, tcp, tls, yamux};
use serde::Serialize;
use serde::de::DeserializeOwned;
use swarmdex_protocols::index::{
    Announce, IndexRequest, IndexResponse, Join, Joined, Offer, Refusal, RefusalCode, Sequence, Session, ShareDigest,
    Verdict,
};
use swarmdex_protocols::limits::MAX_INDEX_MESSAGE;
use swarmdex_protocols::{ContentId, Multiaddr, PeerId, codec, fetch};
use tokio::sync::{mpsc, oneshot, watch};

use crate::harness::{TestNode, tcp_address};

pub const INDEX: &str = "/swarmdex/index/1";
pub const FETCH: &str = "/swarmdex/fetch/1";
/// The same, for requests whose answers are never read.
pub const FETCH_UNREAD: &str = "/swarmdex/fetch/1 unread";
/// The Kademlia protocol of the default network.
pub const KAD: &str = "/swarmdex/kad/1/swarmdex";
/// The protocol by which nodes push what they say of themselves.
pub const PUSH: &str = "/ipfs/id/push/1.0.0";
/// The protocol by which many records are stored at once.
pub const MIRROR: &str = "/swarmdex/mirror/1";
/// The protocol by which members renew.
pub const RENEW: &str = "/swarmdex/renew/1";
/// A version that nobody speaks yet.
pub const FUTURE: &str = "/swarmdex/index/99";

/// What the stranger answers to a fetch.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes, whatever they are.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing more: the stream stays open.
    Stall(Vec<u8>),
    /// These bytes, one each pause.
    Trickle(Vec<u8>, Duration),
    /// These bytes, after a while.
    Late(Vec<u8>, Duration),
    /// These bytes, and then the connection ends.
    Break(Vec<u8>),
    /// The first bytes, and the others once it is true.
    Halves(Vec<u8>, watch::Receiver<bool>, Vec<u8>),
}

type IndexAnswerer = Arc<Mutex<Box<dyn FnMut(IndexRequest) -> Reply + Send>>>;
type Answerer = Arc<Mutex<Box<dyn FnMut(fetch::FetchRequest) -> Reply + Send>>>;

/// What the stranger answers unless it is told otherwise.
fn refuse() -> Reply {
    Reply::Bytes(framed(&fetch::Header::Refused(fetch::FetchRefusal::NotFound)))
}
type Answer = oneshot::Sender<Result<Vec<u8>, OutboundFailure>>;

/// Bytes as they are.
#[derive(Clone)]
pub struct Raw {
    /// Whether answers are read.
    reads: bool,
    /// Asks for the end of the connection.
    breaks: mpsc::UnboundedSender<()>,
}

impl Default for Raw {
    fn default() -> Self {
        Self { reads: true, breaks: mpsc::unbounded_channel().0 }
    }
}

impl Raw {
    async fn write<T: AsyncWrite + Unpin + Send>(&self, io: &mut T, reply: Reply) -> io::Result<()> {
        match reply {
            Reply::Bytes(bytes) => io.write_all(&bytes).await,
            Reply::Stall(bytes) => {
                io.write_all(&bytes).await?;
                io.flush().await?;
                std::future::pending().await
            }
            Reply::Late(bytes, pause) => {
                tokio::time::sleep(pause).await;
                io.write_all(&bytes).await
            }
            Reply::Trickle(bytes, pause) => {
                for byte in bytes {
                    io.write_all(&[byte]).await?;
                    io.flush().await?;
                    tokio::time::sleep(pause).await;
                }
                Ok(())
            }
            Reply::Halves(first, mut then, second) => {
                io.write_all(&first).await?;
                io.flush().await?;
                then.wait_for(|now| *now).await.map_err(io::Error::other)?;
                io.write_all(&second).await
            }
            Reply::Break(bytes) => {
                io.write_all(&bytes).await?;
                io.flush().await?;
                let _ = self.breaks.send(());
                std::future::pending().await
            }
        }
    }
}

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Reply;
    type Response = Reply;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Reply> {
        read_all(io).await.map(Reply::Bytes)
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Reply> {
        if !self.reads {
            return std::future::pending().await;
        }
        read_all(io).await.map(Reply::Bytes)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Reply,
    ) -> io::Result<()> {
        self.write(io, request).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        reply: Reply,
    ) -> io::Result<()> {
        self.write(io, reply).await
    }
}

async fn read_all<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io.take(8 << 20).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    index: request_response::Behaviour<Raw>,
    fetch: request_response::Behaviour<Raw>,
    unread: request_response::Behaviour<Raw>,
    future: request_response::Behaviour<Raw>,
    kad: request_response::Behaviour<Raw>,
    push: request_response::Behaviour<Raw>,
    mirror: request_response::Behaviour<Raw>,
    streams: libp2p_stream::Behaviour,
}

enum Order {
    Connect(Multiaddr, oneshot::Sender<Result<PeerId, String>>),
    Send(&'static str, PeerId, Reply, Answer),
    Disconnect(PeerId, oneshot::Sender<()>),
}

/// The handle; the node ends with it.
pub struct Stranger {
    pub peer: PeerId,
    pub listen: Vec<Multiaddr>,
    orders: mpsc::Sender<Order>,
    answerer: Answerer,
    index: IndexAnswerer,
    streams: libp2p_stream::Control,
}

/// A stream that stays open for many messages.
pub struct Conversation(libp2p::Stream);

impl Conversation {
    /// Says something, whatever it is.
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// The next message behind its length.
    pub async fn hear<M: DeserializeOwned>(&mut self) -> io::Result<M> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).await?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut bytes).await?;
        codec::decode(&bytes, MAX_INDEX_MESSAGE).map_err(io::Error::other)
    }

    /// Asks a well-formed question.
    pub async fn ask(&mut self, request: &IndexRequest) -> io::Result<IndexResponse> {
        self.say(&framed(request)).await?;
        self.hear().await
    }
}

impl Stranger {
    pub async fn start() -> Self {
        Self::with_key(Keypair::generate_ed25519()).await
    }

    pub async fn with_key(keypair: Keypair) -> Self {
        Self::pinging(keypair, ping::Config::default()).await
    }

    /// One that pings as it is told.
    pub async fn pinging(keypair: Keypair, pings: ping::Config) -> Self {
        let config = request_response::Config::default().with_request_timeout(Duration::from_secs(120));
        let (breaks, broken) = mpsc::unbounded_channel();
        let with = |protocol, support, reads| {
            let codec = Raw { reads, breaks: breaks.clone() };
            request_response::Behaviour::with_codec(codec, [(StreamProtocol::new(protocol), support)], config.clone())
        };
        let full = |protocol| with(protocol, ProtocolSupport::Full, true);
        let outbound = |protocol| with(protocol, ProtocolSupport::Outbound, true);
        let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| Behaviour {
                ping: ping::Behaviour::new(pings.clone()),
                identify: identify::Behaviour::new(identify::Config::new(
                    "/swarmdex/1/swarmdex".to_owned(),
                    key.public(),
                )),
                index: full(INDEX),
                fetch: full(FETCH),
                unread: with(FETCH, ProtocolSupport::Outbound, false),
                future: full(FUTURE),
                kad: outbound(KAD),
                mirror: outbound(MIRROR),
                push: outbound(PUSH),
                streams: libp2p_stream::Behaviour::new(),
            })
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(120)))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let listen = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break vec![address];
            }
        };
        let streams = swarm.behaviour().streams.new_control();
        let (orders, queue) = mpsc::channel(1024);
        let answerer: Answerer = Arc::new(Mutex::new(Box::new(|_| refuse())));
        let peer = keypair.public().to_peer_id();
        let refusal = framed(&IndexResponse::Refused(Refusal::new(RefusalCode::NotMaster, "a stranger")));
        let index: IndexAnswerer = Arc::new(Mutex::new(Box::new(move |_| Reply::Bytes(refusal.clone()))));
        tokio::spawn(run(swarm, queue, broken, answerer.clone(), index.clone()));
        Self { peer, listen, orders, answerer, index, streams }
    }

    /// A stranger that is connected to a node, and that node.
    pub async fn at(node: &TestNode) -> (Self, PeerId) {
        let stranger = Self::start().await;
        let id = stranger.connect(&tcp_address(node)).await.unwrap();
        (stranger, id)
    }

    /// A member that says it has a content under a name; the master and the session with it.
    pub async fn offering(master: &TestNode, name: &str, content: &[u8]) -> (Self, PeerId, Session) {
        let (stranger, id) = Self::at(master).await;
        let session = stranger.join(id).await.session;
        let offer = Offer::new(name, ContentId::of(content), content.len() as u64);
        let announce = Announce { session, sequence: Sequence(1), offers: vec![offer], last: false, total: None };
        match stranger.ask(id, &IndexRequest::Announce(announce)).await {
            IndexResponse::Announced(verdicts) if matches!(verdicts[0], Verdict::Accepted { .. }) => {}
            other => panic!("{other:?}"),
        }
        (stranger, id, session)
    }

    /// From now on answers requests for chunks so, and knows of nothing else.
    pub fn answer(&self, mut answer: impl FnMut(fetch::ChunkRun) -> Reply + Send + 'static) {
        self.answer_all(move |request| match request {
            fetch::FetchRequest::Chunks(want) => answer(want.run()),
            _ => refuse(),
        });
    }

    /// From now on answers every request of the fetch protocol so.
    pub fn answer_all(&self, answer: impl FnMut(fetch::FetchRequest) -> Reply + Send + 'static) {
        *self.answerer.lock().unwrap() = Box::new(answer);
    }

    /// From now on answers every request of the index protocol so.
    pub fn answer_index(&self, answer: impl FnMut(IndexRequest) -> Reply + Send + 'static) {
        *self.index.lock().unwrap() = Box::new(answer);
    }

    pub async fn connect(&self, address: &Multiaddr) -> Result<PeerId, String> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Connect(address.clone(), answer)).await.unwrap();
        answered.await.unwrap()
    }

    /// Sends bytes on a new stream and returns all that comes back.
    pub async fn send(&self, protocol: &'static str, to: PeerId, bytes: Vec<u8>) -> Result<Vec<u8>, OutboundFailure> {
        self.order(protocol, to, Reply::Bytes(bytes)).await
    }

    /// Opens a stream that stays open.
    pub async fn open(&self, protocol: &'static str, to: PeerId) -> Conversation {
        Conversation(self.streams.clone().open_stream(to, StreamProtocol::new(protocol)).await.unwrap())
    }

    /// Sends bytes on a new stream, and ends the connection.
    pub async fn send_and_break(&self, protocol: &'static str, to: PeerId, bytes: Vec<u8>) {
        self.order(protocol, to, Reply::Break(bytes)).await.unwrap_err();
    }

    async fn order(&self, protocol: &'static str, to: PeerId, request: Reply) -> Result<Vec<u8>, OutboundFailure> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Send(protocol, to, request, answer)).await.unwrap();
        answered.await.unwrap()
    }

    pub async fn disconnect(&self, peer: PeerId) {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Disconnect(peer, answer)).await.unwrap();
        answered.await.unwrap();
    }

    /// Asks a well-formed question of the index protocol.
    pub async fn ask(&self, to: PeerId, request: &IndexRequest) -> IndexResponse {
        unframed(&self.send(INDEX, to, framed(request)).await.unwrap())
    }

    /// Asks a well-formed question of the fetch protocol; the header that comes back.
    pub async fn fetch(&self, from: PeerId, run: fetch::ChunkRun) -> fetch::Header {
        let bytes = self.send(FETCH, from, framed(&fetch::FetchRequest::Chunks(run.into()))).await.unwrap();
        let length = u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize;
        codec::decode(&bytes[4..4 + length], MAX_INDEX_MESSAGE).unwrap()
    }

    /// Joins as an honest peer with an empty share would.
    pub async fn join(&self, master: PeerId) -> Joined {
        let join = Join {
            network: "swarmdex".to_owned(),
            addresses: self.listen.clone(),
            digest: ShareDigest::empty(),
            entries: 0,
            newest: None,
            run: None,
            machine: None,
            again: false,
        };
        match self.ask(master, &IndexRequest::Join(join)).await {
            IndexResponse::Joined(joined) => joined,
            other => panic!("{other:?}"),
        }
    }
}

/// Bytes behind their length.
pub fn framed_bytes(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

/// A message behind its length.
pub fn framed<M: Serialize>(message: &M) -> Vec<u8> {
    let bytes = codec::encode(message, usize::MAX).unwrap();
    [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

/// The message behind its length.
pub fn unframed<M: DeserializeOwned>(bytes: &[u8]) -> M {
    let length = u32::from_be_bytes(*bytes.first_chunk().unwrap_or_else(|| panic!("no answer: {bytes:?}")));
    assert_eq!(bytes.len(), 4 + length as usize);
    codec::decode(&bytes[4..], MAX_INDEX_MESSAGE).unwrap()
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut orders: mpsc::Receiver<Order>,
    mut broken: mpsc::UnboundedReceiver<()>,
    answerer: Answerer,
    index: IndexAnswerer,
) {
    let answer = move |protocol: &str, bytes: &[u8]| match protocol {
        INDEX => (index.lock().unwrap())(unframed(bytes)),
        _ => (answerer.lock().unwrap())(unframed(bytes)),
    };
    // With whom it spoke last.
    let mut last = None;
    let (mut dials, mut leaving) = (std::collections::HashMap::new(), std::collections::HashMap::new());
    let mut waiting = std::collections::HashMap::<(&'static str, OutboundRequestId), Answer>::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Connect(address, answer)) => {
                    let options = libp2p::swarm::dial_opts::DialOpts::from(address);
                    let id = options.connection_id();
                    match swarm.dial(options) {
                        Ok(()) => { dials.insert(id, answer); }
                        Err(error) => { let _ = answer.send(Err(error.to_string())); }
                    }
                }
                Some(Order::Send(protocol, to, request, answer)) => {
                    last = Some(to);
                    let id = behaviour(swarm.behaviour_mut(), protocol).send_request(&to, request);
                    waiting.insert((protocol, id), answer);
                }
                Some(Order::Disconnect(peer, answer)) => match swarm.disconnect_peer_id(peer) {
                    Ok(()) => { leaving.insert(peer, answer); }
                    Err(()) => { let _ = answer.send(()); }
                }
            },
            Some(()) = broken.recv() => if let Some(peer) = last { let _ = swarm.disconnect_peer_id(peer); },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id, peer_id, .. } => {
                    if let Some(answer) = dials.remove(&connection_id) { let _ = answer.send(Ok(peer_id)); }
                }
                SwarmEvent::ConnectionClosed { peer_id, .. } => {
                    if let Some(answer) = leaving.remove(&peer_id) { let _ = answer.send(()); }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some(answer) = dials.remove(&connection_id) { let _ = answer.send(Err(error.to_string())); }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Index(event)) => on_event(&mut swarm, INDEX, event, &mut waiting, &answer),
                SwarmEvent::Behaviour(BehaviourEvent::Fetch(event)) => {
                    if let request_response::Event::Message { peer, .. } = &event { last = Some(*peer); }
                    on_event(&mut swarm, FETCH, event, &mut waiting, &answer);
                }
                SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => on_event(&mut swarm, KAD, event, &mut waiting, &answer),
                SwarmEvent::Behaviour(BehaviourEvent::Push(event)) => on_event(&mut swarm, PUSH, event, &mut waiting, &answer),
                SwarmEvent::Behaviour(BehaviourEvent::Mirror(event)) => on_event(&mut swarm, MIRROR, event, &mut waiting, &answer),
                SwarmEvent::Behaviour(BehaviourEvent::Future(event)) => on_event(&mut swarm, FUTURE, event, &mut waiting, &answer),
                _ => {}
            },
        }
    }
}

fn behaviour<'a>(all: &'a mut Behaviour, protocol: &str) -> &'a mut request_response::Behaviour<Raw> {
    match protocol {
        INDEX => &mut all.index,
        FETCH => &mut all.fetch,
        FETCH_UNREAD => &mut all.unread,
        KAD => &mut all.kad,
        PUSH => &mut all.push,
        MIRROR => &mut all.mirror,
        _ => &mut all.future,
    }
}

fn on_event(
    swarm: &mut Swarm<Behaviour>,
    protocol: &'static str,
    event: request_response::Event<Reply, Reply>,
    waiting: &mut std::collections::HashMap<(&'static str, OutboundRequestId), Answer>,
    answer: &impl Fn(&str, &[u8]) -> Reply,
) {
    match event {
        request_response::Event::Message { message: Message::Request { request, channel, .. }, .. } => {
            let Reply::Bytes(bytes) = request else { unreachable!() };
            let reply = answer(protocol, &bytes);
            let _ = behaviour(swarm.behaviour_mut(), protocol).send_response(channel, reply);
        }
        request_response::Event::Message { message: Message::Response { request_id, response }, .. } => {
            let Reply::Bytes(bytes) = response else { unreachable!() };
            if let Some(answer) = waiting.remove(&(protocol, request_id)) {
                let _ = answer.send(Ok(bytes));
            }
        }
        request_response::Event::OutboundFailure { request_id, error, .. } => {
            if let Some(answer) = waiting.remove(&(protocol, request_id)) {
                let _ = answer.send(Err(error));
            }
        }
        _ => {}
    }
}
