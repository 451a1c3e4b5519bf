//! Runs of one identity: which of them is the member, and on which connections it speaks.
//!
//! A copied data directory makes two nodes with one peer id. Their connections, pings and joins would be taken for one
//! another's: the master keeps the run that joined for as long as it answers, and refuses the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Fingerprint, Refusal, RefusalCode, Run};
use swarmdex_protocols::{Multiaddr, PeerId};

use crate::config::LeaseConfig;

/// How often the attempts of one twin are told in the log.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// For how many leases after its last attempt a twin is spoken of.
const NOTICE_LEASES: u32 = 4;
/// What to do about twins; said to both.
const WAY_OUT: &str = "stop one of the two, or give one of them a new identity: swarmdex identity new";

/// A join, as far as it tells runs apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinAttempt<L> {
    /// The run; none of a build that does not know of runs.
    pub run: Option<Run>,
    /// The machine that it runs on.
    pub machine: Option<Fingerprint>,
    /// The connection; none of the master itself.
    pub link: Option<L>,
    /// Where it connects from.
    pub remote: Option<Multiaddr>,
}

/// A join that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turned {
    /// What the twin is told.
    pub refusal: Refusal,
    /// Whether the log is to tell it, too: not every attempt is worth a line.
    pub tell: bool,
}

/// The run that is the member.
#[derive(Debug)]
struct Joined {
    run: Run,
    machine: Option<Fingerprint>,
    remote: Option<Multiaddr>,
    /// When it was last heard on a connection of its own.
    heard: Instant,
    twin: Option<Twin>,
}

/// Another run that was refused.
#[derive(Debug)]
struct Twin {
    same_machine: Option<bool>,
    remote: Option<Multiaddr>,
    last: Instant,
    told: Instant,
}

/// The runs of all peers that are connected or members. `L` is a connection.
#[derive(Debug)]
pub(crate) struct Runs<L> {
    /// How long a run may be silent before another takes its place.
    patience: Duration,
    memory: Duration,
    /// Connections that stand, with the run at their other end as far as it is known. As many as the node admits.
    links: BTreeMap<PeerId, BTreeMap<L, Option<Run>>>,
    /// No more than members.
    joined: BTreeMap<PeerId, Joined>,
}

impl<L: Copy + Ord> Runs<L> {
    /// Nobody yet. A run makes room for another once it has left its pings unanswered for as long as a peer may before
    /// it is suspect, and for half a lease at most. So a restart is let in within its lease.
    pub(crate) fn new(config: &LeaseConfig) -> Self {
        let missed = config.ping_interval.saturating_mul(config.missed_pings.saturating_add(1));
        Self {
            patience: missed.min(config.lease / 2),
            memory: config.lease.saturating_mul(NOTICE_LEASES),
            links: BTreeMap::new(),
            joined: BTreeMap::new(),
        }
    }

    /// A connection stands.
    pub(crate) fn on_linked(&mut self, peer: PeerId, link: L) {
        self.links.entry(peer).or_default().insert(link, None);
    }

    /// The node at the other end says which run it is.
    pub(crate) fn on_run(&mut self, peer: PeerId, link: L, run: Run) {
        if let Some(known) = self.links.get_mut(&peer).and_then(|links| links.get_mut(&link)) {
            *known = Some(run);
        }
    }

    /// A connection ended. True if none is left on which the run that joined could speak.
    pub(crate) fn on_unlinked(&mut self, peer: PeerId, link: L) -> bool {
        if let Some(links) = self.links.get_mut(&peer) {
            links.remove(&link);
            if links.is_empty() {
                self.links.remove(&peer);
            }
        }
        let joined = self.joined.get(&peer).map(|joined| joined.run);
        !self.of(&peer).any(|(_, run)| joined.is_none() || run.is_none() || run == joined)
    }

    fn of(&self, peer: &PeerId) -> impl Iterator<Item = (L, Option<Run>)> + '_ {
        self.links.get(peer).into_iter().flatten().map(|(link, run)| (*link, *run))
    }

    /// Something was heard on a connection. False if it is known to be a twin's: then it is no sign of the member's life.
    pub(crate) fn on_sign(&mut self, peer: &PeerId, link: L, now: Instant) -> bool {
        let Some(joined) = self.joined.get_mut(peer) else { return true };
        match self.links.get(peer).and_then(|links| links.get(&link)) {
            Some(Some(run)) if *run == joined.run => {
                joined.heard = now;
                true
            }
            Some(Some(_)) => false,
            _ => true,
        }
    }

    /// Whether a run may join: not while another is a member, has a connection and is heard on it.
    pub(crate) fn admit(&mut self, peer: &PeerId, arrival: &JoinAttempt<L>, now: Instant) -> Result<(), Turned> {
        let Some(run) = arrival.run else { return Ok(()) };
        if let Some(link) = arrival.link {
            self.on_run(*peer, link, run);
        }
        let connected = |joined: &Joined| self.of(peer).any(|(_, of)| of == Some(joined.run));
        let silent = |joined: &Joined| now.saturating_duration_since(joined.heard) > self.patience;
        let Some(joined) = self.joined.get(peer) else { return Ok(()) };
        if joined.run == run || !connected(joined) || silent(joined) {
            return Ok(());
        }
        let same_machine = joined.machine.zip(arrival.machine).map(|(one, other)| one == other);
        let who = describe(same_machine, joined.remote.as_ref());
        let reason = format!("another run of this identity{who} is a member and answers; {WAY_OUT}");
        let recent = joined.twin.as_ref().map(|twin| twin.told);
        let tell = recent.is_none_or(|told| now.saturating_duration_since(told) >= WARNING_PAUSE);
        let told = recent.filter(|_| !tell).unwrap_or(now);
        let twin = Twin { same_machine, remote: arrival.remote.clone(), last: now, told };
        if let Some(joined) = self.joined.get_mut(peer) {
            joined.twin = Some(twin);
        }
        Err(Turned { refusal: Refusal::new(RefusalCode::Twin, reason), tell })
    }

    /// A run joined. Returns the connections of the run whose place it takes: to be closed, so that whoever is behind
    /// them learns that its session is over.
    pub(crate) fn on_joined(&mut self, peer: PeerId, arrival: JoinAttempt<L>, now: Instant) -> Vec<L> {
        let JoinAttempt { run, machine, remote, .. } = arrival;
        let Some(run) = run else {
            // From a build that does not know of runs every sign counts, as it always did.
            self.joined.remove(&peer);
            return Vec::new();
        };
        let before = self.joined.remove(&peer);
        let replaced = before.as_ref().map(|before| before.run).filter(|before| *before != run);
        let twin = before.and_then(|before| before.twin).filter(|_| replaced.is_none());
        self.joined.insert(peer, Joined { run, machine, remote, heard: now, twin });
        let links = self.of(&peer).filter(|(_, of)| replaced.is_some() && *of == replaced);
        links.map(|(link, _)| link).collect()
    }

    /// The peer is no member any more.
    pub(crate) fn on_left(&mut self, peer: &PeerId) {
        self.joined.remove(peer);
    }

    /// A notice for the run that is a member, if a twin of it was refused lately.
    pub(crate) fn twin_notice(&self, peer: &PeerId, now: Instant) -> Option<String> {
        let twin = self.joined.get(peer)?.twin.as_ref()?;
        let recent = now.saturating_duration_since(twin.last) <= self.memory;
        let who = describe(twin.same_machine, twin.remote.as_ref());
        recent.then(|| format!("another run of this identity{who} tries to join and is refused; {WAY_OUT}"))
    }
}

/// Which machine, and where: for people.
fn describe(same_machine: Option<bool>, remote: Option<&Multiaddr>) -> String {
    let machine = match same_machine {
        Some(true) => ", on the same machine",
        Some(false) => ", on another machine",
        None => "",
    };
    let at = remote.map(|remote| format!(", at {remote}")).unwrap_or_default();
    format!("{machine}{at}")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn runs() -> Runs<u32> {
        Runs::new(&LeaseConfig { lease: LEASE, missed_pings: 2, ..LeaseConfig::default() })
    }

    fn arrival(run: u64, link: u32, machine: u8) -> JoinAttempt<u32> {
        JoinAttempt {
            run: Some(Run(run)),
            machine: Some(Fingerprint::from_bytes([machine; 32])),
            link: Some(link),
            remote: Some(format!("/ip4/10.0.0.{}/tcp/1", link % 256).parse().unwrap()),
        }
    }

    fn join(runs: &mut Runs<u32>, peer: &PeerId, arrival: &JoinAttempt<u32>, now: Instant) -> Result<Vec<u32>, Turned> {
        runs.admit(peer, arrival, now)?;
        Ok(runs.on_joined(*peer, arrival.clone(), now))
    }

    /// A member with run 1 on connection 1, and another connection 2 of its peer.
    fn member() -> (Runs<u32>, PeerId, Instant) {
        let (mut runs, peer, now) = (runs(), PeerId::random(), Instant::now());
        runs.on_linked(peer, 1);
        runs.on_linked(peer, 2);
        assert_eq!(join(&mut runs, &peer, &arrival(1, 1, 7), now), Ok(Vec::new()));
        (runs, peer, now)
    }

    #[test]
    fn the_run_that_answers_is_kept_and_both_hear_of_it() {
        let (mut runs, peer, now) = member();
        assert_eq!(runs.twin_notice(&peer, now), None);
        let turned = join(&mut runs, &peer, &arrival(2, 2, 8), now).unwrap_err();
        assert_eq!(turned.refusal.code, RefusalCode::Twin);
        for part in ["another machine", "10.0.0.1", "swarmdex identity new"] {
            assert!(turned.refusal.reason.contains(part), "{}", turned.refusal.reason);
        }
        let notice = runs.twin_notice(&peer, now).unwrap();
        assert!(notice.contains("10.0.0.2") && notice.contains("swarmdex identity new"), "{notice}");
        assert_eq!(runs.twin_notice(&peer, now + LEASE * NOTICE_LEASES + Duration::from_secs(1)), None);
        let same = join(&mut runs, &peer, &arrival(2, 2, 7), now).unwrap_err();
        assert!(same.refusal.reason.contains("the same machine"), "{}", same.refusal.reason);
        // The same run may join as often as it likes.
        assert_eq!(join(&mut runs, &peer, &arrival(1, 1, 7), now), Ok(Vec::new()));
    }

    #[test]
    fn attempts_are_told_in_the_log_once_a_minute() {
        let (mut runs, peer, now) = member();
        let mut told = 0;
        for second in 0..180 {
            let now = now + Duration::from_secs(second);
            runs.on_sign(&peer, 1, now);
            told += usize::from(join(&mut runs, &peer, &arrival(2, 2, 8), now).unwrap_err().tell);
        }
        assert_eq!(told, 3);
    }

    #[test]
    fn a_twin_does_not_keep_the_member_alive_and_takes_its_place_once_it_is_silent() {
        let (mut runs, peer, now) = member();
        join(&mut runs, &peer, &arrival(2, 2, 8), now).unwrap_err();
        assert!(runs.on_sign(&peer, 1, now + Duration::from_secs(3)));
        assert!(!runs.on_sign(&peer, 2, now + Duration::from_secs(3)));
        // Three pings without an answer: the restart of a node whose old connection hangs is let in.
        let silent = now + Duration::from_secs(3 + 12);
        join(&mut runs, &peer, &arrival(2, 2, 8), silent).unwrap_err();
        let over = silent + Duration::from_millis(1);
        assert_eq!(join(&mut runs, &peer, &arrival(2, 2, 8), over), Ok(vec![1]), "the old connection is closed");
        assert!(runs.on_sign(&peer, 2, over) && !runs.on_sign(&peer, 1, over));
        assert_eq!(join(&mut runs, &peer, &arrival(1, 1, 7), over).unwrap_err().refusal.code, RefusalCode::Twin);
    }

    #[test]
    fn a_restart_is_let_in_within_its_lease_however_slow_the_pings_are() {
        let config = LeaseConfig {
            lease: LEASE,
            ping_interval: Duration::from_secs(9),
            missed_pings: 2,
            ..LeaseConfig::default()
        };
        let (mut runs, peer, now) = (Runs::<u32>::new(&config), PeerId::random(), Instant::now());
        runs.on_linked(peer, 1);
        join(&mut runs, &peer, &arrival(1, 1, 7), now).unwrap();
        runs.on_linked(peer, 2);
        let late = now + LEASE / 2 + Duration::from_millis(1);
        join(&mut runs, &peer, &arrival(2, 2, 7), late).unwrap();
    }

    #[test]
    fn a_restart_after_the_end_of_the_connection_is_let_in_at_once() {
        let (mut runs, peer, now) = member();
        runs.on_run(peer, 2, Run(2));
        assert!(runs.on_unlinked(peer, 1), "what is left is the other run's");
        assert_eq!(join(&mut runs, &peer, &arrival(2, 2, 7), now), Ok(Vec::new()));
    }

    #[test]
    fn a_member_with_two_connections_may_lose_one() {
        let (mut runs, peer, _) = member();
        assert!(!runs.on_unlinked(peer, 1), "nobody knows yet whose the other is");
        runs.on_linked(peer, 3);
        runs.on_run(peer, 2, Run(1));
        runs.on_run(peer, 3, Run(9));
        assert!(!runs.on_unlinked(peer, 3));
        assert!(runs.on_unlinked(peer, 2));
    }

    #[test]
    fn builds_that_do_not_know_of_runs_are_treated_as_ever() {
        let (mut runs, peer, now) = member();
        let old = JoinAttempt { run: None, machine: None, ..arrival(0, 2, 0) };
        assert_eq!(join(&mut runs, &peer, &old, now), Ok(Vec::new()));
        assert!(runs.on_sign(&peer, 1, now) && runs.on_sign(&peer, 2, now));
        assert!(!runs.on_unlinked(peer, 1) && runs.on_unlinked(peer, 2), "the last one counts");
        assert_eq!(join(&mut runs, &peer, &arrival(5, 3, 7), now), Ok(Vec::new()));
    }

    #[test]
    fn nothing_remains_of_those_who_went() {
        let mut runs = runs();
        let now = Instant::now();
        for number in 0..1000 {
            let peer = PeerId::random();
            runs.on_linked(peer, number);
            runs.on_run(peer, number, Run(1));
            // Of connections that do not stand nothing is kept.
            runs.on_run(peer, number + 1, Run(1));
            join(&mut runs, &peer, &arrival(1, number, 7), now).unwrap();
            runs.on_unlinked(peer, number);
            runs.on_left(&peer);
        }
        assert!(runs.links.is_empty() && runs.joined.is_empty());
    }
}
