//! The words that swarmdex nodes exchange: messages, limits, codecs, names and certificates.
//!
//! | protocol id | from -> to | request -> response | limit of one message |
//! | --- | --- | --- | --- |
//! | `/swarmdex/index/1` | peer -> master, any -> owner | [`index::IndexRequest`] -> [`index::IndexResponse`] | [`limits::MAX_INDEX_MESSAGE`] |
//! | `/swarmdex/mirror/1` | any -> node close to a key | [`mirror::MirrorRequest`] -> [`mirror::MirrorResponse`] | [`limits::MAX_MIRROR_MESSAGE`] |
//! | `/swarmdex/fetch/1` | any -> holder | [`fetch::FetchRequest`] -> [`fetch::Header`] and raw bytes | [`limits::MAX_FETCH_REQUEST`], [`limits::MAX_FETCH_HEADER`], [`limits::MAX_FETCH_BODY`] |
//!
//! **Versions.** A new optional field keeps the protocol id; a new meaning gets a new id. A receiver
//! ignores map keys that it does not know and answers a request variant that it does not know with
//! [`index::RefusalCode::Unsupported`].
//!
//! **Goals.** Everything a second implementation must agree on is here, and everything that arrives is
//! checked here. **Non-goals.** No network, no disk, no clock: bytes and times are arguments.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod address;
mod again;
mod agreement;
pub mod check;
pub mod chunks;
pub mod codec;
pub mod content;
mod digest;
pub mod fetch;
pub mod index;
pub mod ledger;
pub mod limits;
pub mod mirror;
pub mod name;
pub mod pattern;
mod refusal;
pub mod run;
pub mod statement;
pub mod text;
pub mod tree;
pub mod words;

pub use chunks::ChunkSet;
pub use content::ContentId;
pub use ledger::{Ledger, Tally};
pub use libp2p_identity::{Keypair, PeerId, PublicKey};
pub use mirror::RecordKey;
pub use multiaddr::Multiaddr;
pub use name::{Name, Network};
pub use pattern::Pattern;
pub use statement::{
    Attributes, Authority, Certificate, Claim, Entry, SignedAttributes, Statement, Tombstone, Version,
};
pub use tree::Tree;
pub use words::Rule;
