//! The control interface: HTTP with JSON, on a Unix socket in the data directory for this user alone, and
//! if wanted on TCP for whoever has the token.

mod answer;
mod app;
mod client;
mod door;
mod guard;
mod routes;
mod serve;
mod types;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
pub use client::Client;
use door::Door;
pub(crate) use routes::MAX_RESULTS;
use serve::Listen;
use socket2::{Domain, SockAddr, Socket, Type};
pub use types::*;

use crate::descriptors::Plan;
use crate::node::Node;
use crate::storage::dir::{DataDirError, HTTP_TOKEN, socket_path, write_small};
use crate::tasks;

/// Longest path of a Unix socket, in bytes (`sun_path` of Linux less its end).
const MAX_SOCKET_PATH: usize = 107;
/// Mode of the socket.
const PRIVATE: u32 = 0o600;
/// Connections to the socket that the system keeps until they are taken in.
const BACKLOG: i32 = 128;
/// Part of all connections over TCP that one address may have.
const PART_OF_ONE: usize = 2;

/// Why the control interface cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The data directory's path is too long.
    #[error("the path {path} is too long for a socket; choose a shorter --data-dir")]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TCP address cannot be used.
    #[error("cannot listen for HTTP on {address}; --http chooses another address")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The token cannot be written.
    #[error(transparent)]
    Token(#[from] DataDirError),
}

/// The interface of a running node; ends when dropped.
#[derive(Debug)]
pub struct Server {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    socket: PathBuf,
    /// Where it listens on TCP, if it does.
    pub address: Option<SocketAddr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        // A new node removes what is left of an old one as well.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Offers the interface of `node`, whose data directory this process has locked.
pub async fn serve(node: &Node) -> Result<Server, HttpError> {
    let folder = node.data_dir();
    let socket = socket_path(folder);
    let listener = listen_unix(&socket)?;
    let tcp = match node.config().http {
        None => None,
        Some(address) => {
            let failed = |source| HttpError::Tcp { address, source };
            let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            Some((listener, address, new_token(folder)?))
        }
    };
    let address = tcp.as_ref().map(|(_, address, _)| *address);
    let plan = Plan::of(node.config());
    let app = app::App {
        node: node.clone(),
        http: address.map(|address| address.to_string()),
        followers: app::Followers::new(plan.control),
    };
    let local = routes::router(app.clone()).layer(axum::middleware::from_fn(guard::guard_local));
    let mut tasks = vec![serve_on(node, listener, Door::new(plan.control, plan.control), local)];
    if let Some((listener, address, token)) = tcp {
        let guard = guard::Guard::new(address, token);
        let router = routes::router(app).layer(axum::middleware::from_fn_with_state(guard, guard::guard));
        let of_one = (plan.http / PART_OF_ONE).max(1);
        tasks.push(serve_on(node, listener, Door::new(plan.http, of_one), router));
    }
    Ok(Server { tasks, socket, address })
}

/// Serves on a task of its own. A node that cannot be asked or told anything any more is over.
fn serve_on<L: Listen>(node: &Node, listener: L, door: Door, router: Router) -> tokio::task::JoinHandle<()> {
    let watch = node.failures().watch_vital("control");
    tasks::spawn("control", async move {
        let _watch = watch;
        serve::serve(listener, door, router).await;
    })
}

fn listen_unix(path: &Path) -> Result<tokio::net::UnixListener, HttpError> {
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(HttpError::PathTooLong { path: path.to_owned() });
    }
    let failed = |source| HttpError::Socket { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    bind_private(path).map_err(failed)
}

/// A socket that is its owner's alone from the moment it is there: the file gets the mode that the socket has before.
fn bind_private(path: &Path) -> io::Result<tokio::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Systems other than Linux may not know this.
    let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(PRIVATE));
    socket.bind(&SockAddr::unix(path)?)?;
    // The umask may have taken more away than from others; a file system without permissions keeps none.
    let set = std::fs::set_permissions(path, std::fs::Permissions::from_mode(PRIVATE));
    if let Err(error) = set {
        tracing::warn!(path = %path.display(), %error, "other users may be able to use the control socket");
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())
}

fn new_token(folder: &Path) -> Result<String, DataDirError> {
    let bytes: [u8; 32] = rand::random();
    let token = blake3::Hash::from(bytes).to_hex().to_string();
    write_small(folder, HTTP_TOKEN, token.as_bytes())?;
    Ok(token)
}
