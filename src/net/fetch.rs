//! Serving chunks: requests wait as requests, and only as many are read from disk as memory is set aside for.

use std::collections::{HashMap, VecDeque};

use libp2p::PeerId;
use libp2p::request_response::{InboundRequestId, ResponseChannel};
use swarmdex_protocols::fetch::{Refusal, Request, Response};
use swarmdex_protocols::limits::MAX_FETCH_BODY;

use super::codec::Received;
use crate::config::FetchConfig;

/// Requests of one peer that wait.
const WAITING_PER_PEER: usize = 256;
/// Requests that wait in all.
const WAITING: usize = 4096;

/// Where the answer to a request for chunks goes.
pub(super) type Channel = ResponseChannel<Received<Response>>;

/// A request for chunks that came in.
pub(super) struct Upload {
    pub(super) id: InboundRequestId,
    pub(super) peer: PeerId,
    pub(super) request: Request,
    pub(super) channel: Channel,
}

/// Uploads that wait, and those whose bytes are in memory.
pub(super) struct Uploads {
    slots: usize,
    slots_per_peer: usize,
    /// Requests by peer: each peer's in order, the peers in turn, so that one that asks for much delays
    /// nobody else.
    waiting: HashMap<PeerId, VecDeque<Upload>>,
    turns: VecDeque<PeerId>,
    waiting_count: usize,
    active: HashMap<InboundRequestId, PeerId>,
    active_per_peer: HashMap<PeerId, usize>,
    closing: bool,
}

impl Uploads {
    pub(super) fn new(config: &FetchConfig) -> Self {
        let slots = ((config.upload_mib << 20) / MAX_FETCH_BODY).max(1);
        Self {
            slots,
            // A client that does not read its answers holds its slots until they time out: never all of them.
            slots_per_peer: slots.div_ceil(2),
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            waiting_count: 0,
            active: HashMap::new(),
            active_per_peer: HashMap::new(),
            closing: false,
        }
    }

    /// Takes a request in, or says why not.
    pub(super) fn push(&mut self, upload: Upload) -> Result<(), (Channel, Refusal)> {
        let waiting = self.waiting.get(&upload.peer).map_or(0, VecDeque::len);
        if self.closing || self.waiting_count >= WAITING || waiting >= WAITING_PER_PEER {
            return Err((upload.channel, Refusal::Busy));
        }
        let peer = upload.peer;
        self.waiting.entry(peer).or_default().push_back(upload);
        self.waiting_count += 1;
        if waiting == 0 {
            self.turns.push_back(peer);
        }
        Ok(())
    }

    /// The next request to read from disk, if memory is left for it.
    pub(super) fn next(&mut self) -> Option<Upload> {
        for _ in 0..self.turns.len() {
            if self.active.len() >= self.slots {
                return None;
            }
            let peer = self.turns.pop_front()?;
            if self.active_per_peer.get(&peer).copied().unwrap_or(0) >= self.slots_per_peer {
                self.turns.push_back(peer);
                continue;
            }
            let upload = self.pop(peer);
            if let Some(upload) = upload {
                self.active.insert(upload.id, peer);
                *self.active_per_peer.entry(peer).or_default() += 1;
                return Some(upload);
            }
        }
        None
    }

    /// The oldest request of `peer` that somebody still waits for.
    fn pop(&mut self, peer: PeerId) -> Option<Upload> {
        let queue = self.waiting.get_mut(&peer)?;
        let mut found = None;
        while let Some(upload) = queue.pop_front() {
            self.waiting_count -= 1;
            if upload.channel.is_open() {
                found = Some(upload);
                break;
            }
        }
        if queue.is_empty() {
            self.waiting.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        found
    }

    /// The answer to `id` was sent, or never will be: its memory is free.
    pub(super) fn finish(&mut self, id: &InboundRequestId) {
        let Some(peer) = self.active.remove(id) else { return };
        if let Some(count) = self.active_per_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.active_per_peer.remove(&peer);
            }
        }
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
