//! What one node is to store, in as many messages as it takes.

use std::sync::Arc;

use swarmdex_protocols::limits::MAX_MIRROR_KEYS;
use swarmdex_protocols::mirror::{Store, Stored};

use super::*;

/// Messages that are under way to one node: it checks one while the next comes.
const MESSAGES: usize = 2;

/// What one node made of what it was sent.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) outcomes: Vec<(RecordKey, StoreVerdict)>,
    /// Whether it was too busy for some.
    pub(super) busy: bool,
}

/// What goes into one message.
struct Batch {
    statements: Vec<(RecordKey, Arc<Statement>)>,
    provide: Vec<RecordKey>,
    withdraw: Vec<RecordKey>,
}

impl Batch {
    fn message(&self, addresses: Vec<Multiaddr>) -> Store {
        let statements = self.statements.iter().map(|(_, statement)| Statement::clone(statement)).collect();
        Store { statements, provide: self.provide.clone(), addresses, withdraw: self.withdraw.clone() }
    }
}

/// Divides items into messages.
fn batches(items: Vec<(RecordKey, What)>) -> impl Iterator<Item = Batch> {
    let (mut statements, mut provide, mut withdraw) = (Vec::new(), Vec::new(), Vec::new());
    for (key, what) in items {
        match what {
            What::Statement(statement) => statements.push((key, statement)),
            What::Provide => provide.push(key),
            What::Withdraw => withdraw.push(key),
        }
    }
    std::iter::from_fn(move || {
        let batch = Batch {
            statements: next(&mut statements, MAX_MIRROR_RECORDS),
            provide: next(&mut provide, MAX_MIRROR_KEYS),
            withdraw: next(&mut withdraw, MAX_MIRROR_KEYS),
        };
        let is_empty = batch.statements.is_empty() && batch.provide.is_empty() && batch.withdraw.is_empty();
        (!is_empty).then_some(batch)
    })
}

/// Takes the next few.
fn next<T>(from: &mut Vec<T>, most: usize) -> Vec<T> {
    from.split_off(from.len().saturating_sub(most))
}

impl Mirror {
    pub(super) async fn store_at(&self, batch: NodeBatch<(RecordKey, What)>, addresses: Vec<Multiaddr>) -> Answers {
        let Answers { mut outcomes, mut busy } = Answers::default();
        let (node, at) = (batch.node, batch.addresses);
        let mut answers = stream::iter(batches(batch.items))
            .map(|batch| {
                let asking = self.ask(node, &at, MirrorRequest::Store(batch.message(addresses.clone())));
                async move { (batch, asking.await) }
            })
            .buffered(MESSAGES);
        while let Some((batch, answer)) = answers.next().await {
            let Batch { statements: some, provide: keys, withdraw: gone } = batch;
            match answer {
                Ok(MirrorResponse::Stored(Stored { statements, provided })) if statements.len() == some.len() => {
                    outcomes.extend(some.iter().map(|(key, _)| *key).zip(statements));
                    let (taken, left) = keys.split_at((provided as usize).min(keys.len()));
                    outcomes.extend(taken.iter().map(|key| (*key, StoreVerdict::Stored)));
                    outcomes.extend(left.iter().map(|key| (*key, StoreVerdict::Full)));
                    // A node of before knows no withdrawals: there the entries end with their lifetime.
                    outcomes.extend(gone.iter().map(|key| (*key, StoreVerdict::Stored)));
                }
                Ok(MirrorResponse::Refused(refusal)) => {
                    busy |= refusal.code == RefusalCode::Busy;
                    tracing::debug!(%node, reason = refusal.reason, "refused");
                }
                Ok(_) => tracing::debug!(%node, "its answer does not fit the question"),
                Err(error) => {
                    tracing::debug!(%node, %error, "records could not be stored there");
                    break;
                }
            }
        }
        Answers { outcomes, busy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_in_one_message_and_none_has_too_many() {
        for count in [0, 1, MAX_MIRROR_KEYS, MAX_MIRROR_KEYS + 1, 3 * MAX_MIRROR_KEYS + 7] {
            let key = |number: usize| RecordKey::from_slice(blake3::hash(&number.to_le_bytes()).as_bytes()).unwrap();
            let what = |number: usize| if number.is_multiple_of(3) { What::Withdraw } else { What::Provide };
            let items: Vec<_> = (0..count).map(|number| (key(number), what(number))).collect();
            let mut sent = Vec::new();
            for batch in batches(items.clone()) {
                assert!(batch.provide.len() <= MAX_MIRROR_KEYS && batch.withdraw.len() <= MAX_MIRROR_KEYS);
                sent.extend(batch.provide.into_iter().map(|key| (key, What::Provide)));
                sent.extend(batch.withdraw.into_iter().map(|key| (key, What::Withdraw)));
            }
            assert_eq!(sent.len(), count);
            assert!(items.iter().all(|item| count > 1000 || sent.contains(item)));
        }
    }
}
