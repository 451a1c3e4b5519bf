//! Opening a database of ours: a foreign, newer or damaged one is left as it is.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::private;

/// What a statement comes to.
pub(super) type Sql<T> = Result<T, rusqlite::Error>;

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

/// Opens a database whose content can be had anew: one that is damaged or foreign is moved aside, and `what` says in
/// the log what it held.
pub(super) fn open_or_renew(path: &Path, schema: &Schema<'_>, what: &str) -> Result<Connection, rusqlite::Error> {
    match open(path, schema) {
        Ok(connection) => return Ok(connection),
        Err(OpenError::Database(error)) => return Err(error),
        Err(OpenError::Foreign | OpenError::Damaged(_)) => {}
    }
    let aside = path.with_extension("damaged");
    tracing::warn!(path = %path.display(), aside = %aside.display(), "{what} cannot be read: moved aside");
    for extension in ["db-wal", "db-shm"] {
        // They belong to what is moved away.
        let _ = std::fs::remove_file(path.with_extension(extension));
    }
    std::fs::rename(path, &aside).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    open(path, schema).map_err(|error| match error {
        OpenError::Database(error) => error,
        OpenError::Foreign | OpenError::Damaged(_) => rusqlite::Error::InvalidQuery,
    })
}

/// Opens the database for writing, and makes its tables if the file is new.
pub(super) fn open(path: &Path, schema: &Schema<'_>) -> Result<Connection, OpenError> {
    let Schema { application_id, version, tables, synchronous } = schema;
    private::prepare_database(path);
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_database_and_all_that_lies_beside_it_is_its_owners_alone() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("some.db");
        let schema =
            Schema { application_id: 1, version: 1, tables: "CREATE TABLE t (n INTEGER);", synchronous: "NORMAL" };
        let modes = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mode = |entry: fs::DirEntry| {
                (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o777)
            };
            let mut modes: Vec<_> = entries.map(|entry| mode(entry.unwrap())).collect();
            modes.sort();
            modes
        };
        let closed = ["some.db", "some.db-shm", "some.db-wal"].map(|name| (name.to_owned(), 0o600));
        let Ok(first) = open(&path, &schema) else { panic!("it opens") };
        first.execute("INSERT INTO t VALUES (1)", []).unwrap();
        assert_eq!(modes(), closed);
        for (name, _) in &closed {
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let Ok(second) = open(&path, &schema) else { panic!("it opens") };
        second.execute("INSERT INTO t VALUES (2)", []).unwrap();
        first.execute("INSERT INTO t VALUES (3)", []).unwrap();
        assert_eq!(modes(), closed);
    }
}
