//! From a configuration to a running node.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use futures::FutureExt;
use swarmdex_protocols::{Authority, Statement};
use tokio::sync::{Mutex, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::begin::begin;
use super::context::Context;
use super::dht::Dht;
use super::downloads::Downloads;
use super::entrances::Entrances;
use super::events::{Events, watch_share};
use super::fetch::Fetches;
use super::keeper::keep_current;
use super::life::{Life, Phase};
use super::lookout::Lookout;
use super::lookup::Questions;
use super::masters::{Census, OtherMasters};
use super::membership::{Finder, Membership};
use super::mirror::{MirrorTask, Published};
use super::newcomer::Newcomer;
use super::stored::{self, Stored};
use super::supervise::Supervisor;
use super::twins::Twins;
use super::types::MasterState;
use super::{Error, Inner, Node};
use crate::buffers::Buffers;
use crate::config::{Config, Role};
use crate::descriptors::Plan;
use crate::net::{Mirror, Net, OwnedNames, Services};
use crate::storage::dir::DataDir;
use crate::storage::holdings::Holdings;
use crate::storage::index::IndexStore;
use crate::storage::library::Library;
use crate::tasks::{self, Chores, Failures};

/// How long a node may take to listen on its first address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Buffers for chunks, of up to 1 MiB each, that are kept for the next use: enough for the windows of a fast download or two.
const BUFFERS: usize = 12;

pub(super) async fn start(config: Config) -> Result<Node, Error> {
    config.check()?;
    // Before anything is opened.
    let plan = Plan::of(&config);
    plan.report(&config);
    let (failures, events) = (Failures::default(), Events::default());
    let (opening, watched, told) = (config.clone(), failures.clone(), events.clone());
    let opened = tokio::task::spawn_blocking(move || stored::open(&opening, &watched, &told));
    let Stored { dir, keypair, machine, shares, standings, master } = opened.await.map_err(|_| Error::Bug)??;
    let (index, master, made) = match master {
        Some((index, master, made)) => (Some(index), Some(master), Some(made)),
        None => (None, None, None),
    };
    let owned = standings.service(shares.clone());
    let buffers = Buffers::new(BUFFERS);
    let library = Library { shares, holdings: Holdings::default(), buffers, reads: Arc::default() };
    let services = Services { library: library.clone(), index: master, owned: owned.clone() };
    let (net, network_task) = Net::start(keypair.clone(), &config, services)?;
    let (network, (ended, _)) = (network_task.abort_handle(), watch::channel(None));
    let watching = watch_network(network_task, failures.clone(), ended.clone(), index.clone(), dir.clone());
    let watching = tasks::spawn("network watch", watching);
    listening(&net).await?;
    let entrances = Entrances::default();
    let finder = Finder::new(&config, dir.clone(), entrances.clone());
    let trusted = if config.role == Role::Master { Some(net.local()) } else { finder.known_master() };
    net.trust(trusted.and_then(|master| Authority::new(config.network.clone(), &master)));

    let (state, master) = watch::channel(match config.role {
        Role::Master => MasterState::Own,
        Role::Peer => MasterState::Unknown,
    });
    let (phase, phases) = watch::channel(Phase::Runs);
    let (published, mirror_info) = watch::channel(Published::default());
    let mirror = Mirror::new(net.clone(), config.network.clone(), !config.transient);
    let lease = config.lease.lease;
    let config = Arc::new(config);
    let twins = Twins::new();
    let context =
        Context { config, keypair, dir, net, mirror, library, standings, twins, master, phase: phases, events };
    let life = Life {
        phase,
        ended,
        tasks: Mutex::default(),
        chores: Chores::default(),
        failures: failures.clone(),
        network,
        dir: context.dir.clone(),
    };
    let membership = Membership { context: context.clone(), finder, state, lease, machine };
    let node = assemble(&context, (owned, entrances), index.clone(), mirror_info, &plan, life);
    let mut tasks = spawn(&context, membership, index.zip(made), published, failures);
    tasks.push(watching);
    if context.config.role == Role::Master {
        let census = Census::new(context, node.inner.other_masters.clone());
        tasks.push(tasks::spawn("census", census.run()));
    }
    node.inner.life.tasks.lock().await.open = tasks.into();
    Ok(node)
}

/// The handle of a node.
fn assemble(
    context: &Context,
    (owned, entrances): (OwnedNames, Entrances),
    index: Option<IndexStore>,
    mirror: watch::Receiver<Published>,
    plan: &Plan,
    life: Life,
) -> Node {
    let context = context.clone();
    let Context { config, net, library, standings, twins, master, events, .. } = context;
    let dht = Dht { net: net.clone(), mirror: context.mirror, own: owned };
    let downloads = Downloads {
        permits: Arc::new(Semaphore::new(config.fetch.downloads.max(1))),
        running: AtomicUsize::new(0),
        fetches: Fetches::default(),
        unplaced: (Arc::new(Semaphore::new(plan.unplaced)), plan.unplaced),
    };
    Node {
        inner: Arc::new(Inner {
            questions: Questions { net: net.clone(), network: config.network.clone(), master, dht, entrances },
            config: Config::clone(&config),
            net,
            shares: library.shares.clone(),
            library,
            standings,
            counts: super::counts::Counts::default(),
            index,
            mirror,
            twins,
            other_masters: OtherMasters::default(),
            downloads,
            started: Instant::now(),
            events,
            life,
        }),
    }
}

/// Starts the tasks of a node.
fn spawn(
    context: &Context,
    membership: Membership,
    index: Option<(IndexStore, mpsc::Receiver<Statement>)>,
    published: watch::Sender<Published>,
    failures: Failures,
) -> Vec<JoinHandle<()>> {
    let context = context.clone();
    let (complete, completed) = watch::channel(false);
    let supervisor = Supervisor::new(failures, context.phase.clone());
    let (shares, phase) = (context.shares().clone(), context.phase.clone());
    let watching = watch_share(context.events.clone(), shares.clone(), phase.clone());
    let watches = context.config.watch;
    let keeping = supervisor.clone().run("keeper", (shares, phase), move |(shares, phase)| {
        keep_current(shares.clone(), watches, phase.clone()).boxed()
    });
    let mirroring = MirrorTask { context: context.clone(), index, complete: completed, state: published };
    let mut tasks = vec![
        tasks::spawn("membership", begin(membership, complete, supervisor.clone())),
        tasks::spawn("keeper", keeping),
        tasks::spawn("mirror", supervisor.run("mirror", mirroring, |task| task.run().boxed())),
        tasks::spawn("share watch", watching),
    ];
    if !context.config.transient {
        tasks.push(tasks::spawn("lookout", Lookout { context: context.clone() }.run()));
        tasks.push(tasks::spawn("newcomer", Newcomer { context }.run()));
    }
    tasks
}

/// Says how the network task ended. Until then the data directory stays locked: a master has the index open, which is closed here.
async fn watch_network(
    task: JoinHandle<()>,
    failures: Failures,
    ended: watch::Sender<Option<bool>>,
    index: Option<IndexStore>,
    dir: DataDir,
) {
    let outcome = task.await;
    if let Some(index) = index {
        let _ = tokio::task::spawn_blocking(move || index.close()).await;
    }
    drop(dir);
    if let Err(error) = &outcome {
        tracing::error!(%error, "the network task ended early");
        if error.is_panic() {
            failures.end("network");
        }
    }
    ended.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(outcome.is_ok())).is_some());
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
