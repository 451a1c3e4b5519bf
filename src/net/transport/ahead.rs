//! Reads as much as the socket has, for a reader that asks for little at a time, and waits for whole records of TLS.
//!
//! Otherwise every packet of 1.4 KiB on a slow link would wake the connection's task. That is eleven times for a record
//! of 16 KiB, of which nothing can be used before it is whole.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::{AsyncRead, AsyncWrite};

use super::pace::Pace;
use super::records::Records;
use super::socket::Wait;

/// Buffer of a connection on which little happens, in bytes: there may be thousands.
const SMALL: usize = 8 << 10;
/// Buffer of a busy connection, in bytes.
const LARGE: usize = 256 << 10;

/// Reads in a row that would have fitted the small buffer, after which a larger one shrinks.
const SMALL_READS: u32 = 64;

/// A stream with a read buffer that grows while it is filled and shrinks when it is not.
#[derive(Debug)]
pub(in crate::net) struct Ahead<T> {
    io: T,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    small_reads: u32,
    records: Records,
    /// Bytes that the socket was told to wait for.
    waits_for: usize,
    /// How much may wait to be written, and how much the socket was told to take in of it.
    pace: Pace,
    keeps: usize,
}

impl<T> Ahead<T> {
    pub(super) fn new(io: T) -> Self {
        let (records, pace) = (Records::default(), Pace::default());
        Self { io, buffer: Vec::new(), begin: 0, end: 0, small_reads: 0, records, waits_for: 1, pace, keeps: 0 }
    }

    /// Makes the buffer fit what came last.
    fn adapt(&mut self) {
        let length = self.buffer.len();
        self.small_reads = if self.end <= SMALL { self.small_reads.saturating_add(1) } else { 0 };
        if self.end == length && length < LARGE {
            self.buffer = vec![0; (length * 2).max(SMALL)];
        } else if self.small_reads >= SMALL_READS && length > SMALL {
            self.buffer = vec![0; SMALL];
        }
        (self.begin, self.end) = (0, 0);
    }
}

impl<T: Wait> Ahead<T> {
    /// Something new is in the buffer: waits for the rest of the last record.
    fn wait(&mut self) {
        self.records.advance(&self.buffer[..self.end]);
        let missing = self.records.missing();
        if missing != self.waits_for {
            self.io.wait_for(missing);
            self.waits_for = missing;
        }
    }
}

impl<T: AsyncRead + Wait + Unpin> AsyncRead for Ahead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.begin == this.end {
            this.adapt();
            this.end = ready!(Pin::new(&mut this.io).poll_read(cx, &mut this.buffer))?;
            this.wait();
        }
        let count = out.len().min(this.end - this.begin);
        out[..count].copy_from_slice(&this.buffer[this.begin..this.begin + count]);
        this.begin += count;
        Poll::Ready(Ok(count))
    }
}

impl<T: Wait> Ahead<T> {
    /// Tells the pace what became of a write, and the socket what it may take in.
    fn on_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(count)) => self.pace.on_taken(*count, Instant::now),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.pace.on_full(Instant::now),
        }
        let keeps = (self.pace.limit() / 2).next_power_of_two();
        if keeps != self.keeps {
            self.io.keep_unsent(keeps);
            self.keeps = keeps;
        }
        written
    }
}

impl<T: AsyncWrite + Wait + Unpin> AsyncWrite for Ahead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.on_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.on_write(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::AsyncReadExt;
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    impl<T> Wait for Cursor<T> {
        fn wait_for(&self, _: usize) {}

        fn keep_unsent(&self, _: usize) {}
    }

    /// Brings one piece at each read, and remembers what it was told to wait for.
    #[derive(Default)]
    struct Pieces {
        pieces: std::collections::VecDeque<Vec<u8>>,
        waits: std::sync::Mutex<Vec<usize>>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
            let piece = self.pieces.pop_front().unwrap_or_default();
            out[..piece.len()].copy_from_slice(&piece);
            Poll::Ready(Ok(piece.len()))
        }
    }

    impl Wait for Pieces {
        fn wait_for(&self, bytes: usize) {
            self.waits.lock().unwrap().push(bytes);
        }

        fn keep_unsent(&self, _: usize) {}
    }

    #[test]
    fn the_rest_of_a_record_is_waited_for_and_told_only_when_it_changes() {
        let greeting = b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n".to_vec();
        let record = |length: u16| [&[23, 3, 3], &length.to_be_bytes()[..], &vec![0; length.into()]].concat();
        let (long, short) = (record(5000), record(10));
        let pieces = [greeting, long[..1000].to_vec(), long[1000..].to_vec(), short.clone(), short];
        let mut ahead = Ahead::new(Pieces { pieces: pieces.into(), ..Pieces::default() });
        let mut bytes = Vec::new();
        block_on(ahead.read_to_end(&mut bytes)).unwrap();
        assert_eq!(*ahead.io.waits.lock().unwrap(), [4005, 1]);
    }

    #[test]
    fn bytes_come_through_in_order_whatever_the_sizes() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|number| ((number * 7) >> 3) as u8).collect();
        for step in [1, 5, 4096, 300_000] {
            let mut ahead = Ahead::new(Cursor::new(bytes.clone()));
            let (mut got, mut piece) = (Vec::new(), vec![0; step]);
            loop {
                match block_on(ahead.read(&mut piece)).unwrap() {
                    0 => break,
                    count => got.extend_from_slice(&piece[..count]),
                }
            }
            assert!(got == bytes, "{step}");
        }
    }

    #[test]
    fn the_buffer_grows_to_its_bound_and_shrinks_again() {
        let mut ahead = Ahead::new(Cursor::new(vec![7; 4 << 20]));
        let mut piece = [0; 4096];
        let mut largest = 0;
        while block_on(ahead.read(&mut piece)).unwrap() > 0 {
            largest = largest.max(ahead.buffer.len());
        }
        assert_eq!(largest, LARGE);
        for reads in [SMALL_READS / 2, SMALL_READS] {
            assert_eq!(ahead.buffer.len(), LARGE, "a few small reads change nothing");
            for _ in 0..reads {
                ahead.io = Cursor::new(vec![7; 100]);
                block_on(ahead.read(&mut piece)).unwrap();
            }
        }
        assert_eq!(ahead.buffer.len(), SMALL);
    }
}
