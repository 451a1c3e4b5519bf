//! Changes that this program did not make: noticed, counted, and taken into account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use swarmdex_protocols::PeerId;

use super::{Sql, Writer};
use crate::state::index::Correction;
use crate::state::lease::Holding;
use crate::storage::index::Job;
use crate::storage::index::recount::{Recount, recount};
use crate::storage::index::sqlite::SqliteTable;

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

    fn correct(&mut self, corrections: &[Correction]) -> Sql<Vec<(PeerId, Holding)>> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let mut corrected = Vec::with_capacity(corrections.len());
        let at = self.moment();
        let mut table = SqliteTable::new(&self.connection, &self.words);
        for correction in corrections {
            corrected.extend(self.service.correct(&mut table, correction, at)?);
        }
        self.connection.execute_batch("COMMIT")?;
        Ok(corrected)
    }
}
