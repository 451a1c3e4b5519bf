//! Answers of the control interface: JSON, errors, and lines that are sent as they come.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;
use swarmdex_protocols::text::plain_json;

use super::types::ErrorBody;
use crate::node::Error;

/// Longest body of a request, in bytes: the names of the longest command line (6 MiB on Linux), their quotes escaped.
pub(super) const MAX_BODY: usize = 16 << 20;

/// An error as a response.
pub(super) fn refuse(status: StatusCode, body: ErrorBody) -> Response {
    (status, json(&body)).into_response()
}

/// JSON in which everything is escaped that a terminal would obey: others have a hand in it.
pub(super) fn json(value: &impl Serialize) -> Response {
    // Types of the handle have string keys and finite numbers: they always have a form in JSON.
    let bytes = plain_json(serde_json::to_vec(value).unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// An error as it is told.
pub(super) fn error_body(error: &Error) -> ErrorBody {
    ErrorBody { kind: error.kind(), message: error.describe() }
}

/// What came of a question.
pub(super) fn answer<T: Serialize>(result: Result<T, Error>) -> Response {
    match result {
        Ok(value) => json(&value),
        Err(error) => {
            let status = StatusCode::from_u16(error.kind().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            refuse(status, error_body(&error))
        }
    }
}

/// An answer of lines that are sent as they come.
pub(super) fn stream_lines(lines: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

/// A value as a line of JSON.
pub(super) fn encode(line: &impl Serialize) -> Result<Bytes, Infallible> {
    let mut bytes = plain_json(serde_json::to_vec(line).unwrap_or_default());
    bytes.push(b'\n');
    Ok(bytes.into())
}
