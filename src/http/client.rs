//! The client of the control interface: what the handle can be asked, over the socket of a running node.

use std::io;
use std::path::{Path, PathBuf};

use futures::{FutureExt, TryFutureExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::routes::{MAX_RESULTS, MORE};
use super::types::{ErrorBody, GetBody, Line, Parts, RevokeBody, ShareBody, UnshareBody};
use crate::config::ShareOptions;
use crate::node::{
    Api, Error, ErrorKind, GetOptions, GetReport, GetRequest, Listed, LookupInfo, Operation, PeerInfo, Progress, Reply,
    RevokedInfo, RootInfo, SearchInfo, ShareReport, SharedInfo, Status, UnsharedInfo,
};
use crate::storage::dir::socket_path;

/// Longest answer that is read as a whole, in bytes: 1,000,000 entries with long names.
const MAX_ANSWER: usize = 2 << 30;
/// Longest line of the answer to a long operation, in bytes: 100,000 entries with long names, as builds before sent them
/// in one.
const MAX_LINE: usize = 256 << 20;

/// Speaks to the node that runs in a data directory.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// The answer to a long operation, as it comes. Dropping it cancels the operation.
#[derive(Debug)]
struct Call {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of it among which there is no end of a line.
    searched: usize,
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, Error> {
    // Nothing else of a body has no form in JSON.
    serde_json::to_vec(body).map_err(|_| Error::NotText)
}

fn broken(error: impl std::fmt::Display) -> Error {
    let message = format!("the running node does not answer as it should: {error}");
    Error::Remote { kind: ErrorKind::Other, message }
}

impl Client {
    /// The client of the node in `data_dir`; `None` if none runs there.
    pub async fn find(data_dir: &Path) -> Result<Option<Self>, Error> {
        let socket = socket_path(data_dir);
        match UnixStream::connect(&socket).await {
            Ok(_) => Ok(Some(Self { socket })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            // Not even a data directory.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => {
                let message = format!("cannot speak to the node at {}: {error}", socket.display());
                Err(Error::Remote { kind: ErrorKind::Storage, message })
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, Error> {
        let gone = |error: io::Error| Error::Remote {
            kind: ErrorKind::Unreachable,
            message: format!("the node at {} is gone: {error}", self.socket.display()),
        };
        tracing::debug!(socket = %self.socket.display(), %method, path, "asks the running node");
        let stream = UnixStream::connect(&self.socket).await.map_err(gone)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        crate::tasks::spawn("control connection", connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(response.into_body()).await?;
        Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(ErrorBody { kind, message }) => Error::Remote { kind, message },
            Err(_) => broken(format!("{status} {}", String::from_utf8_lossy(&bytes).escape_debug())),
        })
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.send(Method::GET, path, Vec::new()).await?;
        serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)
    }

    async fn tell<T: DeserializeOwned>(&self, path: &str, body: impl Serialize) -> Result<T, Error> {
        let response = self.send(Method::POST, path, encode(&body)?).await?;
        serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)
    }

    /// A long operation, which is cancelled by letting go of the connection.
    fn call<T: Parts + DeserializeOwned + Send + 'static>(
        &self,
        path: &'static str,
        body: &impl Serialize,
    ) -> Operation<T> {
        let (client, body) = (self.clone(), encode(body));
        Operation::elsewhere("call", |progress| async move {
            let response = client.send(Method::POST, path, body?).await?;
            let call = Call { body: response.into_body(), buffer: Vec::new(), searched: 0 };
            call.follow(|now| drop(progress.send_replace(now))).await
        })
    }

    /// At most `limit` of a list. A build from before does not say whether there are more: with `full` entries there may be.
    async fn list<T: DeserializeOwned>(&self, path: String, limit: usize, full: usize) -> Result<Listed<T>, Error> {
        let response = self.send(Method::GET, &path, Vec::new()).await?;
        let said = response.headers().get(MORE).map(|more| more == "true");
        let mut entries: Vec<T> = serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)?;
        let more = said.unwrap_or(entries.len() >= full);
        entries.truncate(limit);
        Ok(Listed { entries, more })
    }
}

impl Api for Client {
    fn status(&self) -> Reply<'_, Status> {
        self.ask("/v1/status").boxed()
    }

    fn some_peers(&self, limit: usize) -> Reply<'_, Listed<PeerInfo>> {
        self.list(format!("/v1/peers?limit={limit}"), limit, limit.saturating_add(1)).boxed()
    }

    fn some_shared(&self, limit: usize) -> Reply<'_, Listed<SharedInfo>> {
        self.list(format!("/v1/shared?limit={limit}"), limit, limit.saturating_add(1)).boxed()
    }

    fn roots(&self) -> Reply<'_, Vec<RootInfo>> {
        self.ask("/v1/roots").boxed()
    }

    fn lookup<'a>(&'a self, name: &'a str) -> Reply<'a, LookupInfo> {
        async move { self.ask(&format!("/v1/lookup?name={}", escape(name))).await }.boxed()
    }

    fn matching<'a>(&'a self, query: &'a str, limit: usize) -> Reply<'a, SearchInfo> {
        let path = format!("/v1/search?query={}&limit={limit}", escape(query));
        let most = limit.min(MAX_RESULTS);
        self.list(path, most, most).map_ok(|Listed { entries, more }| SearchInfo { entries, more }).boxed()
    }

    fn revoke(&self, names: Vec<String>) -> Reply<'_, Vec<RevokedInfo>> {
        self.tell("/v1/revoke", RevokeBody { names }).boxed()
    }

    fn unshare(&self, paths: Vec<PathBuf>) -> Reply<'_, Vec<UnsharedInfo>> {
        self.tell("/v1/unshare", UnshareBody { paths }).boxed()
    }

    fn share_with(&self, paths: Vec<PathBuf>, name: Option<String>, options: ShareOptions) -> Operation<ShareReport> {
        let ShareOptions { selection, rehash } = options;
        self.call("/v1/share", &ShareBody { paths, name, selection, rehash })
    }

    fn get_with(&self, request: GetRequest, options: GetOptions) -> Operation<GetReport> {
        self.call("/v1/get", &GetBody { request, options })
    }
}

impl Call {
    /// Waits for the end, telling progress meanwhile.
    async fn follow<T: Parts + DeserializeOwned>(mut self, mut progress: impl FnMut(Progress)) -> Result<T, Error> {
        let mut whole = T::default();
        loop {
            while let Some(end) = self.buffer.iter().skip(self.searched).position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.searched + end).collect();
                self.searched = 0;
                match serde_json::from_slice::<Line<T>>(&line).map_err(broken)? {
                    Line::Progress(now) => progress(now),
                    Line::Part(part) => whole.append(part),
                    Line::Done(rest) => {
                        whole.append(rest);
                        return Ok(whole);
                    }
                    Line::Error(ErrorBody { kind, message }) => return Err(Error::Remote { kind, message }),
                }
            }
            // The last line may have a hundred thousand entries: it is searched once.
            self.searched = self.buffer.len();
            let Some(frame) = self.body.frame().await else {
                let message = "the node stopped before it was done".to_owned();
                return Err(Error::Remote { kind: ErrorKind::Other, message });
            };
            if let Ok(bytes) = frame.map_err(broken)?.into_data() {
                if self.buffer.len() + bytes.len() > MAX_LINE {
                    return Err(broken("a line of its answer has no end"));
                }
                self.buffer.extend_from_slice(&bytes);
            }
        }
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Error> {
    Limited::new(body, MAX_ANSWER).collect().await.map(|body| body.to_bytes()).map_err(broken)
}

/// A value for the query of an address: everything but letters, digits and a few signs as `%XX`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_special_is_escaped() {
        assert_eq!(escape("a b/ü&=%"), "a%20b%2F%C3%BC%26%3D%25");
    }
}
