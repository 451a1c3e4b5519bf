//! Reads for which somebody waits: what most nodes say in a moment counts, and nobody who is silent is waited for twice.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::*;
use crate::clock::sleep_until;
use crate::locks::lock;
use crate::state::precedents::Neighbours;

/// How long to look for the nodes closest to a key.
const CLOSEST: Duration = Duration::from_secs(1);
/// Nodes that are read from at a time: all that have a name, so that none waits behind one that is silent.
const READS_AT_A_TIME: usize = 32;
/// How long the nodes of a region may take.
const ANSWERS: Duration = Duration::from_millis(2500);
/// How long the rest of them may take when three quarters have answered: what most of them hold is known then.
const LATE: Duration = Duration::from_secs(1);

/// What readers that share it know of nodes.
#[derive(Debug, Default)]
pub(in crate::net) struct Around(Mutex<Neighbours>);

impl Around {
    fn lock(&self) -> MutexGuard<'_, Neighbours> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.0)
    }
}

impl Mirror {
    /// Nodes that this one knows.
    pub(in crate::net) async fn nodes(&self) -> usize {
        self.net.dht_counts().await.nodes
    }

    /// What the nodes closest to each name say of it, checked, one answer after the other: those that came count, although
    /// others are waited for in vain.
    pub(in crate::net) async fn read_quickly(
        &self,
        names: Vec<Name>,
        around: &Around,
        mut heard: impl FnMut(Name, Ledger),
    ) {
        let Some(authority) = self.net.authority() else { return };
        let keyed: Vec<_> = names.into_iter().map(|name| (self.key(&name), name)).collect();
        if let Some(batches) = self.all_around(&keyed, around).await {
            return self.read_region(batches, around, &authority, &mut heard).await;
        }
        let quick = Self { patience: CLOSEST, ..self.clone() };
        let items = keyed.into_iter().map(|(key, name)| (position_of_key(&key), (key, name)));
        let mut sweep = Sweep::new(items, self.nodes().await);
        let mut met = Met::default();
        while let Some(batches) = quick.next_region(&mut sweep, &mut met, |(key, _)| *key).await {
            self.read_region(batches, around, &authority, &mut heard).await;
        }
        around.lock().on_swept(&met.located, Instant::now());
    }

    /// In a small network every node has everything, and who is there is known from a moment ago. `None` where nodes have to
    /// be looked for: whoever has come since may know of others.
    async fn all_around(
        &self,
        keyed: &[(RecordKey, Name)],
        around: &Around,
    ) -> Option<Vec<NodeBatch<(RecordKey, Name)>>> {
        let mut nodes = around.lock().all(Instant::now())?;
        if self.net.nodes().await.iter().any(|(node, _)| !nodes.contains_key(node)) {
            return None;
        }
        if self.member {
            nodes.insert(self.net.local(), Vec::new());
        }
        let batch = |(node, addresses)| NodeBatch { node, addresses, items: keyed.to_vec() };
        Some(nodes.into_iter().map(batch).collect())
    }

    async fn read_region(
        &self,
        mut batches: Vec<NodeBatch<(RecordKey, Name)>>,
        around: &Around,
        authority: &Authority,
        heard: &mut impl FnMut(Name, Ledger),
    ) {
        let begin = Instant::now();
        batches.retain(|batch| !around.lock().is_silent(&batch.node, begin));
        let mut silent: BTreeSet<_> = batches.iter().map(|batch| batch.node).collect();
        let (asked, mut answered, mut end) = (batches.len(), 0, begin + ANSWERS);
        let mut answers = stream::iter(batches)
            .map(|batch| async { (batch.node, self.read_at(batch, authority).await) })
            .buffer_unordered(READS_AT_A_TIME);
        loop {
            let answer = tokio::select! {
                answer = answers.next() => answer,
                () = sleep_until(Some(end)) => break,
            };
            let Some((node, ledgers)) = answer else { break };
            // Whoever answered, or can be seen to be gone, costs no time.
            silent.remove(&node);
            answered += 1;
            if answered * 4 >= asked * 3 {
                end = end.min(Instant::now() + LATE);
            }
            for (name, ledger) in ledgers {
                heard(name, ledger);
            }
        }
        let mut around = around.lock();
        silent.into_iter().for_each(|node| around.on_silent(node, Instant::now()));
    }
}
