//! The bytes of every message: fixed by examples, checked against another CBOR library both ways, and at
//! their limits.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Debug;

use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use swarmdex_protocols::check::{self, Held};
use swarmdex_protocols::codec::{DecodeError, decode, encode};
use swarmdex_protocols::content::Proof;
use swarmdex_protocols::fetch::{self, Header};
use swarmdex_protocols::index::{
    Again, Announce, Call, Compare, Compared, Connect, Cursor, Fingerprint, Followed, Found, Granted, IndexRequest,
    IndexResponse, Join, Joined, Leave, Lookup, Mark, Member, Offer, Owned, Page, Part, Peers, Range, Reach, Refusal,
    RefusalCode, Reign, Renew, Renewed, Report, Returned, Revoke, RevokeOutcome, Run, Sealed, Seals, Search, Sequence,
    Session, ShareDigest, ShareSum, Verdict,
};
use swarmdex_protocols::limits::*;
use swarmdex_protocols::statement::{self, MAX_MODIFIED_NS, Seal, Subject};
use swarmdex_protocols::{
    Attributes, Certificate, Claim, ContentId, Entry, Keypair, Multiaddr, Name, Network, PeerId, RecordKey, Rule,
    SignedAttributes, Statement, Tombstone, Version, mirror,
};

fn key() -> Keypair {
    Keypair::ed25519_from_bytes([1; 32]).unwrap()
}

fn peer() -> PeerId {
    key().public().to_peer_id()
}

fn content() -> ContentId {
    ContentId::from_bytes([0xab; 32])
}

fn entry(name: &str) -> Entry {
    Entry {
        name: Name::parse(name).unwrap(),
        content: content(),
        size: 7,
        owner: peer(),
        version: Version(9),
        attributes: None,
    }
}

fn seal() -> Seal {
    Seal { issued_ms: 1000, expires_ms: 2000, signature: vec![1, 2, 3] }
}

/// As long as a seal gets.
fn full_seal() -> Seal {
    Seal { issued_ms: u64::MAX, expires_ms: u64::MAX, signature: vec![0; 64] }
}

fn member() -> Member {
    let addresses = vec!["/ip4/10.0.0.1/tcp/4747".parse().unwrap()];
    Member { peer: peer(), addresses, suspect: true, entries: 3, reachable: None }
}

fn requests() -> Vec<IndexRequest> {
    vec![
        IndexRequest::Join(Join {
            network: "lab".to_owned(),
            addresses: vec!["/ip4/10.0.0.1/udp/4747/quic-v1".parse().unwrap()],
            digest: ShareDigest::from_bytes([2; 32]),
            entries: 5,
            newest: None,
            run: None,
            machine: None,
            again: false,
        }),
        IndexRequest::Join(Join {
            network: "lab".to_owned(),
            addresses: Vec::new(),
            digest: ShareDigest::empty(),
            entries: 0,
            newest: Some(Box::new(Certificate { entry: entry("n"), seal: seal() })),
            run: None,
            machine: None,
            again: false,
        }),
        IndexRequest::Announce(Announce {
            session: Session(1 << 40),
            sequence: Sequence(2),
            offers: vec![
                Offer::new("a/b", content(), 7),
                Offer {
                    granted: Some(Granted { version: Version(9), seal: seal() }),
                    claimed: true,
                    ..Offer::new("c", content(), 8)
                },
            ],
            last: true,
            total: None,
        }),
        IndexRequest::Revoke(Revoke { session: Session(1), sequence: Sequence(3), names: vec!["a".to_owned()] }),
        IndexRequest::Lookup(Lookup { name: "é".to_owned() }),
        IndexRequest::Search(Search {
            query: "a b".to_owned(),
            cursor: Some(Cursor(12)),
            limit: 100,
            rule: Rule::First,
        }),
        IndexRequest::Search(Search { query: String::new(), cursor: None, limit: 1, rule: Rule::First }),
        IndexRequest::Report(Report { peer: peer() }),
        IndexRequest::Peers(Peers { after: Some(peer()) }),
        IndexRequest::Leave(Leave { session: Session(1) }),
        IndexRequest::Announce(Announce {
            session: Session(1),
            sequence: Sequence(4),
            offers: Vec::new(),
            last: true,
            total: Some(sum()),
        }),
        IndexRequest::Renew(Renew { session: Session(1), held: sum(), repaired: 0 }),
        IndexRequest::Renew(Renew { session: Session(1), held: sum(), repaired: 2 }),
        IndexRequest::Compare(Compare {
            session: Session(1),
            ranges: vec![
                Range { from: String::new(), to: Some("b".to_owned()), held: sum() },
                Range { from: "c".to_owned(), to: None, held: sum() },
            ],
        }),
    ]
}

fn sum() -> ShareSum {
    ShareSum { entries: 7, digest: ShareDigest::from_bytes([3; 32]) }
}

fn responses() -> Vec<IndexResponse> {
    let refusal = Refusal::new(RefusalCode::Quota, "too many");
    vec![
        IndexResponse::Joined(Joined {
            session: Session(8),
            lease_ms: 30_000,
            unchanged: false,
            again: false,
            bare: false,
        }),
        IndexResponse::Announced(vec![
            Verdict::Accepted { version: Version(9), seal: seal() },
            Verdict::Conflict { owner: peer() },
            Verdict::Refused(refusal.clone()),
        ]),
        IndexResponse::Revoked(vec![
            RevokeOutcome::Revoked { version: Version(10) },
            RevokeOutcome::NotHeld,
            RevokeOutcome::Conflict { owner: peer() },
            RevokeOutcome::Refused(refusal.clone()),
        ]),
        IndexResponse::Found(Found {
            certificate: Certificate { entry: entry("a/b"), seal: seal() },
            holders: vec![member()],
        }),
        IndexResponse::Page(Page { entries: vec![entry("x")], next: Some(Cursor(4)) }),
        IndexResponse::Owned(Owned { statements: statements(), next: Some(Cursor(7)) }),
        IndexResponse::Members(vec![member()]),
        IndexResponse::Done,
        IndexResponse::Refused(refusal),
        IndexResponse::Renewed(Renewed { agreed: true, wait_ms: 10_000, notice: None }),
        IndexResponse::Renewed(Renewed { agreed: false, wait_ms: 10_000, notice: Some("a twin".to_owned()) }),
        IndexResponse::Compared(vec![
            Compared::Same,
            Compared::Split(vec![
                Part { from: "a".to_owned(), held: sum() },
                Part { from: "b".to_owned(), held: sum() },
            ]),
            Compared::Names(vec![Mark { name: "c".to_owned(), mark: u64::MAX }]),
        ]),
        IndexResponse::Refused(Refusal::new(RefusalCode::Differs, "again")),
    ]
}

fn statements() -> Vec<Statement> {
    let certificate = Certificate { entry: entry("a/b"), seal: seal() };
    vec![
        Statement::Certificate(certificate.clone()),
        Statement::Tombstone(Tombstone { name: entry("a").name, owner: peer(), version: Version(10), seal: seal() }),
        Statement::Revocation(statement::Revocation { certificate, seal: seal() }),
        Statement::Claim(Claim { entry: entry("b"), base: Version(8), withdrawn: false, seal: seal() }),
        Statement::Claim(Claim { entry: entry("b"), base: Version(8), withdrawn: true, seal: seal() }),
    ]
}

fn mirror_requests() -> Vec<mirror::MirrorRequest> {
    let key = RecordKey::name(&Network::parse("lab").unwrap(), &entry("a/b").name);
    let addresses = member().addresses;
    vec![
        mirror::MirrorRequest::Store(mirror::Store {
            statements: statements(),
            provide: vec![key],
            addresses,
            ..mirror::Store::default()
        }),
        mirror::MirrorRequest::Read(vec![key]),
        mirror::MirrorRequest::Providers(key),
        mirror::MirrorRequest::Store(mirror::Store { withdraw: vec![key], ..mirror::Store::default() }),
        mirror::MirrorRequest::Check(vec![check::KeyRange {
            from: key,
            to: key,
            count: 2,
            digest: check::KeyMark::provided(&key),
        }]),
    ]
}

fn mirror_responses() -> Vec<mirror::MirrorResponse> {
    use mirror::StoreVerdict::*;
    let key = RecordKey::name(&Network::parse("lab").unwrap(), &entry("a/b").name);
    vec![
        mirror::MirrorResponse::Stored(mirror::Stored {
            statements: vec![Stored, Older, Certified(peer()), Claimed(peer()), Invalid, Full],
            provided: 3,
        }),
        mirror::MirrorResponse::Records(vec![Vec::new(), statements()]),
        mirror::MirrorResponse::Providers(vec![mirror::Provider { peer: peer(), addresses: Vec::new() }]),
        mirror::MirrorResponse::Refused(Refusal::new(RefusalCode::Busy, "later")),
        mirror::MirrorResponse::Checked(vec![
            check::KeysCompared::Same,
            check::KeysCompared::Differs(Held {
                statements: statements().iter().map(|statement| check::KeyMark::statement(&key, statement)).collect(),
                provided: vec![key],
            }),
            check::KeysCompared::Many(5000),
        ]),
    ]
}

/// How one name is looked up, and what a newcomer's neighbours tell it.
fn finds() -> (Vec<mirror::MirrorRequest>, Vec<mirror::MirrorResponse>) {
    let key = RecordKey::name(&Network::parse("lab").unwrap(), &entry("a/b").name);
    let provider = || mirror::Provider { peer: peer(), addresses: member().addresses };
    let requests = vec![
        mirror::MirrorRequest::Find(key),
        mirror::MirrorRequest::Part(mirror::KeySpacePart { place: [7; 32], bits: 3, after: None }),
        mirror::MirrorRequest::Part(mirror::KeySpacePart { place: [7; 32], bits: 255, after: Some(key) }),
    ];
    let responses = vec![
        mirror::MirrorResponse::Found(mirror::KeyFound { statements: statements(), closer: vec![provider()] }),
        mirror::MirrorResponse::Part(mirror::Stock {
            statements: statements().into_iter().map(|statement| (statement, 3600)).collect(),
            nodes: vec![provider()],
            pairs: vec![(key, 0, 3599)],
            next: Some(key),
        }),
        mirror::MirrorResponse::Part(mirror::Stock::default()),
    ];
    (requests, responses)
}

fn fetches() -> Vec<fetch::FetchRequest> {
    let run = fetch::ChunkRun { content: content(), first: 300, count: 4 };
    let addresses = vec!["/ip4/10.0.0.1/tcp/4747".parse().unwrap()];
    vec![
        fetch::FetchRequest::Chunks(run.into()),
        fetch::FetchRequest::Chunks(fetch::Want { have: vec![0xf0, 1], ..run.into() }),
        fetch::FetchRequest::Any(fetch::AnyOf { content: content(), first: 3, others: vec![0xf0, 1] }),
        fetch::FetchRequest::Have(fetch::Have { content: content(), addresses, have: Vec::new() }),
        fetch::FetchRequest::Have(fetch::Have { content: content(), addresses: Vec::new(), have: vec![7] }),
        fetch::FetchRequest::Have(fetch::Have { content: content(), addresses: Vec::new(), have: Vec::new() }),
        fetch::FetchRequest::Files(vec![content(), content()]),
        fetch::FetchRequest::Cancel(run),
        fetch::FetchRequest::Wrong(run),
    ]
}

fn headers() -> Vec<Header> {
    vec![
        Header::Chunks {
            bytes: 1 << 20,
            proofs: vec![Proof::new(vec![[5; 32], [6; 32]]), Proof::default()],
            have: Vec::new(),
        },
        Header::Chunks { bytes: 1 << 18, proofs: vec![Proof::new(vec![[5; 32]])], have: vec![0xf0, 1] },
        Header::Instead { first: 9, bytes: 1 << 18, proof: Proof::new(vec![[5; 32]]) },
        Header::Have {
            bytes: 2,
            whole: false,
            others: vec![fetch::Other { peer: peer(), addresses: Vec::new() }],
            sending: false,
        },
        Header::Files { bytes: 7, sizes: vec![Some(7), None] },
        Header::Done,
        Header::Refused(fetch::FetchRefusal::Changed),
    ]
}

/// Runs and machines, and which master a node follows.
fn joins_and_masters() -> (Vec<IndexRequest>, Vec<IndexResponse>) {
    let join = Join {
        network: "lab".to_owned(),
        addresses: Vec::new(),
        digest: ShareDigest::empty(),
        entries: 0,
        newest: None,
        run: Some(Run(1 << 60)),
        machine: Some(Fingerprint::of("0123456789abcdef0123456789abcdef", &peer())),
        again: false,
    };
    let only_run = Join { machine: None, ..join.clone() };
    let followed = Followed { master: Some(peer()), addresses: member().addresses, reign: None };
    (
        vec![IndexRequest::Join(join), IndexRequest::Join(only_run), IndexRequest::Master],
        vec![
            IndexResponse::Master(followed),
            IndexResponse::Master(Followed::default()),
            IndexResponse::Refused(Refusal::new(RefusalCode::Twin, "another run")),
        ],
    )
}

/// What a peer that left comes back with.
fn returns() -> (Vec<IndexRequest>, Vec<IndexResponse>) {
    let Some(IndexRequest::Join(join)) = requests().into_iter().next() else { unreachable!() };
    let again = Again { session: Session(1), sequence: Sequence(2) };
    let returned = |through: Option<&str>, except: &[&str]| {
        let except = except.iter().map(ToString::to_string).collect();
        IndexResponse::Returned(Returned { version: Version(9), through: through.map(str::to_owned), except })
    };
    (
        vec![
            IndexRequest::Join(Join { again: true, ..join }),
            IndexRequest::Again(again),
            IndexRequest::Seals(Seals { session: Session(1), from: "a/b".to_owned() }),
        ],
        vec![
            IndexResponse::Joined(Joined {
                session: Session(8),
                lease_ms: 30_000,
                unchanged: false,
                again: true,
                bare: false,
            }),
            returned(Some("a/b"), &["a"]),
            returned(None, &[]),
            IndexResponse::Sealed(vec![Sealed { name: "a/b".to_owned(), version: Version(9), seal: seal() }]),
        ],
    )
}

fn signed(executable: bool, modified_ns: i64) -> Option<Box<SignedAttributes>> {
    let (network, content) = (Network::parse("lab").unwrap(), content());
    let subject = Subject { name: "a/b", content: &content, size: 7, network: &network };
    let signed = SignedAttributes::sign(Attributes::new(executable, modified_ns), subject, &key());
    Some(Box::new(signed.unwrap()))
}

/// What files have beside their bytes.
fn attributes() -> (IndexRequest, Vec<IndexResponse>, Statement) {
    let offers = [(true, 1_700_000_000_123_456_789), (false, -1), (true, i64::MAX)];
    let offers = offers.map(|(executable, modified_ns)| Offer {
        attributes: signed(executable, modified_ns),
        ..Offer::new("a/b", content(), 7)
    });
    let entry = Entry { attributes: signed(true, 0), ..entry("a/b") };
    let joined = Joined { session: Session(8), lease_ms: 30_000, unchanged: true, again: false, bare: true };
    let network = Network::parse("lab").unwrap();
    (
        IndexRequest::Announce(Announce {
            session: Session(1),
            sequence: Sequence(2),
            offers: offers.to_vec(),
            last: false,
            total: None,
        }),
        vec![IndexResponse::Joined(joined), IndexResponse::Page(Page { entries: vec![entry.clone()], next: None })],
        Statement::Claim(Claim::sign(entry, Version(8), false, &network, &key(), 1000).unwrap()),
    )
}

fn sending() -> Header {
    Header::Have { bytes: 0, whole: true, others: Vec::new(), sending: true }
}

/// Who can be reached, and who calls whom.
fn reaches() -> (Vec<IndexRequest>, Vec<IndexResponse>) {
    let addresses = member().addresses;
    (
        vec![
            IndexRequest::Call(Call { peer: peer() }),
            IndexRequest::Connect(Connect { peer: peer(), addresses }),
            IndexRequest::Reach(Reach { reachable: false }),
        ],
        vec![IndexResponse::Members(vec![
            Member { reachable: Some(false), ..member() },
            Member { reachable: Some(true), ..member() },
        ])],
    )
}

/// How a master stands with its index.
fn reign() -> IndexResponse {
    let reign = Reign { run: Run(1 << 60), age_ms: 1000, first: Version(7), last: Version(9) };
    IndexResponse::Master(Followed { master: Some(peer()), addresses: Vec::new(), reign: Some(reign) })
}

/// A question by the second rule of words.
fn searched() -> IndexRequest {
    IndexRequest::Search(Search { query: "img 2024".to_owned(), cursor: None, limit: 5, rule: Rule::Second })
}

/// Bytes that never change: a second implementation must produce and accept just these.
const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn every_message_has_its_bytes() {
    fn lines<T: Serialize + Debug>(kind: &str, messages: &[T]) -> String {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        messages.iter().map(|message| format!("{kind} {}\n", hex(encode(message, usize::MAX).unwrap()))).collect()
    }
    let mut all = lines("request", &requests());
    all += &lines("response", &responses());
    all += &lines("fetch", &fetches());
    all += &lines("header", &headers());
    let certificate = Certificate::sign(entry("a/b"), &Network::parse("lab").unwrap(), &key(), 1000).unwrap();
    all += &lines("certificate", std::slice::from_ref(&certificate));
    all += &lines("mirror", &mirror_requests());
    all += &lines("mirrored", &mirror_responses());
    let network = Network::parse("lab").unwrap();
    let tombstone = Tombstone::sign(entry("a/b").name, peer(), Version(10), &network, &key(), 1000).unwrap();
    let claim = |withdrawn| Claim::sign(entry("a/b"), Version(8), withdrawn, &network, &key(), 1000).unwrap();
    all += &lines(
        "signed",
        &[
            Statement::Tombstone(tombstone),
            Statement::Revocation(statement::Revocation::sign(certificate, &network, &key(), 1000).unwrap()),
            Statement::Claim(claim(false)),
            Statement::Claim(claim(true)),
        ],
    );
    let keys = [
        RecordKey::name(&network, &entry("a/b").name),
        RecordKey::content(&network, &content()),
        RecordKey::word(&network, "word"),
    ];
    all += &lines("key", &keys);
    let (requests, responses) = joins_and_masters();
    all += &lines("request", &requests);
    all += &lines("response", &responses);
    all += &lines("key", &[RecordKey::node(&network, &peer())]);
    let (requests, responses) = returns();
    all += &lines("request", &requests);
    all += &lines("response", &responses);
    let (requests, responses) = finds();
    all += &lines("mirror", &requests);
    all += &lines("mirrored", &responses);
    let (requests, responses) = reaches();
    all += &lines("request", &requests);
    all += &lines("response", &responses);
    all += &lines("header", &[sending()]);
    all += &lines("request", &[searched()]);
    let found_by = Name::parse("Résumé/東京の地図 IMG20240131.jpg").unwrap();
    all += &lines("key", &RecordKey::of_words(&network, &found_by));
    all += &lines("response", &[reign()]);
    let (request, responses, claim) = attributes();
    all += &lines("request", &[request]);
    all += &lines("response", &responses);
    all += &lines("signed", &[claim]);
    assert_eq!(all, GOLDEN, "the bytes of a message changed: that takes a new protocol id");
}

fn cross_check<T: Serialize + DeserializeOwned + PartialEq + Debug>(messages: &[T]) {
    for message in messages {
        let ours = encode(message, usize::MAX).unwrap();
        assert_eq!(&decode::<T>(&ours, usize::MAX).unwrap(), message);
        assert_eq!(&ciborium::from_reader::<T, _>(&ours[..]).unwrap(), message, "theirs reads ours");
        let mut theirs = Vec::new();
        ciborium::into_writer(message, &mut theirs).unwrap();
        assert_eq!(theirs, ours, "both write the same bytes");
        // Cut anywhere it is truncated, and followed by anything it is not this message.
        for end in 0..ours.len() {
            assert_eq!(decode::<T>(&ours[..end], usize::MAX), Err(DecodeError::Truncated), "{message:?} cut at {end}");
        }
        assert_eq!(decode::<T>(&[&ours[..], &[0]].concat(), usize::MAX), Err(DecodeError::TrailingBytes));
    }
}

#[test]
fn another_library_writes_and_reads_the_same_bytes() {
    cross_check(&requests());
    cross_check(&responses());
    cross_check(&returns().0);
    cross_check(&returns().1);
    cross_check(&reaches().0);
    cross_check(&reaches().1);
    cross_check(&[sending()]);
    cross_check(&[reign()]);
    cross_check(&[searched()]);
    cross_check(&fetches());
    cross_check(&headers());
    cross_check(&mirror_requests());
    cross_check(&mirror_responses());
    cross_check(&finds().0);
    cross_check(&finds().1);
    let (requests, responses) = joins_and_masters();
    cross_check(&requests);
    cross_check(&responses);
    let (request, responses, claim) = attributes();
    cross_check(&[request]);
    cross_check(&responses);
    cross_check(&[claim]);
}

#[test]
fn a_new_optional_field_is_ignored_and_a_missing_one_has_its_default() {
    use ciborium::value::Value;
    let pairs = [("w", Value::from("a")), ("m", 5.into()), ("zz", Value::Array(vec![1.into(), 2.into()]))];
    let search = pairs.map(|(key, value)| (key.into(), value)).to_vec();
    let newer = Value::Map(vec![("search".into(), Value::Map(search))]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&newer, &mut bytes).unwrap();
    let search = Search { query: "a".to_owned(), cursor: None, limit: 5, rule: Rule::First };
    assert_eq!(decode::<IndexRequest>(&bytes, 1000), Ok(IndexRequest::Search(search)));
}

/// An entry as builds know it that have never heard of attributes.
#[derive(serde::Deserialize)]
struct EarlierEntry {
    #[serde(rename = "n")]
    name: Name,
    #[serde(rename = "v")]
    version: Version,
}

#[test]
fn builds_that_do_not_know_attributes_read_past_them_and_check_the_same_signature() {
    let network = Network::parse("lab").unwrap();
    let plain = Certificate::sign(entry("a/b"), &network, &key(), 1000).unwrap();
    let full = Entry { attributes: signed(true, 5), ..entry("a/b") };
    let full = Certificate::sign(full, &network, &key(), 1000).unwrap();
    assert_eq!(full.seal, plain.seal, "the master signs what it always signed");
    let bytes = encode(&full.entry, 1000).unwrap();
    let earlier: EarlierEntry = decode(&bytes, 1000).unwrap();
    assert_eq!((earlier.name, earlier.version), (full.entry.name.clone(), full.entry.version));
    // And what they pass on without them is as valid.
    Certificate { entry: plain.entry, seal: full.seal }.verify(&network, &key().public(), 1000).unwrap();
}

#[test]
fn what_is_no_message_is_told_apart() {
    let unknown = encode(&std::collections::BTreeMap::from([("dance", 1)]), 100).unwrap();
    assert!(
        matches!(decode::<IndexRequest>(&unknown, 100), Err(DecodeError::UnknownVariant(text)) if text.contains("dance"))
    );
    // So is one without fields, which is a text.
    let unknown = encode(&"dance", 100).unwrap();
    assert!(matches!(decode::<IndexRequest>(&unknown, 100), Err(DecodeError::UnknownVariant(_))));
    assert_eq!(decode::<IndexRequest>(&[0; 11], 10), Err(DecodeError::TooLarge { actual: 11, limit: 10 }));
    // Strings, arrays and maps that declare more than there is cost nothing.
    for first in [0x5bu8, 0x7b, 0x9b, 0xbb] {
        let bytes = [&[first][..], &(1u64 << 60).to_be_bytes()].concat();
        assert!(decode::<IndexRequest>(&bytes, 100).is_err());
    }
    assert!(matches!(decode::<IndexRequest>(&vec![0x81; 100_000], usize::MAX), Err(DecodeError::Malformed(_))));
    let twice = ciborium::value::Value::Map(vec![("n".into(), "a".into()), ("n".into(), "b".into())]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&ciborium::value::Value::Map(vec![("lookup".into(), twice)]), &mut bytes).unwrap();
    assert!(matches!(decode::<IndexRequest>(&bytes, 1000), Err(DecodeError::Malformed(_))), "a key twice");
    assert_eq!(RefusalCode::from(u16::from(RefusalCode::Other(999))), RefusalCode::Other(999));
    for number in 0..40 {
        assert_eq!(u16::from(RefusalCode::from(number)), number);
        assert_eq!(u16::from(fetch::FetchRefusal::from(number)), number);
    }
}

#[test]
fn any_of_several_chunks_is_asked_for_within_its_window() {
    let window = MAX_ANY_CHUNKS;
    let any = fetch::AnyOf::new(content(), window + 5, [0, window - 1, window, window + 9, 2 * window - 1, 2 * window]);
    let choices: Vec<_> = any.choices().collect();
    assert_eq!(choices, [window + 5, window, window + 9, 2 * window - 1]);
    assert_eq!(fetch::AnyOf::new(content(), 3, []).choices().collect::<Vec<_>>(), [3]);
    // At the end of all numbers, and with more bits than there may be.
    let last = fetch::AnyOf { content: content(), first: u64::MAX, others: vec![0xff; 2000] };
    assert_eq!(last.choices().count() as u64, 1 + window);
}

#[test]
fn messages_at_their_limits_fit() {
    let long = |number: usize| format!("{number:04}{}", format!("/{}", "y".repeat(200)).repeat(5));
    let padded = |number: usize| format!("{}{}", long(number), "z".repeat(MAX_NAME_BYTES - long(number).len()));
    assert_eq!(padded(1).len(), MAX_NAME_BYTES);
    let offers = (0..MAX_BATCH_ENTRIES)
        .map(|number| Offer {
            granted: Some(Granted { version: Version(u64::MAX), seal: full_seal() }),
            claimed: true,
            attributes: signed(true, MAX_MODIFIED_NS),
            ..Offer::new(padded(number), content(), MAX_FILE_BYTES)
        })
        .collect();
    let announce =
        Announce { session: Session(u64::MAX), sequence: Sequence(u64::MAX), offers, last: true, total: None };
    encode(&IndexRequest::Announce(announce), MAX_INDEX_MESSAGE).unwrap();
    let attributes = signed(true, MAX_MODIFIED_NS);
    let big = Entry { version: Version(u64::MAX), size: u64::MAX, attributes: attributes.clone(), ..entry(&padded(1)) };
    let page = Page { entries: vec![big; MAX_PAGE_ENTRIES], next: Some(Cursor(u64::MAX)) };
    encode(&IndexResponse::Page(page), MAX_INDEX_MESSAGE).unwrap();
    let accepted = Verdict::Accepted { version: Version(u64::MAX), seal: full_seal() };
    encode(&IndexResponse::Announced(vec![accepted; MAX_BATCH_ENTRIES]), MAX_INDEX_MESSAGE).unwrap();
    let refused = Verdict::Refused(Refusal::new(RefusalCode::InvalidName, "r".repeat(10_000)));
    encode(&IndexResponse::Announced(vec![refused; MAX_BATCH_ENTRIES]), MAX_INDEX_MESSAGE).unwrap();
    let name = format!("/dns4/{}/udp/65535/quic-v1", "d".repeat(250));
    let address: Multiaddr = name.parse().unwrap();
    let member = Member { addresses: vec![address; MAX_ADDRESSES], entries: u64::MAX, ..member() };
    encode(&IndexResponse::Members(vec![member.clone(); MAX_MEMBERS]), MAX_INDEX_MESSAGE).unwrap();
    let followed = Followed { master: Some(peer()), addresses: member.addresses.clone(), reign: None };
    encode(&IndexResponse::Master(followed), MAX_INDEX_MESSAGE).unwrap();
    let certificate = Certificate { entry: entry(&padded(2)), seal: seal() };
    let found = Found { certificate, holders: vec![member; MAX_HOLDERS] };
    encode(&IndexResponse::Found(found), MAX_INDEX_MESSAGE).unwrap();
    let revocation = statement::Revocation {
        certificate: Certificate {
            entry: Entry { size: u64::MAX, version: Version(u64::MAX), attributes, ..entry(&padded(3)) },
            seal: full_seal(),
        },
        seal: full_seal(),
    };
    let longest = Statement::Revocation(revocation.clone());
    let owned = Owned { statements: vec![longest.clone(); MAX_PAGE_ENTRIES], next: Some(Cursor(u64::MAX)) };
    encode(&IndexResponse::Owned(owned), MAX_INDEX_MESSAGE).unwrap();
    let claim = Claim {
        entry: revocation.certificate.entry.clone(),
        base: Version(u64::MAX),
        withdrawn: true,
        seal: full_seal(),
    };
    let record = vec![longest, Statement::Claim(claim)];
    assert!(encode(&record, MAX_RECORD_BYTES - 16).is_ok());
    let records = mirror::MirrorResponse::Records(vec![record.clone(); MAX_MIRROR_RECORDS]);
    encode(&records, MAX_MIRROR_MESSAGE).unwrap();
    let provider = mirror::Provider { peer: peer(), addresses: vec![name.parse().unwrap(); MAX_OTHER_ADDRESSES] };
    encode(&mirror::MirrorResponse::Providers(vec![provider.clone(); MAX_PROVIDERS]), MAX_MIRROR_MESSAGE).unwrap();
    let key = RecordKey::word(&Network::default(), "");
    let provide = vec![key; MAX_MIRROR_KEYS];
    let statements = vec![record[0].clone(); MAX_MIRROR_RECORDS];
    let addresses = vec![name.parse().unwrap(); MAX_ADDRESSES];
    let store = mirror::Store { statements, provide: provide.clone(), addresses, withdraw: provide };
    encode(&mirror::MirrorRequest::Store(store), MAX_MIRROR_MESSAGE).unwrap();
    let range = check::KeyRange { from: key, to: key, count: u32::MAX, digest: check::KeyMark(u64::MAX) };
    encode(&mirror::MirrorRequest::Check(vec![range; MAX_MIRROR_RANGES]), MAX_MIRROR_MESSAGE).unwrap();
    let held =
        Held { statements: vec![check::KeyMark(u64::MAX); MAX_MIRROR_HELD], provided: vec![key; MAX_MIRROR_HELD] };
    let mut compared = vec![check::KeysCompared::Many(u32::MAX); MAX_MIRROR_RANGES];
    compared.push(check::KeysCompared::Differs(held));
    encode(&mirror::MirrorResponse::Checked(compared), MAX_MIRROR_MESSAGE).unwrap();
    let found = mirror::KeyFound { statements: record.clone(), closer: vec![provider.clone(); MAX_CLOSER] };
    encode(&mirror::MirrorResponse::Found(found), MAX_MIRROR_MESSAGE).unwrap();
    let stock = mirror::Stock {
        statements: vec![(record[0].clone(), u32::MAX); MAX_STOCK_STATEMENTS],
        nodes: vec![provider; MAX_PROVIDERS],
        pairs: vec![(key, u16::MAX, u32::MAX); MAX_MIRROR_KEYS],
        next: Some(key),
    };
    encode(&mirror::MirrorResponse::Part(stock), MAX_MIRROR_MESSAGE).unwrap();
    // Four small chunks, or one of the largest file, with all their proofs.
    let proofs = vec![Proof::new(vec![[0; 32]; 24]); 4];
    let have = vec![0xff; MAX_HAVE_ALONG];
    encode(&Header::Chunks { bytes: MAX_FETCH_BODY as u32, proofs, have: have.clone() }, MAX_FETCH_HEADER).unwrap();
    let run = fetch::ChunkRun { content: content(), first: u64::MAX, count: u32::MAX };
    encode(&fetch::FetchRequest::Chunks(fetch::Want { have: have.clone(), ..run.into() }), MAX_FETCH_REQUEST).unwrap();
    encode(&fetch::FetchRequest::Files(vec![content(); MAX_FETCH_FILES]), MAX_FETCH_REQUEST).unwrap();
    let any = fetch::AnyOf { content: content(), first: u64::MAX, others: vec![0xff; MAX_ANY_CHUNKS as usize / 8] };
    encode(&fetch::FetchRequest::Any(any), MAX_FETCH_REQUEST).unwrap();
    let address: Multiaddr = format!("/dns4/{}/tcp/4747", "a".repeat(MAX_ADDRESS_BYTES - 20)).parse().unwrap();
    let have = fetch::Have { content: content(), addresses: vec![address.clone(); MAX_OTHER_ADDRESSES], have };
    encode(&fetch::FetchRequest::Have(have), MAX_FETCH_REQUEST).unwrap();
    let other = fetch::Other { peer: peer(), addresses: vec![address; MAX_OTHER_ADDRESSES] };
    let header = Header::Have { bytes: 1 << 20, whole: false, others: vec![other; MAX_FETCH_OTHERS], sending: false };
    encode(&header, MAX_FETCH_HEADER).unwrap();
    encode(&Header::Files { bytes: 1 << 20, sizes: vec![Some(4096); MAX_FETCH_FILES] }, MAX_FETCH_HEADER).unwrap();
}

prop_compose! {
    fn any_offer()(name in ".{0,40}", content in any::<[u8; 32]>(), size in any::<u64>()) -> Offer {
        Offer::new(name, ContentId::from_bytes(content), size)
    }
}

fn any_request() -> impl Strategy<Value = IndexRequest> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), prop::collection::vec(any_offer(), 0..8), any::<bool>()).prop_map(
            |(session, sequence, offers, last)| IndexRequest::Announce(Announce {
                session: Session(session),
                sequence: Sequence(sequence),
                offers,
                last,
                total: None,
            })
        ),
        (any::<u64>(), any::<u64>(), prop::collection::vec(".{0,20}", 0..8)).prop_map(|(session, sequence, names)| {
            IndexRequest::Revoke(Revoke { session: Session(session), sequence: Sequence(sequence), names })
        }),
        ".{0,60}".prop_map(|name| IndexRequest::Lookup(Lookup { name })),
        (".{0,60}", any::<Option<u64>>(), any::<u32>(), 1..3u32).prop_map(|(query, cursor, limit, rule)| {
            IndexRequest::Search(Search { query, cursor: cursor.map(Cursor), limit, rule: rule.into() })
        }),
        (".{0,20}", any::<[u8; 32]>(), any::<u64>()).prop_map(|(network, digest, entries)| {
            let addresses = vec!["/ip6/::1/tcp/1".parse().unwrap()];
            IndexRequest::Join(Join {
                network,
                addresses,
                digest: ShareDigest::from_bytes(digest),
                entries,
                newest: None,
                run: None,
                machine: None,
                again: false,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn any_request_survives_the_wire(request in any_request()) {
        let bytes = encode(&request, usize::MAX).unwrap();
        prop_assert_eq!(decode::<IndexRequest>(&bytes, bytes.len()).unwrap(), request);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<IndexRequest>(&bytes, 200);
        let _ = decode::<IndexResponse>(&bytes, 200);
        let _ = decode::<Header>(&bytes, 200);
        let _ = decode::<fetch::FetchRequest>(&bytes, 200);
        let _ = decode::<mirror::MirrorRequest>(&bytes, 200);
        let _ = decode::<mirror::MirrorResponse>(&bytes, 200);
    }

    #[test]
    fn no_flipped_bits_make_a_decoder_panic(which in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let all = responses();
        let mut bytes = encode(which.get(&all), usize::MAX).unwrap();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = decode::<IndexResponse>(&bytes, usize::MAX);
    }
}
