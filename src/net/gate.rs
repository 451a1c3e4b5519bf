//! The gate in front of the swarm: who may shake hands, and for how long.
//!
//! The swarm bounds handshakes in all and ends none of them early, so one host that opens sockets and says nothing kept
//! everybody else out. Here each source has its own places, see [`crate::state::knocks`]; whoever has to give way is
//! ended at once, and what finds no place never becomes a connection of the swarm. TCP and QUIC have a gate each:
//! a source of UDP can be forged, and a flood of forged ones must not close the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, Transport};
use swarmdex_protocols::address::{Source, ip_of};

use super::refused::{Reason, Refused};
use crate::locks::lock;
use crate::state::knocks::{KnockVerdict, Knocks};

/// Part of all places that one source may have.
const PART_OF_ONE: usize = 4;
/// Refusals in a row after which others have their turn.
const TURN: usize = 64;

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum GateError<E: std::error::Error + 'static> {
    /// Others of its source took its place.
    #[error("it gave way to others of its address")]
    GaveWay,
    /// It took too long.
    #[error("the handshake took too long")]
    Late,
    /// What the transport says.
    #[error(transparent)]
    Failed(E),
}

/// Who is at a gate. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Door(Arc<Mutex<Inside>>);

#[derive(Debug)]
struct Inside {
    knocks: Knocks,
    places: BTreeMap<u64, Arc<Seat>>,
    /// Whether the one that comes now has said something; set below, for whoever asks above.
    coming: Option<Arc<FirstByte>>,
}

/// The first word of one that connects: it is said, or it is too late for it, and never both. Who was answered would take itself
/// for connected.
#[derive(Debug, Default)]
pub(super) struct FirstByte(AtomicU8);

const SAID: u8 = 1;
const LATE: u8 = 2;

impl FirstByte {
    /// It is said; false if it is too late.
    pub(super) fn say(&self) -> bool {
        self.0.compare_exchange(0, SAID, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It is too late now; false if it is said.
    fn end(&self) -> bool {
        self.0.compare_exchange(0, LATE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_said(&self) -> bool {
        self.0.load(Ordering::Acquire) == SAID
    }
}

/// What the two sides of a handshake tell each other.
#[derive(Debug, Default)]
struct Seat {
    word: Option<Arc<FirstByte>>,
    gone: AtomicBool,
    waker: AtomicWaker,
}

impl Door {
    /// With so many places in all.
    pub(super) fn new(places: usize) -> Self {
        let of_one = (places / PART_OF_ONE).max(1);
        Self(Arc::new(Mutex::new(Inside {
            knocks: Knocks::new(places, of_one),
            places: BTreeMap::new(),
            coming: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Changed in steps that cannot panic.
        lock(&self.0)
    }

    /// The next one that asks at this gate, on this thread and in this very call, says by this that it has said something.
    pub(super) fn announce(&self, word: Arc<FirstByte>) {
        self.lock().coming = Some(word);
    }

    /// A place for one from there; whether another one lost its place, or `None` if there is none.
    fn enter(&self, source: IpAddr, now: Instant) -> (Option<Ticket>, bool) {
        let mut inside = self.lock();
        let word = inside.coming.take();
        let Inside { knocks, places, .. } = &mut *inside;
        let ends = |number| places.get(&number).and_then(|place| place.word.as_ref()).is_none_or(|word| word.end());
        let (number, gave_way) = match knocks.arrive(source, now, ends) {
            KnockVerdict::Refused => return (None, true),
            KnockVerdict::Welcome(number) => (number, false),
            KnockVerdict::Instead { number, gone } => {
                if let Some(place) = inside.places.remove(&gone) {
                    place.gone.store(true, Ordering::Release);
                    place.waker.wake();
                }
                (number, true)
            }
        };
        if word.is_none() {
            // Nobody knocks at this transport without a word.
            inside.knocks.spoke(number);
        }
        let place = Arc::new(Seat { word, ..Seat::default() });
        inside.places.insert(number, place.clone());
        (Some(Ticket { door: self.clone(), number, place, silent: true }), gave_way)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Ticket {
    door: Door,
    number: u64,
    place: Arc<Seat>,
    /// Whether nothing was heard of it so far.
    silent: bool,
}

impl Ticket {
    fn note_word(&mut self) {
        if self.silent && self.place.word.as_ref().is_some_and(|word| word.is_said()) {
            self.silent = false;
            self.door.lock().knocks.spoke(self.number);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        inside.knocks.leave(self.number);
        inside.places.remove(&self.number);
    }
}

/// A transport behind a gate.
pub(super) struct Gate<T> {
    inner: T,
    door: Door,
    refused: Refused,
    /// How long one may take, if the transport itself does not see who says nothing.
    patience: Option<Duration>,
}

impl<T> Gate<T> {
    pub(super) fn new(inner: T, door: Door, refused: Refused, patience: Option<Duration>) -> Self {
        Self { inner, door, refused, patience }
    }
}

impl<T> Transport for Gate<T>
where
    T: Transport<Dial: Send + 'static, ListenerUpgrade: Send + 'static, Error: Send + Sync + 'static> + Unpin,
{
    type Output = T::Output;
    type Error = GateError<T::Error>;
    type ListenerUpgrade = Handshake<T::ListenerUpgrade>;
    type Dial = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address).map_err(|error| error.map(GateError::Failed))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Self::Error>> {
        let dial = self.inner.dial(address, options).map_err(|error| error.map(GateError::Failed))?;
        Ok(dial.map(|outcome| outcome.map_err(GateError::Failed)).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        for _ in 0..TURN {
            let event = ready!(Pin::new(&mut self.inner).poll(context)).map_err(GateError::Failed);
            let mut ticket = None;
            if let TransportEvent::Incoming { send_back_addr, .. } = &event {
                let source = Source::of(ip_of(send_back_addr).unwrap_or(Ipv4Addr::UNSPECIFIED.into())).0;
                let (place, full) = self.door.enter(source, Instant::now());
                if full {
                    self.refused.add(Reason::Handshakes, source);
                }
                ticket = place;
                if ticket.is_none() {
                    continue;
                }
            }
            let patience = self.patience;
            return Poll::Ready(event.map_upgrade(|inner| {
                let late = patience.map(|patience| tokio::time::sleep(patience).boxed());
                Handshake { inner: Box::pin(inner), ticket, late }
            }));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A handshake that ends early if it has to give way.
pub(super) struct Handshake<F> {
    inner: Pin<Box<F>>,
    ticket: Option<Ticket>,
    late: Option<BoxFuture<'static, ()>>,
}

impl<O, E: std::error::Error + 'static, F: Future<Output = Result<O, E>>> Future for Handshake<F> {
    type Output = Result<O, GateError<E>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(ticket) = &mut this.ticket {
            ticket.place.waker.register(context.waker());
            if ticket.place.gone.load(Ordering::Acquire) {
                return Poll::Ready(Err(GateError::GaveWay));
            }
        }
        if let Poll::Ready(outcome) = this.inner.as_mut().poll(context) {
            // What becomes of it from here on is counted by the swarm.
            this.ticket = None;
            return Poll::Ready(outcome.map_err(GateError::Failed));
        }
        if let Some(ticket) = &mut this.ticket {
            ticket.note_word();
        }
        if this.late.as_mut().is_some_and(|late| late.poll_unpin(context).is_ready()) {
            return Poll::Ready(Err(GateError::Late));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use futures::future::poll_fn;
    use libp2p::multiaddr::Protocol;

    use super::super::transport::AnyPort;
    use super::*;

    type Upgrade = Handshake<<AnyPort as Transport>::ListenerUpgrade>;

    /// A gate with eight places, two for one source, that listens.
    async fn gate() -> (Gate<AnyPort>, u16) {
        let door = Door::new(8);
        let tcp = AnyPort::new(libp2p::tcp::Config::new()).behind(door.clone());
        let mut gate = Gate::new(tcp, door, Refused::default(), None);
        gate.listen_on(ListenerId::next(), "/ip4/0.0.0.0/tcp/0".parse().unwrap()).unwrap();
        loop {
            let event = poll_fn(|context| Pin::new(&mut gate).poll(context)).await;
            if let TransportEvent::NewAddress { listen_addr, .. } = event
                && let Some(Protocol::Tcp(port)) = listen_addr.iter().nth(1)
            {
                return (gate, port);
            }
        }
    }

    async fn next(gate: &mut Gate<AnyPort>) -> Upgrade {
        loop {
            let event = poll_fn(|context| Pin::new(&mut *gate).poll(context)).await;
            if let TransportEvent::Incoming { upgrade, .. } = event {
                return upgrade;
            }
        }
    }

    #[tokio::test]
    async fn who_says_nothing_gives_way_to_the_next_of_its_address_and_others_come_in_at_once() {
        let (mut gate, port) = gate().await;
        let mut silent = Vec::new();
        let mut upgrades = Vec::new();
        for _ in 0..2 {
            silent.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
            // As the swarm has it: each goes on by itself.
            upgrades.push(tokio::spawn(next(&mut gate).await));
        }
        // From another address, at once.
        let place = gate.door.enter(IpAddr::from([127, 0, 0, 2]), Instant::now());
        assert!(place.0.is_some() && !place.1);
        drop(place);
        // Until they have been silent for long enough to give way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut speaks = TcpStream::connect(("127.0.0.1", port)).unwrap();
        speaks.write_all(b"x").unwrap();
        let upgrade = tokio::time::timeout(Duration::from_secs(10), next(&mut gate)).await.expect("it has a place");
        assert!(matches!(upgrades.remove(0).await.unwrap(), Err(GateError::GaveWay)));
        assert!(upgrade.await.is_ok());
        // Gone without a word.
        drop(silent);
        assert!(matches!(upgrades.remove(0).await.unwrap(), Err(GateError::Failed(_))));
        assert!(gate.door.lock().knocks.is_empty() && gate.door.lock().places.is_empty());
    }
}
