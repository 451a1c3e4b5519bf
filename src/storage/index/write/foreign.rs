//! Changes that this program did not make: noticed, counted, and taken into account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::params;

use super::{Sql, Writer};
use crate::state::lease::Holding;
use crate::storage::index::recount::{Correction, Recount, recount};
use crate::storage::index::{Job, schema};

/// How often the writer looks whether somebody else changed the database.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Whether somebody else changed the database, and what is being done about it.
#[derive(Debug)]
pub(super) struct Foreign {
    version: Option<i64>,
    looked: Option<Instant>,
    /// Whether everything is to be counted: at the start, and whenever a row does not fit.
    pub(super) wanted: bool,
    counting: bool,
    /// Whether somebody else changed the database since members were last compared with it.
    changed: bool,
    cancel: Arc<AtomicBool>,
}

impl Default for Foreign {
    fn default() -> Self {
        Self { version: None, looked: None, wanted: true, counting: false, changed: false, cancel: Arc::default() }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    /// Looks for changes of others, now and then, and has everything counted if there are any.
    pub(super) fn look_for_foreign_changes(&mut self) {
        let now = Instant::now();
        if self.foreign.looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return;
        }
        self.foreign.looked = Some(now);
        match self.connection.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)) {
            Ok(version) => {
                if self.foreign.version.is_some_and(|before| before != version) {
                    tracing::warn!("another program changed the index database; everything is counted anew");
                    (self.foreign.wanted, self.foreign.changed) = (true, true);
                }
                self.foreign.version = Some(version);
            }
            Err(error) => tracing::debug!(%error, "the version of the index database cannot be read"),
        }
        if self.foreign.wanted && !self.foreign.counting {
            self.count();
        }
    }

    fn count(&mut self) {
        let (path, cancel, queue) = (self.path.clone(), self.foreign.cancel.clone(), self.queue.clone());
        let counting = std::thread::Builder::new().name("index-count".to_owned()).spawn(move || {
            let result = recount(&path, &cancel);
            // A writer that is gone needs no count.
            let _ = queue.send(Job::Recounted(result));
        });
        match counting {
            Ok(_) => (self.foreign.wanted, self.foreign.counting) = (false, true),
            Err(error) => tracing::warn!(%error, "the index cannot be counted: no thread could be started"),
        }
    }

    /// Takes in what was counted.
    pub(super) fn on_recounted(&mut self, result: Sql<Option<Recount>>) {
        self.foreign.counting = false;
        let Recount { corrections, damaged, members } = match result {
            Ok(Some(recount)) => recount,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, "the index could not be counted"),
        };
        if damaged > 0 {
            tracing::error!(
                rows = damaged,
                "rows of the index are damaged; they are not served until their owners announce them again"
            );
        }
        if std::mem::take(&mut self.foreign.changed) {
            self.counts.set_members(members);
            self.read_totals();
        }
        if corrections.is_empty() {
            return;
        }
        // A member that came or went while the rows were counted is counted again.
        self.foreign.wanted = true;
        match self.correct(&corrections) {
            Ok(corrected) => {
                let names: u64 = corrections.iter().map(|correction| correction.names.unsigned_abs()).sum();
                tracing::warn!(
                    peers = corrections.len(),
                    names,
                    "rows of the index were changed from outside; their owners are asked"
                );
                self.counts.correct(corrected);
            }
            Err(error) => {
                tracing::error!(%error, "the index could not be corrected");
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
            }
        }
        self.read_totals();
    }

    fn read_totals(&mut self) {
        if let Err(error) = self.reload() {
            tracing::error!(%error, "the index cannot be read");
        }
    }

    fn correct(&mut self, corrections: &[Correction]) -> Sql<Vec<(swarmdex_protocols::PeerId, Holding)>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut corrected = Vec::with_capacity(corrections.len());
        for correction in corrections {
            let peer = match self.peer(correction.peer)? {
                Some(peer) => Some(peer),
                // Its names are here: it gets a lease to come back in.
                None if !correction.known => {
                    self.insert_stranger(correction.peer)?;
                    self.peer(correction.peer)?
                }
                None => None,
            };
            let Some(mut peer) = peer else { continue };
            peer.held.entries = peer.held.entries.saturating_add_signed(correction.names);
            peer.held.digest.join(&correction.digest);
            self.store(&peer)?;
            corrected.push((peer.id, self.holding(&peer)));
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(corrected)
    }

    /// A row of the index does not fit its checksum.
    pub(super) fn on_damage(&mut self) {
        self.foreign.wanted = true;
    }

    /// A peer of which only names are known.
    pub(super) fn insert_stranger(&mut self, peer: swarmdex_protocols::PeerId) -> Sql<()> {
        let sql = "INSERT INTO peers (peer, session, addresses, digest, names) VALUES (?1, 0, '', ?2, 0)";
        let digest = swarmdex_protocols::index::ShareDigest::empty();
        self.connection.prepare_cached(sql)?.execute(params![peer.to_bytes(), &digest.as_bytes()[..]])?;
        self.totals.peers += 1;
        Ok(())
    }

    /// What rows a peer has that it should not: it joins for the first time.
    pub(super) fn rows_of(&self, peer: &swarmdex_protocols::PeerId) -> Sql<swarmdex_protocols::index::ShareSum> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.owner = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([peer.to_bytes()])?;
        let mut sum = swarmdex_protocols::index::ShareSum::default();
        while let Some(row) = rows.next()? {
            match schema::entry(row) {
                Ok((_, entry)) => sum.add(&entry.digest()),
                Err(error) if schema::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }
}
