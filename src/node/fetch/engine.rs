//! One download: the scheduler decides, this task asks, and a thread verifies and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use swarmdex_protocols::content::{self, Geometry, Proof};
use swarmdex_protocols::fetch::{Any, Header, Other, Refusal, Request, Response, Run, Want};
use swarmdex_protocols::{ChunkSet, ContentId, Multiaddr, Name, PeerId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::sharing::{Sharing, next_word};
use super::silence::Unmet;
use super::sources::{self, Failure, Found, News, Search, Silence};
use super::stalled;
use super::target::{Got, Target};
use super::writer::{Writer, Written};
use crate::net::{Word, sleep_until};
use crate::node::get::patience::Patience;
use crate::node::lookup::Checked;
use crate::node::operation::{Reins, Wish};
use crate::node::types::Progress;
use crate::node::{Error, Inner};
use crate::state::fetch::stalls::Stalls;
use crate::state::fetch::{Action, Download, Exhausted, FetchPolicy};
use crate::storage::hash::FileStamp;
use crate::storage::holdings::{Part, Whole};
use crate::storage::partial::PartialFile;
use crate::tasks;

/// News of sources that wait to be heard.
const NEWS: usize = 64;

/// How often it is looked how far away sources are that have not answered yet.
const GETS_NEAR: Duration = Duration::from_millis(50);
/// A download that takes longer lets others find in the DHT what it has, and a large one looks for holders there.
const LONG: Duration = Duration::from_secs(3);

/// What a task of the download came to.
pub(super) enum Event {
    Arrived(PeerId, Run, Response),
    Failed(PeerId, Run, Failure),
    Have(PeerId, Result<(Option<ChunkSet>, Vec<Other>), Failure>),
    /// Whether a source is sending what it owes.
    Sending(PeerId, Result<bool, Failure>),
}

/// Downloads `found` to `target`; nothing is left at the target unless every chunk was verified.
pub(in crate::node) async fn download(
    inner: &Inner,
    found: Checked,
    target: Target,
    patience: &Patience,
    reins: &Reins,
) -> Result<Got, Error> {
    let (progress, wish) = (&reins.progress, reins.wish.clone());
    let Target { path, placing, fleeting, sync } = target;
    let name = found.entry.name.clone();
    let geometry = Geometry::new(found.entry.size).map_err(|_| Error::Answer)?;
    let (size, content) = (found.entry.size, found.entry.content);
    // Whoever wants the same content waits, and then finds it here.
    let turn = inner.downloads.turns.take(content).await;
    let holdings = inner.library.holdings.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let (file, tree) = PartialFile::resume(&path, content, geometry, placing)?;
        Ok::<_, Error>(Arc::new(Part::new(file, tree, turn, &holdings)))
    });
    // Threads that still write when this is dropped have it too: the turn is theirs until they end.
    let part = opened.await.map_err(|_| Error::Bug)??;
    let have = part.tree().have().clone();
    if !have.is_empty() {
        let bytes: u64 = have.iter().map(|index| geometry.len(index)).sum();
        tracing::info!(%name, bytes, "goes on with what was downloaded before");
        progress.send_modify(|progress| progress.done_bytes += bytes);
    }
    let sharing = Sharing::begin(inner, content, geometry, &part, fleeting);
    let task = Task {
        inner,
        name,
        content,
        geometry,
        part: part.clone(),
        addresses: BTreeMap::new(),
        owner: found.entry.owner,
        reins,
        patience,
        away: None,
        progress,
        wish,
        used: BTreeSet::new(),
        liars: BTreeSet::new(),
        unread: BTreeSet::new(),
        complaints: Vec::new(),
        silent: BTreeMap::new(),
        suspect: found.holders.iter().filter(|holder| holder.suspect).map(|holder| holder.peer).collect(),
        sync,
        hidden: found
            .holders
            .iter()
            .filter(|holder| holder.reachable == Some(false))
            .map(|holder| holder.peer)
            .collect(),
        stalls: Stalls::default(),
        cut: BTreeMap::new(),
        last_failure: None,
    };
    let sources = if geometry.is_empty() { task.check_empty()? } else { task.run(found, &have).await? };
    let whole = part.clone();
    let finish = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let path = whole.file.finish(sync)?;
        let stamp = whole.file.metadata().ok().map(|metadata| FileStamp::of(&metadata));
        Ok((path, stamp, whole.tree().outboard()))
    });
    let (path, stamp, outboard) = finish.await.map_err(|_| Error::Bug)??;
    if let (Some(stamp), Some(outboard)) = (stamp, outboard) {
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        sharing.complete(Whole { path: absolute, stamp, outboard: Arc::new(outboard) });
    }
    Ok(Got { path, bytes: size, sources, stamp })
}

pub(super) struct Task<'a> {
    pub(super) inner: &'a Inner,
    pub(super) name: Name,
    pub(super) content: ContentId,
    pub(super) geometry: Geometry,
    pub(super) part: Arc<Part>,
    pub(super) addresses: BTreeMap<PeerId, Vec<Multiaddr>>,
    pub(super) owner: PeerId,
    pub(super) reins: &'a Reins,
    pub(super) patience: &'a Patience,
    /// Whether what comes is to be on disk.
    pub(super) sync: bool,
    /// Since when nobody is there who has what is missing.
    pub(super) away: Option<Instant>,
    pub(super) progress: &'a watch::Sender<Progress>,
    pub(super) wish: watch::Receiver<Wish>,
    /// Sources that sent chunks which were written.
    pub(super) used: BTreeSet<PeerId>,
    /// Sources that sent something else.
    pub(super) liars: BTreeSet<PeerId>,
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
    pub(super) asks: FuturesUnordered<BoxFuture<'static, Event>>,
    pub(super) writer: Writer,
    pub(super) search: Search,
    pub(super) news: mpsc::Receiver<News>,
    /// What others say along with their requests that they have, if they are listened to.
    pub(super) words: Option<mpsc::Receiver<Word>>,
    /// When it has taken long, if it has not yet.
    pub(super) long: Option<Instant>,
    /// When it is over unless a holder is met, until one is.
    pub(super) unmet: Option<Unmet>,
    /// When it was last asked where sources are now that are not connected.
    pub(super) searched: Option<Instant>,
}

impl Task<'_> {
    /// An empty file has no bytes to ask for; its content id is that of nothing, or it is none.
    fn check_empty(self) -> Result<Vec<PeerId>, Error> {
        match content::check_chunk(&self.content, &self.geometry, 0, &[], &Proof::default()) {
            Ok(path) => {
                self.part.tree().insert(0, &path, &Proof::default());
                Ok(Vec::new())
            }
            Err(_) => {
                let (name, content, sources) = (self.name, self.content, "the index".to_owned());
                Err(Error::Verification { name, content, sources, kept: false })
            }
        }
    }

    async fn run(mut self, found: Checked, have: &ChunkSet) -> Result<Vec<PeerId>, Error> {
        let policy = FetchPolicy::new(&self.inner.config.fetch, self.shares(), self.patience.limit(), rand::random());
        let mut machine = Download::new(self.geometry, policy, Some(have));
        let (now, local) = (Instant::now(), self.inner.net.local());
        if self.patience.is_wanted() {
            machine.wait_from(now);
        }
        if self.inner.library.has_whole(&self.content, &self.geometry) {
            machine.add_source(local, true, now);
        }
        for holder in found.holders {
            self.add(&mut machine, Found { peer: holder.peer, addresses: holder.addresses, whole: true });
        }
        let (sender, news) = mpsc::channel(NEWS);
        let mut search = Search::new(self.inner.questions.clone(), self.name.clone(), self.content, sender);
        // What is soon done is not worth a search unless the index knows nobody who has it.
        if machine.live() == 0 {
            machine.set_searching(true);
            search.begin();
        }
        let writer = Writer::start(self.part.clone(), self.inner.library.buffers.clone(), self.sync);
        let words = if machine.is_swarm() { Some(self.inner.net.words(self.content).await) } else { None };
        let unmet = (machine.live() > 0 && !self.patience.is_wanted()).then(|| Unmet::begin(self.inner));
        let asks = FuturesUnordered::new();
        let long = Some(now + LONG);
        let mut work = Work { asks, writer, search, news, words, long, unmet, searched: None };
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

    pub(super) fn add(&mut self, machine: &mut Download<PeerId>, found: Found) {
        let Found { peer, addresses, whole } = found;
        if peer == self.inner.net.local() || !machine.is_patient() && self.was_tried(&peer, &addresses) {
            return;
        }
        // Of one that was heard of by its own word, others say where it listens.
        let nowhere = self.addresses.get(&peer).is_some_and(Vec::is_empty);
        if machine.add_source(peer, whole, Instant::now()) || nowhere {
            self.addresses.insert(peer, addresses);
        }
    }

    /// Until the scheduler says that it is done, or that nobody is left to ask.
    async fn drive(&mut self, machine: &mut Download<PeerId>, work: &mut Work) -> Result<Result<(), Exhausted>, Error> {
        let (mut wishes, mut listen) = (self.wish.clone(), self.inner.net.listen());
        listen.mark_unchanged();
        let mut looks = tokio::time::interval(stalled::LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let part = self.part.clone();
        // Whether there may be something to do: there are many words in a crowd, and few say something new.
        let mut stirs = true;
        loop {
            let wish = *wishes.borrow_and_update();
            if wish == Wish::Cancel {
                self.part.file.discard();
                return Err(Error::Cancelled);
            }
            while wish == Wish::Run
                && stirs
                && let Some(action) = machine.poll_action(Instant::now())
            {
                if let Some(end) = self.act(action, machine, work) {
                    return Ok(end);
                }
            }
            let timeout = machine.poll_timeout(Instant::now()).map(|(at, _)| at).filter(|_| wish == Wish::Run);
            let unheard = machine.unheard().next().map(|_| Instant::now() + GETS_NEAR);
            stirs = true;
            tokio::select! {
                next = work.writer.next() => {
                    let (source, run, written) = next?;
                    self.on_written(machine, source, run, written)?;
                }
                () = work.search.failed() => return Err(Error::Bug),
                _ = looks.tick(), if wish == Wish::Run => {
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
                (peer, have) = next_word(&mut work.words) => {
                    self.add(machine, Found { peer, addresses: Vec::new(), whole: false });
                    stirs = self.on_word(machine, peer, &have);
                }
                begun = part.begun() => begun.into_iter().for_each(|index| machine.on_coming(index)),
                () = sleep_until(work.long) => {
                    work.long = None;
                    if machine.is_swarm() {
                        work.search.begin();
                    }
                    self.inner.library.holdings.offer(&self.content);
                }
                () = sleep_until(timeout) => machine.handle_timeout(Instant::now()),
                () = sleep_until(work.unmet.as_ref().map(Unmet::end).filter(|_| wish == Wish::Run)) => {
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
                // An operation that nobody holds any more is dropped as a whole.
                Ok(()) = wishes.changed() => work.unmet = work.unmet.take().map(|_| Unmet::begin(self.inner)),
            }
        }
    }

    fn act(
        &mut self,
        action: Action<PeerId>,
        machine: &Download<PeerId>,
        work: &mut Work,
    ) -> Option<Result<(), Exhausted>> {
        let run = |first, count| Run { content: self.content, first, count };
        match action {
            Action::Request { source, first, count } => {
                let run = run(first, count);
                let any = (count == 1).then(|| machine.alternatives(source)).flatten();
                let request = match any {
                    Some(others) => Request::Any(Any::new(self.content, first, others)),
                    // One that downloads as well is told what it may get here.
                    None if machine.has_part(source) && self.shares() => {
                        Request::Chunks(Want { have: self.part.offers().along(), ..run.into() })
                    }
                    None => Request::Chunks(run.into()),
                };
                work.asks.push(self.request(source, run, request));
            }
            Action::Cancel { source, first, count } => {
                tasks::spawn("cancel", sources::cancel(self.inner.net.clone(), source, run(first, count)));
            }
            Action::Have(source) => work.asks.push(self.have(source)),
            Action::Report(source) => self.report(source),
            Action::Search => work.search.again(),
            Action::Done => return Some(Ok(())),
            Action::Exhausted(reason) => return Some(Err(reason)),
        }
        None
    }

    /// Asks for a run, by a request for it or for any of several chunks.
    fn request(&self, source: PeerId, run: Run, request: Request) -> BoxFuture<'static, Event> {
        if source == self.inner.net.local() {
            let library = self.inner.library.clone();
            return async move {
                match tokio::task::spawn_blocking(move || library.chunks(&run)).await {
                    Ok(Response { header: Header::Refused(refusal), .. }) => {
                        Event::Failed(source, run, Failure::Refused(refusal))
                    }
                    Ok(response) => Event::Arrived(source, run, response),
                    Err(_) => Event::Failed(source, run, Failure::Refused(Refusal::Storage)),
                }
            }
            .boxed();
        }
        let (net, addresses) = (self.inner.net.clone(), self.addresses.get(&source).cloned().unwrap_or_default());
        async move {
            match sources::chunks(&net, source, addresses, request).await {
                Ok(response) => Event::Arrived(source, run, response),
                Err(failure) => Event::Failed(source, run, failure),
            }
        }
        .boxed()
    }

    fn have(&self, source: PeerId) -> BoxFuture<'static, Event> {
        let net = self.inner.net.clone();
        if source == net.local() {
            return async move { Event::Have(source, Ok((None, Vec::new()))) }.boxed();
        }
        let addresses = self.addresses.get(&source).cloned().unwrap_or_default();
        let own = self.shares().then(|| self.part.clone());
        let (content, geometry) = (self.content, self.geometry);
        async move {
            Event::Have(source, sources::have(&net, source, addresses, own.as_deref(), content, geometry).await)
        }
        .boxed()
    }

    /// Whether what has come is passed on.
    pub(super) fn shares(&self) -> bool {
        self.inner.config.fetch.reshare && !self.inner.config.transient
    }

    /// A source said what it has along with something else; what makes no sense is as good as not said.
    /// True if it says something new.
    fn on_word(&self, machine: &mut Download<PeerId>, source: PeerId, have: &[u8]) -> bool {
        let chunks = ChunkSet::from_bytes(have, self.geometry.chunks());
        chunks.is_some_and(|chunks| machine.on_word(source, &chunks, Instant::now()))
    }

    fn on_event(&mut self, machine: &mut Download<PeerId>, work: &mut Work, event: Event) -> Result<(), Error> {
        let now = Instant::now();
        match event {
            Event::Arrived(source, run, mut response) => {
                machine.set_round_trip(source, self.inner.net.round_trip(&source));
                let (wanted, run) = match &mut response.header {
                    Header::Instead { first, .. } => {
                        let first = *first;
                        (machine.on_instead(source, run.first, first, now), Run { first, count: 1, ..run })
                    }
                    Header::Chunks { have, .. } if !have.is_empty() => {
                        let have = std::mem::take(have);
                        let wanted = machine.on_chunks(source, run.first, run.count, now);
                        self.on_word(machine, source, &have);
                        (wanted, run)
                    }
                    _ => (machine.on_chunks(source, run.first, run.count, now), run),
                };
                if !wanted {
                    self.part.landed(run.first);
                } else if !work.writer.push(source, run, response) {
                    return Err(Error::Bug);
                }
            }
            Event::Have(source, Ok((chunks, others))) => {
                machine.on_have(source, chunks, now);
                for Other { peer, addresses } in others {
                    self.add(machine, Found { peer, addresses, whole: false });
                }
            }
            Event::Sending(source, sends) => self.on_sending(source, sends),
            Event::Have(source, Err(failure)) => {
                match failure {
                    Failure::Unconnected(silence) => drop(self.silent.insert(source, silence)),
                    Failure::Unreachable(reason) => self.last_failure = Some(reason),
                    Failure::Refused(_) | Failure::Nonsense => {}
                }
                machine.on_have_failed(source, now);
            }
            Event::Failed(source, run, Failure::Nonsense) => self.on_wrong(machine, source, run),
            // It was asked to forget the request.
            Event::Failed(_, _, Failure::Refused(Refusal::Cancelled)) => {}
            Event::Failed(source, run, Failure::Refused(refusal)) if source == self.inner.net.local() => {
                self.on_own_refused(machine, run, refusal);
            }
            Event::Failed(source, run, Failure::Refused(refusal)) => {
                if refusal == Refusal::Storage {
                    self.unread.insert(source);
                }
                self.last_failure = Some(refusal.to_string());
                machine.on_refused(source, run.first, refusal, now);
            }
            Event::Failed(source, run, Failure::Unconnected(silence)) => self.on_silent(machine, source, run, silence),
            Event::Failed(source, run, Failure::Unreachable(reason)) => {
                self.last_failure = Some(reason);
                machine.on_failed(source, run.first, now);
            }
        }
        Ok(())
    }

    fn on_written(
        &mut self,
        machine: &mut Download<PeerId>,
        source: PeerId,
        run: Run,
        written: Written,
    ) -> Result<(), Error> {
        match written {
            Written::Done => {
                machine.on_written(source, run.first, run.count);
                self.unread.remove(&source);
                self.used.insert(source);
                let indexes = run.first..run.first + u64::from(run.count);
                let bytes = indexes.map(|index| self.geometry.len(index)).sum::<u64>();
                self.progress.send_modify(|progress| progress.done_bytes += bytes);
            }
            Written::Wrong => self.on_wrong(machine, source, run),
            Written::Failed(error) => return Err(error),
        }
        Ok(())
    }
}
