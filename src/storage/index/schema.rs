//! Tables of the index, and rows as entries.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use swarmdex_protocols::codec;
use swarmdex_protocols::index::{Session, ShareDigest, ShareSum};
use swarmdex_protocols::{ContentId, Entry, Multiaddr, Name, PeerId, SignedAttributes, Version};

use super::words::{self, Words};
use super::{IndexError, KnownPeer, away};
use crate::storage::sqlite::{self, OpenError, Schema};

/// Marks the database as ours: "swdi".
const APPLICATION_ID: i32 = 0x7377_6469;
/// Version of the tables.
const VERSION: i32 = 1;
/// How long tombstones are kept, in milliseconds (30 days): longer than any certificate that they end.
const TOMBSTONE_LIFETIME_MS: u64 = 30 * 24 * 3600 * 1000;
/// Tombstones that are kept, about 200 bytes each on disk: the latest.
pub(super) const MAX_TOMBSTONES: u32 = 1_000_000;
/// Tombstones that are forgotten at a time.
const PRUNE_SLICE: u32 = 20_000;

/// Ids of names are never used again, so that a search cursor stays where it is. The index of their words is made with
/// them, see [`words::TABLE`].
const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('last_version', 0);
    CREATE TABLE peers (
        peer BLOB PRIMARY KEY,
        session INTEGER NOT NULL,
        addresses TEXT NOT NULL,
        digest BLOB NOT NULL,
        names INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE names (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        content BLOB NOT NULL,
        size INTEGER NOT NULL,
        owner BLOB NOT NULL,
        version INTEGER NOT NULL,
        session INTEGER NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX names_by_content ON names (content, owner);
    CREATE TABLE tombstones (
        name TEXT PRIMARY KEY,
        owner BLOB NOT NULL,
        version INTEGER NOT NULL,
        unix_ms INTEGER NOT NULL,
        evicted INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tombstones_by_version ON tombstones (version);
";

/// The names of one owner in order, for comparisons with it; what earlier builds made in its place goes. They
/// open a database with it all the same.
const ORDER: &str = "
    CREATE INDEX IF NOT EXISTS names_in_order ON names (owner, name);
    DROP INDEX IF EXISTS names_by_owner;
";

/// Names of which nothing is known beside the bytes: their owners are asked for it. Earlier builds leave the column that is
/// added alone, see [`attributes`].
const BARE: &str = "
    CREATE INDEX IF NOT EXISTS names_bare ON names (owner) WHERE attributes IS NULL;
    CREATE INDEX IF NOT EXISTS away_bare ON away (owner) WHERE attributes IS NULL;
";
/// Longest attributes, in bytes.
const MAX_ATTRIBUTES: usize = 128;

/// Columns of an entry, in the order of [`entry`].
pub(super) const ENTRY: &str = "n.id, n.name, n.content, n.size, n.owner, n.version, n.checksum, n.attributes";
/// How many they are.
pub(super) const ENTRY_COLUMNS: usize = 8;

/// What an SQLite error says about the file.
pub(super) fn explain(path: &Path, source: rusqlite::Error) -> IndexError {
    refusal(path, source.into())
}

fn refusal(path: &Path, error: OpenError) -> IndexError {
    let path = path.to_owned();
    match error {
        OpenError::Foreign => IndexError::Foreign { path },
        OpenError::Damaged(detail) => IndexError::Damaged { path, detail },
        OpenError::Database(source) => IndexError::Database { path, source },
    }
}

/// Opens the database for writing.
pub(super) fn open(path: &Path) -> Result<Connection, IndexError> {
    let tables = [TABLES, words::TABLE].concat();
    let schema = Schema { application_id: APPLICATION_ID, version: VERSION, tables: &tables, synchronous: "FULL" };
    let connection = sqlite::open(path, &schema).map_err(|error| refusal(path, error))?;
    complete(&connection).map_err(|error| explain(path, error))?;
    Ok(connection)
}

/// Adds what earlier builds did not make.
fn complete(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.execute_batch(ORDER)?;
    connection.execute_batch(away::TABLES)?;
    add_attributes(connection)
}

/// A new database in memory.
#[cfg(test)]
pub(super) fn open_in_memory() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(&[TABLES, words::TABLE].concat()).unwrap();
    complete(&connection).unwrap();
    connection.set_prepared_statement_cache_capacity(64);
    connection
}

/// Gives tables that earlier builds made a column for attributes.
fn add_attributes(connection: &Connection) -> Result<(), rusqlite::Error> {
    for table in ["names", "away"] {
        let sql = "SELECT 1 FROM pragma_table_info(?1) WHERE name = 'attributes'";
        if !connection.prepare(sql)?.exists([table])? {
            connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN attributes BLOB"))?;
        }
    }
    connection.execute_batch(BARE)
}

/// Whether there is a name of a peer of which nothing is known beside the bytes; `away` looks at those that it left with.
pub(super) fn has_bare(connection: &Connection, peer: &PeerId, away: bool) -> Result<bool, rusqlite::Error> {
    let sql = if away {
        "SELECT 1 FROM away WHERE owner = ?1 AND attributes IS NULL LIMIT 1"
    } else {
        "SELECT 1 FROM names WHERE owner = ?1 AND attributes IS NULL LIMIT 1"
    };
    connection.prepare_cached(sql)?.exists([peer.to_bytes()])
}

/// Opens the database for reading beside the writer.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// Forgets tombstones that end nothing any more, and the oldest where there are more than `most`: at most
/// [`PRUNE_SLICE`] of each kind at a time, so that nobody waits for long.
pub(super) fn prune(connection: &Connection, unix_ms: u64, most: u32) -> Result<(), rusqlite::Error> {
    let before = unix_ms.saturating_sub(TOMBSTONE_LIFETIME_MS);
    // Versions rise with time, and have an index.
    let sql = "DELETE FROM tombstones WHERE name IN
        (SELECT name FROM tombstones WHERE version < ?1 AND unix_ms < ?2 ORDER BY version LIMIT ?3)";
    let version = before.saturating_mul(1024).cast_signed();
    connection.execute(sql, params![version, before.cast_signed(), PRUNE_SLICE])?;
    let sql = "DELETE FROM tombstones WHERE name IN (SELECT name FROM tombstones WHERE version <=
        (SELECT version FROM tombstones ORDER BY version DESC LIMIT 1 OFFSET ?1) ORDER BY version LIMIT ?2)";
    connection.execute(sql, params![most, PRUNE_SLICE]).map(drop)
}

/// Members from before.
pub(super) fn known_peers(connection: &Connection) -> Result<Vec<KnownPeer>, rusqlite::Error> {
    let mut statement = connection.prepare("SELECT peer, digest, addresses, names FROM peers ORDER BY peer")?;
    let rows = statement.query_map([], |row| {
        let addresses: String = row.get(2)?;
        let digest = ShareDigest::from_bytes(row.get(1)?);
        Ok(KnownPeer {
            peer: peer(row, 0)?,
            addresses: addresses.lines().filter_map(|line| line.parse().ok()).collect(),
            held: ShareSum { entries: row.get::<_, i64>(3)?.cast_unsigned(), digest },
        })
    })?;
    rows.collect()
}

/// Addresses as text, one a line.
pub(super) fn join_addresses(addresses: &[Multiaddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A column that holds a peer id.
pub(super) fn peer(row: &Row<'_>, column: usize) -> Result<PeerId, rusqlite::Error> {
    PeerId::from_bytes(row.get_ref(column)?.as_blob()?).map_err(|error| damaged(column, error))
}

/// A row as an entry with its id. A row that does not fit its checksum is an error: a flipped bit is
/// found, not served.
pub(super) fn entry(row: &Row<'_>) -> Result<(i64, Entry), rusqlite::Error> {
    let (id, mut entry) = plain_entry(row)?;
    entry.attributes = attributes(row, 7, &entry)?;
    Ok((id, entry))
}

/// The same without attributes, where only the rest counts.
pub(super) fn plain_entry(row: &Row<'_>) -> Result<(i64, Entry), rusqlite::Error> {
    let entry = Entry {
        name: Name::parse(row.get_ref(1)?.as_str()?).map_err(|error| damaged(1, error))?,
        content: ContentId::from_bytes(row.get(2)?),
        size: row.get::<_, i64>(3)?.cast_unsigned(),
        owner: peer(row, 4)?,
        version: Version(row.get::<_, i64>(5)?.cast_unsigned()),
        attributes: None,
    };
    if row.get::<_, [u8; 8]>(6)? != checksum(&entry) {
        return Err(damaged(6, std::io::Error::other("the row does not fit its checksum")));
    }
    Ok((row.get(0)?, entry))
}

/// A column that holds attributes. What does not belong to just this entry is none: builds that do not know the column
/// change the others and leave it.
pub(super) fn attributes(
    row: &Row<'_>,
    column: usize,
    entry: &Entry,
) -> Result<Option<Box<SignedAttributes>>, rusqlite::Error> {
    let Some(bytes) = row.get_ref(column)?.as_blob_or_null()? else { return Ok(None) };
    let Some((mark, bytes)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
    if *mark != mark_of(entry, bytes) {
        return Ok(None);
    }
    Ok(codec::decode(bytes, MAX_ATTRIBUTES).ok().map(Box::new))
}

/// Attributes as [`attributes`] reads them.
pub(super) fn attributes_column(entry: &Entry) -> Option<Vec<u8>> {
    let bytes = codec::encode(entry.attributes.as_deref()?, MAX_ATTRIBUTES).ok()?;
    Some([&mark_of(entry, &bytes)[..], &bytes].concat())
}

/// Ties attributes to the rest of their row.
fn mark_of(entry: &Entry, attributes: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&checksum(entry)).update(attributes);
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Whether an error is about the row alone: it was changed from outside, or a bit flipped.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..)
    )
}

/// The owner of a row that is damaged, as far as it can be read.
pub(super) fn owner_of_damaged(connection: &Connection, name: &Name) -> Result<Option<PeerId>, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT owner FROM names WHERE name = ?1")?;
    let owner = statement.query_row([name.as_str()], |row| Ok(peer(row, 0).ok())).optional()?;
    Ok(owner.flatten())
}

/// Whether this index ended a name at a version, or later: it remembers more than a certificate of that version says.
pub(super) fn is_over(connection: &Connection, name: &Name, version: Version) -> Result<bool, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM tombstones WHERE name = ?1 AND version >= ?2")?;
    statement.exists(params![name.as_str(), version.0.cast_signed()])
}

/// Removes a row, whatever it holds.
pub(super) fn remove_row(connection: &Connection, words: &Words, name: &Name) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT id FROM names WHERE name = ?1")?;
    if let Some(id) = statement.query_row([name.as_str()], |row| row.get(0)).optional()? {
        words.remove(connection, id)?;
    }
    connection.prepare_cached("DELETE FROM names WHERE name = ?1")?.execute([name.as_str()]).map(drop)
}

pub(super) fn damaged(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(error))
}

/// The first bytes of the hash of all columns that are served.
pub(super) fn checksum(entry: &Entry) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(entry.content.as_bytes());
    hasher.update(&entry.size.to_be_bytes());
    hasher.update(&entry.version.0.to_be_bytes());
    hasher.update(&entry.owner.to_bytes());
    hasher.update(entry.name.as_str().as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Puts an entry in place of what its name stood for; its id stays.
pub(super) fn put(
    connection: &Connection,
    words: &Words,
    entry: &Entry,
    session: Session,
    new: bool,
) -> Result<(), rusqlite::Error> {
    let Entry { name, content, size, owner, version, .. } = entry;
    let values = params![
        name.as_str(),
        &content.as_bytes()[..],
        size.cast_signed(),
        owner.to_bytes(),
        version.0.cast_signed(),
        session.0.cast_signed(),
        &checksum(entry)[..],
        attributes_column(entry),
    ];
    if !new {
        let sql = "UPDATE names SET content = ?2, size = ?3, owner = ?4, version = ?5, session = ?6, checksum = ?7,
            attributes = ?8 WHERE name = ?1";
        return connection.prepare_cached(sql)?.execute(values).map(drop);
    }
    let sql = "INSERT INTO names (name, content, size, owner, version, session, checksum, attributes)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(sql)?.execute(values)?;
    words.insert(connection, connection.last_insert_rowid(), name.as_str())?;
    connection.prepare_cached("DELETE FROM tombstones WHERE name = ?1")?.execute([name.as_str()]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_tombstones_are_forgotten_and_the_latest_are_bounded() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        let now = 100 * 24 * 3600 * 1000;
        let insert = |number: u64, unix_ms: u64| {
            let values = params![format!("name {number}"), [0u8; 4], (unix_ms * 1024 + number) as i64, unix_ms as i64];
            connection.execute("INSERT INTO tombstones VALUES (?1, ?2, ?3, ?4, 0)", values).unwrap();
        };
        (0..20).for_each(|number| insert(number, now - TOMBSTONE_LIFETIME_MS - 1));
        (20..60).for_each(|number| insert(number, now - 1000 + number));
        let left = || {
            let sql = "SELECT count(*), min(version) FROM tombstones";
            connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap()
        };
        prune(&connection, now, 1000).unwrap();
        assert_eq!(left().0, 40);
        prune(&connection, now, 10).unwrap();
        assert_eq!(left(), (10, ((now - 1000 + 50) * 1024 + 50) as i64), "the latest stay");
    }
}
