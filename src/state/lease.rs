//! Who is a member, and since when nothing was heard of it: alive, suspect, evicted.
//!
//! The monotonic clock alone counts. Deadlines live in the records; an ordered index beside them finds
//! the next one.

mod account;
mod agree;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Refusal, RefusalCode, Sequence, Session};
use swarmdex_protocols::limits::MAX_ADDRESSES;
use swarmdex_protocols::{Multiaddr, PeerId};

use crate::config::LeaseConfig;
pub(crate) use account::StandingAnswer;
use account::{Account, Pace};
pub(crate) use agree::Holding;

/// How long a report is followed by no other probe of the same peer.
const PROBE_PAUSE: Duration = Duration::from_secs(5);

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseState {
    /// It answers.
    Alive,
    /// It does not, and its lease runs out.
    Suspect,
}

/// One member.
#[derive(Debug, Clone)]
pub(crate) struct LeaseMember {
    /// How it stands.
    pub state: LeaseState,
    /// Where it listens.
    pub addresses: Vec<Multiaddr>,
    account: Account,
    sequence: Sequence,
    /// When it was last heard.
    heard: Instant,
    probed: Option<Instant>,
}

/// What is to be done about members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseAction {
    /// See whether it can be reached.
    Probe(PeerId),
    /// Its lease is over: free its names.
    Evict(PeerId),
    /// It does not answer any more.
    BecameSuspect(PeerId),
    /// It answers again.
    BecameAlive(PeerId),
}

/// All members.
#[derive(Debug)]
pub(crate) struct Leases {
    config: LeaseConfig,
    most: usize,
    members: BTreeMap<PeerId, LeaseMember>,
    deadlines: BTreeSet<(Instant, PeerId)>,
    suspects: usize,
    actions: VecDeque<LeaseAction>,
    pace: Pace,
}

impl Leases {
    /// No members yet; at most `most`.
    pub(crate) fn new(config: &LeaseConfig, most: usize) -> Self {
        Self {
            config: *config,
            most,
            members: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            suspects: 0,
            actions: VecDeque::new(),
            pace: Pace::default(),
        }
    }

    /// Length of a lease.
    pub(crate) fn lease(&self) -> Duration {
        self.config.lease
    }

    /// Members from before a restart: suspect, with a fresh lease.
    /// Their connections are gone: they have to join again before they may change anything.
    pub(crate) fn restore(&mut self, peers: impl IntoIterator<Item = (PeerId, Vec<Multiaddr>, Holding)>, now: Instant) {
        for (peer, addresses, holding) in peers {
            self.insert(peer, addresses, LeaseState::Suspect, now);
            self.set_holding(&peer, holding);
        }
    }

    fn insert(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>, state: LeaseState, now: Instant) {
        addresses.truncate(MAX_ADDRESSES);
        let member = LeaseMember {
            state,
            addresses,
            account: Account::default(),
            sequence: Sequence::default(),
            heard: now,
            probed: None,
        };
        self.forget(&peer);
        self.put(peer, member);
        self.pace.set(self.renewal_wait());
    }

    /// It is no member any more, or one anew.
    fn forget(&mut self, peer: &PeerId) {
        if let Some(member) = self.remove(peer) {
            member.account.close();
            self.pace.set(self.renewal_wait());
        }
    }

    /// What comes next for a member if nothing is heard of it.
    fn due(&self, member: &LeaseMember) -> Instant {
        match member.state {
            // A ping that is answered is heard each interval.
            LeaseState::Alive => {
                member.heard + self.config.ping_interval.saturating_mul(self.config.missed_pings.saturating_add(1))
            }
            LeaseState::Suspect => member.heard + self.config.lease,
        }
    }

    fn put(&mut self, peer: PeerId, member: LeaseMember) {
        self.deadlines.insert((self.due(&member), peer));
        self.suspects += usize::from(member.state == LeaseState::Suspect);
        self.members.insert(peer, member);
    }

    fn remove(&mut self, peer: &PeerId) -> Option<LeaseMember> {
        let member = self.members.remove(peer)?;
        self.deadlines.remove(&(self.due(&member), *peer));
        self.suspects -= usize::from(member.state == LeaseState::Suspect);
        Some(member)
    }

    /// Changes a member, and its deadline with it.
    fn update(&mut self, peer: &PeerId, change: impl FnOnce(&mut LeaseMember)) {
        if let Some(mut member) = self.remove(peer) {
            change(&mut member);
            self.put(*peer, member);
        }
    }

    /// A peer joins, or joins again.
    pub(crate) fn on_join(&mut self, peer: &PeerId, addresses: Vec<Multiaddr>, now: Instant) -> Result<(), Refusal> {
        let before = self.members.get(peer);
        if before.is_none() && self.members.len() >= self.most {
            let reason = format!("the network has {} members, the most that this master admits", self.most);
            return Err(Refusal::new(RefusalCode::Quota, reason));
        }
        let holding = before.map(|member| member.account.lock().agreement.holding).unwrap_or_default();
        let revived = before.is_some_and(|member| member.state == LeaseState::Suspect);
        self.insert(*peer, addresses, LeaseState::Alive, now);
        self.set_holding(peer, holding);
        if revived {
            self.actions.push_back(LeaseAction::BecameAlive(*peer));
        }
        Ok(())
    }

    /// The session that a join was given.
    pub(crate) fn on_joined(&mut self, peer: &PeerId, session: Session) {
        let Some(member) = self.members.get_mut(peer) else { return };
        let mut account = member.account.lock();
        if account.session.is_none_or(|before| before < session) {
            (account.session, account.agreement) = (Some(session), account.agreement.afresh());
            member.sequence = Sequence::default();
        }
    }

    fn of_session(&mut self, peer: &PeerId, session: Session) -> Result<&mut LeaseMember, Refusal> {
        match self.members.get_mut(peer) {
            Some(member) if member.account.lock().session == Some(session) => Ok(member),
            Some(_) => Err(Refusal::new(RefusalCode::NotJoined, "that session is over: join again")),
            None => Err(Refusal::new(RefusalCode::NotJoined, "this peer is no member: join first")),
        }
    }

    /// Whether a peer may change the index in this session with this number. A number lower than one before is an old
    /// change that comes late. The same number is a change that is repeated.
    pub(crate) fn admit_change(&mut self, peer: &PeerId, session: Session, sequence: Sequence) -> Result<(), Refusal> {
        let member = self.of_session(peer, session)?;
        if sequence < member.sequence {
            return Err(Refusal::new(RefusalCode::Stale, "a later change of this session was made already"));
        }
        member.sequence = sequence;
        Ok(())
    }

    /// Whether a peer may ask for what only a member is told, in this session.
    ///
    /// # Errors
    ///
    /// The session is over.
    pub(crate) fn admit_question(&mut self, peer: &PeerId, session: Session) -> Result<(), Refusal> {
        self.of_session(peer, session).map(drop)
    }

    /// A sign of life; of strangers it means nothing.
    pub(crate) fn on_alive(&mut self, peer: &PeerId, now: Instant) {
        if self.members.get(peer).is_some_and(|member| member.state == LeaseState::Suspect) {
            self.actions.push_back(LeaseAction::BecameAlive(*peer));
        }
        self.update(peer, |member| (member.state, member.heard) = (LeaseState::Alive, now));
    }

    fn suspect(&mut self, peer: &PeerId) {
        if self.members.get(peer).is_some_and(|member| member.state == LeaseState::Alive) {
            self.update(peer, |member| member.state = LeaseState::Suspect);
            self.actions.push_back(LeaseAction::BecameSuspect(*peer));
        }
    }

    /// The last connection with it ended.
    pub(crate) fn on_disconnected(&mut self, peer: &PeerId) {
        self.suspect(peer);
    }

    /// A probe found nobody.
    pub(crate) fn on_probe_failed(&mut self, peer: &PeerId) {
        self.suspect(peer);
    }

    /// Somebody could not reach it. That alone changes nothing: the peer is probed, and not more often
    /// than every few seconds.
    pub(crate) fn on_report(&mut self, peer: &PeerId, now: Instant) -> Result<(), Refusal> {
        let Some(member) = self.members.get_mut(peer) else {
            return Err(Refusal::new(RefusalCode::NotFound, "that peer is no member"));
        };
        if member.probed.is_none_or(|probed| now.duration_since(probed) >= PROBE_PAUSE) {
            member.probed = Some(now);
            self.actions.push_back(LeaseAction::Probe(*peer));
        }
        Ok(())
    }

    /// It leaves in order. The caller frees its names.
    pub(crate) fn on_leave(&mut self, peer: &PeerId, session: Session) -> Result<(), Refusal> {
        self.of_session(peer, session)?;
        self.forget(peer);
        Ok(())
    }

    /// One member.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&LeaseMember> {
        self.members.get(peer)
    }

    /// What answers the plain renewals of a member, as long as it is one.
    pub(crate) fn standing_answer(&self, peer: &PeerId) -> Option<StandingAnswer> {
        let account = self.members.get(peer)?.account.clone();
        Some(StandingAnswer { account, pace: self.pace.clone() })
    }

    /// Members in order, from after one of them on.
    pub(crate) fn peers_after<'a>(&'a self, after: Option<&PeerId>) -> impl Iterator<Item = PeerId> + use<'a> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(*after));
        self.members.range((from, Bound::Unbounded)).map(|(peer, _)| *peer)
    }

    /// How many members there are, and how many of them are suspect.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.members.len(), self.suspects)
    }

    /// The next thing to do. Safe to call when there is nothing.
    pub(crate) fn poll_action(&mut self) -> Option<LeaseAction> {
        self.actions.pop_front()
    }

    /// When [`Leases::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Suspects those that missed their pings, and evicts those whose lease is over. If this comes much too
    /// late, it was the master that slept: then nobody could be heard, and what ran out meanwhile begins anew.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let Some(&(first, _)) = self.deadlines.first() else { return };
        let overslept = now.saturating_duration_since(first) > self.config.lease;
        while let Some(&(due, peer)) = self.deadlines.first() {
            if due > now {
                return;
            }
            let suspect = self.members.get(&peer).is_some_and(|member| member.state == LeaseState::Suspect);
            self.suspect(&peer);
            if overslept {
                self.update(&peer, |member| member.heard = now);
            } else if suspect {
                self.forget(&peer);
                self.actions.push_back(LeaseAction::Evict(peer));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use swarmdex_protocols::index::ShareSum;

    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn leases(most: usize) -> Leases {
        Leases::new(&LeaseConfig { lease: LEASE, missed_pings: 2, ..LeaseConfig::default() }, most)
    }

    fn join(leases: &mut Leases, peer: &PeerId, session: u64, now: Instant) {
        leases.on_join(peer, Vec::new(), now).unwrap();
        leases.on_joined(peer, Session(session));
    }

    fn actions(leases: &mut Leases) -> Vec<LeaseAction> {
        std::iter::from_fn(|| leases.poll_action()).collect()
    }

    #[test]
    fn half_open_peer_is_suspect_and_then_evicted_within_bound() {
        let (mut leases, peer, now) = (leases(10), PeerId::random(), Instant::now());
        join(&mut leases, &peer, 1, now);
        let due = leases.poll_timeout().unwrap();
        assert_eq!(due, now + Duration::from_secs(12), "three pings without an answer");
        leases.handle_timeout(due - Duration::from_millis(1));
        assert_eq!(leases.get(&peer).unwrap().state, LeaseState::Alive);
        leases.handle_timeout(due);
        assert_eq!(actions(&mut leases), [LeaseAction::BecameSuspect(peer)]);
        let due = leases.poll_timeout().unwrap();
        assert_eq!(due, now + LEASE);
        leases.handle_timeout(due - Duration::from_millis(1));
        assert_eq!(actions(&mut leases), []);
        leases.handle_timeout(due);
        leases.handle_timeout(due);
        assert_eq!(actions(&mut leases), [LeaseAction::Evict(peer)]);
        assert!(leases.get(&peer).is_none() && leases.poll_timeout().is_none());
    }

    #[test]
    fn a_sign_of_life_renews_the_lease() {
        let (mut leases, peer, now) = (leases(10), PeerId::random(), Instant::now());
        join(&mut leases, &peer, 1, now);
        leases.on_disconnected(&peer);
        leases.on_alive(&peer, now + LEASE / 2);
        assert_eq!(actions(&mut leases), [LeaseAction::BecameSuspect(peer), LeaseAction::BecameAlive(peer)]);
        leases.handle_timeout(now + LEASE / 2 + Duration::from_secs(11));
        assert_eq!(actions(&mut leases), []);
        leases.on_disconnected(&peer);
        assert_eq!(leases.poll_timeout().unwrap(), now + LEASE / 2 + LEASE);
    }

    #[test]
    fn gc_paused_peer_cannot_act_on_its_stale_lease() {
        let (mut leases, peer, now) = (leases(10), PeerId::random(), Instant::now());
        join(&mut leases, &peer, 1, now);
        leases.admit_change(&peer, Session(1), Sequence(1)).unwrap();
        leases.on_disconnected(&peer);
        leases.handle_timeout(now + LEASE);
        let late = leases.admit_change(&peer, Session(1), Sequence(2)).unwrap_err();
        assert_eq!(late.code, RefusalCode::NotJoined);
        join(&mut leases, &peer, 2, now + LEASE);
        assert_eq!(leases.admit_change(&peer, Session(1), Sequence(3)).unwrap_err().code, RefusalCode::NotJoined);
        leases.admit_change(&peer, Session(2), Sequence(1)).unwrap();
    }

    #[test]
    fn replay_of_an_old_change_is_rejected_and_a_repeat_is_not() {
        let (mut leases, peer, now) = (leases(10), PeerId::random(), Instant::now());
        join(&mut leases, &peer, 1, now);
        leases.admit_change(&peer, Session(1), Sequence(1)).unwrap();
        leases.admit_change(&peer, Session(1), Sequence(2)).unwrap();
        leases.admit_change(&peer, Session(1), Sequence(2)).unwrap();
        let old = leases.admit_change(&peer, Session(1), Sequence(1)).unwrap_err();
        assert_eq!(old.code, RefusalCode::Stale);
    }

    #[test]
    fn a_report_alone_neither_suspects_nor_evicts() {
        let (mut leases, peer, now) = (leases(10), PeerId::random(), Instant::now());
        join(&mut leases, &peer, 1, now);
        for _ in 0..1000 {
            leases.on_report(&peer, now).unwrap();
        }
        assert_eq!(actions(&mut leases), [LeaseAction::Probe(peer)]);
        assert_eq!(leases.get(&peer).unwrap().state, LeaseState::Alive);
        leases.on_probe_failed(&peer);
        assert_eq!(actions(&mut leases), [LeaseAction::BecameSuspect(peer)]);
        assert_eq!(leases.on_report(&PeerId::random(), now).unwrap_err().code, RefusalCode::NotFound);
    }

    #[test]
    fn members_are_bounded_and_those_known_still_served() {
        let (mut leases, now) = (leases(100), Instant::now());
        let peers: Vec<_> = (0..100).map(|_| PeerId::random()).collect();
        peers.iter().for_each(|peer| join(&mut leases, peer, 1, now));
        let refused = (0..1000).filter(|_| leases.on_join(&PeerId::random(), Vec::new(), now).is_err()).count();
        assert_eq!((refused, leases.counts()), (1000, (100, 0)));
        join(&mut leases, &peers[7], 2, now);
    }

    #[test]
    fn after_a_restart_every_known_peer_is_suspect_with_a_fresh_lease() {
        let (mut leases, now) = (leases(10), Instant::now());
        let peer = PeerId::random();
        let held = Holding { sum: ShareSum { entries: 3, ..ShareSum::default() }, at: 0 };
        leases.restore([(peer, Vec::new(), held)], now);
        assert_eq!(leases.get(&peer).unwrap().state, LeaseState::Suspect);
        assert_eq!(leases.counts(), (1, 1));
        assert_eq!(leases.poll_timeout().unwrap(), now + LEASE);
        join(&mut leases, &peer, 6, now);
        assert_eq!(leases.get(&peer).unwrap().names(), 3);
    }

    #[test]
    fn a_master_that_slept_evicts_nobody_at_once() {
        let (mut leases, now) = (leases(100), Instant::now());
        let peers: Vec<_> = (0..50).map(|_| PeerId::random()).collect();
        peers.iter().for_each(|peer| join(&mut leases, peer, 1, now));
        let late = now + Duration::from_secs(7200);
        leases.handle_timeout(late);
        assert!(actions(&mut leases).iter().all(|action| matches!(action, LeaseAction::BecameSuspect(_))));
        assert_eq!(leases.counts(), (50, 50));
        leases.on_alive(&peers[0], late);
        assert_eq!(actions(&mut leases), [LeaseAction::BecameAlive(peers[0])]);
        leases.handle_timeout(late + LEASE - Duration::from_millis(1));
        assert_eq!(actions(&mut leases), [LeaseAction::BecameSuspect(peers[0])]);
        leases.handle_timeout(late + LEASE);
        assert_eq!(leases.counts(), (0, 0));
    }

    #[test]
    fn leaving_needs_the_session() {
        let (mut leases, peer, now) = (leases(10), PeerId::random(), Instant::now());
        join(&mut leases, &peer, 4, now);
        assert!(leases.on_leave(&peer, Session(3)).is_err());
        leases.on_leave(&peer, Session(4)).unwrap();
        assert!(leases.get(&peer).is_none() && leases.deadlines.is_empty());
    }

    #[test]
    fn members_are_listed_in_pages() {
        let (mut leases, now) = (leases(100), Instant::now());
        (0..25).for_each(|_| join(&mut leases, &PeerId::random(), 1, now));
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page: Vec<_> = leases.peers_after(after.as_ref()).take(10).collect();
            let Some(last) = page.last() else { break };
            after = Some(*last);
            seen.extend(page);
        }
        assert_eq!(seen, leases.members.keys().copied().collect::<Vec<_>>());
    }
}
