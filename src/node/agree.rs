//! Asks the nodes that stored what this node publishes whether they still do, one after the other, and has what they lack
//! sent again. Nodes that came, or came back, are asked at once, and filled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use swarmdex_protocols::{PeerId, RecordKey};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use crate::clock::sleep_until;
use crate::net::{Came, Differences, Mirror, Net, leisure, position_of_key, position_of_peer};
use crate::state::arrivals::Arrivals;
use crate::state::publish::{KeySpace, Position, Publications};

/// Where Kademlia has keys and nodes.
const PLACES: KeySpace = KeySpace { key: position_of_key, peer: position_of_peer };

/// Nodes that are asked at a time.
const ASKED_AT_A_TIME: usize = 8;
/// Nodes that came and are filled at a time.
const FILLED_AT_A_TIME: usize = 4;
/// How soon nodes that were sent something new are asked whether they hold it.
const READ_BACK: Duration = Duration::from_secs(5);
/// In so many parts of the time between two publications everything is compared once.
const ROUNDS: u32 = 4;

/// Rounds of comparisons.
pub(super) struct Agreement {
    net: Net,
    mirror: Mirror,
    pause: Duration,
    /// When all are asked, and when those are that stored something new.
    due: Instant,
    read_back: Option<Instant>,
    /// Nodes still to ask in this round.
    nodes: VecDeque<(u16, PeerId)>,
    running: JoinSet<Ended>,
    found: RoundResult,
    came: broadcast::Receiver<Came>,
    arrivals: Arrivals,
    filling: JoinSet<Filled>,
}

/// What became of a question in a round.
pub(super) enum Ended {
    /// The node with this number holds what it is to hold.
    Same(u16),
    /// It holds something else.
    Differs(u16, PeerId),
    /// It was looked into.
    Compared(u16, PeerId, Differences),
    /// No answer.
    Silent,
}

/// What became of a node that came.
pub(super) struct Filled {
    node: PeerId,
    keys: Vec<RecordKey>,
    differences: Option<Differences>,
}

/// What there is to do.
pub(super) enum AgreementEvent {
    /// A node came, or is back.
    Came(Came),
    /// A question in a round ended.
    Ended(Ended),
    /// A node that came was filled, or could not be.
    Filled(Filled),
    /// Something is due.
    Due,
}

/// What a round found.
#[derive(Default)]
struct RoundResult {
    nodes: usize,
    differed: usize,
    repaired: usize,
    withdrawn: usize,
}

impl Agreement {
    /// The first round is due a part of `republish` from now on.
    pub(super) fn new(net: Net, mirror: Mirror, republish: Duration, now: Instant) -> Self {
        let pause = republish / ROUNDS;
        let came = net.came();
        Self {
            net,
            mirror,
            pause,
            due: now + pause,
            read_back: None,
            nodes: VecDeque::new(),
            running: JoinSet::new(),
            found: RoundResult::default(),
            came,
            arrivals: Arrivals::default(),
            filling: JoinSet::new(),
        }
    }

    /// Waits until [`Agreement::advance`] has something to do.
    pub(super) async fn ready(&mut self) -> AgreementEvent {
        let idle = self.running.is_empty().then(|| self.read_back.map_or(self.due, |at| at.min(self.due)));
        let arrival = self.arrivals.poll_timeout().filter(|_| self.filling.len() < FILLED_AT_A_TIME);
        loop {
            tokio::select! {
                came = self.came.recv() => match came {
                    Ok(node) => return AgreementEvent::Came(node),
                    // Those that were not seen to come are filled in time.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                },
                Some(ended) = self.running.join_next() => return AgreementEvent::Ended(ended.unwrap_or(Ended::Silent)),
                Some(Ok(filled)) = self.filling.join_next() => return AgreementEvent::Filled(filled),
                () = sleep_until(idle) => return AgreementEvent::Due,
                () = sleep_until(arrival) => return AgreementEvent::Due,
            }
        }
    }

    /// Takes in what happened, and asks the next nodes; whether a round ended. `complete` if everything that this node shares is known by now:
    /// before that nobody can say what is too much.
    pub(super) async fn advance(
        &mut self,
        event: AgreementEvent,
        publications: &mut Publications,
        complete: bool,
        now: Instant,
    ) -> bool {
        match event {
            AgreementEvent::Came(Came { peer, missed }) => {
                // Nodes that are overloaded miss each other all the time: to ask each again would keep them so.
                if missed.is_none_or(|since| publications.has_changed_since(since)) {
                    self.arrivals.on_came(peer, now);
                }
                return false;
            }
            AgreementEvent::Ended(Ended::Same(number)) => {
                self.found.nodes += 1;
                publications.on_asked(number, true);
            }
            AgreementEvent::Ended(Ended::Differs(number, node)) => {
                let (mirror, items) = (self.mirror.clone(), publications.held_by(number));
                self.running.spawn(async move {
                    let differences = mirror.agree(node, items, false).await;
                    differences.map_or(Ended::Silent, |differences| Ended::Compared(number, node, differences))
                });
            }
            AgreementEvent::Ended(Ended::Compared(number, node, differences)) => {
                publications.on_asked(number, differences.whole);
                self.on_compared(node, differences, publications, complete, now);
            }
            AgreementEvent::Ended(Ended::Silent) => {}
            AgreementEvent::Filled(filled) => self.on_filled(filled, publications, complete, now),
            AgreementEvent::Due => {}
        }
        self.fill(publications, now).await;
        let mut ended = false;
        if self.nodes.is_empty() && self.running.is_empty() {
            ended = self.end_round();
            self.hurry(publications, now);
            let all = now >= self.due;
            if !all && self.read_back.is_none_or(|at| now < at) {
                return ended;
            }
            if all {
                self.due = now + self.pause;
            }
            self.read_back = None;
            self.nodes = publications.round(all).into_iter().collect();
        }
        while self.running.len() < ASKED_AT_A_TIME
            && let Some((number, node)) = self.nodes.pop_front()
        {
            let (mirror, sum) = (self.mirror.clone(), publications.sum_of(number));
            self.running.spawn(async move {
                let Some(sum) = sum else { return Ended::Silent };
                leisure().await;
                match mirror.holds(node, sum).await {
                    Some(true) => Ended::Same(number),
                    Some(false) => Ended::Differs(number, node),
                    None => Ended::Silent,
                }
            });
        }
        ended
    }

    /// Something was sent; these nodes had no time for all of it, and are asked soon what they lack.
    pub(super) fn on_sent(&mut self, busy: &[PeerId], publications: &Publications, now: Instant) {
        busy.iter().for_each(|node| self.arrivals.on_came(*node, now));
        self.hurry(publications, now);
    }

    /// What was sent is read back soon.
    fn hurry(&mut self, publications: &Publications, now: Instant) {
        if publications.has_unasked() {
            self.read_back.get_or_insert(now + READ_BACK);
        }
    }

    fn on_compared(
        &mut self,
        node: PeerId,
        differences: Differences,
        publications: &mut Publications,
        complete: bool,
        now: Instant,
    ) {
        let Differences { repaired, surplus, .. } = differences;
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

    /// Has the next nodes that came filled.
    async fn fill(&mut self, publications: &Publications, now: Instant) {
        let mut known: Option<Vec<Position>> = None;
        while self.filling.len() < FILLED_AT_A_TIME
            && let Some(node) = self.arrivals.next(now)
        {
            let known = match &mut known {
                Some(known) => known,
                none => {
                    let nodes = self.net.nodes().await.into_iter().map(|(peer, _)| peer);
                    let nodes = nodes.chain(self.mirror.is_member().then(|| self.net.local()));
                    none.insert(nodes.map(|peer| position_of_peer(&peer)).collect())
                }
            };
            let items = publications.belonging(&position_of_peer(&node), known, &PLACES);
            if items.is_empty() {
                continue;
            }
            let mirror = self.mirror.clone();
            self.filling.spawn(async move {
                leisure().await;
                let keys = items.iter().map(|(key, _)| *key).collect();
                Filled { node, keys, differences: mirror.agree(node, items, true).await }
            });
        }
    }

    fn on_filled(&mut self, filled: Filled, publications: &mut Publications, complete: bool, now: Instant) {
        let Filled { node, keys, mut differences } = filled;
        let sent = differences.as_ref().map(|differences| differences.repaired);
        // What was withdrawn while it was away: whoever is found there and is not is asked in vain.
        let surplus = differences.as_mut().map(|differences| std::mem::take(&mut differences.surplus));
        let surplus = surplus.into_iter().flatten().filter(|_| complete);
        surplus.for_each(|key| publications.withdraw(key, now));
        if differences.is_some_and(|differences| differences.whole) {
            tracing::debug!(%node, records = keys.len(), sent, "came, and holds what lies in its part");
            publications.on_came(&node, keys, &PLACES);
        } else {
            tracing::debug!(%node, records = keys.len(), sent, "came, and does not hold all yet");
            self.arrivals.on_failed(node, now);
        }
        self.arrivals.on_sent(node, sent.unwrap_or_default(), now);
    }

    /// One line, if there is anything to say; whether anybody was asked.
    fn end_round(&mut self) -> bool {
        let RoundResult { nodes, differed, repaired, withdrawn } = std::mem::take(&mut self.found);
        if differed > 0 {
            tracing::info!(nodes, differed, repaired, withdrawn, "nodes did not hold what they had stored: sent again");
        }
        nodes > 0
    }
}
