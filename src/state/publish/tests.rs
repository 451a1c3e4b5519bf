//! What is published when, and where it is asked for again.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use super::due::RETRY;
use super::due::tests::certificates;
use super::*;

mod sweeps;

use sweeps::position;

fn key(number: u8) -> RecordKey {
    RecordKey::from_slice(&[number; 32]).unwrap()
}

#[test]
fn what_nobody_else_was_asked_to_store_is_tried_again_soon() {
    let (mut now, interval) = (Instant::now(), Duration::from_secs(1000));
    let mut publications = Publications::new(interval);
    publications.replace(BTreeMap::from([(key(9), What::Provide)]), now);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        publications.on_published(&key(9), &What::Provide, 1, 1, now);
        assert_eq!(publications.counts(), (1, 1), "it is here");
        let due = publications.poll_timeout().unwrap();
        pauses.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(pauses, [4, 8, 16, 32]);
    publications.on_published(&key(9), &What::Provide, 2, 2, now);
    let due = publications.poll_timeout().unwrap();
    assert!(due >= now + interval * 4 / 5, "others have it");
}

#[test]
fn what_is_pushed_is_bounded_and_leaves_nothing_behind() {
    let (now, interval) = (Instant::now(), Duration::from_secs(1000));
    let mut publications = Publications::new(interval);
    let What::Statement(statement) = certificates(1).remove(0).1 else { panic!("a certificate is a statement") };
    let key = |number: usize| RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap();
    for number in 0..MAX_PUSHED + 100 {
        publications.push(key(number), Statement::clone(&statement), now);
    }
    assert_eq!(publications.counts().0, MAX_PUSHED);
    // What this node says itself has its own room, and what it is to repeat is not pushed any more.
    publications.want(key(MAX_PUSHED + 1), Some(What::Provide), now);
    publications.want(key(0), Some(What::Statement(statement.clone())), now);
    publications.push(key(MAX_PUSHED + 2), Statement::clone(&statement), now);
    publications.push(key(MAX_PUSHED + 3), Statement::clone(&statement), now);
    assert_eq!(publications.counts().0, MAX_PUSHED + 2);
    for (key, what) in publications.due(now, usize::MAX) {
        publications.on_published(&key, &what, 20, 20, now);
    }
    assert_eq!((publications.counts().0, publications.once), (2, 0), "it was published");
}

#[test]
fn what_is_wanted_comes_again_and_what_is_not_is_dropped() {
    let (now, interval) = (Instant::now(), Duration::from_secs(1000));
    let mut publications = Publications::new(interval);
    let wanted: BTreeMap<_, _> = (0..4).map(|number| (key(number * 60), What::Provide)).collect();
    publications.replace(wanted.clone(), now);
    assert_eq!(publications.due(now, 10).len(), 4);
    assert_eq!(publications.due(now, 3).len(), 3);
    for number in 0..3 {
        publications.on_published(&key(number * 60), &What::Provide, 5, 5, now);
    }
    publications.on_published(&key(180), &What::Provide, 0, 8, now);
    assert_eq!(publications.due(now, 10).len(), 0);
    assert_eq!(publications.due(now + RETRY * 2, 10).len(), 1, "nobody stored it");
    assert_eq!(publications.due(now + interval, 10).len(), 4);
    assert!(publications.due(now + interval * 7 / 10, 10).len() == 1, "not all are early");
    publications.set_masterless(true, now);
    assert_eq!(publications.due(now, 10).len(), 0, "what is stored is not stored at once again");
    assert_eq!(publications.due(now + interval / 2, 10).len(), 4, "but earlier than it would be");
    publications.replace(wanted.into_iter().take(1).collect(), now);
    assert_eq!((publications.counts(), publications.withdrawals, publications.due.len()), ((1, 1), 3, 4));
}

#[test]
fn what_is_no_longer_provided_is_withdrawn_until_every_node_took_it() {
    let now = Instant::now();
    let mut publications = Publications::new(Duration::from_secs(1000));
    let provide = |numbers: &[u8]| numbers.iter().map(|number| (key(*number), What::Provide)).collect();
    publications.replace(provide(&[1, 2, 3]), now);
    for number in [1, 2] {
        publications.on_published(&key(number), &What::Provide, 5, 5, now);
    }
    // Nobody was told of the third, and the second comes back before anybody was told that it went.
    publications.replace(provide(&[]), now);
    publications.replace(provide(&[2]), now);
    assert_eq!(publications.due(now, 10), [(key(1), What::Withdraw), (key(2), What::Provide)]);
    assert_eq!(publications.counts(), (1, 0));
    publications.on_published(&key(2), &What::Withdraw, 1, 1, now);
    publications.on_published(&key(2), &What::Provide, 2, 2, now);
    // Some node did not take it, again and again: it is tried a few times, in ever longer pauses.
    let mut at = now;
    for attempt in 1..=WITHDRAWAL_ATTEMPTS {
        assert_eq!(publications.due(at, 10), [(key(1), What::Withdraw)], "{attempt}");
        publications.on_published(&key(1), &What::Withdraw, 0, 8, at);
        assert!(publications.due(at, 10).is_empty());
        at = publications.poll_timeout().unwrap();
    }
    assert_eq!((publications.items.len(), publications.withdrawals), (1, 0));
    publications.replace(provide(&[]), now);
    publications.on_published(&key(2), &What::Withdraw, 1, 1, now);
    assert_eq!((publications.items.len(), publications.due.len(), publications.withdrawals), (0, 0, 0));
}

#[test]
fn withdrawals_are_bounded() {
    let now = Instant::now();
    let mut publications = Publications::new(Duration::from_secs(1));
    let count = MAX_WITHDRAWALS + 100;
    let key = |number: usize| RecordKey::from_slice(&position(number)).unwrap();
    publications.replace((0..count).map(|number| (key(number), What::Provide)).collect(), now);
    (0..count).for_each(|number| publications.on_published(&key(number), &What::Provide, 1, 1, now));
    publications.replace(BTreeMap::new(), now);
    assert_eq!((publications.items.len(), publications.withdrawals), (MAX_WITHDRAWALS, MAX_WITHDRAWALS));
    assert_eq!((publications.counts(), publications.due.len()), ((0, 0), MAX_WITHDRAWALS));
}

#[test]
fn what_is_published_once_is_kept_until_a_node_has_stored_it() {
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(100));
    let mut publications = Publications::new(Duration::from_secs(1000));
    let master = swarmdex_protocols::Keypair::generate_ed25519();
    let name = swarmdex_protocols::Name::parse("name").unwrap();
    let network = swarmdex_protocols::Network::default();
    let version = swarmdex_protocols::Version(1);
    let tombstone = swarmdex_protocols::Tombstone::sign(name, PeerId::random(), version, &network, &master, 1).unwrap();
    publications.push(key(1), Statement::Tombstone(tombstone), now);
    publications.replace(BTreeMap::new(), now);
    let what = publications.due(now, 10).remove(0).1;
    publications.on_published(&key(1), &what, 0, 8, now);
    publications.replace(BTreeMap::new(), now);
    assert_eq!(publications.due(later, 10).len(), 1, "nobody stored it");
    publications.on_published(&key(1), &what, 1, 1, later);
    assert_eq!((publications.counts(), publications.due.len()), ((0, 0), 0));
}

#[test]
fn the_list_is_bounded() {
    let now = Instant::now();
    let mut publications = Publications { most: 10, ..Publications::new(Duration::from_secs(1)) };
    publications.replace((0..100).map(|number| (key(number), What::Provide)).collect(), now);
    assert_eq!((publications.items.len(), publications.left_out(), publications.has_room_again()), (10, 90, false));
    // What is left out is not forgotten: there is room as soon as something else goes.
    (0..5).for_each(|number| publications.want(key(number), None, now));
    assert!(publications.has_room_again() && !publications.has_room_again());
}

#[test]
fn what_finds_no_room_waits_for_it_and_is_told() {
    let (now, interval) = (Instant::now(), Duration::from_secs(1000));
    let mut publications = Publications::new(interval);
    publications.want(key(1), Some(What::Provide), now);
    publications.on_no_room(&key(1), &What::Provide, now);
    assert_eq!((publications.refused(), publications.counts()), (1, (1, 0)));
    let due = publications.poll_timeout().unwrap();
    assert!(due >= now + interval / 4 && due < now + interval / 2, "not tried again and again");
    publications.on_no_room(&key(1), &What::Provide, due);
    assert_eq!(publications.refused(), 1);
    publications.on_published(&key(1), &What::Provide, 3, 3, due);
    assert_eq!((publications.refused(), publications.counts()), (0, (1, 1)));
    publications.on_no_room(&key(1), &What::Provide, due);
    publications.want(key(1), None, due);
    assert_eq!(publications.refused(), 0);
}

#[test]
fn a_copy_counts_once_it_was_read_back() {
    let now = Instant::now();
    let mut publications = Publications::new(Duration::from_secs(1000));
    let nodes: Vec<_> = (0..3).map(|_| PeerId::random()).collect();
    for number in [1, 2] {
        publications.want(key(number), Some(What::Provide), now);
        publications.on_published(&key(number), &What::Provide, 3, 3, now);
        publications.on_held(&key(number), &What::Provide, nodes.iter());
    }
    assert_eq!((publications.confirmed_copies(), publications.has_unasked()), ((0.0, 0), true));
    let answer = |publications: &mut Publications, holds: [bool; 3]| {
        let asked = publications.round(true);
        for (number, peer) in asked {
            let at = nodes.iter().position(|node| *node == peer).unwrap();
            publications.on_asked(number, holds[at]);
        }
    };
    answer(&mut publications, [true, true, false]);
    assert_eq!((publications.confirmed_copies(), publications.has_unasked()), ((2.0, 2), false));
    // What is stored again where it was is there; what is new is not yet.
    publications.on_held(&key(1), &What::Provide, nodes.iter());
    assert_eq!((publications.confirmed_copies(), publications.has_unasked()), ((2.0, 2), false));
    publications.want(key(3), Some(What::Provide), now);
    publications.on_published(&key(3), &What::Provide, 3, 3, now);
    publications.on_held(&key(3), &What::Provide, nodes.iter());
    assert_eq!((publications.confirmed_copies(), publications.has_unasked()), ((4.0 / 3.0, 0), true));
    answer(&mut publications, [true; 3]);
    assert_eq!(publications.confirmed_copies(), (3.0, 3));
    answer(&mut publications, [true, false, true]);
    assert_eq!(publications.confirmed_copies(), (2.0, 2), "a node lost what it had");
    answer(&mut publications, [true; 3]);
    // Another takes the place of one, or comes beside them: the copies of the others count on, and its own once it is read back.
    let other = PeerId::random();
    let those: Vec<_> = nodes[1..].iter().chain([&other]).collect();
    publications.on_held(&key(1), &What::Provide, those.into_iter());
    assert_eq!((publications.confirmed_copies(), publications.has_unasked()), ((8.0 / 3.0, 2), true));
    for (number, peer) in publications.round(false) {
        assert_eq!(peer, other);
        publications.on_asked(number, true);
    }
    assert_eq!(publications.confirmed_copies(), (3.0, 3));
    let came = PeerId::random();
    publications.on_came(&came, [key(1), key(2)], &KeySpace { key: |_| [0; 32], peer: |_| [0; 32] });
    assert_eq!((publications.confirmed_copies(), publications.has_unasked()), ((3.0, 3), true));
    for (number, peer) in publications.round(false) {
        assert_eq!(peer, came);
        publications.on_asked(number, true);
    }
    assert_eq!(publications.confirmed_copies(), (11.0 / 3.0, 3));
}

#[test]
fn what_is_published_once_lasts_as_soon_as_it_is_wanted() {
    let now = Instant::now();
    let mut publications = Publications::new(Duration::from_secs(1000));
    let (_, what) = certificates(1).remove(0);
    let What::Statement(granted) = &what else { panic!("no statement") };
    publications.push(key(1), Statement::clone(granted), now);
    publications.want(key(1), Some(what.clone()), now);
    assert_eq!(publications.due(now, 10), [(key(1), what.clone())], "not put off");
    publications.on_published(&key(1), &what, 5, 5, now);
    assert_eq!(publications.counts(), (1, 1), "it comes again");
}

/// One node's whole share has room in the mirror, however its files are named. Each name has its own key, its content
/// and two words that no other name has, which have a beginning each.
#[test]
fn the_bounds_of_the_mirror_fit_the_largest_share() {
    const KEYS_OF_A_NAME: usize = 5;
    let names = crate::config::LimitsConfig::default().names_per_peer;
    let dht = crate::config::DhtConfig::default();
    assert!(dht.records >= names && dht.keys_per_peer >= KEYS_OF_A_NAME * names);
    assert!(dht.providers > dht.keys_per_peer, "others have room beside it");
    assert!(MAX_PUBLICATIONS >= (1 + KEYS_OF_A_NAME) * names);
    assert_eq!(Publications::new(Duration::ZERO).with_room(2_000_000).most, 2_000_000);
    assert_eq!(Publications::new(Duration::ZERO).with_room(10).most, MAX_PUBLICATIONS);
}

/// Words of letters and digits together are there by the rule of earlier builds, too: names with two such words of their
/// own fit as well. What names share, beginnings above all, does not grow with them.
#[test]
fn the_bounds_of_the_mirror_fit_names_whose_words_differ_by_the_two_rules() {
    const COUNTED: usize = 5000;
    let names = crate::config::LimitsConfig::default().names_per_peer;
    let dht = crate::config::DhtConfig::default();
    let network = swarmdex_protocols::Network::default();
    for shape in [
        |number: usize| format!("IMG{number:08}-DSC{:07}.jpg", number * 7919 % 9_999_991),
        |number: usize| format!("holidays/summer{number:06}/beach {:07}.jpeg", number * 7919 % 9_999_991),
        |number: usize| format!("東京の地図{number:06}/写真{:07}.png", number * 7919 % 9_999_991),
    ] {
        let mut keys = std::collections::BTreeSet::new();
        let mut counts = Vec::new();
        for number in 0..2 * COUNTED {
            let name = shape(number).parse().unwrap();
            keys.extend(RecordKey::of_words(&network, &name));
            // And its content.
            counts.push(keys.len() + number + 1);
        }
        let (half, all) = (counts[COUNTED - 1], counts[2 * COUNTED - 1]);
        let whole = all + (all - half) * (names / COUNTED - 2);
        assert!(whole <= dht.keys_per_peer, "{whole} keys of names like {}", shape(1));
        assert!(whole + names <= MAX_PUBLICATIONS);
    }
}

#[test]
fn nodes_are_asked_about_what_they_stored_the_last_time() {
    let now = Instant::now();
    let mut publications = Publications::new(Duration::from_secs(1000));
    let [anna, bert] = [PeerId::random(), PeerId::random()];
    let wanted: BTreeMap<_, _> = (1..4).map(|number| (key(number), What::Provide)).collect();
    publications.replace(wanted.clone(), now);
    for number in 1..4 {
        publications.on_published(&key(number), &What::Provide, 2, 2, now);
        publications.on_held(&key(number), &What::Provide, [anna, bert].iter());
    }
    // The second time one node is no longer among the closest.
    publications.on_held(&key(3), &What::Provide, [bert].iter());
    let held = |publications: &mut Publications, node: PeerId| {
        let number = publications.round(true).into_iter().find(|(_, peer)| *peer == node).map(|(number, _)| number);
        number.map_or(0, |number| publications.held_by(number).len())
    };
    assert_eq!((held(&mut publications, anna), held(&mut publications, bert)), (2, 3));
    publications.replace(wanted.into_iter().skip(2).collect(), now);
    publications.on_held(&key(1), &What::Withdraw, [anna].iter());
    assert_eq!(
        (held(&mut publications, anna), held(&mut publications, bert)),
        (0, 1),
        "withdrawals are not asked about"
    );
    // A key of an earlier run is withdrawn, one of this run is not.
    publications.withdraw(key(9), now);
    publications.withdraw(key(3), now);
    let due: Vec<_> = publications.due(now, 10).into_iter().filter(|(_, what)| *what == What::Withdraw).collect();
    assert_eq!(due.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key(1), key(2), key(9)]);
}

/// A hash of the key, as Kademlia has it; that of a node here is that of its bytes.
const PLACES: KeySpace = KeySpace {
    key: |key| *blake3::hash(key.as_bytes()).as_bytes(),
    peer: |peer| *blake3::hash(&peer.to_bytes()).as_bytes(),
};

#[test]
fn a_node_that_came_belongs_where_it_is_among_the_closest() {
    let now = Instant::now();
    for count in [1, 5, 19, 20, 21, 60, 300] {
        let mut publications = Publications::new(Duration::from_secs(1000));
        let nodes: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
        let positions: Vec<_> = nodes.iter().map(PLACES.peer).collect();
        let keys: Vec<_> = (0..200).map(|number| RecordKey::from_slice(&position(number)).unwrap()).collect();
        let closest = |key: &RecordKey, of: &[PeerId]| {
            let place = (PLACES.key)(key);
            let mut closest = of.to_vec();
            closest.sort_by_key(|node| distance(&(PLACES.peer)(node), &place));
            closest.truncate(REPLICATION);
            closest
        };
        for (number, key) in keys.iter().enumerate() {
            publications.want(*key, Some(What::Provide), now);
            // The others were published by somebody else: what is known of nodes says where they are.
            if number % 2 == 0 {
                publications.on_published(key, &What::Provide, 20, 20, now);
                publications.on_held(key, &What::Provide, closest(key, &nodes).iter());
            }
        }
        let node = PeerId::random();
        let with: Vec<_> = nodes.iter().copied().chain([node]).collect();
        let belonging = publications.belonging(&(PLACES.peer)(&node), &positions, &PLACES);
        let belonging: Vec<_> = belonging.into_iter().map(|(key, _)| key).collect();
        let mut expected: Vec<_> = keys.iter().filter(|key| closest(key, &with).contains(&node)).copied().collect();
        expected.sort();
        assert_eq!(belonging, expected, "{count}");
        publications.on_came(&node, belonging.clone(), &PLACES);
        let number = publications.holders.number(&node);
        let held = number.map_or_else(Vec::new, |number| publications.held_by(number));
        assert_eq!(held.len(), belonging.len());
        let sum = number.and_then(|number| publications.sum_of(number)).map_or(0, |sum| sum.count);
        assert_eq!(sum as usize, belonging.len());
        for (key, item) in &publications.items {
            assert!(item.holders.len() <= REPLICATION, "the farthest gives way");
            if count >= REPLICATION && belonging.contains(key) && item.holders.len() == REPLICATION {
                let holders: BTreeSet<_> = item.holders.iter().copied().collect();
                let farthest = closest(key, &nodes).pop().unwrap();
                assert!(!publications.holders.number(&farthest).is_some_and(|number| holders.contains(&number)));
            }
        }
        // It is there already: nothing changes.
        publications.on_came(&node, belonging, &PLACES);
        keys.iter().for_each(|key| publications.want(*key, None, now));
        assert!(publications.holders.positions(PLACES.peer).is_empty(), "every one is counted down");
    }
}

#[test]
fn what_few_took_is_tried_again_soon() {
    let (now, interval) = (Instant::now(), Duration::from_secs(1200));
    let key = RecordKey::word(&"home".parse().unwrap(), "word");
    let mut publications = Publications::new(interval);
    publications.want(key, Some(What::Provide), now);
    // Nine of twenty took it: four seconds later, then eight.
    for after in [4, 8, 16] {
        let at = publications.poll_timeout().unwrap();
        publications.on_published(&key, &What::Provide, 9, 20, at);
        assert_eq!(publications.poll_timeout().unwrap(), at + Duration::from_secs(after));
    }
    assert_eq!(publications.counts(), (1, 1));
    // Ten are enough until the next time.
    let at = publications.poll_timeout().unwrap();
    publications.on_published(&key, &What::Provide, 10, 20, at);
    assert!(publications.poll_timeout().unwrap() > at + interval / 2);
}

#[test]
fn who_was_missed_lacks_only_what_was_published_since() {
    let (begin, second) = (Instant::now(), Duration::from_secs(1));
    let key = RecordKey::word(&"home".parse().unwrap(), "word");
    let mut publications = Publications::new(Duration::from_secs(1200));
    assert!(!publications.has_changed_since(begin));
    publications.want(key, Some(What::Provide), begin);
    assert!(publications.has_changed_since(begin) && !publications.has_changed_since(begin + second));
    // It is published some time after it was wanted; to repeat it changes nothing.
    publications.on_published(&key, &What::Provide, 20, 20, begin + 5 * second);
    publications.want(key, Some(What::Provide), begin + 7 * second);
    publications.on_published(&key, &What::Provide, 20, 20, begin + 9 * second);
    assert!(publications.has_changed_since(begin + 5 * second) && !publications.has_changed_since(begin + 6 * second));
}

#[test]
fn statements_go_when_they_have_expired() {
    let (mut publications, now) = (Publications::new(Duration::from_secs(60)), Instant::now());
    let owner = PeerId::random();
    let ends = |number: u8| 1_000_000 * u64::from(number);
    for number in [3, 1, 2] {
        let name = swarmdex_protocols::Name::parse(&format!("name {number}")).unwrap();
        let seal =
            swarmdex_protocols::statement::Seal { issued_ms: 0, expires_ms: ends(number), signature: vec![0; 64] };
        let content = swarmdex_protocols::ContentId::of(b"x");
        let version = swarmdex_protocols::Version(1);
        let entry = swarmdex_protocols::Entry { name, content, size: 1, owner, version, attributes: None };
        let certificate = Statement::Certificate(swarmdex_protocols::Certificate { entry, seal });
        publications.want(key(number), Some(statement_of(certificate)), now);
    }
    publications.want(key(9), Some(What::Provide), now);
    for (unix_ms, left) in [(0, 4), (ends(1), 4), (ends(1) + 1, 3), (ends(2), 3), (ends(2) + 1, 2), (u64::MAX, 1)] {
        publications.expire(unix_ms);
        assert_eq!(publications.counts().0, left, "at {unix_ms}");
    }
}
