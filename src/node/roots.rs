//! The files and folders that a node was told to share, and the end of that.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use swarmdex_protocols::Name;

use super::types::path_text;
use super::{Error, Node};
use crate::config::{Origin, Selection};
pub use crate::storage::shares::{LeftOut, Why};
use crate::storage::shares::{RootStanding, RootState};

/// How many examples of what is left out are listed for each root.
const EXAMPLES: usize = 100;

/// Whether a file or folder that is shared, or is to be, is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum RootPresence {
    /// It is.
    Shared,
    /// It is away: its names are kept, and not served.
    Away {
        /// Why.
        reason: String,
    },
    /// Flags or configuration name it, and it is shared as soon as it comes.
    Waiting,
    /// Flags or configuration name it, and it was unshared by hand.
    Unshared,
}

/// A file or folder that is shared, or is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootInfo {
    /// The file or folder.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Who said so.
    pub from: Vec<Origin>,
    /// Whether it is there.
    #[serde(flatten)]
    pub presence: RootPresence,
    /// New name of the file, or what stands in front of the names in the folder.
    pub name: Option<Name>,
    /// How many names it has.
    pub names: u64,
    /// Size of what they stand for, in bytes.
    pub bytes: u64,
    /// What of it is shared.
    #[serde(flatten)]
    pub selection: Selection,
    /// How much is left out.
    pub left_out: LeftOut,
    /// The first of that, at most a hundred.
    pub examples: Vec<LeftOutInfo>,
}

/// Something that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutInfo {
    /// The file or folder.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Why.
    pub why: Why,
}

/// What became of a share that was ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsharedInfo {
    /// The file or folder.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// How many names it had.
    pub names: u64,
    /// Whether the master knows already; if not, it is told as soon as it can be reached.
    pub acknowledged: bool,
}

impl From<RootState> for RootInfo {
    fn from(state: RootState) -> Self {
        let RootState { path, origins, prefix, selection, standing, names, bytes, left_out, examples } = state;
        let presence = match standing {
            RootStanding::Shared => RootPresence::Shared,
            RootStanding::Away(reason) => RootPresence::Away { reason },
            RootStanding::Waiting => RootPresence::Waiting,
            RootStanding::Unshared => RootPresence::Unshared,
        };
        let examples = examples.into_iter().map(|(path, why)| LeftOutInfo { path, why }).collect();
        Self { path, from: origins, presence, name: prefix, names, bytes, selection, left_out, examples }
    }
}

impl Node {
    /// The files and folders that this node was told to share, each with up to 100 examples of what is left out. Reads the disk.
    ///
    /// # Errors
    /// [`Error::Share`]: the share table cannot be read. [`Error::Bug`]: a thread panicked.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn roots(&self) -> Result<Vec<RootInfo>, Error> {
        let shares = self.inner.shares.clone();
        let listing = tokio::task::spawn_blocking(move || shares.root_states(EXAMPLES));
        Ok(listing.await.map_err(|_| Error::Bug)??.into_iter().map(RootInfo::from).collect())
    }

    /// Ends shares by their absolute paths: all of them, or none if one is not shared by itself. Their names are given up; the files
    /// stay where they are. It waits for the master as [`Node::share_with`] does.
    ///
    /// # Errors
    /// [`Error::Share`]: a path was not shared by itself, or the share table cannot be written. [`Error::Bug`]: a thread panicked.
    ///
    /// # Cancel safety
    /// Not cancel safe. Once it was polled the shares end, and only the answer is lost.
    pub async fn unshare(&self, paths: Vec<PathBuf>) -> Result<Vec<UnsharedInfo>, Error> {
        let shares = self.inner.shares.clone();
        let ending = tokio::task::spawn_blocking(move || shares.unshare(&paths));
        let ended = ending.await.map_err(|_| Error::Bug)??;
        let names: Vec<Name> = ended.iter().flat_map(|(_, names)| names.iter().cloned()).collect();
        self.settled(names, |name| self.inner.standings.knows(name) && !self.is_shared(name)).await;
        let told = |name: &Name| self.is_acknowledged(name) || self.is_shared(name);
        let info = |(path, names): (PathBuf, Vec<Name>)| UnsharedInfo {
            path,
            names: names.len() as u64,
            acknowledged: names.iter().all(told),
        };
        Ok(ended.into_iter().map(info).collect())
    }

    /// Whether a name is shared, by another root maybe.
    fn is_shared(&self, name: &Name) -> bool {
        self.inner.shares.kept().binary_search_by(|entry| entry.name.cmp(name)).is_ok()
    }
}
