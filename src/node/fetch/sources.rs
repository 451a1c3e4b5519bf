//! Who has a content: asked of holders, of the DHT and of the master, again and again while a download runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmdex_protocols::address::preference;
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::content::Geometry;
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchRequest, FetchResponse, Have, Header, Other};
use swarmdex_protocols::limits::{MAX_FETCH_OTHERS, MAX_OTHER_ADDRESSES};
use swarmdex_protocols::{ChunkSet, ContentId, Multiaddr, Name, PeerId, RecordKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::net::{ConnectError, FetchError, Net, RequestError};
use crate::node::lookup::Questions;
use crate::storage::content::Content;
use crate::tasks;

/// How often the master and the DHT are asked again.
const AGAIN: Duration = Duration::from_secs(10);
/// Most holders taken from one answer of the DHT, and for how long it may take.
const MOST: usize = 32;
const PATIENCE: Duration = Duration::from_secs(8);

/// A holder that was found.
pub(super) struct FoundHolder {
    pub(super) peer: PeerId,
    pub(super) addresses: Vec<Multiaddr>,
    /// Whether it is known to have everything.
    pub(super) whole: bool,
}

/// What the search for sources says.
pub(super) enum News {
    Found(FoundHolder),
    /// The name stands for another content by now.
    Superseded,
    /// The round of this number is over.
    Searched(u64),
}

/// The search for sources of one download: begun when it is worth it, and ends with its value.
pub(super) struct Search {
    questions: Questions,
    name: Name,
    content: ContentId,
    news: mpsc::Sender<News>,
    /// The number of the round that is wanted.
    round: watch::Sender<u64>,
    /// Whether no round is to begin.
    rests: watch::Sender<bool>,
    begun: bool,
    /// While it runs.
    task: Option<JoinHandle<()>>,
}

impl Search {
    /// Nothing is looked for yet; `news` will be told what is found.
    pub(super) fn new(questions: Questions, name: Name, content: ContentId, news: mpsc::Sender<News>) -> Self {
        let (round, rests) = (watch::Sender::new(0), watch::Sender::new(false));
        Self { questions, name, content, news, round, rests, begun: false, task: None }
    }

    /// Looks in the DHT: what the index says is known. Again and again from then on.
    pub(super) fn begin(&mut self) {
        if !self.begun {
            self.start(false);
        }
    }

    /// Looks at once, in the DHT and in the index.
    pub(super) fn again(&mut self) {
        self.round.send_modify(|round| *round += 1);
        if !self.begun {
            self.start(true);
        }
    }

    /// From here on no round begins, or one does again.
    pub(super) fn rest(&self, rests: bool) {
        self.rests.send_if_modified(|before| std::mem::replace(before, rests) != rests);
    }

    /// Whether a round that is over was the one that is wanted: an earlier one may have missed what is new.
    pub(super) fn is_over(&self, round: u64) -> bool {
        *self.round.borrow() == round
    }

    fn start(&mut self, in_index: bool) {
        let (questions, news, round) = (self.questions.clone(), self.news.clone(), self.round.subscribe());
        let rests = self.rests.subscribe();
        let search = search(questions, self.name.clone(), self.content, news, (round, rests), in_index);
        self.begun = true;
        self.task = Some(tasks::spawn("search for sources", search));
    }

    /// Waits until the search panics, for ever if it does not: nothing would be heard of it any more.
    pub(super) async fn failed(&mut self) {
        tasks::panics(&mut self.task).await;
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Looks for holders until nobody listens any more.
async fn search(
    questions: Questions,
    name: Name,
    content: ContentId,
    news: mpsc::Sender<News>,
    (mut wanted, mut rests): (watch::Receiver<u64>, watch::Receiver<bool>),
    mut in_index: bool,
) {
    loop {
        if rests.wait_for(|rests| !rests).await.is_err() {
            return;
        }
        let round = *wanted.borrow_and_update();
        let in_dht = tokio::time::timeout(PATIENCE, search_dht(&questions, content, &news));
        let _ = tokio::join!(in_dht, async {
            if in_index {
                search_index(&questions, &name, content, &news).await;
            }
        });
        in_index = true;
        if news.send(News::Searched(round)).await.is_err() {
            return;
        }
        if let Ok(Err(_)) = tokio::time::timeout(AGAIN, wanted.changed()).await {
            return;
        }
    }
}

async fn search_index(questions: &Questions, name: &Name, content: ContentId, news: &mpsc::Sender<News>) {
    let Ok(found) = questions.lookup(name.as_str()).await else { return };
    if found.entry.content == content {
        for holder in found.holders {
            let found = FoundHolder { peer: holder.peer, addresses: holder.addresses, whole: true };
            let _ = news.send(News::Found(found)).await;
        }
    } else {
        let _ = news.send(News::Superseded).await;
    }
}

async fn search_dht(questions: &Questions, content: ContentId, news: &mpsc::Sender<News>) {
    let mut providers = questions.net.providers(RecordKey::content(&questions.network, &content)).await;
    let mut seen = Vec::new();
    while seen.len() < MOST
        && let Some(peer) = providers.recv().await
    {
        if !seen.contains(&peer) {
            seen.push(peer);
            let addresses = questions.net.locate(peer).await;
            let _ = news.send(News::Found(FoundHolder { peer, addresses, whole: false })).await;
        }
    }
}

/// A node that no connection could be made to.
#[derive(Debug, Clone)]
pub(in crate::node) struct Silence {
    /// The addresses that were tried.
    pub(super) tried: Vec<Multiaddr>,
    /// What some of them came to.
    pub(super) reason: String,
    /// Since when nobody answers there, if that is known.
    pub(super) since: Option<Instant>,
}

/// Why a request has no answer.
pub(in crate::node) enum RequestFailure {
    Refused(FetchRefusal),
    /// No connection came about.
    Unconnected(Silence),
    /// The connection broke, or there was no answer.
    Unreachable(String),
    /// What came is no answer: as bad as wrong bytes.
    Nonsense,
}

/// Connects if need be, and asks.
pub(in crate::node) async fn ask(
    net: &Net,
    source: PeerId,
    addresses: Vec<Multiaddr>,
    request: FetchRequest,
) -> Result<FetchResponse, RequestFailure> {
    let error = match net.fetch(source, addresses.clone(), request).await {
        Ok(FetchResponse { header: Header::Refused(refusal), .. }) => return Err(RequestFailure::Refused(refusal)),
        Ok(response) => return Ok(response),
        Err(FetchError::Connect(error)) => return Err(unconnected(error, addresses)),
        Err(FetchError::Request(error)) => error,
    };
    Err(match error {
        // A connection that breaks looks like an answer that ends early: no lie.
        RequestError::Malformed(DecodeError::Truncated) => {
            RequestFailure::Unreachable("its answer ended in the middle".to_owned())
        }
        RequestError::Malformed(_) => RequestFailure::Nonsense,
        RequestError::Busy => RequestFailure::Refused(FetchRefusal::Busy),
        error => RequestFailure::Unreachable(error.to_string()),
    })
}

/// Why nothing could be asked.
fn unconnected(error: ConnectError, tried: Vec<Multiaddr>) -> RequestFailure {
    let (reason, since) = match error {
        // It is this node that is busy.
        ConnectError::Busy => return RequestFailure::Unreachable(error.to_string()),
        ConnectError::WrongPeer { address, .. } => (format!("another node is at {address}"), None),
        ConnectError::Unreachable { reason, since } => (reason, since),
        error => (error.to_string(), None),
    };
    RequestFailure::Unconnected(Silence { tried, reason, since })
}

/// Which chunks a source has - `None` for all - and who else has some. It is told what this node has, in `own`, if that is
/// passed on.
pub(super) async fn have(
    net: &Net,
    source: PeerId,
    addresses: Vec<Multiaddr>,
    own: Option<&dyn Content>,
    content: ContentId,
    geometry: Geometry,
) -> Result<(Option<ChunkSet>, Vec<Other>), RequestFailure> {
    let request = question(net, content, own);
    let FetchResponse { header, body } = ask(net, source, addresses, request).await?;
    let Header::Have { whole, mut others, .. } = header else { return Err(RequestFailure::Nonsense) };
    others.truncate(MAX_FETCH_OTHERS);
    for other in &mut others {
        other.addresses.truncate(MAX_OTHER_ADDRESSES);
    }
    let chunks = match whole {
        true => None,
        false => Some(ChunkSet::from_bytes(&body, geometry.chunks()).ok_or(RequestFailure::Nonsense)?),
    };
    Ok((chunks, others))
}

/// The question what a source has. It is told where this node listens if that passes on what it has.
fn question(net: &Net, content: ContentId, own: Option<&dyn Content>) -> FetchRequest {
    let addresses = if own.is_some() { own_addresses(net) } else { Vec::new() };
    FetchRequest::Have(Have { content, addresses, have: own.map(|store| store.offers().along()).unwrap_or_default() })
}

/// Whether a source that is connected is sending what was asked of it.
pub(super) async fn is_sending(
    net: Net,
    source: PeerId,
    content: ContentId,
    own: Option<Arc<dyn Content>>,
) -> Result<bool, RequestFailure> {
    // It is the same question: who asks without addresses is not named to others any more.
    let request = question(&net, content, own.as_deref());
    match net.fetch_if_connected(source, request).await {
        Ok(FetchResponse { header: Header::Have { sending, .. }, .. }) => Ok(sending),
        Ok(FetchResponse { header: Header::Refused(refusal), .. }) => Err(RequestFailure::Refused(refusal)),
        Ok(_) => Err(RequestFailure::Nonsense),
        Err(error) => Err(RequestFailure::Unreachable(error.to_string())),
    }
}

/// Asks for a run of chunks, or for one of several. What was not asked for comes from nobody honest.
pub(super) async fn chunks(
    net: &Net,
    source: PeerId,
    addresses: Vec<Multiaddr>,
    request: FetchRequest,
) -> Result<FetchResponse, RequestFailure> {
    let response = ask(net, source, addresses, request.clone()).await?;
    match (&response.header, request) {
        (Header::Chunks { .. }, _) => Ok(response),
        (Header::Instead { first, .. }, FetchRequest::Any(any)) if any.choices().any(|index| index == *first) => {
            Ok(response)
        }
        _ => Err(RequestFailure::Nonsense),
    }
}

/// Says that a run is not wanted any more; what comes of it is of no interest.
pub(super) async fn cancel(net: Net, source: PeerId, run: ChunkRun) {
    let _ = net.fetch_if_connected(source, FetchRequest::Cancel(run)).await;
}

/// Says that what came for a run is not part of the content: the holder can look whether its file is still that.
pub(super) async fn complain(net: Net, source: PeerId, run: ChunkRun) {
    let _ = net.fetch_if_connected(source, FetchRequest::Wrong(run)).await;
}

/// Where this node is best reached.
fn own_addresses(net: &Net) -> Vec<Multiaddr> {
    let listen = net.listen();
    let mut addresses = listen.borrow().clone();
    addresses.sort_by_key(preference);
    addresses.truncate(MAX_OTHER_ADDRESSES);
    addresses
}
