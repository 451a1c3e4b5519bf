//! What a node keeps on disk, and what it serves of that. All that touches the disk is blocking code: it runs on threads of
//! its own behind bounded queues, or is called from threads that may block. [`holdings`] is a table in memory of what
//! downloads pass on while they run.

pub(crate) mod cache;
pub(crate) mod content;
pub(crate) mod copies;
pub(crate) mod dir;
pub(crate) mod durable;
pub(crate) mod grants;
pub(crate) mod hanging;
pub(crate) mod hash;
pub(crate) mod holdings;
mod incoming;
pub(crate) mod index;
pub(crate) mod library;
mod mounts;
pub(crate) mod partial;
mod private;
pub(crate) mod shares;
mod sqlite;
pub(crate) mod straight;
mod verify;
pub(crate) mod writers;
