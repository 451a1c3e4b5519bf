//! What a node keeps on disk, and what it serves of that. All that touches the disk is blocking code: it runs on threads of
//! its own behind bounded queues, or is called from threads that may block. [`holdings`] is a table in memory of what
//! downloads pass on while they run.

pub mod cache;
pub mod content;
pub mod copies;
pub mod dir;
pub mod durable;
pub mod grants;
pub mod hanging;
pub mod hash;
pub mod holdings;
mod incoming;
pub mod index;
pub mod library;
mod mounts;
pub mod partial;
mod private;
pub mod shares;
mod sqlite;
pub mod straight;
mod verify;
pub mod writers;
