//! One content that is fetched: the scheduler decides, this engine asks, and a thread verifies and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use swarmdex_protocols::content::Geometry;
use swarmdex_protocols::fetch::{AnyOf, ChunkRun, FetchRefusal, FetchRequest, FetchResponse, Header, Other, Want};
use swarmdex_protocols::index::Member;
use swarmdex_protocols::{ChunkSet, ContentId, Multiaddr, Name, PeerId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::consumers::Fetch;
use super::sharing::next_have_update;
use super::silence::Unmet;
use super::sources::{self, FoundHolder, News, RequestFailure, Search, Silence};
use super::stalled;
use super::writer::{Writer, WriterOutcome, Written};
use crate::clock::sleep_until;
use crate::net::HaveUpdate;
use crate::node::answer::Checked;
use crate::node::{Error, Inner};
use crate::state::fetch::stalls::Stalls;
use crate::state::fetch::{Action, Download, Exhausted, FetchPolicy};
use crate::storage::content::Content;

/// News of sources that wait to be heard.
const NEWS: usize = 64;

/// How often it is looked how far away sources are that have not answered yet.
const GETS_NEAR: Duration = Duration::from_millis(50);
/// A download that takes longer lets others find in the DHT what it has, and a large one looks for holders there.
const LONG: Duration = Duration::from_secs(3);

/// What a task of the download came to.
pub(super) enum EngineEvent {
    Arrived(PeerId, ChunkRun, FetchResponse),
    Failed(PeerId, ChunkRun, RequestFailure),
    Have(PeerId, Result<(Option<ChunkSet>, Vec<Other>), RequestFailure>),
    /// Whether a source is sending what it owes.
    Sending(PeerId, Result<bool, RequestFailure>),
}

/// What an engine says while it runs.
pub(super) enum Said {
    /// So many bytes more were written.
    Written(u64),
    /// Nobody is there who has what is missing, and it is waited for one; or it is not any more.
    Away(bool),
}

/// How a content is fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Whether what comes is to be on disk.
    pub(super) sync: bool,
    /// Whether what comes is passed on and announced to others.
    pub(super) shares: bool,
    /// How long it is waited for whoever has what is missing.
    pub(super) patience: Duration,
    /// Whether it is waited from the start, although nothing has come yet.
    pub(super) waits: bool,
}

/// Fetches one content, for whoever uses it: asks its holders, looks for more of them, verifies what comes and puts it into a
/// store. It does not know what becomes of the bytes.
pub(super) struct Engine<'a> {
    pub(super) inner: &'a Inner,
    pub(super) fetch: Arc<Fetch>,
    pub(super) store: Arc<dyn Content>,
    /// A name of the content: the index knows holders by names, and so do those who read the log.
    pub(super) name: Name,
    pub(super) content: ContentId,
    pub(super) geometry: Geometry,
    pub(super) terms: Terms,
    pub(super) says: &'a (dyn Fn(Said) + Send + Sync),
    pub(super) addresses: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Since when nobody is there who has what is missing.
    pub(super) away: Option<Instant>,
    /// Sources that sent chunks which were written.
    pub(super) used: BTreeSet<PeerId>,
    /// Sources that sent something else.
    pub(super) bad_sources: BTreeSet<PeerId>,
    /// Sources whose disks do not answer.
    pub(super) unread: BTreeSet<PeerId>,
    /// What is said of that to them.
    pub(super) complaints: Vec<JoinHandle<()>>,
    /// Sources that no connection could be made to.
    pub(super) silent: BTreeMap<PeerId, Silence>,
    /// Holders that the master misses, and those that it cannot connect to.
    pub(super) suspect: BTreeSet<PeerId>,
    pub(super) hidden: BTreeSet<PeerId>,
    /// Sources that owe something while nothing comes.
    pub(super) stalls: Stalls<PeerId>,
    /// Sources whose connections were cut because nothing came, and since when.
    pub(super) cut: BTreeMap<PeerId, Instant>,
    pub(super) last_failure: Option<String>,
}

/// What is under way.
pub(super) struct Work {
    pub(super) asks: FuturesUnordered<BoxFuture<'static, EngineEvent>>,
    pub(super) writer: Writer,
    pub(super) search: Search,
    pub(super) news: mpsc::Receiver<News>,
    /// What others say along with their requests that they have, if they are listened to.
    pub(super) have_updates: Option<mpsc::Receiver<HaveUpdate>>,
    /// When it has taken long, if it has not yet.
    pub(super) long: Option<Instant>,
    /// When it is over unless a holder is met, until one is.
    pub(super) unmet: Option<Unmet>,
    /// When it was last asked where sources are now that are not connected.
    pub(super) searched: Option<Instant>,
}

impl<'a> Engine<'a> {
    /// For the content of `found`, into `store`.
    pub(super) fn new(
        inner: &'a Inner,
        fetch: Arc<Fetch>,
        store: Arc<dyn Content>,
        found: &Checked,
        terms: Terms,
        says: &'a (dyn Fn(Said) + Send + Sync),
    ) -> Self {
        let those =
            |is: fn(&Member) -> bool| found.holders.iter().filter(move |holder| is(holder)).map(|holder| holder.peer);
        Self {
            inner,
            fetch,
            name: found.entry.name.clone(),
            content: found.entry.content,
            geometry: store.geometry(),
            store,
            terms,
            says,
            addresses: BTreeMap::new(),
            away: None,
            used: BTreeSet::new(),
            bad_sources: BTreeSet::new(),
            unread: BTreeSet::new(),
            complaints: Vec::new(),
            silent: BTreeMap::new(),
            suspect: those(|holder| holder.suspect).collect(),
            hidden: those(|holder| holder.reachable == Some(false)).collect(),
            stalls: Stalls::default(),
            cut: BTreeMap::new(),
            last_failure: None,
        }
    }

    /// Fetches what is wanted and is not among `have`, until all of it is there or it is told to stop, which is
    /// [`Error::Cancelled`]. One that serves readers alone goes on until it is told to stop. Whom it came from.
    pub(super) async fn run(mut self, found: Checked, have: &ChunkSet) -> Result<Vec<PeerId>, Error> {
        let policy = FetchPolicy::new(&self.inner.config.fetch, self.shares(), self.terms.patience, rand::random());
        let mut machine = Download::new(self.geometry, policy, Some(have));
        let (now, local) = (Instant::now(), self.inner.net.local());
        if self.terms.waits {
            machine.wait_from(now);
        }
        if self.inner.library.has_whole(&self.content, &self.geometry) {
            machine.add_source(local, true, now);
        }
        for holder in found.holders {
            self.add(&mut machine, FoundHolder { peer: holder.peer, addresses: holder.addresses, whole: true });
        }
        let (sender, news) = mpsc::channel(NEWS);
        let mut search = Search::new(self.inner.questions.clone(), self.name.clone(), self.content, sender);
        // What is soon done is not worth a search unless the index knows nobody who has it.
        if machine.live() == 0 {
            machine.set_searching(true);
            search.begin();
        }
        let writer =
            Writer::start(self.content, self.store.clone(), self.inner.library.buffers.clone(), self.terms.sync);
        let have_updates =
            if machine.is_swarm() { Some(self.inner.net.have_updates(self.content).await) } else { None };
        let unmet = (machine.live() > 0 && !self.terms.waits).then(|| Unmet::begin(self.inner));
        let asks = FuturesUnordered::new();
        let long = Some(now + LONG);
        let mut work = Work { asks, writer, search, news, have_updates, long, unmet, searched: None };
        let end = self.drive(&mut machine, &mut work).await;
        tracing::debug!(name = %self.name, wasted = machine.wasted(), sources = machine.live(), "download over");
        drop(work.asks);
        work.writer.end().await?;
        match end {
            Ok(Ok(())) => Ok(self.used.into_iter().collect()),
            Ok(Err(reason)) => {
                self.complain().await;
                Err(self.exhausted(reason))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn add(&mut self, machine: &mut Download<PeerId>, found: FoundHolder) {
        let FoundHolder { peer, addresses, whole } = found;
        if peer == self.inner.net.local() || !machine.is_patient() && self.was_tried(&peer, &addresses) {
            return;
        }
        // A source that is known by its have-updates alone has no address yet: others say where it listens.
        let nowhere = self.addresses.get(&peer).is_some_and(Vec::is_empty);
        if machine.add_source(peer, whole, Instant::now()) || nowhere {
            self.addresses.insert(peer, addresses);
        }
    }

    /// Until the scheduler says that it is done, or that nobody is left to ask.
    async fn drive(&mut self, machine: &mut Download<PeerId>, work: &mut Work) -> Result<Result<(), Exhausted>, Error> {
        let (fetch, mut listen) = (self.fetch.clone(), self.inner.net.listen());
        listen.mark_unchanged();
        let mut looks = tokio::time::interval(stalled::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let store = self.store.clone();
        machine.set_wanted(fetch.wanted().unwrap_or_default(), Instant::now());
        // Whether there may be something to do: a crowd sends many have-updates, and few say something new.
        let mut stirs = true;
        loop {
            if fetch.is_stopped() {
                return Err(Error::Cancelled);
            }
            // While nothing is wanted, nothing is asked for and nobody is missed.
            let runs = machine.is_wanting();
            work.search.rest(!runs && !fetch.is_into_file());
            while runs
                && stirs
                && let Some(action) = machine.poll_action(Instant::now())
            {
                if let Some(end) = self.act(action, machine, work) {
                    return Ok(end);
                }
            }
            let timeout = machine.poll_timeout(Instant::now()).filter(|_| runs);
            let unheard = machine.unheard().next().filter(|_| runs).map(|_| Instant::now() + GETS_NEAR);
            stirs = true;
            tokio::select! {
                outcome = work.writer.next() => self.on_written(machine, outcome?)?,
                () = work.search.failed() => return Err(Error::Bug),
                _ = looks.tick(), if runs => {
                    self.look_for_stalls(machine, work);
                    self.look_who_is_away(machine);
                    stirs = false;
                }
                Ok(()) = listen.changed() => self.on_moved(machine, work),
                Some(event) = work.asks.next() => self.on_event(machine, work, event)?,
                Some(news) = work.news.recv() => match news {
                    // The index and the DHT know where it is now.
                    News::Found(found) => self.on_found(machine, found),
                    News::Superseded => machine.on_superseded(),
                    News::Searched(round) if work.search.is_over(round) => machine.set_searching(false),
                    News::Searched(_) => {}
                },
                (peer, have) = next_have_update(&mut work.have_updates) => {
                    self.add(machine, FoundHolder { peer, addresses: Vec::new(), whole: false });
                    stirs = self.on_have_update(machine, peer, &have);
                }
                begun = begun(&*store) => begun.into_iter().for_each(|index| machine.on_incoming(index)),
                () = sleep_until(work.long) => {
                    work.long = None;
                    if machine.is_swarm() {
                        work.search.begin();
                    }
                    self.inner.library.holdings.offer(&self.content);
                }
                () = sleep_until(timeout) => machine.handle_timeout(Instant::now()),
                () = sleep_until(work.unmet.as_ref().map(Unmet::end).filter(|_| runs)) => {
                    if work.unmet.take().is_some_and(|unmet| !machine.has_come() && !self.has_met(&unmet)) {
                        return Ok(Err(Exhausted::Unreachable));
                    }
                }
                // How far away a source is gets known as soon as it is connected.
                () = sleep_until(unheard) => {
                    for source in machine.unheard().collect::<Vec<_>>() {
                        machine.set_round_trip(source, self.inner.net.round_trip(&source));
                    }
                }
                () = fetch.changed() => {
                    machine.set_wanted(fetch.wanted().unwrap_or_default(), Instant::now());
                    if machine.is_wanting() != runs {
                        work.unmet = work.unmet.take().map(|_| Unmet::begin(self.inner));
                    }
                }
            }
        }
    }

    fn act(
        &mut self,
        action: Action<PeerId>,
        machine: &Download<PeerId>,
        work: &mut Work,
    ) -> Option<Result<(), Exhausted>> {
        let run = |first, count| ChunkRun { content: self.content, first, count };
        match action {
            Action::Request { source, first, count } => {
                let run = run(first, count);
                // Who waits for a chunk is not helped by another.
                let any = (count == 1 && !machine.is_urgent(first)).then(|| machine.alternatives(source)).flatten();
                let request = match any {
                    Some(others) => FetchRequest::Any(AnyOf::new(self.content, first, others)),
                    // One that downloads as well is told what it may get here.
                    None if machine.has_part(source) && self.shares() => {
                        FetchRequest::Chunks(Want { have: self.store.offers().along(), ..run.into() })
                    }
                    None => FetchRequest::Chunks(run.into()),
                };
                work.asks.push(self.request(source, run, request));
            }
            Action::Cancel { source, first, count } => {
                let cancel = sources::cancel(self.inner.net.clone(), source, run(first, count));
                self.inner.life.chores.spawn("cancel", cancel);
            }
            Action::Have(source) => work.asks.push(self.have(source)),
            Action::Report(source) => self.report(source),
            Action::Search => work.search.again(),
            // Readers may want again what has to make room.
            Action::Done if !self.fetch.is_into_file() => {}
            Action::Done => return Some(Ok(())),
            Action::Exhausted(reason) => return Some(Err(reason)),
        }
        None
    }

    /// Asks for a run, by a request for it or for any of several chunks.
    fn request(&self, source: PeerId, run: ChunkRun, request: FetchRequest) -> BoxFuture<'static, EngineEvent> {
        if source == self.inner.net.local() {
            let library = self.inner.library.clone();
            return async move {
                match tokio::task::spawn_blocking(move || library.chunks(&run)).await {
                    Ok(FetchResponse { header: Header::Refused(refusal), .. }) => {
                        EngineEvent::Failed(source, run, RequestFailure::Refused(refusal))
                    }
                    Ok(response) => EngineEvent::Arrived(source, run, response),
                    Err(_) => EngineEvent::Failed(source, run, RequestFailure::Refused(FetchRefusal::Storage)),
                }
            }
            .boxed();
        }
        let (net, addresses) = (self.inner.net.clone(), self.addresses.get(&source).cloned().unwrap_or_default());
        async move {
            match sources::chunks(&net, source, addresses, request).await {
                Ok(response) => EngineEvent::Arrived(source, run, response),
                Err(failure) => EngineEvent::Failed(source, run, failure),
            }
        }
        .boxed()
    }

    fn have(&self, source: PeerId) -> BoxFuture<'static, EngineEvent> {
        let net = self.inner.net.clone();
        if source == net.local() {
            return async move { EngineEvent::Have(source, Ok((None, Vec::new()))) }.boxed();
        }
        let addresses = self.addresses.get(&source).cloned().unwrap_or_default();
        let own = self.shares().then(|| self.store.clone());
        let (content, geometry) = (self.content, self.geometry);
        async move {
            EngineEvent::Have(source, sources::have(&net, source, addresses, own.as_deref(), content, geometry).await)
        }
        .boxed()
    }

    /// Whether what has come is passed on.
    pub(super) fn shares(&self) -> bool {
        self.terms.shares
    }

    /// A source said what it has along with something else; what makes no sense is as good as not said.
    /// True if it says something new.
    fn on_have_update(&self, machine: &mut Download<PeerId>, source: PeerId, have: &[u8]) -> bool {
        let chunks = ChunkSet::from_bytes(have, self.geometry.chunks());
        chunks.is_some_and(|chunks| machine.on_have_update(source, &chunks, Instant::now()))
    }

    fn on_event(&mut self, machine: &mut Download<PeerId>, work: &mut Work, event: EngineEvent) -> Result<(), Error> {
        let now = Instant::now();
        match event {
            EngineEvent::Arrived(source, run, mut response) => {
                machine.set_round_trip(source, self.inner.net.round_trip(&source));
                let (wanted, run) = match &mut response.header {
                    Header::Instead { first, .. } => {
                        let first = *first;
                        (machine.on_instead(source, run.first, first, now), ChunkRun { first, count: 1, ..run })
                    }
                    Header::Chunks { have, .. } if !have.is_empty() => {
                        let have = std::mem::take(have);
                        let wanted = machine.on_chunks(source, run.first, run.count, now);
                        self.on_have_update(machine, source, &have);
                        (wanted, run)
                    }
                    _ => (machine.on_chunks(source, run.first, run.count, now), run),
                };
                if !wanted {
                    self.store.settle(run.first);
                } else if !work.writer.push(source, run, response) {
                    return Err(Error::Bug);
                }
            }
            EngineEvent::Have(source, Ok((chunks, others))) => {
                machine.on_have(source, chunks, now);
                for Other { peer, addresses } in others {
                    self.add(machine, FoundHolder { peer, addresses, whole: false });
                }
            }
            EngineEvent::Sending(source, sends) => self.on_sending(source, sends),
            EngineEvent::Have(source, Err(failure)) => {
                match failure {
                    RequestFailure::Unconnected(silence) => drop(self.silent.insert(source, silence)),
                    RequestFailure::Unreachable(reason) => self.last_failure = Some(reason),
                    RequestFailure::Refused(_) | RequestFailure::Nonsense => {}
                }
                machine.on_have_failed(source, now);
            }
            EngineEvent::Failed(source, run, RequestFailure::Nonsense) => self.on_wrong(machine, source, run),
            // It was asked to forget the request.
            EngineEvent::Failed(_, _, RequestFailure::Refused(FetchRefusal::Cancelled)) => {}
            EngineEvent::Failed(source, run, RequestFailure::Refused(refusal)) if source == self.inner.net.local() => {
                self.on_own_refused(machine, run, refusal);
            }
            EngineEvent::Failed(source, run, RequestFailure::Refused(refusal)) => {
                if refusal == FetchRefusal::Storage {
                    self.unread.insert(source);
                }
                self.last_failure = Some(refusal.to_string());
                machine.on_refused(source, run.first, refusal, now);
            }
            EngineEvent::Failed(source, run, RequestFailure::Unconnected(silence)) => {
                self.on_silent(machine, source, run, silence)
            }
            EngineEvent::Failed(source, run, RequestFailure::Unreachable(reason)) => {
                self.last_failure = Some(reason);
                machine.on_failed(source, run.first, now);
            }
        }
        Ok(())
    }

    fn on_written(&mut self, machine: &mut Download<PeerId>, outcome: WriterOutcome) -> Result<(), Error> {
        let WriterOutcome { source, run, written, dropped } = outcome;
        match written {
            Written::Done => {
                machine.on_written(source, run.first, run.count);
                self.unread.remove(&source);
                self.used.insert(source);
                let indexes = run.first..run.first + u64::from(run.count);
                (self.says)(Said::Written(indexes.map(|index| self.geometry.len(index)).sum()));
                self.fetch.on_written();
            }
            Written::Wrong => self.on_wrong(machine, source, run),
            Written::Failed(error) => return Err(error),
        }
        dropped.into_iter().for_each(|index| machine.on_dropped(index));
        Ok(())
    }
}

/// Chunks that begin to arrive. Waits for ever if they are not announced to others.
async fn begun(store: &dyn Content) -> Vec<u64> {
    match store.incoming() {
        Some(incoming) => incoming.begun().await,
        None => std::future::pending().await,
    }
}
