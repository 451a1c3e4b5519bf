//! What the DHT says of names that are to be granted, for many announces at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use swarmdex_protocols::{Authority, Name, Tally};
use tokio::sync::oneshot;

use super::dht::{now, position_of_key};
use super::mirror::{Around, Mirror};
use crate::locks::lock;
use crate::state::precedents::Gathering;
use crate::state::publish::REPLICATION;
use crate::tasks;

/// How long one look may take: a DHT that does not answer holds nobody up for ever. What it said until then counts.
const PATIENCE: Duration = Duration::from_secs(6);
/// Parts of the key space that one look goes through side by side, a power of two.
const PARTS: usize = 4;
/// From how many known nodes on it does so: in a smaller network every node is asked about everything.
const DIVIDED_FROM: usize = 2 * REPLICATION;

type Tallies = BTreeMap<Name, Tally>;

struct Question {
    names: Vec<Name>,
    answer: oneshot::Sender<Tallies>,
}

/// Looks names up, those of several announces together; clones share it.
#[derive(Clone)]
pub(super) struct Precedents {
    mirror: Mirror,
    gathering: Arc<Mutex<Gathering<Question>>>,
    around: Arc<Around>,
}

impl Precedents {
    pub(super) fn new(mirror: Mirror) -> Self {
        Self { mirror, gathering: Arc::default(), around: Arc::default() }
    }

    /// Whom this node believes.
    pub(super) fn authority(&self) -> Option<Authority> {
        self.mirror.authority()
    }

    /// What the nodes closest to each name say of it, checked. Names that nobody answered for are left out.
    pub(super) async fn of(&self, names: Vec<Name>) -> Tallies {
        if names.is_empty() {
            return Tallies::new();
        }
        let (answer, answered) = oneshot::channel();
        self.lock().push(names.len(), Question { names, answer });
        self.begin();
        // Nothing, if the look panicked.
        answered.await.unwrap_or_default()
    }

    fn begin(&self) {
        loop {
            // Not locked while a look begins, and perhaps ends at once: with the runtime.
            let begun = self.lock().begin();
            let Some(questions) = begun else { return };
            let running = Look(self.clone());
            // Several announces wait for it: it goes on when the first of them is given up.
            tasks::spawn("precedents", async move {
                let names: BTreeSet<_> = questions.iter().flat_map(|question| &question.names).cloned().collect();
                let tallies = running.0.look(names).await;
                for Question { names, answer } in questions {
                    let of_question = names.into_iter().filter_map(|name| {
                        let tally = tallies.get(&name).cloned();
                        tally.map(|tally| (name, tally))
                    });
                    // Whoever asked may be gone.
                    let _ = answer.send(of_question.collect());
                }
            });
        }
    }

    async fn look(&self, names: BTreeSet<Name>) -> Tallies {
        let divided = self.mirror.nodes().await >= DIVIDED_FROM;
        let mut parts = vec![Vec::new(); if divided { PARTS } else { 1 }];
        let count = parts.len();
        for name in names {
            let part = usize::from(position_of_key(&self.mirror.key(&name))[0]) * count / 256;
            parts[part].push(name);
        }
        parts.retain(|part| !part.is_empty());
        let tallies = Mutex::new(Tallies::new());
        let reading = stream::iter(parts).for_each_concurrent(PARTS, |part| {
            self.mirror.read_quickly(part, &self.around, |name, ledger| {
                let mut tallies = lock(&tallies);
                tallies.entry(name).or_default().add(&ledger, now().unix_ms);
            })
        });
        if tokio::time::timeout(PATIENCE, reading).await.is_err() {
            tracing::info!("the DHT does not say all that it could of names; what it said counts");
        }
        tallies.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Gathering<Question>> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.gathering)
    }
}

/// A look under way; what waits begins when it ends, however it does.
struct Look(Precedents);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.lock().end();
        if tokio::runtime::Handle::try_current().is_ok() {
            self.0.begin();
        }
    }
}
