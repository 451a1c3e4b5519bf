//! Divides what a member holds in a range of names, some rows at a time: others do not wait for a million.

use rusqlite::{Connection, params};
use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{Compared, Range};

use super::schema;
use crate::state::agreement::Division;

/// Rows that one step looks at: some tens of milliseconds.
const ROWS_PER_STEP: i64 = 10_000;

/// How far the comparison of one range is.
#[derive(Debug, Clone)]
pub(crate) struct CompareStep {
    owner: PeerId,
    range: Range,
    division: Division,
    /// The last name that was looked at.
    after: Option<String>,
    /// Rows that were looked at.
    looks: u64,
    done: bool,
}

impl PartialEq for CompareStep {
    fn eq(&self, other: &Self) -> bool {
        (self.owner, &self.range, &self.after, self.done) == (other.owner, &other.range, &other.after, other.done)
    }
}

impl Eq for CompareStep {}

impl CompareStep {
    /// At the beginning of a range of the names of `owner`.
    pub(crate) fn new(owner: PeerId, range: Range) -> Box<Self> {
        let division = Division::new(range.from.clone());
        Box::new(Self { owner, range, division, after: None, looks: 0, done: false })
    }

    /// Looks at the next rows.
    pub(super) fn run(mut self: Box<Self>, connection: &Connection) -> Result<Box<Self>, rusqlite::Error> {
        let begin = if self.after.is_some() { "n.name > ?2" } else { "n.name >= ?2" };
        let end = if self.range.to.is_some() { "AND n.name < ?3" } else { "AND ?3 IS NULL" };
        let sql = format!(
            "SELECT {} FROM names AS n WHERE n.owner = ?1 AND {begin} {end} ORDER BY n.name LIMIT ?4",
            schema::ENTRY
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let from = self.after.take().unwrap_or_else(|| self.range.from.clone());
        let mut rows = statement.query(params![self.owner.to_bytes(), from, self.range.to, ROWS_PER_STEP])?;
        let (mut seen, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            seen += 1;
            last = Some(row.get::<_, String>(1)?);
            match schema::plain_entry(row) {
                Ok((_, entry)) => self.division.push(entry.name.as_str(), &entry.digest()),
                // What is damaged is not there: its owner announces it again.
                Err(error) if schema::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.looks += seen as u64;
        self.done = seen < ROWS_PER_STEP;
        self.after = last;
        Ok(self)
    }

    /// Rows that were looked at so far.
    pub(crate) fn looks(&self) -> u64 {
        self.looks
    }

    /// What the range came to; the step itself if there are more rows.
    pub(crate) fn finish(self: Box<Self>) -> Result<Compared, Box<Self>> {
        if self.done { Ok(self.division.finish(&self.range.held)) } else { Err(self) }
    }
}
