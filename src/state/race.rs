//! One attempt to connect to a node: in which order its addresses are tried, when the next one is due, and when all is over.
//!
//! As RFC 8305 (Happy Eyeballs, version 2) has it: one after the other a quarter of a second apart, the next at once
//! when the one before failed, the families in turn. TCP comes before QUIC, which was slower on every network measured. An
//! address that failed a moment ago goes last, and is not waited for when the others have failed: for one that is there
//! again [`GRACE`] is enough.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use swarmdex_protocols::Multiaddr;
use swarmdex_protocols::address::{ip_of, is_tcp};

/// How far apart attempts begin: the Connection Attempt Delay that RFC 8305 recommends.
pub(crate) const DELAY: Duration = Duration::from_millis(250);
/// When all is over: TCP has asked three times by then, after one second and after three.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
/// How long addresses are waited for of which little is to be hoped.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// Addresses that are tried over each transport, and the most of one kind: the last one begins more than two seconds before
/// the end.
const MAX_TCP: usize = 8;
const MAX_OTHERS: usize = 4;

/// What an address is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Begin.
    Start,
    /// Wait, until then at most: what happens to others changes it.
    Wait(Instant),
    /// End: nobody waits for it any more.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    UnderWay,
    Failed,
}

#[derive(Debug)]
struct Attempt {
    address: Multiaddr,
    /// Little is to be hoped of it: it failed lately, or the host refused this node at another transport.
    doubtful: bool,
    state: State,
}

/// The addresses of one node, each known by its number.
#[derive(Debug, Default)]
pub(crate) struct Race {
    attempts: Vec<Attempt>,
    /// Numbers of those that are tried, the first first; fixed when the first one asks.
    order: Vec<usize>,
    begun: Option<Instant>,
    /// Which one began last, and when.
    latest: Option<(usize, Instant)>,
    /// Since when all have failed of which more was to be hoped.
    bleak: Option<Instant>,
}

impl Race {
    /// Another address, which failed `lately` or not; its number. All are added before the first asks what to do.
    pub(crate) fn add(&mut self, address: Multiaddr, lately: bool) -> usize {
        self.attempts.push(Attempt { address, doubtful: lately, state: State::Waiting });
        self.attempts.len() - 1
    }

    /// What the address of this number is to do now.
    pub(crate) fn step(&mut self, number: usize, now: Instant) -> Step {
        if self.begun.is_none() {
            self.begun = Some(now);
            self.order = order(&self.attempts);
            self.look(now);
        }
        let end = self.end(now);
        let Some(state) = self.attempts.get(number).map(|attempt| attempt.state) else { return Step::Over };
        if now >= end || state == State::Failed || !self.order.contains(&number) {
            return Step::Over;
        }
        if state == State::UnderWay || self.next() != Some(number) {
            return Step::Wait(end);
        }
        // If the one before failed, nothing is gained by waiting.
        let is_under_way =
            |number: usize| self.attempts.get(number).is_some_and(|other| other.state == State::UnderWay);
        match self.latest.filter(|(before, at)| is_under_way(*before) && *at + DELAY > now) {
            Some((_, at)) => Step::Wait((at + DELAY).min(end)),
            None => {
                self.latest = Some((number, now));
                self.set(number, State::UnderWay);
                Step::Start
            }
        }
    }

    /// The address of this number failed. A host that `refused` is there, and whoever was to be there is not: over QUIC,
    /// where nothing is refused, one would wait until the end.
    pub(crate) fn on_failed(&mut self, number: usize, refused: bool, now: Instant) {
        self.set(number, State::Failed);
        let ip = self.attempts.get(number).and_then(|attempt| ip_of(&attempt.address));
        if refused && ip.is_some() {
            let same = |attempt: &&mut Attempt| !is_tcp(&attempt.address) && ip_of(&attempt.address) == ip;
            self.attempts.iter_mut().filter(same).for_each(|attempt| attempt.doubtful = true);
        }
        self.look(now);
    }

    /// Whether any address but this one may still be answered.
    pub(crate) fn has_others(&self, number: usize) -> bool {
        self.order.iter().any(|other| {
            *other != number && self.attempts.get(*other).is_some_and(|attempt| attempt.state != State::Failed)
        })
    }

    fn set(&mut self, number: usize, state: State) {
        if let Some(attempt) = self.attempts.get_mut(number) {
            attempt.state = state;
        }
    }

    fn tried(&self) -> impl Iterator<Item = &Attempt> {
        self.order.iter().filter_map(|number| self.attempts.get(*number))
    }

    /// The number of the next one to begin.
    fn next(&self) -> Option<usize> {
        let waits =
            |number: &&usize| self.attempts.get(**number).is_some_and(|attempt| attempt.state == State::Waiting);
        self.order.iter().find(waits).copied()
    }

    /// Notices when nothing is left but what is in doubt.
    fn look(&mut self, now: Instant) {
        if !self.tried().any(|attempt| !attempt.doubtful && attempt.state != State::Failed) {
            self.bleak.get_or_insert(now);
        }
    }

    /// When nobody waits any more.
    fn end(&self, now: Instant) -> Instant {
        let limit = self.begun.unwrap_or(now) + LIMIT;
        match (self.bleak, self.next()) {
            (Some(bleak), None) => limit.min(self.latest.map_or(bleak, |(_, at)| at.max(bleak)) + GRACE),
            _ => limit,
        }
    }
}

/// Numbers of the attempts that are made, in their order.
fn order(attempts: &[Attempt]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    for doubtful in [false, true] {
        for (tcp, most) in [(true, MAX_TCP), (false, MAX_OTHERS)] {
            let of_kind =
                |(_, attempt): &(usize, &Attempt)| attempt.doubtful == doubtful && is_tcp(&attempt.address) == tcp;
            let numbers = attempts.iter().enumerate().filter(of_kind).map(|(number, _)| number);
            let same = |number: &&usize| attempts.get(**number).is_some_and(|taken| is_tcp(&taken.address) == tcp);
            let room = most - order.iter().filter(same).count().min(most);
            order.extend(in_turn(numbers, attempts).into_iter().take(room));
        }
    }
    order
}

/// The numbers with families in turn: IPv6 before IPv4 before names, each in the order in which it was given.
fn in_turn(numbers: impl Iterator<Item = usize>, attempts: &[Attempt]) -> Vec<usize> {
    let mut families = [Vec::new(), Vec::new(), Vec::new()];
    for number in numbers {
        let family = match attempts.get(number).and_then(|attempt| ip_of(&attempt.address)) {
            Some(IpAddr::V6(_)) => 0,
            Some(IpAddr::V4(_)) => 1,
            None => 2,
        };
        families[family].push(number);
    }
    let longest = families.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|place| families.iter().filter_map(move |family| family.get(place).copied())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

    use super::*;

    const OVER_QUIC: [&str; 2] = ["/ip4/10.0.0.1/udp/1/quic-v1", "/ip6/fd00::1/udp/1/quic-v1"];
    const OVER_TCP: [&str; 3] = ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.1.1/tcp/1", "/ip6/fd00::1/tcp/1"];

    fn race(addresses: &[&str], lately: &[&str]) -> Race {
        let mut race = Race::default();
        for text in addresses {
            race.add(text.parse().unwrap(), lately.contains(text));
        }
        race
    }

    /// When each address begins and which of them are over, in milliseconds, if none is answered. `refuses` says which fail at once.
    fn run(race: &mut Race, refuses: impl Fn(usize) -> bool) -> (Vec<(usize, u64)>, u64) {
        let begin = Instant::now();
        let mut starts = Vec::new();
        let mut now = begin;
        loop {
            let mut next: Option<Instant> = None;
            let mut changed = false;
            for number in 0..race.attempts.len() {
                match race.step(number, now) {
                    Step::Start => {
                        starts.push((number, (now - begin).as_millis() as u64));
                        if refuses(number) {
                            race.on_failed(number, true, now);
                        }
                        changed = true;
                    }
                    Step::Wait(until) => next = Some(next.map_or(until, |next| next.min(until))),
                    Step::Over => {}
                }
            }
            match next {
                _ if changed => {}
                Some(next) => now = next,
                None => return (starts, (now - begin).as_millis() as u64),
            }
        }
    }

    #[test]
    fn addresses_begin_a_quarter_of_a_second_apart_tcp_first_and_families_in_turn() {
        let mut race = race(&[&OVER_QUIC[..], &OVER_TCP].concat(), &[]);
        let (starts, end) = run(&mut race, |_| false);
        assert_eq!(starts, [(4, 0), (2, 250), (3, 500), (1, 750), (0, 1000)]);
        assert_eq!(end, 5000);
    }

    #[test]
    fn the_next_begins_at_once_when_the_one_before_failed() {
        let mut all = race(&OVER_TCP, &[]);
        let (starts, end) = run(&mut all, |_| true);
        assert_eq!((starts, end), (vec![(2, 0), (0, 0), (1, 0)], 0));
        // Also while an earlier one is still under way.
        let (starts, end) = run(&mut race(&OVER_TCP, &[]), |number| number == 0);
        assert_eq!((starts, end), (vec![(2, 0), (0, 250), (1, 250)], 5000));
    }

    #[test]
    fn what_failed_lately_goes_last_and_is_not_waited_for() {
        let (starts, end) = run(&mut race(&OVER_TCP, &OVER_TCP[2..]), |number| number != 2);
        assert_eq!((starts, end), (vec![(0, 0), (1, 0), (2, 0)], 2000));
        // Nor if all failed lately; the last one that begins has its time.
        let (starts, end) = run(&mut race(&OVER_TCP, &OVER_TCP), |_| false);
        assert_eq!((starts.last(), end), (Some(&(1, 500)), 2500));
        // Others are waited for in full.
        let (_, end) = run(&mut race(&OVER_TCP, &OVER_TCP[2..]), |number| number == 2);
        assert_eq!(end, 5000);
    }

    #[test]
    fn over_quic_nobody_waits_for_a_host_that_refuses_over_tcp() {
        let (starts, end) = run(&mut race(&[OVER_TCP[0], OVER_QUIC[0]], &[]), |number| number == 0);
        assert_eq!((starts, end), (vec![(0, 0), (1, 0)], 2000));
        let (_, end) = run(&mut race(&[OVER_TCP[0], OVER_QUIC[1]], &[]), |number| number == 0);
        assert_eq!(end, 5000, "another host");
    }

    #[test]
    fn of_many_addresses_some_over_each_transport_are_tried() {
        let tcp: Vec<_> = (0..100).map(|number| format!("/ip4/10.0.0.{number}/tcp/1")).collect();
        let quic: Vec<_> = (0..100).map(|number| format!("/ip4/10.0.0.{number}/udp/1/quic-v1")).collect();
        let all: Vec<_> = tcp.iter().chain(&quic).map(String::as_str).collect();
        let mut race = race(&all, &[]);
        let (starts, end) = run(&mut race, |_| false);
        assert_eq!((starts.len(), starts[7].0, starts[8].0, end), (MAX_TCP + MAX_OTHERS, 7, 100, 5000));
        assert_eq!(race.step(50, Instant::now()), Step::Over);
    }

    #[test]
    fn an_answer_from_somebody_else_matters_only_to_the_last() {
        let mut race = race(&OVER_TCP[..2], &[]);
        let now = Instant::now();
        assert_eq!(race.step(0, now), Step::Start);
        assert!(race.has_others(0));
        race.on_failed(0, false, now);
        assert_eq!(race.step(1, now), Step::Start);
        assert!(!race.has_others(1));
    }

    #[test]
    fn no_address_is_no_race() {
        assert_eq!(Race::default().step(0, Instant::now()), Step::Over);
    }
}
