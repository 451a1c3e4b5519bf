//! The transport that tries the addresses of a node as [`crate::state::race`] says.
//!
//! The swarm hands over all addresses of an attempt one after the other, and then polls what comes of each, all at once. (Its own
//! `with_smart_dial` delays them as well, but prefers QUIC, and waits for those that failed.) The first that stands wins,
//! and the swarm drops the others. Here, below all behaviours, that holds for the connections that Kademlia makes, too.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId, Transport};
use swarmdex_protocols::address::{split_peer, without_peer, works};
use tokio::sync::Notify;

use crate::clock::sleep_until;
use crate::locks::lock;
use crate::state::race::{Race, Step};
use crate::state::unanswered::Unanswered;

/// An address that has not answered for so long when another one does is slow, and goes last the next time.
const SLOW: Duration = Duration::from_secs(1);

/// Why an address led nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum RaceError<E: std::error::Error + 'static> {
    /// Nobody answered in time.
    #[error("no answer")]
    Silent,
    /// There were too many better ones.
    #[error("not tried")]
    NotTried,
    /// Enough attempts are under way there.
    #[error("others are being made there")]
    Crowded,
    /// Another node is there.
    #[error("another node is there: {0}")]
    Other(PeerId),
    /// It is no address that can lead to another host.
    #[error("of use on another host alone")]
    Elsewhere,
    /// What the transport says.
    #[error(transparent)]
    Failed(E),
}

/// What attempts have in common: shared between the transport and who begins them.
#[derive(Debug, Clone, Default)]
pub(super) struct Races(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    unanswered: Unanswered,
    /// The attempt whose addresses are being handed over.
    current: Arc<Runners>,
    /// Whether a node on this host was met since the start.
    here: bool,
}

/// The addresses of one attempt.
#[derive(Debug, Default)]
struct Runners {
    /// Addresses that whoever began it named; others are what Kademlia heard.
    named: Vec<Multiaddr>,
    race: Mutex<Race>,
    changed: Notify,
}

impl Races {
    /// An attempt begins: all addresses that follow are one node's, those that are `named` and what behaviours know.
    pub(super) fn begin(&self, named: &[Multiaddr]) {
        let named = named.iter().cloned().map(without_peer).collect();
        lock(&self.0).current = Arc::new(Runners { named, ..Runners::default() });
    }

    /// Connections to these addresses lead nowhere any more: they are tried last for a while.
    pub(super) fn on_dead(&self, addresses: &[Multiaddr]) {
        let now = Instant::now();
        let unanswered = &mut lock(&self.0).unanswered;
        addresses.iter().for_each(|address| unanswered.on_failed(address, now, now));
    }

    /// There is a node on this host.
    pub(super) fn on_here(&self) {
        lock(&self.0).here = true;
    }

    /// Whether a node on this host was met since the start: whatever leads to this host may be one.
    pub(super) fn is_here(&self) -> bool {
        lock(&self.0).here
    }

    /// Since when nobody answers at any of these addresses.
    pub(super) fn silent_since<'a>(&self, addresses: impl Iterator<Item = &'a Multiaddr>) -> Option<Instant> {
        let addresses: Vec<_> = addresses.cloned().map(without_peer).collect();
        lock(&self.0).unanswered.since(addresses.iter(), Instant::now())
    }
}

/// A transport whose attempts are races.
pub(super) struct Racing<T> {
    inner: T,
    races: Races,
    local: PeerId,
}

impl<T> Racing<T> {
    pub(super) fn new(inner: T, races: Races, local: PeerId) -> Self {
        Self { inner, races, local }
    }
}

/// One address of an attempt.
struct Runner {
    races: Races,
    runners: Arc<Runners>,
    number: usize,
    address: Multiaddr,
    /// Since when it is under way.
    begun: Option<Instant>,
}

impl Runner {
    /// Waits for its turn; false if it does not come.
    async fn begins<E: std::error::Error + 'static>(&mut self) -> Result<(), RaceError<E>> {
        loop {
            let changed = self.runners.changed.notified();
            let step = lock(&self.runners.race).step(self.number, Instant::now());
            match step {
                Step::Start => break,
                Step::Over => return Err(RaceError::NotTried),
                Step::Wait(until) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(Some(until)) => {}
                },
            }
        }
        // The next one now waits for the delay.
        self.runners.changed.notify_waiters();
        if !lock(&self.races.0).unanswered.begin(&self.address) {
            self.fail(false);
            return Err(RaceError::Crowded);
        }
        self.begun = Some(Instant::now());
        Ok(())
    }

    /// Waits until nobody waits for it any more.
    async fn ends(&self) {
        loop {
            let changed = self.runners.changed.notified();
            let step = lock(&self.runners.race).step(self.number, Instant::now());
            match step {
                Step::Over | Step::Start => return,
                Step::Wait(until) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(Some(until)) => {}
                },
            }
        }
    }

    fn fail(&mut self, refused: bool) {
        let now = Instant::now();
        if let Some(begun) = self.begun.take() {
            let unanswered = &mut lock(&self.races.0).unanswered;
            unanswered.on_end(&self.address);
            unanswered.on_failed(&self.address, begun, now);
        }
        lock(&self.runners.race).on_failed(self.number, refused, now);
        self.runners.changed.notify_waiters();
    }

    fn succeed(&mut self) {
        if self.begun.take().is_some() {
            let unanswered = &mut lock(&self.races.0).unanswered;
            unanswered.on_end(&self.address);
            unanswered.on_answered(&self.address);
        }
    }

    fn has_others(&self) -> bool {
        lock(&self.runners.race).has_others(self.number)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            let unanswered = &mut lock(&self.races.0).unanswered;
            unanswered.on_end(&self.address);
            if begun.elapsed() >= SLOW {
                unanswered.on_failed(&self.address, begun, Instant::now());
            }
        }
    }
}

impl<T, M> Transport for Racing<T>
where
    T: Transport<Output = (PeerId, M), Dial: Send + 'static, Error: Send + Sync + 'static> + Unpin,
    M: Send + 'static,
{
    type Output = (PeerId, M);
    type Error = RaceError<T::Error>;
    type ListenerUpgrade = futures::future::MapErr<T::ListenerUpgrade, fn(T::Error) -> Self::Error>;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address).map_err(|error| error.map(RaceError::Failed))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        let (wanted, plain) = split_peer(address.clone());
        let shared = lock(&self.races.0);
        let runners = shared.current.clone();
        let (here, lately) = (shared.here, shared.unanswered.lately(&plain, Instant::now()));
        drop(shared);
        if !runners.named.contains(&plain) && !works(&plain, here) {
            return Err(TransportError::Other(RaceError::Elsewhere));
        }
        let dial = self.inner.dial(address.clone(), options).map_err(|error| error.map(RaceError::Failed))?;
        if options.role != Endpoint::Dialer {
            // Two that connect to each other at the same moment have no time to wait.
            return Ok(dial.map(|outcome| outcome.map_err(RaceError::Failed)).boxed());
        }
        let number = lock(&runners.race).add(plain.clone(), lately);
        let local = self.local;
        let mut runner = Runner { races: self.races.clone(), runners, number, address: plain, begun: None };
        Ok(async move {
            runner.begins().await?;
            let outcome = tokio::select! {
                biased;
                outcome = dial => outcome.map_err(RaceError::Failed),
                () = runner.ends() => Err(RaceError::Silent),
            };
            match outcome {
                // Addresses change hands: the node that was meant may be at another one. A twin of this node is of interest.
                Ok((peer, _))
                    if wanted.is_some_and(|wanted| wanted != peer) && peer != local && runner.has_others() =>
                {
                    runner.fail(false);
                    Err(RaceError::Other(peer))
                }
                Ok(output) => {
                    runner.succeed();
                    Ok(output)
                }
                Err(error) => {
                    runner.fail(matches!(&error, RaceError::Failed(error) if is_refused(error)));
                    Err(error)
                }
            }
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(context).map(|event| {
            let failed: fn(T::Error) -> Self::Error = RaceError::Failed;
            event.map_upgrade(|upgrade| upgrade.map_err(failed)).map_err(failed)
        })
    }
}

/// Whether the host itself said that nobody is there. The transports wrap what the system says in types that hide it from
/// `source`, and show it in their text alone.
fn is_refused(error: &dyn std::error::Error) -> bool {
    error.to_string().contains(&io::Error::from_raw_os_error(libc::ECONNREFUSED).to_string())
}
