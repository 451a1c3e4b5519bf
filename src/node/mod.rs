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

/// A handle to a running node. Clones are handles to the same node.
///
/// The node runs until [`Node::shutdown`] or [`Node::abort`], or until the last handle is dropped. Every clone is a handle. So is
/// an [`Operation`] until it ends, and an open [`Reader`]; an [`EventStream`] is none.
///
/// # Dropping the last handle
/// The node stops in the background, and nobody can wait for that. Its tasks end, and a member tells its master that it leaves.
/// It finishes uploads for up to 5 seconds, and closes its connections. The data directory stays locked until then.
///
/// The end of the Tokio runtime ends all of it at once, as [`Node::abort`] does.
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
    /// Starts a node. Returns once it listens, or after 10 seconds if it listens nowhere by then.
    ///
    /// It opens the data directory, or makes one, and locks it until the last handle is gone and the node has stopped. Then it joins
    /// the network, and shares what the configuration names, both in the background: [`Node::events`] and [`Node::status`] tell how
    /// far that is. It needs a Tokio runtime with I/O and time. What dropping the last handle does is said at [`Node`].
    ///
    /// # Errors
    /// - [`Error::Config`]: a time in the configuration is 0, or longer than a year.
    /// - [`Error::DataDir`]: the folder is in use, damaged, unfit, or of a newer version.
    /// - [`Error::OtherMachine`]: it is from another machine, and the configuration says to stop then.
    /// - [`Error::Identity`]: it is from another machine, and cannot be given a new identity.
    /// - [`Error::Share`]: a pattern of `exclude` is none, or the share table cannot be opened.
    /// - [`Error::Index`]: the index of a master cannot be opened. [`Error::Grants`]: nor can the certificates of a node.
    /// - [`Error::Net`]: an address cannot be listened on, or encryption, DNS or mDNS cannot be set up.
    /// - [`Error::ShuttingDown`]: the network ended before it listened. [`Error::Bug`]: a thread panicked.
    ///
    /// A file or folder that cannot be shared is no error: the log says so, and [`Node::roots`].
    ///
    /// # Cancel safety
    /// Not cancel safe. What is being opened is opened to its end, and the data directory stays locked for so long. A node that
    /// listens already goes offline in the background.
    pub async fn start(config: Config) -> Result<Self, Error> {
        start::start(config).await
    }

    /// Who the node is, and where it listens at the moment.
    pub fn ready(&self) -> Ready {
        Ready { ready: true, role: self.inner.config.role, peer_id: self.inner.net.local(), listen: self.listen() }
    }

    /// The configuration that the node was started with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The data directory, as an absolute path. It stays locked until the last handle is dropped, after a shutdown as well.
    pub fn data_dir(&self) -> &std::path::Path {
        self.inner.life.dir.path()
    }

    fn listen(&self) -> Vec<Multiaddr> {
        let local = self.inner.net.local();
        let listen = self.inner.net.listen();
        let addresses = listen.borrow();
        addresses.iter().map(|address| address.clone().with(Protocol::P2p(local))).collect()
    }

    /// What the node is doing. Counts of the network are zero once it has stopped.
    ///
    /// # Errors
    /// None: the result is one because [`Api::status`] can fail in another process.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
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

    /// The members of the network, as the master sees them, in the order of their ids. They are asked for in pages of 250.
    ///
    /// It waits up to 10 seconds for the first attempt to join, and up to 15 for each page.
    ///
    /// # Errors
    /// - [`Error::NoMaster`]: none was found in that time. [`Error::NoEntrance`]: nor can a bootstrap node be reached.
    /// - [`Error::MasterUnreachable`]: the last attempt to reach the master failed.
    /// - [`Error::Request`]: the connection was lost, no answer came in time, or too many requests wait.
    /// - [`Error::Refused`]: the master refused. [`Error::Answer`]: its answer does not fit, or its pages have no end.
    /// - [`Error::ShuttingDown`]: the node stopped meanwhile.
    ///
    /// # Cancel safety
    /// Cancel safe: what came so far is lost, and nothing else.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        self.inner.questions.peers().await
    }

    /// What the index says of `name`, with up to 32 holders of up to 16 addresses each.
    ///
    /// The master is asked, and the DHT besides if no answer came within 150 ms. While the master cannot be reached, the DHT is asked
    /// alone. It waits for the master as [`Node::peers`] does.
    ///
    /// # Errors
    /// - [`Error::Name`]: `name` is no name. [`Error::NotFound`]: nobody holds it.
    /// - [`Error::NoMaster`]: no master was ever found. [`Error::NoEntrance`]: nor can a bootstrap node be reached.
    /// - [`Error::MasterUnreachable`], [`Error::NoNodes`]: neither the master nor a node of the DHT can be asked.
    /// - [`Error::Unsure`]: nodes of the DHT that would know do not answer, and neither does the master.
    /// - [`Error::Request`], [`Error::Refused`], [`Error::Answer`]: the master did not answer well, and the DHT did not find it.
    /// - [`Error::Forged`]: the entry is not signed by the master that sent it, and the DHT did not find it.
    /// - [`Error::ShuttingDown`]: the node stopped meanwhile.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
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
    ///
    /// # Errors
    /// Those of [`Node::peers`]. The master also refuses if the peer is no member.
    ///
    /// # Cancel safety
    /// Cancel safe: a report that left arrives all the same, and only the answer is lost.
    pub async fn report(&self, peer: PeerId) -> Result<(), Error> {
        self.inner.questions.report(peer).await
    }

    /// The entries that match `query`, sorted by name, at most `limit`: all of them are in memory. The language of queries is
    /// described at [`swarmdex_protocols::pattern`]. It waits for the master as [`Node::peers`] does.
    ///
    /// # Errors
    /// [`Error::Query`] if the query is none. Else those of [`Node::lookup`], but for those about one name.
    ///
    /// # Cancel safety
    /// Cancel safe: what came so far is lost, and nothing else.
    pub async fn search(&self, query: &str, limit: usize) -> Result<Vec<EntryInfo>, Error> {
        self.matching(query, limit).await.map(|found| found.entries)
    }

    /// As [`Node::search`], and whether there are more.
    ///
    /// # Errors
    /// Those of [`Node::search`].
    ///
    /// # Cancel safety
    /// Cancel safe: what came so far is lost, and nothing else.
    pub async fn matching(&self, query: &str, limit: usize) -> Result<SearchInfo, Error> {
        self.inner.questions.search(query, limit).await
    }

    /// As [`Node::share_with`], in the way that is the default.
    pub fn share(&self, paths: Vec<PathBuf>, name: Option<String>) -> Operation<ShareReport> {
        self.share_with(paths, name, ShareOptions::default())
    }

    /// Shares files and folders by their absolute paths, and keeps them shared across restarts. With `name` one file gets that name,
    /// or the names in one folder begin with it.
    ///
    /// The operation hashes what is new. Then it waits until every name has an answer: up to 20 seconds for the next one, up to 5
    /// while the master cannot be reached, up to 2 while none is known. Files of a folder that cannot be shared are no error: see
    /// [`ShareReport::skipped`].
    ///
    /// # Errors
    /// Of the operation:
    /// - [`Error::Name`]: `name` is no name.
    /// - [`Error::Share`]: a path is not there, is not for sharing, or has a name that is taken on this node. Or `name` is for several
    ///   paths, a pattern is none, or the share table cannot be written.
    /// - [`Error::Cancelled`]: it was cancelled while it hashed. Later that has no effect.
    /// - [`Error::ShuttingDown`]: its runtime ended. [`Error::Bug`]: it panicked.
    ///
    /// Paths before the one that failed are shared, and stay so.
    ///
    /// # Cancel safety
    /// Dropping or cancelling the operation while it hashes stops that at the next piece. The path that it was at is shared as it was
    /// before, paths that were done stay shared, and hashes that are known stay so. Dropped later, it takes nothing back. It cannot be
    /// paused.
    pub fn share_with(
        &self,
        paths: Vec<PathBuf>,
        name: Option<String>,
        options: ShareOptions,
    ) -> Operation<ShareReport> {
        let node = self.clone();
        Operation::start("share", move |control| async move { node.share_paths(paths, name, options, control).await })
    }

    /// As [`Node::get_with`], in the way that is the default.
    pub fn get(&self, request: GetRequest) -> Operation<GetReport> {
        self.get_with(request, GetOptions::default())
    }

    /// Downloads a file, or every file below a prefix: at most 1,000,000. Every byte is checked against its content
    /// id before it counts.
    ///
    /// # Errors
    /// Of the operation:
    /// - those of [`Node::lookup`]; [`Error::NotNamed`] in place of [`Error::NotFound`] if there is something like it;
    /// - [`Error::NothingBelow`], [`Error::NotBelow`], [`Error::TooManyBelow`]: of a prefix;
    /// - [`Error::NoHolder`], [`Error::HoldersUnreachable`], [`Error::DisksSilent`], [`Error::ContentGone`]: nobody sends it;
    /// - [`Error::Verification`]: all that came was something else;
    /// - [`Error::Partial`]: it cannot be written; [`Error::Kept`]: the copy that is there was changed;
    /// - [`Error::Cancelled`], [`Error::ShuttingDown`], [`Error::Bug`]: it was cancelled, its runtime ended, or it panicked.
    ///
    /// Below a prefix a file that fails is no error: see [`GetReport::failed`].
    ///
    /// # Cancel safety
    /// Dropping the operation keeps the verified chunks of unfinished files, and another download of them goes on from there. Small
    /// files that did not come whole are lost. Cancelling removes what is unfinished. Files in place stay either way.
    pub fn get_with(&self, request: GetRequest, options: GetOptions) -> Operation<GetReport> {
        let node = self.clone();
        Operation::start("get", move |control| async move {
            let watch = node.inner.events.on_download(&request);
            let outcome = node.get_files(request, options, control).await;
            watch.end(&outcome);
            outcome
        })
    }

    /// What happens from now on, or after the event number `since` as far as it is kept: the last [`EVENTS_KEPT`] events are. With a
    /// `since` that was not given out yet, all that is kept follows. When the stream ends is said at [`EventStream`].
    pub fn events(&self, since: Option<u64>) -> EventStream {
        self.inner.events.follow(since)
    }

    /// Leaves the network and stops. The master gets 2 seconds to hear of it, and uploads under way get 5 to finish. Hashing stops at
    /// the next piece, and an index is closed. Whoever calls it meanwhile waits as well, and a later call returns at once.
    ///
    /// The data directory stays locked until the last handle is dropped.
    ///
    /// # Errors
    /// [`Error::Bug`]: a task of the node had panicked. It has stopped all the same.
    ///
    /// # Cancel safety
    /// Cancel safe: the node goes on stopping, and another call waits for the rest.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let life = &self.inner.life;
        life.enter(Phase::Leaves);
        let mut tasks = life.tasks.lock().await;
        let mut whole = tasks.end(async || self.inner.net.shutdown().await).await;
        if let Some(index) = &self.inner.index {
            let index = index.clone();
            whole &= tokio::task::spawn_blocking(move || index.close()).await.is_ok();
        }
        life.chores.end();
        life.ended.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(true)).is_some());
        self.inner.events.close();
        if whole && !life.failures.is_over() { Ok(()) } else { Err(Error::Bug) }
    }

    /// Goes offline at once, as a crash would: nobody is told, and transfers break off. Tasks of the node end soon after, and nobody
    /// waits for them: [`Node::shutdown`] does so afterwards, and closes an index. Safe to call twice.
    pub fn abort(&self) {
        // First, or the farewell would be on its way before the network ends.
        self.inner.life.enter(Phase::CutOff);
        self.inner.life.chores.end();
        self.inner.life.network.abort();
        self.inner.events.close();
    }

    /// Waits until the network of the node has ended, or until a part failed without which it cannot go on. Then
    /// [`Node::shutdown`] ends the rest.
    ///
    /// # Errors
    /// [`Error::Bug`]: it ended otherwise than by [`Node::shutdown`], [`Node::abort`] included, or such a part failed.
    ///
    /// # Cancel safety
    /// Cancel safe: it only waits.
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
