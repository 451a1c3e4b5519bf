//! A node that speaks Kademlia as every node does, and says in it what it likes.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig, RecordStore};
use libp2p::request_response::{self, Message, ProtocolSupport};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{StreamProtocol, Swarm, identify, kad, ping, tcp, tls, yamux};
use serde::Serialize;
use swarmdex_protocols::check::{Held, KeysCompared};
use swarmdex_protocols::index::{Refusal, RefusalCode};
use swarmdex_protocols::mirror::{
    KeyFound, MirrorRequest, MirrorResponse, Provider, Stock, Store, StoreVerdict, Stored,
};
use swarmdex_protocols::{Multiaddr, PeerId, RecordKey, Statement, codec};
use tokio::sync::{mpsc, oneshot};

use crate::stranger::{KAD, Raw, Reply, framed, unframed};

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    mirror: request_response::Behaviour<Raw>,
}

enum Order {
    Connect(Multiaddr),
    Forge(RecordKey, Vec<u8>),
    Put(PeerId, RecordKey, Vec<u8>),
    Store(PeerId, Vec<u8>, oneshot::Sender<MirrorResponse>),
    Known(oneshot::Sender<usize>),
}

/// What the forger says of names when it is asked.
type Forged = Arc<Mutex<BTreeMap<RecordKey, Vec<Statement>>>>;

/// Whom it names when it is asked who is close to a key.
#[derive(Debug, Clone)]
pub enum Named {
    /// Itself, so often.
    Itself(usize),
    /// Whoever asks.
    Asker,
    /// These.
    Nodes(Vec<Provider>),
}

/// How it answers what others ask by the mirror protocol.
struct Answers {
    forged: Forged,
    named: Arc<Mutex<Named>>,
    refuser: Refuser,
    agrees: Arc<AtomicBool>,
}

/// Hears of records to store, and says whether they are refused.
type Refuser = Arc<Mutex<Box<dyn FnMut(PeerId, &Store) -> Option<RefusalCode> + Send>>>;
/// What others asked of a forger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// Questions what it holds.
    pub checks: u64,
    /// Records that it was to store, repetitions counted.
    pub records: u64,
}

/// The handle; the node ends with it.
pub struct Forger {
    pub peer: PeerId,
    orders: mpsc::Sender<Order>,
    forged: Forged,
    named: Arc<Mutex<Named>>,
    refuser: Refuser,
    agrees: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
}

/// Statements as the value of a record.
pub fn value(statements: &[Statement]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Record<'a> {
        s: &'a [Statement],
    }
    codec::encode(&Record { s: statements }, usize::MAX).unwrap()
}

impl Forger {
    pub async fn start(keypair: Keypair) -> Self {
        let peer = keypair.public().to_peer_id();
        let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|key| {
                let limits = MemoryStoreConfig { max_records: 100_000, ..MemoryStoreConfig::default() };
                let mut config = kad::Config::new(StreamProtocol::new(KAD));
                config.set_max_packet_size(32 << 10).set_record_filtering(kad::StoreInserts::FilterBoth);
                let mut kad = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, limits), config);
                kad.set_mode(Some(kad::Mode::Server));
                let network = "/swarmdex/1/swarmdex".to_owned();
                Behaviour {
                    ping: ping::Behaviour::default(),
                    identify: identify::Behaviour::new(
                        identify::Config::new(network, key.public()).with_agent_version("swarmdex/9 (peer)".to_owned()),
                    ),
                    kad,
                    mirror: request_response::Behaviour::new(
                        [(StreamProtocol::new("/swarmdex/mirror/1"), ProtocolSupport::Full)],
                        request_response::Config::default(),
                    ),
                }
            })
            .unwrap()
            .with_swarm_config(|config| config.with_notify_handler_buffer_size(NonZeroUsize::new(1024).unwrap()))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
        let (orders, queue) = mpsc::channel(4096);
        let forged = Forged::default();
        let refuser: Refuser = Arc::new(Mutex::new(Box::new(|_, _| None)));
        let heard = Arc::<Mutex<Heard>>::default();
        let agrees = Arc::<AtomicBool>::default();
        let named = Arc::new(Mutex::new(Named::Nodes(Vec::new())));
        let answers =
            Answers { forged: forged.clone(), named: named.clone(), refuser: refuser.clone(), agrees: agrees.clone() };
        tokio::spawn(run(swarm, queue, answers, heard.clone()));
        Self { peer, orders, forged, named, refuser, agrees, heard }
    }

    /// From now on tells of everything that it is to store, and refuses what it is told to.
    pub fn refuse_stores(&self, refuse: impl FnMut(PeerId, &Store) -> Option<RefusalCode> + Send + 'static) {
        *self.refuser.lock().unwrap() = Box::new(refuse);
    }

    /// From now on names these to whoever asks who is close to a key; before, nobody.
    pub fn name(&self, named: Named) {
        *self.named.lock().unwrap() = named;
    }

    /// From now on says that it holds whatever others say that they stored; before, that it holds nothing.
    pub fn agree(&self) {
        self.agrees.store(true, Ordering::Relaxed);
    }

    /// What it was asked so far.
    pub fn heard(&self) -> Heard {
        *self.heard.lock().unwrap()
    }

    async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    pub async fn connect(&self, address: &Multiaddr) {
        self.order(Order::Connect(address.clone())).await;
    }

    /// Answers so to whoever asks for the key from now on.
    pub async fn forge(&self, key: RecordKey, statements: &[Statement]) {
        self.forged.lock().unwrap().insert(key, statements.to_vec());
        self.forge_bytes(key, value(statements)).await;
    }

    /// The same with bytes that need not be a record.
    pub async fn forge_bytes(&self, key: RecordKey, bytes: Vec<u8>) {
        self.order(Order::Forge(key, bytes)).await;
    }

    /// Has a node store a record, by Kademlia's own message.
    pub async fn put(&self, to: PeerId, key: RecordKey, bytes: Vec<u8>) {
        self.order(Order::Put(to, key, bytes)).await;
    }

    /// Has a node store records, by the mirror protocol; again, if the node was too busy to answer.
    pub async fn store(&self, to: PeerId, request: &MirrorRequest) {
        loop {
            let (answer, answered) = oneshot::channel();
            self.order(Order::Store(to, framed(request), answer)).await;
            if matches!(answered.await, Ok(MirrorResponse::Stored(_))) {
                return;
            }
        }
    }

    /// Nodes in its routing table.
    pub async fn known(&self) -> usize {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Known(answer)).await;
        answered.await.unwrap()
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut orders: mpsc::Receiver<Order>,
    answers: Answers,
    heard: Arc<Mutex<Heard>>,
) {
    let mut waiting = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Store(to, bytes, answer)) => {
                    let id = swarm.behaviour_mut().mirror.send_request(&to, Reply::Bytes(bytes));
                    waiting.insert(id, answer);
                }
                Some(order) => carry_out(&mut swarm, order),
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. })) => {
                    for address in info.listen_addrs.into_iter().filter(|address| address.to_string().contains("/tcp/")) {
                        swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Mirror(request_response::Event::Message {
                    peer, message: Message::Request { request, channel, .. }, ..
                })) => {
                    let Reply::Bytes(bytes) = request else { unreachable!() };
                    let length = u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize;
                    let request = codec::decode(&bytes[4..4 + length], usize::MAX).unwrap();
                    let mut heard = heard.lock().unwrap();
                    match &request {
                        MirrorRequest::Check(_) => heard.checks += 1,
                        MirrorRequest::Store(store) => heard.records += (store.statements.len() + store.provide.len()) as u64,
                        _ => {}
                    }
                    drop(heard);
                    let refused = match &request {
                        MirrorRequest::Store(store) => (answers.refuser.lock().unwrap())(peer, store),
                        _ => None,
                    };
                    let refused = refused.map(|code| MirrorResponse::Refused(Refusal::new(code, "not now")));
                    let reply = refused.unwrap_or_else(|| lie(request, peer, &answers, *swarm.local_peer_id()));
                    let _ = swarm.behaviour_mut().mirror.send_response(channel, Reply::Bytes(framed(&reply)));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Mirror(request_response::Event::Message {
                    message: Message::Response { request_id, response }, ..
                })) => {
                    let Reply::Bytes(bytes) = response else { unreachable!() };
                    if let Some(answer) = waiting.remove(&request_id) {
                        let _ = answer.send(unframed(&bytes));
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Mirror(request_response::Event::OutboundFailure {
                    request_id, ..
                })) => drop(waiting.remove(&request_id)),
                _ => {}
            },
        }
    }
}

fn carry_out(swarm: &mut Swarm<Behaviour>, order: Order) {
    let behaviour = swarm.behaviour_mut();
    match order {
        Order::Connect(address) => swarm.dial(address).unwrap(),
        Order::Forge(key, bytes) => {
            behaviour.kad.store_mut().put(kad::Record::new(key.as_bytes().to_vec(), bytes)).unwrap();
        }
        Order::Put(to, key, bytes) => {
            let record = kad::Record::new(key.as_bytes().to_vec(), bytes);
            behaviour.kad.put_record_to(record, std::iter::once(to), kad::Quorum::One);
        }
        Order::Store(..) => unreachable!("answers are waited for"),
        Order::Known(answer) => {
            let _ = answer.send(behaviour.kad.kbuckets().map(|bucket| bucket.num_entries()).sum());
        }
    }
}

/// Everything is said to be stored, and nothing is.
fn lie(request: MirrorRequest, asker: PeerId, answers: &Answers, own: PeerId) -> MirrorResponse {
    match request {
        MirrorRequest::Store(store) => {
            let statements = vec![StoreVerdict::Stored; store.statements.len()];
            MirrorResponse::Stored(Stored { statements, provided: store.provide.len() as u32 })
        }
        MirrorRequest::Providers(_) => MirrorResponse::Providers(Vec::new()),
        MirrorRequest::Find(key) => {
            let forged = answers.forged.lock().unwrap();
            let node = |peer| Provider { peer, addresses: vec!["/ip4/127.0.0.1/tcp/9".parse().unwrap()] };
            let closer = match &*answers.named.lock().unwrap() {
                Named::Itself(times) => vec![node(own); *times],
                Named::Asker => vec![node(asker)],
                Named::Nodes(nodes) => nodes.clone(),
            };
            MirrorResponse::Found(KeyFound { statements: forged.get(&key).cloned().unwrap_or_default(), closer })
        }
        MirrorRequest::Part(_) => MirrorResponse::Part(Stock::default()),
        MirrorRequest::Check(ranges) if answers.agrees.load(Ordering::Relaxed) => {
            MirrorResponse::Checked(vec![KeysCompared::Same; ranges.len()])
        }
        MirrorRequest::Check(ranges) => {
            MirrorResponse::Checked(vec![KeysCompared::Differs(Held::default()); ranges.len()])
        }
        MirrorRequest::Read(keys) => {
            let forged = answers.forged.lock().unwrap();
            MirrorResponse::Records(keys.iter().map(|key| forged.get(key).cloned().unwrap_or_default()).collect())
        }
        // Whatever else may be asked one day is refused, as by an earlier build.
        #[allow(unreachable_patterns)]
        _ => MirrorResponse::Refused(Refusal::new(RefusalCode::Unsupported, "no lie about that")),
    }
}
