//! From a configuration to a running node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt;
use swarmdex_protocols::index::Fingerprint;
use swarmdex_protocols::{Authority, RecordKey, Statement};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};

use super::dht::Dht;
use super::events::{Events, watch_share};
use super::fetch::Fetches;
use super::identity::take_identity;
use super::keeper::keep_current;
use super::lookup::Questions;
use super::masters::{Census, OtherMasters};
use super::membership::{Finder, Membership, unix_ms};
use super::mirror::{MADE_QUEUE, MirrorTask, Published};
use super::newcomer::Newcomer;
use super::standings::Standings;
use super::supervise::Supervisor;
use super::twins::{Lookout, Twins};

use super::types::{MasterState, path_text};
use super::{Downloads, Error, Inner, Life, Node, Phase};
use crate::buffers::Buffers;
use crate::config::{Config, Role};
use crate::descriptors::Plan;
use crate::net::{Master, Mirror, Net, Services};
use crate::storage::copies;
use crate::storage::dir::{DataDir, read_identity};
use crate::storage::grants::Grants;
use crate::storage::holdings::Holdings;
use crate::storage::index::{IndexOptions, IndexStore};
use crate::storage::library::Library;
use crate::storage::shares::{DeclareOutcome, HashProgress, ShareOutcome, ShareTable, check_patterns};
use crate::tasks::{self, Failures};

/// How long a node may take to listen on its first address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long joining waits for files that have to be hashed.
const HASHING_PATIENCE: Duration = Duration::from_secs(3);
/// Buffers for chunks, of up to 1 MiB each, that are kept for the next use.
const BUFFERS: usize = 12;

/// What is read from disk before the node goes online.
/// How long a start waits for what it looks at first.
const SETTLING: Duration = Duration::from_secs(3);

struct Stored {
    dir: DataDir,
    keypair: libp2p::identity::Keypair,
    machine: Option<Fingerprint>,
    shares: ShareTable,
    standings: Standings,
    master: Option<(IndexStore, Master, mpsc::Receiver<Statement>)>,
}

fn open(config: &Config, failures: &Failures, events: &Events) -> Result<Stored, Error> {
    // The folder of a command is its own, and new.
    let dir = if config.transient { DataDir::open_temporary } else { DataDir::open }(&config.data_dir)?;
    let is_new = read_identity(dir.path()).is_ok_and(|identity| identity.is_none());
    let (keypair, machine) = take_identity(&dir, config)?;
    check_patterns(&config.selection.exclude)?;
    if !config.transient {
        settle(dir.path().to_owned());
    }
    let shares = ShareTable::open(dir.path(), config.fetch.threads)?;
    recall(&shares, config);
    let master = match config.role {
        Role::Peer => None,
        Role::Master => {
            let (made, to_publish) = mpsc::channel(MADE_QUEUE);
            let options = IndexOptions::new(config.network.clone(), keypair.clone(), &config.limits)
                .with_mirror(made)
                .with_failures(failures.clone());
            let (store, known) = IndexStore::open(&dir.index_path(), options)?;
            let mut master = Master::new(store.clone(), config, known, Instant::now());
            master.tell_changes(events.of_members());
            if store.is_new() && !is_new {
                master.on_lost_index();
            }
            Some((store, master, to_publish))
        }
    };
    let grants = Grants::open(&dir.grants_path())?;
    let certificates = grants.all()?;
    let standings = Standings::new(keypair.public().to_peer_id(), grants, certificates);
    recall_granted(&shares, &standings);
    Ok(Stored { dir, keypair, machine, shares, standings, master })
}

pub(super) async fn start(config: Config) -> Result<Node, Error> {
    // Before anything is opened.
    let plan = Plan::of(&config);
    plan.report(&config);
    let failures = Failures::default();
    let events = Events::default();
    let (opening, watched, told) = (config.clone(), failures.clone(), events.clone());
    let stored =
        tokio::task::spawn_blocking(move || open(&opening, &watched, &told)).await.map_err(|_| Error::Bug)??;
    let Stored { dir, keypair, machine, shares, standings, master } = stored;
    let (index, master, made) = match master {
        Some((index, master, made)) => (Some(index), Some(master), Some(made)),
        None => (None, None, None),
    };
    let owned = standings.service(shares.clone());
    // Enough for the windows of a fast download or two.
    let buffers = Buffers::new(BUFFERS);
    let library = Library { shares: shares.clone(), holdings: Holdings::default(), buffers, reads: Arc::default() };
    let services = Services { library: library.clone(), index: master, owned: owned.clone() };
    let (net, loop_task) = Net::start(keypair.clone(), &config, services)?;
    listening(&net).await?;
    let finder = Finder::new(&config, dir.clone());
    let trusted = if config.role == Role::Master { Some(net.local()) } else { finder.known_master() };
    net.trust(trusted.and_then(|master| Authority::new(config.network.clone(), &master)));

    let (state, master_state) = watch::channel(match config.role {
        Role::Master => MasterState::Own,
        Role::Peer => MasterState::Unknown,
    });
    let (phase, phases) = watch::channel(Phase::Runs);
    let (ended, _) = watch::channel(None);
    let (complete, completed) = watch::channel(false);
    let (mirrored, mirror_info) = watch::channel(Published::default());
    let mirror = Mirror::new(net.clone(), config.network.clone(), !config.transient);
    let (twins, other_masters) = (Twins::new(), OtherMasters::default());
    let dht = Dht { net: net.clone(), mirror: mirror.clone(), own: owned };
    let node = Node {
        inner: Arc::new(Inner {
            questions: Questions {
                net: net.clone(),
                network: config.network.clone(),
                master: master_state.clone(),
                dht,
            },
            net: net.clone(),
            shares: shares.clone(),
            library: library.clone(),
            standings: standings.clone(),
            counts: super::counts::Counts::default(),
            index: index.clone(),
            mirror: mirror_info,
            twins: twins.clone(),
            other_masters: other_masters.clone(),
            downloads: Downloads {
                permits: Arc::new(Semaphore::new(config.fetch.downloads.max(1))),
                running: AtomicUsize::new(0),
                fetches: Fetches::default(),
                unplaced: (Arc::new(Semaphore::new(plan.unplaced)), plan.unplaced),
            },
            started: Instant::now(),
            events: events.clone(),
            life: Life {
                phase,
                ended: ended.clone(),
                tasks: Mutex::new(Vec::new()),
                failures: failures.clone(),
                network: loop_task.abort_handle(),
                dir: dir.clone(),
            },
            config: config.clone(),
        }),
    };
    let membership = Membership {
        net: net.clone(),
        shares: shares.clone(),
        network: config.network.clone(),
        finder,
        standings: standings.clone(),
        own: config.role == Role::Master,
        state,
        phase: phases.clone(),
        max_backoff: config.lease.max_backoff,
        lease: config.lease.lease,
        machine,
        twins: twins.clone(),
        keypair: keypair.clone(),
        events: events.clone(),
    };
    let lookout = Lookout {
        net: net.clone(),
        mirror: mirror.clone(),
        network: config.network.clone(),
        is_found: !config.transient,
        twins: twins.clone(),
        master: master_state.clone(),
        republish: config.dht.republish,
        phase: phases.clone(),
    };
    let newcomer = Newcomer { net: net.clone(), mirror: mirror.clone(), phase: phases.clone() };
    let census = Census::new(net.clone(), config.network.clone(), other_masters, twins.clone(), phases.clone());
    let mirroring = MirrorTask {
        net: net.clone(),
        mirror,
        twins,
        found_as: (!config.transient).then(|| RecordKey::node(&config.network, &net.local())),
        network: config.network.clone(),
        keypair,
        library,
        standings,
        dir,
        bootstrap: config.bootstrap.clone(),
        master: master_state,
        index: index.zip(made),
        complete: completed,
        state: mirrored,
        republish: config.dht.republish,
        room: config.dht.keys_per_peer.saturating_add(config.limits.names_per_peer),
        phase: phases.clone(),
        events: events.clone(),
    };
    let supervisor = Supervisor::new(failures.clone(), phases.clone());
    let network = tasks::spawn("network watch", async move {
        let outcome = loop_task.await;
        if let Err(error) = &outcome {
            tracing::error!(%error, "the network task ended early");
            if error.is_panic() {
                failures.end("network");
            }
        }
        ended.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(outcome.is_ok())).is_some());
    });
    let share_watch = tasks::spawn("share watch", watch_share(events, shares.clone(), phases.clone()));
    let begin = begin(shares.clone(), phases.clone(), complete, membership, supervisor.clone());
    let member = tasks::spawn("membership", begin);
    let kept = supervisor.clone().run("keeper", (shares, phases), move |(shares, phases)| {
        keep_current(shares.clone(), config.watch, phases.clone()).boxed()
    });
    let keeper = tasks::spawn("keeper", kept);
    let mirroring = tasks::spawn("mirror", supervisor.run("mirror", mirroring, |task| task.run().boxed()));
    let mut all = vec![member, network, keeper, mirroring, share_watch];
    if !config.transient {
        all.push(tasks::spawn("lookout", lookout.run()));
        all.push(tasks::spawn("newcomer", newcomer.run()));
    }
    if config.role == Role::Master {
        all.push(tasks::spawn("census", census.run()));
    }
    *node.inner.life.tasks.lock().await = all;
    Ok(node)
}

/// Waits until the node listens somewhere.
async fn listening(net: &Net) -> Result<(), Error> {
    let mut listen = net.listen();
    let some = listen.wait_for(|addresses| !addresses.is_empty());
    match tokio::time::timeout(LISTEN_TIMEOUT, some).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Error::ShuttingDown),
        // A machine without any interface still serves itself.
        Err(_) => {
            tracing::warn!("not listening on any address yet");
            Ok(())
        }
    }
}

/// Takes up what was shared before, then joins. Files that are hashed already are ready at once; whatever
/// has to be hashed first is announced as it comes, and joining does not wait for it.
async fn begin(
    shares: ShareTable,
    mut phase: watch::Receiver<Phase>,
    complete: watch::Sender<bool>,
    membership: Membership,
    supervisor: Supervisor,
) {
    let cancel = Arc::new(AtomicBool::new(false));
    let stopping = cancel.clone();
    let standings = membership.standings.clone();
    let watch = supervisor.watch("share");
    let mut hashing = tokio::task::spawn_blocking(move || {
        // Whatever was not taken up by then is not shared; the node is of use without it.
        let _watch = watch;
        look_through(&shares, &cancel);
        // What was away, and was granted before that.
        recall_granted(&shares, &standings);
        complete.send_replace(!cancel.load(Ordering::Relaxed));
    });
    tokio::select! {
        () = Phase::end(&mut phase) => {}
        _ = &mut hashing => {}
        () = tokio::time::sleep(HASHING_PATIENCE) => {}
    }
    supervisor.run("membership", membership, |membership| membership.run().boxed()).await;
    stopping.store(true, Ordering::Relaxed);
    if !hashing.is_finished() {
        // Stops at the next file or chunk.
        let _ = hashing.await;
    }
}

/// Takes up what flags and configuration name, and knows what was shared before. Who asks as soon as the node answers is told of it.
fn recall(shares: &ShareTable, config: &Config) {
    match shares.declare(&config.share, config.share_from, &config.selection) {
        Ok(outcome) => say_declared(outcome),
        Err(error) => {
            tracing::error!(
                error = Error::from(error).describe(),
                "what flags and configuration name cannot be shared"
            );
        }
    }
    if let Err(error) = shares.recall() {
        tracing::error!(error = Error::from(error).describe(), "what was shared before is not known");
    }
}

/// Looks at downloads that nobody waited for, before they could be shared as if their user had changed them. If that takes longer (all of
/// a large one has to be read, or a disk does not answer) it goes on beside everything else.
fn settle(home: PathBuf) {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let settling = move || {
        let _done = done;
        if let Err(error) = copies::settle(&home, Path::new("/")) {
            tracing::warn!(%error, "what was downloaded is not known to be on disk");
        }
    };
    if std::thread::Builder::new().name("settle".to_owned()).spawn(settling).is_ok() {
        // Ends when the other side is gone, too.
        let _ = is_done.recv_timeout(SETTLING);
    }
}

/// What was granted to an earlier run of this node holds until the master says otherwise.
fn recall_granted(shares: &ShareTable, standings: &Standings) {
    standings.change(|announcer| {
        for entry in shares.kept().iter() {
            announcer.recall_granted(&entry.name, &entry.content, entry.size, unix_ms());
        }
    });
}

/// Looks through everything that is shared.
fn look_through(shares: &ShareTable, cancel: &AtomicBool) {
    match shares.rescan(&|_: HashProgress| {}, cancel) {
        Ok(outcome) => {
            warn_skipped(&outcome);
            let left_out = outcome.left_out.total();
            let (names, kept) = (shares.entries().len(), shares.kept().len());
            let away = kept.saturating_sub(names);
            tracing::info!(names, away, left_out, "shared; 'swarmdex ls --roots' lists the roots");
        }
        Err(error) => tracing::error!(error = Error::from(error).describe(), "what was shared before cannot be shared"),
    }
}

fn say_declared(outcome: DeclareOutcome) {
    let DeclareOutcome { ended, unshared, missing } = outcome;
    for path in ended {
        tracing::info!(path = %path.display(), "no flag and no configuration names it any more: not shared any more");
    }
    for path in unshared {
        tracing::warn!(path = %path.display(), "not shared, for it was unshared by hand: 'swarmdex share' takes it up again");
    }
    for path in missing {
        tracing::error!(path = %path.display(), "cannot be shared: nothing is there; it is as soon as it comes");
    }
}

pub(super) fn warn_skipped(outcome: &ShareOutcome) {
    for skipped in &outcome.skipped {
        tracing::warn!(path = path_text::shown(&skipped.path), reason = skipped.reason, "not shared");
    }
}
