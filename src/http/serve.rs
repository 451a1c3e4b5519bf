//! Connections of the control interface, with bounds of number, time and size.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::LengthLimitError;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::answer::{MAX_BODY, refuse};
use super::door::{Door, Ticket};
use super::types::ErrorBody;
use crate::node::ErrorKind;
use crate::tasks;

/// How long the head of a request may take, or the next one be waited for.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long the body of a request may take.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes: three for each byte of a long name.
const MAX_HEAD: usize = 64 << 10;
/// Pause after which a connection is taken in again when the system had nothing for it.
const PAUSE: Duration = Duration::from_millis(500);

/// Where connections come from.
pub(super) trait Listen: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one, and the address that it comes from.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>> + Send;

    /// Says that there is no room, if that can be done at once.
    fn turn_away(stream: Self::Stream) -> io::Result<()>;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<IpAddr>)> {
        let (stream, from) = self.accept().await?;
        Ok((stream, Some(from.ip())))
    }

    fn turn_away(stream: TcpStream) -> io::Result<()> {
        stream.into_std()?.write_all(no_room().as_bytes())
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Option<IpAddr>)> {
        Ok((self.accept().await?.0, None))
    }

    fn turn_away(stream: UnixStream) -> io::Result<()> {
        stream.into_std()?.write_all(no_room().as_bytes())
    }
}

fn no_room() -> String {
    let message = "the node serves as many connections as it may; try again when some of them are over".to_owned();
    let body = serde_json::to_string(&ErrorBody { kind: ErrorKind::Unreachable, message }).unwrap_or_default();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Serves whoever comes, for ever.
pub(super) async fn serve<L: Listen>(listener: L, door: Door, router: Router) {
    loop {
        let (stream, ip) = match listener.next().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the control interface could not be taken in");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match door.enter(ip) {
            Some(ticket) => drop(tasks::spawn("control connection", connection(stream, ticket, router.clone()))),
            // What cannot be written at once is not waited for.
            None => drop(L::turn_away(stream)),
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, ticket: Ticket, router: Router) {
    let ticket = Arc::new(ticket);
    let of_requests = ticket.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(of_requests.clone());
        TowerToHyperService::new(router.clone()).call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    tokio::select! {
        served = builder.serve_connection(TokioIo::new(stream), service) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the control interface ended");
            }
        }
        () = ticket.ends() => tracing::debug!("a connection to the control interface gave way, or showed no token in time"),
    }
}

/// Reads the whole body of a request, within bounds of size and time, before anything is done.
pub(super) async fn whole_body(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let (status, message) = match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(head, bytes.into())).await,
        Ok(Err(error)) if is_too_long(&error) => (StatusCode::PAYLOAD_TOO_LARGE, "the request is too long"),
        Ok(Err(_)) => (StatusCode::BAD_REQUEST, "the request broke off"),
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
    };
    refuse(status, ErrorBody { kind: ErrorKind::Usage, message: message.to_owned() })
}

fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_long)
}
