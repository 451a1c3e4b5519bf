//! What a node keeps on disk. Blocking code on threads of its own, behind bounded queues.

mod coming;
pub mod copies;
pub mod dir;
pub mod durable;
pub mod grants;
pub mod hash;
pub mod holdings;
pub mod index;
pub mod library;
pub mod partial;
mod private;
pub mod shares;
mod sqlite;
pub mod straight;
