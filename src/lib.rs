//! swarmdex: a hybrid peer-to-peer file-sharing node. See `docs/architecture.md`.
//!
//! Floors, low to high; an import only points down:
//!
//! | floor | modules | what is there |
//! | --- | --- | --- |
//! | 5 | `cli`, `http` | commands, the local HTTP interface; they talk to the handle alone |
//! | 4 | `node` | the handle: membership, downloads, shares |
//! | 3 | `net` | the swarm: one behaviour, one event loop |
//! | 2 | `storage` | index database, share table, downloads |
//! | 1 | `state` | pure rules: names, leases, downloads |
//! | 0 | `config`, `descriptors`, `buffers`, `log`, `tasks`, `swarmdex_protocols` | what all floors use |

pub mod buffers;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod http;
pub mod log;
pub mod net;
pub mod node;
pub mod state;
pub mod storage;
pub mod tasks;

pub use config::Config;
pub use node::{Error, ErrorKind, Node};
