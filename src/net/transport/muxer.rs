//! Yamux, polled as often as it has something to do.
//!
//! A connection of libp2p polls its muxer twice in every turn of its task, once for what is under way and once for new streams,
//! and yamux's side of both is the same pass over the whole connection. Together with a turn of the task for every flush that
//! waits for company, two of three passes had nothing to do when many downloaded from each other.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::future::{self, Ready};
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::yamux;

use super::coalesce::Coalesce;

/// New streams that wait to be taken; more are dropped. As many as the other side may open unanswered, in yamux.
const MAX_INBOUND: usize = 256;
/// Passes over the connection after which others have their turn.
const MAX_PASSES: usize = 64;

/// The upgrade of a connection to one of many streams.
#[derive(Clone)]
pub(super) struct Mux(pub(super) yamux::Config);

impl UpgradeInfo for Mux {
    type Info = <yamux::Config as UpgradeInfo>::Info;
    type InfoIter = <yamux::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Mux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, io: C, info: Self::Info) -> Self::Future {
        let put_off = Arc::default();
        wrapped(self.0.upgrade_inbound(Coalesce::new(io, Arc::clone(&put_off)), info), put_off)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Mux {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, io: C, info: Self::Info) -> Self::Future {
        let put_off = Arc::default();
        wrapped(self.0.upgrade_outbound(Coalesce::new(io, Arc::clone(&put_off)), info), put_off)
    }
}

/// Of what yamux is at once.
fn wrapped<C>(
    upgraded: Ready<Result<yamux::Muxer<Coalesce<C>>, io::Error>>,
    put_off: Arc<AtomicBool>,
) -> Ready<Result<Muxer<C>, io::Error>> {
    let inner = upgraded.now_or_never().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()));
    future::ready(inner.map(|inner| Muxer { inner, put_off, inbound: VecDeque::new() }))
}

/// A connection of many streams.
#[derive(Debug)]
pub(in crate::net) struct Muxer<C> {
    inner: yamux::Muxer<Coalesce<C>>,
    /// Whether a flush was put off; see [`Coalesce`].
    put_off: Arc<AtomicBool>,
    /// New streams that were not taken yet.
    inbound: VecDeque<yamux::Stream>,
}

impl<C> Muxer<C> {
    /// Whether a flush was put off since the last time.
    fn owes_flush(&self) -> bool {
        self.put_off.swap(false, Ordering::Relaxed)
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + 'static> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
    type Error = yamux::Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let this = &mut *self;
        for _ in 0..MAX_PASSES {
            match Pin::new(&mut this.inner).poll_inbound(cx) {
                Poll::Ready(Ok(stream)) if this.inbound.len() < MAX_INBOUND => this.inbound.push_back(stream),
                // Dropped, it is reset.
                Poll::Ready(Ok(_)) => tracing::debug!("too many streams are opened at a time"),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if this.owes_flush() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// What [`StreamMuxer::poll`] came by; it is polled before this in every turn.
    fn poll_inbound(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        self.inbound.pop_front().map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        Pin::new(&mut self.inner).poll_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        loop {
            match Pin::new(&mut self.inner).poll_close(cx) {
                Poll::Pending if self.owes_flush() => {}
                other => return other,
            }
        }
    }
}
