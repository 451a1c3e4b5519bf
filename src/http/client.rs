//! The client of the control interface: the methods of the handle, over the socket of a running node.

use std::io;
use std::path::{Path, PathBuf};

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
    EntryInfo, Error, ErrorKind, GetOptions, GetRequest, LookupInfo, PeerInfo, Progress, RevokedInfo, RootInfo,
    SearchInfo, SharedInfo, Status, UnsharedInfo,
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

/// A long operation of another process's node. Dropping it cancels the operation.
#[derive(Debug)]
pub struct Call {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of it among which there is no end of a line.
    searched: usize,
}

/// A list, or as much of it as was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// What was sent.
    pub entries: Vec<T>,
    /// Whether there are more, or may be.
    pub more: bool,
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

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let response = self.send(Method::GET, path, Vec::new()).await?;
        serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<Response<Incoming>, Error> {
        self.send(Method::POST, path, serde_json::to_vec(body).map_err(|_| Error::NotText)?).await
    }

    async fn call(&self, path: &str, body: &impl Serialize) -> Result<Call, Error> {
        let response = self.post(path, body).await?;
        Ok(Call { body: response.into_body(), buffer: Vec::new(), searched: 0 })
    }

    /// See [`crate::Node::status`].
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/v1/status").await
    }

    /// At most `limit` of a list. A build from before does not say whether there are more: with `full` entries there may be.
    async fn list<T: DeserializeOwned>(&self, path: &str, limit: usize, full: usize) -> Result<Listed<T>, Error> {
        let response = self.send(Method::GET, path, Vec::new()).await?;
        let said = response.headers().get(MORE).map(|more| more == "true");
        let mut entries: Vec<T> = serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)?;
        let more = said.unwrap_or(entries.len() >= full);
        entries.truncate(limit);
        Ok(Listed { entries, more })
    }

    /// See [`crate::Node::peers`].
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        self.get("/v1/peers").await
    }

    /// At most `limit` members.
    pub async fn some_peers(&self, limit: usize) -> Result<Listed<PeerInfo>, Error> {
        self.list(&format!("/v1/peers?limit={limit}"), limit, limit.saturating_add(1)).await
    }

    /// See [`crate::Node::shared`].
    pub async fn shared(&self) -> Result<Vec<SharedInfo>, Error> {
        self.get("/v1/shared").await
    }

    /// At most `limit` of the names that are shared.
    pub async fn some_shared(&self, limit: usize) -> Result<Listed<SharedInfo>, Error> {
        self.list(&format!("/v1/shared?limit={limit}"), limit, limit.saturating_add(1)).await
    }

    /// See [`crate::Node::lookup`].
    pub async fn lookup(&self, name: &str) -> Result<LookupInfo, Error> {
        self.get(&format!("/v1/lookup?name={}", escape(name))).await
    }

    /// See [`crate::Node::search`].
    pub async fn search(&self, query: &str, limit: usize) -> Result<Vec<EntryInfo>, Error> {
        self.get(&format!("/v1/search?query={}&limit={limit}", escape(query))).await
    }

    /// See [`crate::Node::matching`].
    pub async fn matching(&self, query: &str, limit: usize) -> Result<SearchInfo, Error> {
        let path = format!("/v1/search?query={}&limit={limit}", escape(query));
        let most = limit.min(MAX_RESULTS);
        let Listed { entries, more } = self.list(&path, most, most).await?;
        Ok(SearchInfo { entries, more })
    }

    /// See [`crate::Node::revoke`].
    pub async fn revoke(&self, names: Vec<String>) -> Result<Vec<RevokedInfo>, Error> {
        let response = self.post("/v1/revoke", &RevokeBody { names }).await?;
        serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)
    }

    /// See [`crate::Node::share`]; follow it with [`Call::follow`].
    pub async fn share(&self, paths: Vec<PathBuf>, name: Option<String>) -> Result<Call, Error> {
        self.share_with(paths, name, ShareOptions::default()).await
    }

    /// See [`crate::Node::share_with`]; follow it with [`Call::follow`].
    pub async fn share_with(
        &self,
        paths: Vec<PathBuf>,
        name: Option<String>,
        options: ShareOptions,
    ) -> Result<Call, Error> {
        let ShareOptions { selection, rehash } = options;
        self.call("/v1/share", &ShareBody { paths, name, selection, rehash }).await
    }

    /// See [`crate::Node::roots`].
    pub async fn roots(&self) -> Result<Vec<RootInfo>, Error> {
        self.get("/v1/roots").await
    }

    /// See [`crate::Node::unshare`].
    pub async fn unshare(&self, paths: Vec<PathBuf>) -> Result<Vec<UnsharedInfo>, Error> {
        let response = self.post("/v1/unshare", &UnshareBody { paths }).await?;
        serde_json::from_slice(&collect(response.into_body()).await?).map_err(broken)
    }

    /// See [`crate::Node::get`]; follow it with [`Call::follow`].
    pub async fn fetch(&self, request: &GetRequest) -> Result<Call, Error> {
        self.fetch_with(request, &GetOptions::default()).await
    }

    /// See [`crate::Node::get_with`]; follow it with [`Call::follow`].
    pub async fn fetch_with(&self, request: &GetRequest, options: &GetOptions) -> Result<Call, Error> {
        self.call("/v1/get", &GetBody { request: request.clone(), options: options.clone() }).await
    }
}

impl Call {
    /// Waits for the end, telling progress meanwhile.
    pub async fn follow<T: Parts + DeserializeOwned>(
        &mut self,
        mut progress: impl FnMut(Progress),
    ) -> Result<T, Error> {
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
