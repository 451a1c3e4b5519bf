//! The control interface: HTTP with JSON, on a Unix socket in the data directory for this user alone, and
//! if wanted on TCP for whoever has the token.

mod client;
mod guard;
mod routes;
mod types;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
pub use client::{Call, Client, Listed};
pub(crate) use routes::MAX_RESULTS;
pub use types::*;

use crate::node::Node;
use crate::storage::dir::{DataDirError, socket_path, write_small};
use crate::tasks;

/// Longest path of a Unix socket, in bytes (`sun_path` of Linux less its end).
const MAX_SOCKET_PATH: usize = 107;

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
    let app = routes::App { node: node.clone(), http: address.map(|address| address.to_string()) };
    let mut tasks = vec![serve_on(node, listener, routes::router(app.clone()))];
    if let Some((listener, address, token)) = tcp {
        let guard = guard::Guard::new(address, token);
        let router = routes::router(app).layer(axum::middleware::from_fn_with_state(guard, guard::guard));
        tasks.push(serve_on(node, listener, router));
    }
    Ok(Server { tasks, socket, address })
}

/// Serves on a task of its own. A node that cannot be asked or told anything any more is over.
fn serve_on<L>(node: &Node, listener: L, router: Router) -> tokio::task::JoinHandle<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let watch = node.failures().watch_vital("control");
    tasks::spawn("control", async move {
        let _watch = watch;
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the control interface ended");
        }
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
    // The folder is its owner's alone, so nobody gets in before the mode is set.
    let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn new_token(folder: &Path) -> Result<String, DataDirError> {
    let bytes: [u8; 32] = rand::random();
    let token = blake3::Hash::from(bytes).to_hex().to_string();
    write_small(folder, "http-token", token.as_bytes())?;
    Ok(token)
}
