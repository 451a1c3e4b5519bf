//! Who may hold names of which this index does not know. A disk that was lost, or is an older copy, forgot what was
//! granted last, and the DHT may not have heard of that. So right after its start the master grants no name that it
//! does not know before the members from before have told what they hold, or had time to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::watch;

/// How long after the start nodes may need to find their master again: before that nobody may be there to be asked.
pub(super) const ACQUAINTED: Duration = Duration::from_secs(3);

/// What those who waited told, and gave up, is here so long after that.
const A_MOMENT: Duration = Duration::from_secs(1);

/// Whom a master waits for. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Returning {
    missing: watch::Sender<Missing>,
    until: Instant,
}

#[derive(Debug, Default)]
struct Missing {
    /// Members from before the start whose report is not over; once they have joined, how many entries they have not told yet.
    members: BTreeMap<PeerId, Option<u64>>,
    /// Whether there may be others, of whom nothing is known.
    others: bool,
}

impl Missing {
    fn is_nobody_but(&self, peer: &PeerId) -> bool {
        !self.others && self.members.iter().all(|(member, left)| member == peer || *left == Some(0))
    }
}

impl Returning {
    /// Waits for all that the index knew when the master began.
    pub(super) fn new(known: impl IntoIterator<Item = PeerId>, began: Instant) -> Self {
        let missing = Missing { members: known.into_iter().map(|peer| (peer, None)).collect(), others: false };
        Self { missing: watch::Sender::new(missing), until: began + ACQUAINTED }
    }

    /// The index lost what it knew: there may be members of whom it does not know.
    pub(super) fn on_lost(&self) {
        self.missing.send_modify(|missing| missing.others = true);
    }

    /// A member joined, and has so many entries to tell.
    pub(super) fn on_joined(&self, peer: &PeerId, entries: u64) {
        self.missing.send_if_modified(|missing| {
            missing.members.get_mut(peer).is_some_and(|left| left.replace(entries) != Some(entries))
        });
    }

    /// A member announced some of its entries. New ones among them may have to wait, but what it was granted before is
    /// known now.
    pub(super) fn on_offers(&self, peer: &PeerId, offers: usize) {
        self.missing.send_if_modified(|missing| {
            let Some(Some(left)) = missing.members.get_mut(peer) else { return false };
            *left = left.saturating_sub(offers as u64);
            *left == 0
        });
    }

    /// The report of a member is over, or it is none any more.
    pub(super) fn on_told(&self, peer: &PeerId) {
        self.missing.send_if_modified(|missing| missing.members.remove(peer).is_some());
    }

    /// Members whose reports are not over, while they are waited for and a moment longer: they may have given names up.
    pub(super) fn untold(&self) -> BTreeSet<PeerId> {
        let is_over = tokio::time::Instant::now() >= (self.until + A_MOMENT).into();
        if is_over { BTreeSet::new() } else { self.missing.borrow().members.keys().copied().collect() }
    }

    /// Whether nobody but `peer` can hold names of which the index does not know.
    pub(super) fn is_complete(&self, peer: &PeerId) -> bool {
        self.missing.borrow().is_nobody_but(peer) || tokio::time::Instant::now() >= self.until.into()
    }

    /// Waits until nobody but `peer`, whose names they are, can hold names of which the index does not know, as far as that can be
    /// waited for.
    pub(super) async fn wait(&self, peer: &PeerId) {
        let mut missing = self.missing.subscribe();
        let told = missing.wait_for(|missing| missing.is_nobody_but(peer));
        let _ = tokio::time::timeout_at(self.until.into(), told).await;
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A moment to begin at.
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_who_told_and_the_rest_for_a_while() {
        let [one, other, third] = std::array::from_fn(|_| PeerId::random());
        let began = tokio::time::Instant::now();
        let returning = Returning::new([one, other], began.into());
        let again = returning.clone();
        assert_eq!(again.wait(&third).now_or_never(), None);
        returning.on_told(&other);
        assert_eq!(again.wait(&other).now_or_never(), None);
        assert_eq!(again.wait(&one).now_or_never(), Some(()), "nobody waits for itself");
        returning.on_told(&one);
        assert_eq!(again.wait(&third).now_or_never(), Some(()));
        // A member that announced as much as it said that it has need not be waited for, even if it waits itself.
        let returning = Returning::new([one, other], began.into());
        returning.on_joined(&one, 3);
        returning.on_joined(&other, 0);
        returning.on_offers(&one, 2);
        assert_eq!(returning.wait(&third).now_or_never(), None);
        returning.on_offers(&one, 1);
        assert_eq!(returning.wait(&third).now_or_never(), Some(()));
        assert_eq!(returning.untold(), [one, other].into(), "it may have more to say");
        returning.on_told(&one);
        assert_eq!(returning.untold(), [other].into());
        // If it is not known who was a member, nobody can say that all are back.
        again.on_lost();
        again.wait(&third).await;
        assert_eq!(began.elapsed(), ACQUAINTED);
        assert_eq!(again.wait(&third).now_or_never(), Some(()));
    }
}
