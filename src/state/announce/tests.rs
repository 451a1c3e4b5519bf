use swarmdex_protocols::statement::Seal;

use super::*;

type Share = BTreeMap<Name, (ContentId, u64)>;

const NOW: u64 = 1_800_000_000_000;

fn announcer() -> Announcer {
    Announcer::new(PeerId::random(), [])
}

fn share(names: &[&str]) -> Share {
    names.iter().map(|name| (Name::parse(name).unwrap(), (ContentId::of(name.as_bytes()), 1))).collect()
}

fn view(share: &Share) -> impl Iterator<Item = (&Name, &ContentId, u64)> + Clone {
    share.iter().map(|(name, (content, size))| (name, content, *size))
}

fn accepted(version: u64) -> Verdict {
    let seal = Seal { issued_ms: NOW, expires_ms: NOW + CERTIFICATE_LIFETIME_MS, signature: Vec::new() };
    Verdict::Accepted { version: Version(version), seal }
}

fn announce(announcer: &mut Announcer, share: &Share, verdict: &Verdict) -> (usize, bool) {
    let Some(Batch::Announce { offers, last }) = announcer.next_batch(view(share), NOW) else {
        panic!("nothing to announce")
    };
    let verdicts = vec![verdict.clone(); offers.len()];
    assert!(announcer.on_announced(&offers, last, verdicts, NOW));
    (offers.len(), last)
}

#[test]
fn a_changed_share_is_told_in_full_and_ends_with_the_last_batch() {
    let names: Vec<_> = (0..2500).map(|number| format!("file {number}")).collect();
    let share = share(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut announcer = announcer();
    announcer.on_joined(false, view(&share));
    assert_eq!(announce(&mut announcer, &share, &accepted(1)), (1000, false));
    assert_eq!(announce(&mut announcer, &share, &accepted(1)), (1000, false));
    assert_eq!(announce(&mut announcer, &share, &accepted(1)), (500, true));
    assert_eq!(announcer.next_batch(view(&share), NOW), None);
}

#[test]
fn an_empty_share_that_changed_is_told_as_well() {
    let mut announcer = announcer();
    announcer.on_joined(false, []);
    assert_eq!(announcer.next_batch([], NOW), Some(Batch::Announce { offers: Vec::new(), last: true }));
}

#[test]
fn an_unchanged_share_is_not_told_again() {
    let share = share(&["a", "b"]);
    let mut announcer = announcer();
    announcer.on_joined(false, view(&share));
    announce(&mut announcer, &share, &accepted(4));
    // Another run of the same node, with what the first one wrote to disk.
    let saved: Vec<_> = announcer.take_unsaved().into_iter().filter_map(|(_, certificate)| certificate).collect();
    let mut announcer = Announcer::new(announcer.local, saved);
    announcer.on_joined(true, view(&share));
    assert_eq!(announcer.next_batch(view(&share), NOW), None);
    let (name, (content, _)) = share.first_key_value().unwrap();
    assert_eq!(announcer.standing(name, content), Some(&Standing::Certified(Version(4))));
    // Certificates that are half over are renewed.
    let later = NOW + CERTIFICATE_LIFETIME_MS / 2;
    let Some(Batch::Announce { offers, last: false }) = announcer.next_batch(view(&share), later) else { panic!() };
    assert!(offers.iter().all(|offer| offer.granted.as_ref().is_some_and(|granted| granted.version == Version(4))));
}

#[test]
fn what_is_no_longer_shared_is_revoked_once() {
    let mut announcer = announcer();
    let before = share(&["a", "b", "c"]);
    announcer.on_joined(false, view(&before));
    announce(&mut announcer, &before, &accepted(1));
    let after = share(&["b"]);
    let Some(Batch::Revoke(names)) = announcer.next_batch(view(&after), NOW) else { panic!() };
    assert_eq!(names, ["a", "c"]);
    assert!(announcer.on_revoked(&names, &[Revocation::NotHeld, Revocation::NotHeld]));
    assert_eq!(announcer.next_batch(view(&after), NOW), None);
}

#[test]
fn a_lost_name_is_not_asked_for_again_until_told_to() {
    let share = share(&["a"]);
    let owner = PeerId::random();
    let mut announcer = announcer();
    announcer.on_joined(true, []);
    announce(&mut announcer, &share, &Verdict::Conflict { owner });
    assert_eq!(announcer.next_batch(view(&share), NOW), None);
    let (name, (content, _)) = share.first_key_value().unwrap();
    assert_eq!(announcer.standing(name, content), Some(&Standing::Conflict(owner)));
    announcer.retry(name);
    assert_eq!(announce(&mut announcer, &share, &accepted(3)), (1, false));
    assert_eq!(announcer.standing(name, content), Some(&Standing::Certified(Version(3))));
}

#[test]
fn answers_of_the_wrong_length_are_not_believed() {
    let share = share(&["a", "b"]);
    let mut announcer = announcer();
    announcer.on_joined(false, []);
    let Some(Batch::Announce { offers, last }) = announcer.next_batch(view(&share), NOW) else { panic!() };
    assert!(!announcer.on_announced(&offers, last, vec![accepted(1)], NOW));
    assert!(!announcer.on_revoked(&["a".to_owned()], &[]));
    assert!(announcer.next_batch(view(&share), NOW).is_some());
}

#[test]
fn without_a_master_what_was_granted_holds_on_and_new_names_are_claimed() {
    let key = swarmdex_protocols::Keypair::generate_ed25519();
    let network = swarmdex_protocols::Network::default();
    let local = key.public().to_peer_id();
    let before = share(&["a", "b"]);
    let mut announcer = Announcer::new(local, []);
    announcer.on_joined(false, view(&before));
    announce(&mut announcer, &before, &accepted(4));
    let after = share(&["b", "c"]);
    let wanted = announcer.to_claim(view(&after), NOW);
    let (name, content, size) = wanted[0].clone();
    assert_eq!((wanted.len(), name.as_str()), (1, "c"));
    let (revoked, withdrawn) = announcer.to_give_up(|name| after.contains_key(name));
    assert_eq!((revoked.len(), withdrawn.len()), (1, 0));
    let revocation = statement::Revocation::sign(revoked[0].clone(), &network, &key, NOW).unwrap();
    announcer.on_given_up(Statement::Revocation(revocation));
    assert!(announcer.to_give_up(|name| after.contains_key(name)).0.is_empty(), "said once");
    let entry = Entry { name: name.clone(), content, size, owner: local, version: Version(9) };
    announcer.on_claimed(Claim::sign(entry, Version(0), false, &network, &key, NOW).unwrap());
    assert!(announcer.to_claim(view(&after), NOW).is_empty());
    assert_eq!(announcer.to_claim(view(&after), NOW + CLAIM_LIFETIME_MS / 2).len(), 1, "and renewed in time");
    assert_eq!(announcer.statements().count(), 3);
    // The master is back, and told of the claim.
    announcer.on_joined(false, view(&after));
    let Some(Batch::Announce { offers, last: true }) = announcer.next_batch(view(&after), NOW) else { panic!() };
    let said: Vec<_> = offers.iter().map(|offer| (offer.granted.is_some(), offer.claimed)).collect();
    assert_eq!(said, [(true, false), (false, true)]);
    let verdicts = vec![accepted(4), Verdict::Conflict { owner: PeerId::random() }];
    assert!(announcer.on_announced(&offers, true, verdicts, NOW));
    assert!(matches!(announcer.standing(&name, &content), Some(Standing::Conflict(_))));
    assert_eq!(announcer.statements().count(), 1);
}

#[test]
fn certificates_outlast_a_restart_without_a_master() {
    let before = share(&["a"]);
    let mut announcer = announcer();
    announcer.on_joined(false, view(&before));
    announce(&mut announcer, &before, &accepted(4));
    let saved: Vec<_> = announcer.take_unsaved().into_iter().filter_map(|(_, certificate)| certificate).collect();
    let mut announcer = Announcer::new(announcer.local, saved);
    assert!(announcer.to_claim(view(&before), NOW).is_empty());
    assert_eq!(announcer.statements().count(), 1);
    // An expired one proves nothing.
    let saved: Vec<_> = announcer.certificates.values().cloned().collect();
    let mut announcer = Announcer::new(announcer.local, saved);
    assert_eq!(announcer.to_claim(view(&before), NOW + CERTIFICATE_LIFETIME_MS).len(), 1);
}
