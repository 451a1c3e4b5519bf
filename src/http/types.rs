//! Bodies of requests and streams of the control interface; answers are the types of the handle.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::node::{ErrorKind, Progress};

/// Body of `POST /v1/share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareBody {
    /// Absolute paths.
    pub paths: Vec<PathBuf>,
    /// New name of the one file, or prefix of the one folder.
    #[serde(default)]
    pub name: Option<String>,
}

/// Body of `POST /v1/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeBody {
    /// Names to give up.
    pub names: Vec<String>,
}

/// Query of `GET /v1/lookup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupQuery {
    /// The name.
    pub name: String,
}

/// Query of `GET /v1/search`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchQuery {
    /// The words.
    pub query: String,
    /// Most entries.
    pub limit: usize,
}

/// One line of the stream that answers a long operation; the last one is `Done` or `Error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<T> {
    /// How far it is.
    Progress(Progress),
    /// It succeeded.
    Done(T),
    /// It failed.
    Error(ErrorBody),
}

/// An error as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Kind of the error.
    pub kind: ErrorKind,
    /// One sentence.
    pub message: String,
}
