use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use swarmdex_protocols::index::ShareDigest;
use swarmdex_protocols::words::first;
use swarmdex_protocols::{PeerId, Rule};
use tempfile::TempDir;

use super::super::IndexStore;
use super::super::tests::{announce, join, offer, open, search};
use super::*;

/// Some that the second rule finds in more ways than the first.
const NAMES: [&str; 5] = ["résumé.txt", "Straße.txt", "東京の地図.pdf", "IMG20240131.jpg", "plain words.txt"];
const FOUND_ANEW: [&str; 4] = ["resume", "strasse", "地図", "20240131"];

/// The words of a name as the builds before have them in their index.
fn first_words(name: &str) -> String {
    first::words(name).collect::<Vec<_>>().join(" ")
}

/// Makes of an index what the build before makes of the same names.
fn age(path: &Path) {
    let connection = Connection::open(path).unwrap();
    let earlier = "DROP TABLE words; DELETE FROM meta WHERE key = 'words_until';
        CREATE VIRTUAL TABLE words USING fts5 (
            text, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0', prefix = '2 3'
        );";
    connection.execute_batch(earlier).unwrap();
    for (id, name) in rows(&connection, "") {
        let sql = "INSERT INTO words (rowid, text) VALUES (?1, ?2)";
        connection.execute(sql, params![id, first_words(&name)]).unwrap();
    }
}

fn rows(connection: &Connection, condition: &str) -> Vec<(i64, String)> {
    let mut statement = connection.prepare(&format!("SELECT id, name FROM names {condition} ORDER BY id")).unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Sql<_>>().unwrap()
}

/// An index with these names and `more` others, made by this build; closed.
fn made(folder: &Path, more: usize) {
    let store = open(folder);
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, NAMES.iter().map(|name| offer(name, "x")).collect(), false);
    for begin in (0..more).step_by(500) {
        let names = (begin..more.min(begin + 500)).map(|number| offer(&format!("Ünïx{number:05}"), "x"));
        announce(&store, peer, names.collect(), false);
    }
    store.close();
}

/// Names that a reader finds in a database as it is.
fn found(connection: &Connection, query: &str) -> Vec<String> {
    let pattern = Pattern::parse(query).unwrap();
    let (sql, expressions) = question(&pattern, are_two(connection).unwrap());
    let mut statement = connection.prepare(&sql).unwrap();
    let values = [&0 as &dyn rusqlite::ToSql, &100_000].into_iter();
    let words = expressions.iter().map(|words| words as &dyn rusqlite::ToSql);
    let mut rows = statement.query(&*values.chain(words).collect::<Vec<_>>()).unwrap();
    let mut names = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        if let Some(name) = row.get::<_, Option<String>>(1).unwrap()
            && pattern.matches(&Name::parse(&name).unwrap())
        {
            names.push(name);
        }
    }
    names
}

fn until_found(store: &IndexStore, query: &str, count: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while search(store, query, 500).len() != count {
        assert!(Instant::now() < end, "{query} is not found");
        std::thread::yield_now();
    }
}

#[test]
fn an_index_of_the_build_before_is_brought_up_to_date_while_everything_is_found() {
    const MORE: usize = 2500;
    let folder = TempDir::new().unwrap();
    made(folder.path(), MORE);
    let path = folder.path().join("index.db");
    age(&path);
    let connection = Connection::open(&path).unwrap();
    assert_eq!(found(&connection, "resume"), [""; 0], "that is how it was");
    let mut words = Words::load(&connection).unwrap();
    // Opening looks at no name.
    assert!(words.is_behind() && words.until == 0);
    // What the first rule finds is found at every moment, what the second finds from its slice on.
    let mut slices = 0;
    loop {
        for (query, count) in
            [("plain", 1), ("résumé", 1), ("東京", 1), ("img20240131", 1), ("ünïx", MORE), ("", MORE + 5)]
        {
            assert_eq!(found(&connection, query).len(), count, "{query} after {slices} slices");
        }
        assert_eq!(found(&connection, "resume").len(), usize::from(slices > 0));
        let late = format!("unix {:05}", MORE - 1);
        assert_eq!(found(&connection, &late).len(), usize::from(!words.is_behind()));
        if !words.is_behind() {
            break;
        }
        words.catch_up(&connection).unwrap();
        slices += 1;
        // As after a crash.
        words = Words::load(&connection).unwrap();
    }
    assert_eq!(slices, (MORE + NAMES.len()).div_ceil(SLICE as usize));
    assert!(!are_two(&connection).unwrap());
    drop(connection);
    let store = open(folder.path());
    for query in FOUND_ANEW {
        assert_eq!(search(&store, query, 10).len(), 1, "{query}");
    }
    store.close();
}

#[test]
fn names_that_come_and_go_meanwhile_are_found_and_gone() {
    let folder = TempDir::new().unwrap();
    made(folder.path(), 1500);
    let path = folder.path().join("index.db");
    age(&path);
    let connection = Connection::open(&path).unwrap();
    let mut words = Words::load(&connection).unwrap();
    words.catch_up(&connection).unwrap();
    assert!(words.is_behind());
    let [(first, _), (second, _)] = &rows(&connection, "WHERE name IN ('résumé.txt', 'Ünïx01499')")[..] else {
        panic!()
    };
    for id in [*first, *second] {
        words.remove(&connection, id).unwrap();
        connection.execute("DELETE FROM names WHERE id = ?1", [id]).unwrap();
    }
    let copy = "INSERT INTO names (name, content, size, owner, version, session, checksum)
        SELECT ?1, content, size, owner, version, session, checksum FROM names LIMIT 1";
    connection.execute(copy, ["Ünïx neu"]).unwrap();
    words.insert(&connection, connection.last_insert_rowid(), "Ünïx neu").unwrap();
    words.note(&connection).unwrap();
    for _ in 0..2 {
        assert_eq!(found(&connection, "unix neu").len(), 1);
        assert_eq!(found(&connection, "resume").len() + found(&connection, "Ünïx01499").len(), 0);
        while words.is_behind() {
            words.catch_up(&connection).unwrap();
        }
    }
}

/// An earlier build that opens the database finds its names in it, and what it adds gets its words at the next start.
#[test]
fn an_earlier_build_may_use_the_database_in_between() {
    let folder = TempDir::new().unwrap();
    made(folder.path(), 0);
    let path = folder.path().join("index.db");
    let connection = Connection::open(&path).unwrap();
    let earlier =
        "SELECT n.name FROM words AS w JOIN names AS n ON n.id = w.rowid WHERE words MATCH '\"plain\" AND \"wor\"*'";
    assert_eq!(connection.query_row(earlier, [], |row| row.get::<_, String>(0)), Ok("plain words.txt".to_owned()));
    // The last two names were added by it.
    connection.execute_batch("UPDATE meta SET value = value - 2 WHERE key = 'words_until'").unwrap();
    for (id, name) in &rows(&connection, "")[3..] {
        connection.execute("DELETE FROM words WHERE rowid = ?1", [id]).unwrap();
        let sql = "INSERT INTO words (rowid, text) VALUES (?1, ?2)";
        connection.execute(sql, params![id, first_words(name)]).unwrap();
    }
    assert_eq!(found(&connection, "20240131").len(), 0);
    drop(connection);
    let store = open(folder.path());
    until_found(&store, "20240131", 1);
    store.close();
    let connection = Connection::open(&path).unwrap();
    assert!(!Words::load(&connection).unwrap().is_behind(), "once");
}

#[test]
fn an_index_narrows_by_few_words_and_a_question_of_an_earlier_build_too() {
    let folder = TempDir::new().unwrap();
    made(folder.path(), 0);
    let connection = Connection::open(folder.path().join("index.db")).unwrap();
    let long =
        (0..100).map(|number| format!("{}{number}-", if number % 2 == 0 { "a" } else { "b" })).collect::<String>();
    let (_, expressions) = question(&Pattern::parse(&long).unwrap(), false);
    assert_eq!(expressions[0].split(" AND ").count(), MAX_NARROWING);
    assert_eq!(found(&connection, &long).len(), 0);
    let pattern = Pattern::parse_by("img20240131", Rule::First).unwrap();
    let (_, expressions) = question(&pattern, false);
    assert_eq!(expressions, ["\"20240131\"* AND \"img\""]);
}

/// What it costs. Run alone: `--run-ignored all --no-capture a_million`.
#[test]
#[ignore = "measures time"]
fn a_million_names_are_brought_up_to_date_and_searched() {
    let names: u32 = std::env::var("NAMES").map_or(1_000_000, |names| names.parse().unwrap());
    let folder = TempDir::new().unwrap();
    made(folder.path(), 0);
    let path = folder.path().join("index.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA synchronous = FULL; BEGIN").unwrap();
    for number in 0..names {
        let copy = "INSERT INTO names (name, content, size, owner, version, session, checksum)
            SELECT ?1, content, size, owner, version, session, checksum FROM names LIMIT 1";
        let name = match number % 4 {
            0 => format!("photos/20{:02}/IMG{number:08}.jpg", number % 30),
            1 => format!("Projekte/Übersicht {number}/Straße {}.pdf", number % 1000),
            2 => format!("資料/東京の地図 {number}.png"),
            _ => format!("backup/server-{}/daily report {number}.tar.gz", number % 50),
        };
        connection.prepare_cached(copy).unwrap().execute([name]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    age(&path);
    let size = || std::fs::metadata(&path).unwrap().len() >> 20;
    let (before, begin) = (size(), Instant::now());
    let mut words = Words::load(&connection).unwrap();
    println!("opened after {:?}, {before} MiB", begin.elapsed());
    let (begin, mut longest) = (Instant::now(), Duration::ZERO);
    while words.is_behind() {
        let slice = Instant::now();
        words.catch_up(&connection).unwrap();
        longest = longest.max(slice.elapsed());
    }
    println!("up to date after {:?}, {longest:?} for the longest slice, {} MiB", begin.elapsed(), size());
    for query in
        ["resume", "img00000004", "strasse 7", "地図", "図", "東京の地図", "uber*", "*4.png", "daily report 77"]
    {
        let pattern = Pattern::parse(query).unwrap();
        let begin = Instant::now();
        let (sql, expressions) = question(&pattern, false);
        let mut statement = connection.prepare(&sql).unwrap();
        let values = [&0 as &dyn rusqlite::ToSql, &2000].into_iter();
        let words = expressions.iter().map(|words| words as &dyn rusqlite::ToSql);
        let mut rows = statement.query(&*values.chain(words).collect::<Vec<_>>()).unwrap();
        let mut matches = 0;
        while let Some(row) = rows.next().unwrap() {
            matches += usize::from(pattern.matches(&Name::parse(&row.get::<_, String>(1).unwrap()).unwrap()));
        }
        println!("{query}: a page after {:?}, {matches} matches", begin.elapsed());
    }
}
