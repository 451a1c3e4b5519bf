//! Asks two without asking two for nothing: the master first, and the DHT as soon as the master takes its time ("The
//! Tail at Scale", Dean and Barroso, 2013: hedged requests).

use std::time::{Duration, Instant};

/// How long the master may take before the DHT is asked as well.
pub(crate) const HEDGE_DELAY: Duration = Duration::from_millis(150);

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The master.
    Master,
    /// The DHT.
    Dht,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupAnswer {
    /// What was asked for.
    Found,
    /// There is no such thing, as far as the side knows.
    NotFound,
    /// No answer.
    Failed,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupAction {
    /// Ask.
    Ask(Side),
    /// Take the answer of this side; the other one does not matter any more.
    Take(Side),
}

/// One hedged question.
#[derive(Debug)]
pub(crate) struct Hedge {
    asked: [bool; 2],
    answers: [Option<LookupAnswer>; 2],
    /// When the DHT is asked even without word of the master.
    due: Instant,
    taken: bool,
}

impl Hedge {
    /// A question asked at `now`. With `master_down` the DHT is asked at once, and the master not at all.
    pub(crate) fn new(master_down: bool, now: Instant) -> Self {
        let master = master_down.then_some(LookupAnswer::Failed);
        let due = if master_down { now } else { now + HEDGE_DELAY };
        Self { asked: [master_down, false], answers: [master, None], due, taken: false }
    }

    /// One side answered.
    pub(crate) fn on_answer(&mut self, side: Side, answer: LookupAnswer) {
        self.answers[side as usize] = Some(answer);
    }

    /// What to do next; `None` if nothing at the moment.
    pub(crate) fn poll_action(&mut self, now: Instant) -> Option<LookupAction> {
        if self.taken {
            return None;
        }
        let [master, dht] = self.answers;
        let take = match (master, dht) {
            // The master knows: also that there is no such thing.
            (Some(LookupAnswer::Found | LookupAnswer::NotFound), _) => Some(Side::Master),
            (_, Some(LookupAnswer::Found)) => Some(Side::Dht),
            (Some(LookupAnswer::Failed), Some(LookupAnswer::NotFound)) => Some(Side::Dht),
            (Some(LookupAnswer::Failed), Some(LookupAnswer::Failed)) => Some(Side::Master),
            _ => None,
        };
        if let Some(side) = take {
            self.taken = true;
            return Some(LookupAction::Take(side));
        }
        for side in [Side::Master, Side::Dht] {
            let due = side == Side::Master || now >= self.due || master.is_some();
            if due && !std::mem::replace(&mut self.asked[side as usize], true) {
                return Some(LookupAction::Ask(side));
            }
            if !due {
                break;
            }
        }
        None
    }

    /// When to poll again although nobody answered.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        (!self.taken && !self.asked[Side::Dht as usize]).then_some(self.due)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    fn actions(hedge: &mut Hedge, now: Instant) -> Vec<LookupAction> {
        std::iter::from_fn(|| hedge.poll_action(now)).collect()
    }

    #[test]
    fn a_quick_master_is_asked_alone() {
        let now = Instant::now();
        for answer in [LookupAnswer::Found, LookupAnswer::NotFound] {
            let mut hedge = Hedge::new(false, now);
            assert_eq!(actions(&mut hedge, now), [LookupAction::Ask(Side::Master)]);
            assert_eq!(hedge.poll_timeout(), Some(now + HEDGE_DELAY));
            hedge.on_answer(Side::Master, answer);
            assert_eq!(actions(&mut hedge, now), [LookupAction::Take(Side::Master)]);
            assert_eq!(hedge.poll_timeout(), None);
        }
    }

    #[test]
    fn a_slow_master_is_hedged_and_whoever_finds_it_first_wins() {
        let now = Instant::now();
        let mut hedge = Hedge::new(false, now);
        assert_eq!(actions(&mut hedge, now), [LookupAction::Ask(Side::Master)]);
        assert_eq!(actions(&mut hedge, now + HEDGE_DELAY), [LookupAction::Ask(Side::Dht)]);
        // What the DHT does not find the master may know.
        hedge.on_answer(Side::Dht, LookupAnswer::NotFound);
        assert_eq!(actions(&mut hedge, now + HEDGE_DELAY), []);
        hedge.on_answer(Side::Master, LookupAnswer::Found);
        assert_eq!(actions(&mut hedge, now + HEDGE_DELAY), [LookupAction::Take(Side::Master)]);
        let mut hedge = Hedge::new(false, now);
        actions(&mut hedge, now + HEDGE_DELAY);
        hedge.on_answer(Side::Dht, LookupAnswer::Found);
        assert_eq!(actions(&mut hedge, now + HEDGE_DELAY), [LookupAction::Take(Side::Dht)]);
    }

    #[test]
    fn a_master_that_is_down_costs_no_time() {
        let now = Instant::now();
        let mut hedge = Hedge::new(true, now);
        assert_eq!(actions(&mut hedge, now), [LookupAction::Ask(Side::Dht)]);
        hedge.on_answer(Side::Dht, LookupAnswer::NotFound);
        assert_eq!(actions(&mut hedge, now), [LookupAction::Take(Side::Dht)]);
        // One that fails is the same.
        let mut hedge = Hedge::new(false, now);
        assert_eq!(actions(&mut hedge, now), [LookupAction::Ask(Side::Master)]);
        hedge.on_answer(Side::Master, LookupAnswer::Failed);
        assert_eq!(actions(&mut hedge, now), [LookupAction::Ask(Side::Dht)]);
        hedge.on_answer(Side::Dht, LookupAnswer::Failed);
        assert_eq!(
            actions(&mut hedge, now),
            [LookupAction::Take(Side::Master)],
            "its failure is what the user is told"
        );
    }
}
