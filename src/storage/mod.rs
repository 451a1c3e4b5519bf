//! What a node keeps on disk. Blocking code on threads of its own, behind bounded queues.

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
