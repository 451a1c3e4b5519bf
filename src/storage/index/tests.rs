mod pages;

use std::collections::BTreeMap;
use std::fs;

use swarmdex_protocols::ContentId;
use tempfile::TempDir;

use super::*;

const HOUR_MS: u64 = 3_600_000;

pub(super) fn options() -> IndexOptions {
    // The key is the same in every run of a test, as it is for a master that is restarted.
    let master = Keypair::ed25519_from_bytes([7; 32]).unwrap();
    IndexOptions::new(Network::default(), master, &LimitsConfig::default())
}

pub(super) fn open(folder: &Path) -> IndexStore {
    IndexStore::open(&folder.join("index.db"), options()).unwrap().0
}

pub(super) fn write(store: &IndexStore, op: WriteOp) -> Result<WriteOutcome, Refusal> {
    store.try_write(op).unwrap().blocking_recv().unwrap()
}

pub(super) fn join(store: &IndexStore, peer: PeerId, digest: ShareDigest, entries: u64) -> (Session, bool) {
    match write(
        store,
        WriteOp::Join { peer, addresses: Vec::new(), digest, entries, seen: Version::default(), again: false },
    )
    .unwrap()
    {
        WriteOutcome::Joined { session, unchanged, .. } => (session, unchanged),
        other => panic!("{other:?}"),
    }
}

pub(super) fn offer(name: &str, content: &str) -> Offer {
    Offer::new(name, ContentId::of(content.as_bytes()), content.len() as u64)
}

pub(super) fn announce(store: &IndexStore, peer: PeerId, offers: Vec<Offer>, last: bool) -> Vec<Verdict> {
    match write(store, WriteOp::Announce { peer, offers, last, total: None, mirror: BTreeMap::new() }).unwrap() {
        WriteOutcome::Announced { verdicts, .. } => verdicts,
        other => panic!("{other:?}"),
    }
}

pub(super) fn lookup(store: &IndexStore, name: &str) -> Option<Certificate> {
    let op = ReadOp::Lookup { name: Name::parse(name).unwrap() };
    match store.try_read(op).unwrap().blocking_recv().unwrap().unwrap() {
        ReadOutcome::Found { certificate, .. } => Some(certificate),
        ReadOutcome::NotFound => None,
        other => panic!("{other:?}"),
    }
}

/// All names that match, over as many pages as it takes.
pub(super) fn search(store: &IndexStore, query: &str, limit: u32) -> Vec<String> {
    let pattern = Pattern::parse(query).unwrap();
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let op = ReadOp::Search { pattern: pattern.clone(), cursor, limit };
        let ReadOutcome::Page(page) = store.try_read(op).unwrap().blocking_recv().unwrap().unwrap() else { panic!() };
        assert!(page.entries.len() <= limit as usize);
        names.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            return names;
        }
    }
}

#[test]
fn names_survive_a_restart_and_sessions_and_versions_rise() {
    let folder = TempDir::new().unwrap();
    let peer = PeerId::random();
    let store = open(folder.path());
    let (first, unchanged) = join(&store, peer, ShareDigest::empty(), 0);
    assert!(unchanged, "an empty share is what the index holds");
    announce(&store, peer, vec![offer("a", "1"), offer("b", "2")], false);
    let before = lookup(&store, "a").unwrap().entry;
    store.close();

    let (store, known) = IndexStore::open(&folder.path().join("index.db"), options()).unwrap();
    assert_eq!((known.len(), known[0].peer, known[0].held.entries), (1, peer, 2));
    assert_eq!((lookup(&store, "a").unwrap().entry, store.counts()), (before.clone(), (2, 1)));
    let mut digest = ShareDigest::empty();
    digest.toggle("a", &ContentId::of(b"1"), 1, before.version);
    assert!(!join(&store, peer, digest, 1).1);
    digest.toggle("b", &ContentId::of(b"2"), 1, lookup(&store, "b").unwrap().entry.version);
    let (session, unchanged) = join(&store, peer, digest, 2);
    assert!(unchanged && session > first);
    announce(&store, peer, vec![offer("a", "changed")], false);
    assert!(lookup(&store, "a").unwrap().entry.version > before.version);
}

#[test]
fn certificates_are_the_masters() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    let verdicts = announce(&store, peer, vec![offer("a", "1")], false);
    let found = lookup(&store, "a").unwrap();
    let Verdict::Accepted { version, seal } = &verdicts[0] else { panic!() };
    assert_eq!(*version, found.entry.version);
    let granted = Certificate { entry: found.entry.clone(), seal: seal.clone() };
    for certificate in [found, granted] {
        let key = options().master.public();
        certificate.verify(&Network::default(), &key, unix_ms()).unwrap();
        let stranger = Keypair::generate_ed25519().public();
        certificate.verify(&Network::default(), &stranger, unix_ms()).unwrap_err();
    }
}

#[test]
fn the_last_batch_after_a_join_frees_what_was_not_announced() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (peer, other) = (PeerId::random(), PeerId::random());
    join(&store, peer, ShareDigest::empty(), 0);
    join(&store, other, ShareDigest::empty(), 0);
    announce(&store, peer, vec![offer("a", "1"), offer("b", "2"), offer("c", "3")], false);
    announce(&store, other, vec![offer("d", "4")], false);
    join(&store, peer, ShareDigest::empty(), 1);
    announce(&store, peer, vec![offer("a", "1")], false);
    assert_eq!(search(&store, "", 10), ["a", "b", "c", "d"]);
    announce(&store, peer, vec![offer("c", "new")], true);
    assert_eq!(search(&store, "", 10), ["a", "c", "d"]);
}

#[test]
fn eviction_frees_names_and_leaves_tombstones_that_are_newer() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![offer("a", "1"), offer("b", "2")], false);
    let version = lookup(&store, "b").unwrap().entry.version;
    assert_eq!(write(&store, WriteOp::Evict { peer }), Ok(WriteOutcome::Evicted { names: 2 }));
    assert_eq!(write(&store, WriteOp::Evict { peer }), Ok(WriteOutcome::Evicted { names: 0 }));
    assert_eq!((search(&store, "", 10).len(), search(&store, "a", 10).len(), store.counts()), (0, 0, (0, 0)));
    let refused = write(
        &store,
        WriteOp::Announce { peer, offers: vec![offer("a", "1")], last: false, total: None, mirror: BTreeMap::new() },
    )
    .unwrap_err();
    assert_eq!(refused.code, RefusalCode::NotJoined);
    store.close();
    let database = rusqlite::Connection::open(folder.path().join("index.db")).unwrap();
    let rows: (i64, i64) = database
        .query_row("SELECT count(*), min(version) FROM tombstones WHERE evicted", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert!(rows.0 == 2 && rows.1 as u64 > version.0);
}

/// A peer with many names is evicted while others go on, and keeps what it still has if it comes back meanwhile.
#[test]
fn a_large_eviction_holds_nobody_up_and_ends_when_the_peer_returns() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (large, other) = (PeerId::random(), PeerId::random());
    join(&store, large, ShareDigest::empty(), 0);
    for batch in 0..7 {
        announce(&store, large, (0..1000).map(|number| offer(&format!("{batch} {number}"), "x")).collect(), false);
    }
    let evicted = store.try_write(WriteOp::Evict { peer: large }).unwrap();
    join(&store, other, ShareDigest::empty(), 0);
    announce(&store, other, vec![offer("another", "1")], false);
    assert_eq!(evicted.blocking_recv().unwrap(), Ok(WriteOutcome::Evicted { names: 7000 }));
    assert_eq!(store.counts(), (1, 1));

    join(&store, large, ShareDigest::empty(), 0);
    for batch in 0..7 {
        announce(&store, large, (0..1000).map(|number| offer(&format!("{batch} {number}"), "x")).collect(), false);
    }
    let evicted = store.try_write(WriteOp::Evict { peer: large }).unwrap();
    join(&store, large, ShareDigest::empty(), 0);
    let Ok(WriteOutcome::Evicted { names }) = evicted.blocking_recv().unwrap() else { panic!() };
    assert_eq!(store.counts(), (1 + 7000 - names, 2), "what was not freed yet is still held");
    announce(&store, large, vec![offer("0 0", "x")], true);
    assert_eq!(store.counts(), (2, 2));
}

#[test]
fn search_pages_are_complete_whatever_their_size() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    for batch in 0..6 {
        let offers = (0..1000).map(|number| offer(&format!("dir {}/File-{}", number % 7, batch * 1000 + number), "x"));
        announce(&store, peer, offers.collect(), false);
    }
    assert_eq!(search(&store, "", 500).len(), 6000);
    assert_eq!(search(&store, "file", 77).len(), 6000);
    assert_eq!(search(&store, "dir-3", 500).len(), search(&store, "dir*3/*", 500).len());
    assert_eq!(search(&store, "FILE-42", 500).len(), 111);
    assert_eq!(search(&store, "*-4242", 10), ["dir 4/File-4242"]);
    assert_eq!(search(&store, "file 4242", 10), ["dir 4/File-4242"]);
    assert_eq!(search(&store, "\"OR\" NEAR(", 10).len(), 0);
    assert_eq!(search(&store, "none", 10).len(), 0);
}

#[test]
fn a_clock_that_jumps_an_hour_changes_no_order() {
    static CLOCK: AtomicU64 = AtomicU64::new(1_800_000_000_000);
    let folder = TempDir::new().unwrap();
    let options = IndexOptions { clock: || CLOCK.load(Ordering::Relaxed), ..options() };
    let (store, _) = IndexStore::open(&folder.path().join("index.db"), options).unwrap();
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    let mut last = None;
    for (round, jump) in [0, HOUR_MS, 0, 0].into_iter().enumerate() {
        CLOCK.store(1_800_000_000_000 + jump, Ordering::Relaxed);
        announce(&store, peer, vec![offer("a", &round.to_string())], false);
        let version = lookup(&store, "a").unwrap().entry.version;
        assert!(Some(version) > last, "round {round}");
        last = Some(version);
    }
}

/// ENOSPC on a commit: writes are refused, reads go on, and writes work again when there is room.
#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![offer("before", "1")], false);
    store.sql("PRAGMA max_page_count = 1");
    let offers: Vec<_> = (0..1000).map(|number| offer(&format!("name {number}"), "x")).collect();
    let refused = write(
        &store,
        WriteOp::Announce { peer, offers: offers.clone(), last: false, total: None, mirror: BTreeMap::new() },
    )
    .unwrap_err();
    assert_eq!(refused.code, RefusalCode::Storage);
    assert!(lookup(&store, "before").is_some() && lookup(&store, "name 0").is_none());
    assert_eq!(store.counts(), (1, 1));
    store.sql("PRAGMA max_page_count = 1000000");
    assert_eq!(announce(&store, peer, offers, false).len(), 1000);
    assert_eq!(store.counts(), (1001, 1));
}

#[test]
fn a_full_queue_refuses_and_never_blocks() {
    let (queue, _jobs) = sync_channel::<Job<WriteOp, WriteOutcome>>(2);
    let op = || WriteOp::Evict { peer: PeerId::random() };
    assert!(send(&queue, op()).is_ok() && send(&queue, op()).is_ok());
    assert_eq!(send(&queue, op()).unwrap_err().code, RefusalCode::Busy);
    drop(_jobs);
    assert_eq!(send(&queue, op()).unwrap_err().code, RefusalCode::Busy);
}

/// A thread that panics is heard of; what waits for it and what comes later is refused, and the rest can be closed.
#[test]
fn a_thread_of_the_index_that_panics_ends_its_node() {
    let folder = TempDir::new().unwrap();
    let failures = Failures::default();
    let options = options().with_failures(failures.clone());
    let (store, _) = IndexStore::open(&folder.path().join("index.db"), options).unwrap();
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    announce(&store, peer, vec![offer("a", "1")], false);
    assert!(failures.names().is_empty());
    let (done, over) = sync_channel(1);
    store.inner.writes.send(Job::Sql("not a statement".to_owned(), done)).unwrap();
    assert!(over.recv().is_err());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !failures.is_over() {
        assert!(std::time::Instant::now() < end);
        std::thread::yield_now();
    }
    assert_eq!(failures.names(), ["index-write"]);
    if let Ok(later) = store.try_write(WriteOp::Evict { peer }) {
        assert!(later.blocking_recv().is_err());
    }
    assert!(lookup(&store, "a").is_some(), "the reader goes on until the node ends");
    store.close();
    assert!(lookup(&open(folder.path()), "a").is_some());
}

/// Copies the database as a crash would leave it: what is in the files at this moment.
fn crash_image(folder: &Path) -> TempDir {
    let image = TempDir::new().unwrap();
    for name in ["index.db", "index.db-wal"] {
        if folder.join(name).exists() {
            fs::copy(folder.join(name), image.path().join(name)).unwrap();
        }
    }
    image
}

/// `kill -9` at every write boundary: acknowledged means durable.
#[test]
fn every_crash_image_after_an_acknowledgement_holds_what_was_acknowledged() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    let mut model = BTreeMap::new();
    for step in 0..40u32 {
        let name = format!("name {}", step % 7);
        if step % 5 == 4 {
            write(&store, WriteOp::Revoke { peer, names: vec![name.clone()] }).unwrap();
            model.remove(&name);
        } else {
            announce(&store, peer, vec![offer(&name, &step.to_string())], false);
            model.insert(name, ContentId::of(step.to_string().as_bytes()));
        }
        let image = crash_image(folder.path());
        let crashed = open(image.path());
        let held: BTreeMap<_, _> = search(&crashed, "", 100)
            .into_iter()
            .map(|name| (name.clone(), lookup(&crashed, &name).unwrap().entry.content))
            .collect();
        assert_eq!(held, model, "after step {step}");
        crashed.close();
    }
}

/// A torn tail of the log: each batch is there as a whole or not at all, and batches are lost from the end alone.
#[test]
fn a_torn_log_loses_whole_batches_from_the_end_alone() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    const BATCHES: usize = 6;
    for batch in 0..BATCHES {
        announce(&store, peer, (0..20).map(|number| offer(&format!("{batch} {number}"), "x")).collect(), false);
    }
    let length = fs::metadata(folder.path().join("index.db-wal")).unwrap().len();
    for part in 0..60 {
        let image = crash_image(folder.path());
        let wal = image.path().join("index.db-wal");
        // Odd offsets, so that frames are cut in their midst.
        let cut = length * part / 60 + part % 7;
        fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(cut.min(length)).unwrap();
        let crashed = match IndexStore::open(&image.path().join("index.db"), options()) {
            Ok((crashed, _)) => crashed,
            Err(error) => panic!("cut at {cut}: {error}"),
        };
        let names = search(&crashed, "", 500);
        let whole = names.len() / 20;
        assert_eq!(names.len() % 20, 0, "a batch is there in part, cut at {cut}");
        assert!(names.iter().all(|name| name.split(' ').next().unwrap().parse::<usize>().unwrap() < whole));
        crashed.close();
    }
}

/// Bit flips: found, not served.
#[test]
fn a_flipped_bit_is_never_served() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let peer = PeerId::random();
    join(&store, peer, ShareDigest::empty(), 0);
    let offers: Vec<_> = (0..200).map(|number| offer(&format!("name {number}"), &number.to_string())).collect();
    announce(&store, peer, offers.clone(), false);
    store.close();
    let good = fs::read(folder.path().join("index.db")).unwrap();
    let mut found = 0;
    for flip in 0..120usize {
        let image = TempDir::new().unwrap();
        let mut bytes = good.clone();
        // Spread over all pages but the first, whose header decides whether it is a database at all.
        let at = 4096 + (flip * 7919 * 13) % (bytes.len() - 4096);
        bytes[at] ^= 1 << (flip % 8);
        fs::write(image.path().join("index.db"), bytes).unwrap();
        let Ok((store, _)) = IndexStore::open(&image.path().join("index.db"), options()) else {
            found += 1;
            continue;
        };
        for offer in &offers {
            let op = ReadOp::Lookup { name: Name::parse(&offer.name).unwrap() };
            match store.try_read(op).unwrap().blocking_recv().unwrap() {
                Ok(ReadOutcome::Found { certificate, .. }) => {
                    let entry = certificate.entry;
                    assert_eq!((entry.content, entry.owner), (offer.content, peer), "a wrong entry was served");
                }
                // Unknown, or an error that is said: never a wrong owner or content.
                Ok(_) => found += 1,
                Err(refusal) => {
                    assert_eq!(refusal.code, RefusalCode::Storage);
                    found += 1;
                }
            }
        }
        store.close();
    }
    assert!(found > 0, "none of the flips hit anything");
}

/// A master that lost its disk rebuilds names and versions from what peers prove and what the DHT says.
#[test]
fn names_come_back_after_the_disk_was_lost() {
    use swarmdex_protocols::index::Granted;
    use swarmdex_protocols::{Claim, Entry, Ledger, Statement};
    let folder = TempDir::new().unwrap();
    let (anna, bert) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
    let (a, b) = (anna.public().to_peer_id(), bert.public().to_peer_id());
    let store = open(folder.path());
    for peer in [a, b] {
        join(&store, peer, ShareDigest::empty(), 0);
    }
    announce(&store, a, vec![offer("hers", "1")], false);
    announce(&store, b, vec![offer("his", "2"), offer("gone", "3")], false);
    let [hers, his, gone] = ["hers", "his", "gone"].map(|name| lookup(&store, name).unwrap());
    write(&store, WriteOp::Revoke { peer: b, names: vec!["gone".to_owned()] }).unwrap();
    let Ok(Ok(ReadOutcome::Tombstones(TombstonePage { tombstones, .. }))) =
        store.try_read(ReadOp::Tombstones { before: None, limit: 10 }).unwrap().blocking_recv()
    else {
        panic!()
    };
    assert_eq!(tombstones.len(), 1);
    store.close();

    // The same key, an empty disk.
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let join = WriteOp::Join {
        peer: a,
        addresses: Vec::new(),
        digest: ShareDigest::empty(),
        entries: 1,
        seen: hers.entry.version,
        again: false,
    };
    write(&store, join).unwrap();
    let proven = |certificate: &Certificate, text: &str| Offer {
        granted: Some(Granted { version: certificate.entry.version, seal: certificate.seal.clone() }),
        ..offer(certificate.entry.name.as_str(), text)
    };
    let unix_ms = unix_ms();
    let tally = |statements: &[Statement]| {
        let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
        for statement in statements {
            ledger.insert(statement.clone(), unix_ms).unwrap();
        }
        tally.add(&ledger, unix_ms);
        tally
    };
    let claimed = Entry {
        name: Name::parse("claimed").unwrap(),
        content: ContentId::of(b"4"),
        size: 1,
        owner: b,
        version: Version::default().next(unix_ms),
        attributes: None,
    };
    let claim = Claim::sign(claimed, Version::default(), false, &Network::default(), &bert, unix_ms).unwrap();
    let mirror = BTreeMap::from([
        (his.entry.name.clone(), tally(&[Statement::Certificate(his.clone())])),
        (gone.entry.name.clone(), tally(&tombstones)),
        (claim.entry.name.clone(), tally(&[Statement::Claim(claim.clone())])),
    ]);
    let mut forged = proven(&hers, "1");
    forged.name = "his own".to_owned();
    let offers = vec![proven(&hers, "1"), offer("his", "9"), offer("gone", "9"), offer("claimed", "9"), forged];
    let written =
        write(&store, WriteOp::Announce { peer: a, offers, last: false, total: None, mirror: mirror.clone() }).unwrap();
    let WriteOutcome::Announced { verdicts, adopted, .. } = written else { panic!() };
    assert!(matches!(verdicts[0], Verdict::Accepted { version, .. } if version > hers.entry.version));
    assert_eq!(verdicts[1], Verdict::Conflict { owner: b });
    assert!(matches!(verdicts[2], Verdict::Accepted { version, .. } if version > tombstones[0].version()));
    assert_eq!(verdicts[3], Verdict::Conflict { owner: b });
    assert!(matches!(verdicts[4], Verdict::Accepted { version, .. } if version > hers.entry.version), "as a new name");
    assert_eq!(adopted.into_keys().collect::<Vec<_>>(), [b]);
    let kept = lookup(&store, "his").unwrap().entry;
    assert_eq!((kept.owner, kept.content, kept.size), (b, his.entry.content, his.entry.size));
    assert!(kept.version > his.entry.version, "above whatever else was said of it");
    let certified = lookup(&store, "claimed").unwrap().entry;
    assert_eq!((certified.owner, certified.content), (b, claim.entry.content));
    assert!(certified.version > claim.base, "and the claim is over");
    // The owner comes back: its names are its own. What it revoked stays revoked.
    self::join(&store, b, ShareDigest::empty(), 3);
    let offers = vec![proven(&his, "2"), offer("claimed", "4"), proven(&gone, "3")];
    let WriteOutcome::Announced { verdicts, .. } =
        write(&store, WriteOp::Announce { peer: b, offers, last: true, total: None, mirror }).unwrap()
    else {
        panic!()
    };
    assert!(matches!(verdicts[0], Verdict::Accepted { version, .. } if version == kept.version));
    assert!(matches!(verdicts[1], Verdict::Accepted { version, .. } if version == certified.version));
    assert_eq!(verdicts[2], Verdict::Conflict { owner: a });
}
