//! Lists of several modules that are cut into parts: over three parts and more, and with changes in between.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use swarmdex_protocols::index::Session;
use swarmdex_protocols::limits::MAX_MEMBERS;
use swarmdex_protocols::{PeerId, RecordKey};

use super::lease::Leases;
use super::publish::{Position, Publications, REPLICATION, Sweep, What, distance};
use crate::config::LeaseConfig;

#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
fn moment() -> Instant {
    Instant::now()
}

fn hashed(kind: &str, number: usize) -> [u8; 32] {
    *blake3::hash(format!("{kind} {number}").as_bytes()).as_bytes()
}

fn key(number: usize) -> RecordKey {
    RecordKey::from_slice(&hashed("key", number)).unwrap()
}

/// Members come and go between the pages: those that stay are in one page each, in order.
#[test]
fn members_that_stay_are_told_once_while_others_join_and_leave() {
    for members in [0, MAX_MEMBERS - 1, MAX_MEMBERS, MAX_MEMBERS + 1, 3 * MAX_MEMBERS, 3 * MAX_MEMBERS + 7] {
        let now = moment();
        let mut leases = Leases::new(&LeaseConfig::default(), 10_000);
        let stay: BTreeSet<_> = (0..members).map(|_| PeerId::random()).collect();
        let mut go: Vec<_> = (0..members).map(|_| PeerId::random()).collect();
        for peer in stay.iter().chain(&go) {
            leases.on_join(peer, Vec::new(), now).unwrap();
            leases.on_joined(peer, Session(1));
        }
        let (mut told, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<_> = leases.peers_after(after.as_ref()).take(MAX_MEMBERS).collect();
            told.extend(&page);
            after = page.last().copied();
            if page.len() < MAX_MEMBERS {
                break;
            }
            // The very one at which the page ended is among those that leave.
            let leaving = go.iter().position(|peer| Some(*peer) == after).or(go.len().checked_sub(1));
            if let Some(at) = leaving {
                leases.on_leave(&go.swap_remove(at), Session(1)).unwrap();
            }
            leases.on_join(&PeerId::random(), Vec::new(), now).unwrap();
        }
        assert!(told.is_sorted_by(|a, b| a < b), "in order, and nobody twice");
        assert_eq!(told.iter().filter(|peer| stay.contains(peer)).count(), members);
    }
}

/// What nobody stores for ever does not keep the rest from being published.
#[test]
fn everything_is_published_in_parts_also_if_the_first_part_fails_for_ever() {
    const PART: usize = 10;
    for count in [1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 1] {
        let begin = moment();
        let mut publications = Publications::new(Duration::from_secs(1000));
        publications.replace((0..count).map(|number| (key(number), What::Provide)).collect(), begin);
        let (mut now, mut stored, mut tried) = (begin, BTreeSet::new(), BTreeMap::<_, usize>::new());
        let bad: BTreeSet<_> = publications.due(begin, PART).into_iter().map(|(key, _)| key).collect();
        for _ in 0..20 {
            let due = publications.due(now, PART);
            assert!(due.len() <= PART);
            for (key, what) in due {
                *tried.entry(key).or_default() += 1;
                let copies = usize::from(!bad.contains(&key));
                stored.extend((copies > 0).then_some(key));
                publications.on_published(&key, &what, copies, 2, now);
            }
            now = publications.poll_timeout().unwrap().max(now);
        }
        assert_eq!(stored.len(), count - bad.len(), "{count} records");
        assert!(bad.iter().all(|key| tried[key] > 1), "and those that failed are tried again");
    }
}

/// The nodes closest to a position, as a network of these nodes tells them.
fn closest(nodes: &[(Position, PeerId)], target: &Position) -> Vec<(Position, PeerId)> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|(position, _)| distance(position, target));
    nodes.truncate(REPLICATION);
    nodes
}

/// An answer that breaks off in the middle of a sweep is not taken for the whole network. The regions behind it go to
/// the nodes that are closest to them all the same.
#[test]
fn a_sweep_over_many_regions_survives_answers_that_break_off() {
    const KEYS: usize = 2000;
    let nodes: Vec<_> = (0..400).map(|number| (hashed("node", number), PeerId::random())).collect();
    for (broken, left) in [(3, 0), (3, 5), (2, 19), (usize::MAX, 0)] {
        let mut sweep = Sweep::new((0..KEYS).map(|number| (*key(number).as_bytes(), number)), 100);
        let (mut queries, mut assigned, mut right, mut all) = (0, BTreeSet::new(), 0, 0);
        while let Some((target, _)) = sweep.next_target() {
            queries += 1;
            let mut answer = closest(&nodes, &target);
            if queries % 10 == broken {
                answer.truncate(left);
            }
            for (number, chosen) in sweep.on_closest(&target, &answer) {
                assert!(assigned.insert(number), "assigned once");
                let best = closest(&nodes, key(number).as_bytes());
                right += best.iter().filter(|(_, peer)| chosen.contains(peer)).count();
                all += best.len();
            }
        }
        assert_eq!(assigned.len(), KEYS);
        assert!(queries > 10, "there are several regions: {queries}");
        let part = right as f64 / all as f64;
        assert!(part > 0.95, "{left} nodes in each tenth answer: {part} of the copies are where readers look");
    }
}
