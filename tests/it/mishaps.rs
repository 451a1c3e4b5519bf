//! What goes wrong with a transfer while nobody lies, each with the bytes counted that are fetched twice.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use swarmdex::config::Config;
use swarmdex::node::{ErrorKind, GetRequest, Standing};
use swarmdex_protocols::ContentId;
use swarmdex_protocols::fetch::{ChunkRun, FetchRequest};
use swarmdex_protocols::index::{self, Leave};

use crate::disks::Disk;
use crate::harness::{TestNode, downloaded, found, gone, noise, until, uploaded};
use crate::holders::{answer, chunks};
use crate::stranger::{FETCH_UNREAD, Reply, Stranger, framed};

const CHUNK: u64 = 256 << 10;
/// Most that is on its way from one source, in bytes.
const WINDOW: u64 = 8 << 20;

fn request(name: &str, output: std::path::PathBuf) -> GetRequest {
    GetRequest { name: name.to_owned(), output, recursive: false }
}

/// Transfer: the only source vanishes at 99 %, and the next day, after a restart, another peer has the file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_after_99_percent_comes_from_another_peer_the_next_day() {
    let master = TestNode::master().await;
    let bytes = noise(21, 100 * CHUNK as usize);
    let (stranger, id, session) = Stranger::offering(&master, "file", &bytes).await;
    let (copy, served) = (bytes.clone(), AtomicU64::new(0));
    stranger.answer(move |run| {
        match served.fetch_add(u64::from(run.count), Ordering::Relaxed) + u64::from(run.count) {
            100.. => Reply::Stall(Vec::new()),
            _ => {
                let (header, body) = chunks(&copy, run);
                Reply::Bytes(answer(&header, &body))
            }
        }
    });
    let quick = |config: &mut Config| config.fetch.timeout = Duration::from_secs(1);
    let ben = TestNode::peer_with(&master, quick).await;
    let mut operation = ben.get(request("file", ben.output()));
    let seen = operation.progress();
    let error = operation.outcome().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    stranger.ask(id, &index::IndexRequest::Leave(Leave { session })).await;
    drop(stranger);
    let first = seen.borrow().done_bytes;
    let addresses = master.ready().listen;
    let ben = TestNode::try_start(swarmdex::config::Role::Peer, ben.stop().await, |config| config.master = addresses);
    let ben = ben.await.unwrap();
    gone(&ben, "file").await;
    let carl = TestNode::peer(&master).await;
    carl.share_file("file", &bytes).await;
    let got = ben.fetch("file").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    let twice = first + downloaded(&ben).await - bytes.len() as u64;
    assert!(first >= 90 * CHUNK && twice == 0, "{first} bytes were there, {twice} were fetched twice");
}

/// Transfer: the source edits the file in the middle; another one has it as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_edited_in_the_middle_of_its_transfer_comes_from_another_peer_as_it_was() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(22, 96 << 20);
    let path = anna.share_file("file", &bytes).await;
    let mut operation = ben.get(request("file", ben.output()));
    let mut seen = operation.progress();
    seen.wait_for(|progress| progress.done_bytes >= 4 << 20).await.unwrap();
    operation.pause();
    // As long as before, and not even a new file.
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"edited", 90 << 20).unwrap();
    let carl = TestNode::peer(&master).await;
    carl.share_file("copy", &bytes).await;
    until("others can find what carl has", async || {
        let mirror = carl.status().await.unwrap().dht.mirror;
        // The certificate is published by the master first.
        (!mirror.changing && mirror.records > 2 && mirror.published + 1 >= mirror.records).then_some(())
    })
    .await;
    operation.resume();
    let report = operation.outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    let twice = downloaded(&ben).await - bytes.len() as u64;
    assert!(twice <= WINDOW, "{twice} bytes were fetched twice");
}

/// Transfer: the same where nobody else has it: an error that says so, and then the file as it is now.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_edited_in_the_middle_of_its_transfer_is_gone_and_fetched_anew() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let mut bytes = noise(23, 96 << 20);
    let path = anna.share_file("file", &bytes).await;
    let before = found(&ben, "file").await.entry.content;
    let mut operation = ben.get(request("file", ben.output()));
    let mut seen = operation.progress();
    seen.wait_for(|progress| progress.done_bytes >= 4 << 20).await.unwrap();
    operation.pause();
    bytes[90 << 20..][..6].copy_from_slice(b"edited");
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"edited", 90 << 20).unwrap();
    operation.resume();
    let error = operation.outcome().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(!ben.output().join("file").exists());
    // The owner sees by itself that the file is another one now.
    until("the new content is announced", async || (found(&ben, "file").await.entry.content != before).then_some(()))
        .await;
    let start = downloaded(&ben).await;
    let got = ben.fetch("file").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    let twice = downloaded(&ben).await - start - bytes.len() as u64;
    assert_eq!(twice, 0, "bytes were fetched twice");
    assert_eq!(ben.leftovers(), ["file"]);
}

/// Transfer: a full disk is known at the first byte, and who has room for the file alone has it; afterwards there is room, and
/// it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_at_any_stage_is_a_clear_error_and_then_the_download_goes_on() {
    const SIZE: u64 = 24 << 20;
    const PAGE: u64 = 4096;
    let Some(disk) = Disk::small(SIZE) else { return };
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(24, SIZE as usize);
    anna.share_file("file", &bytes).await;
    let mut failures = 0;
    for room in [SIZE / 2, SIZE - PAGE, SIZE, SIZE + PAGE, SIZE + 2 * PAGE, SIZE + 3 * PAGE, SIZE + 4 * PAGE] {
        disk.resize(room);
        let before = downloaded(&ben).await;
        if let Err(error) = ben.get(request("file", disk.path())).outcome().await {
            failures += 1;
            assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
            assert!(error.to_string().contains("no room"), "{error}");
            assert!(!disk.names().contains(&"file".to_owned()));
            let wasted = downloaded(&ben).await - before;
            assert!(room > SIZE || wasted == 0, "{wasted} bytes were fetched where there is no room");
            disk.resize(2 * SIZE);
            ben.get(request("file", disk.path())).outcome().await.unwrap();
        }
        assert!(std::fs::read(disk.path().join("file")).unwrap() == bytes);
        assert_eq!(disk.names(), ["file"]);
        let twice = downloaded(&ben).await - before - SIZE;
        // What was on its way, and what waited to be written.
        assert!(twice <= 2 * WINDOW, "{room} bytes of room: {twice} bytes were fetched twice");
        std::fs::remove_file(disk.path().join("file")).unwrap();
    }
    // What is written beside the file is left out where there is no room for it.
    assert_eq!(failures, 2, "there was room for the file otherwise");
}

/// Transfer: the disk fills up in the middle where no room can be set aside. Files that differ in capitals alone go to
/// a disk that takes them for one: the first is there, the other is reported, and nothing is overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_or_is_blind_to_case_loses_nothing() {
    const SIZE: u64 = 20 << 20;
    let Some(disk) = Disk::blind_to_case() else { return };
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(25, SIZE as usize);
    anna.share_file("file", &bytes).await;
    let mut operation = ben.get(request("file", disk.path()));
    let mut seen = operation.progress();
    seen.wait_for(|progress| progress.done_bytes >= 1 << 20).await.unwrap();
    operation.pause();
    let junk = disk.path().join("junk");
    let full = std::fs::write(&junk, vec![1; 31 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    operation.resume();
    let error = operation.outcome().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    std::fs::remove_file(junk).unwrap();
    let report = ben.get(request("file", disk.path())).outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    assert_eq!(disk.names(), ["file"]);
    let twice = downloaded(&ben).await - SIZE;
    assert!(twice <= WINDOW, "{twice} bytes were fetched twice");

    for (number, name) in ["Read", "READ", "read", "other", "large", "Large"].into_iter().enumerate() {
        let length = if name.len() == 5 { 600_000 } else { 1000 };
        anna.file(&format!("tree/{name}"), &noise(number as u64, length));
    }
    anna.share(vec![anna.dir.path().join("files/tree")], Some("tree".to_owned())).outcome().await.unwrap();
    let before = downloaded(&ben).await;
    let request = GetRequest { name: "tree".to_owned(), output: disk.path().join("tree"), recursive: true };
    let report = ben.get(request).outcome().await.unwrap();
    assert_eq!((report.files.len(), report.failed.len()), (3, 3), "{report:?}");
    for file in report.files {
        let number = ["Read", "READ", "read", "other", "large", "Large"]
            .iter()
            .position(|name| file.name.as_str() == format!("tree/{name}"));
        assert!(std::fs::read(&file.path).unwrap() == noise(number.unwrap() as u64, file.bytes as usize));
    }
    assert_eq!(std::fs::read_dir(disk.path().join("tree")).unwrap().count(), 3);
    assert!(downloaded(&ben).await - before <= 3 * 1000 + 1000 + 2 * 600_000);
}

/// Transfer: a hundred thousand small files, and one of a terabyte that nearly all is a hole.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_small_files_arrive_once() {
    const FILES: u64 = 100_000;
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let mut bytes = 0;
    for number in 0..FILES {
        let text = format!("file {number}");
        bytes += text.len() as u64;
        anna.file(&format!("tree/{}/{}/{number}", number % 10, number / 10 % 100), text.as_bytes());
    }
    let report = anna.share(vec![anna.dir.path().join("files/tree")], Some("tree".to_owned())).outcome().await.unwrap();
    let certified = report.entries.iter().filter(|entry| entry.standing == Standing::Certified).count();
    assert_eq!(certified as u64, FILES, "a command waits while verdicts come");
    let report = ben.fetch_below("tree").await.unwrap();
    assert_eq!((report.files.len() as u64, report.failed.len()), (FILES, 0));
    for number in (0..FILES).step_by(97) {
        let path = ben.output().join(format!("{}/{}/{number}", number % 10, number / 10 % 100));
        assert_eq!(std::fs::read_to_string(path).unwrap(), format!("file {number}"));
    }
    assert_eq!(downloaded(&ben).await, bytes, "nothing was fetched twice");
}

/// Transfer: a file of a terabyte that is one hole takes its time to be hashed: meanwhile the node serves others, and
/// it stops when it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_terabyte_that_is_shared_disturbs_nobody() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let huge = anna.file("huge", b"");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let operation = anna.share(vec![huge], None);
    let mut seen = operation.progress();
    seen.wait_for(|progress| progress.done_bytes >= 64 << 20).await.unwrap();
    let bytes = noise(26, 8 << 20);
    anna.share_file("file", &bytes).await;
    let got = ben.fetch("file").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    assert_eq!(downloaded(&ben).await, bytes.len() as u64, "nothing was fetched twice");
    assert_eq!(ben.lookup("huge").await.unwrap_err().kind(), ErrorKind::NotFound);
    drop(operation);
    tokio::time::timeout(Duration::from_secs(5), anna.stop()).await.expect("it stops in the middle of hashing");
}

/// Transfer: a file that is mostly holes arrives as what it stands for.
#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_file_arrives() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let path = anna.file("sparse", b"");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"data", 33 << 20).unwrap();
    let report = anna.share(vec![path.clone()], None).outcome().await.unwrap();
    assert_eq!(report.entries[0].standing, Standing::Certified);
    let got = ben.fetch("sparse").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == std::fs::read(path).unwrap());
    assert_eq!(downloaded(&ben).await, 64 << 20, "nothing was fetched twice");
}

/// Transfer: slow-loris clients ask for much and read nothing: who reads is served as if they were not there.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_nobody_else_up() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(27, 32 << 20);
    anna.share_file("file", &bytes).await;
    let run = |first| FetchRequest::Chunks(ChunkRun { content: ContentId::of(&bytes), first, count: 4 }.into());
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let (stranger, id) = Stranger::at(&anna).await;
        let stranger = Arc::new(stranger);
        for number in 0..16 {
            let (stranger, request) = (stranger.clone(), framed(&run(number)));
            waiting.push(tokio::spawn(async move { stranger.send(FETCH_UNREAD, id, request).await }));
        }
    }
    until("they are being served", async || (uploaded(&anna).await > 0).then_some(())).await;
    let got = tokio::time::timeout(Duration::from_secs(8), ben.fetch("file")).await.expect("served in time").unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    assert_eq!(downloaded(&ben).await, bytes.len() as u64, "nothing was fetched twice");
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
