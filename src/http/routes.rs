//! The routes: each is a method of the handle. Those that are followed have a file each.

mod events;

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream;
use serde::Serialize;

use super::answer::{MAX_BODY, answer, encode, error_body, json, stream_lines};
use super::app::App;
use super::serve::whole_body;
use super::types::{
    Form, GetBody, Line, ListQuery, LookupQuery, Parts, RevokeBody, SearchQuery, ShareBody, UnshareBody,
};
use crate::config::ShareOptions;
use crate::node::{Api, Error, Listed, Operation};

/// Most entries in one answer to a search.
pub(crate) const MAX_RESULTS: usize = 100_000;
/// The field of an answer that says whether its list has more than was sent: `true` or `false`.
pub(super) const MORE: &str = "swarmdex-more";
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The routes of the control interface.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/shared", get(shared))
        .route("/v1/roots", get(async |State(app): State<App>| answer(app.node.roots().await)))
        .route("/v1/lookup", get(lookup))
        .route("/v1/search", get(search))
        .route("/v1/share", post(share))
        .route("/v1/unshare", post(unshare))
        .route("/v1/revoke", post(revoke))
        .route("/v1/get", post(fetch))
        .route("/v1/events", get(events::events))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(whole_body))
        .with_state(app)
}

async fn status(State(app): State<App>) -> Response {
    answer(app.node.status().await.map(|status| crate::node::Status { http: app.http, ..status }))
}

async fn lookup(State(app): State<App>, Query(LookupQuery { name }): Query<LookupQuery>) -> Response {
    answer(app.node.lookup(&name).await)
}

async fn search(State(app): State<App>, Query(SearchQuery { query, limit, form }): Query<SearchQuery>) -> Response {
    match app.node.matching(&query, limit.min(MAX_RESULTS)).await {
        Ok(found) if form == Form::Object => answer(Ok(found)),
        Ok(found) => list(found.entries, found.more),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn peers(State(app): State<App>, Query(query): Query<ListQuery>) -> Response {
    listed(app.node.some_peers(query.limit.unwrap_or(usize::MAX)).await)
}

async fn shared(State(app): State<App>, Query(query): Query<ListQuery>) -> Response {
    listed(app.node.some_shared(query.limit.unwrap_or(usize::MAX)).await)
}

/// A list, and whether there is more of it.
fn list<T: Serialize>(entries: Vec<T>, more: bool) -> Response {
    ([(MORE, if more { "true" } else { "false" })], json(&entries)).into_response()
}

fn listed<T: Serialize>(listed: Result<Listed<T>, Error>) -> Response {
    match listed {
        Ok(Listed { entries, more }) => list(entries, more),
        Err(error) => answer::<()>(Err(error)),
    }
}

async fn revoke(State(app): State<App>, Json(RevokeBody { names }): Json<RevokeBody>) -> Response {
    answer(app.node.revoke(names).await)
}

async fn unshare(State(app): State<App>, Json(UnshareBody { paths }): Json<UnshareBody>) -> Response {
    answer(app.node.unshare(paths).await)
}

async fn share(State(app): State<App>, Json(body): Json<ShareBody>) -> Response {
    let ShareBody { paths, name, selection, rehash } = body;
    follow(app.node.share_with(paths, name, ShareOptions { selection, rehash }))
}

async fn fetch(State(app): State<App>, Json(GetBody { request, options }): Json<GetBody>) -> Response {
    follow(app.node.get_with(request, options))
}

/// An operation on its way to who asked for it.
enum Following<T> {
    /// It goes on.
    Working(Operation<T>),
    /// It succeeded; what was not written yet.
    Done(T),
}

/// Answers with a line of JSON for each step of progress, and one for the end, which is preceded by parts where it is
/// long. Whoever hangs up cancels the operation: it is dropped with the stream.
fn follow<T: Serialize + Parts + Send + 'static>(operation: Operation<T>) -> Response {
    let lines = stream::unfold(Some(Following::Working(operation)), async |state| {
        let mut value = match state? {
            Following::Done(value) => value,
            Following::Working(mut operation) => {
                let progress = operation.progress();
                tokio::select! {
                    outcome = operation.outcome() => match outcome {
                        Ok(value) => value,
                        Err(error) => return Some((encode(&Line::<T>::Error(error_body(&error))), None)),
                    },
                    () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                        let line = encode(&Line::<T>::Progress(progress.borrow().clone()));
                        return Some((line, Some(Following::Working(operation))));
                    }
                }
            }
        };
        Some(match value.take_part() {
            Some(part) => (encode(&Line::Part(part)), Some(Following::Done(value))),
            None => (encode(&Line::Done(value)), None),
        })
    });
    stream_lines(Box::pin(lines))
}
