//! Files and folders that somebody changes at the worst moment: while a folder is walked, while a chunk is sent.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, FallocateFlags, RenameFlags, fallocate, renameat_with};
use swarmdex::config::ShareOptions;
use swarmdex_protocols::ContentId;

use crate::harness::{TestNode, found, noise, until};

const FILES: u64 = 40;
const SIZE: usize = 3 << 20;

/// Does something again and again until it is dropped, a last time included.
struct Again<'a>(&'a AtomicBool);

impl Drop for Again<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// What lies behind a link is never shared, however often the link takes the place of a folder, or of a file, that is shared.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_turns_into_a_link_while_it_is_walked_gives_nothing_away() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let (mut own, mut foreign) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..FILES {
        for (folder, seed, contents) in [("files/deep", number, &mut own), ("elsewhere", FILES + number, &mut foreign)]
        {
            let bytes = noise(seed, 100 + number as usize);
            contents.insert(ContentId::of(&bytes));
            anna.file(&format!("{folder}/{number}"), &bytes);
        }
    }
    let files = anna.file("files/plain", b"plain").parent().unwrap().to_owned();
    own.insert(ContentId::of(b"plain"));
    let top = files.parent().unwrap();
    let link = |name: &str, to: &str| {
        let link = top.join(name);
        std::os::unix::fs::symlink(top.join(to), &link).unwrap();
        link
    };
    let (to_folder, to_file) = (link("to-folder", "elsewhere"), link("to-file", "elsewhere/0"));
    let over = AtomicBool::new(false);
    let share = async || {
        let options = ShareOptions { rehash: true, ..ShareOptions::default() };
        // That a folder is away, or a file, is for the report to say.
        anna.share_with(vec![files.clone()], None, options).outcome().await
    };
    thread::scope(|scope| {
        let swapping = Again(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for (one, other) in [(files.join("deep"), &to_folder), (files.join("plain"), &to_file)] {
                    exchange(&one, other);
                    thread::yield_now();
                    exchange(&one, other);
                }
            }
        });
        let rounds = async {
            let _swapping = swapping;
            for _ in 0..30 {
                let shared = share().await.map(|report| report.entries).unwrap_or_default();
                let contents: BTreeSet<_> = shared.iter().map(|info| info.entry.content).collect();
                assert!(contents.is_subset(&own), "{:?}", contents.difference(&own).collect::<Vec<_>>());
                let all = anna.shared().await.unwrap();
                assert!(all.iter().all(|info| own.contains(&info.entry.content)));
            }
            // Nor is it sent: whoever asks gets what was announced, or nothing.
            for number in 0..FILES {
                if let Ok(got) = ben.fetch(&format!("files/deep/{number}")).await {
                    assert!(own.contains(&ContentId::of(&fs::read(got.path).unwrap())));
                }
            }
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(rounds));
    });
    // And when it is over, all is shared as it is.
    let report = share().await.unwrap();
    assert_eq!(report.entries.iter().map(|info| info.entry.content).collect::<BTreeSet<_>>(), own);
    assert!(own.is_disjoint(&foreign));
}

/// A name, and what is done to a file.
type Change = (&'static str, fn(&Path));

/// Each leaves the file in a state of its own, by one call.
const CHANGES: [Change; 4] = [
    ("truncated", |path| open(path).set_len(SIZE as u64 / 3).unwrap()),
    ("punched", |path| {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(open(path), flags, SIZE as u64 / 4, SIZE as u64 / 2).unwrap();
    }),
    ("grown", |path| open(path).set_len(SIZE as u64 + 100_000).unwrap()),
    ("replaced", |path| put(path, &noise(77, SIZE))),
];

fn open(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

/// Puts bytes in the place of a file at once.
fn put(path: &Path, bytes: &[u8]) {
    let beside: PathBuf = path.with_file_name(".new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, path).unwrap();
}

/// Whatever is done to a file while its chunks are sent: who downloads it gets what it was at one time, or a clear
/// error and no file. What it is in the end can be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_its_chunks_are_sent_is_received_whole_or_not_at_all() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for (kind, change) in CHANGES {
        let name = format!("{kind}.bin");
        let base = noise(5, SIZE);
        let path = anna.file(&name, &base);
        let scratch = anna.file(&format!("{kind}.scratch"), &base);
        change(&scratch);
        let states = [base.clone(), fs::read(&scratch).unwrap()];
        anna.share(vec![path.clone()], None).outcome().await.unwrap();
        found(&ben, &name).await;
        for _ in 0..8 {
            let changing = async {
                tokio::task::yield_now().await;
                let path = path.clone();
                tokio::task::spawn_blocking(move || change(&path)).await.unwrap();
            };
            let (got, ()) = tokio::join!(ben.fetch(&name), changing);
            match got {
                Ok(got) => {
                    let bytes = fs::read(&got.path).unwrap();
                    assert!(states.contains(&bytes), "{kind}: {} bytes that never were", bytes.len());
                    fs::remove_file(got.path).unwrap();
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    assert!(!ben.output().join(&name).exists(), "{kind}: {error}");
                }
            }
            put(&path, &base);
            until("what it is in the end can be had", async || {
                let got = ben.fetch(&name).await.ok()?;
                let bytes = fs::read(&got.path).unwrap();
                fs::remove_file(got.path).unwrap();
                assert!(states.contains(&bytes));
                (bytes == base).then_some(())
            })
            .await;
        }
    }
}
