//! Yamux, polled as often as it has something to do.
//!
//! A connection of libp2p polls its muxer twice in every turn of its task: once for what is under way and once for new
//! streams. Yamux's side of both is the same pass over the whole connection. Together with a turn of the task for every
//! flush that waits for company, two of three passes had nothing to do when many downloaded from each other.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{self, Ready};
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::yamux;
use tokio::time::Sleep;

use super::coalesce::Coalesce;

/// New streams that wait to be taken; more are dropped. As many as the other side may open unanswered, in yamux.
const MAX_INBOUND: usize = 256;
/// Passes over the connection after which others have their turn.
const MAX_PASSES: usize = 64;

/// How long a connection may take to close in order. Where the other end is gone without a word that would be until the
/// system gives up. For so long the swarm takes the two for connected, and no better connection is made.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

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

/// Wraps the muxer that yamux makes. Its upgrade is ready at once.
fn wrapped<C>(
    upgraded: Ready<Result<yamux::Muxer<Coalesce<C>>, io::Error>>,
    put_off: Arc<AtomicBool>,
) -> Ready<Result<Muxer<C>, io::Error>> {
    future::ready(upgraded.into_inner().map(|inner| Muxer { inner, put_off, inbound: VecDeque::new(), closing: None }))
}

/// A connection of many streams.
#[derive(Debug)]
pub(in crate::net) struct Muxer<C> {
    inner: yamux::Muxer<Coalesce<C>>,
    /// Whether a flush was put off; see [`Coalesce`].
    put_off: Arc<AtomicBool>,
    /// New streams that were not taken yet.
    inbound: VecDeque<yamux::Stream>,
    /// When it is cut although it could not be closed in order, while it is being closed.
    closing: Option<Pin<Box<Sleep>>>,
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
                Poll::Pending => break,
                closed => return closed,
            }
        }
        let closing = self.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_PATIENCE)));
        // Whoever closed it drops it then, and the socket with it.
        closing.poll_unpin(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use libp2p::tcp::tokio::TcpStream;
    use tokio::net::{TcpListener, TcpStream as Socket};

    use super::*;

    const NAME: &str = "/yamux/1.0.0";

    /// Both ends of a connection.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(Socket::connect(listener.local_addr().unwrap()), listener.accept());
        (TcpStream(ours.unwrap()), TcpStream(theirs.unwrap().0))
    }

    /// Turns of a connection's task until `future` is ready: what its streams do, and then the muxer.
    async fn turns<T>(muxer: &mut Muxer<TcpStream>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let ready = future.as_mut().poll(cx);
            let _ = Pin::new(&mut *muxer).poll(cx);
            ready
        })
        .await
    }

    #[tokio::test]
    async fn more_than_a_window_travels_both_ways_and_the_connection_ends() {
        let (ours, theirs) = connected().await;
        let mut client = Mux(yamux::Config::default()).upgrade_outbound(ours, NAME).await.unwrap();
        let mut server = Mux(yamux::Config::default()).upgrade_inbound(theirs, NAME).await.unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).map(|number| (number >> 3) as u8).collect();
        let asking = async {
            let mut stream = poll_fn(|cx| Pin::new(&mut client).poll_outbound(cx)).await.unwrap();
            let mut got = Vec::new();
            turns(&mut client, async {
                stream.write_all(&bytes).await.unwrap();
                stream.close().await.unwrap();
                stream.read_to_end(&mut got).await.unwrap();
            })
            .await;
            poll_fn(|cx| Pin::new(&mut client).poll_close(cx)).await.unwrap();
            got
        };
        let answering = async {
            let mut stream = poll_fn(|cx| {
                let _ = Pin::new(&mut server).poll(cx);
                Pin::new(&mut server).poll_inbound(cx)
            })
            .await
            .unwrap();
            turns(&mut server, async {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.unwrap();
                stream.write_all(&got).await.unwrap();
                stream.close().await.unwrap();
            })
            .await;
            // Until the other side is gone.
            poll_fn(|cx| Pin::new(&mut server).poll(cx)).await.unwrap_err();
        };
        let both = async { tokio::join!(asking, answering) };
        let (got, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        assert!(got == bytes);
    }

    #[tokio::test]
    async fn a_connection_that_cannot_be_closed_in_order_is_cut() {
        let (ours, theirs) = connected().await;
        let mut client = Mux(yamux::Config::default()).upgrade_outbound(ours, NAME).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..200 {
            streams.push(poll_fn(|cx| Pin::new(&mut client).poll_outbound(cx)).await.unwrap());
        }
        // More than the systems of both ends take, and nobody reads: as on a path that leads nowhere any more.
        let bytes = vec![0; 256 << 10];
        let writing = streams.iter_mut().map(|stream| stream.write_all(&bytes));
        let stuck = turns(&mut client, future::join_all(writing));
        assert!(tokio::time::timeout(Duration::from_millis(300), stuck).await.is_err());
        let closing = poll_fn(|cx| Pin::new(&mut client).poll_close(cx));
        tokio::time::timeout(CLOSE_PATIENCE * 10, closing).await.unwrap().unwrap();
        drop(theirs);
    }

    #[tokio::test]
    async fn streams_that_nobody_takes_are_bounded() {
        let (mut ours, theirs) = connected().await;
        let mut server = Mux(yamux::Config::default()).upgrade_inbound(theirs, NAME).await.unwrap();
        for number in 0..400u32 {
            // Version, window update, a new stream, its number, no credit beyond the usual.
            let frame = [&[0, 1, 0, 1][..], &(2 * number + 1).to_be_bytes(), &[0; 4]].concat();
            ours.write_all(&frame).await.unwrap();
        }
        ours.close().await.unwrap();
        poll_fn(|cx| Pin::new(&mut server).poll(cx)).await.unwrap_err();
        let mut taken = 0;
        while let Poll::Ready(Ok(_)) = poll_fn(|cx| Poll::Ready(Pin::new(&mut server).poll_inbound(cx))).await {
            taken += 1;
        }
        assert_eq!(taken, MAX_INBOUND);
    }
}
