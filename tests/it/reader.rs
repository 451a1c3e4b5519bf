//! Files that are read while they come: from any place on, by many at a time, whatever becomes of those who have them.

use std::io::SeekFrom;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use swarmdex::Error;
use swarmdex::node::{ErrorKind, GetRequest, Reader};
use swarmdex_protocols::ContentId;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::harness::{TestNode, downloaded, noise, until, uploaded};
use crate::holders::lying;

const CHUNK: u64 = 256 << 10;
/// What may come beyond what is asked for: what a reader reads ahead.
const AHEAD: u64 = 8 << 20;

async fn all(reader: &mut Reader) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), reader.read_to_end(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn piece(reader: &mut Reader, place: u64, length: usize) -> Vec<u8> {
    reader.seek(SeekFrom::Start(place)).await.unwrap();
    let mut bytes = vec![0; length];
    tokio::time::timeout(Duration::from_secs(60), reader.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_as_it_is_from_its_begin_and_from_anywhere() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(60, (40 << 20) + 12_345);
    anna.share_file("file", &bytes).await;
    let mut reader = ben.open("file").await.unwrap();
    assert_eq!((reader.len(), reader.content()), (bytes.len() as u64, ContentId::of(&bytes)));
    assert_eq!(downloaded(&ben).await, 0, "nothing is fetched before the first read");
    assert!(all(&mut reader).await == bytes);
    assert_eq!(reader.read(&mut [0; 10]).await.unwrap(), 0);
    for place in [0, CHUNK - 1, 39 << 20, 17 << 20, (17 << 20) + 1, bytes.len() as u64 - 1000] {
        let place_of = place as usize;
        assert!(piece(&mut reader, place, 1000).await == bytes[place_of..place_of + 1000], "{place}");
    }
    // Nothing is left of it: no file, and no fetch that goes on.
    drop(reader);
    assert!(ben.leftovers().is_empty());
    let error = ben.open("no such file").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_no_byte_of_one_and_of_one_chunk_are_read_as_well() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for size in [0, 1, CHUNK as usize, CHUNK as usize + 1] {
        let bytes = noise(61, size);
        anna.share_file(&format!("file of {size}"), &bytes).await;
        let mut reader = ben.open(&format!("file of {size}")).await.unwrap();
        assert!(all(&mut reader).await == bytes, "{size}");
        assert_eq!(reader.is_empty(), size == 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_bytes_of_a_large_file_cost_a_chunk_or_two() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(62, 200 << 20);
    anna.share_file("file", &bytes).await;
    let mut reader = ben.open("file").await.unwrap();
    assert!(piece(&mut reader, bytes.len() as u64 - 10, 10).await == bytes[bytes.len() - 10..]);
    // Whatever goes on in the background would show by then.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(downloaded(&ben).await <= 2 * CHUNK, "{}", downloaded(&ben).await);
    for place in [0u64, 100 << 20, 50 << 20] {
        assert!(piece(&mut reader, place, 10).await == bytes[place as usize..place as usize + 10]);
    }
    assert!(downloaded(&ben).await <= 6 * CHUNK, "{}", downloaded(&ben).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_dropped_or_does_not_read_fetches_no_more() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(63, 200 << 20);
    anna.share_file("file", &bytes).await;
    let mut reader = ben.open("file").await.unwrap();
    assert!(piece(&mut reader, 0, 20 << 20).await == bytes[..20 << 20]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resting = downloaded(&ben).await;
    assert!(resting <= (20 << 20) + AHEAD + CHUNK, "{resting}");
    drop(reader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(downloaded(&ben).await, resting);
}

/// Two readers and a download of one content: each chunk comes once, but for what is on its way when the download begins.
#[tokio::test(flavor = "multi_thread")]
async fn readers_and_a_download_share_what_comes() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(64, 64 << 20);
    let size = bytes.len() as u64;
    anna.share_file("file", &bytes).await;
    let (mut first, mut second) = (ben.open("file").await.unwrap(), ben.open("file").await.unwrap());
    assert!(piece(&mut first, 0, 8 << 20).await == bytes[..8 << 20]);
    // The other finds it here.
    let before = downloaded(&ben).await;
    assert!(piece(&mut second, 0, 4 << 20).await == bytes[..4 << 20]);
    assert!(downloaded(&ben).await <= before + AHEAD);
    let request = GetRequest { name: "file".to_owned(), output: ben.output(), recursive: false };
    let mut operation = ben.get(request);
    let (report, one, two) = tokio::join!(operation.outcome(), all(&mut first), all(&mut second));
    let report = report.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == bytes);
    assert!(one == bytes[8 << 20..] && two == bytes[4 << 20..]);
    // What was on its way when the download began, twice, and what late sources sent once more.
    let came = downloaded(&ben).await;
    assert!(came <= size + 2 * AHEAD, "{came} bytes of {size}");
    assert_eq!(ben.leftovers(), ["file"]);
    // And the next ones read the file.
    let mut third = ben.open("file").await.unwrap();
    assert!(all(&mut third).await == bytes);
    assert_eq!(downloaded(&ben).await, came);
}

/// A download that is cancelled takes its partial file away, and a reader of the content goes on without it. One that is
/// paused holds no reader up.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_paused_or_cancelled_holds_no_reader_up() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(65, 200 << 20);
    anna.share_file("file", &bytes).await;
    let mut operation = ben.get(GetRequest { name: "file".to_owned(), output: ben.output(), recursive: false });
    let mut progress = operation.progress();
    progress.wait_for(|progress| progress.done_bytes >= 1 << 20).await.unwrap();
    operation.pause();
    let mut reader = ben.open("file").await.unwrap();
    assert!(piece(&mut reader, 150 << 20, 3 << 20).await == bytes[150 << 20..153 << 20]);
    operation.cancel();
    assert!(matches!(operation.outcome().await, Err(Error::Cancelled)));
    // As soon as nobody reads it any more.
    until("nothing is left of it", async || ben.leftovers().is_empty().then_some(())).await;
    assert!(piece(&mut reader, 100 << 20, 3 << 20).await == bytes[100 << 20..103 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_shares_itself_is_read_from_there() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(66, 3 << 20);
    let path = anna.share_file("file", &bytes).await;
    let mut own = anna.open("file").await.unwrap();
    assert!(all(&mut own).await == bytes);
    assert_eq!(downloaded(&anna).await, 0);
    // What changed there is not given out, and is fetched from others.
    ben.share_file("copy", &bytes).await;
    let mut own = anna.open("copy").await.unwrap();
    assert!(piece(&mut own, 0, 10).await == bytes[..10]);
    std::fs::write(&path, noise(67, 3 << 20)).unwrap();
    assert!(piece(&mut own, 2 << 20, 1 << 20).await == bytes[2 << 20..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_with_another_holder_when_the_owner_dies() {
    let master = TestNode::master().await;
    let bytes = noise(68, 64 << 20);
    let (anna, cleo, ben) =
        (TestNode::peer(&master).await, TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("file", &bytes).await;
    let mut reader = ben.open("file").await.unwrap();
    assert!(piece(&mut reader, 0, 1 << 20).await == bytes[..1 << 20]);
    // Opened before this one had it.
    cleo.share_file("copy", &bytes).await;
    until("cleo is found by the content", async || {
        let found = ben.lookup("file").await.ok()?;
        (found.holders.len() > 1).then_some(())
    })
    .await;
    anna.abandon();
    assert!(all(&mut reader).await == bytes[1 << 20..]);
    assert!(uploaded(&cleo).await >= 32 << 20);
}

/// A holder that sends something else is caught, and not a byte of it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_lies_never_yields_a_wrong_byte() {
    let master = TestNode::master().await;
    let bytes = noise(69, 24 << 20);
    let (liar, asked) = lying(&master, "lie", &bytes).await;
    // Alone it is an error that says whose fault it is.
    let ben = TestNode::peer(&master).await;
    let mut reader = ben.open("lie").await.unwrap();
    let mut bytes_of_liar = Vec::new();
    let reading = reader.read_to_end(&mut bytes_of_liar);
    let error = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Arc<Error>>()).unwrap();
    assert!(inner.kind() == ErrorKind::Verification && inner.to_string().contains(&liar.peer.to_string()), "{inner}");
    assert!(bytes_of_liar.is_empty() && asked.load(Ordering::Relaxed) > 0);
    // Beside an honest one it costs a few requests.
    let anna = TestNode::peer(&master).await;
    anna.share_file("copy", &bytes).await;
    let mut reader = ben.open("copy").await.unwrap();
    assert!(all(&mut reader).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_node_are_bounded() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    anna.share_file("file", &noise(70, 1000)).await;
    let mut readers = Vec::new();
    let error = loop {
        match anna.open("file").await {
            Ok(reader) => readers.push(reader),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::TooManyReaders { most } if most == readers.len()), "{error}");
    readers.pop();
    assert!(all(&mut anna.open("file").await.unwrap()).await == noise(70, 1000));
}
