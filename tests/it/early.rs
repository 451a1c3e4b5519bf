//! Chunks that others ask for when they only begin to arrive.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use swarmdex::node::{GetReport, GetRequest, Operation};
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchRequest, Have, Header};
use swarmdex_protocols::{ChunkSet, ContentId, PeerId};
use tokio::sync::watch;

use crate::harness::{TestNode, noise, tcp_address, until};
use crate::holders::{answer, chunks, taken_apart};
use crate::stranger::{FETCH, Reply, Stranger, framed};

const CHUNKS: usize = 64;
const CHUNK: usize = 256 << 10;

/// What the owner sends of the second half of a chunk, once it goes on.
#[derive(Clone, Copy, PartialEq)]
enum Second {
    Right,
    Wrong,
    /// Nothing, and no other chunk either.
    Missing,
}

/// Ben downloads from an owner who stops in the middle of a chunk that nobody else has, and a friend, who downloads as well,
/// has heard from ben that it is on its way.
struct Crowd {
    bytes: Vec<u8>,
    content: ContentId,
    friend: Stranger,
    ben: PeerId,
    operation: Operation<GetReport>,
    /// The chunk.
    index: u64,
    /// True once the owner goes on.
    goes_on: watch::Sender<bool>,
    _nodes: (TestNode, TestNode, Stranger),
}

impl Crowd {
    async fn begin(second: Second) -> Self {
        let bytes = noise(40, CHUNKS * CHUNK);
        let content = ContentId::of(&bytes);
        let master = TestNode::master().await;
        let (owner, _, _) = Stranger::offering(&master, "file", &bytes).await;
        let (knows_friend, known) = watch::channel(false);
        let (goes_on, going_on) = watch::channel(false);
        let begun = Arc::new(Mutex::new(None));
        let (first_begun, copy) = (begun.clone(), bytes.clone());
        owner.answer_all(move |request| match request {
            FetchRequest::Have(_) => {
                Reply::Bytes(framed(&Header::Have { bytes: 0, whole: true, others: Vec::new(), sending: false }))
            }
            // Before ben knows that there is a crowd, nothing.
            FetchRequest::Chunks(want) => {
                let (header, body) = chunks(&copy, want.run());
                Reply::Halves(Vec::new(), known.clone(), answer(&header, &body))
            }
            FetchRequest::Any(_) if *going_on.borrow() && second == Second::Missing => {
                Reply::Bytes(framed(&Header::Refused(FetchRefusal::NotFound)))
            }
            FetchRequest::Any(any) => {
                first_begun.lock().unwrap().get_or_insert(any.first);
                let (header, mut body) = chunks(&copy, ChunkRun { content, first: any.first, count: 1 });
                let rest = body.split_off(body.len() / 2);
                let rest = match second {
                    Second::Right => rest,
                    Second::Wrong => vec![0; rest.len()],
                    Second::Missing => Vec::new(),
                };
                Reply::Halves(answer(&header, &body), going_on.clone(), rest)
            }
            _ => Reply::Bytes(framed(&Header::Done)),
        });
        let node = TestNode::peer(&master).await;
        let request = GetRequest { name: "file".to_owned(), output: node.output(), recursive: false };
        let operation = node.get(request);

        let friend = Stranger::start().await;
        let mut own = ChunkSet::none(CHUNKS as u64);
        own.insert(5);
        let (copy, told) = (bytes.clone(), own.as_bytes().to_vec());
        friend.answer_all(move |request| match request {
            FetchRequest::Have(_) => {
                let header =
                    Header::Have { bytes: told.len() as u32, whole: false, others: Vec::new(), sending: false };
                Reply::Bytes(answer(&header, &told))
            }
            FetchRequest::Chunks(want) if want.first == 5 => {
                // Ben knows of the crowd.
                knows_friend.send_replace(true);
                let (header, body) = chunks(&copy, want.run());
                Reply::Bytes(answer(&header, &body))
            }
            _ => Reply::Bytes(framed(&Header::Done)),
        });
        let ben = friend.connect(&tcp_address(&node)).await.unwrap();
        let index = until("ben says that the chunk is on its way", async || {
            let have = Have { content, addresses: friend.listen.clone(), have: own.as_bytes().to_vec() };
            let told = friend.send(FETCH, ben, framed(&FetchRequest::Have(have))).await.unwrap();
            let (header, body) = taken_apart(&told);
            let index = (*begun.lock().unwrap())?;
            matches!(header, Header::Have { whole: false, .. }).then_some(())?;
            ChunkSet::from_bytes(&body, CHUNKS as u64)?.contains(index).then_some(index)
        })
        .await;
        Self { bytes, content, friend, ben, operation, index, goes_on, _nodes: (master, node, owner) }
    }

    /// Asks ben for the chunk, and lets the owner go on: what ben answers then.
    async fn answer(&self) -> (Header, Vec<u8>) {
        let run = ChunkRun { content: self.content, first: self.index, count: 1 };
        let mut asking = Box::pin(self.friend.send(FETCH, self.ben, framed(&FetchRequest::Chunks(run.into()))));
        assert!((&mut asking).now_or_never().is_none());
        // An answer to a later question is there, and none to this one.
        let have = FetchRequest::Have(Have { content: self.content, addresses: Vec::new(), have: Vec::new() });
        self.friend.send(FETCH, self.ben, framed(&have)).await.unwrap();
        assert!((&mut asking).now_or_never().is_none(), "ben waits for it");
        self.goes_on.send_replace(true);
        let answer = asking.await.unwrap();
        taken_apart(&answer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_chunk_that_begins_to_arrive_gets_it_when_it_is_there() {
    let mut crowd = Crowd::begin(Second::Right).await;
    let (header, body) = crowd.answer().await;
    assert!(matches!(header, Header::Chunks { .. }), "{header:?}");
    let begin = crowd.index as usize * CHUNK;
    assert!(body == crowd.bytes[begin..begin + CHUNK]);
    let report = crowd.operation.outcome().await.unwrap();
    assert!(std::fs::read(&report.files[0].path).unwrap() == crowd.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_chunk_that_breaks_off_is_refused() {
    let crowd = Crowd::begin(Second::Missing).await;
    assert_eq!(crowd.answer().await.0, Header::Refused(FetchRefusal::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_chunk_that_arrives_wrong_is_refused() {
    let crowd = Crowd::begin(Second::Wrong).await;
    assert_eq!(crowd.answer().await.0, Header::Refused(FetchRefusal::NotFound));
}
