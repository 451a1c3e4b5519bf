//! The words of the names, in a full-text index; and how one by an earlier rule is brought up to date.
//!
//! The index is made by the second rule of `swarmdex_protocols::words`. What earlier builds made by the first rule
//! stays beside it while the names are gone through, a slice at a time between other changes. Meanwhile each name is
//! found by one of the two. Then the old index goes, and the new one takes its name, so that an earlier build opens the
//! database with what it needs. What such a build adds has ids above the last one of this build, and is gone through at
//! the next start.

use rusqlite::{Connection, params};
use swarmdex_protocols::pattern::RequiredWord;
use swarmdex_protocols::words::index_words;
use swarmdex_protocols::{Name, Pattern};

use super::schema;
use crate::storage::sqlite::Sql;

/// Names that are gone through at a time: whoever wants a change waits for so long, some 20 ms.
const SLICE: u32 = 1000;
/// Most words by which an index narrows a search down, the longest: a few leave little to look at.
const MAX_NARROWING: usize = 16;

/// The index. Words are separated by spaces, and hold nothing else that is no letter to this tokenizer: what a letter is was
/// decided before. An earlier build finds here what it finds by plain words.
pub(super) const TABLE: &str = "
    CREATE VIRTUAL TABLE words USING fts5 (
        text, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '2 3'
    );
    INSERT INTO meta VALUES ('words_until', 0);
";
/// The index that is being made while that of an earlier build is still there.
const NEXT: &str = "
    CREATE VIRTUAL TABLE IF NOT EXISTS words_next USING fts5 (
        text, content = '', contentless_delete = 1, tokenize = 'ascii', prefix = '2 3'
    );
";
/// Puts it in the place of the earlier one.
const SWAP: &str = "DROP TABLE words; ALTER TABLE words_next RENAME TO words;";

/// How far the index of words is.
#[derive(Debug)]
pub(super) struct Words {
    /// Names up to this id have their words by the present rule, and so has every name above `through`.
    until: i64,
    /// The last name that may have other words; no higher than `until` when all is done.
    through: i64,
    /// Whether there is an index of an earlier build beside the new one.
    two: bool,
}

impl Words {
    /// Sees how far it is; makes room for a new index if there is one of an earlier build.
    pub(super) fn load(connection: &Connection) -> Sql<Self> {
        connection.execute_batch("INSERT OR IGNORE INTO meta VALUES ('words_until', 0)")?;
        let earlier = "SELECT 1 FROM sqlite_schema WHERE name = 'words' AND sql LIKE '%unicode61%'";
        let two = connection.prepare(earlier)?.exists([])?;
        if two {
            connection.execute_batch(NEXT)?;
        }
        let until = connection.query_row("SELECT value FROM meta WHERE key = 'words_until'", [], |row| row.get(0))?;
        let words = Self { until, through: last_id(connection)?, two };
        if words.is_behind() {
            let names = words.through.saturating_sub(until);
            tracing::info!(
                names,
                "the words of these names are brought up to date; they are found meanwhile as before"
            );
        }
        Ok(words)
    }

    /// Whether some names do not have their words by the present rule, as far as is known.
    pub(super) fn is_behind(&self) -> bool {
        self.two || self.until < self.through
    }

    fn table(&self) -> &'static str {
        if self.two { "words_next" } else { "words" }
    }

    /// The words of a new name.
    pub(super) fn insert(&self, connection: &Connection, id: i64, name: &str) -> Sql<()> {
        let sql = format!("INSERT INTO {} (rowid, text) VALUES (?1, ?2)", self.table());
        connection.prepare_cached(&sql)?.execute(params![id, index_words(name).join(" ")]).map(drop)
    }

    /// A name goes, and its words with it.
    pub(super) fn remove(&self, connection: &Connection, id: i64) -> Sql<()> {
        if self.two {
            connection.prepare_cached("DELETE FROM words_next WHERE rowid = ?1")?.execute([id])?;
        }
        connection.prepare_cached("DELETE FROM words WHERE rowid = ?1")?.execute([id]).map(drop)
    }

    /// Notes, at the end of a transaction, that all names which it added have their words.
    pub(super) fn note(&mut self, connection: &Connection) -> Sql<()> {
        // Names above are gone through once more if this does not come to its end.
        if self.is_behind() {
            return Ok(());
        }
        let last = last_id(connection)?;
        if last != self.until {
            set_until(connection, last)?;
            (self.until, self.through) = (last, last);
        }
        Ok(())
    }

    /// Goes through some more names, in a transaction of its own.
    pub(super) fn catch_up(&mut self, connection: &Connection) -> Sql<()> {
        let transaction = connection.unchecked_transaction()?;
        let names = {
            let sql = "SELECT id, name FROM names WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3";
            let mut statement = transaction.prepare_cached(sql)?;
            let rows = statement.query_map(params![self.until, self.through, SLICE], |row| {
                // A name that is damaged has no words, and keeps nobody else waiting.
                let name = row.get_ref(1)?.as_str().ok().and_then(|name| Name::parse(name).ok());
                Ok((row.get::<_, i64>(0)?, name))
            })?;
            rows.collect::<Sql<Vec<_>>>()?
        };
        let delete = format!("DELETE FROM {} WHERE rowid = ?1", self.table());
        for (id, name) in &names {
            transaction.prepare_cached(&delete)?.execute([id])?;
            if let Some(name) = name {
                self.insert(&transaction, *id, name.as_str())?;
            }
        }
        let until = match names.last() {
            Some((id, _)) if names.len() == SLICE as usize => *id,
            _ => self.through,
        };
        let done = until >= self.through;
        // All names that came meanwhile have their words already.
        let until = if done { last_id(&transaction)? } else { until };
        set_until(&transaction, until)?;
        if done && self.two {
            transaction.execute_batch(SWAP)?;
        }
        transaction.commit()?;
        self.until = until;
        if done {
            (self.through, self.two) = (until, false);
            tracing::info!("the words of all names are up to date");
        }
        Ok(())
    }
}

/// The last id that any name had.
fn last_id(connection: &Connection) -> Sql<i64> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'names'";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

fn set_until(connection: &Connection, id: i64) -> Sql<()> {
    connection.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'words_until'")?.execute([id]).map(drop)
}

/// Whether there are two indexes, as of the transaction that is open.
pub(super) fn are_two(connection: &Connection) -> Sql<bool> {
    connection.prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = 'words_next'")?.exists([])
}

/// What finds rows that may match, in the order of their ids. In the text `?1` is the id before and `?2` the most rows;
/// with it comes what is to be given for `?3` and `?4`. Each row is an entry, all of it null for a name that is gone,
/// and an id.
pub(super) fn question(pattern: &Pattern, two: bool) -> (String, Vec<String>) {
    let entry = schema::ENTRY;
    let second = expression(pattern.required_words());
    let first = if two { expression(pattern.required_first_words()) } else { None };
    match (second, first, two) {
        (Some(second), Some(first), true) => {
            let sql = format!(
                "SELECT {entry}, w.id FROM (
                    SELECT rowid AS id FROM words_next WHERE words_next MATCH ?3 AND rowid > ?1
                    UNION SELECT rowid FROM words WHERE words MATCH ?4 AND rowid > ?1 ORDER BY 1 LIMIT ?2
                ) AS w LEFT JOIN names AS n ON n.id = w.id ORDER BY w.id"
            );
            (sql, vec![second, first])
        }
        (Some(second), _, false) => {
            let sql = format!(
                "SELECT {entry}, w.rowid FROM words AS w LEFT JOIN names AS n ON n.id = w.rowid
                WHERE words MATCH ?3 AND w.rowid > ?1 ORDER BY w.rowid LIMIT ?2"
            );
            (sql, vec![second])
        }
        _ => (format!("SELECT {entry}, n.id FROM names AS n WHERE n.id > ?1 ORDER BY n.id LIMIT ?2"), Vec::new()),
    }
}

/// What every match has, as an FTS5 expression; `None` if that is nothing.
fn expression(mut words: Vec<RequiredWord>) -> Option<String> {
    let text = |word: &RequiredWord| match word {
        RequiredWord::Whole(text) | RequiredWord::Begins(text) | RequiredWord::Character(text) => text.len(),
    };
    words.sort_by_key(|word| std::cmp::Reverse(text(word)));
    words.truncate(MAX_NARROWING);
    // Words are letters and digits alone; quoted, none of them is an operator.
    let quoted = words.iter().map(|word| match word {
        RequiredWord::Whole(text) | RequiredWord::Character(text) => format!("\"{text}\""),
        RequiredWord::Begins(text) => format!("\"{text}\"*"),
    });
    (!words.is_empty()).then(|| quoted.collect::<Vec<_>>().join(" AND "))
}

#[cfg(test)]
mod tests;
