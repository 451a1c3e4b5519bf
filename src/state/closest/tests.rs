use std::collections::BTreeSet;

use super::*;
use crate::state::network::{Network, position};
use crate::state::random::Random;

/// What searches in a network came to.
struct Outcome {
    /// Of the twenty closest nodes that live so many are in the answer: in the mean, and at least.
    mean: f64,
    least: usize,
    /// Questions: in the mean, and at most.
    questions: f64,
    most: usize,
}

/// Searches from living nodes. `liars` of a hundred nodes name twenty nodes that are nearer than any and are not there.
fn searches(network: &Network, liars: u64, random: &mut Random) -> Outcome {
    const ROUNDS: usize = 300;
    let (mut right, mut least, mut all, mut most) = (0, REPLICATION, 0, 0);
    for _ in 0..ROUNDS {
        let from = (0..).map(|_| random.below(network.places.len() as u64) as usize);
        let from = from.into_iter().find(|node| !network.dead.contains(node)).unwrap();
        let target = random.next();
        let (nodes, questions) = search(network, from, target, liars, random);
        let living = network.living(target, from);
        let hits = living.iter().filter(|node| nodes.contains(node)).count();
        (right, least, all, most) = (right + hits, least.min(hits), all + questions, most.max(questions));
    }
    let mean = |sum: usize| sum as f64 / ROUNDS as f64;
    Outcome { mean: mean(right), least, questions: mean(all), most }
}

fn search(network: &Network, from: usize, target: u64, liars: u64, random: &mut Random) -> (BTreeSet<usize>, usize) {
    let named = |nodes: Vec<usize>| {
        let nodes = nodes.into_iter().filter(|node| *node != from);
        nodes.map(|node| (position(network.places[node]), node)).collect::<Vec<_>>()
    };
    let mut closest = Closest::new(position(target), named(network.known_to(from, target)));
    let (mut under_way, mut asked) = (Vec::new(), 0);
    loop {
        while let Some(node) = closest.next_node() {
            under_way.push(node);
            asked += 1;
        }
        if under_way.is_empty() {
            assert!(closest.is_over() && closest.is_sure());
            return (closest.nodes().into_iter().collect(), asked);
        }
        let node = under_way.swap_remove(random.below(under_way.len() as u64) as usize);
        if node >= network.places.len() || network.dead.contains(&node) {
            closest.on_failed(node);
        } else if node as u64 % 100 < liars {
            // The same from each of them: they know each other.
            closest.on_answer(node, (0..20).map(|number| (position(target ^ number), usize::MAX - number as usize)));
        } else {
            closest.on_answer(node, named(network.known_to(node, target)));
        }
    }
}

#[test]
fn few_questions_find_the_closest_nodes() {
    for nodes in [25, 50, 200, 400, 1000, 10_000, 100_000] {
        let mut random = Random(nodes as u64);
        let network = Network::new(nodes, &mut random);
        let Outcome { mean, least, questions, most } = searches(&network, 0, &mut random);
        println!("{nodes} nodes: {mean} of 20 found, at least {least}; {questions} questions, at most {most}");
        assert!(mean > 19.7 && least >= 16, "{nodes}: {mean}, {least}");
        assert!(questions <= 12.0, "{nodes}: {questions}");
    }
}

#[test]
fn nodes_that_died_are_not_in_the_answer() {
    for nodes in [100, 400, 10_000] {
        for dead in [5, 15, 30, 50] {
            let mut random = Random(nodes as u64);
            let mut network = Network::new(nodes, &mut random);
            network.dead = (0..network.places.len()).filter(|_| random.chance(dead)).collect();
            let Outcome { mean, least, questions, .. } = searches(&network, 0, &mut random);
            println!("{nodes} nodes, {dead} % dead: {mean} of 20 found, at least {least}; {questions} questions");
            // Whom the dead ones kept out of the tables of the others nobody can name.
            assert!(mean > 19.0 - 0.1 * dead as f64 && least >= 3, "{nodes}: {mean}, {least}");
        }
    }
}

#[test]
fn nodes_that_name_others_that_are_not_there_cost_questions_and_little_else() {
    for nodes in [50, 400, 10_000] {
        let mut random = Random(nodes as u64);
        let network = Network::new(nodes, &mut random);
        let Outcome { mean, least, questions, most } = searches(&network, 10, &mut random);
        println!("{nodes} nodes, a tenth lying: {mean} of 20 found, at least {least}; {questions} questions");
        assert!(mean > 18.0 && least >= 8 && most <= MAX_ASKED, "{nodes}: {mean}, {least}");
    }
}

#[test]
fn nodes_of_before_are_part_of_the_answer_and_not_enough() {
    let known = (0..30).map(|number| (position(1 << number), number));
    let mut closest = Closest::new(position(0), known);
    let mut asked = 0;
    while let Some(node) = closest.next_node() {
        closest.on_mute(node);
        asked += 1;
    }
    assert!(asked <= REPLICATION && closest.is_over() && !closest.is_sure());
    assert_eq!(closest.nodes(), Vec::from_iter(0..20));
}

#[test]
fn slow_nodes_are_not_waited_for_and_belong_to_the_answer() {
    let known = (0..30).map(|number| (position(1 << number), number));
    let mut closest = Closest::new(position(0), known);
    assert_eq!(std::iter::from_fn(|| closest.next_node()).collect::<Vec<_>>(), [0, 1, 2]);
    closest.on_slow();
    assert_eq!(std::iter::from_fn(|| closest.next_node()).collect::<Vec<_>>(), [3, 4, 5]);
    [3, 4, 5].into_iter().for_each(|node| closest.on_answer(node, []));
    assert!(!closest.is_over());
    assert_eq!(closest.next_node(), Some(6));
    closest.on_answer(6, []);
    assert!(closest.is_over() && closest.is_sure());
    assert_eq!(closest.nodes(), Vec::from_iter(0..20));
    // It answered after all, and counts once.
    closest.on_answer(0, []);
    closest.on_failed(0);
    assert_eq!((closest.answered, closest.failed), (5, 0));
}

#[test]
fn lies_cost_a_bounded_number_of_questions_and_bounded_memory() {
    let mut closest = Closest::new(position(0), [(position(1 << 60), 0)]);
    let (mut asked, mut next_liar) = (0, 1u64);
    while let Some(node) = closest.next_node() {
        asked += 1;
        // Always nodes that are closer still.
        let named = (0..1000).map(|_| {
            next_liar += 1;
            (position((1 << 59) - next_liar), next_liar)
        });
        closest.on_answer(node, named);
        assert!(closest.known.len() <= MAX_KNOWN);
    }
    assert_eq!(asked, MAX_ASKED);
    assert!(closest.is_over());
}
