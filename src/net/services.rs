//! What the swarm serves to others.

use std::sync::Arc;

use swarmdex_protocols::index::{IndexRequest, IndexResponse};

use super::index::Master;
use crate::storage::library::Library;

/// Answers lookups and searches for names that this node owns, from memory.
pub(crate) type OwnedNames = Arc<dyn Fn(IndexRequest) -> IndexResponse + Send + Sync>;

/// What the swarm serves to others.
pub(crate) struct Services {
    /// What chunks are read from.
    pub library: Library,
    /// The index; a master's alone.
    pub index: Option<Master>,
    /// What this node says of its own names.
    pub owned: OwnedNames,
}
