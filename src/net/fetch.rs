//! Serving chunks: requests wait as requests, and only as many are read from disk as memory is set aside for.
//!
//! **Order.** The peers take turns; within its turn each gets the chunk that was sent least of those it asked for, or would
//! take instead. When many want the same content at once, each chunk so leaves its owner once before any leaves it
//! twice, and the downloaders get the rest from each other. (To prefer what was sent least across peers starves some
//! requests for seconds.)
//!
//! **How many at a time.** Few enough that each is done soon, since half-sent chunks are of use to nobody: three at first,
//! eight after as many have left, more while answers leave at once, fewer when they take longer than half a second; how long the
//! way to the peer is does not count. Within
//! a crowd that passes on what it has, the chunks for one peer leave one after the other, or at least apart: sent side by
//! side they would all arrive at the end, and the peer could neither pass one on nor ask for the next meanwhile.
//!
//! **Early.** Whoever passes on what it downloads says so of a chunk that only begins to arrive, and a request for it waits
//! until it is here. So the request is there when the chunk is, and not two ways across full links later.
//!
//! **Who does not read** is sent one answer at a time, has one slot for all of its kind and at most half of the memory, and
//! loses its connection if it took more of it while it still read: it holds nobody else up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::request_response::InboundRequestId;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::fetch::{Refusal, Request, Run};
use swarmdex_protocols::limits::MAX_FETCH_BODY;

use super::rpc::{Fetch, Reply};
use super::trips::Trips;
use crate::config::FetchConfig;

/// Requests of one peer that wait.
const WAITING_PER_PEER: usize = 256;
/// Requests that wait in all.
const WAITING: usize = 4096;
/// Uploads at a time that a node begins with, those that it allows before it is choosy, and the fewest. Measured with
/// `benches/flash_crowd`: with fewer the link is idle in between; with more, chunks arrive later that others wait for,
/// most of all the first ones, of which nobody has another.
const FIRST_SLOTS: usize = 3;
const USUAL_SLOTS: usize = 8;
const LEAST_SLOTS: usize = 2;
/// An upload that took less than [`QUICK`] makes room for one more, one that took longer than [`SLOW`] for one less, and one in
/// between for one more up to the usual ones; one that takes much longer is its receiver's fault, who is a laggard until
/// another takes less.
const QUICK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(500);
const STUCK: Duration = Duration::from_secs(1);
/// How much longer an upload may take where the way is long: so many round trips, at most so much. The receiver of a stream lets
/// less be sent at first than is in a chunk, and TCP takes some round trips to find out what the way carries.
const TRIPS: u32 = 6;
const LONGEST_WAY: Duration = Duration::from_secs(4);
/// From which length of the way on an upload is one to a distant node. Many of them are under way at a time, since each is
/// mostly waited for; they are counted apart.
const FAR: Duration = Duration::from_millis(100);
const FIRST_FAR_SLOTS: usize = 16;
/// Uploads that are left for others than distant nodes.
const NEAR_SLOTS: usize = 4;
/// How far apart the chunks for one peer of a crowd begin, if the one before is not sent yet.
const APART: Duration = Duration::from_millis(50);
/// Laggards that are remembered.
const MAX_LAGGARDS: usize = 1024;
/// Chunks of which it is remembered how often they were sent.
const MAX_SENT: usize = 1 << 16;

/// A request for chunks that came in.
pub(super) struct Upload {
    pub(super) peer: PeerId,
    pub(super) request: Request,
    pub(super) reply: Reply<Fetch>,
    /// Whether many download the content at the same time and pass on what they have.
    pub(super) crowd: bool,
    /// Whether the chunk is another one than was asked for first.
    pub(super) instead: bool,
    /// Whether the chunk is still on its way here.
    pub(super) early: bool,
}

/// A chunk: its content and index.
type Chunk = (ContentId, u64);

fn chunk_of(request: &Request) -> Option<Chunk> {
    match request {
        Request::Chunks(want) => Some((want.content, want.first)),
        Request::Any(any) => Some((any.content, any.first)),
        _ => None,
    }
}

/// An upload under way.
struct Begun {
    peer: PeerId,
    since: Instant,
    /// Since when its bytes are with the connection.
    sent: Option<Instant>,
    /// How long the way to its receiver is.
    way: Duration,
}

impl Begun {
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
struct Active {
    count: usize,
    /// When the last one began.
    since: Instant,
}

/// Uploads that wait, and those whose bytes are in memory.
pub(super) struct Uploads {
    /// Most at a time, for all and for one peer; and as many as leave soon.
    most: usize,
    most_per_peer: usize,
    slots: usize,
    /// The same for distant nodes.
    far_slots: usize,
    /// Requests by peer: each peer's in order, the peers in turn, so that one that asks for much delays
    /// nobody else.
    waiting: HashMap<PeerId, VecDeque<Upload>>,
    turns: VecDeque<PeerId>,
    waiting_count: usize,
    active: HashMap<InboundRequestId, Begun>,
    trips: Trips,
    active_per_peer: HashMap<PeerId, Active>,
    laggards: HashSet<PeerId>,
    /// When laggards were last looked for.
    looked: Option<Instant>,
    /// How often chunks were sent.
    sent: HashMap<Chunk, u32>,
    /// Bytes of files handed over to be sent since the node started.
    pub(super) sent_bytes: u64,
    closing: bool,
}

impl Uploads {
    pub(super) fn new(config: &FetchConfig, trips: Trips) -> Self {
        let most = ((config.upload_mib << 20) / MAX_FETCH_BODY).max(1);
        Self {
            most,
            // A client that does not read its answers holds its slots until they time out: never all of them.
            most_per_peer: most.div_ceil(2),
            slots: FIRST_SLOTS.min(most),
            far_slots: FIRST_FAR_SLOTS.min(most),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            waiting_count: 0,
            active: HashMap::new(),
            trips,
            active_per_peer: HashMap::new(),
            laggards: HashSet::new(),
            looked: None,
            sent: HashMap::new(),
            sent_bytes: 0,
            closing: false,
        }
    }

    /// Takes a request in, or says why not.
    pub(super) fn push(&mut self, upload: Upload) -> Result<(), (Reply<Fetch>, Refusal)> {
        let waiting = self.waiting.get(&upload.peer).map_or(0, VecDeque::len);
        if self.closing || self.waiting_count >= WAITING || waiting >= WAITING_PER_PEER {
            return Err((upload.reply, Refusal::Busy));
        }
        let peer = upload.peer;
        self.waiting.entry(peer).or_default().push_back(upload);
        self.waiting_count += 1;
        if waiting == 0 {
            self.turns.push_back(peer);
        }
        Ok(())
    }

    /// A run is not wanted any more: where the answer to the request for it goes, if it still waits.
    pub(super) fn cancel(&mut self, peer: &PeerId, run: &Run) -> Option<Reply<Fetch>> {
        let queue = self.waiting.get_mut(peer)?;
        let at = queue.iter().position(|upload| chunk_of(&upload.request) == Some((run.content, run.first)))?;
        let upload = queue.remove(at)?;
        self.waiting_count -= 1;
        if queue.is_empty() {
            self.waiting.remove(peer);
            self.turns.retain(|other| other != peer);
        }
        Some(upload.reply)
    }

    /// Some chunks are no longer on their way here: requests for them are served, or refused, when it is their turn.
    pub(super) fn on_landed(&mut self, is_coming: impl Fn(&ContentId, u64) -> bool) {
        for upload in self.waiting.values_mut().flatten().filter(|upload| upload.early) {
            upload.early = chunk_of(&upload.request).is_some_and(|(content, first)| is_coming(&content, first));
        }
    }

    /// The next request to read from disk, if memory is left for it.
    pub(super) fn next(&mut self, now: Instant) -> Option<Upload> {
        self.find_laggards(now);
        let turn = self.turn(now)?;
        let requests = self.waiting.get(self.turns.get(turn)?)?.iter().enumerate();
        let (at, _) = requests
            .filter(|(_, upload)| !upload.early)
            .min_by_key(|(at, upload)| (self.least_sent(&upload.request), *at))?;
        let peer = self.turns.remove(turn)?;
        let queue = self.waiting.get_mut(&peer)?;
        let mut upload = queue.remove(at)?;
        self.waiting_count -= 1;
        if queue.is_empty() {
            self.waiting.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        if !upload.reply.is_open() {
            // Nobody waits for it any more.
            return self.next(now);
        }
        if let Request::Any(any) = &upload.request {
            let content = any.content;
            let count = |first: &u64| self.sent.get(&(content, *first)).copied().unwrap_or(0);
            let first = any.choices().min_by_key(count).unwrap_or(any.first);
            upload.instead = first != any.first;
            upload.request = Request::Chunks(Run { content, first, count: 1 }.into());
        }
        if let Some(chunk) = chunk_of(&upload.request) {
            if self.sent.len() >= MAX_SENT {
                self.sent.clear();
            }
            *self.sent.entry(chunk).or_default() += 1;
        }
        let way = if upload.crowd { Duration::ZERO } else { self.way(&peer) };
        self.active.insert(upload.reply.id, Begun { peer, since: now, sent: None, way });
        let active = self.active_per_peer.entry(peer).or_insert(Active { count: 0, since: now });
        active.count += 1;
        active.since = now;
        Some(upload)
    }

    fn find_laggards(&mut self, now: Instant) {
        self.looked = Some(now);
        for begun in self.active.values().filter(|begun| begun.is_stuck(now)) {
            if self.laggards.len() >= MAX_LAGGARDS {
                self.laggards.clear();
            }
            self.laggards.insert(begun.peer);
        }
    }

    /// How long the way to a peer is.
    fn way(&self, peer: &PeerId) -> Duration {
        (self.trips.of(peer) * TRIPS).min(LONGEST_WAY)
    }

    /// Whether a peer is served as a distant one.
    fn is_far(&self, peer: &PeerId) -> bool {
        self.way(peer) >= FAR && self.first(peer).is_some_and(|upload| !upload.crowd)
    }

    /// Which of the peers in `turns` may have the next upload, if any.
    fn turn(&self, now: Instant) -> Option<usize> {
        let is_laggard = |peer: &PeerId| self.laggards.contains(peer);
        let (mut moving, mut far, mut lagging, mut lagging_moving) = (0, 0, 0, 0);
        for begun in self.active.values() {
            let (moves, lags) = (usize::from(!begun.is_stuck(now)), usize::from(is_laggard(&begun.peer)));
            *(if begun.is_far() { &mut far } else { &mut moving }) += moves;
            lagging += lags;
            lagging_moving += lags * moves;
        }
        let has_slot = |peer: &PeerId| if self.is_far(peer) { far < self.far_slots } else { moving < self.slots };
        if self.active.len() >= self.most || moving >= self.slots && far >= self.far_slots {
            return None;
        }
        let for_laggards = lagging_moving == 0 && lagging < self.most_per_peer;
        self.turns.iter().position(|peer| {
            if self.first(peer).is_none() || !has_slot(peer) {
                return false;
            }
            let Some(active) = self.active_per_peer.get(peer) else { return !is_laggard(peer) || for_laggards };
            let most = if self.is_far(peer) { self.far_slots } else { self.most_per_peer };
            !is_laggard(peer) && active.count < most && self.apart(peer).is_none_or(|at| at <= now)
        })
    }

    /// When the next chunk for a peer of a crowd may begin, while another is being sent to it.
    fn apart(&self, peer: &PeerId) -> Option<Instant> {
        let active = self.active_per_peer.get(peer)?;
        self.first(peer)?.crowd.then_some(active.since + APART)
    }

    /// The oldest request of a peer that can be served: its chunk is here.
    fn first(&self, peer: &PeerId) -> Option<&Upload> {
        self.waiting.get(peer)?.iter().find(|upload| !upload.early)
    }

    /// How often the chunk was sent that a request would get.
    fn least_sent(&self, request: &Request) -> u32 {
        let count = |chunk: Chunk| self.sent.get(&chunk).copied().unwrap_or(0);
        match request {
            Request::Any(any) => {
                let mut least = u32::MAX;
                for first in any.choices() {
                    least = least.min(count((any.content, first)));
                    if least == 0 {
                        break;
                    }
                }
                least
            }
            request => chunk_of(request).map_or(0, count),
        }
    }

    /// The bytes for `id` were read and are handed to the connection.
    pub(super) fn on_read(&mut self, id: &InboundRequestId, bytes: usize, now: Instant) {
        self.sent_bytes += bytes as u64;
        if let Some(begun) = self.active.get_mut(id) {
            begun.sent = Some(now);
        }
    }

    /// Whether something for a peer has been with the connection for a while.
    pub(super) fn is_sending(&self, peer: &PeerId, now: Instant) -> bool {
        let of_peer = self.active.values().filter(|begun| begun.peer == *peer);
        of_peer.filter_map(|begun| begun.sent).any(|sent| now.saturating_duration_since(sent) >= STUCK)
    }

    /// The answer to `id` was sent, or never will be: its memory is free.
    pub(super) fn finish(&mut self, id: &InboundRequestId, now: Instant) {
        let Some(begun) = self.active.remove(id) else { return };
        let (peer, took) = (begun.peer, begun.took(now));
        if took < STUCK {
            self.laggards.remove(&peer);
        }
        let (slots, usual, most) = if begun.is_far() {
            let most = self.most.saturating_sub(NEAR_SLOTS).max(self.most_per_peer);
            (&mut self.far_slots, most, most)
        } else {
            (&mut self.slots, USUAL_SLOTS, self.most)
        };
        if took < QUICK || took < SLOW && *slots < usual {
            *slots = (*slots + 1).min(most);
        } else if took > SLOW && took < STUCK {
            *slots = (*slots - 1).max(LEAST_SLOTS.min(self.most));
        }
        if let Some(active) = self.active_per_peer.get_mut(&peer) {
            active.count -= 1;
            if active.count == 0 {
                self.active_per_peer.remove(&peer);
            }
        }
    }

    /// The peer that holds most of the memory without reading, if all of it is taken and others wait for it.
    pub(super) fn worst(&self, now: Instant) -> Option<PeerId> {
        if self.active.len() < self.most || self.waiting_count == 0 {
            return None;
        }
        let mut stuck = HashMap::<PeerId, usize>::new();
        for begun in self.active.values().filter(|begun| begun.is_stuck(now)) {
            *stuck.entry(begun.peer).or_default() += 1;
        }
        let (peer, count) = stuck.into_iter().max_by_key(|(_, count)| *count)?;
        (count > 1).then_some(peer)
    }

    /// When to call [`Uploads::next`] again although nothing happened: stuck uploads give their slots up, and chunks
    /// need not wait any longer for the ones before.
    pub(super) fn timeout(&self) -> Option<Instant> {
        let stuck = self.active.values().map(|begun| begun.since + begun.way + STUCK);
        let apart = self.active_per_peer.keys().filter_map(|peer| self.apart(peer));
        stuck.chain(apart).filter(|at| self.looked.is_none_or(|looked| *at > looked) && self.waiting_count > 0).min()
    }

    /// From here on every new request is refused.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// Requests under way or waiting.
    pub(super) fn len(&self) -> usize {
        self.active.len() + self.waiting_count
    }
}
