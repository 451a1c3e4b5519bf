//! Asks the nodes that stored what this node publishes whether they still do, one after the other, and has what they lack
//! sent again: a node that came back with an empty memory is filled long before everything is published again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;
use tokio::task::JoinSet;

use crate::net::{Differences, Mirror, sleep_until};
use crate::state::publish::Publications;

/// In so many parts of the time between two publications everything is compared once.
const ROUNDS: u32 = 4;

/// Rounds of comparisons.
pub(super) struct Agreement {
    mirror: Mirror,
    pause: Duration,
    due: Instant,
    /// Nodes still to ask in this round.
    nodes: VecDeque<(u16, PeerId)>,
    running: JoinSet<(PeerId, Option<Differences>)>,
    found: Found,
}

/// What a round found.
#[derive(Default)]
struct Found {
    nodes: usize,
    differed: usize,
    repaired: usize,
    withdrawn: usize,
}

impl Agreement {
    /// The first round is due a part of `republish` from now on.
    pub(super) fn new(mirror: Mirror, republish: Duration, now: Instant) -> Self {
        let pause = republish / ROUNDS;
        let (nodes, running) = (VecDeque::new(), JoinSet::new());
        Self { mirror, pause, due: now + pause, nodes, running, found: Found::default() }
    }

    /// Waits until [`Agreement::advance`] has something to do; what a comparison found, if one ended.
    pub(super) async fn ready(&mut self) -> Option<(PeerId, Differences)> {
        if self.running.is_empty() {
            sleep_until(Some(self.due)).await;
            return None;
        }
        let ended = self.running.join_next().await;
        ended.and_then(Result::ok).and_then(|(node, differences)| Some((node, differences?)))
    }

    /// Takes in what was found, and asks the next node. `complete` if everything that this node shares is known by now:
    /// before that nobody can say what is too much.
    pub(super) fn advance(
        &mut self,
        ended: Option<(PeerId, Differences)>,
        publications: &mut Publications,
        complete: bool,
        now: Instant,
    ) {
        if let Some((node, Differences { repaired, surplus })) = ended {
            let before = publications.withdrawals();
            surplus.into_iter().filter(|_| complete).for_each(|key| publications.withdraw(key, now));
            let withdrawn = publications.withdrawals() - before;
            if repaired + withdrawn > 0 {
                tracing::debug!(%node, repaired, withdrawn, "did not hold what it had stored");
            }
            self.found.nodes += 1;
            self.found.differed += usize::from(repaired + withdrawn > 0);
            self.found.repaired += repaired;
            self.found.withdrawn += withdrawn;
        }
        if !self.running.is_empty() {
            return;
        }
        if self.nodes.is_empty() {
            self.end_round();
            if now < self.due {
                return;
            }
            self.due = now + self.pause;
            self.nodes = publications.round().into_iter().collect();
        }
        if let Some((number, node)) = self.nodes.pop_front() {
            let (mirror, items) = (self.mirror.clone(), publications.held_by(number));
            self.running.spawn(async move { (node, mirror.agree(node, items).await) });
        }
    }

    /// One line, if there is anything to say.
    fn end_round(&mut self) {
        let Found { nodes, differed, repaired, withdrawn } = std::mem::take(&mut self.found);
        if differed > 0 {
            tracing::info!(nodes, differed, repaired, withdrawn, "nodes did not hold what they had stored: sent again");
        }
    }
}
