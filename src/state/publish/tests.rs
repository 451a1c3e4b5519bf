//! Sweeps over networks, and what is published when.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use proptest::prelude::*;

use super::*;

fn nodes(count: usize) -> Vec<(Position, PeerId)> {
    let position = |number: usize| *blake3::hash(&number.to_le_bytes()).as_bytes();
    let mut nodes: Vec<_> = (0..count).map(|number| (position(number), PeerId::random())).collect();
    nodes.sort_unstable();
    nodes
}

/// Of nodes in the order of their positions.
fn closest(nodes: &[(Position, PeerId)], target: &Position) -> Vec<(Position, PeerId)> {
    // Those that share the most bits with the target, as many as are enough.
    let sharing = |bits: usize| {
        let (low, high) = (with_tail(target, bits, 0), with_tail(target, bits, 0xff));
        let (from, to) = (nodes.partition_point(|node| node.0 < low), nodes.partition_point(|node| node.0 <= high));
        &nodes[from..to]
    };
    let bits = (0..40).rev().find(|bits| sharing(*bits).len() >= REPLICATION).unwrap_or(0);
    let mut nodes = sharing(bits).to_vec();
    nodes.sort_by_key(|(position, _)| distance(position, target));
    nodes.truncate(REPLICATION);
    nodes
}

fn position(number: usize) -> Position {
    *blake3::hash(&(number + 1_000_000).to_le_bytes()).as_bytes()
}

/// What a sweep over a network came to.
struct Swept {
    queries: usize,
    /// Of the nodes closest to a key so many are to store its record, of [`REPLICATION`]: in the mean, and at least.
    mean: f64,
    least: usize,
}

/// Sweeps over `keys` keys in a network of which `living` answer; what it answers is changed by `change`, which is told the
/// number of the question.
fn sweep(
    living: &[(Position, PeerId)],
    keys: usize,
    known: usize,
    mut change: impl FnMut(usize, &mut Vec<(Position, PeerId)>),
) -> Swept {
    let mut sweep = Sweep::new((0..keys).map(|number| (position(number), number)), known);
    let (mut right, mut all, mut least) = (0, 0, REPLICATION);
    let mut seen = BTreeSet::new();
    while let Some((target, _)) = sweep.next_target() {
        let mut answer = closest(living, &target);
        change(sweep.queries(), &mut answer);
        for (number, assigned) in sweep.on_closest(&target, &answer) {
            assert!(seen.insert(number), "assigned once");
            let best: Vec<_> = closest(living, &position(number)).into_iter().map(|(_, peer)| peer).collect();
            let hits = assigned.iter().filter(|peer| best.contains(peer)).count();
            (right, all) = (right + hits, all + best.len());
            least = least.min((hits * REPLICATION).checked_div(best.len()).unwrap_or(REPLICATION));
        }
    }
    assert_eq!(seen.len(), keys, "and every one");
    let mean = (right * REPLICATION) as f64 / all.max(1) as f64;
    Swept { queries: sweep.queries(), mean, least }
}

#[test]
fn records_go_where_readers_look_in_networks_of_any_size_and_take_few_queries() {
    for (size, keys) in [(21, 1000), (50, 10_000), (200, 3000), (400, 3000), (2000, 10_000)] {
        let Swept { queries, mean, least } = sweep(&nodes(size), keys, size.min(100), |_, _| {});
        assert!(queries <= size * 5 / (2 * REPLICATION) + 2, "{size} nodes: {queries} queries");
        assert!(mean > 19.0 && least >= 12, "{size} nodes: {mean}, {least}");
    }
    for size in 0..REPLICATION {
        let Swept { queries, mean, .. } = sweep(&nodes(size), 1000, size, |_, _| {});
        // The second answer names nobody new.
        assert!(
            queries <= if size > 1 { 2 } else { 6 } && (size == 0 || mean == 20.0),
            "{size} nodes: {queries} queries, {mean}"
        );
    }
}

/// A random number that is the same in each run.
fn number(seed: usize) -> usize {
    usize::from_le_bytes(*blake3::hash(&seed.to_le_bytes()).as_bytes().first_chunk().unwrap())
}

/// Answers of which one node is missing, answers of any length, one in ten that breaks off, some nodes that are anywhere.
#[test]
fn a_short_answer_is_not_taken_for_all_that_there_is() {
    type Change = fn(usize, &mut Vec<(Position, PeerId)>);
    let changes: [(&str, Change); 4] = [
        ("19 of 20", |question, answer| _ = answer.remove(number(question) % answer.len())),
        ("any length", |question, answer| {
            let length = 1 + number(question) % REPLICATION;
            while answer.len() > length {
                answer.remove(number(question + answer.len() * 1000) % answer.len());
            }
        }),
        ("one in ten", |question, answer| {
            if question % 10 == 3 {
                answer.truncate(question % 6)
            }
        }),
        ("three far away", |question, answer| {
            for far in 0..3 {
                answer.pop();
                answer.insert(0, (position(question * 3 + far), PeerId::random()));
            }
        }),
    ];
    for (what, change) in changes {
        for (size, keys) in [(50, 2000), (400, 2000), (1000, 20), (1000, 300), (10_000, 300), (100_000, 300)] {
            let nodes = nodes(size);
            let Swept { queries: ideal, .. } = sweep(&nodes, keys, 100, |_, _| {});
            for known in [1, 100] {
                let Swept { mean, least, queries } = sweep(&nodes, keys, known, change);
                // Of three that are far away each answer has 17 of the 20, and copies go to those who do not exist as well.
                let (wanted, floor) = if what == "three far away" { (15.0, 8) } else { (18.0, 10) };
                assert!(mean >= wanted && least >= floor, "{what}, {size} nodes, {known} known: {mean}, {least}");
                // Whole answers are asked about once, short ones until they say nothing new.
                let most = if what == "any length" { 6 } else { 3 };
                assert!(queries <= most * ideal + 12, "{what}, {size} nodes: {queries} queries, ideally {ideal}");
            }
        }
    }
}

/// Whoever names many that are far away takes no room from those that are near.
#[test]
fn what_is_near_is_not_forgotten_for_what_is_far() {
    let nodes = nodes(100_000);
    let far = |question: usize, answer: &mut Vec<(Position, PeerId)>| {
        (0..3).for_each(|far| {
            answer.pop();
            answer.insert(0, (position(question * 3 + far + 1_000_000), PeerId::random()));
        });
    };
    let Swept { mean, .. } = sweep(&nodes, 10_000, 100, far);
    // Once it was 9: the places of those that are near went to those that are far ahead.
    assert!(mean > 17.0, "{mean}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn most_copies_go_where_readers_look(
        count in prop_oneof![1..60usize, 60..2000usize],
        keys in 1..200usize,
        known in 1..100usize,
        shortest in 1..=REPLICATION,
        dead in 0..90usize,
    ) {
        // Some nodes are dead: they are named by nobody.
        let living = nodes(count).into_iter().enumerate().filter(|(at, _)| number(*at) % 100 >= dead);
        let living: Vec<_> = living.map(|(_, node)| node).collect();
        let Swept { queries, mean, least } = sweep(&living, keys, known, |question, answer| {
            let length = shortest + number(question) % (REPLICATION + 1 - shortest);
            while answer.len() > length {
                answer.remove(number(question + answer.len() * 1000) % answer.len());
            }
        });
        // In 12,000 random networks the worst were 14.0 and 7.
        prop_assert!(mean > 12.0 || living.is_empty(), "{} of {} nodes", mean, living.len());
        prop_assert!(least >= 5 || living.is_empty(), "{} of {} nodes", least, living.len());
        prop_assert!(queries <= 12 * keys + 12);
    }
}

#[test]
fn a_network_that_never_answers_ends_a_sweep() {
    let Swept { queries, .. } = sweep(&nodes(400), 2000, 100, |_, answer| answer.clear());
    assert!(queries <= 10, "{queries}");
}

impl Publications {
    /// Wants just these, and nothing else.
    pub(in crate::state) fn replace(&mut self, wanted: BTreeMap<RecordKey, What>, now: Instant) {
        let gone = self.items.iter().filter(|(key, item)| !item.once && !wanted.contains_key(*key));
        let gone: Vec<_> = gone.map(|(key, _)| (*key, None)).collect();
        for (key, what) in gone.into_iter().chain(wanted.into_iter().map(|(key, what)| (key, Some(what)))) {
            self.want(key, what, now);
        }
    }
}

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
        let (due, _) = publications.poll_timeout().unwrap();
        pauses.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(pauses, [4, 8, 16, 32]);
    publications.on_published(&key(9), &What::Provide, 2, 2, now);
    let (due, _) = publications.poll_timeout().unwrap();
    assert!(due >= now + interval * 4 / 5, "others have it");
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
    publications.set_alone(true, now);
    assert_eq!(publications.due(now, 10).len(), 4);
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
        at = publications.poll_timeout().unwrap().0;
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
    let (due, _) = publications.poll_timeout().unwrap();
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
        let asked = publications.round();
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
}

#[test]
fn what_is_published_once_lasts_as_soon_as_it_is_wanted() {
    let now = Instant::now();
    let mut publications = Publications::new(Duration::from_secs(1000));
    let master = swarmdex_protocols::Keypair::generate_ed25519();
    let name = swarmdex_protocols::Name::parse("name").unwrap();
    let entry = swarmdex_protocols::Entry {
        name,
        content: swarmdex_protocols::ContentId::of(b"x"),
        size: 1,
        owner: PeerId::random(),
        version: swarmdex_protocols::Version(1),
    };
    let network = swarmdex_protocols::Network::default();
    let granted = swarmdex_protocols::Certificate::sign(entry, &network, &master, 1).unwrap();
    publications.push(key(1), Statement::Certificate(granted.clone()), now);
    let what = statement_of(Statement::Certificate(granted));
    publications.want(key(1), Some(what.clone()), now);
    assert_eq!(publications.due(now, 10), [(key(1), what.clone())], "not put off");
    publications.on_published(&key(1), &what, 5, 5, now);
    assert_eq!(publications.counts(), (1, 1), "it comes again");
}

/// One node's whole share has room in the mirror, however its files are named: under each name's own key, its content and
/// two words that no other name has, which have a beginning each.
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
        let number = publications.round().into_iter().find(|(_, peer)| *peer == node).map(|(number, _)| number);
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
const PLACES: Places = Places {
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
        let at = publications.poll_timeout().unwrap().0;
        publications.on_published(&key, &What::Provide, 9, 20, at);
        assert_eq!(publications.poll_timeout().unwrap().0, at + Duration::from_secs(after));
    }
    assert_eq!(publications.counts(), (1, 1));
    // Ten are enough until the next time.
    let at = publications.poll_timeout().unwrap().0;
    publications.on_published(&key, &What::Provide, 10, 20, at);
    assert!(publications.poll_timeout().unwrap().0 > at + interval / 2);
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
