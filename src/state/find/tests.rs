use std::collections::BTreeSet;

use super::*;
use crate::state::random::Random;

/// A network: the places of its nodes in order, a number in the first 8 bytes of each.
struct Network {
    places: Vec<u64>,
    dead: BTreeSet<usize>,
    /// Nodes that should store a record and do not, in percent.
    lacking: u64,
}

fn position(place: u64) -> Position {
    let mut position = [0; 32];
    position[..8].copy_from_slice(&place.to_be_bytes());
    position
}

impl Network {
    fn new(nodes: usize, random: &mut Random) -> Self {
        let mut places: Vec<_> = (0..nodes).map(|_| random.next()).collect();
        places.sort_unstable();
        places.dedup();
        Self { places, dead: BTreeSet::new(), lacking: 0 }
    }

    /// The nodes whose places begin with the first bits of this one.
    fn under(&self, place: u64, bits: u32) -> std::ops::Range<usize> {
        let mask = if bits == 0 { 0 } else { u64::MAX << (64 - bits) };
        let (low, high) = (place & mask, place & mask | !mask);
        self.places.partition_point(|other| *other < low)..self.places.partition_point(|other| *other <= high)
    }

    /// The 20 closest to a target of those that a node knows: up to 20 of each distance, always the same for it. A node knows
    /// all of its own neighbourhood.
    fn known_to(&self, node: usize, target: u64) -> Vec<usize> {
        let place = self.places[node];
        let mut random = Random(place);
        let mut known = BTreeSet::new();
        for bits in 0..64 {
            let bucket = self.under(place ^ (1 << (63 - bits)), bits + 1);
            if bucket.len() <= REPLICATION {
                known.extend(bucket);
            } else {
                known.extend((0..REPLICATION).map(|_| bucket.start + random.below(bucket.len() as u64) as usize));
            }
            if self.under(place, bits + 1).len() <= 1 {
                break;
            }
        }
        let mut known: Vec<_> = known.into_iter().collect();
        known.sort_by_key(|other| self.places[*other] ^ target);
        known.truncate(REPLICATION);
        known
    }

    /// The nodes that store a record.
    fn holders(&self, target: u64) -> BTreeSet<usize> {
        // A part of the key space that has enough nodes has the closest.
        let bits = (0..=64).rev().find(|bits| self.under(target, *bits).len() >= REPLICATION).unwrap_or(0);
        let mut nodes: Vec<_> = self.under(target, bits).collect();
        nodes.sort_by_key(|other| self.places[*other] ^ target);
        nodes.into_iter().take(REPLICATION).collect()
    }

    /// Whether a lookup from one node finds enough, and how many questions it takes; those to dead nodes count.
    fn find(&self, from: usize, target: u64, random: &mut Random) -> (bool, usize) {
        let mut holders = self.holders(target);
        holders.retain(|_| !random.chance(self.lacking));
        let named = |nodes: Vec<usize>| nodes.into_iter().map(|node| (position(self.places[node]), node));
        let mut find = Find::new(position(target), named(self.known_to(from, target)));
        let (mut under_way, mut asked) = (Vec::new(), 0);
        loop {
            while let Some(node) = find.next_node() {
                under_way.push(node);
                asked += 1;
            }
            if under_way.is_empty() || find.has_enough() {
                return (find.has_enough(), asked);
            }
            let node = under_way.swap_remove(random.below(under_way.len() as u64) as usize);
            if self.dead.contains(&node) {
                find.on_failed(node);
            } else {
                find.on_answer(node, holders.contains(&node), named(self.known_to(node, target)));
            }
        }
    }

    /// The part of lookups that find enough, and the median and the most questions.
    fn finds(&self, random: &mut Random) -> (f64, usize, usize) {
        let mut asked = Vec::new();
        let mut found = 0;
        for _ in 0..500 {
            let from = random.below(self.places.len() as u64) as usize;
            let (enough, questions) = self.find(from, random.next(), random);
            found += usize::from(enough);
            asked.push(questions);
        }
        asked.sort_unstable();
        (found as f64 / 500.0, asked[250], asked[499])
    }
}

#[test]
fn a_lookup_takes_no_more_questions_than_the_logarithm_of_the_nodes() {
    for nodes in [50, 200, 400, 1000, 10_000, 100_000] {
        let mut random = Random(nodes as u64);
        let network = Network::new(nodes, &mut random);
        let (found, median, most) = network.finds(&mut random);
        println!("{nodes} nodes: {found} found, {median} questions in the median, {most} at most");
        assert!(found > 0.999, "{nodes}: {found}");
        assert!(median as f64 <= (nodes as f64).log2(), "{nodes}: {median}");
        assert!(most <= MAX_ASKED);
    }
}

#[test]
fn holders_that_lack_a_record_and_nodes_that_died_are_passed_by() {
    for nodes in [50, 400, 10_000] {
        let mut random = Random(nodes as u64);
        let mut network = Network::new(nodes, &mut random);
        network.lacking = 30;
        let (found, median, _) = network.finds(&mut random);
        println!("{nodes} nodes, a third lacking: {found} found, {median} questions in the median");
        assert!(found > 0.99, "{nodes}: {found}");
        network.lacking = 0;
        network.dead = (0..network.places.len()).filter(|_| random.chance(50)).collect();
        let (found, median, _) = network.finds(&mut random);
        println!("{nodes} nodes, half of them dead: {found} found, {median} questions in the median");
        assert!(found > 0.9, "{nodes}: {found}");
    }
}

#[test]
fn those_who_are_heard_of_by_way_of_one_node_alone_are_not_enough() {
    let target = position(0);
    let place = |number: u64| position(1 << number);
    let mut find = Find::new(target, [(place(40), 40)]);
    assert_eq!(find.next_node(), Some(40));
    assert_eq!(find.next_node(), None);
    find.on_answer(40, false, (0..REPLICATION as u64 + 5).map(|number| (place(number), number)));
    let mut had = 0;
    while let Some(node) = find.next_node() {
        // They name each other.
        find.on_answer(node, true, (0..REPLICATION as u64).map(|number| (place(number), number)));
        had += 1;
    }
    assert!(had == ENOUGH && !find.has_enough());
    // One whom it was told of by somebody else makes the difference.
    let mut find = Find::new(target, [(place(40), 40), (place(3), 3)]);
    assert_eq!((find.next_node(), find.next_node()), (Some(3), Some(40)));
    find.on_answer(40, false, (0..5).map(|number| (place(number), number)));
    find.on_answer(3, true, []);
    for _ in 0..2 {
        let node = find.next_node().unwrap();
        find.on_answer(node, true, []);
    }
    assert!(find.has_enough() && find.next_node().is_none());
}

#[test]
fn slow_nodes_are_not_waited_for_and_answers_count_when_they_come() {
    let known = (0..10).map(|number| (position(1 << number), number));
    let mut find = Find::new(position(0), known);
    let first: Vec<_> = std::iter::from_fn(|| find.next_node()).collect();
    assert_eq!(first, [0, 1, 2]);
    find.on_slow();
    let second: Vec<_> = std::iter::from_fn(|| find.next_node()).collect();
    assert_eq!(second, [3, 4, 5]);
    first.iter().for_each(|node| find.on_answer(*node, true, []));
    assert!(find.has_enough());
    // An answer counts once.
    let mut find = Find::new(position(0), [(position(1), 1)]);
    assert_eq!(find.next_node(), Some(1));
    (0..5).for_each(|_| find.on_answer(1, true, []));
    assert!(!find.has_enough());
}

#[test]
fn lies_cost_a_bounded_number_of_questions_and_bounded_memory() {
    let mut find = Find::new(position(0), [(position(1 << 60), 0)]);
    let (mut asked, mut next_liar) = (0, 1u64);
    while let Some(node) = find.next_node() {
        asked += 1;
        // Always nodes that are closer still.
        find.on_answer(
            node,
            false,
            (0..1000).map(|_| {
                next_liar += 1;
                (position((1 << 59) - next_liar), next_liar)
            }),
        );
        assert!(find.known.len() <= MAX_KNOWN);
    }
    assert_eq!(asked, MAX_ASKED);
}
