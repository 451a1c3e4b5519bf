//! What every route can reach.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::node::Node;

/// Those who may follow at a time, and the part of the connections of the interface that they may have together: what is
/// asked and told needs the others.
const MAX_FOLLOWERS: usize = 16;
const PART_OF_CONNECTIONS: usize = 4;

/// What every route can reach.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) node: Node,
    /// Where the interface listens on TCP, if it does.
    pub(super) http: Option<String>,
    /// Those who follow events.
    pub(super) followers: Followers,
}

/// Places for those who follow. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Followers(Arc<Semaphore>);

impl Followers {
    /// Of an interface with so many connections.
    pub(super) fn new(connections: usize) -> Self {
        let places = (connections / PART_OF_CONNECTIONS).clamp(1, MAX_FOLLOWERS);
        Self(Arc::new(Semaphore::new(places)))
    }

    /// A place until it is dropped; `None` if all are taken.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_follow_and_whoever_leaves_makes_room() {
        for (connections, most) in [(1, 1), (8, 2), (64, 16), (10_000, MAX_FOLLOWERS)] {
            let followers = Followers::new(connections);
            let mut places: Vec<_> = (0..most).map(|_| followers.clone().enter().unwrap()).collect();
            assert!(followers.enter().is_none(), "{connections}");
            places.pop();
            assert!(followers.enter().is_some());
        }
    }
}
