//! A simulated swarm: hundreds of downloaders and one owner, each with a link of its own, in virtual time.
//!
//! Links carry one chunk after the other; what arrives is at once passed on to whoever asks, in the order of `state::upload`.
//! It shows whether the scheduler comes close to the bound of ideal distribution, max(F/u, F/d, N·F/Σu) (R. Kumar and K. Ross, Peer-Assisted
//! File Distribution: The Minimum Distribution Time, 2006), and whether failures and liars hold it up.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use std::collections::{BTreeMap, VecDeque};

use swarmdex_protocols::ContentId;

use super::*;
use crate::state::random::Random;
use crate::state::upload::{Chunk, Request, Turn, Uploads, WantedChunks};

const CHUNK: u64 = 256 << 10;

/// First chunk, and how many.
type Run = (u64, u32);

/// Memory for uploads, in chunks: what the defaults of the configuration come to.
const MEMORY: usize = 32;

/// What is asked for: a run, or the first chunk of it or any of others.
#[derive(Debug)]
struct Ask {
    run: Run,
    or: Vec<u64>,
}

impl WantedChunks for Ask {
    fn choices(&self) -> impl Iterator<Item = Chunk> {
        std::iter::once(self.run.0).chain(self.or.iter().copied()).map(chunk)
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// A chunk of the one content that there is.
fn chunk(index: u64) -> Chunk {
    (ContentId::from_bytes([0; 32]), index)
}

/// One who downloads, or the owner.
struct Peer {
    download: Option<Download<usize>>,
    have: ChunkSet,
    uploads: Uploads<usize, u64, Ask>,
    /// Uploads that have begun and wait for the link.
    link: VecDeque<Turn<usize, u64, Ask>>,
    /// When it wants to look again which uploads may begin.
    serves: f64,
    /// Bytes a second, each way.
    rate: f64,
    down_free: f64,
    sending: bool,
    liar: bool,
    /// When it goes, without a word.
    dies: f64,
    done: Option<f64>,
    /// When it wants to be woken next.
    wakes: f64,
}

#[derive(Debug)]
enum Event {
    /// A request arrives at its source.
    Asked {
        to: usize,
        from: usize,
        run: Run,
        or: Vec<u64>,
    },
    /// An upload has left.
    Sent {
        peer: usize,
        id: u64,
    },
    /// Uploads that waited for others may begin.
    Serve {
        peer: usize,
    },
    Arrived {
        to: usize,
        from: usize,
        run: Run,
        asked: u64,
    },
    Have {
        to: usize,
        from: usize,
    },
    Failed {
        to: usize,
        from: usize,
        run: Option<Run>,
    },
    Wake {
        peer: usize,
    },
}

struct Swarm {
    begin: Instant,
    now: f64,
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
    peers: Vec<Peer>,
    latency: f64,
    random: Random,
}

impl Swarm {
    fn new(downloaders: usize, chunks: u64, seed: u64, rate: impl Fn(usize, &mut Random) -> f64) -> Self {
        let begin = Instant::now();
        let mut random = Random(seed);
        let geometry = Geometry::new(chunks * CHUNK).unwrap();
        let mut peers = Vec::new();
        for number in 0..=downloaders {
            let mut have = ChunkSet::none(chunks);
            if number == 0 {
                (0..chunks).for_each(|index| {
                    have.insert(index);
                });
            }
            let policy = FetchPolicy {
                window_bytes: 8 << 20,
                total_bytes: 24 << 20,
                swarm: true,
                announces: true,
                patience: Duration::from_secs(30),
                seed: random.next(),
            };
            let mut download = Download::new(geometry, policy, None);
            download.add_source(0, true, begin);
            peers.push(Peer {
                download: (number > 0).then_some(download),
                have,
                uploads: Uploads::new(MEMORY),
                link: VecDeque::new(),
                serves: 0.0,
                rate: rate(number, &mut random),
                down_free: 0.0,
                sending: false,
                liar: false,
                dies: f64::INFINITY,
                done: None,
                wakes: 0.0,
            });
        }
        let mut swarm = Self { begin, now: 0.0, events: BTreeMap::new(), number: 0, peers, latency: 0.001, random };
        for peer in 1..=downloaders {
            swarm.at(0.0, Event::Wake { peer });
        }
        swarm
    }

    fn at(&mut self, time: f64, event: Event) {
        self.number += 1;
        self.events.insert(((time * 1e9) as u64, self.number), event);
    }

    fn clock(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.now)
    }

    fn alive(&self, peer: usize) -> bool {
        self.peers[peer].dies > self.now
    }

    /// Lets a downloader act, and wakes it when it wants to be.
    fn act(&mut self, peer: usize) {
        if !self.alive(peer) {
            return;
        }
        let now = self.clock();
        let Some(mut download) = self.peers[peer].download.take() else { return };
        download.handle_timeout(now);
        while let Some(action) = download.poll_action(now) {
            let soon = self.now + self.latency;
            match action {
                Action::Request { source, first, count } => {
                    let or = (count == 1).then(|| download.alternatives(source)).flatten();
                    let or = or.into_iter().flatten().collect();
                    self.at(soon, Event::Asked { to: source, from: peer, run: (first, count), or });
                }
                Action::Cancel { source, first, .. } => {
                    self.peers[source].uploads.cancel(&peer, &chunk(first));
                }
                Action::Have(source) => self.at(soon, Event::Have { to: source, from: peer }),
                Action::Report(_) => {}
                Action::Search => download.set_searching(false),
                Action::Done => self.peers[peer].done = Some(self.now),
                Action::Exhausted(reason) => panic!("peer {peer} gave up: {reason:?}"),
            }
        }
        if let (Some(at), None) = (download.poll_timeout(now), self.peers[peer].done) {
            let at = at.saturating_duration_since(self.begin).as_secs_f64().max(self.now + 1e-6);
            let wakes = &mut self.peers[peer].wakes;
            if at < *wakes || *wakes <= self.now {
                *wakes = at;
                self.at(at, Event::Wake { peer });
            }
        }
        self.peers[peer].download = Some(download);
    }

    /// Begins the uploads that may begin: they leave one after the other.
    fn serve(&mut self, from: usize) {
        if !self.alive(from) {
            return;
        }
        let (clock, round_trip) = (self.clock(), Duration::from_secs_f64(2.0 * self.latency));
        let peer = &mut self.peers[from];
        while let Some(turn) = peer.uploads.next(clock, |_| round_trip) {
            peer.uploads.on_read(&turn.request.id, clock);
            peer.link.push_back(turn);
        }
        if let Some(at) = peer.uploads.poll_timeout() {
            let at = at.saturating_duration_since(self.begin).as_secs_f64().max(self.now + 1e-6);
            if at < peer.serves || peer.serves <= self.now {
                peer.serves = at;
                self.at(at, Event::Serve { peer: from });
            }
        }
        self.send(from);
    }

    /// Sends the next chunk that was begun.
    fn send(&mut self, from: usize) {
        let (now, latency) = (self.now, self.latency);
        let peer = &mut self.peers[from];
        if peer.sending {
            return;
        }
        let Some(Turn { request, chunk }) = peer.link.pop_front() else { return };
        let Request { id, peer: to, wanted: Ask { run: (asked, count), .. }, .. } = request;
        let run = (chunk.map_or(asked, |(_, index)| index), count);
        let bytes = (u64::from(count) * CHUNK) as f64;
        peer.sending = true;
        let sent = now + bytes / peer.rate;
        let receiver = &mut self.peers[to];
        receiver.down_free = receiver.down_free.max(now) + bytes / receiver.rate;
        let arrives = sent.max(receiver.down_free) + latency;
        self.at(sent, Event::Sent { peer: from, id });
        self.at(arrives, Event::Arrived { to, from, run, asked });
    }

    /// Whoever asks for something says in the request what it has.
    fn hear(&mut self, to: usize, from: usize) {
        let (now, have) = (self.clock(), self.peers[from].have.clone());
        if let Some(download) = &mut self.peers[to].download {
            download.add_source(from, false, now);
            download.on_have_update(from, &have, now);
            self.act(to);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock();
        match event {
            Event::Asked { to, from, run, .. } if !self.alive(to) => {
                self.at(self.now + 0.5, Event::Failed { to: from, from: to, run: Some(run) });
            }
            Event::Asked { to, from, run, or } => {
                self.hear(to, from);
                self.number += 1;
                // As a node takes it: who downloads itself is in a crowd, and who asks for any of several chunks.
                let crowd = to != 0 || !or.is_empty();
                let request = Request { id: self.number, peer: from, wanted: Ask { run, or }, crowd, early: false };
                if self.peers[to].uploads.push(request).is_err() {
                    self.at(self.now + self.latency, Event::Failed { to: from, from: to, run: Some(run) });
                }
                self.serve(to);
            }
            Event::Sent { peer, id } => {
                let now = self.clock();
                let sender = &mut self.peers[peer];
                sender.uploads.finish(&id, now);
                sender.sending = false;
                self.serve(peer);
            }
            Event::Serve { peer } => self.serve(peer),
            Event::Arrived { to, from, run: (first, count), asked } => {
                // So does who passes something on.
                if from != 0 && self.alive(from) && !self.peers[from].liar {
                    self.hear(to, from);
                }
                let bad = self.peers[from].liar || !self.alive(from);
                let lost = !self.alive(from);
                let Some(download) = &mut self.peers[to].download else { return };
                if lost {
                    download.on_failed(from, asked, now);
                } else if match asked == first {
                    true => download.on_chunks(from, first, count, now),
                    false => download.on_instead(from, asked, first, now),
                } {
                    if bad {
                        download.on_bad(from, first);
                    } else {
                        download.on_written(from, first, count);
                        for chunk in first..first + u64::from(count) {
                            assert!(self.peers[to].have.insert(chunk));
                        }
                    }
                }
                self.act(to);
            }
            Event::Have { to, from } if !self.alive(to) => {
                self.at(self.now + 0.5, Event::Failed { to: from, from: to, run: None });
            }
            Event::Have { to, from } => {
                self.hear(to, from);
                // A liar boasts.
                let liar = self.peers[to].liar;
                let chunks = (to != 0 && !liar).then(|| self.peers[to].have.clone());
                // The owner names some others at random, as a holder does.
                let count = self.peers.len() as u64 - 1;
                let others: Vec<_> =
                    (0..24).map(|_| 1 + self.random.below(count) as usize).filter(|other| *other != from).collect();
                let Some(download) = &mut self.peers[from].download else { return };
                download.on_have(to, chunks, now);
                for other in others.into_iter().filter(|_| to == 0) {
                    download.add_source(other, false, now);
                }
                self.act(from);
            }
            Event::Failed { to, from, run } => {
                let Some(download) = &mut self.peers[to].download else { return };
                match run {
                    Some((first, _)) => download.on_failed(from, first, now),
                    None => download.on_have_failed(from, now),
                }
                self.act(to);
            }
            Event::Wake { peer } => {
                if self.peers[peer].wakes <= self.now + 1e-6 {
                    self.act(peer);
                }
            }
        }
    }

    /// Until every downloader that lives is done; the time, and the bytes fetched for nothing.
    fn run(mut self) -> (f64, u64) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at as f64 / 1e9;
            assert!(self.now < 10_000.0, "no end");
            self.handle(event);
            let waits = |peer: &Peer| peer.done.is_none() && peer.dies.is_infinite() && !peer.liar;
            if !self.peers[1..].iter().any(waits) {
                break;
            }
        }
        let last = self.peers[1..].iter().filter(|peer| !peer.liar).filter_map(|peer| peer.done).fold(0.0, f64::max);
        (last, self.peers.iter().filter_map(|peer| peer.download.as_ref()).map(Download::wasted).sum())
    }
}

/// Seconds that ideal distribution takes.
fn bound(swarm: &Swarm, bytes: f64) -> f64 {
    let downloaders = swarm.peers.len() as f64 - 1.0;
    let slowest = swarm.peers[1..].iter().map(|peer| peer.rate).fold(f64::INFINITY, f64::min);
    let all: f64 = swarm.peers.iter().map(|peer| peer.rate).sum();
    (bytes / swarm.peers[0].rate).max(bytes / slowest).max(downloaders * bytes / all)
}

#[test]
fn a_flash_crowd_is_served_in_little_more_than_the_bound() {
    for (downloaders, chunks, seed) in [(16, 256, 1), (16, 256, 2), (60, 128, 3)] {
        let swarm = Swarm::new(downloaders, chunks, seed, |_, _| 12.5e6);
        let bound = bound(&swarm, (chunks * CHUNK) as f64);
        let (time, wasted) = swarm.run();
        let share = wasted as f64 / (downloaders as u64 * chunks * CHUNK) as f64;
        println!(
            "{downloaders} downloaders: {time:.2} s, {:.2} times the bound; {:.1} % fetched for nothing",
            time / bound,
            share * 100.0
        );
        let most = if downloaders <= 16 { 1.2 } else { 1.5 };
        assert!(time < most * bound, "{time} of {bound}");
    }
}

#[test]
fn hundreds_with_different_links_failures_and_liars_all_finish() {
    for seed in 0..2 {
        let mut swarm = Swarm::new(100, 48, seed, |number, random| match number {
            0 => 12.5e6,
            _ => 1.5e6 * (1 << random.below(4)) as f64,
        });
        for number in 1..=100 {
            match swarm.random.below(10) {
                0 => swarm.peers[number].liar = true,
                1 => swarm.peers[number].dies = swarm.random.below(10) as f64,
                _ => {}
            }
        }
        let bound = bound(&swarm, (48 * CHUNK) as f64);
        let (time, wasted) = swarm.run();
        println!(
            "seed {seed}: {time:.2} s, {:.2} times the bound; {} MiB fetched for nothing",
            time / bound,
            wasted >> 20
        );
        assert!(time < 4.0 * bound, "{time} of {bound}");
    }
}
