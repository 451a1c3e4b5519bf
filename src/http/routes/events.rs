//! `GET /v1/events`: what happens in the node.

use axum::extract::{Query, State};
use axum::response::Response;
use futures::stream::{self, StreamExt};
use serde::Deserialize;

use crate::http::app::App;

#[derive(Debug, Deserialize)]
pub(super) struct EventsQuery {
    /// Number of the event after which to go on; without, from now on.
    since: Option<u64>,
}

/// Answers with the events after the one with the number `since`, and with what comes. Whoever reads slowly misses events, and a
/// line says how many.
pub(super) async fn events(State(app): State<App>, Query(EventsQuery { since }): Query<EventsQuery>) -> Response {
    let events = stream::unfold(app.node.events(since), async |mut events| Some((events.next().await?, events)));
    app.followers.follow(events.boxed())
}
