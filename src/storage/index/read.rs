//! The reader: questions that change nothing.

use std::cell::Cell;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::index::{Cursor, Page, Refusal, RefusalCode, Sealed};
use swarmdex_protocols::limits::{MAX_BATCH_ENTRIES, MAX_HOLDERS, MAX_PAGE_ENTRIES};
use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, CLOCK_TOLERANCE_MS};
use swarmdex_protocols::{Certificate, ContentId, Name, Pattern, PeerId, Statement, Tombstone, Version};

use super::{IndexOptions, Job, ReadOp, ReadOutcome, TombstonePage, schema, storage_refusal, words};
use crate::storage::sqlite::Sql;

/// Rows that one page looks at: bounds how long one question keeps the others waiting.
pub(super) const ROWS_PER_PAGE: usize = 2000;
/// Holders of a content that are looked at: more than an answer has, for those that do not answer come last in it.
const HOLDERS_READ: usize = 256;
const _: () = assert!(HOLDERS_READ >= MAX_HOLDERS);

pub(super) struct Reader {
    connection: Connection,
    options: IndexOptions,
    /// Whether there may be an index of words by an earlier rule beside the present one.
    two_of_words: Cell<bool>,
}

impl Reader {
    pub(super) fn new(connection: Connection, options: IndexOptions) -> Self {
        connection.set_prepared_statement_cache_capacity(32);
        Self { connection, options, two_of_words: Cell::new(true) }
    }

    pub(super) fn run(self, queue: &Receiver<Job<ReadOp, ReadOutcome>>) {
        while let Ok(job) = queue.recv() {
            match job {
                // Whoever asked may be gone by now: then the question costs nothing.
                Job::Do(_, answer) if answer.is_closed() => {}
                Job::Do(op, answer) => {
                    let result = match op {
                        ReadOp::Lookup { name } => self.lookup(&name),
                        ReadOp::Tombstones { before, limit } => {
                            self.tombstones(before, limit).map(|page| Ok(ReadOutcome::Tombstones(page)))
                        }
                        ReadOp::Unknown { names, ended } => {
                            self.unknown(names, ended).map(|all| Ok(ReadOutcome::Unknown(all)))
                        }
                        ReadOp::Seals { peer, from } => {
                            self.seals(&peer, &from).map(|sealed| Ok(ReadOutcome::Sealed(sealed)))
                        }
                        ReadOp::Compare(step) => step.run(&self.connection).map(|step| Ok(ReadOutcome::Compared(step))),
                        ReadOp::Search { pattern, cursor, limit } => {
                            self.search(&pattern, cursor, limit).map(|page| Ok(ReadOutcome::Page(page)))
                        }
                    };
                    let _ = answer.send(result.unwrap_or_else(|error| Err(storage_refusal(&error))));
                }
                Job::Recounted(_) => {}
                #[cfg(test)]
                Job::Sql(..) => {}
                Job::Stop => return,
            }
        }
    }

    fn lookup(&self, name: &Name) -> Sql<Result<ReadOutcome, Refusal>> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let Some((_, entry)) = statement.query_row([name.as_str()], schema::entry).optional()? else {
            return Ok(Ok(ReadOutcome::NotFound));
        };
        let holders = self.holders(&entry.content, &entry.owner)?;
        let signed = Certificate::sign(entry, &self.options.network, &self.options.master, (self.options.clock)());
        Ok(match signed {
            Ok(certificate) => Ok(ReadOutcome::Found { certificate, holders }),
            Err(error) => {
                tracing::error!(%error, "an entry could not be signed");
                Err(Refusal::new(RefusalCode::Storage, "the master could not sign the entry"))
            }
        })
    }

    /// Certifies what a member holds, from a name on, for the member and for the mirror: it was granted without.
    fn seals(&self, peer: &PeerId, from: &str) -> Sql<Vec<Sealed>> {
        let sql = format!(
            "SELECT {} FROM names AS n WHERE n.owner = ?1 AND n.name >= ?2 ORDER BY n.name LIMIT ?3",
            schema::ENTRY
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![peer.to_bytes(), from, MAX_BATCH_ENTRIES as i64])?;
        let (mut sealed, unix_ms) = (Vec::new(), (self.options.clock)());
        while let Some(row) = rows.next()? {
            let entry = match schema::entry(row) {
                Ok((_, entry)) => entry,
                // Its owner announces it by itself.
                Err(error) if schema::is_damage(&error) => continue,
                Err(error) => return Err(error),
            };
            let (name, version) = (entry.name.as_str().to_owned(), entry.version);
            let IndexOptions { network, master, mirror, .. } = &self.options;
            let Ok(certificate) = Certificate::sign(entry, network, master, unix_ms) else { continue };
            sealed.push(Sealed { name, version, seal: certificate.seal.clone() });
            if let Some(mirror) = mirror {
                // What finds no room, its owner publishes by itself.
                let _ = mirror.try_send(Statement::Certificate(certificate));
            }
        }
        Ok(sealed)
    }

    /// A page of tombstones, the latest first, as they were signed: they are over when every certificate that they end is.
    fn tombstones(&self, before: Option<Version>, limit: u32) -> Sql<TombstonePage> {
        let unix_ms = (self.options.clock)();
        // A tombstone that is older than any certificate can be ends nothing.
        let since = unix_ms.saturating_sub(CERTIFICATE_LIFETIME_MS + 2 * CLOCK_TOLERANCE_MS).cast_signed();
        let sql = "SELECT name, owner, version, unix_ms FROM tombstones
            WHERE unix_ms >= ?1 AND version < ?2 ORDER BY version DESC LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let before = before.map_or(i64::MAX, |version| i64::try_from(version.0).unwrap_or(i64::MAX));
        let mut rows = statement.query(params![since, before, limit])?;
        let (mut tombstones, mut seen, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            let version = Version(row.get::<_, i64>(2)?.cast_unsigned());
            (seen, last) = (seen + 1, Some(version));
            // A damaged row takes no other with it.
            let Ok(name) = Name::parse(row.get_ref(0)?.as_str()?) else { continue };
            let Ok(owner) = schema::peer(row, 1) else { continue };
            let IndexOptions { network, master, .. } = &self.options;
            // A clock that was set back since has signed nothing in its future.
            let issued_ms = row.get::<_, i64>(3)?.cast_unsigned().min(unix_ms);
            if let Ok(tombstone) = Tombstone::sign(name, owner, version, network, master, issued_ms) {
                tombstones.push(Statement::Tombstone(tombstone));
            }
        }
        Ok(TombstonePage { tombstones, next: last.filter(|_| seen == limit) })
    }

    fn unknown(&self, names: Vec<(Name, Option<Version>)>, ended: bool) -> Sql<Vec<Name>> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut unknown = Vec::new();
        for (name, granted) in names {
            let known = match statement.query_row([name.as_str()], schema::entry).optional() {
                // A grant that is later than the index knows of: it went back to an older copy of itself.
                Ok(known) => known.is_some_and(|(_, entry)| granted.is_none_or(|granted| granted <= entry.version)),
                // What a damaged row said, the mirror may know.
                Err(error) if schema::is_damage(&error) => false,
                Err(error) => return Err(error),
            };
            let granted = granted.filter(|_| !ended);
            let over = || granted.map_or(Ok(false), |granted| schema::is_over(&self.connection, &name, granted));
            if !known && !over()? {
                unknown.push(name);
            }
        }
        Ok(unknown)
    }

    /// Peers that hold names with the same content, the owner first: whoever knows how they stand chooses among
    /// them. Goes from owner to owner through the index:
    /// a peer with a hundred thousand names for one content costs no more than one with a single name.
    fn holders(&self, content: &ContentId, owner: &PeerId) -> Sql<Vec<PeerId>> {
        let sql = "WITH RECURSIVE holders (owner) AS (
                SELECT min(owner) FROM names WHERE content = ?1
                UNION ALL
                SELECT (SELECT min(n.owner) FROM names AS n WHERE n.content = ?1 AND n.owner > holders.owner)
                FROM holders WHERE holders.owner IS NOT NULL
            )
            SELECT owner FROM holders WHERE owner IS NOT NULL LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let values = params![&content.as_bytes()[..], HOLDERS_READ as i64];
        let rows = statement.query_map(values, |row| schema::peer(row, 0))?;
        let mut holders = vec![*owner];
        for peer in rows {
            match peer {
                Ok(peer) if peer != *owner => holders.push(peer),
                Ok(_) => {}
                // One damaged row costs its own holder, and not the name.
                Err(error) if schema::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(holders)
    }

    /// A page of matches in the order in which names came to the index. The cursor is the id of the
    /// last row looked at, so no page is lost or seen twice whatever changes meanwhile.
    fn search(&self, pattern: &Pattern, cursor: Option<Cursor>, limit: u32) -> Sql<Page> {
        let limit = (limit as usize).clamp(1, MAX_PAGE_ENTRIES);
        let after = cursor.map_or(0, |cursor| i64::try_from(cursor.0).unwrap_or(i64::MAX));
        // What is known of the tables holds for as long as the transaction is open.
        let transaction = self.connection.unchecked_transaction()?;
        self.two_of_words.set(self.two_of_words.get() && words::are_two(&transaction)?);
        let (sql, expressions) = words::question(pattern, self.two_of_words.get());
        let mut statement = transaction.prepare_cached(&sql)?;
        let rows_wanted = self.options.rows_per_page as i64;
        let values: [&dyn rusqlite::ToSql; 2] = [&after, &rows_wanted];
        let words = expressions.iter().map(|words| words as &dyn rusqlite::ToSql);
        let mut rows = statement.query(&*values.into_iter().chain(words).collect::<Vec<_>>())?;
        let (mut entries, mut seen, mut last) = (Vec::new(), 0, after);
        while let Some(row) = rows.next()? {
            (seen, last) = (seen + 1, row.get(schema::ENTRY_COLUMNS)?);
            // The words of a name that an earlier build gave up, which knew of one index of them alone.
            if row.get_ref(0)? == rusqlite::types::ValueRef::Null {
                continue;
            }
            let entry = match schema::entry(row) {
                Ok((_, entry)) => entry,
                // One damaged row costs its own name, and not every search.
                Err(error) if schema::is_damage(&error) => {
                    tracing::error!(id = last, %error, "a row of the index is damaged; it is left out");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if pattern.matches(&entry.name) {
                entries.push(entry);
                if entries.len() == limit {
                    break;
                }
            }
        }
        let more = entries.len() == limit || seen == self.options.rows_per_page;
        Ok(Page { entries, next: more.then_some(Cursor(last.cast_unsigned())) })
    }
}
