//! Peers that left in order and return with the certificates of before.

use swarmdex_protocols::ContentId;
use swarmdex_protocols::index::Granted;
use tempfile::TempDir;

use super::tests::{announce, join, lookup, offer, open, write};
use super::*;

/// An offer with the certificate that was granted for it.
fn again(name: &str, content: &str, granted: &Certificate) -> Offer {
    let granted = Some(Granted { version: granted.entry.version, seal: granted.seal.clone() });
    Offer { granted, ..offer(name, content) }
}

fn unknown(store: &IndexStore, names: &[(&str, Option<Version>)]) -> Vec<String> {
    let names = names.iter().map(|(name, granted)| (Name::parse(name).unwrap(), *granted)).collect();
    match store.try_read(ReadOp::Unknown { names, ended: false }).unwrap().blocking_recv().unwrap().unwrap() {
        ReadOutcome::Unknown(names) => names.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_what_the_index_ended_itself_nobody_else_is_asked() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let anna = PeerId::random();
    join(&store, anna, ShareDigest::empty(), 0);
    announce(&store, anna, vec![offer("a", "1"), offer("b", "2")], true);
    let [a, b] = ["a", "b"].map(|name| lookup(&store, name).unwrap());
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    let later = Version(u64::MAX >> 1);
    let names = [
        ("a", Some(a.entry.version)),
        // Without a certificate, and with one that is not over: by an index that this one took the place of.
        ("b", None),
        ("b", Some(later)),
        ("never", Some(a.entry.version)),
    ];
    assert_eq!(unknown(&store, &names), ["b", "b", "never"]);
    assert_eq!(unknown(&store, &[("b", Some(b.entry.version))]), [""; 0]);
    // What another has meanwhile is known.
    let ben = PeerId::random();
    join(&store, ben, ShareDigest::empty(), 0);
    announce(&store, ben, vec![offer("a", "3")], true);
    assert_eq!(unknown(&store, &[("a", Some(a.entry.version))]), [""; 0]);
}

#[test]
fn who_returns_gets_what_is_still_free_above_its_tombstones() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    let (anna, ben) = (PeerId::random(), PeerId::random());
    join(&store, anna, ShareDigest::empty(), 0);
    announce(&store, anna, vec![offer("a", "1"), offer("b", "2")], true);
    let [a, b] = ["a", "b"].map(|name| lookup(&store, name).unwrap());
    write(&store, WriteOp::Evict { peer: anna }).unwrap();
    assert!(lookup(&store, "a").is_none(), "free at once");
    join(&store, ben, ShareDigest::empty(), 0);
    announce(&store, ben, vec![offer("a", "3")], true);
    join(&store, anna, ShareDigest::empty(), 0);
    let verdicts = announce(&store, anna, vec![again("a", "1", &a), again("b", "2", &b)], true);
    assert_eq!(verdicts[0], Verdict::Conflict { owner: ben });
    let Verdict::Accepted { version, .. } = &verdicts[1] else { panic!("{verdicts:?}") };
    let now = lookup(&store, "b").unwrap().entry;
    assert!(now.owner == anna && now.version == *version && *version > b.entry.version, "above the tombstone");
}

/// An index that went back to an older copy of itself is shown a grant that it gave since, of a name that it has for another.
#[test]
fn a_grant_that_is_later_than_the_index_moves_the_name_and_both_sums_stay_right() {
    let folder = TempDir::new().unwrap();
    let older = TempDir::new().unwrap();
    let (anna, ben) = (PeerId::random(), PeerId::random());
    let store = open(folder.path());
    for peer in [anna, ben] {
        join(&store, peer, ShareDigest::empty(), 0);
    }
    announce(&store, anna, vec![offer("a", "1"), offer("b", "2")], true);
    let kept = lookup(&store, "b").unwrap().entry.digest();
    store.close();
    std::fs::copy(folder.path().join("index.db"), older.path().join("index.db")).unwrap();
    let store = open(folder.path());
    join(&store, ben, ShareDigest::empty(), 0);
    write(&store, WriteOp::Revoke { peer: anna, names: vec!["a".to_owned()] }).unwrap();
    announce(&store, ben, vec![offer("a", "3")], true);
    let granted = lookup(&store, "a").unwrap();
    store.close();

    let store = open(older.path());
    join(&store, ben, ShareDigest::empty(), 0);
    assert_eq!(lookup(&store, "a").unwrap().entry.owner, anna);
    assert_eq!(unknown(&store, &[("a", Some(granted.entry.version))]), ["a"], "the DHT is asked about it");
    let forged = Offer { content: ContentId::of(b"another"), ..again("a", "3", &granted) };
    assert!(matches!(announce(&store, ben, vec![forged], false)[..], [Verdict::Conflict { owner }] if owner == anna));
    let offers = vec![again("a", "3", &granted)];
    let op = WriteOp::Announce { peer: ben, offers, neighbours: 0, last: false, total: None, mirror: BTreeMap::new() };
    let WriteOutcome::Announced { verdicts, holding, adopted } = write(&store, op).unwrap() else { panic!() };
    assert!(matches!(verdicts[..], [Verdict::Accepted { version, .. }] if version > granted.entry.version));
    let mut left = ShareSum::default();
    left.add(&kept);
    assert_eq!((holding.sum.entries, adopted[&anna].sum), (1, left));
    // As everything is counted anew at the next start.
    let now = lookup(&store, "a").unwrap().entry;
    assert_eq!((now.owner, store.counts().0), (ben, 2));
    store.close();
    let (store, known) = IndexStore::open(&older.path().join("index.db"), super::tests::options()).unwrap();
    let held = |peer| known.iter().find(|known| known.peer == peer).unwrap().held;
    assert_eq!((held(anna), held(ben).entries), (left, 1));
    assert_eq!(store.counts().0, 2);
}
