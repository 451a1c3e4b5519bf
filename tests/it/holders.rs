//! Holders that lie, stall, or leave in the middle: caught, given up or asked again, each with the bytes counted that are
//! fetched twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use swarmdex::node::ErrorKind;
use swarmdex_protocols::content::{Geometry, Outboard, chunk_value};
use swarmdex_protocols::fetch::{self, AnyOf, Header};
use swarmdex_protocols::index::{Announce, IndexRequest, IndexResponse, Offer, Sequence, Verdict};
use swarmdex_protocols::{ChunkSet, ContentId, codec};

use crate::harness::{TestNode, downloaded, noise, tcp_address, until, uploaded};
use crate::stranger::{FETCH, Reply, Stranger, framed, framed_bytes};

/// Size of what hostile holders say they have, in bytes.
const SIZE: u64 = 3_000_000;
/// What may come from a liar in two downloads: all that it is asked for before its first answer was verified.
const LIES: u64 = 2 * (3 << 20);

/// Honest chunks of a content.
pub fn chunks(bytes: &[u8], run: fetch::ChunkRun) -> (Header, Vec<u8>) {
    let geometry = Geometry::new(bytes.len() as u64).unwrap();
    let pieces: Vec<_> = bytes.chunks(geometry.chunk_bytes() as usize).collect();
    let range = run.first as usize..run.first as usize + run.count as usize;
    let values = pieces.iter().enumerate().map(|(index, piece)| chunk_value(&geometry, index as u64, piece)).collect();
    let (outboard, _) = Outboard::build(geometry, values).unwrap();
    let proofs = range.clone().map(|index| outboard.proof(index as u64).unwrap()).collect();
    let body = pieces[range].concat();
    (Header::Chunks { bytes: body.len() as u32, proofs, have: Vec::new() }, body)
}

/// An answer as it goes over the wire.
pub fn answer(header: &Header, body: &[u8]) -> Vec<u8> {
    [&framed(header)[..], body].concat()
}

/// A member that offers a content, and sends a wrong byte with each run of chunks; and how often it was asked.
pub async fn lying(master: &TestNode, name: &str, content: &[u8]) -> (Stranger, Arc<AtomicUsize>) {
    let (liar, _, _) = Stranger::offering(master, name, content).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (counter, copy) = (asked.clone(), content.to_owned());
    liar.answer(move |run| {
        counter.fetch_add(1, Ordering::Relaxed);
        let (header, mut body) = chunks(&copy, run);
        body[100] ^= 1;
        Reply::Bytes(answer(&header, &body))
    });
    (liar, asked)
}

/// The header and the raw bytes of an answer.
pub fn taken_apart(answer: &[u8]) -> (Header, Vec<u8>) {
    let length = u32::from_be_bytes(*answer.first_chunk().unwrap()) as usize;
    (codec::decode(&answer[4..4 + length], 1 << 20).unwrap(), answer[4 + length..].to_vec())
}

fn reply(header: &Header, body: &[u8]) -> Reply {
    Reply::Bytes(answer(header, body))
}

/// A holder whose answers are wrong in every way: alone it fails the download, beside an honest holder it does not, and
/// hardly anything of what that one sends comes twice. `most` bytes may come from the liar in both downloads together.
async fn hostile_holder(
    what: &str,
    expected: ErrorKind,
    most: u64,
    answer: impl Fn(&[u8], fetch::ChunkRun) -> Reply + Send + Sync + Clone + 'static,
) {
    let master = TestNode::master().await;
    let bytes = noise(11, SIZE as usize);
    let (stranger, _, _) = Stranger::offering(&master, "lie", &bytes).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let (counter, copy) = (asked.clone(), bytes.clone());
    stranger.answer(move |request| {
        counter.fetch_add(1, Ordering::Relaxed);
        answer(&copy, request)
    });
    let ben = TestNode::peer_with(&master, |config| config.fetch.timeout = Duration::from_secs(1)).await;
    let begin = Instant::now();
    let error = ben.fetch("lie").await.unwrap_err();
    assert_eq!(error.kind(), expected, "{what}: {error}");
    assert!(begin.elapsed() < Duration::from_secs(40), "{what}: {:?}", begin.elapsed());
    assert!(asked.load(Ordering::Relaxed) > 0, "{what}: the holder was asked");
    assert!(ben.leftovers().is_empty(), "{what}: {:?}", ben.leftovers());

    let anna = TestNode::peer(&master).await;
    anna.share_file("truth", &bytes).await;
    let got = ben.fetch("lie").await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(std::fs::read(got.path).unwrap(), bytes, "{what}");
    assert_eq!(got.sources, [anna.ready().peer_id], "{what}");
    let (came, honest) = (downloaded(&ben).await, uploaded(&anna).await);
    let (twice, wrong) = (honest - bytes.len() as u64, came - honest);
    println!("{what}: {wrong} bytes came from the liar, {twice} were fetched twice");
    // A run that both were asked for at the end, and that the liar sent first, comes again.
    assert!(twice <= 2 << 20 && wrong <= most, "{what}: {wrong} bytes came from the liar, {twice} were fetched twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_sends_wrong_bytes_is_caught() {
    hostile_holder("wrong bytes", ErrorKind::Verification, LIES, |bytes, request| {
        let (header, mut body) = chunks(bytes, request);
        body[77] ^= 1;
        reply(&header, &body)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_sends_another_chunk_is_caught() {
    hostile_holder("another chunk", ErrorKind::Verification, LIES, |bytes, request| {
        let first = if request.first == 0 { 4 } else { 0 };
        let (header, body) = chunks(bytes, fetch::ChunkRun { first, count: request.count, ..request });
        reply(&header, &body)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_sends_too_much_is_caught() {
    hostile_holder("too much", ErrorKind::Verification, LIES, |bytes, request| {
        let (header, body) = chunks(bytes, request);
        reply(&header, &[&body[..], &[0; 1000]].concat())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_sends_fewer_chunks_than_asked_is_caught() {
    hostile_holder("too few", ErrorKind::Verification, LIES, |bytes, request| {
        let (header, body) = chunks(bytes, fetch::ChunkRun { count: request.count - 1, ..request });
        reply(&header, &body)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_declares_a_huge_body_is_caught() {
    hostile_holder("a huge body", ErrorKind::Verification, LIES, |_, _| {
        reply(&Header::Chunks { bytes: u32::MAX, proofs: Vec::new(), have: Vec::new() }, &[])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_sends_garbage_is_caught() {
    hostile_holder("garbage", ErrorKind::Verification, LIES, |_, _| Reply::Bytes(framed_bytes(&noise(3, 500)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stops_in_the_middle_is_given_up() {
    hostile_holder("cut short", ErrorKind::Unreachable, LIES, |bytes, request| {
        let (header, body) = chunks(bytes, request);
        reply(&header, &body[..body.len() / 2])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stalls_is_given_up() {
    hostile_holder("a stall", ErrorKind::Unreachable, LIES, |bytes, request| {
        let (header, body) = chunks(bytes, request);
        Reply::Stall([&framed(&header)[..], &body[..1000]].concat())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_never_begins_is_given_up() {
    hostile_holder("silence", ErrorKind::Unreachable, LIES, |_, _| Reply::Stall(Vec::new())).await;
}

/// A slow-loris holder: a byte now and then.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_trickles_is_given_up() {
    hostile_holder("a trickle", ErrorKind::Unreachable, LIES, |bytes, request| {
        let (header, body) = chunks(bytes, request);
        Reply::Trickle([&framed(&header)[..], &body].concat(), Duration::from_millis(100))
    })
    .await;
}

/// One chunk a minute, as it were: an answer comes long after its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_slower_than_the_limit_is_given_up() {
    hostile_holder("a chunk now and then", ErrorKind::Unreachable, LIES, |bytes, request| {
        let (header, body) = chunks(bytes, request);
        Reply::Late(answer(&header, &body), Duration::from_secs(60))
    })
    .await;
}

/// A holder that is just faster than the limit is honest, if slow: alone it is waited for, and beside another that one sends
/// nearly all, at its own pace.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_just_faster_than_the_limit_holds_nobody_up() {
    let master = TestNode::master().await;
    let bytes = noise(14, 6 << 20);
    let (stranger, _, _) = Stranger::offering(&master, "slow", &bytes).await;
    let copy = bytes.clone();
    // A source may take three seconds until something comes.
    let pause = Duration::from_millis(2500);
    stranger.answer(move |request| {
        let (header, body) = chunks(&copy, request);
        Reply::Late(answer(&header, &body), pause)
    });
    let ben = TestNode::peer_with(&master, |config| config.fetch.reshare = false).await;
    let begin = Instant::now();
    let got = ben.fetch("slow").await.unwrap_or_else(|error| panic!("alone: {error}"));
    let alone = begin.elapsed();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    std::fs::remove_file(got.path).unwrap();

    let anna = TestNode::peer(&master).await;
    anna.share_file("quick", &bytes).await;
    let begin = Instant::now();
    let got = ben.fetch("slow").await.unwrap_or_else(|error| panic!("with another: {error}"));
    println!("alone after {alone:?}, with another after {:?}", begin.elapsed());
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    assert!(uploaded(&anna).await >= bytes.len() as u64 / 2, "the quick one sends most of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_has_nothing_is_not_found() {
    hostile_holder("nothing there", ErrorKind::NotFound, LIES, |_, _| {
        reply(&Header::Refused(fetch::FetchRefusal::NotFound), &[])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_lies_is_a_clear_error() {
    let master = TestNode::master().await;
    let (stranger, id) = Stranger::at(&master).await;
    let session = stranger.join(id).await.session;
    let offers = vec![
        Offer::new("exbibyte", ContentId::of(b"x"), 1 << 60),
        Offer::new("2^63", ContentId::of(b"x"), 1 << 63),
        Offer::new("16 TiB", ContentId::of(b"x"), 1 << 44),
        Offer::new("no bytes", ContentId::of(b"x"), 0),
    ];
    let request = Announce { session, sequence: Sequence(1), offers, last: false, total: None };
    let IndexResponse::Announced(said) = stranger.ask(id, &IndexRequest::Announce(request)).await else {
        panic!("not announced")
    };
    assert!(matches!(&said[0], Verdict::Refused(_)) && matches!(&said[1], Verdict::Refused(_)));
    let ben = TestNode::peer(&master).await;
    let error = ben.fetch("16 TiB").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    let error = ben.fetch("no bytes").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Verification, "{error}");
    assert!(ben.leftovers().is_empty());
}

/// A request for any of several chunks, and an answer of every kind, cut anywhere: the connection ends there. The holder is
/// asked again, and what another sent is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_leaves_in_the_middle_of_an_answer_costs_what_it_sent() {
    let master = TestNode::master().await;
    let bytes = noise(12, 6 << 20);
    let (stranger, _, _) = Stranger::offering(&master, "lie", &bytes).await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("truth", &bytes).await;
    let ben = TestNode::peer_with(&master, |config| config.fetch.reshare = false).await;
    let mut all = ChunkSet::none(24);
    (0..24).for_each(|index| assert!(all.insert(index)));
    let all = all.as_bytes().to_vec();
    for (place, part) in
        [0.0, 0.000_001, 0.000_003, 0.000_01, 0.000_3, 0.001, 0.1, 0.5, 0.99, 1.0].into_iter().enumerate()
    {
        let (copy, all, asked) = (bytes.clone(), all.clone(), Arc::new(AtomicUsize::new(0)));
        let counter = asked.clone();
        stranger.answer_all(move |request| {
            let whole = match request {
                fetch::FetchRequest::Chunks(want) => {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let (header, body) = chunks(&copy, want.run());
                    answer(&header, &body)
                }
                fetch::FetchRequest::Have(_) if place % 2 == 0 => {
                    let header =
                        Header::Have { bytes: all.len() as u32, whole: false, others: Vec::new(), sending: false };
                    answer(&header, &all)
                }
                _ => answer(&Header::Refused(fetch::FetchRefusal::NotFound), &[]),
            };
            let cut = (whole.len() as f64 * part).ceil() as usize;
            Reply::Break(whole[..cut].to_vec())
        });
        let before = (downloaded(&ben).await, uploaded(&anna).await);
        let got = ben.fetch("lie").await.unwrap_or_else(|error| panic!("cut at {part}: {error}"));
        assert!(std::fs::read(&got.path).unwrap() == bytes, "cut at {part}");
        std::fs::remove_file(got.path).unwrap();
        let (came, honest) = (downloaded(&ben).await - before.0, uploaded(&anna).await - before.1);
        let twice = came - bytes.len() as u64;
        println!("cut at {part}: asked {asked:?} times, {twice} bytes fetched twice, {honest} honest");
        assert!(twice <= 4 << 20 && honest <= bytes.len() as u64, "cut at {part}: {twice} bytes fetched twice");
        assert_eq!(ben.leftovers(), [""; 0], "cut at {part}");
    }
}

/// Every request of the fetch protocol cut anywhere, and every answer of a node left in its middle: nothing of it stays
/// behind, and others are served.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_in_the_middle_of_a_message_leave_nothing_behind() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(13, 8 << 20);
    anna.share_file("file", &bytes).await;
    let content = ContentId::of(&bytes);
    let run = fetch::ChunkRun { content, first: 0, count: 4 };
    let requests = [
        fetch::FetchRequest::Chunks(run.into()),
        fetch::FetchRequest::Any(AnyOf::new(content, 0, [3, 7])),
        fetch::FetchRequest::Have(fetch::Have { content, addresses: Vec::new(), have: Vec::new() }),
        fetch::FetchRequest::Files(vec![content, ContentId::of(b"x")]),
        fetch::FetchRequest::Cancel(run),
    ];
    let (stranger, id) = Stranger::at(&anna).await;
    for request in requests {
        let whole = framed(&request);
        for cut in [0, 1, 3, 4, 5, whole.len() / 2, whole.len() - 1, whole.len()] {
            stranger.send_and_break(FETCH, id, whole[..cut].to_vec()).await;
            // The node may not have noticed yet that the connection ended, and allows few of one peer.
            until("connected again", async || stranger.connect(&tcp_address(&anna)).await.ok()).await;
        }
    }
    let got = ben.fetch("file").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
    let came = downloaded(&ben).await;
    assert_eq!(came, bytes.len() as u64, "nothing was fetched twice");
}
