//! `GET /v1/events`: what happens in the node, a line of JSON each, for as long as whoever asks reads on.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::routes::{App, encode, refuse, stream_lines};
use super::types::{ErrorBody, EventsQuery};
use crate::node::ErrorKind;

/// Those who may follow at a time, and the part of the connections of the interface that they may have together: what is
/// asked and told needs the others.
const MAX_FOLLOWERS: usize = 16;
const PART_OF_CONNECTIONS: usize = 4;
/// Without an event for so long an empty line is sent, by which a connection shows that it is gone.
const QUIET: Duration = Duration::from_secs(15);

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
    fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}

/// Answers with the events after the one with the number `since`, and with what comes. It is asked for the next line only
/// when the last one was taken: whoever reads slowly misses events, and a line says how many.
pub(super) async fn events(State(app): State<App>, Query(EventsQuery { since }): Query<EventsQuery>) -> Response {
    let Some(place) = app.followers.enter() else {
        let message = "as many follow the events of this node as may; try again when one of them has left".to_owned();
        return refuse(StatusCode::SERVICE_UNAVAILABLE, ErrorBody { kind: ErrorKind::Unreachable, message });
    };
    let following = (app.node.events(since), place);
    stream_lines(Box::pin(stream::unfold(following, async |(mut events, place)| {
        let line = match tokio::time::timeout(QUIET, events.next()).await {
            Ok(told) => encode(&told?),
            Err(_) => Ok(Bytes::from_static(b"\n")),
        };
        Some((line, (events, place)))
    })))
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
