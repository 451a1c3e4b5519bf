//! What was said about shares holds: over restarts, over disks that come and go, and for what is to be left out.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use swarmdex::config::Origin;
use swarmdex::node::{ErrorKind, RootPresence, Standing};
use tempfile::TempDir;

use crate::disks::Bind;
use crate::harness::{Process, TestNode, code, file, found, gone, made, process_joined, stderr, until};

/// A master, and what a peer of it is started with.
fn master(folder: &Path) -> (Process, [String; 2]) {
    let master = Process::start("master", &made(folder, "master"), &[]);
    let address = master.address();
    (master, ["--master".to_owned(), address])
}

fn start(folder: &Path, at: &[String; 2], more: &[&str]) -> Process {
    let peer = Process::start("peer", &made(folder, "peer"), &[&[at[0].as_str(), &at[1]], more].concat());
    process_joined(&peer);
    peer
}

fn stop(mut peer: Process) {
    peer.signal("TERM");
    peer.wait();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn names(list: &Value) -> Vec<String> {
    let names = list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned());
    names.collect()
}

/// Waits until a name is there, or is gone.
fn until_code(node: &Process, name: &str, expected: i32) {
    let end = std::time::Instant::now() + crate::harness::DEADLINE;
    while code(&node.command(&["lookup", name])) != expected {
        assert!(std::time::Instant::now() < end, "waited in vain for {expected} of {name}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_revocation_and_the_end_of_a_share_stand_though_flags_go_on_naming_them() {
    let folder = TempDir::new().unwrap();
    let (master, at) = master(folder.path());
    let root = folder.path().canonicalize().unwrap().join("d");
    file(folder.path(), "d/public.txt", b"1");
    file(folder.path(), "d/private.txt", b"2");
    let ours = file(folder.path(), "mine/ours.txt", b"3");
    let flags = ["--share", text(&root)];
    let peer = start(folder.path(), &at, &flags);
    until_code(&master, "private.txt", 0);
    peer.json(&["share", &ours]);
    assert_eq!(code(&peer.command(&["revoke", "private.txt"])), 0);
    stop(peer);
    let peer = start(folder.path(), &at, &flags);
    until_code(&master, "public.txt", 0);
    until_code(&master, "ours.txt", 0);
    assert_eq!(names(&peer.json(&["ls"])), ["ours.txt", "public.txt"]);
    assert_eq!(code(&master.command(&["lookup", "private.txt"])), 3);
    // Where each came from, and what is left out of it.
    let roots = peer.json(&["ls", "--roots"]);
    let root_of = |number: usize| (&roots[number]["path"], &roots[number]["from"][0], &roots[number]["state"]);
    assert_eq!(root_of(0), (&text(&root).into(), &"flag".into(), &"shared".into()));
    assert_eq!(root_of(1).1, "command");
    assert_eq!((&roots[0]["names"], &roots[0]["left_out"]["revoked"]), (&1.into(), &1.into()));
    let shown = String::from_utf8(peer.command(&["ls", "--roots"]).stdout).unwrap();
    assert!(shown.lines().any(|line| line.contains(text(&root)) && line.contains("1 revoked")), "{shown}");
    // Shared by hand, it is back, and stays when no flag names it any more.
    peer.json(&["share", text(&root)]);
    stop(peer);
    let peer = start(folder.path(), &at, &[]);
    until_code(&master, "private.txt", 0);
    // The end of a share.
    let wrong = peer.command(&["unshare", text(&root.join("public.txt"))]);
    assert_eq!(code(&wrong), 3);
    assert!(stderr(&wrong).contains("revoke"), "{}", stderr(&wrong));
    let ended = peer.json(&["unshare", text(&root)]);
    assert_eq!((&ended[0]["names"], &ended[0]["acknowledged"]), (&2.into(), &true.into()));
    assert_eq!(code(&master.command(&["lookup", "public.txt"])), 3);
    file(folder.path(), "d/later.txt", b"later");
    stop(peer);
    let peer = start(folder.path(), &at, &[&flags[..], &["--share", &ours]].concat());
    until_code(&master, "later.txt", 0);
    let ended = peer.json(&["unshare", text(&root)]);
    assert_eq!(ended[0]["names"], 3);
    stop(peer);
    let peer = start(folder.path(), &at, &flags);
    peer.until_log("was unshared by hand");
    assert_eq!(names(&peer.json(&["ls"])), ["ours.txt"], "what was shared by hand stays");
    assert_eq!(peer.json(&["ls", "--roots"])[0]["state"], "unshared");
}

#[test]
fn what_was_shared_before_is_known_as_soon_as_the_node_answers() {
    const FILES: usize = 5000;
    let folder = TempDir::new().unwrap();
    let (_master, at) = master(folder.path());
    let root = folder.path().canonicalize().unwrap().join("d");
    for number in 0..FILES {
        file(folder.path(), &format!("d/{number}.txt"), number.to_string().as_bytes());
    }
    let mut peer = start(folder.path(), &at, &[]);
    peer.json(&["share", text(&root)]);
    peer.kill();
    let listed = Process::start("peer", &made(folder.path(), "peer"), &[&at[0], &at[1]]);
    let entries = listed.json(&["ls"]);
    let standings = entries.as_array().unwrap().iter().map(|entry| &entry["standing"]);
    assert_eq!(standings.filter(|standing| **standing != "pending").count(), FILES);
    drop(listed);
    let mut revoking = Process::start("peer", &made(folder.path(), "peer"), &[&at[0], &at[1]]);
    let revoked = revoking.json(&["revoke", "7.txt"]);
    assert_eq!(revoked[0]["name"], "7.txt");
    revoking.kill();
    let ending = Process::start("peer", &made(folder.path(), "peer"), &[&at[0], &at[1]]);
    assert_eq!(ending.json(&["unshare", text(&root)])[0]["names"], FILES - 1);
}

#[test]
fn what_only_flags_or_the_environment_named_ends_with_them() {
    let folder = TempDir::new().unwrap();
    let (master, at) = master(folder.path());
    let one = file(folder.path(), "old/one.txt", b"1");
    file(folder.path(), "new/two.txt", b"2");
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let peer = start(folder.path(), &at, &["--share", text(&old), "--share", &one]);
    until_code(&master, "one.txt", 0);
    stop(peer);
    let environment = Process::try_start_with(
        |command| {
            command.env("SWARMDEX_SHARE", &new);
        },
        "peer",
        &folder.path().join("peer"),
        &[&at[0], &at[1]],
    );
    let peer = environment.unwrap();
    peer.until_log("no flag and no configuration names it any more");
    until_code(&master, "two.txt", 0);
    assert_eq!(names(&peer.json(&["ls"])), ["two.txt"]);
    assert_eq!(code(&master.command(&["lookup", "one.txt"])), 3);
    file(folder.path(), "old/later.txt", b"3");
    file(folder.path(), "new/later.txt", b"4");
    until_code(&master, "later.txt", 0);
    assert_eq!(names(&peer.json(&["ls"])), ["later.txt", "two.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_come_go_or_are_made_again_are_seen_at_once() {
    let master = TestNode::master().await;
    let files = TempDir::new().unwrap();
    let path = |name: &str| files.path().canonicalize().unwrap().join(name);
    let named = ["late", "late.txt", "deep/er/late"].map(path).to_vec();
    let anna = TestNode::peer_with(&master, |config| config.share = named).await;
    // Missing at the start.
    until("they wait", async || {
        let roots = anna.roots().await.unwrap();
        (roots.len() == 3 && roots.iter().all(|root| root.presence == RootPresence::Waiting)).then_some(())
    })
    .await;
    fs::write(path("late.txt"), "late").unwrap();
    fs::create_dir(path("late")).unwrap();
    fs::write(path("late/one.txt"), "1").unwrap();
    fs::create_dir_all(path("deep/er/late")).unwrap();
    fs::write(path("deep/er/late/three.txt"), "3").unwrap();
    for name in ["one.txt", "late.txt", "three.txt"] {
        found(&master, name).await;
    }
    fs::write(path("late/two.txt"), "2").unwrap();
    found(&master, "two.txt").await;
    // Removed and made again, by a flag or by hand.
    fs::create_dir(path("hand")).unwrap();
    fs::write(path("hand/a.txt"), "a").unwrap();
    anna.share(vec![path("hand")], None).outcome().await.unwrap();
    for root in ["late", "hand"] {
        fs::remove_dir_all(path(root)).unwrap();
        let is_away = |presence: &RootPresence| matches!(presence, RootPresence::Away { .. });
        until("it is away", async || {
            let roots = anna.roots().await.unwrap();
            roots.iter().any(|found| found.path == path(root) && is_away(&found.presence)).then_some(())
        })
        .await;
        fs::create_dir(path(root)).unwrap();
        let name = format!("{root}-again.txt");
        fs::write(path(root).join(&name), &name).unwrap();
        found(&master, &name).await;
        // What comes later is heard of.
        let name = format!("{root}-later.txt");
        fs::write(path(root).join(&name), &name).unwrap();
        found(&master, &name).await;
    }
    for name in ["one.txt", "two.txt", "a.txt"] {
        gone(&master, name).await;
    }
    // Another folder is put in its place.
    fs::create_dir(path("other")).unwrap();
    fs::write(path("other/b.txt"), "b").unwrap();
    fs::rename(path("hand"), path("before")).unwrap();
    fs::rename(path("other"), path("hand")).unwrap();
    found(&master, "b.txt").await;
    gone(&master, "hand-again.txt").await;
    fs::write(path("before/never.txt"), "never").unwrap();
    fs::write(path("hand/c.txt"), "c").unwrap();
    found(&master, "c.txt").await;
    let shared = anna.shared().await.unwrap();
    assert!(shared.iter().all(|shared| shared.entry.name.as_str() != "never.txt"), "{shared:?}");
}

/// A disk is unplugged, and plugged in again.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_away_keeps_its_names_and_they_come_back_with_it() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.file("disk/photos/a.jpg", b"a");
    anna.file("disk/photos/sub/b.jpg", b"b");
    let (disk, away) = (anna.dir.path().join("files/disk"), anna.dir.path().join("files/unplugged"));
    anna.share(vec![disk.join("photos")], None).outcome().await.unwrap();
    let version = found(&ben, "a.jpg").await.entry.version;
    fs::rename(&disk, &away).unwrap();
    let suspended = async |node: &TestNode, count: u64| {
        until("the names are suspended", async || {
            let shared = node.status().await.unwrap().shared;
            (shared.suspended == count && shared.entries == 2).then_some(())
        })
        .await;
    };
    suspended(&anna, 2).await;
    // Kept, and not served.
    assert_eq!(found(&ben, "sub/b.jpg").await.entry.owner, anna.ready().peer_id);
    assert_eq!(ben.fetch("a.jpg").await.unwrap_err().kind(), ErrorKind::NotFound);
    let other = ben.file("a.jpg", b"ben's");
    let report = ben.share(vec![other], None).outcome().await.unwrap();
    assert!(matches!(report.entries[0].standing, Standing::Conflict { .. }), "{report:?}");
    assert!(anna.shared().await.unwrap().iter().all(|shared| shared.suspended));
    // A restart without it changes nothing.
    let addresses = master.ready().listen;
    let anna = TestNode::try_start(swarmdex::config::Role::Peer, anna.stop().await, |config| config.master = addresses);
    let anna = anna.await.unwrap();
    crate::harness::joined(&anna).await;
    suspended(&anna, 2).await;
    until("the master holds them", async || (anna.status().await.unwrap().shared.certified == 2).then_some(())).await;
    fs::rename(&away, &disk).unwrap();
    suspended(&anna, 0).await;
    assert_eq!(fs::read(ben.fetch("sub/b.jpg").await.unwrap().path).unwrap(), b"b");
    assert!(found(&ben, "a.jpg").await.entry.version >= version);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_are_unmounted_are_away_and_those_that_are_mounted_are_seen() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let files = TempDir::new().unwrap();
    let path = |name: &str| files.path().canonicalize().unwrap().join(name);
    let source = |name: &str| {
        file(files.path(), &format!("disks/{name}/{name}.txt"), name.as_bytes());
        path(&format!("disks/{name}"))
    };
    for folder in ["root", "above/photos", "below"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    file(files.path(), "below/own.txt", b"own");
    let Some(first) = Bind::mount(&source("first"), &path("root")) else { return };
    fs::create_dir(path("disks/photos")).unwrap();
    file(files.path(), "disks/second/photos/second.txt", b"second");
    let second = Bind::mount(&path("disks/second"), &path("above")).unwrap();
    for root in ["root", "above/photos", "below"] {
        anna.share(vec![path(root)], None).outcome().await.unwrap();
    }
    // Mounted later, in a shared folder.
    fs::create_dir(path("below/usb")).unwrap();
    let third = Bind::mount(&source("third"), &path("below/usb")).unwrap();
    for name in ["first.txt", "second.txt", "own.txt", "usb/third.txt"] {
        found(&master, name).await;
    }
    drop((first, second, third));
    let suspended = async |count: u64| {
        until("the names are suspended", async || {
            let shared = anna.status().await.unwrap().shared;
            (shared.suspended == count && shared.entries == 4).then_some(())
        })
        .await;
    };
    suspended(3).await;
    for name in ["first.txt", "second.txt", "own.txt", "usb/third.txt"] {
        assert_eq!(found(&master, name).await.entry.owner, anna.ready().peer_id, "{name}");
    }
    // A restart without them, and with them again.
    let addresses = master.ready().listen;
    let anna = TestNode::try_start(swarmdex::config::Role::Peer, anna.stop().await, |config| config.master = addresses);
    let anna = anna.await.unwrap();
    until("the names are kept", async || {
        let shared = anna.status().await.unwrap().shared;
        (shared.suspended == 3 && shared.entries == 4 && shared.certified == 4).then_some(())
    })
    .await;
    let _first = Bind::mount(&path("disks/first"), &path("root")).unwrap();
    let _second = Bind::mount(&path("disks/second"), &path("above")).unwrap();
    let _third = Bind::mount(&path("disks/third"), &path("below/usb")).unwrap();
    until("all is there again", async || (anna.status().await.unwrap().shared.suspended == 0).then_some(())).await;
    // And heard of again.
    for (disk, name) in [("first", "a.txt"), ("second/photos", "b.txt"), ("third", "c.txt")] {
        fs::write(path("disks").join(disk).join(name), name).unwrap();
    }
    for name in ["a.txt", "b.txt", "usb/c.txt"] {
        found(&master, name).await;
    }
    // What is deleted on a disk that is there is gone.
    fs::remove_file(path("disks/third/third.txt")).unwrap();
    gone(&master, "usb/third.txt").await;
}

/// Writes a line into a file again and again until it is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    writing: Option<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn write(path: PathBuf) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        let writing = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                file.write_all(b"line\n").unwrap();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Self { stop, writing: Some(writing) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.writing.take().map(std::thread::JoinHandle::join));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_at_rest_are_announced_whatever_is_being_written_beside_them() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.file("d/x.txt", b"x");
    anna.file("in/photo.jpg", b"photo");
    anna.file("in/sub/photo2.jpg", b"photo 2");
    let files = anna.dir.path().join("files");
    anna.share(vec![files.join("d")], None).outcome().await.unwrap();
    let busy = Busy::write(files.join("in/app.log"));
    fs::rename(files.join("in"), files.join("d/album")).unwrap();
    for name in ["album/photo.jpg", "album/sub/photo2.jpg"] {
        found(&master, name).await;
    }
    // Neither does what is in the root itself, nor beside it in a folder that is made file by file.
    let other = Busy::write(files.join("d/root.log"));
    for number in 0..3 {
        anna.file(&format!("d/made/{number}/{number}.txt"), b"made");
        found(&master, &format!("made/{number}/{number}.txt")).await;
    }
    let shared = anna.shared().await.unwrap();
    assert!(shared.iter().all(|shared| !shared.entry.name.as_str().ends_with(".log")), "{shared:?}");
    drop((busy, other));
    for name in ["album/app.log", "root.log"] {
        found(&master, name).await;
    }
}

#[test]
fn what_is_to_be_left_out_is_and_the_answer_counts_it() {
    let folder = TempDir::new().unwrap();
    let (master, at) = master(folder.path());
    let home = folder.path().join("home");
    for name in [".env", ".netrc", "Thumbs.db", "x.part", ".dot", "a.txt", "b.log", "c.raw"] {
        file(&home, name, name.as_bytes());
    }
    file(&home, ".swarmdexignore", b"*.raw\n");
    // The data directory of a node that runs, in the shared folder.
    let other = Process::start("peer", &made(&home, "node"), &[&at[0], &at[1]]);
    let peer = start(folder.path(), &at, &[]);
    let output = peer.command(&["share", text(&home), "--exclude", "*.log", "--exclude", "/node/log-*"]);
    assert_eq!(code(&output), 0);
    let said = stderr(&output);
    for part in
        ["2 that may hold secrets", "2 of junk", "2 hidden", "1 by .swarmdexignore", "1 data directories", ".env"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(names(&peer.json(&["ls"])), ["a.txt", "node/test.toml"]);
    assert_eq!(code(&master.command(&["lookup", "node/data/identity.key"])), 3);
    let report = peer.json(&["share", text(&home), "--hidden", "--no-ignore", "--exclude", "node"]);
    assert_eq!(report["left_out"]["excluded"], 1);
    let all = [".dot", ".env", ".netrc", ".swarmdexignore", "Thumbs.db", "a.txt", "b.log", "c.raw", "x.part"];
    assert_eq!(names(&peer.json(&["ls"])), all);
    assert_eq!(code(&peer.command(&["share", text(&home), "--exclude", "{a,b"])), 2);
    assert_eq!(code(&peer.command(&["share", text(&other.data)])), 7);
    assert_eq!(code(&peer.command(&["share", text(&peer.data.join("identity.key"))])), 7);
    // With flags, which say it for what they name.
    stop(peer);
    let flags = ["--share", text(&home), "--exclude", "*.txt", "--exclude", "node"];
    let peer = start(&made(folder.path(), "second"), &at, &flags);
    peer.until(&["ls"], |list| names(list) == ["b.log"]);
    let roots = peer.json(&["ls", "--roots"]);
    assert_eq!((&roots[0]["exclude"][0], &roots[0]["hidden"]), (&"*.txt".into(), &false.into()));
    assert!(roots[0]["examples"].as_array().unwrap().iter().any(|left| left["why"] == "secret"), "{roots}");
}

/// Without a watch, roots are looked after all the same.
#[tokio::test(flavor = "multi_thread")]
async fn without_watching_roots_that_come_and_go_are_seen() {
    let master = TestNode::master().await;
    let files = TempDir::new().unwrap();
    let late = files.path().canonicalize().unwrap().join("late");
    let named = vec![late.clone()];
    let anna = TestNode::peer_with(&master, |config| {
        config.watch = false;
        config.share = named;
        config.share_from = Origin::Flag;
    })
    .await;
    fs::create_dir(&late).unwrap();
    fs::write(late.join("one.txt"), "1").unwrap();
    found(&master, "one.txt").await;
    fs::rename(&late, files.path().join("away")).unwrap();
    until("it is away", async || (anna.status().await.unwrap().shared.suspended == 1).then_some(())).await;
    fs::rename(files.path().join("away"), &late).unwrap();
    until("it is back", async || (anna.status().await.unwrap().shared.suspended == 0).then_some(())).await;
}
