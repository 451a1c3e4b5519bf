//! Downloads from many sources, cut off and taken up again, passed on before they are whole; and holders that lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use swarmdex::Error;
use swarmdex::node::{GetRequest, Operation};
use swarmdex_protocols::content::{Geometry, Outboard, chunk_value, verify_chunk};
use swarmdex_protocols::fetch::{AnyOf, ChunkRun, FetchRequest, Have, Header, Want};
use swarmdex_protocols::index::{Announce, Offer, Sequence};
use swarmdex_protocols::{ChunkSet, ContentId};
use tempfile::TempDir;

use crate::harness::{Process, TestNode, code, downloaded, found, noise, program, stderr, until, uploaded};
use crate::holders::{lying, taken_apart};
use crate::stranger::{FETCH, Reply, Stranger, framed};

const CHUNK: usize = 256 << 10;

fn request(node: &TestNode, name: &str) -> GetRequest {
    GetRequest { name: name.to_owned(), output: node.output(), recursive: false }
}

async fn progress<T>(operation: &Operation<T>, bytes: u64) {
    let mut progress = operation.progress();
    progress.wait_for(|progress| progress.done_bytes >= bytes).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn four_owners_serve_one_download_and_three_of_them_die_in_its_middle() {
    let master = TestNode::master().await;
    let bytes = noise(1, 96 << 20);
    let mut owners = Vec::new();
    for number in 0..4 {
        let owner = TestNode::peer(&master).await;
        owner.share_file(&format!("copy {number}"), &bytes).await;
        owners.push(owner);
    }
    let ben = TestNode::peer_with(&master, |config| config.fetch.reshare = false).await;
    let got = ben.fetch("copy 2").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    assert!(got.sources.len() > 1, "{:?}", got.sources);
    std::fs::remove_file(&got.path).unwrap();

    let begin = std::time::Instant::now();
    let mut operation = ben.get(request(&ben, "copy 2"));
    progress(&operation, 1 << 20).await;
    owners[..3].iter().for_each(TestNode::abandon);
    let report = operation.outcome().await.unwrap();
    // Not for as long as connections take to be given up.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
}

/// Transfer: wrong bytes in a chunk from one of three sources: it is blamed and asked no more, the download completes.
#[tokio::test(flavor = "multi_thread")]
async fn a_liar_among_three_sources_costs_only_its_own_chunks() {
    let master = TestNode::master().await;
    let bytes = noise(2, 24 << 20);
    let (liar, asked) = lying(&master, "copy of the liar", &bytes).await;
    let (anna, cleo) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("copy of anna", &bytes).await;
    cleo.share_file("copy of cleo", &bytes).await;
    let ben = TestNode::peer(&master).await;
    let got = ben.fetch("copy of anna").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    assert!(!got.sources.contains(&liar.peer), "{:?}", got.sources);
    // What was asked of it before its first answer was verified, and nothing after.
    assert!((1..=16).contains(&asked.load(Ordering::Relaxed)), "asked {asked:?} times");
    let fetched = uploaded(&anna).await + uploaded(&cleo).await;
    assert!(fetched <= bytes.len() as u64 + (4 << 20), "{fetched} bytes of {}", bytes.len());
}

/// A holder whose set of chunks is a lie - everything, nothing it has, bits beyond the end, or of another length - holds
/// nobody up.
#[tokio::test(flavor = "multi_thread")]
async fn a_bitmap_that_lies_costs_a_few_requests() {
    let master = TestNode::master().await;
    let bytes = noise(3, 24 << 20);
    let anna = TestNode::peer(&master).await;
    anna.share_file("file", &bytes).await;
    let content = ContentId::of(&bytes);
    for lie in 0..4 {
        let (liar, id) = Stranger::at(&anna).await;
        let chunks = (bytes.len() / CHUNK) as u64;
        liar.answer_all(move |request| match request {
            FetchRequest::Have(_) => {
                let body = match lie {
                    0 => Vec::new(),
                    1 => vec![0xff; chunks.div_ceil(8) as usize],
                    2 => vec![0xff; 3],
                    _ => vec![0xff; 100_000],
                };
                let header =
                    Header::Have { bytes: body.len() as u32, whole: lie == 0, others: Vec::new(), sending: false };
                Reply::Bytes([framed(&header), body].concat())
            }
            _ => Reply::Bytes(framed(&Header::Refused(swarmdex_protocols::fetch::FetchRefusal::NotFound))),
        });
        // It is named to whoever asks anna.
        let have = FetchRequest::Have(Have { content, addresses: liar.listen.clone(), have: Vec::new() });
        liar.send(FETCH, id, framed(&have)).await.unwrap();
        let ben = TestNode::peer(&master).await;
        let got = tokio::time::timeout(Duration::from_secs(20), ben.fetch("file")).await.unwrap().unwrap();
        assert!(std::fs::read(&got.path).unwrap() == bytes);
        assert_eq!(got.sources, [anna.ready().peer_id], "lie {lie}");
    }
}

/// Whoever asks for a chunk and says along with it what it has is taken at its word, and given up when that is a lie.
#[tokio::test(flavor = "multi_thread")]
async fn a_word_along_with_a_request_is_heard_and_a_lie_costs_a_few_requests() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(31, 100 << 20);
    anna.share_file("file", &bytes).await;
    let (content, geometry) = (ContentId::of(&bytes), Geometry::new(bytes.len() as u64).unwrap());
    let mut operation = ben.get(request(&ben, "file"));
    progress(&operation, 1 << 20).await;
    operation.pause();
    let (stranger, id) = Stranger::at(&ben).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    stranger.answer_all(move |request| {
        if let FetchRequest::Chunks(_) = request {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Reply::Bytes(framed(&Header::Refused(swarmdex_protocols::fetch::FetchRefusal::NotFound)))
    });
    let run = ChunkRun { content, first: 0, count: 1 };
    let all = vec![0xff; geometry.chunks().div_ceil(8) as usize];
    for have in [vec![1; 3], [&all[..], &[1]].concat(), vec![0xff; 10_000], all] {
        let want = Want { have, ..run.into() };
        stranger.send(FETCH, id, framed(&FetchRequest::Chunks(want))).await.unwrap();
    }
    operation.resume();
    let report = operation.outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    assert_eq!(report.files[0].sources, [anna.ready().peer_id]);
    let asked = asked.load(Ordering::Relaxed);
    assert!((1..=16).contains(&asked), "asked {asked} times");
}

/// Where any of several chunks would do, the holder sends those that it has not sent, each with its proof.
#[tokio::test(flavor = "multi_thread")]
async fn where_any_chunk_would_do_the_one_sent_least_comes() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let bytes = noise(30, 20 * CHUNK);
    anna.share_file("file", &bytes).await;
    let (content, geometry) = (ContentId::of(&bytes), Geometry::new(bytes.len() as u64).unwrap());
    let (stranger, id) = Stranger::at(&anna).await;
    let mut sent = std::collections::BTreeMap::new();
    for round in 0..3 {
        for _ in 0..5 {
            // Chunks beyond the end are no choice.
            let any = framed(&FetchRequest::Any(AnyOf::new(content, 3, [3, 7, 11, 13, 19])));
            let (header, body) = taken_apart(&stranger.send(FETCH, id, any).await.unwrap());
            let (first, proof) = match header {
                Header::Chunks { mut proofs, .. } => (3, proofs.remove(0)),
                Header::Instead { first, proof, .. } => (first, proof),
                other => panic!("{other:?}"),
            };
            verify_chunk(&content, &geometry, first, &body, &proof).unwrap();
            *sent.entry(first).or_insert(0) += 1;
        }
        let expected: Vec<_> = [3, 7, 11, 13, 19].map(|first| (first, round + 1)).into();
        assert_eq!(sent.iter().map(|(first, count)| (*first, *count)).collect::<Vec<_>>(), expected);
    }
    let beyond = framed(&FetchRequest::Any(AnyOf::new(content, 4000, [4001, u64::MAX])));
    let (header, _) = taken_apart(&stranger.send(FETCH, id, beyond).await.unwrap());
    assert!(matches!(header, Header::Refused(_)), "{header:?}");
}

/// A holder that sends another chunk where it was not asked for any is caught, whatever it says of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_nobody_would_take_instead_is_refused() {
    let master = TestNode::master().await;
    let bytes = noise(31, 24 << 20);
    let (liar, _, _) = Stranger::offering(&master, "copy of the liar", &bytes).await;
    let copy = bytes.clone();
    liar.answer(move |run| {
        let geometry = Geometry::new(copy.len() as u64).unwrap();
        let values = copy.chunks(CHUNK).enumerate().map(|(index, piece)| chunk_value(&geometry, index as u64, piece));
        let (outboard, _) = Outboard::build(geometry, values.collect()).unwrap();
        // A right chunk with its right proof: only nobody asked for it.
        let first = (run.first + 50) % geometry.chunks();
        let body = &copy[first as usize * CHUNK..(first as usize + 1) * CHUNK];
        let proof = outboard.proof(first).unwrap();
        Reply::Bytes([&framed(&Header::Instead { first, bytes: CHUNK as u32, proof }), body].concat())
    });
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("copy of anna", &bytes).await;
    let got = ben.fetch("copy of anna").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    assert_eq!(got.sources, [anna.ready().peer_id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_download_goes_on_and_passes_on_what_it_has() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(4, 200 << 20);
    let content = ContentId::of(&bytes);
    anna.share_file("file", &bytes).await;
    let mut operation = ben.get(request(&ben, "file"));
    progress(&operation, 1 << 20).await;
    operation.pause();
    // Whoever asks learns which chunks are here, and gets them with their proofs.
    let (stranger, id) = Stranger::at(&ben).await;
    let geometry = Geometry::new(bytes.len() as u64).unwrap();
    let have = framed(&FetchRequest::Have(Have { content, addresses: Vec::new(), have: Vec::new() }));
    let (header, body) = taken_apart(&stranger.send(FETCH, id, have.clone()).await.unwrap());
    let Header::Have { whole, .. } = header else { panic!("{header:?}") };
    let held = ChunkSet::from_bytes(&body, geometry.chunks()).unwrap();
    assert!(!whole && !held.is_empty() && !held.is_full(), "{} of {}", held.len(), geometry.chunks());
    let index = held.iter().last().unwrap();
    let run = |first| framed(&FetchRequest::Chunks(ChunkRun { content, first, count: 1 }.into()));
    let (header, body) = taken_apart(&stranger.send(FETCH, id, run(index)).await.unwrap());
    let Header::Chunks { proofs, have: along, .. } = header else { panic!("{header:?}") };
    verify_chunk(&content, &geometry, index, &body, &proofs[0]).unwrap();
    let along = ChunkSet::from_bytes(&along, geometry.chunks()).unwrap();
    assert!(held.iter().all(|index| along.contains(index)), "what is here is told along with a chunk");
    let missing = (0..geometry.chunks()).rev().find(|index| !held.contains(*index)).unwrap();
    let (header, _) = taken_apart(&stranger.send(FETCH, id, run(missing)).await.unwrap());
    assert!(matches!(header, Header::Refused(_)), "{header:?}");

    operation.resume();
    let report = operation.outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    // Afterwards it is a holder of the whole, until the file changes.
    let (header, _) = taken_apart(&stranger.send(FETCH, id, have.clone()).await.unwrap());
    assert!(matches!(header, Header::Have { whole: true, .. }), "{header:?}");
    std::fs::write(&report.files[0].path, "changed").unwrap();
    let (header, _) = taken_apart(&stranger.send(FETCH, id, run(0)).await.unwrap());
    assert!(matches!(header, Header::Refused(_)), "{header:?}");
    let (header, _) = taken_apart(&stranger.send(FETCH, id, have).await.unwrap());
    assert!(matches!(header, Header::Refused(_)), "{header:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_goes_on_and_damage_is_fetched_anew() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(5, 200 << 20);
    anna.share_file("file", &bytes).await;
    let operation = ben.get(request(&ben, "file"));
    progress(&operation, 16 << 20).await;
    drop(operation);
    until("the download is over", async || (ben.status().await.unwrap().downloads == 0).then_some(())).await;
    let part = ben.output().join(".file.swarmdex-part");
    assert!(part.exists());
    // A part of what is there is spoilt on disk meanwhile.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&part).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 3 * CHUNK], CHUNK as u64).unwrap();
    let before = uploaded(&anna).await;
    let mut operation = ben.get(request(&ben, "file"));
    // What was there and is sound counts at once.
    let mut seen = operation.progress();
    let first = seen.wait_for(|progress| progress.done_bytes > 0).await.unwrap().done_bytes;
    let report = operation.outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    assert_eq!(ben.leftovers(), ["file"]);
    let again = uploaded(&anna).await - before;
    let size = bytes.len() as u64;
    assert!(first >= (15 << 20), "{first} bytes were there");
    // The window that was under way when it was cut off may have been sent after the count.
    assert!(again + first <= size + (10 << 20), "{again} bytes fetched although {first} of {size} were there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_download_can_be_begun_again_at_once() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(5, 200 << 20);
    anna.share_file("file", &bytes).await;
    // The thread that writes may still be at it when the next one begins.
    for part in 1..20 {
        let operation = ben.get(request(&ben, "file"));
        progress(&operation, part << 20).await;
    }
    let report = ben.get(request(&ben, "file")).outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    assert_eq!(ben.leftovers(), ["file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_downloads_of_one_content_share_the_work() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(6, 32 << 20);
    anna.share_file("file", &bytes).await;
    let at = |name: &str| GetRequest { output: ben.output().join(name), ..request(&ben, "file") };
    let (mut first, mut second) = (ben.get(at("one")), ben.get(at("two")));
    let (first, second) = tokio::join!(first.outcome(), second.outcome());
    for report in [first.unwrap(), second.unwrap()] {
        assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    }
    assert!(uploaded(&anna).await < bytes.len() as u64 * 3 / 2, "{}", uploaded(&anna).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_files_arrive_in_few_requests() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for number in 0..3000 {
        anna.file(&format!("tree/{}/{number}", number % 7), &noise(number, 1 + number as usize % 5000));
    }
    anna.file("tree/empty", b"");
    anna.file("tree/large", &noise(1, 3_000_000));
    anna.share(vec![anna.dir.path().join("files/tree")], Some("tree".to_owned())).outcome().await.unwrap();
    found(&ben, "tree/large").await;
    // One is in the way: the others come nevertheless.
    std::fs::create_dir_all(ben.output().join("3")).unwrap();
    std::fs::write(ben.output().join("3/10"), "mine").unwrap();
    let report = ben.fetch_below("tree").await.unwrap();
    assert_eq!((report.files.len(), report.failed.len()), (3001, 1), "{:?}", report.failed);
    for number in (0..3000u64).filter(|number| *number != 10) {
        let path = ben.output().join(format!("{}/{number}", number % 7));
        assert!(std::fs::read(path).unwrap() == noise(number, 1 + number as usize % 5000), "{number}");
    }
    assert_eq!(std::fs::read(ben.output().join("3/10")).unwrap(), b"mine");
    assert_eq!(std::fs::read(ben.output().join("large")).unwrap(), noise(1, 3_000_000));
    assert!(std::fs::read(ben.output().join("empty")).unwrap().is_empty());

    // Once more: what is in place is not fetched again, what is missing or was in the way is.
    let before = downloaded(&ben).await;
    std::fs::remove_file(ben.output().join("5/5")).unwrap();
    std::fs::remove_file(ben.output().join("3/10")).unwrap();
    let report = ben.fetch_below("tree").await.unwrap();
    assert_eq!((report.files.len(), report.failed.len()), (3002, 0), "{:?}", report.failed);
    assert_eq!(downloaded(&ben).await - before, 6 + 11);
    assert!(std::fs::read(ben.output().join("3/10")).unwrap() == noise(10, 11));
}

/// Small files of an owner that sends others instead are fetched elsewhere, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_that_are_not_what_they_should_be_are_not_put_in_place() {
    let master = TestNode::master().await;
    let (liar, id) = Stranger::at(&master).await;
    let session = liar.join(id).await.session;
    let offers =
        (0..3).map(|number: u64| Offer::new(format!("tree/{number}"), ContentId::of(&noise(number, 1000)), 1000));
    let announce = Announce { session, sequence: Sequence(1), offers: offers.collect(), last: false, total: None };
    liar.ask(id, &swarmdex_protocols::index::IndexRequest::Announce(announce)).await;
    liar.answer_all(|request| match request {
        FetchRequest::Files(contents) => {
            let header = Header::Files { bytes: 3000, sizes: vec![Some(1000); contents.len()] };
            Reply::Bytes([framed(&header), noise(1, 1000), noise(1, 1000), noise(1, 1000)].concat())
        }
        _ => Reply::Bytes(framed(&Header::Refused(swarmdex_protocols::fetch::FetchRefusal::NotFound))),
    });
    let ben = TestNode::peer(&master).await;
    let report = ben.fetch_below("tree").await.unwrap();
    assert_eq!((report.files.len(), report.failed.len()), (1, 2), "{report:?}");
    assert_eq!(ben.leftovers(), ["1"]);
    let cleo = TestNode::peer(&master).await;
    cleo.share_file("honest copy", &noise(2, 1000)).await;
    std::fs::remove_dir_all(ben.output()).unwrap();
    std::fs::create_dir_all(ben.output()).unwrap();
    assert_eq!(ben.fetch_below("tree").await.unwrap().files.len(), 2);
}

/// Transfer: `kill -9` of the receiver at random points: it goes on without fetching again what was verified, and
/// what is in place in the end is right.
#[test]
fn a_receiver_killed_again_and_again_fetches_little_twice() {
    const KILLS: u64 = 8;
    let folder = TempDir::new().unwrap();
    let made = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let bytes = noise(7, 300 << 20);
    let file = folder.path().join("file");
    std::fs::write(&file, &bytes).unwrap();
    let master = Process::start("master", &made("master"), &[]);
    let address = master.address();
    let owner = Process::start("peer", &made("owner"), &["--master", &address, "--share", file.to_str().unwrap()]);
    owner.until(&["ls"], |entries| entries.to_string().contains("certified"));
    let out = made("out");
    let part = out.join(".file.swarmdex-log");
    let mut kills = 0;
    let mut reached = 0;
    for round in 0u64.. {
        let mut ben = Process::start("peer", &made("ben"), &["--master", &address]);
        ben.until(&["status"], |status| status["master"]["state"] == "joined");
        let mut get = program();
        get.args(["get", "file", "-o", out.to_str().unwrap(), "--data-dir"]).arg(&ben.data);
        let mut child = get.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        // Killed when the journal has grown by so much more.
        reached += 20_000 + round * 9_000;
        let ended = loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if round < KILLS && std::fs::metadata(&part).is_ok_and(|metadata| metadata.len() >= reached) {
                break false;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if ended {
            let output = child.wait_with_output().unwrap();
            assert_eq!(code(&output), 0, "{}", stderr(&output));
            break;
        }
        ben.kill();
        let _ = child.wait();
        kills += 1;
    }
    assert!(std::fs::read(out.join("file")).unwrap() == bytes);
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["file"]);
    assert!(kills >= 2, "killed {kills} times");
    let sent = owner.json(&["status"])["uploaded_bytes"].as_u64().unwrap();
    // What was asked for and not yet written when it was killed comes again: at most a window each time.
    let most = bytes.len() as u64 + kills * (10 << 20);
    println!("{kills} kills: {sent} bytes sent of {}", bytes.len());
    assert!(sent <= most, "{sent} bytes were sent, {most} at most");
}

/// A download whose operation is cancelled while it is paused is over, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_download_can_be_cancelled() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("file", &noise(8, 100 << 20)).await;
    let mut operation = ben.get(request(&ben, "file"));
    progress(&operation, 1 << 20).await;
    operation.pause();
    operation.cancel();
    operation.resume();
    assert!(matches!(operation.outcome().await, Err(Error::Cancelled)));
    assert!(ben.leftovers().is_empty());
}
