//! Collects small writes into large ones.
//!
//! The muxer writes headers of 12 bytes and frames of 16 KiB, and flushes after each. A flush right after a write is
//! put off: whoever polls the muxer is told, and has it flush once more when it has nothing left to write.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{AsyncRead, AsyncWrite};

use super::pace::Pace;

/// Bytes that are collected at most, and fewer where they leave slowly.
const CAPACITY: usize = 128 << 10;
/// Buffer that a connection keeps which has nothing to send, in bytes.
const KEPT: usize = 8 << 10;

/// A stream with a write buffer. A flush that is put off is pending and wakes nobody.
#[derive(Debug)]
pub(in crate::net) struct Coalesce<T> {
    io: T,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were passed on.
    begin: usize,
    /// Whether something was written since the last flush.
    fresh: bool,
    /// Bytes passed on since the buffer was last empty after a flush.
    burst: usize,
    /// Set when a flush is put off.
    put_off: Arc<AtomicBool>,
    /// How fast it is passed on.
    pace: Pace,
}

impl<T> Coalesce<T> {
    pub(super) fn new(io: T, put_off: Arc<AtomicBool>) -> Self {
        Self { io, buffer: Vec::new(), begin: 0, fresh: false, burst: 0, put_off, pace: Pace::default() }
    }
}

impl<T: AsyncWrite + Unpin> Coalesce<T> {
    /// Passes on everything.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.begin < self.buffer.len() {
            let Poll::Ready(count) = Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.begin..])? else {
                self.pace.on_full(Instant::now);
                return Poll::Pending;
            };
            match count {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.pace.on_taken(count, Instant::now);
                    self.begin += count;
                    self.burst += count;
                }
            }
        }
        self.buffer.clear();
        self.begin = 0;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Coalesce<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let capacity = this.pace.limit().min(CAPACITY);
        if this.buffer.len() >= capacity {
            ready!(this.poll_drain(cx))?;
        }
        let count = bytes.len().min(capacity - this.buffer.len());
        this.buffer.extend_from_slice(&bytes[..count]);
        this.fresh = true;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if std::mem::take(&mut this.fresh) {
            this.put_off.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        this.put_off.store(false, Ordering::Relaxed);
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.pace.on_empty();
        if std::mem::take(&mut this.burst) <= KEPT && this.buffer.capacity() > KEPT {
            this.buffer = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Coalesce<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::AsyncWriteExt;
    use futures::executor::block_on;

    use super::*;

    /// Remembers the sizes of writes.
    #[derive(Default)]
    struct Sizes {
        bytes: Vec<u8>,
        sizes: Vec<usize>,
    }

    impl AsyncWrite for Sizes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.bytes.extend_from_slice(bytes);
            self.sizes.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Flushes as the muxer's owner does: once more if it is put off.
    async fn flush(stream: &mut Coalesce<Sizes>) {
        poll_fn(|cx| match Pin::new(&mut *stream).poll_flush(cx) {
            Poll::Pending => {
                assert!(stream.put_off.load(Ordering::Relaxed));
                Pin::new(&mut *stream).poll_flush(cx)
            }
            ready => ready,
        })
        .await
        .unwrap();
        assert!(!stream.put_off.load(Ordering::Relaxed));
    }

    #[test]
    fn frames_that_are_flushed_one_by_one_leave_together() {
        let mut stream = Coalesce::new(Sizes::default(), Arc::default());
        block_on(async {
            for number in 0..20u8 {
                stream.write_all(&[number; 16]).await.unwrap();
                stream.write_all(&vec![number; 16 << 10]).await.unwrap();
                // As the muxer does: it polls, and goes on whatever the answer.
                poll_fn(|cx| {
                    let _ = Pin::new(&mut stream).poll_flush(cx);
                    Poll::Ready(())
                })
                .await;
            }
            flush(&mut stream).await;
        });
        let expected: Vec<u8> = (0..20u8).flat_map(|number| vec![number; 16 + (16 << 10)]).collect();
        assert!(stream.io.bytes == expected);
        assert!(stream.io.sizes.len() <= 6, "{:?}", stream.io.sizes);
    }

    #[test]
    fn little_is_sent_by_a_flush_and_nothing_is_lost_by_closing() {
        let mut stream = Coalesce::new(Sizes::default(), Arc::default());
        block_on(async {
            stream.write_all(b"hello").await.unwrap();
            assert!(stream.io.bytes.is_empty());
            flush(&mut stream).await;
            assert_eq!(stream.io.bytes, b"hello");
            stream.write_all(b" world").await.unwrap();
            stream.close().await.unwrap();
        });
        assert_eq!(stream.io.bytes, b"hello world");
    }
}
