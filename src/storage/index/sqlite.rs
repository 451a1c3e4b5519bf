//! The table behind the index in SQLite, inside the transaction that the writer has open.

use rusqlite::{Connection, OptionalExtension, params};
use swarmdex_protocols::index::{Session, ShareDigest, ShareSum};
use swarmdex_protocols::{Entry, Multiaddr, Name, PeerId, Version};

use super::words::Words;
use super::{away, schema};
use crate::state::index::again::Left;
use crate::state::index::{Ending, IndexTable, MemberRow, Noted, Row, Totals};
use crate::storage::sqlite::Sql;

/// The table, for as long as a transaction is open.
#[derive(Debug)]
pub(super) struct SqliteTable<'a> {
    connection: &'a Connection,
    words: &'a Words,
    /// Whether a damaged row was removed: others may be damaged, too.
    pub(super) damage: bool,
    /// Whether names may be remembered now that no peer can have back.
    pub(super) litter: bool,
}

impl<'a> SqliteTable<'a> {
    pub(super) fn new(connection: &'a Connection, words: &'a Words) -> Self {
        Self { connection, words, damage: false, litter: false }
    }

    fn row(row: &rusqlite::Row<'_>) -> Sql<Row<i64>> {
        let (key, entry) = schema::entry(row)?;
        Ok(Row { key, entry, session: session(row, schema::ENTRY_COLUMNS)? })
    }

    /// What `sql` finds as entries. Rows that are damaged are left out.
    fn entries(&self, sql: &str, values: impl rusqlite::Params, mut take: impl FnMut(Entry)) -> Sql<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()? {
            match schema::entry(row) {
                Ok((_, entry)) => take(entry),
                Err(error) if schema::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn session(row: &rusqlite::Row<'_>, column: usize) -> Sql<Session> {
    Ok(Session(row.get::<_, i64>(column)?.cast_unsigned()))
}

/// A count as SQLite takes it.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl IndexTable for SqliteTable<'_> {
    type Error = rusqlite::Error;
    type Key = i64;

    fn entry(&self, name: &Name) -> Sql<Option<Entry>> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let mut statement = self.connection.prepare_cached(&sql)?;
        match statement.query_row([name.as_str()], schema::entry).optional() {
            Ok(found) => Ok(found.map(|(_, entry)| entry)),
            Err(error) if schema::is_damage(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn take_up(&mut self, name: &Name) -> Sql<Option<Row<i64>>> {
        let sql = format!("SELECT {}, n.session FROM names AS n WHERE n.name = ?1", schema::ENTRY);
        let found = self.connection.prepare_cached(&sql)?.query_row([name.as_str()], Self::row).optional();
        match found {
            Err(error) if schema::is_damage(&error) => {
                tracing::warn!(%name, %error, "a damaged row of the index is removed");
                schema::remove_row(self.connection, self.words, name)?;
                self.damage = true;
                Ok(None)
            }
            found => found,
        }
    }

    fn put(&mut self, entry: &Entry, session: Session, new: bool) -> Sql<()> {
        schema::put(self.connection, self.words, entry, session, new)
    }

    fn free(&mut self, row: &Row<i64>, owner: &PeerId, ending: Ending) -> Sql<()> {
        self.connection.prepare_cached("DELETE FROM names WHERE id = ?1")?.execute([row.key])?;
        self.words.remove(self.connection, row.key)?;
        let sql = "INSERT OR REPLACE INTO tombstones (name, owner, version, unix_ms, evicted)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        let [at, version] = [ending.unix_ms, ending.version.0].map(u64::cast_signed);
        let values = params![row.entry.name.as_str(), owner.to_bytes(), version, at, ending.evicted];
        self.connection.prepare_cached(sql)?.execute(values).map(drop)
    }

    fn confirm(&mut self, name: &Name, session: Session) -> Sql<bool> {
        let sql = "UPDATE names SET session = ?2 WHERE name = ?1 AND session <> ?2";
        let values = params![name.as_str(), session.0.cast_signed()];
        Ok(self.connection.prepare_cached(sql)?.execute(values)? > 0)
    }

    fn ended(&self, name: &Name) -> Sql<Option<Version>> {
        let mut statement = self.connection.prepare_cached("SELECT version FROM tombstones WHERE name = ?1")?;
        let found = statement.query_row([name.as_str()], |row| row.get::<_, i64>(0)).optional()?;
        Ok(found.map(|version| Version(version.cast_unsigned())))
    }

    fn damaged(&self, name: &Name) -> Sql<Option<PeerId>> {
        let Some(owner) = schema::owner_of_damaged(self.connection, name)? else { return Ok(None) };
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM peers WHERE peer = ?1")?;
        Ok(statement.exists([owner.to_bytes()])?.then_some(owner))
    }

    fn names_of(&self, owner: &PeerId, before: Option<Session>, most: Option<u64>) -> Sql<Vec<Name>> {
        let sql = "SELECT name FROM names WHERE owner = ?1 AND session < ?2 ORDER BY name LIMIT ?3";
        let below = before.map_or(i64::MAX, |session| session.0.cast_signed());
        let most = most.map_or(-1, u64::cast_signed);
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![owner.to_bytes(), below, most])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            // What is no name was not granted by this program.
            names.extend(Name::parse(row.get_ref(0)?.as_str()?));
        }
        Ok(names)
    }

    fn entries_of(&self, owner: &PeerId, after: &str, before: Session, most: usize) -> Sql<Vec<Entry>> {
        let sql = format!(
            "SELECT {} FROM names AS n WHERE n.owner = ?1 AND n.name > ?2 AND n.session < ?3 ORDER BY n.name LIMIT ?4",
            schema::ENTRY
        );
        let values = params![owner.to_bytes(), after, before.0.cast_signed(), number(most)];
        let mut entries = Vec::new();
        self.entries(&sql, values, |entry| entries.push(entry))?;
        Ok(entries)
    }

    fn count(&self, owner: &PeerId) -> Sql<ShareSum> {
        let sql = format!("SELECT {} FROM names AS n WHERE n.owner = ?1", schema::ENTRY);
        let mut sum = ShareSum::default();
        self.entries(&sql, [owner.to_bytes()], |entry| sum.add(&entry.digest()))?;
        Ok(sum)
    }

    fn has_bare(&self, owner: &PeerId, left: bool) -> Sql<bool> {
        schema::has_bare(self.connection, owner, left)
    }

    fn member(&self, peer: &PeerId) -> Sql<Option<MemberRow>> {
        let mut statement =
            self.connection.prepare_cached("SELECT session, digest, names FROM peers WHERE peer = ?1")?;
        let member = |row: &rusqlite::Row<'_>| {
            let (digest, entries) = (ShareDigest::from_bytes(row.get(1)?), row.get::<_, i64>(2)?.cast_unsigned());
            Ok(MemberRow { session: session(row, 0)?, held: ShareSum { digest, entries } })
        };
        statement.query_row([peer.to_bytes()], member).optional()
    }

    fn put_member(&mut self, peer: &PeerId, row: &MemberRow, addresses: &[Multiaddr]) -> Sql<()> {
        let values = params![
            peer.to_bytes(),
            row.session.0.cast_signed(),
            schema::join_addresses(addresses),
            &row.held.digest.as_bytes()[..],
            row.held.entries.cast_signed(),
        ];
        let sql = "INSERT INTO peers (peer, session, addresses, digest, names) VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT (peer) DO UPDATE SET session = ?2, addresses = ?3";
        self.connection.prepare_cached(sql)?.execute(values).map(drop)
    }

    fn set_held(&mut self, peer: &PeerId, held: &ShareSum) -> Sql<()> {
        let values = params![peer.to_bytes(), &held.digest.as_bytes()[..], held.entries.cast_signed()];
        let sql = "UPDATE peers SET digest = ?2, names = ?3 WHERE peer = ?1";
        self.connection.prepare_cached(sql)?.execute(values).map(drop)
    }

    fn remove_member(&mut self, peer: &PeerId) -> Sql<()> {
        let mut statement = self.connection.prepare_cached("DELETE FROM peers WHERE peer = ?1")?;
        statement.execute([peer.to_bytes()]).map(drop)
    }

    fn departure(&self, peer: &PeerId) -> Sql<Option<Noted>> {
        away::noted(self.connection, peer)
    }

    fn put_departure(&mut self, peer: &PeerId, noted: &Noted, unix_ms: u64) -> Sql<()> {
        self.litter |= away::depart(self.connection, peer, noted.session, &noted.departure.sum, unix_ms)?;
        Ok(())
    }

    fn set_departure(&mut self, peer: &PeerId, noted: &Noted) -> Sql<()> {
        away::note(self.connection, peer, noted)
    }

    fn forget_departure(&mut self, peer: &PeerId) -> Sql<()> {
        self.litter |= away::forget(self.connection, peer)?;
        Ok(())
    }

    fn remember(&mut self, session: Session, left: &Left) -> Sql<()> {
        away::remember(self.connection, session, left)
    }

    fn left(&self, peer: &PeerId, noted: &Noted, most: usize) -> Sql<Vec<Left>> {
        away::names(self.connection, peer, noted, most)
    }

    fn forget_left(&mut self, peer: &PeerId, noted: &Noted) -> Sql<()> {
        away::forget_names(self.connection, peer, noted)
    }

    fn totals(&self) -> Sql<Totals> {
        let count = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        Ok(Totals {
            last: Version(count("SELECT value FROM meta WHERE key = 'last_version'")?),
            names: count("SELECT count(*) FROM names")?,
            peers: count("SELECT count(*) FROM peers")?,
        })
    }

    fn set_last_version(&mut self, version: Version) -> Sql<()> {
        let mut statement = self.connection.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'last_version'")?;
        statement.execute([version.0.cast_signed()]).map(drop)
    }
}

#[cfg(test)]
mod tests;
