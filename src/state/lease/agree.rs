//! Whether members and this master hold the same names, and how much work is done where they do not.

use std::time::Duration;

use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{Refusal, RefusalCode, Session, ShareSum};

use super::Leases;
use super::account::AccountState;

/// Renewals of all members in one second. What is over comes less often, as heartbeats do in Nomad
/// (`max_heartbeats_per_second`), as far as a lease allows. Ten thousand members then cost less than the pings did that
/// their renewals take the place of (`benches/renewals`).
const RENEWALS_PER_SECOND: u32 = 400;
/// Renewals in a row that find a difference, repairs between them; then the member has to join and report anew.
const MAX_DIFFERENCES: u32 = 4;
/// Comparisons of one member between two renewals that agree.
const MAX_COMPARISONS: u32 = 2048;
/// Names that are looked at for one member between two renewals that agree: so many times what it holds.
const LOOKS: u64 = 6;
/// Names that are looked at in addition to that.
const MORE_LOOKS: u64 = 100_000;

/// What the index holds of a member, as of one change of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holding {
    /// Its names.
    pub sum: ShareSum,
    /// The number of the change; later ones are higher.
    pub at: u64,
}

/// How a member's account compares with the index.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Agreement {
    pub(super) holding: Holding,
    /// Renewals in a row that found a difference.
    differences: u32,
    comparisons: u32,
    looks: u64,
}

impl Agreement {
    /// As at the beginning of a session.
    pub(super) fn afresh(self) -> Self {
        Self { holding: self.holding, ..Self::default() }
    }

    /// Whether the member holds the same, and nothing is left of a time when it did not.
    pub(super) fn is_at_rest(&self, held: &ShareSum) -> bool {
        self.holding.sum == *held && (self.differences, self.comparisons, self.looks) == (0, 0, 0)
    }
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewal {
    /// Whether both hold the same.
    pub agreed: bool,
    /// What the index holds.
    pub held: ShareSum,
    /// When to come again.
    pub wait: Duration,
}

impl Leases {
    /// What the index holds of a member. What is older than what is known is left.
    pub(crate) fn set_holding(&mut self, peer: &PeerId, holding: Holding) {
        let Some(member) = self.members.get(peer) else { return };
        let mut account = member.account.lock();
        if account.agreement.holding.at <= holding.at {
            account.agreement.holding = holding;
        }
    }

    /// Whether a member is to be told something with its next renewal.
    pub(crate) fn set_notice(&mut self, peer: &PeerId, notice: bool) {
        if let Some(member) = self.members.get(peer) {
            member.account.lock().notice = notice;
        }
    }

    /// A member says what it holds.
    ///
    /// # Errors
    ///
    /// The session is over; or it is now, because the member differs each time.
    pub(crate) fn on_renew(&mut self, peer: &PeerId, session: Session, held: &ShareSum) -> Result<Renewal, Refusal> {
        let wait = self.pace.get();
        let mut account = self.of_session(peer, session)?.account.lock();
        let (agreed, held) = (account.held() == *held, account.held());
        let agreement = &mut account.agreement;
        if agreed {
            (agreement.differences, agreement.comparisons, agreement.looks) = (0, 0, 0);
        } else {
            agreement.differences += 1;
            if agreement.differences > MAX_DIFFERENCES {
                return Err(account.end_session());
            }
        }
        Ok(Renewal { agreed, held, wait })
    }

    /// A third of a lease, unless there are very many members; never over two thirds, so that what differs is found
    /// and put right within one lease.
    pub(super) fn renewal_wait(&self) -> Duration {
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let fair = Duration::from_secs(1).saturating_mul(members) / RENEWALS_PER_SECOND;
        fair.clamp(self.config.lease / 3, self.config.lease * 2 / 3)
    }

    /// Whether a member may compare; at most so many names are then looked at.
    ///
    /// # Errors
    ///
    /// The session is over; or it is now, because the member compares without end.
    pub(crate) fn admit_comparison(&mut self, peer: &PeerId, session: Session) -> Result<u64, Refusal> {
        let mut account = self.of_session(peer, session)?.account.lock();
        let agreement = &mut account.agreement;
        agreement.comparisons += 1;
        let most = agreement.holding.sum.entries.saturating_mul(LOOKS).saturating_add(MORE_LOOKS);
        match most.checked_sub(agreement.looks) {
            Some(left) if left > 0 && agreement.comparisons <= MAX_COMPARISONS => Ok(left),
            _ => Err(account.end_session()),
        }
    }

    /// A member has to join again before it can do anything.
    pub(crate) fn end_session(&mut self, peer: &PeerId) {
        if let Some(member) = self.members.get(peer) {
            member.account.lock().end_session();
        }
    }

    /// So many names were looked at for a comparison.
    pub(crate) fn on_compared(&mut self, peer: &PeerId, looks: u64) {
        if let Some(member) = self.members.get(peer) {
            let agreement = &mut member.account.lock().agreement;
            agreement.looks = agreement.looks.saturating_add(looks);
        }
    }
}

impl super::LeaseMember {
    /// Names that it holds.
    pub(crate) fn names(&self) -> u64 {
        self.account.lock().held().entries
    }
}

impl AccountState {
    fn end_session(&mut self) -> Refusal {
        self.session = None;
        self.agreement = self.agreement.afresh();
        let reason = "what this peer says that it holds differs from the index again and again: join and report anew";
        Refusal::new(RefusalCode::NotJoined, reason)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
mod tests {
    use std::time::Instant;

    use swarmdex_protocols::index::{Renew, ShareDigest};

    use super::*;
    use crate::config::LeaseConfig;

    fn sum(entries: u64) -> ShareSum {
        ShareSum { entries, digest: ShareDigest::from_bytes([entries as u8; 32]) }
    }

    fn leases(members: usize) -> (Leases, PeerId) {
        let mut leases = Leases::new(&LeaseConfig::default(), members);
        let mut last = PeerId::random();
        for _ in 0..members {
            last = PeerId::random();
            leases.on_join(&last, Vec::new(), Instant::now()).unwrap();
        }
        leases.on_joined(&last, Session(1));
        leases.set_holding(&last, Holding { sum: sum(10), at: 5 });
        (leases, last)
    }

    #[test]
    fn a_renewal_says_whether_both_hold_the_same() {
        let (mut leases, peer) = leases(1);
        assert!(leases.on_renew(&peer, Session(1), &sum(10)).unwrap().agreed);
        assert!(!leases.on_renew(&peer, Session(1), &sum(11)).unwrap().agreed);
        let lie = ShareSum { entries: 1_000_000, ..sum(10) };
        assert_eq!(leases.on_renew(&peer, Session(1), &lie).unwrap().held, sum(10));
        assert_eq!(leases.on_renew(&peer, Session(2), &sum(10)).unwrap_err().code, RefusalCode::NotJoined);
        assert_eq!(leases.on_renew(&PeerId::random(), Session(1), &sum(0)).unwrap_err().code, RefusalCode::NotJoined);
    }

    #[test]
    fn news_that_is_overtaken_is_left() {
        let (mut leases, peer) = leases(1);
        leases.set_holding(&peer, Holding { sum: sum(3), at: 4 });
        assert!(leases.on_renew(&peer, Session(1), &sum(10)).unwrap().agreed);
        leases.set_holding(&peer, Holding { sum: sum(3), at: 5 });
        assert!(leases.on_renew(&peer, Session(1), &sum(3)).unwrap().agreed);
    }

    #[test]
    fn a_member_that_always_differs_has_to_join_anew_and_the_others_do_not() {
        let (mut leases, peer) = leases(2);
        for _ in 0..MAX_DIFFERENCES {
            assert!(!leases.on_renew(&peer, Session(1), &sum(1)).unwrap().agreed);
        }
        assert_eq!(leases.on_renew(&peer, Session(1), &sum(1)).unwrap_err().code, RefusalCode::NotJoined);
        assert!(leases.on_renew(&peer, Session(1), &sum(10)).is_err(), "the session is over");
        assert_eq!(leases.counts(), (2, 0), "its names stay");
        leases.on_join(&peer, Vec::new(), Instant::now()).unwrap();
        leases.on_joined(&peer, Session(2));
        assert!(leases.on_renew(&peer, Session(2), &sum(10)).unwrap().agreed);
    }

    #[test]
    fn comparisons_are_bounded_until_both_agree() {
        let (mut leases, peer) = leases(1);
        assert_eq!(leases.admit_comparison(&peer, Session(1)).unwrap(), LOOKS * 10 + MORE_LOOKS);
        leases.on_compared(&peer, LOOKS * 10 + MORE_LOOKS - 1);
        assert_eq!(leases.admit_comparison(&peer, Session(1)).unwrap(), 1);
        leases.on_compared(&peer, 1);
        assert!(leases.admit_comparison(&peer, Session(1)).is_err());
        leases.on_joined(&peer, Session(2));
        let admitted = (0..u32::MAX).take_while(|_| leases.admit_comparison(&peer, Session(2)).is_ok()).count();
        assert_eq!(admitted, MAX_COMPARISONS as usize);
        leases.on_joined(&peer, Session(3));
        leases.on_renew(&peer, Session(3), &sum(10)).unwrap();
        assert!(leases.admit_comparison(&peer, Session(3)).is_ok());
    }

    #[test]
    fn a_standing_answers_only_as_long_as_it_is_true() {
        let (mut leases, peer) = leases(2);
        let renew = |session, entries| Renew { session: Session(session), held: sum(entries), repaired: 0 };
        let standing = leases.standing_answer(&peer).unwrap();
        assert_eq!(standing.agrees(&renew(1, 10)), Some(leases.renewal_wait()));
        assert_eq!(standing.agrees(&renew(2, 10)), None, "another session");
        assert_eq!(standing.agrees(&renew(1, 11)), None, "another sum");
        assert_eq!(standing.agrees(&Renew { repaired: 1, ..renew(1, 10) }), None, "to be told of");

        leases.set_holding(&peer, Holding { sum: sum(11), at: 6 });
        assert_eq!(standing.agrees(&renew(1, 10)), None);
        assert!(standing.agrees(&renew(1, 11)).is_some());
        leases.set_notice(&peer, true);
        assert_eq!(standing.agrees(&renew(1, 11)), None, "something is to be said");
        leases.set_notice(&peer, false);
        leases.on_renew(&peer, Session(1), &sum(1)).unwrap();
        assert_eq!(standing.agrees(&renew(1, 11)), None, "a difference is being looked into");
        leases.on_renew(&peer, Session(1), &sum(11)).unwrap();
        leases.admit_comparison(&peer, Session(1)).unwrap();
        assert_eq!(standing.agrees(&renew(1, 11)), None, "comparisons are counted until both agree");
        leases.on_renew(&peer, Session(1), &sum(11)).unwrap();
        assert!(standing.agrees(&renew(1, 11)).is_some());
        leases.end_session(&peer);
        assert_eq!(standing.agrees(&renew(1, 11)), None);
    }

    #[test]
    fn the_standing_of_who_is_no_member_any_more_answers_nothing() {
        let now = Instant::now();
        type End = fn(&mut Leases, &PeerId, Instant);
        let ends: [End; 3] = [
            |leases, peer, _| leases.on_leave(peer, Session(1)).unwrap(),
            |leases, peer, now| leases.on_join(peer, Vec::new(), now).unwrap(),
            |leases, peer, now| {
                leases.on_disconnected(peer);
                leases.handle_timeout(now + leases.lease());
            },
        ];
        for end in ends {
            let (mut leases, peer) = leases(1);
            let renew = Renew { session: Session(1), held: sum(10), repaired: 0 };
            let standing = leases.standing_answer(&peer).unwrap();
            assert!(standing.agrees(&renew).is_some());
            end(&mut leases, &peer, now + Duration::from_secs(1));
            assert_eq!(standing.agrees(&renew), None);
        }
    }

    #[test]
    fn ten_thousand_members_renew_less_often_and_within_their_lease() {
        let lease = LeaseConfig::default().lease;
        let (mut few, peer) = leases(3);
        assert_eq!(few.on_renew(&peer, Session(1), &sum(10)).unwrap().wait, lease / 3);
        let (mut many, peer) = leases(10_000);
        assert_eq!(many.on_renew(&peer, Session(1), &sum(10)).unwrap().wait, lease * 2 / 3);
        let renew = Renew { session: Session(1), held: sum(10), repaired: 0 };
        assert_eq!(many.standing_answer(&peer).unwrap().agrees(&renew), Some(lease * 2 / 3));
    }
}
