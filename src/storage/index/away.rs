//! What peers left with: their names are free, and are remembered in case that they come back with the same share.
//!
//! Builds that do not know these tables leave them alone. So no row is believed by itself: a name is what it was only as
//! long as its tombstone is the one that is noted here.

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::index::{Session, ShareDigest, ShareSum};
use swarmdex_protocols::{ContentId, Entry, Name, PeerId, Version};

use super::schema;
use crate::state::index::Noted;
use crate::state::index::again::{Departure, Left};
use crate::storage::sqlite::Sql;

/// Names of peers that are away, and what each peer left with; `session` is that which ended so.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS departures (
        peer BLOB PRIMARY KEY,
        session INTEGER NOT NULL,
        digest BLOB NOT NULL,
        names INTEGER NOT NULL,
        unix_ms INTEGER NOT NULL,
        version INTEGER,
        through TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS away (
        owner BLOB NOT NULL,
        name TEXT NOT NULL,
        content BLOB NOT NULL,
        size INTEGER NOT NULL,
        version INTEGER NOT NULL,
        checksum BLOB NOT NULL,
        ended INTEGER NOT NULL,
        session INTEGER NOT NULL,
        attributes BLOB,
        PRIMARY KEY (owner, name)
    ) STRICT, WITHOUT ROWID;
";
/// How long a peer may be away, in milliseconds (30 days): as long as tombstones are kept.
const AWAY_MS: u64 = 30 * 24 * 3600 * 1000;
/// Rows that are forgotten at a time.
const SLICE: usize = 20_000;

/// Notes what a peer leaves with, unless its leaving goes on. Whether something was noted before that is of no use any more.
pub(super) fn depart(
    connection: &Connection,
    peer: &PeerId,
    session: Session,
    held: &ShareSum,
    unix_ms: u64,
) -> Sql<bool> {
    let before = noted(connection, peer)?;
    if before.as_ref().is_some_and(|noted| noted.session == session) {
        return Ok(false);
    }
    let sql = "INSERT OR REPLACE INTO departures (peer, session, digest, names, unix_ms, version, through)
        VALUES (?1, ?2, ?3, ?4, ?5, NULL, '')";
    let [number, names, at] = [session.0, held.entries, unix_ms].map(u64::cast_signed);
    let values = params![peer.to_bytes(), number, &held.digest.as_bytes()[..], names, at];
    connection.prepare_cached(sql)?.execute(values)?;
    Ok(before.is_some())
}

/// What is noted of a peer.
pub(super) fn noted(connection: &Connection, peer: &PeerId) -> Sql<Option<Noted>> {
    let sql = "SELECT session, digest, names, version, through FROM departures WHERE peer = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let sum =
            ShareSum { digest: ShareDigest::from_bytes(row.get(1)?), entries: row.get::<_, i64>(2)?.cast_unsigned() };
        let version = row.get::<_, Option<i64>>(3)?.map(|version| Version(version.cast_unsigned()));
        let session = Session(row.get::<_, i64>(0)?.cast_unsigned());
        Ok(Noted { session, departure: Departure { sum, version }, through: row.get(4)? })
    };
    match connection.prepare_cached(sql)?.query_row([peer.to_bytes()], read).optional() {
        // Changed from outside: the peer reports as ever.
        Err(error) if schema::is_damage(&error) => Ok(None),
        noted => noted,
    }
}

/// Notes how far a peer that is back has come.
pub(super) fn note(connection: &Connection, peer: &PeerId, noted: &Noted) -> Sql<()> {
    let Departure { sum, version } = noted.departure;
    let sql = "UPDATE departures SET digest = ?2, names = ?3, version = ?4, through = ?5 WHERE peer = ?1";
    let values = params![
        peer.to_bytes(),
        &sum.digest.as_bytes()[..],
        sum.entries.cast_signed(),
        version.map(|version| version.0.cast_signed()),
        noted.through,
    ];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// Forgets what a peer left with; its names go by and by. Whether there was anything.
pub(super) fn forget(connection: &Connection, peer: &PeerId) -> Sql<bool> {
    let forgotten = connection.prepare_cached("DELETE FROM departures WHERE peer = ?1")?.execute([peer.to_bytes()])?;
    Ok(forgotten > 0)
}

/// Remembers a name whose owner left with it.
pub(super) fn remember(connection: &Connection, session: Session, left: &Left) -> Sql<()> {
    let Left { entry, ended } = left;
    let sql = "INSERT OR REPLACE INTO away (owner, name, content, size, version, checksum, ended, session, attributes)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        entry.owner.to_bytes(),
        entry.name.as_str(),
        &entry.content.as_bytes()[..],
        entry.size.cast_signed(),
        entry.version.0.cast_signed(),
        &schema::checksum(entry)[..],
        ended.0.cast_signed(),
        session.0.cast_signed(),
        schema::attributes_column(entry),
    ];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// The next names that a peer left with, in order. Damaged rows are left out: they are missing in the sum, then.
pub(super) fn names(connection: &Connection, peer: &PeerId, noted: &Noted, most: usize) -> Sql<Vec<Left>> {
    let sql = "SELECT name, content, size, version, checksum, ended, attributes FROM away
        WHERE owner = ?1 AND name > ?2 AND session = ?3 ORDER BY name LIMIT ?4";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![
        peer.to_bytes(),
        noted.through,
        noted.session.0.cast_signed(),
        i64::try_from(most).unwrap_or(i64::MAX)
    ])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        match left(row, *peer) {
            Ok(left) => names.push(left),
            Err(error) if schema::is_damage(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

fn left(row: &rusqlite::Row<'_>, owner: PeerId) -> Sql<Left> {
    let mut entry = Entry {
        name: Name::parse(row.get_ref(0)?.as_str()?).map_err(|error| schema::damaged(0, error))?,
        content: ContentId::from_bytes(row.get(1)?),
        size: row.get::<_, i64>(2)?.cast_unsigned(),
        owner,
        version: Version(row.get::<_, i64>(3)?.cast_unsigned()),
        attributes: None,
    };
    if row.get::<_, [u8; 8]>(4)? != schema::checksum(&entry) {
        return Err(schema::damaged(4, std::io::Error::other("the row does not fit its checksum")));
    }
    entry.attributes = schema::attributes(row, 6, &entry)?;
    Ok(Left { entry, ended: Version(row.get::<_, i64>(5)?.cast_unsigned()) })
}

/// Forgets names of a peer up to one of them: they were dealt with.
pub(super) fn forget_names(connection: &Connection, peer: &PeerId, noted: &Noted) -> Sql<()> {
    let sql = "DELETE FROM away WHERE owner = ?1 AND name <= ?2 AND session = ?3";
    let values = params![peer.to_bytes(), noted.through, noted.session.0.cast_signed()];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// Forgets peers that left too long ago, and those that left first where there are more than `most` names. Whether there
/// were any.
pub(super) fn forget_departures(connection: &Connection, unix_ms: u64, most: u32) -> Sql<bool> {
    let before = unix_ms.saturating_sub(AWAY_MS).cast_signed();
    let old = connection.prepare_cached("DELETE FROM departures WHERE unix_ms < ?1")?.execute([before])?;
    let sql = "DELETE FROM departures WHERE peer IN (SELECT peer FROM
        (SELECT peer, sum(names) OVER (ORDER BY unix_ms DESC, peer) AS later FROM departures) WHERE later > ?1)";
    let many = connection.prepare_cached(sql)?.execute([most])?;
    Ok(old + many > 0)
}

/// Deletes some names that no peer can have back. Whether there may be more.
pub(super) fn clear(connection: &Connection) -> Sql<bool> {
    let sql = "DELETE FROM away WHERE (owner, name) IN (SELECT owner, name FROM away AS a WHERE NOT EXISTS
        (SELECT 1 FROM departures AS d WHERE d.peer = a.owner AND d.session = a.session) LIMIT ?1)";
    let cleared = connection.prepare_cached(sql)?.execute([i64::try_from(SLICE).unwrap_or(i64::MAX)])?;
    Ok(cleared == SLICE)
}
