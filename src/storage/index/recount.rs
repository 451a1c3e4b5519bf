//! Counts what the index holds anew, beside the work: what was changed from outside, or damaged, is found.
//!
//! The index keeps count and digest of each member's names as it changes them. A database is a file, though: another
//! program can change its rows, a disk can flip bits. SQLite tells the writer when somebody else has committed (`PRAGMA
//! data_version`); then, and at each start, all rows are counted from one snapshot. What has to be corrected is the
//! difference between what a snapshot says of a member and what its rows come to. Digests are sums, so it stays the
//! same whatever the writer changes meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{ShareDigest, ShareSum};

use super::schema;
use crate::state::index::{Correction, corrections};
use crate::storage::sqlite::Sql;

/// What a count came to.
#[derive(Debug, Default)]
pub(super) struct Recount {
    pub(super) corrections: Vec<Correction>,
    /// Rows that do not fit their checksums.
    pub(super) damaged: u64,
    /// Members that have a row.
    pub(super) members: BTreeSet<PeerId>,
}

/// Counts everything in the database at `path`; `None` if cancelled.
pub(super) fn recount(path: &Path, cancel: &AtomicBool) -> Sql<Option<Recount>> {
    let connection = schema::open_for_reading(path)?;
    // One snapshot for members and names.
    connection.execute_batch("BEGIN")?;
    let mut stored = BTreeMap::new();
    {
        let mut statement = connection.prepare("SELECT peer, digest, names FROM peers")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(peer) = schema::peer(row, 0) else { continue };
            let (digest, entries) = (ShareDigest::from_bytes(row.get(1)?), row.get::<_, i64>(2)?.cast_unsigned());
            stored.insert(peer, ShareSum { entries, digest });
        }
    }
    let (mut counted, mut damaged) = (BTreeMap::<PeerId, ShareSum>::new(), 0);
    {
        let sql = format!("SELECT {} FROM names AS n", schema::ENTRY);
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if cancel.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match schema::plain_entry(row) {
                Ok((_, entry)) => counted.entry(entry.owner).or_default().add(&entry.digest()),
                Err(error) if schema::is_damage(&error) => damaged += 1,
                Err(error) => return Err(error),
            }
        }
    }
    let members = stored.keys().copied().collect();
    Ok(Some(Recount { corrections: corrections(&stored, &counted), damaged, members }))
}
