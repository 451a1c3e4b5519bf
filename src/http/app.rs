//! What every route can reach.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use futures::stream::{self, BoxStream, StreamExt};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{encode, refuse, stream_lines};
use super::types::ErrorBody;
use crate::node::{ErrorKind, Node};

/// Those who may follow at a time, and the part of the connections of the interface that they may have together: what is
/// asked and told needs the others.
const MAX_FOLLOWERS: usize = 16;
const PART_OF_CONNECTIONS: usize = 4;
/// With nothing to tell for so long an empty line is sent, by which a connection shows that it is gone.
const QUIET: Duration = Duration::from_secs(15);

/// What every route can reach.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) node: Node,
    /// Where the interface listens on TCP, if it does.
    pub(super) http: Option<String>,
    /// Those who follow what happens.
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

    /// Answers with a line of JSON for each thing told, for as long as whoever asks reads on. The next one is asked for when the
    /// last line was taken. A refusal if all places are taken.
    pub(super) fn follow<T: Serialize + Send + 'static>(&self, told: BoxStream<'static, T>) -> Response {
        let Some(place) = self.enter() else {
            let message =
                "as many follow the events of this node as may; try again when one of them has left".to_owned();
            return refuse(StatusCode::SERVICE_UNAVAILABLE, ErrorBody { kind: ErrorKind::Unreachable, message });
        };
        stream_lines(Box::pin(stream::unfold((told, place), async |(mut told, place)| {
            let line = match tokio::time::timeout(QUIET, told.next()).await {
                Ok(told) => encode(&told?),
                Err(_) => Ok(Bytes::from_static(b"\n")),
            };
            Some((line, (told, place)))
        })))
    }

    /// A place until it is dropped; `None` if all are taken.
    fn enter(&self) -> Option<OwnedSemaphorePermit> {
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
