//! Lists that come in pages or batches: over three of them and more, with changes in between, and with a page that
//! fails in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use swarmdex::Error;
use swarmdex::config::{Config, Role};
use swarmdex::http::Client;
use swarmdex::node::{Api, ErrorKind, Standing};
use swarmdex_protocols::index::{
    Cursor, IndexRequest, IndexResponse, Joined, Member, Owned, Page, Refusal, RefusalCode, Renewed, Search, Session,
    Verdict,
};
use swarmdex_protocols::limits::{MAX_MEMBERS, MAX_MIRROR_KEYS, MAX_MIRROR_RECORDS, MAX_PAGE_ENTRIES};
use swarmdex_protocols::mirror::Store;
use swarmdex_protocols::{
    Certificate, Claim, ContentId, Entry, Name, Network, Pattern, PeerId, RecordKey, Rule, Statement, Version,
};
use tempfile::TempDir;

use crate::forger::Forger;
use crate::harness::{Process, TestNode, alone, joined, published, tcp_address, until};
use crate::stranger::{MIRROR, Reply, Stranger, framed};

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn entry(text: &str, owner: PeerId, version: u64) -> Entry {
    Entry {
        name: Name::parse(text).unwrap(),
        content: ContentId::of(b"x"),
        size: 1,
        owner,
        version: Version(version),
        attributes: None,
    }
}

fn refused(code: RefusalCode) -> IndexResponse {
    IndexResponse::Refused(Refusal::new(code, "not this page"))
}

fn renewed() -> IndexResponse {
    IndexResponse::Renewed(Renewed { agreed: true, wait_ms: 60_000, notice: None })
}

/// A master that answers what it is told to, and a peer of it.
async fn confused_master(
    mut answer: impl FnMut(IndexRequest) -> IndexResponse + Send + 'static,
) -> (Stranger, TestNode) {
    let master = Stranger::start().await;
    master.answer_index(move |request| {
        let joined = Joined { session: Session(1), lease_ms: 60_000, unchanged: true, again: false, bare: false };
        let response = match request {
            IndexRequest::Join(_) => IndexResponse::Joined(joined),
            request @ (IndexRequest::Search(_) | IndexRequest::Peers(_)) => answer(request),
            IndexRequest::Renew(_) => renewed(),
            _ => IndexResponse::Done,
        };
        Reply::Bytes(framed(&response))
    });
    let address = master.listen[0].clone().with(Protocol::P2p(master.peer));
    let peer = TestNode::start(Role::Peer, |config| config.master = vec![address]).await;
    joined(&peer).await;
    (master, peer)
}

/// A peer of a master that answers searches by a page for each cursor, 0 being the first; and how often it was asked.
async fn searching(
    mut pages: impl FnMut(u64, usize) -> IndexResponse + Send + 'static,
) -> (Stranger, TestNode, Arc<Mutex<usize>>) {
    let asked = Arc::<Mutex<usize>>::default();
    let counter = asked.clone();
    let (master, peer) = confused_master(move |request| {
        let IndexRequest::Search(Search { cursor, .. }) = request else { return IndexResponse::Done };
        let mut asked = counter.lock().unwrap();
        *asked += 1;
        pages(cursor.map_or(0, |cursor| cursor.0), *asked)
    })
    .await;
    (master, peer, asked)
}

fn page(names: impl IntoIterator<Item = (String, u64)>, next: Option<u64>) -> IndexResponse {
    let owner = PeerId::from_bytes(&[0, 1, 7]).unwrap();
    let entries = names.into_iter().map(|(name, version)| entry(&name, owner, version)).collect();
    IndexResponse::Page(Page { entries, next: next.map(Cursor) })
}

/// Search: a master that is busy at times, a name that is on two pages, and pages without any match.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_goes_through_all_pages_and_finds_each_name_once() {
    let name = |number: u64| format!("file {number}");
    let (_master, peer, asked) = searching(move |cursor, asked| match cursor {
        // Each page twice: the first time it is too much.
        1..=5 if asked % 2 == 0 => refused(RefusalCode::Busy),
        0 => page((0..10).map(|number| (name(number), 1)), Some(1)),
        1..=4 => page([], Some(cursor + 1)),
        5 => page((8..20).map(|number| (name(number), 2)), None),
        _ => refused(RefusalCode::Malformed),
    })
    .await;
    let found = peer.search("file", 1000).await.unwrap();
    let versions: BTreeMap<_, _> = found.iter().map(|entry| (entry.name.to_string(), entry.version.0)).collect();
    assert_eq!((found.len(), versions.len()), (20, 20));
    assert_eq!(versions, (0..20).map(|number| (name(number), if number < 8 { 1 } else { 2 })).collect());
    assert_eq!(*asked.lock().unwrap(), 1 + 5 * 2);
}

/// Search: what breaks off or has no end is an error, and never a part that looks like the whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_breaks_off_is_an_error_if_nobody_else_can_be_asked() {
    type Answer = fn(u64, usize) -> IndexResponse;
    let cases: [(&str, Answer, ErrorKind); 4] = [
        (
            "the third page fails",
            |cursor, _| match cursor {
                2 => refused(RefusalCode::Storage),
                _ => page([(format!("file {cursor}"), 1)], Some(cursor + 1)),
            },
            ErrorKind::Storage,
        ),
        (
            "it stays where it is",
            |cursor, _| page([(format!("file {cursor}"), 1)], Some(cursor.max(1))),
            ErrorKind::Unreachable,
        ),
        ("it has no end", |cursor, _| page([], Some(cursor + 1)), ErrorKind::Unreachable),
        ("it goes round in circles", |cursor, _| page([], Some((cursor + 1) % 3)), ErrorKind::Unreachable),
    ];
    for (what, answer, kind) in cases {
        let (_master, peer, asked) = searching(answer).await;
        let error = peer.search("file", 1000).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(*asked.lock().unwrap() <= 10_000, "{what}");
    }
}

/// Search: where the master's pages break off, the DHT has the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_breaks_off_is_filled_up_from_the_dht() {
    let key = Keypair::generate_ed25519();
    let master = Stranger::with_key(key.clone()).await;
    let granted = Arc::<Mutex<(Option<PeerId>, Vec<Entry>)>>::default();
    let state = granted.clone();
    master.answer_index(move |request| {
        let (owner, entries) = &mut *state.lock().unwrap();
        let joined = Joined { session: Session(1), lease_ms: 60_000, unchanged: true, again: false, bare: false };
        let response = match request {
            IndexRequest::Join(_) => IndexResponse::Joined(joined),
            IndexRequest::Announce(announce) => IndexResponse::Announced(
                announce
                    .offers
                    .into_iter()
                    .map(|offer| {
                        let version = Version::default().next(unix_ms());
                        let (name, owner) = (Name::parse(&offer.name).unwrap(), owner.unwrap());
                        let entry =
                            Entry { name, content: offer.content, size: offer.size, owner, version, attributes: None };
                        entries.push(entry.clone());
                        let seal = Certificate::sign(entry, &Network::default(), &key, unix_ms()).unwrap().seal;
                        Verdict::Accepted { version, seal }
                    })
                    .collect(),
            ),
            IndexRequest::Search(Search { cursor: None, .. }) => {
                IndexResponse::Page(Page { entries: entries[..2].to_vec(), next: Some(Cursor(1)) })
            }
            IndexRequest::Search(_) => refused(RefusalCode::Storage),
            IndexRequest::Renew(_) => renewed(),
            _ => IndexResponse::Done,
        };
        Reply::Bytes(framed(&response))
    });
    let address = master.listen[0].clone().with(Protocol::P2p(master.peer));
    let change = |config: &mut Config| {
        config.master = vec![address.clone()];
        config.dht.republish = Duration::from_secs(1);
    };
    let anna = TestNode::start(Role::Peer, change).await;
    joined(&anna).await;
    granted.lock().unwrap().0 = Some(anna.ready().peer_id);
    for number in 0..5 {
        anna.share_file(&format!("word {number}"), &[number]).await;
    }
    // A node that it knew before.
    let dir = TempDir::new().unwrap();
    std::fs::create_dir_all(dir.path().join("data")).unwrap();
    let way = tcp_address(&anna).with(Protocol::P2p(anna.ready().peer_id));
    std::fs::write(dir.path().join("data/nodes-swarmdex"), format!("{way}\n")).unwrap();
    let ben = TestNode::try_start(Role::Peer, dir, change).await.unwrap();
    joined(&ben).await;
    for node in [&anna, &ben] {
        until("they know each other", async || (node.status().await.unwrap().dht.nodes > 0).then_some(())).await;
    }
    published(&anna).await;
    until("all names are found", async || {
        ben.search("word", 100).await.ok().filter(|found| found.len() == 5).map(drop)
    })
    .await;
}

/// Members: pages that are full, one after the other; and a master whose pages lead nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn members_come_in_pages_and_pages_that_stand_still_are_an_error() {
    let mut members: Vec<_> = (0..2 * MAX_MEMBERS + 10).map(|_| PeerId::random()).collect();
    members.sort();
    let all = members.clone();
    let stuck = Arc::<Mutex<bool>>::default();
    let stands = stuck.clone();
    let member =
        |peer: &PeerId| Member { peer: *peer, addresses: Vec::new(), suspect: false, entries: 0, reachable: None };
    let (_master, peer) = confused_master(move |request| {
        let IndexRequest::Peers(peers) = request else { return IndexResponse::Done };
        let after = peers.after.filter(|_| !*stands.lock().unwrap());
        let rest = members.iter().filter(|peer| Some(**peer) > after);
        // More than there may be: what is too much comes again.
        IndexResponse::Members(rest.take(MAX_MEMBERS + 3).map(member).collect())
    })
    .await;
    let told: Vec<_> = peer.peers().await.unwrap().into_iter().map(|info| info.peer_id).collect();
    assert_eq!(told, all);
    *stuck.lock().unwrap() = true;
    assert!(matches!(peer.peers().await, Err(Error::Answer)));
}

fn names(statements: &[Statement]) -> Vec<String> {
    statements.iter().map(|statement| statement.name().to_string()).collect()
}

/// What an owner says of its names: while some go and others come, those that stay are told once each.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_tells_each_of_its_names_once_while_its_share_changes() {
    const FILES: usize = 1600;
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    for number in 0..FILES {
        anna.file(&format!("tree/{number:04}"), number.to_string().as_bytes());
    }
    anna.share(vec![anna.dir.path().join("files/tree")], None).outcome().await.unwrap();
    until("all of it is certified", async || {
        (anna.status().await.unwrap().shared.certified == FILES as u64).then_some(())
    })
    .await;
    let (stranger, id) = Stranger::at(&anna).await;
    let (mut told, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let search = Search { query: String::new(), cursor, limit: MAX_PAGE_ENTRIES as u32, rule: Rule::First };
        let IndexResponse::Owned(Owned { statements, next }) = stranger.ask(id, &IndexRequest::Search(search)).await
        else {
            panic!()
        };
        assert!(statements.len() <= MAX_PAGE_ENTRIES && (next.is_none() || next != cursor));
        told.extend(names(&statements));
        (cursor, pages) = (next, pages + 1);
        if cursor.is_none() {
            break;
        }
        // The first names of all, wherever the page ended.
        let gone = (0..50).map(|number| format!("{:04}", (pages - 1) * 50 + number)).collect();
        anna.revoke(gone).await.unwrap();
        anna.share_file(&format!("00 new {pages}"), &[1]).await;
    }
    assert!(pages > 3, "{pages} pages");
    let once: BTreeSet<_> = told.iter().cloned().collect();
    assert_eq!(once.len(), told.len(), "nothing is told twice");
    assert!(((pages - 1) * 50..FILES).all(|number| once.contains(&format!("{number:04}"))), "nothing is left out");
}

/// A search without the master: an owner whose pages have few matches or none, that is busy once, and whose answer is
/// spoilt once, is asked for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_with_few_matches_a_page_is_asked_for_all_of_them() {
    let master = TestNode::master().await;
    let peers = [TestNode::peer(&master).await, TestNode::peer(&master).await];
    for peer in &peers {
        until("the nodes know each other", async || (peer.status().await.unwrap().dht.nodes >= 2).then_some(())).await;
    }
    let key = Keypair::generate_ed25519();
    let owner = Stranger::with_key(key.clone()).await;
    let claim = move |number: u64| {
        let version = Version::default().next(unix_ms()).0;
        let entry = entry(&format!("needle {number}"), key.public().to_peer_id(), version);
        Statement::Claim(Claim::sign(entry, Version(0), false, &Network::default(), &key, unix_ms()).unwrap())
    };
    let mut asked = BTreeMap::<_, usize>::new();
    owner.answer_index(move |request| {
        let IndexRequest::Search(Search { cursor, .. }) = request else { return Reply::Bytes(Vec::new()) };
        let cursor = cursor.map_or(0, |cursor| cursor.0);
        let times = asked.entry(cursor).or_default();
        *times += 1;
        match (cursor, *times) {
            (2, 1) => Reply::Bytes(framed(&refused(RefusalCode::Busy))),
            (4, 1) => Reply::Bytes(vec![0xff; 100]),
            _ => {
                let statements = if cursor % 2 == 0 { vec![claim(cursor)] } else { Vec::new() };
                Reply::Bytes(framed(&IndexResponse::Owned(Owned {
                    statements,
                    next: (cursor < 6).then_some(Cursor(cursor + 1)),
                })))
            }
        }
    });
    let pattern = Pattern::parse("needle").unwrap();
    let provide = RecordKey::of_search(&Network::default(), &pattern);
    for node in peers.iter().chain([&master]) {
        let id = owner.connect(&tcp_address(node)).await.unwrap();
        let store = Store { provide: provide.clone(), addresses: owner.listen.clone(), ..Store::default() };
        owner.send(MIRROR, id, framed(&swarmdex_protocols::mirror::MirrorRequest::Store(store))).await.unwrap();
    }
    master.abandon();
    for peer in &peers {
        alone(peer).await;
    }
    let found = peers[0].search("needle", 1000).await.unwrap();
    let found: Vec<_> = found.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(found, ["needle 0", "needle 2", "needle 4", "needle 6"]);
}

/// Commands with thousands of names, together longer than two mebibytes: all are certified, listed, found and given up.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_long_names_are_shared_listed_and_given_up_by_one_command() {
    const FILES: usize = 3200;
    const GONE: usize = 3100;
    let folder = TempDir::new().unwrap();
    let made = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let below = ["a", "b", "c"].map(|letter| letter.repeat(230)).join("/");
    let tree = made("tree").join(&below);
    std::fs::create_dir_all(&tree).unwrap();
    let name = |number: usize| format!("{below}/\"{number:04}\"");
    for number in 0..FILES {
        std::fs::write(folder.path().join("tree").join(name(number)), number.to_string()).unwrap();
    }
    let master = Process::start("master", &made("master"), &[]);
    let address = master.address();
    let anna = Process::start("peer", &made("anna"), &["--master", &address]);
    anna.until(&["status"], |status| status["master"]["state"] == "joined");
    let shared = anna.json(&["share", folder.path().join("tree").to_str().unwrap()]);
    assert_eq!(shared["entries"].as_array().unwrap().len(), FILES);
    let client = Client::find(&anna.data).await.unwrap().unwrap();
    let listed = client.shared().await.unwrap();
    assert_eq!(listed.len(), FILES);
    let uncertified: Vec<_> = listed.iter().filter(|shared| shared.standing != Standing::Certified).collect();
    assert!(uncertified.is_empty(), "{} of them, the first {:?}", uncertified.len(), uncertified.first());
    assert_eq!(client.search("", 100_000).await.unwrap().len(), FILES);
    let revoked = client.revoke((0..GONE).map(name).collect()).await.unwrap();
    assert_eq!(revoked.len(), GONE);
    assert!(revoked.iter().all(|name| name.acknowledged));
    let left: Vec<_> = client.search("", 100_000).await.unwrap().iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(left, (GONE..FILES).map(name).collect::<Vec<_>>());
    assert_eq!(client.shared().await.unwrap().len(), FILES - GONE);
    // One that is not shared, and none is given up.
    let names = (GONE - 1..FILES).map(name).collect();
    assert!(client.revoke(names).await.is_err());
    assert_eq!(client.search("", 100_000).await.unwrap().len(), FILES - GONE);
}

/// Thousands of names without a master: all are claimed, and certified when it is back; all are given up.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_names_are_claimed_and_given_up_without_the_master() {
    const FILES: usize = 4100;
    let change = |config: &mut Config| {
        config.dht.republish = Duration::from_secs(2);
        // Fewer than there are: the nodes that have no more room keep none of them from being claimed.
        config.dht.claims_per_peer = 1000;
        config.watch = false;
    };
    let master = TestNode::start(Role::Master, change).await;
    let listen = tcp_address(&master);
    let anna = TestNode::peer_with(&master, change).await;
    let ben = TestNode::peer_with(&master, change).await;
    for node in [&anna, &ben] {
        until("the nodes know each other", async || (node.status().await.unwrap().dht.nodes >= 2).then_some(())).await;
    }
    master.abandon();
    alone(&anna).await;
    alone(&ben).await;
    for number in 0..FILES {
        anna.file(&format!("tree/{number:04}"), b"x");
    }
    let report = anna.share(vec![anna.dir.path().join("files/tree")], None).outcome().await.unwrap();
    let claimed = report.entries.iter().filter(|entry| entry.standing == Standing::Claimed).count();
    assert_eq!(claimed, FILES);
    let names: Vec<_> = (0..FILES - 50).map(|number| format!("{number:04}")).collect();
    let revoked = anna.revoke(names).await.unwrap();
    assert_eq!(revoked.len(), FILES - 50);
    let dir = master.into_dir().await;
    let master = TestNode::try_start(Role::Master, dir, |config| {
        change(config);
        config.listen = vec![listen];
    })
    .await
    .unwrap();
    until("what is left is certified", async || (anna.status().await.unwrap().shared.certified == 50).then_some(()))
        .await;
    assert_eq!(master.search("", 10_000).await.unwrap().len(), 50);
}

/// Thousands of files that appear at once, more than can be heard of: all are shared, and all that go are given up.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_that_come_and_go_at_once_are_noticed() {
    const FILES: usize = 3500;
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.file("tree/first", b"first");
    let tree = anna.dir.path().join("files/tree");
    anna.share(vec![tree.clone()], None).outcome().await.unwrap();
    for number in 0..FILES {
        anna.file(&format!("tree/{}/{number}", number % 3), b"x");
    }
    let certified = async |count: usize| {
        until("the files are noticed", async || {
            let shared = anna.status().await.unwrap().shared;
            (shared.certified as usize == count && shared.entries as usize == count).then_some(())
        })
        .await;
    };
    certified(FILES + 1).await;
    for number in (0..FILES).filter(|number| number % 3 != 1) {
        std::fs::remove_file(tree.join(format!("{}/{number}", number % 3))).unwrap();
    }
    certified(1 + (0..FILES).filter(|number| number % 3 == 1).count()).await;
    until("the index has no more", async || {
        let names = master.status().await.unwrap().index.unwrap().names;
        (names as usize == 1 + (0..FILES).filter(|number| number % 3 == 1).count()).then_some(())
    })
    .await;
}

/// What a node was told to store.
#[derive(Default)]
struct Heard {
    stores: Vec<(Store, Option<RefusalCode>)>,
    with_statements: usize,
}

/// Records and keys for one node take many messages, of records more than of keys: all of them come, also after one that
/// is refused. One that the node is too busy for comes again, and one that it does not take waits for the next round.
#[tokio::test(flavor = "multi_thread")]
async fn records_and_keys_reach_a_node_in_many_messages_also_if_it_refuses_some() {
    const FILES: usize = 2000;
    // Nothing is due by itself while this runs.
    let change = |config: &mut Config| config.dht.republish = Duration::from_secs(600);
    let master = TestNode::start(Role::Master, change).await;
    let anna = TestNode::peer_with(&master, change).await;
    let forger = Forger::start(Keypair::generate_ed25519()).await;
    // It is sent only what is published: nothing is repaired beside it.
    forger.agree();
    for node in [&master, &anna] {
        forger.connect(&tcp_address(node)).await;
        until("the forger is one of them", async || (node.status().await.unwrap().dht.nodes >= 2).then_some(())).await;
    }
    for number in 0..FILES {
        anna.file(&format!("tree/w{number}w x{number}x y{number}y"), number.to_string().as_bytes());
    }
    anna.share(vec![anna.dir.path().join("files/tree")], None).outcome().await.unwrap();
    let heard = Arc::<Mutex<Heard>>::default();
    let (hears, owner) = (heard.clone(), anna.ready().peer_id);
    master.abandon();
    forger.refuse_stores(move |peer, store| {
        let mut heard = hears.lock().unwrap();
        if peer != owner || store.statements.is_empty() {
            return None;
        }
        heard.with_statements += 1;
        let refusal = match heard.with_statements {
            2 => Some(RefusalCode::Malformed),
            4 => Some(RefusalCode::Busy),
            _ => None,
        };
        heard.stores.push((store.clone(), refusal));
        refusal
    });
    // From now on everything is due at once.
    alone(&anna).await;
    let taken = |heard: &Heard| {
        let taken = heard.stores.iter().filter(|(_, refusal)| refusal.is_none());
        taken.flat_map(|(store, _)| names(&store.statements)).collect::<BTreeSet<_>>()
    };
    until("every record has come but those that were not taken", async || {
        let heard = heard.lock().unwrap();
        let refused = heard.stores.get(1).map_or(0, |(store, _)| store.statements.len());
        (refused > 0 && taken(&heard).len() == FILES - refused).then_some(())
    })
    .await;
    let heard = heard.lock().unwrap();
    let sizes: Vec<_> = heard.stores.iter().map(|(store, _)| (store.statements.len(), store.provide.len())).collect();
    assert!(sizes.iter().all(|(records, keys)| *records <= MAX_MIRROR_RECORDS && *keys <= MAX_MIRROR_KEYS));
    assert!(sizes.len() > 7 && sizes[..3].iter().all(|(records, _)| *records == MAX_MIRROR_RECORDS), "{sizes:?}");
    let statements = |number: usize| BTreeSet::from_iter(names(&heard.stores[number].0.statements));
    assert!(taken(&heard).is_disjoint(&statements(1)), "what it did not take does not come again at once");
    assert!(taken(&heard).is_superset(&statements(3)), "and what it was too busy for does");
}
