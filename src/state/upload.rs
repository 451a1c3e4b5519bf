//! Uploads: which request for chunks is served next, and how many are at a time.
//!
//! Requests wait as requests, and only as many are read from disk as memory is set aside for.
//!
//! **Order.** The peers take turns; within its turn each gets the chunk that was sent least of those it asked for, or would
//! take instead. When many want the same content at once, each chunk so leaves its owner once before any leaves it
//! twice, and the downloaders get the rest from each other. (To prefer what was sent least across peers starves some
//! requests for seconds.)
//!
//! **How many at a time.** Few enough that each is done soon, since half-sent chunks are of use to nobody: see [`slots`]. Within
//! a crowd that passes on what it has, the chunks for one peer leave one after the other, or at least apart. Sent side by
//! side they would all arrive at the end. Meanwhile the peer could neither pass one on nor ask for the next.
//!
//! **Early requests.** Whoever passes on what it downloads announces a chunk that only begins to arrive, and a request
//! for it waits until it is here. So the request is there when the chunk is, and not a round trip over full links
//! later.
//!
//! **A slow reader**, who does not take what it asked for, holds nobody else up. It is sent one answer at a time. All of its kind
//! share one slot and half of the memory. One that took more while it still read loses its connection.

mod slots;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use slots::Slots;
use swarmdex_protocols::ContentId;

use super::quota::Counts;

/// Requests of one peer that wait.
const WAITING_PER_PEER: usize = 256;
/// Requests that wait in all.
const WAITING: usize = 4096;
/// An upload that takes this long is its receiver's fault. It counts as a slow reader until another upload takes less.
const STUCK: Duration = Duration::from_secs(1);
/// How much longer an upload may take on a long path: this many round trips, at most this long. The receiver of a
/// stream lets less be sent at first than is in a chunk, and TCP takes some round trips to find out what the way
/// carries.
const TRIPS: u32 = 6;
const LONGEST_WAY: Duration = Duration::from_secs(4);
/// Round trip from which on a peer counts as distant. Many of them are under way at a time, since each is mostly waited
/// for; they are counted apart.
const FAR: Duration = Duration::from_millis(100);
/// How far apart the chunks for one peer of a crowd begin, if the one before is not sent yet.
const APART: Duration = Duration::from_millis(50);
/// Slow readers that are remembered.
const MAX_SLOW_READERS: usize = 1024;
/// Chunks of which it is remembered how often they were sent.
const MAX_SENT: usize = 1 << 16;

/// A chunk: its content and index.
pub(crate) type Chunk = (ContentId, u64);

/// What a request asks for.
pub(crate) trait WantedChunks {
    /// The chunks that would do, the one that was asked for first; none for what is no chunk.
    fn choices(&self) -> impl Iterator<Item = Chunk>;

    /// Whether somebody still waits for the answer.
    fn is_open(&self) -> bool;
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Request<P, I, W> {
    /// Its number, which no other has.
    pub id: I,
    /// Who asks.
    pub peer: P,
    /// For what.
    pub wanted: W,
    /// Whether many download the content at the same time and pass on what they have.
    pub crowd: bool,
    /// Whether the chunk is still on its way here.
    pub early: bool,
}

impl<P, I, W: WantedChunks> Request<P, I, W> {
    fn first(&self) -> Option<Chunk> {
        self.wanted.choices().next()
    }
}

/// A request whose turn it is.
#[derive(Debug)]
pub(crate) struct Turn<P, I, W> {
    /// The request.
    pub request: Request<P, I, W>,
    /// Which of the chunks that would do it gets; `None` if it asks for something else.
    pub chunk: Option<Chunk>,
}

/// An upload under way.
#[derive(Debug)]
struct Begun<P> {
    peer: P,
    since: Instant,
    /// Since when its bytes are with the connection.
    sent: Option<Instant>,
    /// How long the way to its receiver is.
    way: Duration,
}

impl<P> Begun<P> {
    /// How long it has taken, but for the way.
    fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since).saturating_sub(self.way)
    }

    /// Whether it takes so long that its receiver does not read.
    fn is_stuck(&self, now: Instant) -> bool {
        self.took(now) >= STUCK
    }

    fn is_far(&self) -> bool {
        self.way >= FAR
    }
}

/// Uploads to one peer whose bytes are in memory.
#[derive(Debug)]
struct Active {
    count: usize,
    /// When the last one began.
    since: Instant,
}

/// Uploads that wait, and those whose bytes are in memory.
#[derive(Debug)]
pub(crate) struct Uploads<P, I, W> {
    /// Most at a time, for all and for one peer; and as many as leave soon.
    most: usize,
    most_per_peer: usize,
    slots: Slots,
    /// Requests by peer: each peer's in order, the peers in turn, so that one that asks for much delays
    /// nobody else.
    waiting: BTreeMap<P, VecDeque<Request<P, I, W>>>,
    turns: VecDeque<P>,
    counts: Counts<P>,
    active: BTreeMap<I, Begun<P>>,
    active_per_peer: BTreeMap<P, Active>,
    slow_readers: BTreeSet<P>,
    /// When slow readers were last looked for.
    looked: Option<Instant>,
    /// How often chunks were sent.
    sent: BTreeMap<Chunk, u32>,
    closing: bool,
}

impl<P: Copy + Ord, I: Copy + Ord, W: WantedChunks> Uploads<P, I, W> {
    /// With memory for so many uploads at a time, one at least.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        // A client that does not read its answers holds its slots until they time out: never all of them.
        let most_per_peer = most.div_ceil(2);
        Self {
            most,
            most_per_peer,
            slots: Slots::new(most, most_per_peer),
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
            counts: Counts::bounded(WAITING_PER_PEER, WAITING),
            active: BTreeMap::new(),
            active_per_peer: BTreeMap::new(),
            slow_readers: BTreeSet::new(),
            looked: None,
            sent: BTreeMap::new(),
            closing: false,
        }
    }

    /// Takes a request in.
    ///
    /// # Errors
    ///
    /// Too many wait: here is what it asks for.
    pub(crate) fn push(&mut self, request: Request<P, I, W>) -> Result<(), W> {
        let peer = request.peer;
        if self.closing || !self.counts.try_add(peer) {
            return Err(request.wanted);
        }
        let queue = self.waiting.entry(peer).or_default();
        if queue.is_empty() {
            self.turns.push_back(peer);
        }
        queue.push_back(request);
        Ok(())
    }

    /// A chunk is not wanted any more: the request for it, if it still waits.
    pub(crate) fn cancel(&mut self, peer: &P, chunk: &Chunk) -> Option<W> {
        let queue = self.waiting.get_mut(peer)?;
        let at = queue.iter().position(|request| request.first().as_ref() == Some(chunk))?;
        let request = queue.remove(at)?;
        self.counts.remove(peer);
        if queue.is_empty() {
            self.waiting.remove(peer);
            self.turns.retain(|other| other != peer);
        }
        Some(request.wanted)
    }

    /// Some chunks are no longer on their way here: requests for them are served, or refused, when it is their turn.
    pub(crate) fn on_settled(&mut self, is_incoming: impl Fn(&ContentId, u64) -> bool) {
        for request in self.waiting.values_mut().flatten().filter(|request| request.early) {
            request.early = request.first().is_some_and(|(content, index)| is_incoming(&content, index));
        }
    }

    /// The next request to read from disk, if memory is left for it. `round_trip` is how long a message to a peer and its answer
    /// take, zero if that is not known.
    pub(crate) fn next(&mut self, now: Instant, round_trip: impl Fn(&P) -> Duration) -> Option<Turn<P, I, W>> {
        let way = |peer: &P| round_trip(peer).saturating_mul(TRIPS).min(LONGEST_WAY);
        self.find_slow_readers(now);
        loop {
            let request = self.take(now, &way)?;
            // Otherwise nobody waits for it any more.
            if request.wanted.is_open() {
                return Some(self.begin(request, now, way));
            }
        }
    }

    /// The request whose turn it is, out of the queue.
    fn take(&mut self, now: Instant, way: &impl Fn(&P) -> Duration) -> Option<Request<P, I, W>> {
        let turn = self.turn(now, way)?;
        let requests = self.waiting.get(self.turns.get(turn)?)?.iter().enumerate();
        let (at, _) = requests
            .filter(|(_, request)| !request.early)
            .min_by_key(|(at, request)| (self.least_sent(&request.wanted), *at))?;
        let peer = self.turns.remove(turn)?;
        let queue = self.waiting.get_mut(&peer)?;
        let request = queue.remove(at)?;
        self.counts.remove(&peer);
        if queue.is_empty() {
            self.waiting.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        Some(request)
    }

    fn begin(&mut self, request: Request<P, I, W>, now: Instant, way: impl Fn(&P) -> Duration) -> Turn<P, I, W> {
        let peer = request.peer;
        let chunk = request.wanted.choices().min_by_key(|chunk| self.count_of(chunk));
        if let Some(chunk) = chunk {
            if self.sent.len() >= MAX_SENT {
                self.sent.clear();
            }
            *self.sent.entry(chunk).or_default() += 1;
        }
        let way = if request.crowd { Duration::ZERO } else { way(&peer) };
        self.active.insert(request.id, Begun { peer, since: now, sent: None, way });
        let active = self.active_per_peer.entry(peer).or_insert(Active { count: 0, since: now });
        active.count += 1;
        active.since = now;
        Turn { request, chunk }
    }

    fn find_slow_readers(&mut self, now: Instant) {
        self.looked = Some(now);
        for begun in self.active.values().filter(|begun| begun.is_stuck(now)) {
            if self.slow_readers.len() >= MAX_SLOW_READERS {
                self.slow_readers.clear();
            }
            self.slow_readers.insert(begun.peer);
        }
    }

    /// Which of the peers in `turns` may have the next upload, if any.
    fn turn(&self, now: Instant, way: &impl Fn(&P) -> Duration) -> Option<usize> {
        let is_slow = |peer: &P| self.slow_readers.contains(peer);
        let (mut moving, mut far, mut slow, mut slow_moving) = (0, 0, 0, 0);
        for begun in self.active.values() {
            let (moves, reads_slowly) = (usize::from(!begun.is_stuck(now)), usize::from(is_slow(&begun.peer)));
            *(if begun.is_far() { &mut far } else { &mut moving }) += moves;
            slow += reads_slowly;
            slow_moving += reads_slowly * moves;
        }
        let (has_near, has_far) = (moving < self.slots.near(), far < self.slots.far());
        if self.active.len() >= self.most || !has_near && !has_far {
            return None;
        }
        let for_slow = slow_moving == 0 && slow < self.most_per_peer;
        self.turns.iter().position(|peer| {
            let Some(first) = self.first(peer) else { return false };
            // For one of a crowd the length of the path does not count: see `begin`.
            let is_far = way(peer) >= FAR && !first.crowd;
            if !(if is_far { has_far } else { has_near }) {
                return false;
            }
            let Some(active) = self.active_per_peer.get(peer) else { return !is_slow(peer) || for_slow };
            let most = if is_far { self.slots.far() } else { self.most_per_peer };
            !is_slow(peer) && active.count < most && self.apart(peer).is_none_or(|at| at <= now)
        })
    }

    /// When the next chunk for a peer of a crowd may begin, while another is being sent to it.
    fn apart(&self, peer: &P) -> Option<Instant> {
        let active = self.active_per_peer.get(peer)?;
        self.first(peer)?.crowd.then_some(active.since + APART)
    }

    /// The oldest request of a peer that can be served: its chunk is here.
    fn first(&self, peer: &P) -> Option<&Request<P, I, W>> {
        self.waiting.get(peer)?.iter().find(|request| !request.early)
    }

    fn count_of(&self, chunk: &Chunk) -> u32 {
        self.sent.get(chunk).copied().unwrap_or(0)
    }

    /// How often the chunk was sent that a request would get.
    fn least_sent(&self, wanted: &W) -> u32 {
        let mut least = None;
        for chunk in wanted.choices() {
            let count = self.count_of(&chunk);
            if count == 0 {
                return 0;
            }
            least = Some(least.map_or(count, |least: u32| least.min(count)));
        }
        least.unwrap_or(0)
    }

    /// The bytes for `id` were read and are handed to the connection.
    pub(crate) fn on_read(&mut self, id: &I, now: Instant) {
        if let Some(begun) = self.active.get_mut(id) {
            begun.sent = Some(now);
        }
    }

    /// Whether something for a peer has been with the connection for a while.
    pub(crate) fn is_sending(&self, peer: &P, now: Instant) -> bool {
        let of_peer = self.active.values().filter(|begun| begun.peer == *peer);
        of_peer.filter_map(|begun| begun.sent).any(|sent| now.saturating_duration_since(sent) >= STUCK)
    }

    /// The answer to `id` was sent, or never will be: its memory is free.
    pub(crate) fn finish(&mut self, id: &I, now: Instant) {
        let Some(begun) = self.active.remove(id) else { return };
        let (peer, took) = (begun.peer, begun.took(now));
        if took < STUCK {
            self.slow_readers.remove(&peer);
        }
        self.slots.on_finished(took, begun.is_far());
        if let Some(active) = self.active_per_peer.get_mut(&peer) {
            active.count = active.count.saturating_sub(1);
            if active.count == 0 {
                self.active_per_peer.remove(&peer);
            }
        }
    }

    /// The peer that holds most of the memory without reading, if all of it is taken and others wait for it.
    pub(crate) fn worst(&self, now: Instant) -> Option<P> {
        if self.active.len() < self.most || self.counts.is_empty() {
            return None;
        }
        let mut stuck = Counts::default();
        self.active.values().filter(|begun| begun.is_stuck(now)).for_each(|begun| stuck.add(begun.peer, 1));
        let (peer, count) = stuck.iter().max_by_key(|(_, count)| *count)?;
        (count > 1).then_some(*peer)
    }

    /// When to call [`Uploads::next`] again although nothing happened: stuck uploads give their slots up, and chunks
    /// need not wait any longer for the ones before.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        if self.counts.is_empty() {
            return None;
        }
        let stuck = self.active.values().map(|begun| begun.since + begun.way + STUCK);
        let apart = self.active_per_peer.keys().filter_map(|peer| self.apart(peer));
        stuck.chain(apart).filter(|at| self.looked.is_none_or(|looked| *at > looked)).min()
    }

    /// From here on every new request is refused.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Requests under way or waiting.
    pub(crate) fn len(&self) -> usize {
        self.active.len() + self.counts.all()
    }
}
