//! Who is served: connections are bounded before anything is known of who makes them.
//!
//! One that has shown nothing (the token; on the Unix socket a whole request) has a short life. It gives way as soon as
//! there is no place for the next. So whoever has the token gets in, however many others hold sockets open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use swarmdex_protocols::address::Source;
use tokio::sync::Notify;

use crate::locks::lock;
use crate::state::refusals::Refusals;

/// How long a connection may last that has shown nothing.
const UNPROVED: Duration = Duration::from_secs(15);

/// The connections of one interface. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Door(Arc<Mutex<Inside>>);

#[derive(Debug)]
struct Inside {
    most: usize,
    most_of_one: usize,
    next: u64,
    /// In the order in which they came: numbers rise.
    all: BTreeMap<u64, Arc<State>>,
    refusals: Refusals,
}

#[derive(Debug)]
struct State {
    source: Option<Source>,
    proved: AtomicBool,
    gone: Notify,
}

impl Door {
    /// For so many connections, and for so many from one address.
    pub(super) fn new(most: usize, most_of_one: usize) -> Self {
        let refusals = Refusals::default();
        Self(Arc::new(Mutex::new(Inside { most, most_of_one, next: 0, all: BTreeMap::new(), refusals })))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Changed in steps that cannot panic.
        lock(&self.0)
    }

    /// A place for one from there; `None` if all are taken by those who have shown that they may.
    pub(super) fn enter(&self, ip: Option<IpAddr>) -> Option<Ticket> {
        let mut inside = self.lock();
        let source = ip.map(Source::of);
        let of_one = inside.all.values().filter(|state| source.is_some() && state.source == source).count();
        if of_one >= inside.most_of_one || inside.all.len() >= inside.most {
            let (word, weakest) = (inside.note(source), inside.weakest(source, of_one));
            if let Some(from) = word {
                tracing::warn!(
                    from,
                    "too many connections to the HTTP interface: those that show no token give way to others"
                );
            }
            let state = inside.all.remove(&weakest?)?;
            state.gone.notify_one();
        }
        let number = inside.next;
        inside.next += 1;
        let state = Arc::new(State { source, proved: AtomicBool::new(false), gone: Notify::new() });
        inside.all.insert(number, state.clone());
        drop(inside);
        Some(Ticket { door: self.clone(), number, state })
    }
}

impl Inside {
    /// Counts one that finds no place of its own; who is to be told of, if it is time.
    fn note(&mut self, source: Option<Source>) -> Option<String> {
        self.refusals.add(source?.0);
        self.refusals.due(Instant::now()).map(|report| report.to_string())
    }

    /// The oldest that has shown nothing: of the same source if that has all of its places, else of the one that has most.
    fn weakest(&self, source: Option<Source>, of_one: usize) -> Option<u64> {
        let unproved = self.all.iter().filter(|(_, state)| !state.proved.load(Ordering::Relaxed));
        let mut of_each = BTreeMap::<Option<Source>, (usize, u64)>::new();
        for (number, state) in unproved {
            of_each.entry(state.source).or_insert((0, *number)).0 += 1;
        }
        if of_one >= self.most_of_one {
            return of_each.get(&source).map(|(_, oldest)| *oldest);
        }
        of_each.into_values().max_by_key(|(count, _)| *count).map(|(_, oldest)| oldest)
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    door: Door,
    number: u64,
    state: Arc<State>,
}

impl Ticket {
    /// Whoever has it may be here.
    pub(super) fn prove(&self) {
        self.state.proved.store(true, Ordering::Relaxed);
    }

    /// Waits until the place is another one's, or was had for too long.
    pub(super) async fn ends(&self) {
        tokio::select! {
            () = self.state.gone.notified() => return,
            () = tokio::time::sleep(UNPROVED) => {}
        }
        if self.state.proved.load(Ordering::Relaxed) {
            self.state.gone.notified().await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.door.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(number: u8) -> Option<IpAddr> {
        Some([10, 0, 0, number].into())
    }

    /// Whether it has lost its place.
    async fn is_gone(ticket: &Ticket) -> bool {
        tokio::time::timeout(Duration::ZERO, ticket.state.gone.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn who_shows_nothing_gives_way_and_who_may_be_here_stays() {
        let door = Door::new(5, 2);
        let (first, second) = (door.enter(from(1)).unwrap(), door.enter(from(1)).unwrap());
        first.prove();
        let third = door.enter(from(1)).unwrap();
        assert!(!is_gone(&first).await && is_gone(&second).await);
        third.prove();
        assert!(door.enter(from(1)).is_none(), "all of its places are taken by those who may be here");
        // In all: the source with most of those who show nothing gives one.
        let (fourth, fifth) = (door.enter(from(3)).unwrap(), door.enter(from(3)).unwrap());
        let sixth = door.enter(from(2)).unwrap();
        assert_eq!(door.lock().all.len(), 5);
        let seventh = door.enter(from(4)).unwrap();
        assert!(is_gone(&fourth).await && !is_gone(&fifth).await && !is_gone(&sixth).await);
        assert_eq!(door.lock().all.len(), 5);
        drop((first, second, third, fourth, fifth, sixth, seventh));
        assert!(door.lock().all.is_empty());
    }

    #[tokio::test]
    async fn ten_thousand_of_them_take_no_more_than_their_places() {
        let door = Door::new(8, 4);
        let mut tickets = std::collections::VecDeque::new();
        for number in 0..10_000_u32 {
            tickets.push_back(door.enter(Some([10, 0, 0, (number % 7) as u8].into())).unwrap());
            assert!(door.lock().all.len() <= 8);
            if tickets.len() > 100 {
                tickets.pop_front();
            }
        }
        tickets.clear();
        assert!(door.lock().all.is_empty());
    }
}
