//! Frames of the index, mirror and fetch protocols on a substream.
//!
//! A message that breaks its limits or its form is handed on as an error value instead of an I/O
//! error, so that its sender gets a refusal that says why. Declared lengths are checked before
//! anything is allocated, and buffers grow with the bytes that arrive.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::codec::{self, DecodeError};
use swarmdex_protocols::fetch::{self, Header};
use swarmdex_protocols::limits::{
    MAX_FETCH_BODY, MAX_FETCH_HEADER, MAX_FETCH_REQUEST, MAX_INDEX_MESSAGE, MAX_MIRROR_MESSAGE,
};
use swarmdex_protocols::{index, mirror};

use crate::buffers::Buffers;

/// What arrived: a message, or why the bytes are none.
pub(in crate::net) type Received<T> = Result<T, DecodeError>;

/// Frames of a protocol whose requests and responses are one message each, of at most `MAX` bytes.
pub(in crate::net) struct MessageCodec<Request, Response, const MAX: usize>(PhantomData<fn() -> (Request, Response)>);

/// Frames of the index protocol.
pub(in crate::net) type IndexCodec = MessageCodec<index::IndexRequest, index::IndexResponse, MAX_INDEX_MESSAGE>;
/// Frames of the mirror protocol.
pub(in crate::net) type MirrorCodec = MessageCodec<mirror::MirrorRequest, mirror::MirrorResponse, MAX_MIRROR_MESSAGE>;

impl<Request, Response, const MAX: usize> Default for MessageCodec<Request, Response, MAX> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Request, Response, const MAX: usize> Clone for MessageCodec<Request, Response, MAX> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

impl<Request, Response, const MAX: usize> Codec for MessageCodec<Request, Response, MAX>
where
    Request: Serialize + DeserializeOwned + Send + Sync + 'static,
    Response: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Protocol = StreamProtocol;
    type Request = Received<Request>;
    type Response = Received<Response>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io, MAX).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io, MAX).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Self::Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &request.map_err(io::Error::other)?, MAX).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Self::Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &response.map_err(io::Error::other)?, MAX).await
    }
}

/// Told that a chunk of a content begins to arrive; what it returns is told that all of it is here, or dropped if it does not come.
pub(in crate::net) type OnArrival = Arc<dyn Fn(&ContentId, u64) -> Option<Arrived> + Send + Sync>;
/// Told that all of a chunk is here.
pub(in crate::net) type Arrived = Box<dyn FnOnce() + Send>;

/// Frames of the fetch protocol; bodies are read into, and written from, buffers that are used again.
#[derive(Clone)]
pub(in crate::net) struct FetchCodec {
    buffers: Buffers,
    /// Bytes of files that came, those of answers that broke off included.
    received: Arc<AtomicU64>,
    /// What learns of chunks that begin to arrive.
    on_arrival: OnArrival,
    /// What the request asked for whose answer is read next, if any of several chunks: each request has a clone of its own.
    asked: Option<fetch::AnyOf>,
}

impl Codec for FetchCodec {
    type Protocol = StreamProtocol;
    type Request = Received<fetch::FetchRequest>;
    type Response = Received<fetch::FetchResponse>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io, MAX_FETCH_REQUEST).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Self::Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        let header: Header = match read_message(io, MAX_FETCH_HEADER).await? {
            Ok(header) => header,
            Err(error) => return Ok(Err(error)),
        };
        let bytes = header.body_bytes() as usize;
        if bytes > MAX_FETCH_BODY {
            return Ok(Err(DecodeError::TooLarge { actual: bytes as u64, limit: MAX_FETCH_BODY }));
        }
        let arrived = self.arriving(&header);
        // This node asked for it: what a window allows may be set aside at once.
        let mut body = self.buffers.take(bytes);
        if let Err(error) = self.read_body(io, &mut body).await {
            self.buffers.give(body);
            return truncated(error);
        }
        let response = expect_end(io).await?.map(|()| fetch::FetchResponse { header, body });
        if let Some(arrived) = arrived.filter(|_| response.is_ok()) {
            arrived();
        }
        Ok(response)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Self::Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let request = request.map_err(io::Error::other)?;
        write_message(io, &request, MAX_FETCH_REQUEST).await?;
        self.asked = if let fetch::FetchRequest::Any(any) = request { Some(any) } else { None };
        Ok(())
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Self::Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let fetch::FetchResponse { header, body } = response.map_err(io::Error::other)?;
        write_message(io, &header, MAX_FETCH_HEADER).await?;
        let written = io.write_all(&body).await;
        self.buffers.give(body);
        written
    }
}

impl FetchCodec {
    pub(in crate::net) fn new(buffers: Buffers, received: Arc<AtomicU64>, on_arrival: OnArrival) -> Self {
        Self { buffers, received, on_arrival, asked: None }
    }

    /// One of a crowd asked for any of several chunks of somebody who has everything, and one of them begins to arrive:
    /// nobody else is likely to have it yet.
    fn arriving(&mut self, header: &Header) -> Option<Arrived> {
        let any = self.asked.take()?;
        let index = match header {
            Header::Chunks { .. } => any.first,
            Header::Instead { first, .. } if any.choices().any(|index| index == *first) => *first,
            _ => return None,
        };
        (self.on_arrival)(&any.content, index)
    }

    /// Fills `body`, and counts what comes.
    async fn read_body<T>(&self, io: &mut T, body: &mut [u8]) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut rest = body;
        while !rest.is_empty() {
            let count = io.read(rest).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.fetch_add(count as u64, Ordering::Relaxed);
            rest = &mut rest[count..];
        }
        Ok(())
    }
}

/// Reads a message behind its length of 4 bytes.
pub(in crate::net) async fn read_message<T, M>(io: &mut T, max: usize) -> io::Result<Received<M>>
where
    T: AsyncRead + Unpin + Send,
    M: DeserializeOwned,
{
    let mut prefix = [0; 4];
    if let Err(error) = io.read_exact(&mut prefix).await {
        return truncated(error);
    }
    let length = u32::from_be_bytes(prefix) as usize;
    if length > max {
        return Ok(Err(DecodeError::TooLarge { actual: length as u64, limit: max }));
    }
    Ok(read_bytes(io, length).await?.and_then(|bytes| codec::decode(&bytes, max)))
}

/// Reads exactly `length` bytes; memory grows with what arrives.
async fn read_bytes<T>(io: &mut T, length: usize) -> io::Result<Received<Vec<u8>>>
where
    T: AsyncRead + Unpin + Send,
{
    /// First allocation, in bytes: a stranger gets no more for merely declaring a length.
    const FIRST: usize = 64 << 10;
    let mut bytes = Vec::with_capacity(length.min(FIRST));
    while bytes.len() < length {
        let begin = bytes.len();
        let step = (length - begin).min(begin.max(FIRST));
        bytes.resize(begin + step, 0);
        if let Err(error) = io.read_exact(&mut bytes[begin..]).await {
            return truncated(error);
        }
    }
    Ok(Ok(bytes))
}

/// A sender that goes on after its message is not speaking this protocol.
async fn expect_end<T>(io: &mut T) -> io::Result<Received<()>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut byte = [0; 1];
    Ok(if io.read(&mut byte).await? == 0 { Ok(()) } else { Err(DecodeError::TrailingBytes) })
}

fn truncated<M>(error: io::Error) -> io::Result<Received<M>> {
    if error.kind() == io::ErrorKind::UnexpectedEof { Ok(Err(DecodeError::Truncated)) } else { Err(error) }
}

async fn write_message<T, M>(io: &mut T, message: &M, max: usize) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
    M: Serialize + Sync,
{
    let bytes = codec::encode(message, max).map_err(io::Error::other)?;
    // Below `max`, which is far below 4 GiB.
    io.write_all(&(bytes.len() as u32).to_be_bytes()).await?;
    io.write_all(&bytes).await
}

/// Writes a small message in one piece, and sees it off.
pub(in crate::net) async fn send_message<T, M>(io: &mut T, message: &M, max: usize) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
    M: Serialize + Sync,
{
    let bytes = codec::encode(message, max).map_err(io::Error::other)?;
    io.write_all(&[&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use super::super::{FetchProtocol, IndexProtocol, Protocol};
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    fn response(body: &[u8]) -> fetch::FetchResponse {
        let header = Header::Chunks { bytes: body.len() as u32, proofs: Vec::new(), have: Vec::new() };
        fetch::FetchResponse { header, body: body.to_vec() }
    }

    fn codec() -> FetchCodec {
        FetchCodec::new(Buffers::new(4), Arc::default(), Arc::new(|_, _| None))
    }

    fn written(response: fetch::FetchResponse) -> Vec<u8> {
        let mut io = Cursor::new(Vec::new());
        block_on(codec().write_response(&FetchProtocol::ID, &mut io, Ok(response))).unwrap();
        io.into_inner()
    }

    fn read(bytes: &[u8]) -> Received<fetch::FetchResponse> {
        block_on(codec().read_response(&FetchProtocol::ID, &mut Cursor::new(bytes))).unwrap()
    }

    #[test]
    fn a_response_survives_the_wire() {
        let body = vec![7; 300_000];
        assert_eq!(read(&written(response(&body))), Ok(response(&body)));
    }

    #[test]
    fn a_response_cut_anywhere_is_truncated() {
        let bytes = written(response(&[1; 50]));
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Err(DecodeError::Truncated), "cut at {end}");
        }
    }

    #[test]
    fn longer_than_asked_is_refused() {
        let mut bytes = written(response(&[1; 50]));
        bytes.push(0);
        assert_eq!(read(&bytes), Err(DecodeError::TrailingBytes));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_before_it_is_read() {
        let header = Header::Chunks { bytes: MAX_FETCH_BODY as u32 + 1, proofs: Vec::new(), have: Vec::new() };
        let bytes = written(fetch::FetchResponse { header, body: Vec::new() });
        assert!(matches!(read(&bytes), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        let request =
            block_on(IndexCodec::default().read_request(&IndexProtocol::ID, &mut Cursor::new([0xff; 4]))).unwrap();
        assert!(matches!(request, Err(DecodeError::TooLarge { actual: 0xffff_ffff, .. })));
    }

    #[test]
    fn a_request_survives_the_wire() {
        let request =
            fetch::FetchRequest::Chunks(fetch::ChunkRun { content: ContentId::of(b"x"), first: 3, count: 4 }.into());
        let mut io = Cursor::new(Vec::new());
        block_on(codec().write_request(&FetchProtocol::ID, &mut io, Ok(request.clone()))).unwrap();
        let bytes = io.into_inner();
        let got = block_on(codec().read_request(&FetchProtocol::ID, &mut Cursor::new(bytes))).unwrap();
        assert_eq!(got, Ok(request));
    }

    #[test]
    fn a_chunk_that_begins_to_arrive_is_told_of_and_so_is_its_end() {
        let (begun, came) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (told, end) = (begun.clone(), came.clone());
        let on_arrival: OnArrival = Arc::new(move |_, index| {
            told.fetch_add(index, Ordering::Relaxed);
            let end = end.clone();
            let came = move || {
                end.fetch_add(index, Ordering::Relaxed);
            };
            Some(Box::new(came) as Arrived)
        });
        let asked = fetch::FetchRequest::Any(fetch::AnyOf::new(ContentId::of(b"x"), 3, [5]));
        let answer = |header: Header| written(fetch::FetchResponse { header, body: vec![1; 50] });
        let exchange = |request: &fetch::FetchRequest, bytes: &[u8]| {
            let mut codec = FetchCodec::new(Buffers::new(4), Arc::default(), on_arrival.clone());
            let mut io = Cursor::new(Vec::new());
            block_on(codec.write_request(&FetchProtocol::ID, &mut io, Ok(request.clone()))).unwrap();
            let _ = block_on(codec.read_response(&FetchProtocol::ID, &mut Cursor::new(bytes))).unwrap();
            [begun.swap(0, Ordering::Relaxed), came.swap(0, Ordering::Relaxed)]
        };
        let chunks = answer(Header::Chunks { bytes: 50, proofs: Vec::new(), have: Vec::new() });
        assert_eq!(exchange(&asked, &chunks), [3, 3]);
        assert_eq!(exchange(&asked, &chunks[..chunks.len() - 1]), [3, 0], "it does not come");
        let other = answer(Header::Instead { first: 5, bytes: 50, proof: Default::default() });
        assert_eq!(exchange(&asked, &other), [5, 5]);
        let wrong = answer(Header::Instead { first: 6, bytes: 50, proof: Default::default() });
        assert_eq!(exchange(&asked, &wrong), [0, 0], "nobody asked for it");
        let run =
            fetch::FetchRequest::Chunks(fetch::ChunkRun { content: ContentId::of(b"x"), first: 3, count: 1 }.into());
        assert_eq!(exchange(&run, &chunks), [0, 0], "no crowd");
    }
}
