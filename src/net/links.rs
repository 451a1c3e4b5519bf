//! Connections as paths: from which of this host's addresses each leads to which other, when something last came over it, and the
//! knife for one that leads nowhere.
//!
//! A path that is gone says nothing. TCP and QUIC go on sending for minutes, a connection is not closed in order before the other
//! end answers, and while it stands no better one is made. So whoever knows more than the connection cuts it, below all
//! protocols: all of an address that this host has lost, and one over which what is due does not come.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::locks::lock;
use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::{Multiaddr, PeerId};
use swarmdex_protocols::address::{ip_of, without_peer};

/// From how many bytes at a time on what came is data, and no ping.
const DATA: usize = 256;

/// Addresses of this host that are remembered as in use: far more than hosts have that lead somewhere.
const MAX_USED: usize = 64;

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Link {
    links: Links,
    number: u64,
    peer: PeerId,
    remote: Multiaddr,
    local: Option<IpAddr>,
    made: Instant,
    /// Milliseconds after `made` when data last came.
    data: AtomicU64,
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Link {
    fn on_read(&self, bytes: usize) {
        if bytes >= DATA {
            let passed = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.data.store(passed, Ordering::Relaxed);
        }
    }

    /// When data last came, or the connection was made.
    fn last_data(&self) -> Instant {
        self.made + Duration::from_millis(self.data.load(Ordering::Relaxed))
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.links.lock().all.remove(&(self.peer, self.number));
    }
}

/// All connections that stand; clones share them. As many as the limits of connections allow.
#[derive(Debug, Clone, Default)]
pub(super) struct Links(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// By peer, and by number.
    all: BTreeMap<(PeerId, u64), Weak<Link>>,
    /// Addresses of this host from which connections have led somewhere.
    used: BTreeSet<IpAddr>,
}

impl Links {
    /// A connection with `peer` was made; `muxer` is what carries it.
    pub(super) fn enter<M>(&self, peer: PeerId, point: &ConnectedPoint, muxer: M) -> Linked<M> {
        let (remote, local) = match point {
            ConnectedPoint::Dialer { address, .. } => (address, None),
            ConnectedPoint::Listener { send_back_addr, local_addr } => (send_back_addr, ip_of(local_addr)),
        };
        let local = local.filter(|ip| !ip.is_unspecified()).or_else(|| local_towards(ip_of(remote)?).ok());
        let mut table = self.lock();
        table.next += 1;
        if let Some(local) = local.filter(|_| table.used.len() < MAX_USED) {
            table.used.insert(local);
        }
        let link = Arc::new(Link {
            links: self.clone(),
            number: table.next,
            peer,
            remote: without_peer(remote.clone()),
            local,
            made: Instant::now(),
            data: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        table.all.insert((peer, link.number), Arc::downgrade(&link));
        drop(table);
        Linked { inner: muxer, link }
    }

    /// When data last came from a node, or the last of the connections with it was made; `None` if there is none.
    pub(super) fn last_data(&self, peer: &PeerId) -> Option<Instant> {
        self.of(peer).iter().map(|link| link.last_data()).max()
    }

    /// Addresses of this host from which connections have led to others, or to which others have connected.
    pub(super) fn used(&self) -> BTreeSet<IpAddr> {
        self.lock().used.clone()
    }

    /// This host has no such address any more.
    pub(super) fn on_expired(&self, local: IpAddr) {
        self.lock().used.remove(&local);
    }

    /// The addresses of a node's host at the other ends of the connections with it.
    pub(super) fn remotes(&self, peer: &PeerId) -> BTreeSet<IpAddr> {
        self.of(peer).iter().filter_map(|link| ip_of(&link.remote)).collect()
    }

    /// Nodes from which data came since.
    pub(super) fn heard_since(&self, since: Instant) -> BTreeSet<PeerId> {
        let heard = self.such(|link| link.data.load(Ordering::Relaxed) > 0 && link.last_data() >= since);
        heard.iter().map(|link| link.peer).collect()
    }

    /// Cuts all connections with a node; where they led to.
    pub(super) fn cut(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let links = self.of(peer);
        links.iter().for_each(|link| link.cut());
        links.iter().map(|link| link.remote.clone()).collect()
    }

    /// Cuts all connections that leave from an address; how many there are.
    pub(super) fn cut_from(&self, local: IpAddr) -> usize {
        let links = self.such(|link| link.local == Some(local));
        links.iter().for_each(|link| link.cut());
        links.len()
    }

    /// None of them is dropped while the table is locked: that needs the table.
    fn such(&self, accept: impl Fn(&Link) -> bool) -> Vec<Arc<Link>> {
        let all: Vec<_> = self.lock().all.values().filter_map(Weak::upgrade).collect();
        all.into_iter().filter(|link| accept(link)).collect()
    }

    /// The connections with a node.
    fn of(&self, peer: &PeerId) -> Vec<Arc<Link>> {
        let table = self.lock();
        table.all.range((*peer, 0)..=(*peer, u64::MAX)).filter_map(|(_, link)| link.upgrade()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.0)
    }
}

/// The address of this host from which packets to another leave. Nothing is sent.
fn local_towards(remote: IpAddr) -> io::Result<IpAddr> {
    /// Any port: connecting a socket of UDP only looks the route up.
    const PORT: u16 = 9;
    let any: IpAddr = if remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(remote, PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// A muxer, or one of its streams, that can be cut and knows when data came.
#[derive(Debug)]
pub(super) struct Linked<T> {
    inner: T,
    link: Arc<Link>,
}

impl<M: StreamMuxer<Error: Send + Sync + 'static> + Unpin> StreamMuxer for Linked<M>
where
    M::Substream: Unpin,
{
    type Substream = Linked<M::Substream>;
    type Error = io::Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        self.link.waker.register(cx.waker());
        if self.link.cut.load(Ordering::Acquire) {
            let reason = "the connection led nowhere any more and was cut";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason)));
        }
        Pin::new(&mut self.inner).poll(cx).map_err(io::Error::other)
    }

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_inbound(cx)).map_err(io::Error::other)?;
        Poll::Ready(Ok(Linked { inner, link: self.link.clone() }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_outbound(cx)).map_err(io::Error::other)?;
        Poll::Ready(Ok(Linked { inner, link: self.link.clone() }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.link.waker.register(cx.waker());
        if self.link.cut.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_close(cx).map_err(io::Error::other)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        self.link.on_read(count);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Linked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
