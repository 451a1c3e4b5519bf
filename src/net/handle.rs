//! The handle: what others ask of the swarm. More of it, by subject: `net::peers`, `net::queries`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use swarmdex_protocols::index::Run;
use swarmdex_protocols::{Authority, ContentId, Multiaddr, PeerId, index as index_protocol, mirror as mirror_protocol};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::calls::Called;
use super::command::{Command, Commands};
use super::crowd::HaveUpdate;
use super::error::RequestError;
use super::links::Links;
use super::stranger;
use super::trips::Trips;
use super::types::{Came, Identified, Neighbours, Snapshot};

/// Words of other downloaders that wait for a download.
const HAVE_UPDATE_QUEUE: usize = 256;

/// A handle to the swarm. Clones speak to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    pub(super) local: PeerId,
    pub(super) run: Run,
    pub(super) commands: Commands,
    pub(super) lost: broadcast::Sender<PeerId>,
    pub(super) came: broadcast::Sender<Came>,
    pub(super) listen: watch::Receiver<Vec<Multiaddr>>,
    pub(super) masters: watch::Receiver<Vec<Identified>>,
    pub(super) twins: watch::Receiver<Option<Multiaddr>>,
    pub(super) authority: Arc<watch::Sender<Option<Authority>>>,
    pub(super) received: Arc<AtomicU64>,
    pub(super) trips: Trips,
    pub(super) links: Links,
    pub(super) reachable: watch::Receiver<Option<bool>>,
    pub(super) called: Called,
}

impl Net {
    /// A handle that does not keep the loop going: for what the loop has itself.
    pub(super) fn downgrade(&self) -> Self {
        Self { commands: self.commands.downgrade(), ..self.clone() }
    }

    /// This node's peer id.
    pub(crate) fn local(&self) -> PeerId {
        self.local
    }

    /// The number of this run: no other node draws the same, one with the same identity included.
    pub(crate) fn run(&self) -> Run {
        self.run
    }

    /// Where this node listens, without its peer id; empty until it does.
    pub(crate) fn listen(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.listen.clone()
    }

    /// Nodes with which the last connection ends from here on. A receiver that lags loses the oldest and is
    /// told so.
    pub(crate) fn lost(&self) -> broadcast::Receiver<PeerId> {
        self.lost.subscribe()
    }

    /// Nodes that store records and came, or came back as another run, from here on. A receiver that lags loses the oldest
    /// and is told so.
    pub(crate) fn came(&self) -> broadcast::Receiver<Came> {
        self.came.subscribe()
    }

    /// Nodes of this network that say that they are its master, the latest last; bounded.
    pub(crate) fn masters(&self) -> watch::Receiver<Vec<Identified>> {
        self.masters.clone()
    }

    /// Where this node met another with its identity; told anew at each meeting.
    pub(crate) fn twins(&self) -> watch::Receiver<Option<Multiaddr>> {
        self.twins.clone()
    }

    /// What the node at an address says of the master that it follows, if it has this node's own key.
    pub(crate) async fn twin_at(&self, address: Multiaddr) -> Option<index_protocol::Followed> {
        stranger::followed_at(address, self.local).await
    }

    /// Another master with this node's key has the newer index: from here on this one serves nobody.
    pub(crate) async fn give_way(&self, reason: String) {
        // A loop that is gone serves nobody.
        let _ = self.commands.send(Command::GiveWay { reason }).await;
    }

    /// Other nodes, as far as they may have a say in which master to take.
    pub(crate) async fn neighbours(&self) -> Neighbours {
        let (answer, answered) = oneshot::channel();
        // A loop that is gone knows nobody.
        let _ = self.commands.send(Command::Neighbours { answer }).await;
        answered.await.unwrap_or_default()
    }

    /// Bytes of files that came from others since the node started, what was of no use included.
    pub(crate) fn downloaded_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks the master `to`, which must be connected or this node itself.
    pub(crate) async fn index(
        &self,
        to: PeerId,
        request: index_protocol::IndexRequest,
    ) -> Result<index_protocol::IndexResponse, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Index { to, request, answer };
        self.commands.send(command).await.map_err(|_| RequestError::ShuttingDown)?;
        answered.await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Asks `to`, which must be connected or this node itself, to store or read records.
    pub(crate) async fn mirror(
        &self,
        to: PeerId,
        request: mirror_protocol::MirrorRequest,
    ) -> Result<mirror_protocol::MirrorResponse, RequestError> {
        let (answer, answered) = oneshot::channel();
        let command = Command::Mirror { to, request, answer };
        self.commands.send(command).await.map_err(|_| RequestError::ShuttingDown)?;
        answered.await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// Whose statements are believed, and stored for others, from now on.
    pub(crate) fn trust(&self, authority: Option<Authority>) {
        self.authority.send_replace(authority);
    }

    /// Whose statements are believed.
    pub(crate) fn authority(&self) -> Option<Authority> {
        self.authority.borrow().clone()
    }

    /// What others say along with their requests that they have of a content. Dropping the receiver ends it; who calls
    /// this again for the same content takes the place of who did before.
    pub(crate) async fn have_updates(&self, content: ContentId) -> mpsc::Receiver<HaveUpdate> {
        let (have_updates, receiver) = mpsc::channel(HAVE_UPDATE_QUEUE);
        // A loop that is gone hears nothing.
        let _ = self.commands.send(Command::Listen { content, have_updates }).await;
        receiver
    }

    /// Counts of the moment.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Snapshot { answer }).await.is_err() {
            return Snapshot::default();
        }
        answered.await.unwrap_or_default()
    }

    /// Finishes uploads that are under way, closes every connection and ends the loop.
    pub(crate) async fn shutdown(&self) {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Shutdown { answer }).await.is_ok() {
            let _ = answered.await;
        }
    }
}
