//! Opening a database of ours: a foreign, newer or damaged one is left as it is.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

/// What makes a database ours.
pub(super) struct Schema<'a> {
    /// Stands in the header of the file.
    pub(super) application_id: i32,
    /// Version of the tables.
    pub(super) version: i32,
    /// Creates the tables.
    pub(super) tables: &'a str,
    /// `FULL` where what is acknowledged has to survive a power loss, `NORMAL` where it can be found anew.
    pub(super) synchronous: &'static str,
}

/// Why a database could not be opened.
pub(super) enum OpenError {
    /// Another program's, or another version's.
    Foreign,
    /// Ours, and torn or changed from outside.
    Damaged(String),
    /// Anything else.
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign,
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

/// Opens the database for writing, and makes its tables if the file is new.
pub(super) fn open(path: &Path, schema: &Schema<'_>) -> Result<Connection, OpenError> {
    let Schema { application_id, version, tables, synchronous } = schema;
    let connection = Connection::open(path)?;
    let number = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0));
    let marks = (number("application_id")?, number("user_version")?);
    let count: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let new = marks == (0, 0) && count == 0;
    if !new && marks != (*application_id, *version) {
        return Err(OpenError::Foreign);
    }
    connection.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};"))?;
    if new {
        let first = format!(
            "BEGIN; {tables} PRAGMA application_id = {application_id}; PRAGMA user_version = {version}; COMMIT;"
        );
        connection.execute_batch(&first)?;
    }
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(OpenError::Damaged(sound));
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
