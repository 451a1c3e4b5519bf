//! Bodies of requests and streams of the control interface; answers are the types of the handle.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Selection;
use crate::node::{ErrorKind, GetOptions, GetReport, GetRequest, Progress, ShareReport};

/// Body of `POST /v1/share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareBody {
    /// Absolute paths.
    pub paths: Vec<PathBuf>,
    /// New name of the one file, or prefix of the one folder.
    #[serde(default)]
    pub name: Option<String>,
    /// What of folders is shared.
    #[serde(default, skip_serializing_if = "is_default")]
    pub selection: Selection,
    /// Whether no hash is believed that was made before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rehash: bool,
}

// What says nothing is not sent: a node of a build before knows no such field.
fn is_default(selection: &Selection) -> bool {
    *selection == Selection::default()
}

/// Body of `POST /v1/unshare`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnshareBody {
    /// Absolute paths.
    pub paths: Vec<PathBuf>,
}

/// Body of `POST /v1/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeBody {
    /// Names to give up.
    pub names: Vec<String>,
}

/// Body of `POST /v1/get`: the fields of both, side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetBody {
    /// What to download.
    #[serde(flatten)]
    pub request: GetRequest,
    /// How; what is left out has its default.
    #[serde(flatten)]
    pub options: GetOptions,
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
    /// Most entries; more than 100,000 are never sent.
    #[serde(default = "default_limit")]
    pub limit: usize,
    /// `object` for `{"entries": […], "more": …}` in place of a list.
    #[serde(default)]
    pub form: Form,
}

/// Entries of a search that does not say how many.
fn default_limit() -> usize {
    1000
}

/// How a list is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As it is.
    #[default]
    List,
    /// As a part of an object.
    Object,
}

/// Query of `GET /v1/shared` and of `GET /v1/peers`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListQuery {
    /// Most entries; all without.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Most entries of a list in one line.
pub(super) const MAX_PART: usize = 10_000;

/// An outcome with lists that may be too long for one line.
pub trait Parts: Default {
    /// Takes away what the first of its lines carries; `None` if what is left fits one.
    fn take_part(&mut self) -> Option<Self>;

    /// Puts the next part, or what was left, behind what came before.
    fn append(&mut self, next: Self);
}

/// The first of a list, if it is too long for one line.
fn first<T>(list: &mut Vec<T>) -> Vec<T> {
    if list.len() <= MAX_PART { Vec::new() } else { list.drain(..MAX_PART).collect() }
}

impl Parts for ShareReport {
    fn take_part(&mut self) -> Option<Self> {
        let (entries, skipped) = (first(&mut self.entries), first(&mut self.skipped));
        let part = Self { entries, skipped, ..Self::default() };
        (part != Self::default()).then_some(part)
    }

    fn append(&mut self, next: Self) {
        self.entries.extend(next.entries);
        self.skipped.extend(next.skipped);
        self.left_out.add(next.left_out);
        // At most a thousand.
        self.written.extend(next.written);
    }
}

impl Parts for GetReport {
    fn take_part(&mut self) -> Option<Self> {
        let part = Self {
            files: first(&mut self.files),
            failed: first(&mut self.failed),
            kept: first(&mut self.kept),
            deleted: first(&mut self.deleted),
        };
        (part != Self::default()).then_some(part)
    }

    fn append(&mut self, next: Self) {
        self.files.extend(next.files);
        self.failed.extend(next.failed);
        self.kept.extend(next.kept);
        self.deleted.extend(next.deleted);
    }
}

/// One line of the stream that answers a long operation; the last one is `Done` or `Error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<T> {
    /// How far it is.
    Progress(Progress),
    /// A part of an outcome that is too long for one line: the next ones and `Done` are appended to it.
    Part(T),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Skipped;

    #[test]
    fn a_body_of_an_earlier_build_means_the_defaults() {
        let earlier = r#"{"name": "a", "output": "/tmp/a", "recursive": true}"#;
        let body: GetBody = serde_json::from_str(earlier).unwrap();
        assert_eq!(body.options, GetOptions::default());
        let options = GetOptions { wait_seconds: Some(0.5), preserve: false, update: true, ..GetOptions::default() };
        let body = GetBody { options, ..body };
        let text = serde_json::to_string(&body).unwrap();
        assert_eq!(serde_json::from_str::<GetBody>(&text).unwrap(), body);
        // A node of an earlier build finds what it knows.
        assert_eq!(serde_json::from_str::<GetRequest>(&text).unwrap(), body.request);
    }

    #[test]
    fn an_outcome_of_any_length_goes_in_parts_of_bounded_lines() {
        for (count, parts) in
            [(0, 0), (1, 0), (MAX_PART, 0), (MAX_PART + 1, 1), (5 * MAX_PART, 4), (5 * MAX_PART + 1, 5)]
        {
            let skipped =
                |number: usize| Skipped { path: number.to_string().into(), reason: String::new(), failed: false };
            let report = ShareReport { skipped: (0..count).map(skipped).collect(), ..ShareReport::default() };
            let (mut left, mut whole, mut taken) = (report.clone(), ShareReport::default(), 0);
            while let Some(part) = left.take_part() {
                assert!(part.skipped.len() == MAX_PART);
                whole.append(part);
                taken += 1;
            }
            assert!(left.skipped.len() <= MAX_PART && taken == parts, "{count}: {taken}");
            whole.append(left);
            assert!(whole == report, "{count} in order");
        }
    }
}
