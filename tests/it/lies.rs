//! Nodes that lie in the DHT: no reader ever gets a wrong entry, and nobody's memory is theirs to fill.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::identity::Keypair;
use swarmdex::Error;
use swarmdex::config::Role;
use swarmdex::node::Source;
use swarmdex_protocols::mirror::{MirrorRequest, MirrorResponse, Store};
use swarmdex_protocols::{
    Certificate, Claim, ContentId, Entry, Name, Network, PeerId, RecordKey, Statement, Tombstone, Version, index,
};

use crate::forger::{Forger, value};
use crate::harness::{TestNode, gone, lose, published, tcp_address, until};
use crate::stranger::{MIRROR, Reply, Stranger, framed, unframed};

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn key(text: &str) -> RecordKey {
    RecordKey::name(&Network::default(), &name(text))
}

fn entry(text: &str, owner: PeerId, version: u64) -> Entry {
    Entry {
        name: name(text),
        content: ContentId::of(b"a lie"),
        size: 5,
        owner,
        version: Version(version),
        attributes: None,
    }
}

fn signed(entry: Entry, network: &str, by: &Keypair, at: u64) -> Statement {
    Statement::Certificate(Certificate::sign(entry, &Network::parse(network).unwrap(), by, at).unwrap())
}

/// The key of a master: what it would sign tomorrow, and has signed long ago.
fn key_of(master: &TestNode) -> Keypair {
    let bytes = std::fs::read(master.dir.path().join("data/identity.key")).unwrap();
    Keypair::from_protobuf_encoding(&bytes).unwrap()
}

/// A master and peers that know each other.
async fn network(peers: usize) -> (TestNode, Vec<TestNode>) {
    let master = TestNode::start(Role::Master, |config| config.dht.republish = Duration::from_secs(2)).await;
    let mut all = Vec::new();
    for _ in 0..peers {
        all.push(TestNode::peer_with(&master, |config| config.dht.republish = Duration::from_secs(2)).await);
    }
    for node in &all {
        known(node, peers).await;
    }
    (master, all)
}

/// Waits until a node knows so many others.
async fn known(node: &TestNode, others: usize) {
    until("the nodes know each other", async || {
        (node.status().await.unwrap().dht.nodes >= others as u64).then_some(())
    })
    .await;
}

/// Waits until every one of these nodes, fewer than hold a record, has such a statement about a name.
async fn stored(peers: &[TestNode], text: &str, such: impl Fn(&Statement) -> bool) {
    let reader = Stranger::start().await;
    for peer in peers {
        let id = reader.connect(&tcp_address(peer)).await.unwrap();
        until("the statement is stored", async || {
            let read = framed(&MirrorRequest::Read(vec![key(text)]));
            match unframed(&reader.send(MIRROR, id, read).await.unwrap()) {
                MirrorResponse::Records(records) => records.concat().iter().any(&such).then_some(()),
                other => panic!("{other:?}"),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_believes_forged_expired_old_foreign_or_misplaced_records() {
    const DAY: u64 = 24 * 3600 * 1000;
    let (master, peers) = network(18).await;
    let (key_of_master, stranger) = (key_of(&master), Keypair::generate_ed25519());
    let owner = &peers[0];
    owner.share_file("true", b"true").await;
    owner.share_file("revoked", b"revoked").await;
    let path = owner.share_file("changed", b"one").await;
    let old = master.lookup("revoked").await.unwrap().entry;
    let first = master.lookup("changed").await.unwrap().entry;
    let of_size = |size| move |it: &Statement| matches!(it, Statement::Certificate(it) if it.entry.size == size);
    stored(&peers, "true", of_size(4)).await;
    stored(&peers, "changed", of_size(3)).await;
    owner.revoke(vec!["revoked".to_owned()]).await.unwrap();
    stored(&peers, "revoked", |it| matches!(it, Statement::Tombstone(_))).await;
    std::fs::write(&path, b"changed since").unwrap();
    owner.share(vec![path], None).outcome().await.unwrap();
    stored(&peers, "changed", of_size(13)).await;
    published(owner).await;

    let forger = Forger::start(Keypair::generate_ed25519()).await;
    for node in peers.iter().chain([&master]) {
        forger.connect(&tcp_address(node)).await;
    }
    until("the forger is one of them", async || (forger.known().await > 17).then_some(())).await;
    let liar = forger.peer;
    let now = unix_ms();
    let certified = |entry: swarmdex::node::EntryInfo| {
        let swarmdex::node::EntryInfo { name, content, size, owner, version } = entry;
        signed(Entry { name, content, size, owner, version, attributes: None }, "swarmdex", &key_of_master, now)
    };
    let future = Version::default().next(now + 10 * DAY);
    let claim = |text| {
        let entry = Entry { owner: stranger.public().to_peer_id(), ..entry(text, liar, future.0 / 2) };
        Statement::Claim(Claim::sign(entry, future, false, &Network::default(), &stranger, now).unwrap())
    };
    let tombstone = Tombstone::sign(name("true"), liar, future, &Network::default(), &stranger, now).unwrap();
    let mut altered = signed(entry("true", liar, future.0), "swarmdex", &key_of_master, now);
    if let Statement::Certificate(certificate) = &mut altered {
        certificate.entry.size = 6;
    }
    for (text, statements) in [
        ("true", vec![signed(entry("true", liar, future.0), "swarmdex", &stranger, now)]),
        ("forged", vec![signed(entry("forged", liar, 5), "swarmdex", &stranger, now)]),
        ("expired", vec![signed(entry("expired", liar, 5), "swarmdex", &key_of_master, now - 10 * DAY)]),
        ("year 2100", vec![signed(entry("year 2100", liar, 5), "swarmdex", &key_of_master, 4_102_444_800_000)]),
        ("revoked", vec![certified(old)]),
        ("changed", vec![certified(first.clone())]),
        ("foreign", vec![signed(entry("foreign", liar, 5), "another", &key_of_master, now)]),
        ("misplaced", vec![certified(first)]),
    ] {
        forger.forge(key(text), &statements).await;
        // And the nodes are told to store it, by both ways.
        for peer in &peers {
            let to = peer.ready().peer_id;
            forger.put(to, key(text), value(&statements)).await;
            forger.store(to, &MirrorRequest::Store(Store { statements: statements.clone(), ..Store::default() })).await;
        }
    }
    for (peer, statement) in peers.iter().zip([claim("true"), Statement::Tombstone(tombstone), altered]) {
        let store = Store { statements: vec![statement], ..Store::default() };
        forger.store(peer.ready().peer_id, &MirrorRequest::Store(store)).await;
    }
    forger.forge_bytes(key("garbage"), vec![0xff; 3000]).await;
    forger.forge_bytes(key("long"), vec![0; 20 << 10]).await;
    lose(&master, &peers).await;
    for peer in &peers {
        let found = peer.lookup("true").await.unwrap();
        assert_eq!((found.source, found.entry.owner, found.entry.size), (Source::Dht, owner.ready().peer_id, 4));
        assert_eq!(peer.lookup("changed").await.unwrap().entry.size, 13);
    }
    // What nobody has is looked for everywhere before it is said to be missing; three readers will do.
    for peer in &peers[15..] {
        for text in ["forged", "expired", "year 2100", "revoked", "foreign", "misplaced", "garbage", "long"] {
            let found = peer.lookup(text).await;
            assert!(matches!(found, Err(Error::NotFound { .. })), "{text}: {found:?}");
        }
        let names: Vec<_> = peer.search("", 100).await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [name("changed"), name("true")]);
    }
    for peer in &peers {
        // Three names there were, and one of them has a tombstone.
        assert!(peer.status().await.unwrap().dht.records <= 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_records_claims_and_providers_is_bounded_and_disturbs_nobody() {
    let (master, peers) = network(4).await;
    peers[0].share_file("honest", b"honest").await;
    published(&peers[0]).await;
    let flooder = Keypair::generate_ed25519();
    let forger = Forger::start(flooder.clone()).await;
    forger.connect(&tcp_address(&peers[1])).await;
    until("the forger knows its victim", async || (forger.known().await > 0).then_some(())).await;
    let victim = peers[1].ready().peer_id;
    let now = unix_ms();
    let limit = swarmdex::config::DhtConfig::default().claims_per_peer as u64;
    // Claims are the one thing that anybody can sign: a thousand identities would do, here one signs for all.
    let claims = (0..6000).map(|number| {
        let entry = entry(&format!("junk {number}"), forger.peer, Version::default().next(now).0);
        Statement::Claim(Claim::sign(entry, Version::default(), false, &Network::default(), &flooder, now).unwrap())
    });
    let claims: Vec<_> = claims.collect();
    let claims = claims.chunks(200).map(|batch| Store { statements: batch.to_vec(), ..Store::default() });
    let junk = |number: u32| RecordKey::word(&Network::default(), &format!("junk {number}"));
    let provided = (0..200_000)
        .step_by(4000)
        .map(|first| Store { provide: (first..first + 4000).map(junk).collect(), ..Store::default() });
    let flood: Vec<_> = claims.chain(provided).map(MirrorRequest::Store).collect();
    // All at once, and again what the victim had no time for.
    futures::future::join_all(flood.iter().map(|request| forger.store(victim, request))).await;
    let stored = until("the flood is over", async || {
        let dht = peers[1].status().await.unwrap().dht;
        (dht.records > limit / 2 && dht.providers > 1000).then_some(dht)
    })
    .await;
    let keys = swarmdex::config::DhtConfig::default().keys_per_peer as u64;
    assert!(stored.records <= limit + 10 && stored.providers <= keys + 100, "{stored:?}");
    // Own names are still published there, and found.
    peers[1].share_file("own", b"own").await;
    lose(&master, &peers).await;
    for text in ["own", "honest"] {
        assert!(peers[2].lookup(text).await.unwrap().certified);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fake_providers_do_not_hide_the_owner() {
    let (master, peers) = network(4).await;
    let word = RecordKey::word(&Network::default(), "needle");
    let beginning = RecordKey::of_words(&Network::default(), &name("needle"))[1];
    // They are there before the owner, at every node, and twice as many as one answer of Kademlia has.
    let mut fakes = Vec::new();
    for number in 0..45_usize {
        let fake = Stranger::start().await;
        for node in peers.iter().chain([&master]) {
            let id = fake.connect(&tcp_address(node)).await.unwrap();
            let store = Store { provide: vec![word, beginning], addresses: fake.listen.clone(), ..Store::default() };
            fake.send(MIRROR, id, framed(&MirrorRequest::Store(store))).await.unwrap();
        }
        let forged = signed(entry("needle", fake.peer, u64::MAX), "swarmdex", &Keypair::generate_ed25519(), unix_ms());
        // Some refuse, some forge page after page, some say nothing at all, and some never end.
        let mut pages = 0;
        fake.answer_index(move |_| match number % 9 {
            0..3 => Reply::Bytes(framed(&index::IndexResponse::Refused(index::Refusal::new(
                index::RefusalCode::NotMaster,
                "",
            )))),
            3..6 => {
                pages += 1;
                let (statements, next) = (vec![forged.clone(); 10], Some(index::Cursor(pages)));
                Reply::Bytes(framed(&index::IndexResponse::Owned(index::Owned { statements, next })))
            }
            6..8 => Reply::Bytes(vec![0xff; 100]),
            _ => Reply::Stall(vec![0, 0]),
        });
        fakes.push(fake);
    }
    // Who asks and stores is not yet one who answers.
    for node in &peers {
        assert_eq!(node.status().await.unwrap().dht.nodes, 4);
    }
    peers[0].share_file("needle", b"x").await;
    published(&peers[0]).await;
    lose(&master, &peers).await;
    for peer in &peers {
        let found = peer.search("needle", 10).await.unwrap();
        assert_eq!((found.len(), found[0].owner), (1, peers[0].ready().peer_id));
    }
}

/// The twenty nodes nearest to a name are one liar's: they took the record and hide it, or say something false.
#[tokio::test(flavor = "multi_thread")]
async fn sybils_nearest_to_a_name_cannot_hide_it_or_give_it_away() {
    let (master, mut peers) = network(5).await;
    let half = |bytes: &[u8]| libp2p::kad::KBucketKey::new(bytes.to_vec()).hashed_bytes()[0] >> 7;
    // The liars stand in the half of the space where the name is; its word is in the other, and honest nodes in both.
    while let halves = peers[1..].iter().map(|node| half(&node.ready().peer_id.to_bytes()))
        && halves.collect::<BTreeSet<_>>().len() < 2
    {
        peers.push(TestNode::peer_with(&master, |config| config.dht.republish = Duration::from_secs(2)).await);
    }
    let apart =
        |text: &String| half(key(text).as_bytes()) != half(RecordKey::word(&Network::default(), text).as_bytes());
    let wanted = ('a'..='z').map(|letter| format!("wanted{letter}")).find(apart).unwrap();
    let wanted = wanted.as_str();
    let place = |id: PeerId| {
        let target = libp2p::kad::KBucketKey::new(key(wanted).as_bytes().to_vec());
        libp2p::kad::KBucketKey::from(id).distance(&target)
    };
    let nearest = peers.iter().chain([&master]).map(|node| place(node.ready().peer_id)).min().unwrap();
    let nearer = || {
        let near = |key: &Keypair| place(key.public().to_peer_id()) < nearest;
        std::iter::repeat_with(Keypair::generate_ed25519).find(near).unwrap()
    };
    let mut sybils = Vec::new();
    for _ in 0..20 {
        let sybil = Forger::start(nearer()).await;
        for node in peers.iter().chain([&master]) {
            sybil.connect(&tcp_address(node)).await;
        }
        sybils.push(sybil);
    }
    // One bucket of the routing table holds twenty, and has to hold the liars and some others.
    for node in &peers {
        known(node, 15).await;
    }
    peers[0].share_file(wanted, b"wanted").await;
    let now = unix_ms();
    for (number, sybil) in sybils.iter().enumerate().filter(|(number, _)| number % 2 == 0) {
        let stranger = Keypair::generate_ed25519();
        let future = Version::default().next(now).0 + number as u64;
        sybil.forge(key(wanted), &[signed(entry(wanted, sybil.peer, future), "swarmdex", &stranger, now)]).await;
    }
    published(&peers[0]).await;
    lose(&master, &peers).await;
    for peer in &peers {
        let found = peer.lookup(wanted).await.unwrap();
        assert_eq!((found.entry.owner, found.certified), (peers[0].ready().peer_id, true));
    }
    gone(&peers[1], "unwanted").await;
}

/// A node whose only address leads nowhere does not keep others from what they look for.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_full_of_dead_nodes_bounds_no_lookup() {
    let (master, peers) = network(4).await;
    peers[0].share_file("wanted", b"wanted").await;
    published(&peers[0]).await;
    let mut dead = Vec::new();
    for _ in 0..30 {
        let forger = Forger::start(Keypair::generate_ed25519()).await;
        for node in peers.iter().chain([&master]) {
            forger.connect(&tcp_address(node)).await;
        }
        dead.push(forger);
    }
    for node in &peers {
        known(node, 20).await;
    }
    drop(dead);
    lose(&master, &peers).await;
    for peer in &peers {
        let begin = std::time::Instant::now();
        assert!(peer.lookup("wanted").await.unwrap().certified);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}
