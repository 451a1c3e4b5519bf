//! Rows that somebody else changed, and comparisons over many rows.

use std::time::{Duration, Instant};

use swarmdex_protocols::ContentId;
use swarmdex_protocols::index::{Compared, Range};
use tempfile::TempDir;

use super::*;

fn options() -> IndexOptions {
    let master = Keypair::ed25519_from_bytes([7; 32]).unwrap();
    IndexOptions::new(
        Network::default(),
        master,
        &LimitsConfig { names_per_peer: 1_000_000, ..LimitsConfig::default() },
    )
}

fn open(folder: &TempDir) -> (IndexStore, PathBuf) {
    let path = folder.path().join("index.db");
    (IndexStore::open(&path, options()).unwrap().0, path)
}

fn write(store: &IndexStore, op: WriteOp) -> Result<WriteOutcome, Refusal> {
    store.try_write(op).unwrap().blocking_recv().unwrap()
}

fn join(store: &IndexStore, peer: PeerId) -> (Holding, bool) {
    let (addresses, digest, seen) = (Vec::new(), ShareDigest::empty(), Version::default());
    match write(store, WriteOp::Join { peer, addresses, digest, entries: 0, seen, again: false }).unwrap() {
        WriteOutcome::Joined { holding, unchanged, .. } => (holding, unchanged),
        other => panic!("{other:?}"),
    }
}

fn announce(store: &IndexStore, peer: PeerId, names: &[String]) -> (Vec<Verdict>, Holding) {
    let offers = names.iter().map(|name| Offer::new(name.clone(), ContentId::of(name.as_bytes()), 1)).collect();
    match write(
        store,
        WriteOp::Announce { peer, offers, neighbours: 0, last: false, total: None, mirror: BTreeMap::new() },
    )
    .unwrap()
    {
        WriteOutcome::Announced { verdicts, holding, .. } => (verdicts, holding),
        other => panic!("{other:?}"),
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("file {number:06}")).collect()
}

fn sum(names: &[String], verdicts: &[Verdict]) -> ShareSum {
    let mut sum = ShareSum::default();
    for (name, verdict) in names.iter().zip(verdicts) {
        let Verdict::Accepted { version, .. } = verdict else { panic!("{verdict:?}") };
        sum.add(&ShareDigest::of(name, &ContentId::of(name.as_bytes()), 1, *version));
    }
    sum
}

/// What is corrected, once it is.
fn corrected(store: &IndexStore, peer: &PeerId) -> ShareSum {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(holding) = store.take_corrected().get(peer) {
            return holding.sum;
        }
        assert!(Instant::now() < end, "nothing is corrected");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Divides to the end; also how many steps that took.
fn compare(store: &IndexStore, owner: PeerId, range: Range) -> (Compared, usize) {
    let mut step = CompareStep::new(owner, range);
    for steps in 1.. {
        let ReadOutcome::Compared(next) =
            store.try_read(ReadOp::Compare(step)).unwrap().blocking_recv().unwrap().unwrap()
        else {
            panic!()
        };
        match next.finish() {
            Ok(compared) => return (compared, steps),
            Err(more) => step = more,
        }
    }
    unreachable!()
}

fn range(from: &str, to: Option<&str>, held: ShareSum) -> Range {
    Range { from: from.to_owned(), to: to.map(str::to_owned), held }
}

#[test]
fn what_the_index_holds_is_counted_with_every_change() {
    let folder = TempDir::new().unwrap();
    let (store, _) = open(&folder);
    let peer = PeerId::random();
    assert_eq!(join(&store, peer).0.sum, ShareSum::default());
    let all = names(7);
    let (verdicts, holding) = announce(&store, peer, &all);
    assert_eq!(holding.sum, sum(&all, &verdicts));
    let WriteOutcome::Revoked { holding: later, .. } =
        write(&store, WriteOp::Revoke { peer, names: all[..3].to_vec() }).unwrap()
    else {
        panic!()
    };
    assert_eq!(later.sum, sum(&all[3..], &verdicts[3..]));
    assert!(later.at > holding.at);
    assert_eq!(join(&store, peer).0.sum, later.sum, "and kept");
}

#[test]
fn rows_that_another_program_changes_are_counted_anew() {
    let folder = TempDir::new().unwrap();
    let (store, path) = open(&folder);
    let (peer, other) = (PeerId::random(), PeerId::random());
    join(&store, peer);
    join(&store, other);
    let all = names(9);
    let (verdicts, _) = announce(&store, peer, &all);
    announce(&store, other, &["theirs".to_owned()]);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("DELETE FROM names WHERE name = ?1", [&all[0]]).unwrap();
    assert_eq!(corrected(&store, &peer), sum(&all[1..], &verdicts[1..]));
    assert_eq!(store.counts(), (9, 2));
    // A row that does not fit its checksum does not count.
    connection.execute("UPDATE names SET size = 2 WHERE name = ?1", [&all[1]]).unwrap();
    assert_eq!(corrected(&store, &peer), sum(&all[2..], &verdicts[2..]));
    let (compared, _) = compare(&store, peer, range("", None, ShareSum::default()));
    let Compared::Names(marks) = compared else { panic!("{compared:?}") };
    assert_eq!(marks.into_iter().map(|mark| mark.name).collect::<Vec<_>>(), all[2..]);
    // Nobody else gets its name; its owner does, and all is as it was.
    assert!(
        matches!(&announce(&store, other, &all[1..2]).0[0], Verdict::Refused(refusal) if refusal.code == RefusalCode::Storage)
    );
    let (again, _) = announce(&store, peer, &all[..2]);
    let WriteOutcome::Revoked { holding, .. } = write(&store, WriteOp::Revoke { peer, names: Vec::new() }).unwrap()
    else {
        panic!()
    };
    let mut whole = sum(&all[..2], &again);
    whole.join(&sum(&all[2..], &verdicts[2..]));
    assert_eq!(holding.sum, whole);
    assert!(!store.take_corrected().contains_key(&other), "nobody else is disturbed");
}

#[test]
fn a_damaged_row_is_left_out_of_searches_and_goes_with_its_owner() {
    let folder = TempDir::new().unwrap();
    let (store, path) = open(&folder);
    let peer = PeerId::random();
    join(&store, peer);
    let all = names(5);
    announce(&store, peer, &all);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("UPDATE names SET content = zeroblob(5) WHERE name = ?1", [&all[2]]).unwrap();
    let search = ReadOp::Search { pattern: Pattern::parse("file").unwrap(), cursor: None, limit: 100 };
    let ReadOutcome::Page(page) = store.try_read(search).unwrap().blocking_recv().unwrap().unwrap() else { panic!() };
    assert_eq!(page.entries.len(), 4);
    let lookup = ReadOp::Lookup { name: Name::parse(&all[2]).unwrap() };
    assert!(store.try_read(lookup).unwrap().blocking_recv().unwrap().is_err(), "the DHT is asked instead");
    let names = all.iter().map(|name| (Name::parse(name).unwrap(), None)).collect();
    let unknown = ReadOp::Unknown { names, ended: false };
    let ReadOutcome::Unknown(unknown) = store.try_read(unknown).unwrap().blocking_recv().unwrap().unwrap() else {
        panic!()
    };
    assert_eq!(unknown.len(), 1);
    write(&store, WriteOp::Evict { peer }).unwrap();
    let left: i64 = connection.query_row("SELECT count(*) FROM names", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn names_whose_owner_has_no_row_are_its_own_again_when_it_joins() {
    let folder = TempDir::new().unwrap();
    let (store, path) = open(&folder);
    let peer = PeerId::random();
    join(&store, peer);
    let all = names(4);
    let (verdicts, _) = announce(&store, peer, &all);
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM peers", []).unwrap();
    let (holding, unchanged) = join(&store, peer);
    assert_eq!((holding.sum, unchanged), (sum(&all, &verdicts), false));
}

#[test]
fn a_range_of_many_names_is_divided_in_steps() {
    const NAMES: usize = 25_000;
    let folder = TempDir::new().unwrap();
    let (store, _) = open(&folder);
    let (peer, other) = (PeerId::random(), PeerId::random());
    join(&store, peer);
    join(&store, other);
    let all = names(NAMES);
    let mut held = ShareSum::default();
    for some in all.chunks(1000) {
        let (verdicts, _) = announce(&store, peer, some);
        held.join(&sum(some, &verdicts));
    }
    announce(&store, other, &["file 000000 of another".to_owned()]);
    let (compared, steps) = compare(&store, peer, range("", None, held));
    assert_eq!((compared, steps), (Compared::Same, 3));
    let (compared, _) = compare(&store, peer, range("", None, ShareSum::default()));
    let Compared::Split(parts) = compared else { panic!() };
    assert_eq!(parts.iter().map(|part| part.held.entries).sum::<u64>(), NAMES as u64);
    // Each part is what its range holds.
    let ends = parts.iter().skip(1).map(|part| Some(part.from.clone())).chain([None]);
    for (part, to) in parts.iter().zip(ends) {
        let (compared, _) = compare(&store, peer, range(&part.from, to.as_deref(), part.held));
        assert_eq!(compared, Compared::Same);
    }
    let (compared, _) = compare(&store, peer, range("file 000010", Some("file 000013"), ShareSum::default()));
    let Compared::Names(marks) = compared else { panic!() };
    assert_eq!(marks.len(), 3);
}

/// An index of the build before, without an order of names by owner.
#[test]
fn an_index_of_an_earlier_build_is_opened_with_everything_in_it() {
    let folder = TempDir::new().unwrap();
    let (store, path) = open(&folder);
    let peer = PeerId::random();
    join(&store, peer);
    let all = names(3);
    let (verdicts, _) = announce(&store, peer, &all);
    store.close();
    let before = "DROP INDEX names_in_order; CREATE INDEX names_by_owner ON names (owner);";
    rusqlite::Connection::open(&path).unwrap().execute_batch(before).unwrap();
    let (store, known) = IndexStore::open(&path, options()).unwrap();
    assert_eq!(known[0].held, sum(&all, &verdicts));
    assert_eq!(compare(&store, peer, range("", None, known[0].held)).0, Compared::Same);
}
