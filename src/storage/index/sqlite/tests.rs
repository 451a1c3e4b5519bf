//! The table in SQLite does what every table has to do, and just what the one in memory does.

use proptest::prelude::*;

use super::*;
use crate::state::index::conformance::{self, Subject};
use crate::state::index::memory::{Content, MemoryTable};

/// A database in memory.
struct Database {
    connection: Connection,
    words: Words,
}

impl Database {
    fn new() -> Self {
        let connection = schema::open_in_memory();
        let words = Words::load(&connection).unwrap();
        Self { connection, words }
    }

    fn all<R>(&self, sql: &str, read: impl FnMut(&rusqlite::Row<'_>) -> Sql<R>) -> Vec<R> {
        let mut statement = self.connection.prepare_cached(sql).unwrap();
        let rows = statement.query_map([], read).unwrap();
        rows.collect::<Sql<_>>().unwrap()
    }

    fn left(&self) -> Vec<(Session, Left)> {
        let departed = |peer: PeerId| away::noted(&self.connection, &peer).unwrap().map(|noted| (peer, noted));
        let departures = self.all("SELECT DISTINCT owner FROM away ORDER BY owner", |row| schema::peer(row, 0));
        let mut left = Vec::new();
        for (peer, noted) in departures.into_iter().filter_map(departed) {
            let all = Noted { through: String::new(), ..noted };
            let names = away::names(&self.connection, &peer, &all, usize::MAX).unwrap();
            left.extend(names.into_iter().map(|name| (all.session, name)));
        }
        left
    }
}

impl Subject for Database {
    type Error = rusqlite::Error;
    type Table<'a> = SqliteTable<'a>;

    fn lend<R, E>(&mut self, work: impl FnOnce(&mut SqliteTable<'_>) -> Result<R, E>) -> Result<R, E> {
        self.connection.execute_batch("SAVEPOINT one").unwrap();
        let result = work(&mut SqliteTable::new(&self.connection, &self.words));
        let end = if result.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" };
        self.connection.execute_batch(end).unwrap();
        result
    }

    fn content(&mut self) -> Content {
        let number = |row: &rusqlite::Row<'_>, column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
        let names = format!("SELECT {}, n.session FROM names AS n ORDER BY n.name", schema::ENTRY);
        let names = self.all(&names, |row| match SqliteTable::row(row) {
            Ok(row) => Ok(Some((row.entry, row.session))),
            Err(error) if schema::is_damage(&error) => Ok(None),
            Err(error) => Err(error),
        });
        let tombstones =
            self.all("SELECT name, owner, version, unix_ms, evicted FROM tombstones ORDER BY name", |row| {
                let name = Name::parse(&row.get::<_, String>(0)?).unwrap();
                Ok((name, schema::peer(row, 1)?, Version(number(row, 2)?), number(row, 3)?, row.get(4)?))
            });
        let peers = self.all("SELECT peer FROM peers ORDER BY peer", |row| schema::peer(row, 0));
        let departures = self.all("SELECT peer FROM departures ORDER BY peer", |row| schema::peer(row, 0));
        let table = SqliteTable::new(&self.connection, &self.words);
        let mut content = Content {
            names: names.into_iter().flatten().collect(),
            tombstones,
            members: peers.into_iter().map(|peer| (peer, table.member(&peer).unwrap().unwrap())).collect(),
            departures: departures.into_iter().map(|peer| (peer, table.departure(&peer).unwrap().unwrap())).collect(),
            left: self.left(),
            last: table.totals().unwrap().last,
        };
        // Peers in the order of their ids, as everywhere else.
        content.members.sort_by_key(|(peer, _)| *peer);
        content.departures.sort_by_key(|(peer, _)| *peer);
        content.left.sort_by_key(|(_, left)| (left.entry.owner, left.entry.name.clone()));
        content
    }

    fn damage(&mut self, name: &Name) {
        let sql = "UPDATE names SET checksum = zeroblob(8) WHERE name = ?1";
        self.connection.execute(sql, [name.as_str()]).unwrap();
    }
}

#[test]
fn the_table_in_sqlite_conforms() {
    conformance::conforms(Database::new);
}

/// Every search finds a name by its words, and no word of a name that is gone stays.
#[test]
fn words_follow_names() {
    let mut database = Database::new();
    let name = Name::parse("some words").unwrap();
    let owner = PeerId::random();
    let content = swarmdex_protocols::ContentId::of(b"x");
    let entry = Entry { name: name.clone(), content, size: 1, owner, version: Version(1), attributes: None };
    let found = |database: &Database| {
        let sql = "SELECT count(*) FROM words WHERE words MATCH 'words'";
        database.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let put = database.lend(|table| table.put(&entry, Session(1), true));
    put.unwrap();
    assert_eq!(found(&database), 1);
    let freed = database.lend(|table| {
        let row = table.take_up(&name)?.unwrap();
        table.free(&row, &owner, Ending { version: Version(2), unix_ms: 1, evicted: false })
    });
    freed.unwrap();
    assert_eq!(found(&database), 0);
}

proptest! {
    #[test]
    fn sqlite_and_memory_agree(steps in conformance::steps()) {
        conformance::agree(Database::new(), MemoryTable::default(), &steps);
    }
}
