//! `GET /v1/events`: what happens in the node, a line of JSON each, for as long as whoever asks reads on.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::stream;

use super::answer::{encode, refuse, stream_lines};
use super::app::App;
use super::types::{ErrorBody, EventsQuery};
use crate::node::ErrorKind;

/// Without an event for so long an empty line is sent, by which a connection shows that it is gone.
const QUIET: Duration = Duration::from_secs(15);

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
