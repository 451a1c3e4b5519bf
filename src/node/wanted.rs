//! What this node wants to be published, followed from what is said of its names and from what it holds.

use std::collections::BTreeSet;

use swarmdex_protocols::{Name, Network, RecordKey};
use tokio::sync::watch;

use super::standings::Standings;
use crate::state::announce::Changed;
use crate::state::publish::{RecordChange, WantedRecords, What};
use crate::storage::library::Library;

/// Names that are looked at while nobody else can change what is said of them.
const AT_A_TIME: usize = 256;

/// Follows the changes.
pub(super) struct Follower {
    standings: Standings,
    library: Library,
    held: watch::Receiver<u64>,
    network: Network,
    found_as: Option<RecordKey>,
    /// `None` before everything was looked at, and after a failure.
    wanted: Option<WantedRecords>,
}

impl Follower {
    /// For a node that is found under `found_as` in any case.
    pub(super) fn new(standings: Standings, library: Library, network: Network, found_as: Option<RecordKey>) -> Self {
        let held = library.holdings.generation();
        Self { standings, library, held, network, found_as, wanted: None }
    }

    /// What changed since the last time; with `all` everything else that is wanted, too.
    pub(super) async fn changes(&mut self, all: bool) -> Vec<RecordChange> {
        let all = all || self.wanted.is_none();
        let always = self.found_as;
        let mut wanted = self.wanted.take().unwrap_or_else(|| WantedRecords::new(self.network.clone(), always));
        let held = (all || self.held.has_changed().unwrap_or(false)).then(|| {
            self.held.mark_unchanged();
            self.library.holdings.contents()
        });
        let changed = self.standings.lock().take_changed();
        let changed = if all { Changed::All } else { changed };
        if held.is_none() && changed == Changed::default() {
            self.wanted = Some(wanted);
            return Vec::new();
        }
        let standings = self.standings.clone();
        let following = tokio::task::spawn_blocking(move || {
            let mut changes = Vec::new();
            held.into_iter().for_each(|held| wanted.hold(held, &mut changes));
            follow(&mut wanted, &standings, changed, &mut changes);
            if all {
                changes.extend(wanted.keys().map(|key| (*key, Some(What::Provide))));
            }
            (wanted, changes)
        });
        let Ok((wanted, changes)) = following.await else { return Vec::new() };
        self.wanted = Some(wanted);
        changes
    }
}

fn follow(wanted: &mut WantedRecords, standings: &Standings, changed: Changed, changes: &mut Vec<RecordChange>) {
    let names: BTreeSet<Name> = match changed {
        Changed::Names(names) => names,
        Changed::All => {
            let said: Vec<_> = standings.lock().said_names().cloned().collect();
            said.into_iter().chain(wanted.names().cloned()).collect()
        }
    };
    let names: Vec<_> = names.into_iter().collect();
    for names in names.chunks(AT_A_TIME) {
        let said: Vec<_> = {
            let announcer = standings.lock();
            names.iter().map(|name| announcer.said(name)).collect()
        };
        for (name, statement) in names.iter().zip(said) {
            wanted.say(name, statement, changes);
        }
    }
}
