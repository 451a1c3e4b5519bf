//! What this node shares: the table of names, kept across restarts, and the chunks that others ask for.
//!
//! A server opens files out of this table alone, by content id: nothing from the wire becomes a path.

mod database;
mod defaults;
mod hand;
mod hashing;
mod look;
mod presence;
mod roots;
mod scan;
mod scans;
mod select;
mod serve;
mod table;
mod update;
#[cfg_attr(not(feature = "watch"), path = "watcher_off.rs")]
mod watcher;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use database::Database;
pub(crate) use look::{Look, Open};
pub(crate) use presence::{Identity, Mounts, identity, is_remote};
pub(crate) use roots::{DeclareOutcome, RootStanding, RootState};
pub(crate) use select::check_patterns;
pub use select::{LeftOut, Why};
use swarmdex_protocols::name::InvalidName;
use swarmdex_protocols::statement::Subject;
use swarmdex_protocols::{Attributes, ContentId, Keypair, Name, Network, SignedAttributes};
use tokio::sync::watch;
pub(crate) use watcher::{Heard, Watcher};

use scans::Scans;
use table::Table;

use super::hanging::Reads;
use super::hash::{FileStamp, HashError, thread_count};
use crate::locks::lock;

/// Why something cannot be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// Nothing is there.
    #[error("cannot share {path}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file has a name that no name in the network can be.
    #[error("cannot share {path} under its own name; choose one by --as")]
    Name {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        #[source]
        source: InvalidName,
    },
    /// Several paths are to have one name.
    #[error("--as names one file or folder; share the others by themselves")]
    OneName,
    /// The name is taken on this node.
    #[error("{path} cannot be shared as {name}: this node shares {other} under that name; choose another by --as")]
    Taken {
        /// The file.
        path: PathBuf,
        /// The name.
        name: Name,
        /// The file that has it.
        other: PathBuf,
    },
    /// It is a node's.
    #[error("{path} is, or lies in, the data directory of a node, which is never shared")]
    DataDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A pattern is none.
    #[error("{pattern:?} is no pattern of what to leave out: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// It was not shared by itself.
    #[error(
        "{path} was not shared by itself{}; 'swarmdex ls --roots' lists what was",
        .above.as_ref().map(|above| format!(", but with {}: 'swarmdex revoke' gives names up", above.display())).unwrap_or_default()
    )]
    NotRoot {
        /// The path.
        path: PathBuf,
        /// The root that it is in.
        above: Option<PathBuf>,
    },
    /// A file cannot be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database of shares is damaged or of another program.
    #[error("{path} is no share table of this version; move it away (what is shared can be shared again)")]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// The database of shares cannot be used.
    #[error("the share table {path} cannot be used")]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The system does not tell of changes.
    #[error("changes in {path} are noticed only when everything is looked through")]
    NotWatched {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: watcher::WatchError,
    },
    /// An outboard cannot be kept.
    #[error("cannot write {path}")]
    Outboard {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A shared file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedEntry {
    /// Its name.
    pub name: Name,
    /// Its content id.
    pub content: ContentId,
    /// Its size in bytes.
    pub size: u64,
    /// The file.
    pub path: Arc<Path>,
    /// Whether the file is away: its name is kept, and it is not served.
    pub suspended: bool,
    stamp: FileStamp,
    /// The file or folder that was shared.
    root: Arc<Path>,
}

impl SharedEntry {
    /// Whether it is a file as it is now.
    fn is(&self, path: &Path, stamp: &FileStamp) -> bool {
        *self.path == *path && self.stamp == *stamp
    }

    /// What the file has beside its bytes; `None` while it is away.
    pub(crate) fn attributes(&self) -> Option<Attributes> {
        (!self.suspended).then(|| Attributes::new(self.stamp.executable, self.stamp.mtime_ns))
    }

    /// What the file has beside its bytes, signed by the owner of the name; `None` if it cannot be signed.
    pub(crate) fn signed_attributes(&self, network: &Network, owner: &Keypair) -> Option<Box<SignedAttributes>> {
        let subject = Subject { name: self.name.as_str(), content: &self.content, size: self.size, network };
        SignedAttributes::sign(self.attributes()?, subject, owner).ok().map(Box::new)
    }
}

/// A file that is not shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why, for people.
    pub reason: String,
    /// Whether it would be shared if the disk, or this system, had done what was asked of it.
    pub failed: bool,
}

/// What sharing came to.
#[derive(Debug, Default)]
pub(crate) struct ShareOutcome {
    /// The files that are shared by it.
    pub entries: Vec<SharedEntry>,
    /// The files that are not.
    pub skipped: Vec<Skipped>,
    /// How much was left out of folders.
    pub left_out: LeftOut,
    /// Whether this node was at fault for some of them, and should look again later: its disk is full, say.
    pub unfinished: bool,
    /// What is left to do.
    pub open: Open,
    /// Files that were hashed.
    pub hashed: usize,
    /// How many entries are new, other than before, and gone.
    pub changes: [usize; 3],
    /// Names of files that are away now, and of those that are back.
    pub suspended: usize,
    /// See `suspended`.
    pub resumed: usize,
}

impl ShareOutcome {
    fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.skipped.extend(other.skipped);
        self.left_out.add(other.left_out);
        self.unfinished |= other.unfinished;
        self.open.extend(other.open);
        self.hashed += other.hashed;
        self.changes.iter_mut().zip(other.changes).for_each(|(count, more)| *count += more);
        self.suspended += other.suspended;
        self.resumed += other.resumed;
    }
}

/// How far hashing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashProgress {
    /// Bytes read.
    pub done_bytes: u64,
    /// Bytes to read in all.
    pub total_bytes: u64,
    /// Files hashed.
    pub done_files: u64,
    /// Files to hash in all.
    pub total_files: u64,
}

/// A hashed file, as it was.
type HashResult = Result<(ContentId, FileStamp), ShareError>;

/// Told how far hashing is, a few times a second.
pub(crate) type OnProgress<'a> = &'a (dyn Fn(HashProgress) + Sync);

/// The share table. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub(crate) struct ShareTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    threads: usize,
    scans: Scans,
    /// Held for moments, before `table` if both are needed.
    database: Mutex<Database>,
    /// Held for moments only, never over I/O.
    table: Mutex<Table>,
    /// Held for moments, and no other lock is taken meanwhile.
    states: Mutex<roots::RootStates>,
    outboards: serve::Outboards,
    reads: Reads,
    generation: watch::Sender<u64>,
}

impl ShareTable {
    /// Opens the share table in a data directory. Nothing is known until [`ShareTable::recall`], nor served until
    /// [`ShareTable::rescan`].
    /// `threads` hash at a time; 0 means one for each processor.
    pub(crate) fn open(folder: &Path, threads: usize) -> Result<Self, ShareError> {
        let outboards = serve::Outboards::open(folder)?;
        Ok(Self {
            shared: Arc::new(Shared {
                folder: folder.canonicalize().unwrap_or_else(|_| folder.to_owned()),
                threads: thread_count(threads),
                scans: Scans::default(),
                database: Mutex::new(Database::open(&folder.join("shares.db"))?),
                table: Mutex::default(),
                states: Mutex::default(),
                outboards,
                reads: Reads::default(),
                generation: watch::Sender::new(0),
            }),
        })
    }

    /// Files that were found changed when somebody asked for them, to be told to [`ShareTable::update`]; they are told once.
    pub(crate) fn take_stale(&self) -> Vec<PathBuf> {
        std::mem::take(&mut lock(&self.shared.table).stale).iter().map(|path| path.to_path_buf()).collect()
    }

    /// The files and folders that are shared.
    pub(crate) fn roots(&self) -> Result<Vec<PathBuf>, ShareError> {
        Ok(lock(&self.shared.database).roots()?.into_iter().map(|root| root.path).collect())
    }

    /// The node's own folder, of which nothing is shared.
    pub(crate) fn own_folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Everything of which the names are kept, sorted by name: what is shared, and what is away.
    pub(crate) fn kept(&self) -> Arc<Vec<SharedEntry>> {
        lock(&self.shared.table).kept()
    }

    /// How many names [`ShareTable::kept`] has; cheap, however many.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.table).count()
    }

    /// Everything that is shared and there, sorted by name.
    pub(crate) fn entries(&self) -> Arc<Vec<SharedEntry>> {
        lock(&self.shared.table).listed()
    }

    /// What is shared under a name.
    pub(crate) fn entry(&self, name: &Name) -> Option<SharedEntry> {
        lock(&self.shared.table).get(name).cloned()
    }

    /// Changes whenever the table does, and when a file is found changed.
    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut lock(&self.shared.table));
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

/// An error with what caused it.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
