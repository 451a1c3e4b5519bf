//! What a download is asked for, and what it came to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use swarmdex_protocols::{Name, PeerId};

use crate::config::FetchConfig;
use crate::node::ErrorKind;

/// What to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    /// The name, or with `recursive` the first segments of names; empty means every name.
    pub name: String,
    /// Absolute path of the file or folder to write; a folder that exists takes the file under the last segment of its name.
    pub output: PathBuf,
    /// Whether to download every name below `name`.
    pub recursive: bool,
}

/// How to download it. What is left out in JSON has its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GetOptions {
    /// For how long to wait for an owner that is away, in seconds; 0 for not at all. `None` for half as long again as a lease, at most
    /// 15 seconds longer, once something has come. If it is given, it is also waited for a name that nobody has yet. 30 days are the
    /// most, and stand for what is negative or no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<f64>,
    /// Whether files get the executable bit and the time that they have with their owner. It is on by default, and all below is off.
    pub preserve: bool,
    /// Whether a file takes the place of an earlier copy that was not changed since.
    pub update: bool,
    /// With `recursive`, whether copies of what is gone are removed unless they were changed since.
    pub delete: bool,
    /// Whether the file is taken away as soon as it is there: it is not passed on afterwards, nor remembered.
    pub fleeting: bool,
    /// Whether it is over before what came is on disk, and not merely with the system. A power cut takes some of it then.
    pub no_sync: bool,
}

impl GetOptions {
    /// Whether files have to be on disk, given what the node's settings say.
    pub(in crate::node) fn syncs(&self, config: &FetchConfig) -> bool {
        config.sync && !self.no_sync && !self.fleeting
    }
}

impl Default for GetOptions {
    fn default() -> Self {
        Self { wait_seconds: None, preserve: true, update: false, delete: false, fleeting: false, no_sync: false }
    }
}

/// One downloaded file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GotFile {
    /// Its name.
    pub name: Name,
    /// Where it is now.
    #[serde(with = "super::path_text")]
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// How long it took, lookup included, in seconds.
    pub seconds: f64,
    /// The peers that it came from; none if it was in place already, or is empty.
    #[serde(with = "super::text_list")]
    pub sources: Vec<PeerId>,
    /// Always true: every chunk was checked against the content id.
    pub verified: bool,
}

/// What a download came to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GetReport {
    /// The files that are in place.
    pub files: Vec<GotFile>,
    /// With `recursive`, the names that failed; a single file that fails is an error instead.
    pub failed: Vec<FailedFile>,
    /// With `update` and `delete`, files that were left as they are although the network has others, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptFile>,
    /// With `delete`, files that were removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "super::path_text::list")]
    pub deleted: Vec<PathBuf>,
}

/// A file that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFile {
    /// Its name in the network.
    pub name: Name,
    /// The file.
    #[serde(with = "super::path_text")]
    pub path: PathBuf,
    /// Why it was not touched.
    pub reason: String,
}

/// A name that could not be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedFile {
    /// The name.
    pub name: Name,
    /// Kind of the error.
    pub kind: ErrorKind,
    /// The error as a sentence.
    pub message: String,
}
