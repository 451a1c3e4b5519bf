//! Strangers that break every rule: a clear refusal, nothing lost, nobody else disturbed.

use std::sync::Arc;
use std::time::Duration;

use swarmdex::config::Role;
use swarmdex::node::ErrorKind;
use swarmdex_protocols::fetch::{self, Header};
use swarmdex_protocols::index::{
    Announce, IndexRequest, IndexResponse, Join, Leave, Lookup, Offer, Peers, RefusalCode, Report, Revoke,
    RevokeOutcome, Search, Sequence, Session, ShareDigest, Verdict,
};
use swarmdex_protocols::{ContentId, Multiaddr, PeerId, Rule};

use crate::harness::{TestNode, address, noise, tcp_address, until};
use crate::stranger::{FETCH, FUTURE, INDEX, KAD, PUSH, Stranger, framed, framed_bytes, unframed};

fn offer(name: &str) -> Offer {
    Offer::new(name, ContentId::of(name.as_bytes()), 1)
}

fn announce(session: Session, sequence: u64, names: &[&str]) -> IndexRequest {
    let offers = names.iter().map(|name| offer(name)).collect();
    IndexRequest::Announce(Announce { session, sequence: Sequence(sequence), offers, last: false, total: None })
}

fn revoke(session: Session, sequence: u64, name: &str) -> IndexRequest {
    IndexRequest::Revoke(Revoke { session, sequence: Sequence(sequence), names: vec![name.to_owned()] })
}

fn refused(response: &IndexResponse) -> RefusalCode {
    match response {
        IndexResponse::Refused(refusal) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

async fn verdicts(stranger: &Stranger, master: PeerId, request: &IndexRequest) -> Vec<Verdict> {
    match stranger.ask(master, request).await {
        IndexResponse::Announced(verdicts) => verdicts,
        other => panic!("{other:?}"),
    }
}

/// Index / names: `../../etc/passwd`, absolute, `C:\x`, `NUL`, ..., NFC/NFD and case twins.
#[tokio::test(flavor = "multi_thread")]
async fn invalid_names_are_refused_one_by_one_in_announce_and_lookup() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let long = "a".repeat(64 << 10);
    let bad = [
        "../../etc/passwd",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "a/..",
        "C:\\x",
        "C:x",
        "NUL",
        "nul.txt",
        "COM1 ",
        "COM1.x",
        "",
        &long,
        "a\0b",
        "a\nb",
        "a\x1b[2J",
        "a\u{202e}b",
        "a\u{200b}b",
        "e\u{301}",
        "a.",
        "a ",
        "x/y. /z",
        &"b".repeat(256),
    ];
    let mut names = vec!["good before"];
    names.extend(bad);
    names.extend(["Good", "good", "é"]);
    let said = verdicts(&stranger, id, &announce(session, 1, &names)).await;
    for (name, verdict) in names.iter().zip(&said) {
        let accepted = matches!(verdict, Verdict::Accepted { .. });
        assert_eq!(accepted, !bad.contains(name), "{name:?}: {verdict:?}");
        if let Verdict::Refused(refusal) = verdict {
            assert_eq!(refusal.code, RefusalCode::InvalidName);
            assert!(!refusal.reason.is_empty() && refusal.reason.len() < 600);
        }
    }
    for name in bad {
        let response = stranger.ask(id, &IndexRequest::Lookup(Lookup { name: name.to_owned() })).await;
        assert_eq!(refused(&response), RefusalCode::InvalidName, "{name:?}");
        let error = master.lookup(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{name:?}");
    }
    assert_eq!(master.status().await.unwrap().index.unwrap().names, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_answered_and_harm_nothing() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("name", b"x").await;
    let (stranger, id) = Stranger::at(&master).await;
    let lookup = framed(&IndexRequest::Lookup(Lookup { name: "name".to_owned() }));
    let unknown = framed(&std::collections::BTreeMap::from([("dance", 1)]));
    let cases: [(&str, Vec<u8>, RefusalCode); 9] = [
        ("nothing", Vec::new(), RefusalCode::Malformed),
        ("half a length", vec![0, 0], RefusalCode::Malformed),
        ("a length of 4 GiB", vec![0xff; 8], RefusalCode::Malformed),
        ("cut in the middle", lookup[..lookup.len() - 1].to_vec(), RefusalCode::Malformed),
        ("garbage", [&[0, 0, 0, 64][..], &noise(1, 64)].concat(), RefusalCode::Malformed),
        ("two messages in one", framed_bytes(&[&lookup[4..], &lookup[4..]].concat()), RefusalCode::Malformed),
        ("a string of 2^60 bytes", framed_bytes(&[0x7b, 0x10, 0, 0, 0, 0, 0, 0, 0]), RefusalCode::Malformed),
        ("deep nesting", framed_bytes(&[0x81; 5000]), RefusalCode::Malformed),
        ("an unknown request", unknown, RefusalCode::Unsupported),
    ];
    for (what, bytes, code) in cases {
        let answer = stranger.send(INDEX, id, bytes).await.unwrap();
        assert_eq!(refused(&unframed(&answer)), code, "{what}");
    }
    // The same at a holder of files.
    let (other, anna_id) = Stranger::at(&anna).await;
    for bytes in [Vec::new(), vec![0xff; 8], framed_bytes(&noise(2, 100)), framed_bytes(&[0xa0])] {
        let answer: Header = unframed(&other.send(FETCH, anna_id, bytes).await.unwrap());
        assert_eq!(answer, Header::Refused(fetch::FetchRefusal::Malformed));
    }
    // A version of the protocol from the future is refused in negotiation.
    assert!(stranger.send(FUTURE, id, vec![1, 2, 3]).await.is_err());
    assert!(anna.lookup("name").await.is_ok());
}

/// Fuzzed frames on every protocol.
#[tokio::test(flavor = "multi_thread")]
async fn fuzzed_frames_on_every_protocol_disturb_nobody() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("name", &noise(5, 1000)).await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let samples = [
        framed(&announce(session, 1, &["a", "b"])),
        framed(&IndexRequest::Search(Search { query: "a".to_owned(), cursor: None, limit: 5, rule: Rule::First })),
        framed(&fetch::FetchRequest::Chunks(
            fetch::ChunkRun { content: ContentId::of(b"x"), first: 0, count: 1 }.into(),
        )),
    ];
    for number in 0..300u64 {
        let mut bytes = samples[number as usize % samples.len()].clone();
        let random = noise(number, 16);
        for pair in random.chunks(2).take(1 + number as usize % 4) {
            let at = 4 + pair[0] as usize % (bytes.len() - 4);
            bytes[at] ^= pair[1] | 1;
        }
        let protocol = [INDEX, FETCH, KAD, PUSH][number as usize % 4];
        // Whatever comes back, something does, and soon.
        let sent = tokio::time::timeout(Duration::from_secs(20), stranger.send(protocol, id, bytes));
        let _ = sent.await.expect("an answer or an end");
    }
    assert!(anna.lookup("name").await.is_ok());
    assert_eq!(anna.status().await.unwrap().shared.certified, 1);
}

/// DHT: a packet of 16 KiB and one byte is an ordinary one here, and one over the limit ends its stream alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_dht_packet_over_the_limit_ends_its_own_stream_alone() {
    /// FIND_NODE for a key of so many bytes, behind its length, as Kademlia's protobuf has it.
    fn find_node(length: usize) -> Vec<u8> {
        let varint = |mut number: usize| {
            let mut bytes = Vec::new();
            while number > 0x7f {
                bytes.push(number as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
            bytes
        };
        let message = [&[0x08, 4, 0x12][..], &varint(length), &vec![7; length]].concat();
        [varint(message.len()), message].concat()
    }
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("name", b"x").await;
    let (stranger, id) = Stranger::at(&master).await;
    let answer = stranger.send(KAD, id, find_node((16 << 10) + 1)).await.unwrap();
    assert!(!answer.is_empty());
    for length in [32 << 10, 1 << 20] {
        let answer = stranger.send(KAD, id, find_node(length)).await;
        assert!(!answer.is_ok_and(|bytes| !bytes.is_empty()), "{length}");
    }
    // The connection, and everybody else, goes on.
    stranger.join(id).await;
    assert!(anna.lookup("name").await.unwrap().certified);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_the_limit_is_refused_whole() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let names: Vec<_> = (0..1001).map(|number| format!("name {number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(refused(&stranger.ask(id, &announce(session, 1, &names)).await), RefusalCode::Malformed);
    assert_eq!(master.status().await.unwrap().index.unwrap().names, 0);
    assert_eq!(verdicts(&stranger, id, &announce(session, 2, &names[..1000])).await.len(), 1000);
}

/// Index / names: announcing under another's identity; a stale session; a replay after a revoke.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_sequence_numbers_fence() {
    let master = TestNode::master().await;
    let ((anna, id), (ben, _)) = (Stranger::at(&master).await, Stranger::at(&master).await);
    let not_joined = |response: IndexResponse| assert_eq!(refused(&response), RefusalCode::NotJoined);
    not_joined(ben.ask(id, &announce(Session(1), 1, &["x"])).await);
    let first = anna.join(id).await.session;
    ben.join(id).await;
    // The owner of a name is who the connection proves, and the session has to be its own.
    not_joined(ben.ask(id, &announce(first, 1, &["x"])).await);
    not_joined(ben.ask(id, &IndexRequest::Leave(Leave { session: first })).await);

    let register = announce(first, 1, &["x"]);
    let granted = verdicts(&anna, id, &register).await;
    assert!(matches!(granted[0], Verdict::Accepted { .. }));
    // Sent again because the answer was lost: the same version.
    let Verdict::Accepted { version, .. } = granted[0] else { panic!() };
    let again = verdicts(&anna, id, &register).await;
    assert!(matches!(again[0], Verdict::Accepted { version: same, .. } if same == version));
    let revoked = anna.ask(id, &revoke(first, 2, "x")).await;
    assert!(
        matches!(&revoked, IndexResponse::Revoked(outcomes) if matches!(outcomes[0], RevokeOutcome::Revoked { .. }))
    );
    // Yesterday's register after the revoke.
    assert_eq!(refused(&anna.ask(id, &register).await), RefusalCode::Stale);
    assert_eq!(master.lookup("x").await.unwrap_err().kind(), ErrorKind::NotFound);
    // And with the session of before a new join.
    let second = anna.join(id).await.session;
    assert!(second > first);
    not_joined(anna.ask(id, &announce(first, 9, &["x"])).await);
    not_joined(anna.ask(id, &revoke(first, 9, "x")).await);
}

/// Index / names: owner revokes while another registers: never two owners, never zero then silently old.
#[tokio::test(flavor = "multi_thread")]
async fn owner_revokes_while_another_registers() {
    let master = TestNode::master().await;
    let ((anna, id), (ben, _)) = (Stranger::at(&master).await, Stranger::at(&master).await);
    let (a, b) = (anna.join(id).await.session, ben.join(id).await.session);
    for round in 0..20u64 {
        let name = format!("name {round}");
        verdicts(&anna, id, &announce(a, 2 * round + 1, &[&name])).await;
        let (free, take) = (revoke(a, 2 * round + 2, &name), announce(b, round + 1, &[&name]));
        let (revoked, taken) = tokio::join!(anna.ask(id, &free), verdicts(&ben, id, &take));
        assert!(
            matches!(&revoked, IndexResponse::Revoked(outcomes) if matches!(outcomes[0], RevokeOutcome::Revoked { .. }))
        );
        match &taken[0] {
            Verdict::Accepted { .. } => assert_eq!(master.lookup(&name).await.unwrap().entry.owner, ben.peer),
            Verdict::Conflict { owner } => {
                assert_eq!(*owner, anna.peer);
                assert_eq!(master.lookup(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
            }
            Verdict::Refused(refusal) => panic!("{refusal:?}"),
        }
    }
}

/// Index / names: one peer registers many names; Sybil peers; honest peers still served.
#[tokio::test(flavor = "multi_thread")]
async fn names_and_members_are_bounded_and_honest_peers_still_served() {
    let master = TestNode::start(Role::Master, |config| {
        config.limits.names_per_peer = 100;
        config.limits.names = 250;
        config.limits.peers = 6;
    })
    .await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("honest", b"x").await;
    let names: Vec<_> = (0..200).map(|number| format!("name {number}")).collect();
    let mut refusals = Vec::new();
    let mut strangers = Vec::new();
    for sybil in 0..6 {
        let (stranger, id) = Stranger::at(&master).await;
        let join = Join {
            network: "swarmdex".to_owned(),
            addresses: Vec::new(),
            digest: ShareDigest::empty(),
            entries: 0,
            newest: None,
            run: None,
            machine: None,
            again: false,
        };
        match stranger.ask(id, &IndexRequest::Join(join)).await {
            IndexResponse::Joined(joined) => {
                let own: Vec<_> = names.iter().map(|name| format!("{sybil} {name}")).collect();
                let own: Vec<_> = own.iter().map(String::as_str).collect();
                refusals.extend(verdicts(&stranger, id, &announce(joined.session, 1, &own)).await);
            }
            IndexResponse::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Quota),
            other => panic!("{other:?}"),
        }
        strangers.push(stranger);
    }
    let reasons: Vec<_> = refusals
        .iter()
        .filter_map(
            |verdict| if let Verdict::Refused(refusal) = verdict { Some(refusal.reason.as_str()) } else { None },
        )
        .collect();
    assert!(reasons.iter().any(|reason| reason.contains("one peer")), "the bound is named");
    assert!(reasons.iter().any(|reason| reason.contains("the index holds")), "the bound is named");
    let index = master.status().await.unwrap().index.unwrap();
    assert_eq!((index.names, index.peers), (250, 6));
    assert!(anna.lookup("honest").await.is_ok());
    // What a peer leaves behind is cleaned up with it.
    drop(strangers);
    until("the names of the Sybils are gone", async || {
        (master.status().await.unwrap().index.unwrap().names == 1).then_some(())
    })
    .await;
    anna.share_file("another", b"y").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_wait_are_bounded_for_each_peer() {
    let master = TestNode::start(Role::Master, |config| config.limits.pending_per_peer = 4).await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let stranger = Arc::new(stranger);
    let tasks: Vec<_> = (0..60)
        .map(|number| {
            let stranger = stranger.clone();
            let names: Vec<_> = (0..500).map(|name| format!("{number} {name}")).collect();
            tokio::spawn(async move {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                // The same number each time: none is stale, whatever order they come in.
                stranger.ask(id, &announce(session, 1, &names)).await
            })
        })
        .collect();
    let mut quota = 0;
    for task in tasks {
        match task.await.unwrap() {
            IndexResponse::Announced(_) => {}
            IndexResponse::Refused(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Quota);
                assert!(refusal.reason.contains("one peer"), "{}", refusal.reason);
                quota += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(quota > 0, "at least one of 60 at once was one too many");
    assert!(master.status().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_to_a_node_that_is_no_master_say_so() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let (stranger, id) = Stranger::at(&anna).await;
    for request in [
        IndexRequest::Peers(Peers { after: None }),
        IndexRequest::Report(Report { peer: id }),
        IndexRequest::Leave(Leave { session: Session(1) }),
    ] {
        assert_eq!(refused(&stranger.ask(id, &request).await), RefusalCode::NotMaster);
    }
    // For its own names every node answers, and for nobody else's.
    anna.share_file("hers", b"1").await;
    TestNode::peer(&master).await.share_file("another's", b"2").await;
    for (name, statements) in [("hers", 1), ("another's", 0)] {
        let lookup = IndexRequest::Lookup(Lookup { name: name.to_owned() });
        let IndexResponse::Owned(owned) = stranger.ask(id, &lookup).await else { panic!() };
        assert_eq!(owned.statements.len(), statements, "{name}");
    }
    let search = IndexRequest::Search(Search { query: String::new(), cursor: None, limit: 10, rule: Rule::First });
    let IndexResponse::Owned(owned) = stranger.ask(id, &search).await else { panic!() };
    assert_eq!(owned.statements.len(), 1);
    let bad = IndexRequest::Lookup(Lookup { name: "../x".to_owned() });
    assert_eq!(refused(&stranger.ask(id, &bad).await), RefusalCode::InvalidName);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_its_limits_is_refused() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    for query in ["a".repeat(600), "a ".repeat(20), "a\x07".to_owned()] {
        let search = IndexRequest::Search(Search { query, cursor: None, limit: u32::MAX, rule: Rule::First });
        assert_eq!(refused(&stranger.ask(id, &search).await), RefusalCode::InvalidQuery);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_contents_and_ranges_beyond_the_end_are_refused() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let bytes = noise(6, 1_000_000);
    anna.share_file("file", &bytes).await;
    let (stranger, id) = Stranger::at(&anna).await;
    let content = ContentId::of(&bytes);
    let ask = async |content, first, count| stranger.fetch(id, fetch::ChunkRun { content, first, count }).await;
    assert_eq!(ask(ContentId::of(b"?"), 0, 1).await, Header::Refused(fetch::FetchRefusal::NotFound));
    for (first, count) in
        [(0, 0), (0, 5), (4, 1), (3, 2), (u64::MAX, 1), (u64::MAX - 1, u32::MAX), (0, u32::MAX), (1 << 40, 1)]
    {
        assert_eq!(ask(content, first, count).await, Header::Refused(fetch::FetchRefusal::Range), "{first} {count}");
    }
    assert!(matches!(ask(content, 0, 4).await, Header::Chunks { bytes: 1_000_000, .. }));
}

/// 10^4 idle connections from one IP, scaled to a limit of 8: others are still served.
#[tokio::test(flavor = "multi_thread")]
async fn connections_from_one_address_are_bounded_and_others_get_in() {
    let listen = |ip: &str| vec![address(&format!("/ip4/{ip}/tcp/0"))];
    let master = TestNode::start(Role::Master, |config| {
        config.limits.connections_per_ip = 8;
        config.listen = listen("127.0.0.1");
    })
    .await;
    let target = tcp_address(&master).to_string();
    let port: u16 = target.rsplit('/').next().unwrap().parse().unwrap();
    // Half-open and silent: bare TCP, not a byte sent. All are held open.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let refused = Stranger::start().await;
    let error = tokio::time::timeout(Duration::from_secs(15), refused.connect(&tcp_address(&master))).await;
    assert!(!matches!(error, Ok(Ok(_))), "one more from the same address");
    let anna = TestNode::peer_with(&master, |config| config.listen = listen("127.0.0.2")).await;
    anna.share_file("name", b"x").await;
    drop(idle);
}

/// A client that asks and does not read holds its share of the slots, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_delays_nobody_else() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(12, 8_000_000);
    anna.share_file("file", &bytes).await;
    let (stranger, id) = Stranger::at(&anna).await;
    let stranger = Arc::new(stranger);
    let request = framed(&fetch::FetchRequest::Chunks(
        fetch::ChunkRun { content: ContentId::of(&bytes), first: 0, count: 4 }.into(),
    ));
    let flood: Vec<_> = (0..400)
        .map(|_| {
            let (stranger, request) = (stranger.clone(), request.clone());
            tokio::spawn(async move { stranger.send(FETCH, id, request).await })
        })
        .collect();
    let got = tokio::time::timeout(Duration::from_secs(30), ben.fetch("file")).await.expect("served in time").unwrap();
    assert_eq!(std::fs::read(got.path).unwrap(), bytes);
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Addresses of a member that lead elsewhere: dialled in vain, and nothing else happens.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_member_that_lead_nowhere_are_bounded_and_harmless() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let anna = TestNode::peer(&master).await;
    let mut addresses: Vec<Multiaddr> = (1..200).map(|port| address(&format!("/ip4/127.0.0.1/tcp/{port}"))).collect();
    addresses.insert(0, tcp_address(&anna));
    addresses.extend(["/memory/1", "/ip4/0.0.0.0/tcp/1", "/ip4/127.0.0.1/udp/53"].map(address));
    let join = Join {
        network: "swarmdex".to_owned(),
        addresses,
        digest: ShareDigest::empty(),
        entries: 0,
        newest: None,
        run: None,
        machine: None,
        again: false,
    };
    let IndexResponse::Joined(joined) = stranger.ask(id, &IndexRequest::Join(join)).await else { panic!() };
    verdicts(&stranger, id, &announce(joined.session, 1, &["bait"])).await;
    let ben = TestNode::peer(&master).await;
    let holders = ben.lookup("bait").await.unwrap().holders;
    assert_eq!(holders[0].addresses.len(), 16);
    stranger.disconnect(id).await;
    drop(stranger);
    // Anna answers at one of the addresses, and is not whom Ben means.
    let error = ben.fetch("bait").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}
