//! Copies that are brought up to date, and what of files travels beside their bytes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use swarmdex::Error;
use swarmdex::config::Config;
use swarmdex::node::{GetOptions, GetReport, GetRequest};

use crate::harness::{TestNode, found, gone, noise, until};

/// A tree of one owner, and a copy of it.
struct Pair {
    master: TestNode,
    anna: TestNode,
    ben: TestNode,
}

impl Pair {
    /// Anna shares `files` below `tree/`.
    async fn new(files: &[(&str, &[u8])]) -> Self {
        let master = TestNode::master().await;
        let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
        for (name, bytes) in files {
            anna.file(&format!("tree/{name}"), bytes);
        }
        let tree = anna.dir.path().join("files/tree");
        anna.share(vec![tree], Some("tree".to_owned())).outcome().await.unwrap();
        Self { master, anna, ben }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.anna.dir.path().join("files/tree").join(name)
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.ben.output().join(name)
    }

    /// Changes a file at its owner's, and waits until the network knows.
    async fn change(&self, name: &str, bytes: &[u8]) {
        fs::write(self.source(name), bytes).unwrap();
        self.announced(name, bytes).await;
    }

    async fn announced(&self, name: &str, bytes: &[u8]) {
        let content = swarmdex_protocols::ContentId::of(bytes);
        until("the change is announced", async || {
            let found = self.ben.lookup(&format!("tree/{name}")).await.ok()?;
            (found.entry.content == content).then_some(())
        })
        .await;
    }

    async fn remove(&self, name: &str) {
        fs::remove_file(self.source(name)).unwrap();
        gone(&self.ben, &format!("tree/{name}")).await;
    }

    async fn get(&self, options: GetOptions) -> Result<GetReport, Error> {
        let request = GetRequest { name: "tree".to_owned(), output: self.ben.output(), recursive: true };
        self.ben.get_with(request, options).outcome().await
    }

    async fn update(&self) -> GetReport {
        self.get(update()).await.unwrap()
    }

    /// What the copy holds, without what is hidden.
    fn names(&self) -> Vec<String> {
        let mut names = self.ben.leftovers();
        names.sort();
        names
    }
}

fn update() -> GetOptions {
    GetOptions { update: true, ..GetOptions::default() }
}

fn tidy() -> GetOptions {
    GetOptions { update: true, delete: true, ..GetOptions::default() }
}

fn kept(report: &GetReport) -> Vec<&str> {
    let mut kept: Vec<_> = report.kept.iter().map(|kept| kept.name.as_str()).collect();
    kept.sort_unstable();
    kept
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_takes_what_changed_and_leaves_what_was_changed_here_alone() {
    let large = noise(1, 3_000_000);
    let pair = Pair::new(&[("one", b"1"), ("two", b"2"), ("three", b"3"), ("large", &large), ("same", b"same")]).await;
    let first = pair.get(GetOptions::default()).await.unwrap();
    assert_eq!((first.files.len(), first.failed.len()), (5, 0), "{first:?}");
    // At both ends, at one, at the other, and in a large one.
    pair.change("one", b"one changed").await;
    pair.change("two", b"two changed").await;
    let changed = noise(2, 3_000_001);
    pair.change("large", &changed).await;
    fs::write(pair.copy("two"), "mine").unwrap();
    fs::write(pair.copy("three"), "mine, too").unwrap();
    fs::write(pair.copy("own"), "never in the network").unwrap();
    pair.anna.file("tree/new/four", b"4");
    found(&pair.ben, "tree/new/four").await;
    fs::remove_file(pair.copy("same")).unwrap();

    // Without the flag nothing is replaced.
    let plain = pair.get(GetOptions { wait_seconds: Some(0.0), ..GetOptions::default() }).await.unwrap();
    assert_eq!(plain.failed.len(), 4, "{plain:?}");
    assert_eq!(fs::read(pair.copy("one")).unwrap(), b"1");

    let report = pair.update().await;
    assert_eq!((kept(&report), report.failed.len()), (vec!["tree/three", "tree/two"], 0), "{report:?}");
    assert!(report.kept.iter().all(|kept| kept.reason.contains("changed here")), "{report:?}");
    for (name, bytes) in [
        ("one", &b"one changed"[..]),
        ("two", b"mine"),
        ("three", b"mine, too"),
        ("own", b"never in the network"),
        ("new/four", b"4"),
        ("same", b"same"),
        ("large", &changed),
    ] {
        assert!(fs::read(pair.copy(name)).unwrap() == bytes, "{name}");
    }
    assert_eq!(pair.names(), ["large", "new", "one", "own", "same", "three", "two"], "nothing else is left");
    // What was taken is a copy again, and the next change is taken as well, after a restart, too.
    let Pair { master, anna, ben } = pair;
    let addresses = master.ready().listen;
    let ben = TestNode::try_start(swarmdex::config::Role::Peer, ben.stop().await, |config| config.master = addresses);
    let pair = Pair { master, anna, ben: ben.await.unwrap() };
    pair.change("one", b"changed again").await;
    // What its user made equal is no change of his.
    fs::write(pair.copy("two"), "two changed").unwrap();
    let report = pair.update().await;
    assert_eq!(fs::read(pair.copy("one")).unwrap(), b"changed again");
    assert_eq!(kept(&report), ["tree/three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_removed_if_it_is_an_unchanged_copy_and_its_owner_is_there() {
    let pair = Pair::new(&[("a", b"a"), ("b", b"b"), ("sub/c", b"c"), ("sub/deep/d", b"d"), ("stays", b"s")]).await;
    pair.get(GetOptions::default()).await.unwrap();
    fs::write(pair.copy("b"), "mine").unwrap();
    fs::write(pair.copy("own"), "mine").unwrap();
    // As if the user had put it there: the same name, and never downloaded.
    for name in ["a", "b", "sub/c", "sub/deep/d"] {
        pair.remove(name).await;
    }
    let report = pair.update().await;
    assert!(report.deleted.is_empty() && pair.copy("a").exists(), "not without the flag");
    let report = pair.get(tidy()).await.unwrap();
    let mut deleted: Vec<_> = report.deleted.iter().map(|path| path.strip_prefix(pair.ben.output()).unwrap()).collect();
    deleted.sort();
    assert_eq!(deleted, ["a", "sub/c", "sub/deep/d"].map(Path::new), "{report:?}");
    assert_eq!(kept(&report), ["tree/b"]);
    assert_eq!(pair.names(), ["b", "own", "stays"], "folders that are empty go as well");
    // What comes again is fetched again.
    pair.anna.file("tree/a", b"a");
    found(&pair.ben, "tree/a").await;
    pair.update().await;
    assert_eq!(fs::read(pair.copy("a")).unwrap(), b"a");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_because_an_owner_is_away() {
    let pair = Pair::new(&[("a", b"a"), ("b", b"b")]).await;
    let carl = TestNode::peer(&pair.master).await;
    let path = carl.file("c", b"c");
    carl.share(vec![path], Some("tree/c".to_owned())).outcome().await.unwrap();
    pair.get(GetOptions::default()).await.unwrap();
    let _carl = carl.stop().await;
    gone(&pair.ben, "tree/c").await;
    let report = pair.get(tidy()).await.unwrap();
    assert_eq!((kept(&report), report.deleted.len()), (vec!["tree/c"], 0), "{report:?}");
    assert!(pair.copy("c").exists());
    // Nor if all are.
    let Pair { master, anna, ben } = pair;
    let _anna = anna.stop().await;
    gone(&ben, "tree/a").await;
    let request = GetRequest { name: "tree".to_owned(), output: ben.output(), recursive: true };
    let error = ben.get_with(request, tidy()).outcome().await.unwrap_err();
    assert_eq!(error.kind(), swarmdex::node::ErrorKind::NotFound, "{error}");
    assert_eq!(ben.leftovers().len(), 3);
    drop(master);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_folders_in_the_way_lead_nowhere() {
    let pair = Pair::new(&[("a", b"a"), ("sub/b", b"b"), ("c", b"c")]).await;
    pair.get(GetOptions::default()).await.unwrap();
    let outside = pair.ben.file("outside/b", b"b");
    // The user has put links in place of a file and of a folder, and a folder in place of a file.
    fs::remove_file(pair.copy("a")).unwrap();
    symlink(&outside, pair.copy("a")).unwrap();
    fs::remove_dir_all(pair.copy("sub")).unwrap();
    symlink(outside.parent().unwrap(), pair.copy("sub")).unwrap();
    fs::remove_file(pair.copy("c")).unwrap();
    fs::create_dir(pair.copy("c")).unwrap();
    pair.change("a", b"changed").await;
    pair.change("sub/b", b"changed").await;
    let report = pair.update().await;
    assert_eq!(kept(&report), ["tree/a", "tree/c"], "{report:?}");
    assert_eq!(report.failed.len(), 1, "{report:?}");
    pair.anna.file("tree/stays", b"s");
    found(&pair.ben, "tree/stays").await;
    pair.remove("sub/b").await;
    pair.get(tidy()).await.unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"b", "nothing was written or removed there");
    assert!(fs::symlink_metadata(pair.copy("a")).unwrap().is_symlink() && pair.copy("c").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_brought_up_to_date_as_well() {
    let pair = Pair::new(&[("a", b"a")]).await;
    let target = pair.copy("elsewhere");
    let get = async || {
        let request = GetRequest { name: "tree/a".to_owned(), output: target.clone(), recursive: false };
        pair.ben.get_with(request, update()).outcome().await
    };
    get().await.unwrap();
    assert!(get().await.unwrap().files[0].sources.is_empty(), "it is in place");
    pair.change("a", b"changed").await;
    get().await.unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"changed");
    fs::write(&target, "mine").unwrap();
    let error = get().await.unwrap_err();
    assert!(matches!(&error, Error::Kept { path, .. } if *path == target), "{error}");
    assert_eq!(error.kind().exit_code(), 7);
    assert_eq!(fs::read(&target).unwrap(), b"mine");
}

/// The executable bit and the time travel, of small files and large ones; nothing else does.
#[tokio::test(flavor = "multi_thread")]
async fn the_executable_bit_and_the_time_travel_and_no_other_bit() {
    let large = noise(3, 700_000);
    let pair = Pair::new(&[("small", b"#!/bin/sh\n"), ("large", &large), ("plain", b"p"), ("empty", b"")]).await;
    for (name, mode) in [("small", 0o6755), ("large", 0o700), ("plain", 0o1644), ("empty", 0o755)] {
        fs::set_permissions(pair.source(name), Permissions::from_mode(mode)).unwrap();
        set_time(&pair.source(name), 1_000_000_000);
    }
    let told = async |name: &str, executable: bool| {
        until("the attributes are announced", async || {
            let found = pair.ben.lookup(&format!("tree/{name}")).await.ok()?;
            (found.executable == Some(executable) && found.modified_ms == Some(1_000_000_000_123)).then_some(())
        })
        .await;
    };
    for (name, executable) in [("small", true), ("large", true), ("plain", false), ("empty", true)] {
        told(name, executable).await;
    }
    pair.get(GetOptions::default()).await.unwrap();
    let one = GetRequest { name: "tree/large".to_owned(), output: pair.copy("by itself"), recursive: false };
    pair.ben.get(one).outcome().await.unwrap();
    for (name, executable) in [("small", true), ("large", true), ("by itself", true), ("plain", false), ("empty", true)]
    {
        let metadata = fs::metadata(pair.copy(name)).unwrap();
        assert_eq!(metadata.mode() & 0o100 != 0, executable, "{name}");
        assert_eq!(metadata.mode() & 0o7000, 0, "{name}");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 123_456_789), "{name}");
    }
    // A change of nothing else is a change, and an update takes it.
    fs::set_permissions(pair.source("plain"), Permissions::from_mode(0o755)).unwrap();
    told("plain", true).await;
    pair.update().await;
    assert_ne!(fs::metadata(pair.copy("plain")).unwrap().mode() & 0o100, 0);
    fs::set_permissions(pair.source("plain"), Permissions::from_mode(0o644)).unwrap();
    told("plain", false).await;
    // Not over what its user chose.
    fs::set_permissions(pair.copy("plain"), Permissions::from_mode(0o700)).unwrap();
    pair.update().await;
    assert_eq!(fs::metadata(pair.copy("plain")).unwrap().mode() & 0o777, 0o700);
    // Nor if it is not wanted.
    let options = GetOptions { preserve: false, ..GetOptions::default() };
    let output = pair.ben.output().join("bare");
    let request = GetRequest { name: "tree".to_owned(), output: output.clone(), recursive: true };
    pair.ben.get_with(request, options).outcome().await.unwrap();
    for name in ["small", "large"] {
        let metadata = fs::metadata(output.join(name)).unwrap();
        assert_eq!(metadata.mode() & 0o111, 0, "{name}");
        assert_ne!(metadata.mtime(), 1_000_000_000, "{name}");
    }
}

/// They are there without the master, too, by the certificates in the DHT and by claims.
#[tokio::test(flavor = "multi_thread")]
async fn attributes_outlive_the_master() {
    let pair = Pair::new(&[("a", b"a")]).await;
    fs::set_permissions(pair.source("a"), Permissions::from_mode(0o755)).unwrap();
    until("the bit is announced", async || {
        let found = pair.ben.lookup("tree/a").await.ok()?;
        (found.executable == Some(true)).then_some(())
    })
    .await;
    until("others know", async || {
        let mirror = pair.anna.status().await.unwrap().dht.mirror;
        // The certificate is published by the master first.
        (!mirror.changing && mirror.records > 2 && mirror.published + 1 >= mirror.records).then_some(())
    })
    .await;
    let Pair { master, anna, ben } = pair;
    let peers = [anna, ben];
    crate::harness::lose(&master, &peers).await;
    let [anna, ben] = peers;
    let claimed = anna.file("tree/claimed", b"c");
    fs::set_permissions(&claimed, Permissions::from_mode(0o755)).unwrap();
    for name in ["tree/a", "tree/claimed"] {
        until("the DHT knows", async || {
            let found = ben.lookup(name).await.ok()?;
            (found.executable == Some(true) && found.source == swarmdex::node::Source::Dht).then_some(())
        })
        .await;
    }
    let report = ben.fetch_below("tree").await.unwrap();
    assert_eq!(report.files.len(), 2, "{report:?}");
    for file in report.files {
        assert_ne!(fs::metadata(&file.path).unwrap().mode() & 0o100, 0, "{}", file.name);
    }
}

/// A download that is cut off leaves copies that the next one knows for such.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_download_that_was_cut_off_are_copies() {
    let files: Vec<_> = (0..40).map(|number| (format!("{number}"), noise(number, 300_000))).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let pair = Pair::new(&files).await;
    let request = GetRequest { name: "tree".to_owned(), output: pair.ben.output(), recursive: true };
    let operation = pair.ben.get(request);
    let mut seen = operation.progress();
    seen.wait_for(|progress| progress.done_files >= 5).await.unwrap();
    drop(operation);
    until("it is over", async || (pair.ben.status().await.unwrap().downloads == 0).then_some(())).await;
    pair.get(GetOptions::default()).await.unwrap();
    for (name, _) in &files {
        pair.change(name, name.as_bytes()).await;
    }
    let report = pair.update().await;
    assert!(report.kept.is_empty() && report.failed.is_empty(), "{:?} {:?}", report.kept, report.failed);
    for (name, _) in &files {
        assert_eq!(fs::read_to_string(pair.copy(name)).unwrap(), *name);
    }
}

/// A node whose configuration keeps no record of its own still downloads.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_nothing_is_taken_for_a_copy() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let own = |config: &mut Config| config.transient = true;
    let ben = TestNode::peer_with(&master, own).await;
    let path = anna.share_file("a", b"a").await;
    let request = || GetRequest { name: "a".to_owned(), output: ben.output().join("a"), recursive: false };
    ben.get_with(request(), update()).outcome().await.unwrap();
    fs::write(&path, "changed").unwrap();
    until("the change is announced", async || (found(&ben, "a").await.entry.size == 7).then_some(())).await;
    let error = ben.get_with(request(), update()).outcome().await.unwrap_err();
    assert!(matches!(error, Error::Kept { .. }), "{error}");
    assert_eq!(fs::read(ben.output().join("a")).unwrap(), b"a");
}
