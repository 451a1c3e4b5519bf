//! How the shared names stand, counted.

use std::sync::Mutex;
use std::time::Instant;

use super::standings::Standings;
use super::types::SharedCounts;
use crate::locks::lock;
use crate::state::announce::Standing;
use crate::storage::shares::ShareTable;

/// Names that are counted while nobody else can change what is said of them.
const AT_A_TIME: usize = 256;

/// Shares of more names are counted for at most a part of the time while they change: one in so many.
const MANY: u64 = 20_000;
const PART_OF_TIME: u32 = 10;

/// The counts of the last time: whoever watches a large share asks every second, and mostly nothing has changed.
#[derive(Debug, Default)]
pub(super) struct Counts {
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    counts: SharedCounts,
    /// The generations of what was counted, if the counts last for as long as these do.
    of: Option<[u64; 2]>,
    /// Before this time, those of a large share are not counted again.
    until: Instant,
}

impl Counts {
    /// Counts what is shared. Walks the whole share if anything changed; a large one not all the time.
    pub(super) fn count(&self, shares: &ShareTable, standings: &Standings) -> SharedCounts {
        // Before anything is looked at: what changes meanwhile is counted the next time.
        let of = [*shares.generation().borrow(), *standings.watch().borrow()];
        let mut kept = lock(&self.kept);
        // While all is confirmed at once, the time changes nothing.
        let lasts = standings.all_confirmed();
        let now = Instant::now();
        if let Some(Kept { counts, of: then, until }) = &*kept
            && (lasts && *then == Some(of) || counts.entries >= MANY && now < *until)
        {
            return *counts;
        }
        let counts = walk(shares, standings);
        *kept = Some(Kept { counts, of: lasts.then_some(of), until: now + now.elapsed() * PART_OF_TIME });
        counts
    }
}

fn walk(shares: &ShareTable, standings: &Standings) -> SharedCounts {
    let mut counts = SharedCounts::default();
    for entries in shares.kept().chunks(AT_A_TIME) {
        let said = standings.of_all(entries.iter().map(|entry| (&entry.name, &entry.content)));
        for (entry, (standing, confirmed)) in entries.iter().zip(said) {
            counts.entries += 1;
            counts.bytes = counts.bytes.saturating_add(entry.size);
            counts.suspended += u64::from(entry.suspended);
            let count = match standing {
                None => &mut counts.pending,
                Some(Standing::Certified(_)) if confirmed => &mut counts.certified,
                Some(Standing::Certified(_)) => &mut counts.unconfirmed,
                Some(Standing::Claimed(_)) => &mut counts.claimed,
                Some(Standing::Conflict(_)) => &mut counts.conflicts,
                Some(Standing::Refused(_)) => &mut counts.refused,
            };
            *count += 1;
        }
    }
    counts
}
