use std::ops::Bound;

use swarmdex_protocols::Statement;
use swarmdex_protocols::index::{Returned, Sealed};
use swarmdex_protocols::statement::{CLAIM_LIFETIME_MS, Seal};

use super::*;

type Share = BTreeMap<Name, (ContentId, u64)>;

const NOW: u64 = 1_800_000_000_000;
const LEASE: Duration = Duration::from_secs(30);

#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
fn now() -> Now {
    Now { mono: Instant::now(), unix_ms: NOW }
}

fn announcer() -> Announcer {
    Announcer::new(PeerId::random(), [])
}

fn share(names: &[&str]) -> Share {
    names.iter().map(|name| (Name::parse(name).unwrap(), (ContentId::of(name.as_bytes()), 1))).collect()
}

fn files(count: usize) -> Share {
    let name = |number| Name::parse(&format!("file {number:05}")).unwrap();
    (0..count).map(|number| (name(number), (ContentId::of(&number.to_le_bytes()), 1))).collect()
}

fn view(share: &Share) -> impl Iterator<Item = (&Name, &ContentId, u64)> + Clone {
    share.iter().map(|(name, (content, size))| (name, content, *size))
}

fn next(announcer: &Announcer, share: &Share, unix_ms: u64) -> Option<Batch> {
    let after = |after: Option<&Name>| {
        let begin = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        share.range((begin, Bound::Unbounded)).map(|(name, (content, size))| (name, content, *size, None))
    };
    announcer.next_batch(after, unix_ms)
}

fn accepted(version: u64) -> Verdict {
    let seal = Seal { issued_ms: NOW, expires_ms: NOW + CERTIFICATE_LIFETIME_MS, signature: Vec::new() };
    Verdict::Accepted { version: Version(version), seal }
}

/// Announces a batch; how many offers it had, and how many names its end says that were granted.
fn announce(announcer: &mut Announcer, share: &Share, verdict: &Verdict) -> (usize, Option<u64>) {
    let Some(Batch::Announce { offers, last }) = next(announcer, share, NOW) else { panic!("nothing to announce") };
    let verdicts = vec![verdict.clone(); offers.len()];
    assert!(announcer.on_announced(&offers, last.is_some(), verdicts, now()));
    (offers.len(), last.map(|sum| sum.entries))
}

/// Announces until there is nothing left; how many names that were.
fn announce_all(announcer: &mut Announcer, share: &Share, verdict: &Verdict) -> usize {
    let mut names = 0;
    while next(announcer, share, NOW).is_some() {
        names += announce(announcer, share, verdict).0;
    }
    names
}

/// Another run of the same node, with what the first one wrote to disk.
fn restart(announcer: &mut Announcer) -> Announcer {
    let saved: Vec<_> = announcer.take_unsaved().into_iter().filter_map(|(_, certificate)| certificate).collect();
    Announcer::new(announcer.local, saved)
}

#[test]
fn a_changed_share_is_told_in_full_and_ends_with_a_batch_that_says_how_much_was_granted() {
    let share = files(2500);
    let mut announcer = announcer();
    announcer.on_joined(false, view(&share), now().mono);
    for batch in [(1000, None), (1000, None), (500, None), (0, Some(2500))] {
        assert_eq!(announcer.granted(), None, "until all is told");
        assert_eq!(announce(&mut announcer, &share, &accepted(1)), batch);
    }
    assert_eq!(next(&announcer, &share, NOW), None);
    let digests = |(name, (content, size)): (&Name, &(ContentId, u64))| {
        ShareDigest::of(name.as_str(), content, *size, Version(1))
    };
    let mut sum = ShareSum::default();
    share.iter().map(digests).for_each(|digest| sum.add(&digest));
    assert_eq!(announcer.granted(), Some(sum));
}

#[test]
fn certificates_from_before_do_not_stand_in_for_what_the_master_is_told() {
    // What the node does by itself while no master answers, between any two batches of a report.
    for batches in 0..=10 {
        for meddle in 0..=batches {
            let share = files(3 * batches);
            let mut before = announcer().with_batch(3);
            before.on_joined(false, view(&share), now().mono);
            announce_all(&mut before, &share, &accepted(1));
            let mut announcer = restart(&mut before).with_batch(3);
            announcer.on_joined(false, view(&share), now().mono);
            let mut told = 0;
            for batch in 0..=batches {
                if batch == meddle {
                    assert!(announcer.to_claim(view(&share), NOW).is_empty());
                    for (name, content, size) in view(&share) {
                        assert!(announcer.recall_granted(name, content, size, NOW));
                    }
                }
                told += announce(&mut announcer, &share, &accepted(1)).0;
            }
            assert_eq!((told, next(&announcer, &share, NOW)), (share.len(), None), "{batches} batches, {meddle}");
            assert_eq!(announcer.granted().unwrap().entries, share.len() as u64);
        }
    }
}

#[test]
fn what_was_granted_is_believed_until_it_is_told_again_and_not_called_confirmed() {
    let share = files(7);
    let mut announcer = announcer().with_batch(3);
    announcer.on_joined(false, view(&share), now().mono);
    announce_all(&mut announcer, &share, &accepted(1));
    let (name, (content, _)) = share.first_key_value().unwrap();
    assert!(announcer.is_confirmed(name, LEASE, now().mono));
    announcer.on_session_over();
    announcer.on_joined(false, view(&share), now().mono);
    assert_eq!(announcer.standing(name, content), Some(&Standing::Certified(Version(1))));
    assert_eq!(announcer.statements().count(), 7, "the mirror goes on");
    assert!(!announcer.is_confirmed(name, LEASE, now().mono));
    announce(&mut announcer, &share, &accepted(1));
    assert!(announcer.is_confirmed(name, LEASE, now().mono));
    let later = now().mono + 2 * LEASE;
    assert!(!announcer.is_confirmed(name, LEASE, later));
    announcer.on_agreed(later);
    assert!(announcer.is_confirmed(name, LEASE, later));
}

#[test]
fn files_that_come_and_go_while_the_share_is_told_are_told_in_the_end() {
    let mut share = files(10);
    let mut announcer = announcer().with_batch(3);
    announcer.on_joined(false, view(&share), now().mono);
    announce(&mut announcer, &share, &accepted(1));
    // One that was told is gone, one before the place that was reached is new.
    let (first, _) = share.pop_first().unwrap();
    share.insert(Name::parse("a new file").unwrap(), (ContentId::of(b"new"), 3));
    let told = announce_all_of(&mut announcer, &share);
    assert_eq!(told, 7, "what comes after the first batch");
    announcer.look_again();
    assert_eq!(announce(&mut announcer, &share, &accepted(1)), (1, None));
    let Some(Batch::Revoke(names)) = next(&announcer, &share, NOW) else { panic!() };
    assert_eq!(names, [first.as_str()]);
    assert!(announcer.on_revoked(&names, &[RevokeOutcome::NotHeld]));
    assert_eq!((next(&announcer, &share, NOW), announcer.granted().unwrap().entries), (None, 10));
}

/// Announces until only names that are gone are left.
fn announce_all_of(announcer: &mut Announcer, share: &Share) -> usize {
    let mut names = 0;
    while let Some(Batch::Announce { .. }) = next(announcer, share, NOW) {
        names += announce(announcer, share, &accepted(1)).0;
    }
    names
}

#[test]
fn what_differs_is_told_again_or_given_up() {
    let share = files(9);
    let mut announcer = announcer().with_batch(2);
    announcer.on_joined(false, view(&share), now().mono);
    announce_all(&mut announcer, &share, &accepted(1));
    let name = |number: usize| share.keys().nth(number).unwrap().clone();
    let stranger = |text: &str| Name::parse(text).unwrap();
    let differences = Differences {
        missing: vec![name(0), name(1), name(2)],
        surplus: ["x", "y", "z"].map(stranger).to_vec(),
        other: vec![name(8)],
    };
    announcer.on_differences(&differences);
    assert_eq!(announcer.granted().unwrap().entries, 5);
    assert_eq!(announce(&mut announcer, &share, &accepted(2)), (2, None));
    assert_eq!(announce(&mut announcer, &share, &accepted(2)), (2, None));
    for expected in [vec!["x", "y"], vec!["z"]] {
        let Some(Batch::Revoke(names)) = next(&announcer, &share, NOW) else { panic!() };
        assert_eq!(names, expected);
        assert!(announcer.on_revoked(&names, &vec![RevokeOutcome::NotHeld; names.len()]));
    }
    assert_eq!((next(&announcer, &share, NOW), announcer.granted().unwrap().entries), (None, 9));
}

#[test]
fn an_empty_share_that_changed_is_told_as_well() {
    let mut announcer = announcer();
    announcer.on_joined(false, [], now().mono);
    let end = Batch::Announce { offers: Vec::new(), last: Some(ShareSum::default()) };
    assert_eq!(next(&announcer, &Share::new(), NOW), Some(end));
}

#[test]
fn an_unchanged_share_is_not_told_again() {
    let share = share(&["a", "b"]);
    let mut announcer = announcer();
    announcer.on_joined(false, view(&share), now().mono);
    announce(&mut announcer, &share, &accepted(4));
    // Another run of the same node, with what the first one wrote to disk.
    let saved: Vec<_> = announcer.take_unsaved().into_iter().filter_map(|(_, certificate)| certificate).collect();
    let mut announcer = Announcer::new(announcer.local, saved);
    announcer.on_joined(true, view(&share), now().mono);
    assert_eq!(next(&announcer, &share, NOW), None);
    let (name, (content, _)) = share.first_key_value().unwrap();
    assert_eq!(announcer.standing(name, content), Some(&Standing::Certified(Version(4))));
    // Certificates that are half over are renewed.
    let later = NOW + CERTIFICATE_LIFETIME_MS / 2;
    let Some(Batch::Announce { offers, last: None }) = next(&announcer, &share, later) else { panic!() };
    assert!(offers.iter().all(|offer| offer.granted.as_ref().is_some_and(|granted| granted.version == Version(4))));
}

#[test]
fn what_is_no_longer_shared_is_revoked_once() {
    let mut announcer = announcer();
    let before = share(&["a", "b", "c"]);
    announcer.on_joined(false, view(&before), now().mono);
    announce_all(&mut announcer, &before, &accepted(1));
    let after = share(&["b"]);
    let Some(Batch::Revoke(names)) = next(&announcer, &after, NOW) else { panic!() };
    assert_eq!(names, ["a", "c"]);
    assert!(announcer.on_revoked(&names, &[RevokeOutcome::NotHeld, RevokeOutcome::NotHeld]));
    assert_eq!(next(&announcer, &after, NOW), None);
}

#[test]
fn a_lost_name_is_not_asked_for_again_until_told_to() {
    let share = share(&["a"]);
    let owner = PeerId::random();
    let mut announcer = announcer();
    announcer.on_joined(true, [], now().mono);
    announce(&mut announcer, &share, &Verdict::Conflict { owner });
    assert_eq!(next(&announcer, &share, NOW), None);
    let (name, (content, _)) = share.first_key_value().unwrap();
    assert_eq!(announcer.standing(name, content), Some(&Standing::Conflict(owner)));
    announcer.retry(name);
    assert_eq!(announce(&mut announcer, &share, &accepted(3)), (1, None));
    assert_eq!(announcer.standing(name, content), Some(&Standing::Certified(Version(3))));
}

#[test]
fn what_is_asked_for_again_while_an_answer_is_under_way_is_told() {
    let (first, both) = (share(&["a"]), share(&["a", "b"]));
    let mut announcer = announcer();
    announcer.on_joined(true, [], now().mono);
    announce(&mut announcer, &first, &Verdict::Conflict { owner: PeerId::random() });
    announcer.look_again();
    let Some(Batch::Announce { offers, last: None }) = next(&announcer, &both, NOW) else { panic!() };
    assert_eq!(offers.iter().map(|offer| offer.name.as_str()).collect::<Vec<_>>(), ["b"]);
    announcer.retry(first.first_key_value().unwrap().0);
    assert!(announcer.on_announced(&offers, false, vec![accepted(3)], now()));
    let Some(Batch::Announce { offers, last: None }) = next(&announcer, &both, NOW) else { panic!("it is forgotten") };
    assert_eq!(offers.iter().map(|offer| offer.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn answers_of_the_wrong_length_are_not_believed() {
    let share = share(&["a", "b"]);
    let mut announcer = announcer();
    announcer.on_joined(false, [], now().mono);
    let Some(Batch::Announce { offers, last }) = next(&announcer, &share, NOW) else { panic!() };
    assert!(!announcer.on_announced(&offers, last.is_some(), vec![accepted(1)], now()));
    assert!(!announcer.on_revoked(&["a".to_owned()], &[]));
    assert!(next(&announcer, &share, NOW).is_some());
}

#[test]
fn without_a_master_what_was_granted_holds_on_and_new_names_are_claimed() {
    let key = swarmdex_protocols::Keypair::generate_ed25519();
    let network = swarmdex_protocols::Network::default();
    let local = key.public().to_peer_id();
    let before = share(&["a", "b"]);
    let mut announcer = Announcer::new(local, []);
    announcer.on_joined(false, view(&before), now().mono);
    announce_all(&mut announcer, &before, &accepted(4));
    let after = share(&["b", "c"]);
    let wanted = announcer.to_claim(view(&after), NOW);
    let (name, content, size) = wanted[0].clone();
    assert_eq!((wanted.len(), name.as_str()), (1, "c"));
    let (revoked, withdrawn) = announcer.to_give_up(|name| after.contains_key(name));
    assert_eq!((revoked.len(), withdrawn.len()), (1, 0));
    let revocation = statement::Revocation::sign(revoked[0].clone(), &network, &key, NOW).unwrap();
    announcer.on_given_up(Statement::Revocation(revocation));
    assert!(announcer.to_give_up(|name| after.contains_key(name)).0.is_empty(), "said once");
    let entry = Entry { name: name.clone(), content, size, owner: local, version: Version(9), attributes: None };
    announcer.on_claimed(Claim::sign(entry, Version(0), false, &network, &key, NOW).unwrap());
    assert!(announcer.to_claim(view(&after), NOW).is_empty());
    assert_eq!(announcer.to_claim(view(&after), NOW + CLAIM_LIFETIME_MS / 2).len(), 1, "and renewed in time");
    assert_eq!(announcer.statements().count(), 3);
    // The master is back, and told of the claim.
    announcer.on_joined(false, view(&after), now().mono);
    let Some(Batch::Announce { offers, last: None }) = next(&announcer, &after, NOW) else { panic!() };
    let said: Vec<_> = offers.iter().map(|offer| (offer.granted.is_some(), offer.claimed)).collect();
    assert_eq!(said, [(true, false), (false, true)]);
    let verdicts = vec![accepted(4), Verdict::Conflict { owner: PeerId::random() }];
    assert!(announcer.on_announced(&offers, false, verdicts, now()));
    announce(&mut announcer, &after, &accepted(5));
    assert!(matches!(announcer.standing(&name, &content), Some(Standing::Conflict(_))));
    assert_eq!(announcer.statements().count(), 1);
}

#[test]
fn what_was_given_up_and_is_shared_again_without_the_master_has_to_stand_above_that() {
    let key = swarmdex_protocols::Keypair::generate_ed25519();
    let network = swarmdex_protocols::Network::default();
    let share = share(&["a"]);
    let mut announcer = Announcer::new(key.public().to_peer_id(), []);
    announcer.on_joined(false, view(&share), now().mono);
    announce_all(&mut announcer, &share, &accepted(4));
    announcer.on_session_over();
    let (revoked, _) = announcer.to_give_up(|_| false);
    let revocation = statement::Revocation::sign(revoked[0].clone(), &network, &key, NOW).unwrap();
    announcer.on_given_up(Statement::Revocation(revocation));
    // Nobody believes the certificate any more, so the name is claimed like a new one.
    let (name, (content, size)) = share.first_key_value().unwrap();
    assert!(!announcer.recall_granted(name, content, *size, NOW));
    assert_eq!(announcer.to_claim(view(&share), NOW).len(), 1);
    // A master that heard nothing of all that takes the share for unchanged: it is to look into it.
    announcer.on_joined(true, view(&share), now().mono);
    let Some(Batch::Announce { offers, last: None }) = next(&announcer, &share, NOW) else { panic!() };
    assert!(offers[0].claimed);
    announcer.on_announced(&offers, false, vec![accepted(5)], now());
    assert_eq!(next(&announcer, &share, NOW), None);
    assert!(matches!(announcer.said(name), Some(Statement::Certificate(held)) if held.entry.version == Version(5)));
}

#[test]
fn without_a_master_a_name_is_claimed_whose_certificate_others_do_not_believe() {
    let share = share(&["a", "b"]);
    let mut announcer = announcer();
    announcer.on_joined(false, view(&share), now().mono);
    announce_all(&mut announcer, &share, &accepted(4));
    let held = announcer.saved().remove(0);
    announcer.on_session_over();
    assert!(announcer.to_claim(view(&share), NOW).is_empty());
    announcer.doubt(&held.entry.name);
    let wanted: Vec<_> = announcer.to_claim(view(&share), NOW).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(wanted, std::slice::from_ref(&held.entry.name));
    // The network turns out to have just that certificate.
    announcer.on_certificate(held);
    assert!(announcer.to_claim(view(&share), NOW).is_empty());
}

#[test]
fn certificates_outlast_a_restart_without_a_master() {
    let before = share(&["a"]);
    let mut announcer = announcer();
    announcer.on_joined(false, view(&before), now().mono);
    announce_all(&mut announcer, &before, &accepted(4));
    let saved: Vec<_> = announcer.take_unsaved().into_iter().filter_map(|(_, certificate)| certificate).collect();
    let mut announcer = Announcer::new(announcer.local, saved);
    assert!(announcer.to_claim(view(&before), NOW).is_empty());
    assert_eq!(announcer.statements().count(), 1);
    // An expired one proves nothing.
    let saved: Vec<_> = announcer.certificates.values().cloned().collect();
    let mut announcer = Announcer::new(announcer.local, saved);
    assert_eq!(announcer.to_claim(view(&before), NOW + CERTIFICATE_LIFETIME_MS).len(), 1);
}

/// A peer with certificates of its share at version 5 that is back after it left; what it joins with.
fn back(share: &Share) -> Announcer {
    let mut before = announcer();
    before.on_joined(false, view(share), now().mono);
    announce_all(&mut before, share, &accepted(5));
    let mut announcer = restart(&mut before);
    assert!(announcer.may_return());
    announcer.on_joined(false, view(share), now().mono);
    announcer
}

fn returned(through: Option<&str>, except: &[&str]) -> Returned {
    let except = except.iter().map(ToString::to_string).collect();
    Returned { version: Version(9), through: through.map(str::to_owned), except }
}

fn sealed(name: &str, version: u64) -> Sealed {
    let Verdict::Accepted { version, seal } = accepted(version) else { panic!() };
    Sealed { name: name.to_owned(), version, seal }
}

#[test]
fn what_is_granted_again_counts_at_once_and_is_said_once_it_has_its_seal() {
    let share = share(&["a", "b", "c", "d"]);
    let mut announcer = back(&share);
    assert!(announcer.on_returned(view(&share), &returned(Some("b"), &[]), now()));
    assert_eq!(announcer.granted(), None, "there is more");
    assert!(!announcer.on_returned(view(&share), &returned(Some("b"), &[]), now()), "it leads nowhere");
    assert!(announcer.on_returned(view(&share), &returned(None, &["c"]), now()));
    assert!(!announcer.on_returned(view(&share), &returned(None, &[]), now()), "all is told");

    // Three names are granted; the fourth is offered by itself.
    assert_eq!(announcer.granted().unwrap().entries, 3);
    assert!(announcer.is_confirmed(&Name::parse("a").unwrap(), LEASE, now().mono));
    let Some(Batch::Announce { offers, last: None }) = next(&announcer, &share, NOW) else { panic!() };
    assert_eq!(offers.iter().map(|offer| offer.name.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(announcer.statements().count(), 0, "certificates from before are over");
    assert_eq!(announcer.statement(&Name::parse("a").unwrap()), None);
    let other = Verdict::Conflict { owner: PeerId::random() };
    announce(&mut announcer, &share, &other);
    assert_eq!(next(&announcer, &share, NOW), None);

    // A join meanwhile tells the versions that the master has.
    let held: Share =
        share.iter().filter(|(name, _)| name.as_str() != "c").map(|(name, it)| (name.clone(), *it)).collect();
    let digest = announcer.granted().unwrap().digest;
    assert_eq!(announcer.digest(view(&held)), digest);
    announcer.on_joined(true, view(&held), now().mono);
    assert_eq!(announcer.granted().unwrap().digest, digest);

    // The master does not hold "b", nor "a" at the version that it said: both are offered again.
    assert_eq!(announcer.first_unsealed().unwrap().as_str(), "a");
    assert!(announcer.on_sealed(vec![sealed("a", 10), sealed("d", 9)]));
    assert_eq!(announcer.first_unsealed(), None);
    let versions: Vec<_> =
        announcer.statements().map(|said| (said.name().as_str().to_owned(), said.version().0)).collect();
    assert_eq!(versions, [("d".to_owned(), 9)]);
    let Some(Batch::Announce { offers, .. }) = next(&announcer, &held, NOW) else { panic!() };
    assert_eq!(offers.iter().map(|offer| offer.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(offers.iter().all(|offer| offer.granted.is_none()));
}

#[test]
fn what_has_no_seal_yet_is_claimed_when_the_master_is_lost() {
    let share = share(&["a", "b"]);
    let mut announcer = back(&share);
    assert!(announcer.on_returned(view(&share), &returned(None, &[]), now()));
    assert!(announcer.on_sealed(vec![sealed("a", 9)]));
    announcer.on_session_over();
    let wanted: Vec<_> = announcer.to_claim(view(&share), NOW).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(wanted, [Name::parse("b").unwrap()]);
    // An answer that leads nowhere is none.
    announcer.on_joined(true, view(&share), now().mono);
    assert!(!announcer.on_sealed(vec![sealed("a", 9)]));
    assert!(announcer.on_sealed(Vec::new()));
    assert_eq!(announcer.granted().unwrap().entries, 1);
}

/// What the master is told of a file beside its bytes.
mod attributes {
    use swarmdex_protocols::statement::Subject;
    use swarmdex_protocols::{Attributes, Keypair, Network, SignedAttributes};

    use super::*;

    fn signed(attributes: Attributes, offer: &Offer, key: &Keypair) -> Option<Box<SignedAttributes>> {
        let network = Network::default();
        let subject = Subject { name: &offer.name, content: &offer.content, size: offer.size, network: &network };
        Some(Box::new(SignedAttributes::sign(attributes, subject, key).unwrap()))
    }

    /// Tells the master all that is due; the names.
    fn tell(announcer: &mut Announcer, share: &Share, attributes: Attributes, key: &Keypair) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let after = |after: Option<&Name>| {
                let begin = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
                let rest = share.range((begin, Bound::Unbounded));
                rest.map(|(name, (content, size))| (name, content, *size, Some(attributes)))
            };
            let Some(Batch::Announce { mut offers, last }) = announcer.next_batch(after, NOW) else { return names };
            offers.iter_mut().for_each(|offer| offer.attributes = signed(attributes, offer, key));
            names.extend(offers.iter().map(|offer| offer.name.clone()));
            let verdicts = vec![accepted(1); offers.len()];
            assert!(announcer.on_announced(&offers, last.is_some(), verdicts, now()));
        }
    }

    #[test]
    fn a_change_of_attributes_is_told_once_and_known_after_a_restart() {
        let key = Keypair::generate_ed25519();
        let share = files(7);
        let (plain, executable) = (Attributes::new(false, 1), Attributes::new(true, 1));
        let mut announcer = Announcer::new(key.public().to_peer_id(), []).with_batch(3);
        announcer.on_joined(false, view(&share), now().mono);
        assert_eq!(tell(&mut announcer, &share, plain, &key).len(), 7);
        announcer.look_again();
        assert!(tell(&mut announcer, &share, plain, &key).is_empty());
        announcer.look_again();
        assert_eq!(tell(&mut announcer, &share, executable, &key).len(), 7);
        let said = announcer.statements().all(|statement| match statement {
            Statement::Certificate(held) => held.entry.attributes(&Network::default()) == Some(executable),
            _ => false,
        });
        assert!(said, "others learn of it by the certificates");
        // A master that knows the share knows what it was told before.
        let mut announcer = restart(&mut announcer).with_batch(3);
        announcer.on_joined(true, view(&share), now().mono);
        assert!(tell(&mut announcer, &share, executable, &key).is_empty());
        // Unless it changed while the node was down.
        announcer.on_joined(true, view(&share), now().mono);
        assert_eq!(tell(&mut announcer, &share, plain, &key).len(), 7);
    }

    #[test]
    fn a_master_that_lacks_attributes_is_told_them() {
        let key = Keypair::generate_ed25519();
        let share = files(4);
        let attributes = Attributes::new(true, 1);
        let mut announcer = Announcer::new(key.public().to_peer_id(), []).with_batch(3);
        announcer.on_joined(false, view(&share), now().mono);
        tell(&mut announcer, &share, attributes, &key);
        announcer.on_session_over();
        announcer.set_bare(true);
        announcer.on_joined(true, view(&share), now().mono);
        assert_eq!(tell(&mut announcer, &share, attributes, &key).len(), 4);
        announcer.look_again();
        assert!(tell(&mut announcer, &share, attributes, &key).is_empty(), "and once");
    }
}
