//! What the index holds of one member, and how that compares with what the member says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use swarmdex_protocols::index::{Renew, Session, ShareSum};

use super::agree::Agreement;
use crate::locks::lock;

/// The account of one member. Whoever has a handle sees the account as it is now: so a renewal can be answered where it
/// arrives, and that is never an answer of yesterday.
#[derive(Debug, Clone, Default)]
pub(super) struct Account(Arc<Mutex<AccountState>>);

#[derive(Debug, Default)]
pub(super) struct AccountState {
    /// None before a join is written, and when the member has to join again.
    pub(super) session: Option<Session>,
    pub(super) agreement: Agreement,
    /// Whether the member is to be told something with its next renewal.
    pub(super) notice: bool,
}

impl Account {
    pub(super) fn lock(&self) -> MutexGuard<'_, AccountState> {
        lock(&self.0)
    }

    /// Nobody is answered by this account any more.
    pub(super) fn close(&self) {
        self.lock().session = None;
    }
}

/// When members are to renew next, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace(Arc<AtomicU64>);

impl Pace {
    pub(super) fn set(&self, wait: Duration) {
        self.0.store(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Answers the renewals of one member of which there is nothing to say but that both hold the same.
#[derive(Debug, Clone)]
pub(crate) struct StandingAnswer {
    pub(super) account: Account,
    pub(super) pace: Pace,
}

impl StandingAnswer {
    /// When to renew next, if both hold the same and nothing is to be done or told. All other renewals are for
    /// [`super::Leases::on_renew`].
    pub(crate) fn agrees(&self, renew: &Renew) -> Option<Duration> {
        let account = self.account.lock();
        let agrees = account.session == Some(renew.session) && account.agreement.is_at_rest(&renew.held);
        (agrees && renew.repaired == 0 && !account.notice).then(|| self.pace.get())
    }
}

impl AccountState {
    /// What the index holds.
    pub(super) fn held(&self) -> ShareSum {
        self.agreement.holding.sum
    }
}
