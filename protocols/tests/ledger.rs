//! What a name stands for is the same wherever and in whatever order its statements are put together.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use swarmdex_protocols::ledger::{InvalidRecord, Rejection, Standing};
use swarmdex_protocols::statement::{
    CERTIFICATE_LIFETIME_MS, CLAIM_LIFETIME_MS, CLOCK_TOLERANCE_MS, Invalid, MAX_MODIFIED_NS, MIN_MODIFIED_NS,
    Revocation, Subject,
};
use swarmdex_protocols::{
    Attributes, Authority, Certificate, Claim, ContentId, Entry, Keypair, Ledger, Name, Network, SignedAttributes,
    Statement, Tally, Tombstone, Version,
};

const NOW: u64 = 1_800_000_000_000;

fn key(number: u8) -> Keypair {
    Keypair::ed25519_from_bytes([number; 32]).unwrap()
}

/// The master is number 0.
fn authority() -> Authority {
    Authority::new(Network::default(), &key(0).public().to_peer_id()).unwrap()
}

fn entry(owner: u8, version: u64) -> Entry {
    Entry {
        name: Name::parse("a/b").unwrap(),
        content: ContentId::of(&[owner]),
        size: 1,
        owner: key(owner).public().to_peer_id(),
        version: Version(version),
        attributes: None,
    }
}

fn certificate(owner: u8, version: u64) -> Certificate {
    Certificate::sign(entry(owner, version), &Network::default(), &key(0), NOW).unwrap()
}

fn certified(owner: u8, version: u64) -> Statement {
    Statement::Certificate(certificate(owner, version))
}

fn freed(owner: u8, version: u64) -> Statement {
    let Entry { name, owner, version, .. } = entry(owner, version);
    Statement::Tombstone(Tombstone::sign(name, owner, version, &Network::default(), &key(0), NOW).unwrap())
}

fn revoked(owner: u8, version: u64) -> Statement {
    let revocation = Revocation::sign(certificate(owner, version), &Network::default(), &key(owner), NOW);
    Statement::Revocation(revocation.unwrap())
}

/// A claim made with the knowledge of every version before its own.
fn claim(owner: u8, version: u64, withdrawn: bool) -> Claim {
    let base = Version(version - 1);
    Claim::sign(entry(owner, version), base, withdrawn, &Network::default(), &key(owner), NOW).unwrap()
}

fn claimed(owner: u8, version: u64) -> Statement {
    Statement::Claim(claim(owner, version, false))
}

fn ledger(statements: impl IntoIterator<Item = Statement>) -> Ledger {
    let mut ledger = Ledger::default();
    for statement in statements {
        let _ = ledger.insert(statement, NOW);
    }
    ledger
}

#[test]
fn every_statement_verifies_and_nothing_else_does() {
    let authority = authority();
    for statement in [certified(1, 5), freed(1, 6), revoked(1, 5), claimed(1, 7)] {
        statement.verify(&authority, NOW).unwrap();
        let other = Authority { network: Network::parse("other").unwrap(), ..authority.clone() };
        assert_eq!(statement.verify(&other, NOW), Err(Invalid::Signature), "{statement}");
        let over = statement.expires_ms() + CLOCK_TOLERANCE_MS + 1;
        assert_eq!(statement.verify(&authority, over), Err(Invalid::Expired), "{statement}");
        assert_eq!(statement.verify(&authority, NOW - CLOCK_TOLERANCE_MS - 1), Err(Invalid::Dates), "{statement}");
    }
    // Signed by somebody else.
    let stranger = Authority::new(Network::default(), &key(9).public().to_peer_id()).unwrap();
    for statement in [certified(1, 5), freed(1, 6), revoked(1, 5)] {
        assert_eq!(statement.verify(&stranger, NOW), Err(Invalid::Signature), "{statement}");
    }
    let forged = Revocation::sign(certificate(1, 5), &Network::default(), &key(2), NOW).unwrap();
    assert_eq!(Statement::Revocation(forged).verify(&authority, NOW), Err(Invalid::Signature), "another revokes");
    let mut stolen = claim(1, 5, false);
    stolen.entry.owner = key(2).public().to_peer_id();
    assert_eq!(Statement::Claim(stolen).verify(&authority, NOW), Err(Invalid::Signature), "claimed for another");
    let mut kept = claim(1, 5, true);
    kept.withdrawn = false;
    assert_eq!(Statement::Claim(kept).verify(&authority, NOW), Err(Invalid::Signature), "a withdrawal is no claim");
    // A valid signature over another name.
    let mut renamed = certificate(1, 5);
    renamed.entry.name = Name::parse("a/c").unwrap();
    assert_eq!(Statement::Certificate(renamed).verify(&authority, NOW), Err(Invalid::Signature));
}

#[test]
fn expiry_in_the_year_2100_or_never_is_impossible() {
    let mut eternal = certificate(1, 5);
    for expires_ms in [4_102_444_800_000, u64::MAX] {
        eternal.seal.expires_ms = expires_ms;
        assert_eq!(Statement::Certificate(eternal.clone()).verify(&authority(), NOW), Err(Invalid::Dates));
    }
    let far = Version::default().next(NOW + CLOCK_TOLERANCE_MS + 10);
    assert_eq!(claimed(1, far.0).verify(&authority(), NOW), Err(Invalid::Dates), "a claim from the future");
}

#[test]
fn a_tombstone_outlives_every_stale_copy_and_old_copies_cannot_resurrect() {
    let mut ledger = ledger([certified(1, 5), freed(1, 6)]);
    assert_eq!(ledger.insert(certified(1, 5), NOW), Err(Rejection::Older));
    assert_eq!(ledger.standing(), Standing::Free);
    // The last moment at which anybody may believe the certificate.
    let last = NOW + CERTIFICATE_LIFETIME_MS + CLOCK_TOLERANCE_MS;
    ledger.expire(last);
    assert!(!ledger.is_empty(), "the tombstone is still there");
    ledger.insert(certified(2, 7), NOW).unwrap();
    assert_eq!(ledger.insert(freed(1, 6), NOW), Err(Rejection::Older));
    assert!(matches!(ledger.standing(), Standing::Certified(certificate) if certificate.entry == entry(2, 7)));
}

#[test]
fn a_revocation_ends_its_own_certificate_alone() {
    let mut ledger = ledger([certified(1, 5), revoked(1, 5)]);
    assert_eq!(ledger.standing(), Standing::Free);
    // Granted anew, to the same or another.
    ledger.insert(certified(2, 6), NOW).unwrap();
    assert_eq!(ledger.insert(revoked(1, 5), NOW), Err(Rejection::Older));
    assert!(matches!(ledger.standing(), Standing::Certified(_)));
}

#[test]
fn a_second_live_claim_is_refused_and_so_is_one_against_a_live_certificate() {
    let (one, two) = (key(1).public().to_peer_id(), key(2).public().to_peer_id());
    let mut ledger = ledger([certified(1, 5)]);
    assert_eq!(ledger.insert(claimed(2, 9), NOW), Err(Rejection::Certified(one)));
    ledger.insert(freed(1, 6), NOW).unwrap();
    assert_eq!(ledger.insert(claimed(2, 6), NOW), Err(Rejection::Older), "made before the name was freed");
    ledger.insert(claimed(2, 9), NOW).unwrap();
    ledger.insert(claimed(2, 9), NOW).unwrap();
    assert_eq!(ledger.insert(claimed(1, 10), NOW), Err(Rejection::Claimed(two)));
    assert!(matches!(ledger.standing(), Standing::Claimed(claim) if claim.entry.owner == two));
    // Its own later word replaces it, a withdrawal makes room.
    ledger.insert(Statement::Claim(claim(2, 11, true)), NOW).unwrap();
    assert_eq!(ledger.standing(), Standing::Free);
    assert_eq!(ledger.insert(claimed(2, 9), NOW), Err(Rejection::Older));
    ledger.insert(claimed(1, 10), NOW).unwrap();
    // A certificate ends it, unless it is its own and earlier.
    ledger.insert(certified(2, 8), NOW).unwrap();
    assert!(matches!(ledger.standing(), Standing::Certified(_)));
    assert_eq!(ledger.insert(claimed(2, 12), NOW), Err(Rejection::Older), "what is certified needs no claim");
    let changed = Entry { size: 2, ..entry(2, 12) };
    let changed = Claim::sign(changed, Version(8), false, &Network::default(), &key(2), NOW).unwrap();
    ledger.insert(Statement::Claim(changed), NOW).unwrap();
    assert!(matches!(ledger.standing(), Standing::Claimed(_)), "the owner's file changed meanwhile");
    ledger.insert(certified(2, 13), NOW).unwrap();
    assert!(matches!(ledger.standing(), Standing::Certified(_)));
    ledger.expire(NOW + CLAIM_LIFETIME_MS * 3);
    assert_eq!(ledger.version(), Version(13));
    // However far its owner's clock is ahead, a claim is over when something later is certified.
    let fast = Claim::sign(entry(2, 1000), Version(9), false, &Network::default(), &key(2), NOW).unwrap();
    assert_eq!(ledger.insert(Statement::Claim(fast), NOW), Err(Rejection::Older));
}

#[test]
fn most_of_the_closest_nodes_decide_between_claims() {
    let (one, two) = (ledger([claimed(1, 5)]), ledger([claimed(2, 6)]));
    let mut tally = Tally::default();
    for ledger in [&one, &two, &one, &Ledger::default()] {
        tally.add(ledger, NOW);
    }
    assert_eq!(tally.claim().map(|claim| claim.entry.clone()), Some(entry(1, 5)));
    assert_eq!((tally.answers(), tally.version()), (4, Version(6)));
    // A certificate that one node holds settles it.
    tally.add(&ledger([certified(3, 9)]), NOW);
    assert!(matches!(tally.standing(), Standing::Certified(certificate) if certificate.entry == entry(3, 9)));
}

#[test]
fn records_are_believed_whole_or_not_at_all() {
    let authority = authority();
    let good = ledger([freed(1, 6), claimed(2, 9)]);
    let name = Name::parse("a/b").unwrap();
    let bytes = good.encode().unwrap();
    assert_eq!(Ledger::decode(&bytes, &name, &authority, NOW).unwrap(), good);
    let other = Name::parse("other").unwrap();
    assert_eq!(Ledger::decode(&bytes, &other, &authority, NOW), Err(InvalidRecord::Name));
    let mut forged = bytes.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(Ledger::decode(&forged, &name, &authority, NOW), Err(Invalid::Signature.into()));
    assert!(matches!(Ledger::decode(&vec![0; 16 * 1024 + 1], &name, &authority, NOW), Err(InvalidRecord::Bytes(_))));
    assert!(Ledger::decode(&bytes, &name, &authority, NOW * 2).unwrap().is_empty(), "all over");
}

fn settled() -> impl Strategy<Value = Statement> {
    // Versions come from one master: each is given once, so the owner follows from it.
    (1..12u64, 0..3u8).prop_map(|(version, kind)| {
        let owner = (version % 3 + 1) as u8;
        match kind {
            0 => certified(owner, version * 2),
            1 => freed(owner, version * 2 + 1),
            _ => revoked(owner, version * 2),
        }
    })
}

/// A certificate with what its owner says of the file.
fn attributed(owner: u8, version: u64, signer: u8, executable: bool) -> Statement {
    let mut certificate = certificate(owner, version);
    let network = Network::default();
    let entry = &mut certificate.entry;
    let subject = Subject { name: entry.name.as_str(), content: &entry.content, size: entry.size, network: &network };
    let signed = SignedAttributes::sign(Attributes::new(executable, 5), subject, &key(signer)).unwrap();
    entry.attributes = Some(Box::new(signed));
    Statement::Certificate(certificate)
}

fn said(statement: &Statement) -> Option<Attributes> {
    match statement {
        Statement::Certificate(certificate) => certificate.entry.attributes(&Network::default()),
        _ => None,
    }
}

#[test]
fn attributes_are_the_owners_and_of_just_this_file() {
    let network = Network::default();
    let whole = attributed(1, 5, 1, true);
    assert_eq!(said(&whole), Some(Attributes { executable: true, modified_ns: Some(5) }));
    assert_eq!(said(&attributed(1, 5, 2, true)), None, "signed by another");
    assert_eq!(said(&attributed(1, 5, 0, true)), None, "not even by the master");
    let Statement::Certificate(Certificate { entry, .. }) = whole.clone() else { panic!() };
    for other in [
        Entry { content: ContentId::of(b"other"), ..entry.clone() },
        Entry { size: 2, ..entry.clone() },
        Entry { name: Name::parse("b").unwrap(), ..entry.clone() },
        Entry { owner: key(2).public().to_peer_id(), ..entry.clone() },
    ] {
        assert_eq!(other.attributes(&network), None);
    }
    assert_eq!(entry.attributes(&Network::parse("other").unwrap()), None);
    // The version is the master's to give.
    assert!(Entry { version: Version(9), ..entry }.attributes(&network).is_some());
    // What is false is taken out, and the certificate stands.
    let mut forged = attributed(1, 5, 2, true);
    forged.check(&authority(), NOW).unwrap();
    assert_eq!(forged, certified(1, 5));
    let mut good = whole.clone();
    good.check(&authority(), NOW).unwrap();
    assert_eq!(good, whole);
}

#[test]
fn attributes_that_one_node_lost_another_has_in_whatever_order_they_are_read() {
    let whole = attributed(1, 5, 1, true);
    for order in [[certified(1, 5), whole.clone()], [whole.clone(), certified(1, 5)]] {
        let mut ledger = Ledger::default();
        order.into_iter().for_each(|statement| ledger.insert(statement, NOW).unwrap());
        assert_eq!(ledger.settled().and_then(said), said(&whole));
        let bytes = ledger.encode().unwrap();
        let read = Ledger::decode(&bytes, &entry(1, 5).name, &authority(), NOW).unwrap();
        assert_eq!(read, ledger);
    }
    // Those of an earlier content are not taken over.
    let mut ledger = Ledger::default();
    ledger.insert(whole, NOW).unwrap();
    ledger.insert(certified(2, 6), NOW).unwrap();
    assert_eq!(ledger.settled().and_then(said), None);
    // Nor is a record believed that says something false of them.
    let mut forged = Ledger::default();
    forged.insert(attributed(1, 5, 2, true), NOW).unwrap();
    let read = Ledger::decode(&forged.encode().unwrap(), &entry(1, 5).name, &authority(), NOW).unwrap();
    assert_eq!(read.settled(), Some(&certified(1, 5)));
}

#[test]
fn times_that_cannot_be_do_not_travel() {
    for (modified_ns, said) in [
        (MIN_MODIFIED_NS, true),
        (MIN_MODIFIED_NS - 1, false),
        (i64::MIN, false),
        (MAX_MODIFIED_NS, true),
        (MAX_MODIFIED_NS + 1, false),
        (i64::MAX, false),
    ] {
        let attributes = Attributes::new(true, modified_ns);
        assert_eq!(attributes, Attributes { executable: true, modified_ns: Some(modified_ns).filter(|_| said) });
        // A peer that signs such a time all the same is not believed about it.
        let raw = Attributes { executable: true, modified_ns: Some(modified_ns) };
        let (content, network) = (ContentId::of(&[1]), Network::default());
        let subject = Subject { name: "a/b", content: &content, size: 1, network: &network };
        let signed = Some(Box::new(SignedAttributes::sign(raw, subject, &key(1)).unwrap()));
        assert_eq!(Entry { attributes: signed, ..entry(1, 5) }.attributes(&network), Some(attributes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_order_of_merging_has_one_winner(
        (statements, shuffled) in prop::collection::vec(settled(), 0..8)
            .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
    ) {
        let one = ledger(statements.clone());
        let twice = ledger(shuffled.iter().chain(&statements).cloned());
        prop_assert_eq!(one.settled(), twice.settled());
        let highest = statements.iter().filter_map(Statement::rank).max();
        prop_assert_eq!(one.settled().and_then(Statement::rank), highest);
        // Put together from parts that different nodes hold it is the same.
        let mut tally = Tally::default();
        for statement in shuffled {
            tally.add(&ledger([statement]), NOW);
        }
        prop_assert_eq!(tally.settled(), one.settled());
    }
}
