use super::*;
use crate::state::network::{Network, position};
use crate::state::random::Random;

/// Lookups in a network.
struct Lookups {
    network: Network,
    /// Nodes that should store a record and do not, in percent.
    lacking: u64,
}

impl Lookups {
    fn new(nodes: usize, random: &mut Random) -> Self {
        Self { network: Network::new(nodes, random), lacking: 0 }
    }

    /// Whether a lookup from one node finds enough, and how many questions it takes; those to dead nodes count.
    fn find(&self, from: usize, target: u64, random: &mut Random) -> (bool, usize) {
        let mut holders: std::collections::BTreeSet<_> = self.network.closest(target).into_iter().collect();
        holders.retain(|_| !random.chance(self.lacking));
        let named = |nodes: Vec<usize>| nodes.into_iter().map(|node| (position(self.network.places[node]), node));
        let mut find = Find::new(position(target), named(self.network.known_to(from, target)));
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
            if self.network.dead.contains(&node) {
                find.on_failed(node);
            } else {
                find.on_answer(node, holders.contains(&node), named(self.network.known_to(node, target)));
            }
        }
    }

    /// The part of lookups that find enough, and the median and the most questions.
    fn finds(&self, random: &mut Random) -> (f64, usize, usize) {
        let mut asked = Vec::new();
        let mut found = 0;
        for _ in 0..500 {
            let from = random.below(self.network.places.len() as u64) as usize;
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
        let network = Lookups::new(nodes, &mut random);
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
        let mut network = Lookups::new(nodes, &mut random);
        network.lacking = 30;
        let (found, median, _) = network.finds(&mut random);
        println!("{nodes} nodes, a third lacking: {found} found, {median} questions in the median");
        assert!(found > 0.99, "{nodes}: {found}");
        network.lacking = 0;
        network.network.dead = (0..network.network.places.len()).filter(|_| random.chance(50)).collect();
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
