//! One download: the scheduler decides, this task asks, verifies and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::content::{self, Geometry, Proof};
use swarmdex_protocols::fetch::{Header, Refusal, Request, Response};
use swarmdex_protocols::index::Member;
use swarmdex_protocols::{ContentId, Name, PeerId};
use tokio::sync::watch;

use super::lookup::Checked;
use super::types::Progress;
use super::{Error, Inner};
use crate::net::{ConnectError, Net, RequestError, sleep_until};
use crate::state::fetch::{Action, Download, Exhausted, FetchPolicy};
use crate::storage::partial::PartialFile;

/// A file in place.
pub(super) struct Got {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) sources: Vec<PeerId>,
}

/// A run of chunks of one source.
#[derive(Debug, Clone, Copy)]
struct Run {
    source: PeerId,
    first: u64,
    count: u32,
}

/// What a task of the download came to.
enum Event {
    Arrived(Run, Response),
    Failed(Run, Failure),
    Written(Run),
    Wrong(Run),
    NotWritten(Error),
}

/// What is under way.
#[derive(Default)]
struct Work {
    asks: FuturesUnordered<BoxFuture<'static, Event>>,
    writes: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// Why a request has no chunks.
enum Failure {
    Refused(Refusal),
    Unreachable(String),
    /// What came is no answer: as bad as wrong bytes.
    Nonsense,
}

/// Downloads `found` to `target`; nothing is left at the target unless every chunk was verified.
pub(super) async fn download(
    inner: &Inner,
    found: Checked,
    target: PathBuf,
    progress: &watch::Sender<Progress>,
) -> Result<Got, Error> {
    let name = found.entry.name.clone();
    let geometry = Geometry::new(found.entry.size).map_err(|_| Error::Answer)?;
    let local = inner.net.local();
    let (size, content) = (found.entry.size, found.entry.content);
    let opened = tokio::task::spawn_blocking(move || PartialFile::create(&target, size)).await;
    let partial = Arc::new(opened.map_err(|_| Error::Bug)??);
    let holders = found.holders.into_iter().filter(|holder| holder.peer != local).collect::<Vec<_>>();
    let task = Task {
        inner,
        name,
        content,
        geometry,
        partial: partial.clone(),
        addresses: holders.iter().map(|holder| (holder.peer, holder.clone())).collect(),
        progress,
        used: BTreeSet::new(),
        liars: BTreeSet::new(),
        last_failure: None,
    };
    let sources = if geometry.is_empty() { task.check_empty()? } else { task.run(&holders).await? };
    let finish = tokio::task::spawn_blocking(move || {
        let partial = Arc::into_inner(partial).ok_or(Error::Bug)?;
        partial.finish(true).map_err(Error::from)
    });
    let path = finish.await.map_err(|_| Error::Bug)??;
    Ok(Got { path, bytes: size, sources })
}

struct Task<'a> {
    inner: &'a Inner,
    name: Name,
    content: ContentId,
    geometry: Geometry,
    partial: Arc<PartialFile>,
    addresses: BTreeMap<PeerId, Member>,
    progress: &'a watch::Sender<Progress>,
    /// Sources that sent chunks which were written.
    used: BTreeSet<PeerId>,
    /// Sources that sent something else.
    liars: BTreeSet<PeerId>,
    last_failure: Option<String>,
}

impl Task<'_> {
    /// An empty file has no bytes to ask for; its content id is that of nothing, or it is none.
    fn check_empty(self) -> Result<Vec<PeerId>, Error> {
        match content::verify_chunk(&self.content, &self.geometry, 0, &[], &Proof::default()) {
            Ok(()) => Ok(Vec::new()),
            Err(_) => {
                Err(Error::Verification { name: self.name, content: self.content, sources: "the index".to_owned() })
            }
        }
    }

    async fn run(mut self, holders: &[Member]) -> Result<Vec<PeerId>, Error> {
        if holders.is_empty() {
            return Err(Error::NoHolder { name: self.name });
        }
        let policy = FetchPolicy::from(&self.inner.config.fetch);
        let mut machine = Download::new(self.geometry, policy);
        for holder in holders {
            machine.add_source(holder.peer);
        }
        let mut work = Work::default();
        let end = self.drive(&mut machine, &mut work).await;
        // Threads that still write hold the partial file.
        drop(work.asks);
        while work.writes.next().await.is_some() {}
        match end? {
            Ok(()) => Ok(self.used.into_iter().collect()),
            Err(reason) => Err(self.exhausted(reason)),
        }
    }

    /// Until the scheduler says that it is done, or that nobody is left to ask.
    async fn drive(&mut self, machine: &mut Download<PeerId>, work: &mut Work) -> Result<Result<(), Exhausted>, Error> {
        loop {
            while let Some(action) = machine.poll_action(Instant::now()) {
                match action {
                    Action::Request { source, first, count } => {
                        work.asks.push(self.request(Run { source, first, count }));
                    }
                    Action::Report(source) => self.report(source),
                    Action::Done => return Ok(Ok(())),
                    Action::Exhausted(reason) => return Ok(Err(reason)),
                }
            }
            let timeout = machine.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                Some(event) = work.writes.next() => self.on_event(machine, work, event)?,
                Some(event) = work.asks.next() => self.on_event(machine, work, event)?,
                () = sleep_until(timeout) => machine.handle_timeout(Instant::now()),
            }
        }
    }

    fn request(&self, run: Run) -> BoxFuture<'static, Event> {
        let net = self.inner.net.clone();
        let addresses = self.addresses.get(&run.source).map(|holder| holder.addresses.clone()).unwrap_or_default();
        let request = Request { content: self.content, first: run.first, count: run.count };
        async move {
            match ask(&net, run.source, addresses, request).await {
                Ok(response) => Event::Arrived(run, response),
                Err(failure) => Event::Failed(run, failure),
            }
        }
        .boxed()
    }

    fn report(&self, source: PeerId) {
        let questions = self.inner.questions.clone();
        tokio::spawn(async move {
            if let Err(error) = questions.report(source).await {
                tracing::debug!(%source, %error, "a report was not taken");
            }
        });
    }

    fn on_event(&mut self, machine: &mut Download<PeerId>, work: &mut Work, event: Event) -> Result<(), Error> {
        let now = Instant::now();
        match event {
            Event::Arrived(run, response) => {
                if machine.on_chunks(run.source, run.first, run.count, now) {
                    work.writes.push(self.verify_and_write(run, response));
                }
            }
            Event::Written(run) => {
                machine.on_written(run.source, run.first, run.count, now);
                self.used.insert(run.source);
                let bytes =
                    (run.first..run.first + u64::from(run.count)).map(|index| self.geometry.len(index)).sum::<u64>();
                self.progress.send_modify(|progress| progress.done_bytes += bytes);
            }
            Event::Wrong(run) => self.on_wrong(machine, run, now),
            Event::Failed(run, Failure::Nonsense) => self.on_wrong(machine, run, now),
            Event::Failed(run, Failure::Refused(refusal)) => {
                self.last_failure = Some(refusal.to_string());
                machine.on_refused(run.source, run.first, refusal, now);
            }
            Event::Failed(run, Failure::Unreachable(reason)) => {
                self.last_failure = Some(reason);
                machine.on_failed(run.source, run.first, now);
            }
            Event::NotWritten(error) => return Err(error),
        }
        Ok(())
    }

    fn on_wrong(&mut self, machine: &mut Download<PeerId>, run: Run, now: Instant) {
        tracing::warn!(source = %run.source, name = %self.name, "sent something else than the content; not asked again");
        self.liars.insert(run.source);
        machine.on_bad(run.source, run.first, now);
    }

    /// Checks every chunk and writes it, on a thread for blocking work.
    fn verify_and_write(&self, run: Run, response: Response) -> BoxFuture<'static, Event> {
        let (content, geometry, partial) = (self.content, self.geometry, self.partial.clone());
        let job = tokio::task::spawn_blocking(move || {
            let Some(chunks) = split(&geometry, run, &response) else { return Event::Wrong(run) };
            for (index, bytes, proof) in chunks {
                if content::verify_chunk(&content, &geometry, index, bytes, proof).is_err() {
                    return Event::Wrong(run);
                }
                if let Err(error) = partial.write_chunk(geometry.offset(index), bytes) {
                    return Event::NotWritten(error.into());
                }
            }
            Event::Written(run)
        });
        async move { job.await.unwrap_or(Event::NotWritten(Error::Bug)) }.boxed()
    }

    fn exhausted(self, reason: Exhausted) -> Error {
        let Self { name, content, .. } = self;
        let reason_text = self.last_failure.unwrap_or_else(|| "no answer".to_owned());
        match reason {
            Exhausted::Wrong => {
                let sources = self.liars.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Error::Verification { name, content, sources }
            }
            Exhausted::Gone => Error::ContentGone { name, content },
            Exhausted::Unreachable => {
                Error::HoldersUnreachable { name, holders: self.addresses.len(), reason: reason_text }
            }
        }
    }
}

/// The chunks of a response with their proofs, if it has as many and as long ones as were asked for.
fn split<'a>(
    geometry: &'a Geometry,
    run: Run,
    response: &'a Response,
) -> Option<impl Iterator<Item = (u64, &'a [u8], &'a Proof)> + use<'a>> {
    let Header::Chunks { proofs, .. } = &response.header else { return None };
    let indexes = run.first..run.first + u64::from(run.count);
    let bytes: u64 = indexes.clone().map(|index| geometry.len(index)).sum();
    if proofs.len() != run.count as usize || response.body.len() as u64 != bytes {
        return None;
    }
    // Every chunk but the last of the file has the same length, so equal pieces are the chunks.
    let length = usize::try_from(geometry.chunk_bytes()).ok()?;
    Some(indexes.zip(response.body.chunks(length)).zip(proofs).map(|((index, bytes), proof)| (index, bytes, proof)))
}

/// Connects if need be, and asks.
async fn ask(
    net: &Net,
    source: PeerId,
    addresses: Vec<swarmdex_protocols::Multiaddr>,
    request: Request,
) -> Result<Response, Failure> {
    net.connect(Some(source), addresses).await.map_err(|error| match error {
        ConnectError::WrongPeer { .. } => Failure::Unreachable(format!("another node is where {source} was")),
        error => Failure::Unreachable(error.to_string()),
    })?;
    match net.fetch(source, request).await {
        Ok(Response { header: Header::Refused(refusal), .. }) => Err(Failure::Refused(refusal)),
        Ok(response) => Ok(response),
        // A connection that breaks looks like an answer that ends early: no lie.
        Err(RequestError::Malformed(DecodeError::Truncated)) => {
            Err(Failure::Unreachable("its answer ended in the middle".to_owned()))
        }
        Err(RequestError::Malformed(_)) => Err(Failure::Nonsense),
        Err(RequestError::Busy) => Err(Failure::Refused(Refusal::Busy)),
        Err(error) => Err(Failure::Unreachable(error.to_string())),
    }
}
