//! Reading a content from any place on, as it comes: verified chunks, from what is here or from the network.

use std::fmt;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::content::Geometry;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use crate::state::fetch::ReadAhead;

/// Where a reader gets its chunks.
pub(super) trait Load: Send + Sync {
    /// The bytes of chunk `index`, verified. The others of `wanted` are read next.
    fn load(self: Arc<Self>, index: u64, wanted: Range<u64>) -> BoxFuture<'static, io::Result<Vec<u8>>>;

    /// Most chunks that a reader may ask for at a time.
    fn most(&self) -> u64;

    /// Takes back bytes that are not used any more.
    fn give(&self, bytes: Vec<u8>);
}

/// A content that is read while it comes.
///
/// It reads what is here (a share, a downloaded file, a download under way) and fetches the rest: as much as is read, and some
/// more. Ahead of the first read or of a jump that is nothing. Then it is twice as much with each chunk, up to 8 MiB. Every byte
/// was verified against the content id. The reader keeps one chunk in memory, of 256 KiB to 1 MiB. All readers of a content
/// share up to 64 MiB on disk, in a file without a name in the data directory. If a holder goes away it goes on with another.
///
/// What it reads stays the content that the name stood for when it was opened, whatever the name stands for later. It is read on the
/// Tokio runtime of its node, and counts as a handle of the node.
///
/// # Errors
/// Errors of [`crate::Error`] come as [`io::Error`], which holds an `Arc<Error>` and says the same sentence. It is
/// [`io::ErrorKind::NotFound`] if nobody has the content any more, and [`io::ErrorKind::HostUnreachable`] if no holder answers.
/// It is [`io::ErrorKind::InvalidData`] if all that came was something else, and [`io::ErrorKind::Other`] for the rest. Errors of this
/// node's own disk come as the system gave them. Another read tries again. A read waits for holders that went away while something came,
/// as a download does: a little longer than a lease.
///
/// # Cancel safety
/// Reading is cancel safe: what a dropped read had asked for is still fetched, and the next one gets it. Dropping the reader ends the
/// fetch unless somebody else wants the content.
pub struct Reader {
    content: ContentId,
    geometry: Geometry,
    chunks: Arc<dyn Load>,
    position: u64,
    ahead: ReadAhead,
    /// The chunk that was read last.
    current: Option<(u64, Vec<u8>)>,
    /// The chunk that is read next.
    loading: Option<(u64, BoxFuture<'static, io::Result<Vec<u8>>>)>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (content, position) = (&self.content, &self.position);
        f.debug_struct("Reader").field("content", content).field("position", position).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(content: ContentId, geometry: Geometry, chunks: Arc<dyn Load>) -> Self {
        let ahead = ReadAhead::default();
        Self { content, geometry, chunks, position: 0, ahead, current: None, loading: None }
    }

    /// The size of the content in bytes.
    pub fn len(&self) -> u64 {
        self.geometry.size()
    }

    /// Whether the content has no bytes.
    pub fn is_empty(&self) -> bool {
        self.geometry.is_empty()
    }

    /// What is read.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// The place of the next byte, in bytes from the begin. It may be beyond the end.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits until chunk `index` is the current one.
    fn poll_chunk(&mut self, index: u64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.current.as_ref().is_some_and(|(current, _)| *current == index) {
            return Poll::Ready(Ok(()));
        }
        // What is not needed any more after a jump is given up.
        drop(self.loading.take_if(|(loading, _)| *loading != index));
        let (_, loading) = match &mut self.loading {
            Some(loading) => loading,
            None => {
                let wanted = self.ahead.at(index, self.chunks.most());
                let wanted = wanted.start..wanted.end.min(self.geometry.chunks());
                self.loading.insert((index, self.chunks.clone().load(index, wanted)))
            }
        };
        let loaded = ready!(loading.as_mut().poll(cx));
        self.loading = None;
        if let Some((_, before)) = self.current.replace((index, loaded?)) {
            self.chunks.give(before);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let reader = self.get_mut();
        if reader.position >= reader.len() || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let index = reader.position / reader.geometry.chunk_bytes();
        ready!(reader.poll_chunk(index, cx))?;
        let begin = usize::try_from(reader.position - reader.geometry.offset(index)).unwrap_or(usize::MAX);
        let rest = reader.current.as_ref().and_then(|(_, bytes)| bytes.get(begin..)).unwrap_or_default();
        let piece = rest.get(..rest.len().min(buffer.remaining())).unwrap_or_default();
        if piece.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buffer.put_slice(piece);
        reader.position += piece.len() as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Reader {
    /// Moves at once; what the place needs is fetched by the next read.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a place before the begin. One beyond the end is none: there is nothing to read there.
    fn start_seek(self: Pin<&mut Self>, place: SeekFrom) -> io::Result<()> {
        let reader = self.get_mut();
        let moved = match place {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => reader.position.checked_add_signed(by),
            SeekFrom::End(by) => reader.len().checked_add_signed(by),
        };
        reader.position = moved.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((_, bytes)) = self.current.take() {
            self.chunks.give(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncSeekExt};

    use super::*;

    const CHUNK: usize = 256 << 10;

    /// Bytes in memory, each chunk late by a turn; and which were asked for.
    struct Memory {
        bytes: Vec<u8>,
        geometry: Geometry,
        asked: Mutex<Vec<Range<u64>>>,
        fails: Mutex<bool>,
    }

    impl Load for Memory {
        fn load(self: Arc<Self>, index: u64, wanted: Range<u64>) -> BoxFuture<'static, io::Result<Vec<u8>>> {
            assert!(wanted.contains(&index) && wanted.end <= self.geometry.chunks());
            self.asked.lock().unwrap().push(wanted);
            Box::pin(async move {
                tokio::task::yield_now().await;
                if std::mem::take(&mut *self.fails.lock().unwrap()) {
                    return Err(io::ErrorKind::HostUnreachable.into());
                }
                let begin = self.geometry.offset(index) as usize;
                Ok(self.bytes[begin..begin + self.geometry.len(index) as usize].to_vec())
            })
        }

        fn most(&self) -> u64 {
            4
        }

        fn give(&self, _: Vec<u8>) {}
    }

    fn reader(size: usize) -> (Reader, Arc<Memory>) {
        let bytes: Vec<u8> = (0..size).map(|number| (number / 100) as u8).collect();
        let (content, geometry) = (ContentId::of(&bytes), Geometry::new(size as u64).unwrap());
        let memory = Arc::new(Memory { bytes, geometry, asked: Mutex::default(), fails: Mutex::default() });
        (Reader::new(content, geometry, memory.clone()), memory)
    }

    #[tokio::test]
    async fn all_of_it_is_read_in_order_and_further_and_further_ahead() {
        let (mut reader, memory) = reader(7 * CHUNK + 5);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        assert!(all == memory.bytes && reader.position() == reader.len());
        let asked = memory.asked.lock().unwrap().clone();
        assert_eq!(asked, [0..1, 1..3, 2..6, 3..7, 4..8, 5..8, 6..8, 7..8]);
    }

    #[tokio::test]
    async fn a_jump_costs_one_chunk_and_places_beyond_the_ends_are_told_apart() {
        let (mut reader, memory) = reader(40 * CHUNK);
        assert_eq!(reader.seek(SeekFrom::End(-3)).await.unwrap(), 40 * CHUNK as u64 - 3);
        let mut last = Vec::new();
        reader.read_to_end(&mut last).await.unwrap();
        assert!(last == memory.bytes[40 * CHUNK - 3..]);
        assert_eq!(memory.asked.lock().unwrap().first(), Some(&(39..40)));
        assert_eq!(reader.seek(SeekFrom::Current(100)).await.unwrap(), 40 * CHUNK as u64 + 100);
        assert_eq!(reader.read(&mut [0; 10]).await.unwrap(), 0);
        let error = reader.seek(SeekFrom::End(-(41 * CHUNK as i64))).await.unwrap_err();
        assert_eq!((error.kind(), reader.position()), (io::ErrorKind::InvalidInput, 40 * CHUNK as u64 + 100));
        // What is in memory is not asked for again.
        reader.seek(SeekFrom::Start(39 * CHUNK as u64)).await.unwrap();
        reader.read_u8().await.unwrap();
        assert_eq!(memory.asked.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_read_that_fails_can_be_repeated_and_one_that_is_dropped_loses_nothing() {
        let (mut reader, memory) = reader(3 * CHUNK);
        *memory.fails.lock().unwrap() = true;
        assert_eq!(reader.read_u8().await.unwrap_err().kind(), io::ErrorKind::HostUnreachable);
        for _ in 0..20 {
            // Polled once, and dropped.
            let mut piece = [0; 10];
            let _ = futures::FutureExt::now_or_never(reader.read(&mut piece));
            let _ = futures::FutureExt::now_or_never(reader.seek(SeekFrom::Start(CHUNK as u64)));
        }
        let mut all = Vec::new();
        reader.seek(SeekFrom::Start(0)).await.unwrap();
        reader.read_to_end(&mut all).await.unwrap();
        assert!(all == memory.bytes);
    }

    #[tokio::test]
    async fn nothing_has_an_end_at_once() {
        let (mut reader, memory) = reader(0);
        assert!(reader.is_empty() && reader.read(&mut [0; 10]).await.unwrap() == 0);
        assert!(memory.asked.lock().unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]
        #[test]
        fn whatever_is_read_is_what_is_there(
            size in 1usize..3_000_000, reads in prop::collection::vec((0u64..3_100_000, 0usize..600_000), 1..20)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut reader, memory) = reader(size);
                for (place, length) in reads {
                    reader.seek(SeekFrom::Start(place)).await.unwrap();
                    let mut bytes = Vec::new();
                    (&mut reader).take(length as u64).read_to_end(&mut bytes).await.unwrap();
                    let begin = (place as usize).min(size);
                    prop_assert!(bytes == memory.bytes[begin..size.min(begin + length)]);
                }
                Ok::<_, proptest::test_runner::TestCaseError>(())
            })?;
        }
    }
}
