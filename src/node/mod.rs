//! One running node behind one small handle. Command line, HTTP and tests go through it alone.

mod agree;
mod answer;
mod api;
mod begin;
mod context;
mod counts;
mod dht;
mod downloads;
mod entrances;
mod error;
mod events;
mod fetch;
mod get;
mod identity;
mod in_place;
mod keeper;
mod life;
mod lookout;
mod lookup;
mod masters;
mod membership;
mod mirror;
mod neighbours;
mod newcomer;
mod operation;
mod patience;
mod record;
mod roots;
mod share;
mod small;
mod standings;
mod start;
mod stored;
mod supervise;
mod twins;
mod types;
mod wanted;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

pub use api::{Api, Listed, Reply};
use downloads::Downloads;
pub use error::{Error, ErrorKind};
use events::Events;
pub use events::{EVENTS_KEPT, Event, EventStream, Happened, Notice};
pub use fetch::Reader;
pub use identity::{IdentityInfo, MachineState, NewIdentityInfo, new_identity, show_identity};
use libp2p::multiaddr::Protocol;
use life::{Life, Phase};
use lookup::Questions;
pub use operation::Operation;
pub use roots::{LeftOut, LeftOutInfo, RootInfo, RootPresence, UnsharedInfo, Why};
use standings::Standings;
use swarmdex_protocols::{Multiaddr, PeerId};
use tokio::sync::watch;
pub use types::*;

use crate::config::{Config, ShareOptions};
use crate::log;
use crate::net::{Net, mdns_interfaces};
use crate::storage::index::IndexStore;
use crate::storage::library::Library;
use crate::storage::shares::ShareTable;
pub(crate) use crate::storage::shares::check_patterns;
use crate::tasks::Failures;

/// A running node. Clones are handles to the same node; it runs until [`Node::shutdown`].
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    net: Net,
    shares: ShareTable,
    library: Library,
    questions: Questions,
    standings: Standings,
    counts: counts::Counts,
    index: Option<IndexStore>,
    mirror: watch::Receiver<mirror::Published>,
    twins: twins::Twins,
    other_masters: masters::OtherMasters,
    downloads: Downloads,
    started: Instant,
    events: Events,
    life: Life,
}

impl Node {
    /// Starts a node; returns once it listens. Files and folders of the configuration are shared in the
    /// background.
    pub async fn start(config: Config) -> Result<Self, Error> {
        start::start(config).await
    }

    /// Who the node is and where it listens.
    pub fn ready(&self) -> Ready {
        Ready { ready: true, role: self.inner.config.role, peer_id: self.inner.net.local(), listen: self.listen() }
    }

    /// The configuration that the node was started with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The data directory, as an absolute path.
    pub fn data_dir(&self) -> &std::path::Path {
        self.inner.life.dir.path()
    }

    fn listen(&self) -> Vec<Multiaddr> {
        let local = self.inner.net.local();
        let listen = self.inner.net.listen();
        let addresses = listen.borrow();
        addresses.iter().map(|address| address.clone().with(Protocol::P2p(local))).collect()
    }

    /// What the node is doing.
    pub async fn status(&self) -> Result<Status, Error> {
        let inner = &self.inner;
        let snapshot = inner.net.snapshot().await;
        let counts = inner.net.dht_counts().await;
        let dht = DhtInfo {
            nodes: counts.nodes as u64,
            records: counts.records as u64,
            providers: counts.providers as u64,
            closest_queries: counts.closest_queries,
            lookup_requests: counts.lookup_requests,
            mirror: inner.mirror.borrow().info(mirror::generations(&inner.library, &inner.standings)),
        };
        let index = inner.index.as_ref().map(|store| {
            let members = snapshot.members.unwrap_or_default();
            IndexCounts { names: store.counts().0, peers: members.members as u64, suspects: members.suspects as u64 }
        });
        let shared = self.shared_counts().await;
        Ok(Status {
            role: inner.config.role,
            peer_id: inner.net.local(),
            network: inner.config.network.to_string(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: inner.started.elapsed().as_secs(),
            listen: self.listen(),
            http: None,
            master: inner.questions.master.borrow().clone(),
            agreement: inner.standings.agreement_info(),
            twin: inner.twins.text(),
            other_masters: inner.other_masters.list(&inner.net),
            connected: snapshot.connected,
            mdns: inner.config.mdns.then(mdns_interfaces),
            reachable: inner.net.reachable(),
            dht,
            shared,
            downloads: inner.downloads.running.load(Ordering::Relaxed),
            uploaded_bytes: snapshot.uploaded_bytes,
            downloaded_bytes: inner.net.downloaded_bytes(),
            index,
            log_lines_lost: log::lost(),
            failed_tasks: self.failed_tasks(),
        })
    }

    fn failed_tasks(&self) -> Vec<String> {
        let mut names = self.inner.life.failures.names();
        // The log is the process's and not the node's.
        names.extend(log::has_failed().then(|| "log".to_owned()));
        names
    }

    /// What failed in this node, for those above who do a part of its work.
    pub(crate) fn failures(&self) -> Failures {
        self.inner.life.failures.clone()
    }

    /// The members of the network, as the master sees them.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        self.inner.questions.peers().await
    }

    /// What the index says of `name`.
    pub async fn lookup(&self, name: &str) -> Result<LookupInfo, Error> {
        let found = self.inner.questions.lookup(name).await?;
        let attributes = found.entry.attributes(&self.inner.config.network);
        let modified_ns = attributes.and_then(|attributes| attributes.modified_ns);
        Ok(LookupInfo {
            executable: attributes.map(|attributes| attributes.executable),
            modified_ms: modified_ns.map(|nanoseconds| nanoseconds.div_euclid(1_000_000)),
            ..found.into()
        })
    }

    /// Tells the master that a peer could not be reached; the master sees for itself.
    pub async fn report(&self, peer: PeerId) -> Result<(), Error> {
        self.inner.questions.report(peer).await
    }

    /// The entries that match `query`, sorted by name, at most `limit`.
    pub async fn search(&self, query: &str, limit: usize) -> Result<Vec<EntryInfo>, Error> {
        self.matching(query, limit).await.map(|found| found.entries)
    }

    /// The same, and whether there are more.
    pub async fn matching(&self, query: &str, limit: usize) -> Result<SearchInfo, Error> {
        self.inner.questions.search(query, limit).await
    }

    /// Shares files and folders (absolute paths), and keeps them shared across restarts. Ends when the
    /// master has answered, or after hashing if it cannot be reached.
    pub fn share(&self, paths: Vec<PathBuf>, name: Option<String>) -> Operation<ShareReport> {
        self.share_with(paths, name, ShareOptions::default())
    }

    /// The same, in another way than by default.
    pub fn share_with(
        &self,
        paths: Vec<PathBuf>,
        name: Option<String>,
        options: ShareOptions,
    ) -> Operation<ShareReport> {
        let node = self.clone();
        Operation::start("share", move |control| async move { node.share_paths(paths, name, options, control).await })
    }

    /// Downloads a file, or every file below a prefix.
    pub fn get(&self, request: GetRequest) -> Operation<GetReport> {
        self.get_with(request, GetOptions::default())
    }

    /// The same, in another way than by default.
    pub fn get_with(&self, request: GetRequest, options: GetOptions) -> Operation<GetReport> {
        let node = self.clone();
        Operation::start("get", move |control| async move {
            let watch = node.inner.events.on_download(&request);
            let outcome = node.get_files(request, options, control).await;
            watch.end(&outcome);
            outcome
        })
    }

    /// What happens from now on, or after the event number `since` as far as it is kept: the last [`EVENTS_KEPT`] events are.
    /// The stream ends once the node has stopped.
    pub fn events(&self, since: Option<u64>) -> EventStream {
        self.inner.events.follow(since)
    }

    /// Leaves the network and stops; the master is told, uploads under way get a few seconds to finish.
    /// Safe to call twice.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let life = &self.inner.life;
        life.enter(Phase::Leaves);
        let mut tasks = life.tasks.lock().await;
        // The first task is the membership: it says farewell over the network before that goes down.
        let mut whole = true;
        for (number, task) in tasks.drain(..).enumerate() {
            if number == 1 {
                self.inner.net.shutdown().await;
            }
            whole &= task.await.is_ok();
        }
        if let Some(index) = &self.inner.index {
            let index = index.clone();
            whole &= tokio::task::spawn_blocking(move || index.close()).await.is_ok();
        }
        life.chores.end();
        life.ended.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(true)).is_some());
        self.inner.events.close();
        if whole && !life.failures.is_over() { Ok(()) } else { Err(Error::Bug) }
    }

    /// Goes offline at once, as a crash would: nobody is told, and transfers break off.
    pub fn abort(&self) {
        // First, or the farewell would be on its way before the network ends.
        self.inner.life.enter(Phase::CutOff);
        self.inner.life.chores.end();
        self.inner.life.network.abort();
    }

    /// Waits until the node has stopped; an error if it was not asked to, or if a part of it failed without which it cannot
    /// go on: then [`Node::shutdown`] ends the rest.
    pub async fn stopped(&self) -> Result<(), Error> {
        let mut ended = self.inner.life.ended.subscribe();
        tokio::select! {
            ended = ended.wait_for(Option::is_some) => match ended.map(|ended| *ended) {
                Ok(Some(false)) => Err(Error::Bug),
                Ok(_) | Err(_) => Ok(()),
            },
            () = self.inner.life.failures.over() => Err(Error::Bug),
        }
    }
}
