//! What the handle does about connections: how good they are, how they come about, and which are kept.

use std::pin::pin;
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Call, IndexRequest, IndexResponse};
use swarmdex_protocols::{Multiaddr, PeerId, fetch};
use tokio::sync::oneshot;

use super::command::Command;
use super::error::{ConnectError, FetchError, RequestError};
use super::handle::Net;

/// A node that is not connected after so long is asked, through the master, to make the connection itself. That takes a moment; on the
/// longest paths it begins before the connection would stand, and costs a message.
const CALL_AFTER: Duration = Duration::from_millis(400);
/// How long that may take.
const CALL_PATIENCE: Duration = Duration::from_secs(3);

impl Net {
    /// Connects to `peer` like [`Net::connect`]. If that takes a moment, or leads nowhere, the master has `peer`
    /// connect to this node. Whoever is behind a router or a firewall makes connections, and takes none in.
    pub(crate) async fn connect_or_call(
        &self,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
    ) -> Result<PeerId, ConnectError> {
        let mut direct = pin!(self.connect(Some(peer), addresses));
        let mut call = pin!(self.call(peer));
        let (mut begun, mut called) = (false, None);
        loop {
            tokio::select! {
                biased;
                outcome = &mut direct => return match outcome {
                    Err(ConnectError::Unreachable { .. } | ConnectError::NoAddress) if called.is_none() && call.as_mut().await => Ok(peer),
                    outcome => outcome,
                },
                done = &mut call, if begun && called.is_none() => {
                    if done {
                        return Ok(peer);
                    }
                    called = Some(done);
                }
                () = tokio::time::sleep(CALL_AFTER), if !begun => begun = true,
            }
        }
    }

    /// Has the master have a node connect to this one. Whether it did.
    async fn call(&self, peer: PeerId) -> bool {
        let connected = async || {
            let waiting = tokio::time::timeout(CALL_PATIENCE, self.connected(peer));
            matches!(waiting.await, Ok(Ok(_)))
        };
        let Some(_calling) = self.called.begin(peer) else { return connected().await };
        let Some(master) = self.authority().map(|authority| authority.master.to_peer_id()) else { return false };
        if master == peer {
            return false;
        }
        let asking = tokio::time::timeout(CALL_PATIENCE, self.index(master, IndexRequest::Call(Call { peer })));
        matches!(asking.await, Ok(Ok(IndexResponse::Done))) && connected().await
    }

    /// How long a message to a connected node and its answer take at least; zero if that is not known.
    pub(crate) fn round_trip(&self, peer: &PeerId) -> Duration {
        self.trips.of(peer)
    }

    /// How long the last answer to a ping took: longer where queues are full.
    pub(crate) fn last_round_trip(&self, peer: &PeerId) -> Duration {
        self.trips.of_late(peer)
    }

    /// When a connected node last answered a ping.
    pub(crate) fn heard(&self, peer: &PeerId) -> Option<Instant> {
        self.trips.heard(peer)
    }

    /// When data last came from a node, or the last of the connections with it was made; `None` if it is not connected.
    pub(crate) fn last_data(&self, peer: &PeerId) -> Option<Instant> {
        self.links.last_data(peer)
    }

    /// Whether the master could connect to this node, if it tried.
    pub(crate) fn reachable(&self) -> Option<bool> {
        *self.reachable.borrow()
    }

    /// Waits until `peer` is connected, whoever makes the connection.
    pub(crate) async fn connected(&self, peer: PeerId) -> Result<PeerId, ConnectError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Await { peer, answer };
        self.commands.send(command).await.map_err(|_| ConnectError::ShuttingDown)?;
        answered.await.unwrap_or(Err(ConnectError::ShuttingDown))
    }

    /// Cuts every connection with `peer`, at once: what is due over them does not come. Where they led to is tried last for a while.
    pub(crate) async fn cut(&self, peer: PeerId) {
        // A loop that is gone has no connections.
        let _ = self.commands.send(Command::Cut { peer }).await;
    }

    /// Connects to `peer`, or to whoever answers if none is given; its addresses are tried as in RFC 8305, TCP before QUIC, and
    /// all is over within [`crate::state::race::LIMIT`]. At once if it is connected already.
    pub(crate) async fn connect(
        &self,
        peer: Option<PeerId>,
        addresses: Vec<Multiaddr>,
    ) -> Result<PeerId, ConnectError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Connect { peer, addresses, answer };
        self.commands.send(command).await.map_err(|_| ConnectError::ShuttingDown)?;
        answered.await.unwrap_or(Err(ConnectError::ShuttingDown))
    }

    /// Asks the holder `from` for chunks; connects to it first if need be, see [`Net::connect_or_call`].
    ///
    /// # Errors
    ///
    /// No connection came about, or no answer over it.
    pub(crate) async fn fetch(
        &self,
        from: PeerId,
        addresses: Vec<Multiaddr>,
        request: fetch::FetchRequest,
    ) -> Result<fetch::FetchResponse, FetchError> {
        // Nearly all requests of a download are made while there is a connection: those cost one turn of the loop.
        match self.send_fetch(from, request).await {
            Ok(answer) => Ok(answer?),
            Err(request) => {
                self.connect_or_call(from, addresses).await?;
                Ok(self.fetch_if_connected(from, request).await?)
            }
        }
    }

    /// Asks the holder `from`, unless there is no connection with it: what is said of chunks that are on their way is worth none.
    ///
    /// # Errors
    ///
    /// There is no connection, or no answer came over it.
    pub(crate) async fn fetch_if_connected(
        &self,
        from: PeerId,
        request: fetch::FetchRequest,
    ) -> Result<fetch::FetchResponse, RequestError> {
        self.send_fetch(from, request).await.unwrap_or(Err(RequestError::Disconnected))
    }

    /// Asks the holder `from`; the request comes back if there is no connection with it.
    async fn send_fetch(
        &self,
        from: PeerId,
        request: fetch::FetchRequest,
    ) -> Result<Result<fetch::FetchResponse, RequestError>, fetch::FetchRequest> {
        let ((answer, answered), (unsent, returned)) = (oneshot::channel(), oneshot::channel());
        // A loop that is gone drops both.
        let _ = self.commands.send(Command::Fetch { from, request, answer, unsent }).await;
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(_) => returned.await.map_or(Ok(Err(RequestError::ShuttingDown)), Err),
        }
    }

    /// Closes every connection with `peer`: one that does not answer is in the way of a new one.
    pub(crate) async fn disconnect(&self, peer: PeerId) {
        // A loop that is gone has no connections.
        let _ = self.commands.send(Command::Disconnect { peer }).await;
    }

    /// Keeps connections with `peer` open although idle, or ceases to.
    pub(crate) async fn keep(&self, peer: PeerId, keep: bool) {
        // A loop that is gone keeps nothing open.
        let _ = self.commands.send(Command::Keep { peer, keep }).await;
    }
}
