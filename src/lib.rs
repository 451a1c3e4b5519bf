//! swarmdex: share, find and fetch files between machines. A hybrid peer-to-peer node on libp2p, for Linux.
//!
//! One node keeps the central index (the master); all others share files, search, and download straight from each other. A DHT
//! mirrors the index, so that they go on while the master is away. This crate is the program `swarmdex` and the node inside it.
//! [`Node::start`] starts one from a [`Config`]. Everything that can be asked of it is a method of [`Node`] or of [`node::Api`].
//! The client of another process's node implements that trait as well.
//!
//! A node lives until [`Node::shutdown`], or until its last handle is dropped, which does not wait for its end: see [`Node`]. It needs
//! a Tokio runtime, best one of several threads.
//!
//! A master and two peers in one process (`examples/share_and_get.rs`; `examples/embed.rs` is a peer inside another program):
//!
//! ```
#![doc = include_str!("../examples/share_and_get.rs")]
//! ```
//!
//! # Features
//!
//! | feature | what it brings |
//! | --- | --- |
//! | `cli` | the command line, with its log, its configuration file and its progress bars |
//! | `http` | the control interface on a Unix socket and on TCP |
//! | `watch` | changes of shared files are heard of at once, and not only when everything is looked through |
//!
//! All are on by default. Whoever embeds a node takes `default-features = false`, and mostly `watch`.
//!
//! # Speed
//!
//! [`tune()`] and [`worker_threads()`] are what the program does for its process. The patch of `futures-timer` in this workspace's
//! `Cargo.toml` does not reach programs that depend on the crate; they can take it over.
//!
//! # Floors
//!
//! Low to high; an import only points down. See `docs/architecture.md`.
//!
//! | floor | modules | what is there |
//! | --- | --- | --- |
//! | 5 | `cli`, `http` | commands, the control interface; they ask a node by its handle alone |
//! | 4 | `node` | the handle: membership, downloads, shares |
//! | 3 | `net` | the swarm: one behaviour, one event loop |
//! | 2 | `storage` | index database, share table, downloads |
//! | 1 | `state` | pure rules: names, leases, downloads |
//! | 0 | `buffers`, `clock`, `config`, `descriptors`, `locks`, `log`, `tasks`, `tune`, `swarmdex_protocols` | what all floors use |

// What serves the command line or the control interface alone is of no use without them.
#![cfg_attr(not(all(feature = "cli", feature = "http", feature = "watch")), allow(dead_code, unused_imports))]

mod buffers;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod clock;
pub mod config;
#[doc(hidden)]
pub mod descriptors;
#[cfg(feature = "http")]
#[doc(hidden)]
pub mod http;
mod locks;
#[cfg(feature = "cli")]
mod log;
#[cfg(not(feature = "cli"))]
#[path = "log_off.rs"]
mod log;
mod net;
pub mod node;
mod state;
mod storage;
mod tasks;
mod tune;

pub use config::Config;
pub use node::{Error, ErrorKind, Node};
pub use swarmdex_protocols::{ContentId, Multiaddr, Name, Network, PeerId, Version};
pub use tune::{tune, worker_threads};
