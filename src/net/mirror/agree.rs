//! Compares what a node still holds of what this node sent it with what this node has, and puts it right.

use swarmdex_protocols::check::{KeyRange, KeysCompared};

use super::*;
use crate::state::check::{MAX_REPAIRS, RangeComparison};

/// Portions that are sent again to one node in one round. One that came, and is filled, gets all that it lacks.
const PORTIONS: usize = 16;

/// How long a node is left alone that has answered enough questions for now.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// How often one node is left alone so. A share of a million names of which one in a hundred differs takes more looks
/// than one node may ask for in ten seconds.
const MAX_PAUSES: usize = 20;

/// Why a node does not say what it holds.
enum Unsaid {
    /// It does not know the question.
    Unknown,
    /// It gave no answer, or none that fits.
    Failed,
}

/// How a node's records differ from what it said that it stores.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    /// Whether it holds everything by now.
    pub whole: bool,
    /// Records sent again.
    pub repaired: usize,
    /// Keys under which it has this node found, and was not told so.
    pub surplus: Vec<RecordKey>,
}

impl Mirror {
    /// Asks a node whether it holds these items, and sends what it lacks or has otherwise; `None` if it does not answer. One
    /// that does not know the question is sent them all if it is `fresh`: it just came.
    pub(crate) async fn agree(&self, node: PeerId, items: Vec<(RecordKey, What)>, fresh: bool) -> Option<Differences> {
        let addresses = self.net.known_addresses(node).await;
        let most = if fresh { usize::MAX } else { PORTIONS * MAX_REPAIRS };
        let mut comparison = RangeComparison::new(items, most);
        match self.compare(node, &addresses, &mut comparison).await {
            Ok(()) => {}
            Err(Unsaid::Unknown) if fresh => {
                let items = comparison.into_items();
                let repaired = items.len();
                let whole = self.send(node, &addresses, items).await;
                return Some(Differences { whole, repaired, surplus: Vec::new() });
            }
            Err(_) => return None,
        }
        let mut differences = Differences { whole: true, ..Differences::default() };
        for (range, missing) in comparison.missing() {
            differences.repaired += missing.len();
            differences.whole = self.send(node, &addresses, missing).await;
            // One that does not keep what it is sent is left to the repetitions. What a newcomer holds besides is not
            // known: it may hold what was revoked while it was away. There it is enough that it takes what it is sent.
            if !differences.whole || !fresh && self.says(node, &addresses, range).await != Some(true) {
                differences.whole = false;
                break;
            }
        }
        differences.surplus = comparison.into_surplus();
        Some(differences)
    }

    /// Stores items at one node; whether it said of all that it has them, or knows better.
    async fn send(&self, node: PeerId, addresses: &[Multiaddr], items: Vec<(RecordKey, What)>) -> bool {
        let count = items.len();
        let listen = self.net.listen().borrow().clone();
        let held = |verdict: &StoreVerdict| matches!(verdict, StoreVerdict::Stored | StoreVerdict::Older);
        let mut pauses = 0;
        loop {
            let batch = NodeBatch { node, addresses: addresses.to_vec(), items: items.clone() };
            let Answers { outcomes, busy } = self.store_at(batch, listen.clone()).await;
            if !busy || pauses >= MAX_PAUSES {
                return outcomes.iter().filter(|(_, verdict)| held(verdict)).count() == count;
            }
            pauses += 1;
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    }

    /// Whether a node says that it holds just this, in one question; `None` if it does not answer.
    pub(crate) async fn holds(&self, node: PeerId, range: KeyRange) -> Option<bool> {
        let addresses = self.net.known_addresses(node).await;
        self.says(node, &addresses, range).await
    }

    async fn says(&self, node: PeerId, addresses: &[Multiaddr], range: KeyRange) -> Option<bool> {
        for _ in 0..MAX_PAUSES {
            match self.ask(node, addresses, MirrorRequest::Check(vec![range])).await {
                Ok(MirrorResponse::Checked(answer)) => return Some(answer == [KeysCompared::Same]),
                Ok(MirrorResponse::Refused(refusal)) if refusal.code == RefusalCode::Busy => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(MirrorResponse::Refused(_)) => return Some(false),
                _ => return None,
            }
        }
        None
    }

    /// Makes a comparison to its end.
    async fn compare(
        &self,
        node: PeerId,
        addresses: &[Multiaddr],
        comparison: &mut RangeComparison,
    ) -> Result<(), Unsaid> {
        let mut pauses = 0;
        while let Some(ranges) = comparison.next_ranges() {
            match self.ask(node, addresses, MirrorRequest::Check(ranges.clone())).await {
                Ok(MirrorResponse::Checked(answer)) => {
                    if !comparison.on_answer(&ranges, answer) {
                        tracing::debug!(%node, "its answer does not fit the question");
                        return Err(Unsaid::Failed);
                    }
                }
                Ok(MirrorResponse::Refused(refusal)) if refusal.code == RefusalCode::Busy && pauses < MAX_PAUSES => {
                    pauses += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(MirrorResponse::Refused(refusal)) => {
                    tracing::debug!(%node, reason = refusal.reason, "does not say what it holds");
                    let busy = refusal.code == RefusalCode::Busy;
                    return Err(if busy { Unsaid::Failed } else { Unsaid::Unknown });
                }
                Ok(_) => return Err(Unsaid::Failed),
                Err(error) => {
                    tracing::debug!(%node, %error, "could not be asked what it holds");
                    return Err(Unsaid::Failed);
                }
            }
        }
        Ok(())
    }
}
