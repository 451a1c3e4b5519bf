//! Turns, bounds, slow readers, slots and crowds.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use proptest::prelude::*;

use super::slots::{FIRST, FIRST_FAR, LEAST, NEAR, QUICK, SLOW, USUAL};
use super::*;

/// What a test asks for: chunks of one content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ask {
    choices: Vec<u64>,
    open: bool,
}

impl WantedChunks for Ask {
    fn choices(&self) -> impl Iterator<Item = Chunk> {
        self.choices.iter().map(|index| chunk(*index))
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

fn chunk(index: u64) -> Chunk {
    (ContentId::of(b"x"), index)
}

const MS: Duration = Duration::from_millis(1);

/// Uploads with their clock.
struct Node {
    uploads: Uploads<char, u64, Ask>,
    now: Instant,
    number: u64,
    /// How far away everybody is.
    round_trip: Duration,
}

impl Node {
    fn new(most: usize) -> Self {
        Self { uploads: Uploads::new(most), now: Instant::now(), number: 0, round_trip: Duration::ZERO }
    }

    fn push(&mut self, peer: char, choices: &[u64], crowd: bool, early: bool) -> Result<(), Ask> {
        self.number += 1;
        let wanted = Ask { choices: choices.to_vec(), open: true };
        self.uploads.push(Request { id: self.number, peer, wanted, crowd, early })
    }

    fn ask(&mut self, peer: char, index: u64) {
        self.push(peer, &[index], false, false).unwrap();
    }

    /// The next one: its number, who gets it, and which chunk.
    fn next(&mut self) -> Option<(u64, char, u64)> {
        let round_trip = self.round_trip;
        let turn = self.uploads.next(self.now, |_| round_trip)?;
        self.uploads.on_read(&turn.request.id, self.now);
        Some((turn.request.id, turn.request.peer, turn.chunk.map_or(u64::MAX, |(_, index)| index)))
    }

    /// All that may begin now.
    fn begin(&mut self) -> Vec<(u64, char)> {
        std::iter::from_fn(|| self.next()).map(|(id, peer, _)| (id, peer)).collect()
    }

    /// One after the other, each of which takes so long: who gets them.
    fn served(&mut self, count: usize, each: Duration) -> String {
        let mut peers = String::new();
        while peers.len() < count
            && let Some((id, peer, _)) = self.next()
        {
            peers.push(peer);
            self.now += each;
            self.uploads.finish(&id, self.now);
        }
        peers
    }
}

#[test]
fn peers_take_turns_whoever_asked_for_how_much() {
    let mut node = Node::new(8);
    (0..200).for_each(|index| node.ask('a', index));
    (0..3).for_each(|index| node.ask('b', index));
    (0..2).for_each(|index| node.ask('c', index));
    assert_eq!(node.served(10, MS), "abcabcabaa");
    // Who comes anew waits for one turn of each of the others, and no longer.
    node.ask('d', 0);
    assert_eq!(node.served(3, MS), "ada");
}

#[test]
fn requests_that_wait_are_bounded_by_peer_and_in_all() {
    let mut node = Node::new(8);
    let taken = (0..1000).filter(|index| node.push('a', &[*index], false, false).is_ok()).count();
    assert_eq!(taken, WAITING_PER_PEER);
    node.push('b', &[0], false, false).unwrap();
    let many = ('一'..).take(2 * WAITING / WAITING_PER_PEER);
    for peer in many {
        (0..WAITING_PER_PEER as u64).for_each(|index| drop(node.push(peer, &[index], false, false)));
    }
    assert_eq!(node.uploads.len(), WAITING);
    let refused = Ask { choices: vec![7], open: true };
    assert_eq!(node.push('z', &[7], false, false), Err(refused.clone()), "it comes back");
    node.next().unwrap();
    node.push('z', &[7], false, false).unwrap();
    node.uploads.close();
    assert_eq!(node.push('y', &[7], false, false), Err(refused));
}

#[test]
fn as_many_are_under_way_as_there_are_slots_and_of_one_peer_half_of_the_memory() {
    let mut node = Node::new(100);
    (0..200).for_each(|index| node.ask('a', index));
    let mut begun = node.begin();
    assert_eq!(begun.len(), FIRST);
    // Answers that take a while make room up to the usual number, and quick ones for more.
    for _ in 0..50 {
        node.now += 2 * QUICK;
        node.uploads.finish(&begun.remove(0).0, node.now);
        begun.extend(node.begin());
    }
    assert_eq!(begun.len(), USUAL);
    for _ in 0..USUAL + 60 {
        node.uploads.finish(&begun.pop().unwrap().0, node.now);
        begun.extend(node.begin());
    }
    assert_eq!(begun.len(), 50, "half of what there is memory for");
    node.ask('b', 0);
    assert_eq!(node.begin().len(), 1, "there is a place for others");
}

#[test]
fn slots_grow_and_shrink_and_keep_their_bounds() {
    let mut slots = Slots::new(20, 10);
    assert_eq!((slots.near(), slots.far()), (FIRST, FIRST_FAR));
    (0..100).for_each(|_| slots.on_finished(QUICK, false));
    assert_eq!(slots.near(), USUAL);
    (0..100).for_each(|_| slots.on_finished(QUICK - MS, false));
    assert_eq!(slots.near(), 20);
    slots.on_finished(SLOW - MS, false);
    assert_eq!(slots.near(), 20, "neither quick nor slow");
    (0..5).for_each(|_| slots.on_finished(SLOW + MS, false));
    assert_eq!(slots.near(), 15);
    (0..100).for_each(|_| slots.on_finished(STUCK, false));
    assert_eq!(slots.near(), 15, "a slow reader says nothing of the link");
    (0..100).for_each(|_| slots.on_finished(SLOW + MS, false));
    assert_eq!(slots.near(), LEAST);
    (0..100).for_each(|_| slots.on_finished(SLOW - MS, true));
    assert_eq!((slots.near(), slots.far()), (LEAST, 20 - NEAR));
    // Of little memory there is not even room for these.
    let mut small = Slots::new(1, 1);
    assert_eq!((small.near(), small.far()), (1, 1));
    (0..100).for_each(|number| small.on_finished(if number % 2 == 0 { MS } else { SLOW + MS }, number % 4 < 2));
    assert_eq!((small.near(), small.far()), (1, 1));
}

#[test]
fn many_are_under_way_to_a_distant_peer_and_places_are_left_for_others() {
    let mut node = Node::new(100);
    (0..200).for_each(|index| node.ask('a', index));
    node.round_trip = 200 * MS;
    assert_eq!(node.begin().len(), FIRST_FAR);
    node.round_trip = MS;
    node.ask('b', 0);
    assert_eq!(node.begin().iter().filter(|(_, peer)| *peer == 'b').count(), 1);
    // How long the way is does not count: after a second it is not stuck.
    node.now += STUCK + 100 * MS;
    node.uploads.finish(&1, node.now);
    assert!(!node.uploads.slow_readers.contains(&'a'));
}

#[test]
fn who_does_not_read_holds_nobody_up() {
    let mut node = Node::new(8);
    (0..100).for_each(|index| node.ask('s', index));
    let slow = node.begin();
    assert_eq!(slow.len(), FIRST);
    (0..100).for_each(|index| node.ask('b', index));
    assert_eq!(node.served(1, MS), "", "the slots are taken");
    let due = node.uploads.poll_timeout().unwrap();
    assert_eq!(due, node.now + STUCK);
    node.now = due;
    assert_eq!(node.served(50, MS), "b".repeat(50), "its answers take no slot any more, and no other begins");
    // It reads again: its turn comes as everybody's.
    slow.iter().for_each(|(id, _)| node.uploads.finish(id, node.now));
    assert!(node.uploads.slow_readers.contains(&'s'), "it took them late");
    let (id, peer, _) = std::iter::from_fn(|| node.next()).find(|(_, peer, _)| *peer == 's').unwrap();
    node.now += MS;
    node.uploads.finish(&id, node.now);
    assert_eq!((peer, node.uploads.slow_readers.len()), ('s', 0));
}

#[test]
fn all_slow_readers_share_one_slot() {
    let mut node = Node::new(16);
    for peer in ['s', 't', 'u'] {
        (0..9).for_each(|index| node.ask(peer, index));
    }
    assert_eq!(node.begin().len(), FIRST);
    node.now += STUCK;
    // Each has an answer that it does not read, and gets no other.
    assert!(node.begin().is_empty());
    (1..=27).for_each(|id| node.uploads.finish(&id, node.now));
    assert_eq!(node.begin().len(), 1, "one of the three, and the others wait for it");
}

#[test]
fn who_takes_most_of_the_memory_without_reading_is_to_go() {
    let mut node = Node::new(4);
    (0..9).for_each(|index| node.ask('s', index));
    (0..9).for_each(|index| node.ask('b', index));
    (0..9).for_each(|_| {
        node.served(1, MS);
    });
    let held = node.begin();
    assert_eq!(held.iter().map(|(_, peer)| *peer).collect::<BTreeSet<_>>(), ['b', 's'].into());
    assert_eq!((held.len(), node.uploads.worst(node.now)), (4, None));
    node.now += STUCK;
    let worst = node.uploads.worst(node.now).unwrap();
    let mine: Vec<_> = held.iter().filter(|(_, peer)| *peer == worst).collect();
    assert_eq!(mine.len(), 2);
    node.uploads.finish(&mine[0].0, node.now);
    assert_eq!(node.uploads.worst(node.now), None, "there is memory again");
}

#[test]
fn a_request_that_is_cancelled_is_not_served() {
    let mut node = Node::new(8);
    (0..4).for_each(|index| node.ask('a', index));
    node.ask('b', 0);
    assert_eq!(node.uploads.cancel(&'a', &chunk(2)).unwrap().choices, [2]);
    assert_eq!(node.uploads.cancel(&'a', &chunk(2)), None);
    assert_eq!(node.uploads.cancel(&'b', &chunk(1)), None);
    assert_eq!(node.uploads.cancel(&'c', &chunk(0)), None);
    assert!(node.uploads.cancel(&'b', &chunk(0)).is_some());
    assert_eq!(node.served(9, MS), "aaa");
    assert!(node.uploads.len() == 0 && node.uploads.turns.is_empty());
    // What has begun is sent.
    node.ask('a', 9);
    node.next().unwrap();
    assert_eq!(node.uploads.cancel(&'a', &chunk(9)), None);
}

#[test]
fn nothing_is_read_for_who_is_gone() {
    let mut node = Node::new(8);
    for number in 0..100 {
        let wanted = Ask { choices: vec![0], open: false };
        node.uploads.push(Request { id: 1000 + number, peer: 'a', wanted, crowd: false, early: false }).unwrap();
    }
    node.ask('a', 7);
    assert_eq!(node.next(), Some((1, 'a', 7)));
    assert!(node.next().is_none() && node.uploads.len() == 1);
    assert_eq!(node.uploads.sent.len(), 1);
}

#[test]
fn each_chunk_leaves_once_before_any_leaves_twice() {
    let mut node = Node::new(8);
    let peers = ['a', 'b', 'c', 'd'];
    for peer in peers {
        node.push(peer, &[0, 1, 2, 3], true, false).unwrap();
    }
    let mut chunks: Vec<_> = std::iter::from_fn(|| {
        let (id, _, chunk) = node.next()?;
        node.uploads.finish(&id, node.now);
        Some(chunk)
    })
    .collect();
    assert_eq!(chunks.remove(0), 0, "the first choice comes first");
    chunks.sort_unstable();
    assert_eq!(chunks, [1, 2, 3]);
    // Of one peer's requests the one goes first for whose chunk most others still wait.
    node.ask('a', 0);
    node.ask('a', 9);
    assert_eq!([node.next().unwrap().2, node.next().unwrap().2], [9, 0]);
}

#[test]
fn chunks_for_one_peer_of_a_crowd_leave_one_after_the_other_or_apart() {
    let mut node = Node::new(16);
    (0..9).for_each(|index| node.push('a', &[index], true, false).unwrap());
    let first = node.begin();
    assert_eq!(first.len(), 1);
    assert_eq!(node.uploads.poll_timeout(), Some(node.now + APART));
    // Somebody else need not wait, and nobody of a crowd if what went before is sent.
    node.ask('b', 0);
    assert_eq!(node.begin().len(), 1);
    node.now += MS;
    node.uploads.finish(&first[0].0, node.now);
    assert_eq!(node.begin().len(), 1);
    node.now += APART - MS;
    assert!(node.begin().is_empty());
    node.now += MS;
    assert_eq!(node.begin().len(), 1);
}

#[test]
fn a_request_for_a_chunk_on_its_way_waits_and_holds_no_other_up() {
    let mut node = Node::new(8);
    node.push('a', &[1], true, true).unwrap();
    node.push('a', &[2], false, false).unwrap();
    node.push('b', &[1], true, true).unwrap();
    assert_eq!(node.next().map(|(_, peer, chunk)| (peer, chunk)), Some(('a', 2)));
    assert_eq!(node.next(), None);
    node.uploads.on_settled(|_, index| index == 1);
    assert_eq!(node.next(), None, "it is still on its way");
    node.uploads.finish(&2, node.now);
    node.uploads.on_settled(|_, _| false);
    assert_eq!(node.begin().iter().map(|(_, peer)| *peer).collect::<String>(), "ba");
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut node = Node::new(2000);
    for peer in ('一'..).take(2 * MAX_SLOW_READERS) {
        node.ask(peer, 0);
        node.begin();
        node.now += STUCK;
        assert!(node.uploads.slow_readers.len() <= MAX_SLOW_READERS);
    }
    let mut node = Node::new(8);
    for index in 0..MAX_SENT as u64 + 10 {
        node.ask('a', index);
        node.served(1, MS);
    }
    assert_eq!(node.uploads.sent.len(), 10);
}

#[test]
fn it_is_told_whether_something_has_been_sent_for_a_while() {
    let mut node = Node::new(8);
    node.ask('a', 0);
    node.uploads.next(node.now, |_| Duration::ZERO).unwrap();
    node.now += STUCK;
    assert!(!node.uploads.is_sending(&'a', node.now), "it is still being read");
    node.uploads.on_read(&1, node.now);
    assert!(!node.uploads.is_sending(&'a', node.now));
    node.now += STUCK;
    assert!(node.uploads.is_sending(&'a', node.now) && !node.uploads.is_sending(&'b', node.now));
}

/// What happens to a node.
#[derive(Debug, Clone)]
enum Step {
    Ask {
        peer: char,
        index: u64,
        crowd: bool,
        early: bool,
    },
    Cancel {
        peer: char,
        index: u64,
    },
    /// Some upload is over.
    Finish(usize),
    Settled,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || prop::char::range('a', 'e');
    prop_oneof![
        4 => (peer(), 0..6_u64, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(peer, index, crowd, early)| Step::Ask { peer, index, crowd, early }),
        1 => (peer(), 0..6_u64).prop_map(|(peer, index)| Step::Cancel { peer, index }),
        3 => (0..20_usize).prop_map(Step::Finish),
        1 => Just(Step::Settled),
        2 => (0..1500_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn bounds_hold_and_every_request_ends_once(
        steps in prop::collection::vec(step(), 1..200), most in 1..12_usize, far in any::<bool>(),
    ) {
        let mut node = Node::new(most);
        node.round_trip = if far { 150 * MS } else { Duration::ZERO };
        let (mut waiting, mut active) = (BTreeMap::new(), Vec::<(u64, char)>::new());
        for step in steps {
            match step {
                Step::Ask { peer, index, crowd, early } => {
                    node.push(peer, &[index, index + 1], crowd, early).unwrap();
                    waiting.insert(node.number, peer);
                }
                Step::Cancel { peer, index } => {
                    let before = node.uploads.len();
                    let gone = node.uploads.cancel(&peer, &chunk(index)).is_some();
                    prop_assert_eq!(before - usize::from(gone), node.uploads.len());
                    if gone {
                        // The oldest of those that asked for it.
                        let still: BTreeSet<_> =
                            node.uploads.waiting.values().flatten().map(|request| request.id).collect();
                        waiting.retain(|id, _| still.contains(id));
                    }
                }
                Step::Finish(at) if !active.is_empty() => {
                    let (id, _) = active.remove(at % active.len());
                    node.uploads.finish(&id, node.now);
                    node.uploads.finish(&id, node.now);
                }
                Step::Finish(_) => {}
                Step::Settled => node.uploads.on_settled(|_, _| false),
                Step::Pass(ms) => node.now += MS * ms as u32,
            }
            for (id, peer) in node.begin() {
                prop_assert_eq!(waiting.remove(&id), Some(peer), "each has one turn");
                active.push((id, peer));
            }
            prop_assert_eq!(node.uploads.len(), waiting.len() + active.len());
            prop_assert!(active.len() <= most);
            let most_of_one = if far { most } else { most.div_ceil(2) };
            for peer in 'a'..='e' {
                prop_assert!(active.iter().filter(|(_, other)| *other == peer).count() <= most_of_one);
            }
            prop_assert!(node.uploads.poll_timeout().is_none_or(|at| at > node.now), "there is nothing to do now");
        }
        // When everybody reads and everything is here, nothing remains.
        node.uploads.on_settled(|_, _| false);
        for _ in 0..1000 {
            active.drain(..).for_each(|(id, _)| node.uploads.finish(&id, node.now));
            node.now += MS;
            active = node.begin();
        }
        prop_assert!(node.uploads.len() == 0 && node.uploads.turns.is_empty());
        prop_assert!(node.uploads.active_per_peer.is_empty() && node.uploads.waiting.is_empty());
    }

    #[test]
    fn whoever_asks_all_the_time_gets_as_much_as_the_others(
        wanted in prop::collection::vec((1..20_usize, 0..6_u64), 2..6), each in 1..400_u64, count in 1..100_usize,
    ) {
        let mut node = Node::new(1);
        let mut served = BTreeMap::<char, usize>::new();
        for _ in 0..count {
            for (peer, (ahead, index)) in ('a'..).zip(&wanted) {
                while node.uploads.counts.of(&peer) < *ahead {
                    node.ask(peer, *index);
                }
            }
            let peer = node.served(1, MS * each as u32).chars().next().unwrap();
            *served.entry(peer).or_default() += 1;
        }
        let counts = || ('a'..).take(wanted.len()).map(|peer| served.get(&peer).copied().unwrap_or(0));
        prop_assert!(counts().max().unwrap() - counts().min().unwrap() <= 1, "{:?}", served);
    }
}
