//! Serving chunks: what `state::upload` decides about, as it comes from libp2p.

use std::time::Instant;

use libp2p::PeerId;
use libp2p::request_response::InboundRequestId;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::fetch::{ChunkRun, FetchRefusal, FetchRequest};
use swarmdex_protocols::limits::MAX_FETCH_BODY;

use super::rpc::{FetchProtocol, Reply};
use super::trips::Trips;
use crate::config::FetchConfig;
use crate::state::upload::{self, Chunk, Turn, WantedChunks};

/// A request for chunks, and where its answer goes.
pub(super) struct Asked {
    pub(super) request: FetchRequest,
    pub(super) reply: Reply<FetchProtocol>,
}

impl WantedChunks for Asked {
    fn choices(&self) -> impl Iterator<Item = Chunk> {
        let (one, any) = match &self.request {
            FetchRequest::Chunks(want) => (Some((want.content, want.first)), None),
            FetchRequest::Any(any) => (None, Some(any)),
            _ => (None, None),
        };
        let any = any.into_iter().flat_map(|any| any.choices().map(|first| (any.content, first)));
        one.into_iter().chain(any)
    }

    fn is_open(&self) -> bool {
        self.reply.is_open()
    }
}

/// What is to be read now.
pub(super) struct Upload {
    pub(super) request: FetchRequest,
    pub(super) reply: Reply<FetchProtocol>,
    /// Whether the chunk is another one than was asked for first.
    pub(super) instead: bool,
}

/// Uploads that wait, and those whose bytes are in memory.
pub(super) struct Uploads {
    policy: upload::Uploads<PeerId, InboundRequestId, Asked>,
    trips: Trips,
    /// Bytes of files handed over to be sent since the node started.
    pub(super) sent_bytes: u64,
}

impl Uploads {
    /// `trips` says how far away connected nodes are.
    pub(super) fn new(config: &FetchConfig, trips: Trips) -> Self {
        let most = (config.upload_mib << 20) / MAX_FETCH_BODY;
        Self { policy: upload::Uploads::new(most), trips, sent_bytes: 0 }
    }

    /// Takes a request in, or says why not: `crowd` and `early` as in [`upload::Request`].
    pub(super) fn push(
        &mut self,
        peer: PeerId,
        wanted: Asked,
        crowd: bool,
        early: bool,
    ) -> Result<(), (Reply<FetchProtocol>, FetchRefusal)> {
        let request = upload::Request { id: wanted.reply.id, peer, wanted, crowd, early };
        self.policy.push(request).map_err(|asked| (asked.reply, FetchRefusal::Busy))
    }

    /// A run is not wanted any more: where the answer to the request for it goes, if that still waits.
    pub(super) fn cancel(&mut self, peer: &PeerId, run: &ChunkRun) -> Option<Reply<FetchProtocol>> {
        self.policy.cancel(peer, &(run.content, run.first)).map(|asked| asked.reply)
    }

    /// Some chunks are no longer on their way here: they are here, or do not come.
    pub(super) fn on_settled(&mut self, is_incoming: impl Fn(&ContentId, u64) -> bool) {
        self.policy.on_settled(is_incoming);
    }

    /// The next request to read from disk, if memory is left for it. Whoever would take any of several chunks gets a certain one.
    pub(super) fn next(&mut self, now: Instant) -> Option<Upload> {
        let Turn { request, chunk } = self.policy.next(now, |peer| self.trips.of(peer))?;
        let Asked { request, reply } = request.wanted;
        let (request, instead) = match (request, chunk) {
            (FetchRequest::Any(any), Some((content, first))) => {
                (FetchRequest::Chunks(ChunkRun { content, first, count: 1 }.into()), first != any.first)
            }
            (request, _) => (request, false),
        };
        Some(Upload { request, reply, instead })
    }

    /// The bytes for `id` were read and are handed to the connection.
    pub(super) fn on_read(&mut self, id: &InboundRequestId, bytes: usize, now: Instant) {
        self.sent_bytes += bytes as u64;
        self.policy.on_read(id, now);
    }

    /// Whether something for a peer has been with the connection for a while.
    pub(super) fn is_sending(&self, peer: &PeerId, now: Instant) -> bool {
        self.policy.is_sending(peer, now)
    }

    /// The answer to `id` was sent, or never will be: its memory is free.
    pub(super) fn finish(&mut self, id: &InboundRequestId, now: Instant) {
        self.policy.finish(id, now);
    }

    /// The peer that holds most of the memory without reading, if others need it.
    pub(super) fn worst(&self, now: Instant) -> Option<PeerId> {
        self.policy.worst(now)
    }

    /// When to call [`Uploads::next`] again although nothing happened.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.policy.poll_timeout()
    }

    /// From here on every new request is refused.
    pub(super) fn close(&mut self) {
        self.policy.close();
    }

    /// Requests under way or waiting.
    pub(super) fn len(&self) -> usize {
        self.policy.len()
    }
}
