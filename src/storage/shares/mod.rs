//! What this node shares: the table of names, kept across restarts, and the chunks that others ask for.
//!
//! A server opens files out of this table alone, by content id: nothing from the wire becomes a path.

mod database;
mod hashing;
mod scan;
mod scans;
mod serve;
mod table;
mod update;
mod watcher;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use database::Database;
use swarmdex_protocols::name::InvalidName;
use swarmdex_protocols::statement::Subject;
use swarmdex_protocols::{Attributes, ContentId, Keypair, Name, Network, SignedAttributes};
use tokio::sync::watch;
pub use watcher::{Heard, Watcher};

use scans::Scans;
use table::Table;

use super::hash::{FileStamp, HashError, thread_count};

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
        source: notify::Error,
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
pub struct SharedEntry {
    /// Its name.
    pub name: Name,
    /// Its content id.
    pub content: ContentId,
    /// Its size in bytes.
    pub size: u64,
    /// The file.
    pub path: Arc<Path>,
    stamp: FileStamp,
    /// The file or folder that was shared.
    root: Arc<Path>,
}

impl SharedEntry {
    /// What the file has beside its bytes.
    pub fn attributes(&self) -> Attributes {
        Attributes::new(self.stamp.executable, self.stamp.mtime_ns)
    }

    /// The same, said by the owner of the name; `None` if it cannot be signed.
    pub fn signed_attributes(&self, network: &Network, owner: &Keypair) -> Option<Box<SignedAttributes>> {
        let subject = Subject { name: self.name.as_str(), content: &self.content, size: self.size, network };
        SignedAttributes::sign(self.attributes(), subject, owner).ok().map(Box::new)
    }
}

/// A file that is not shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why, for people.
    pub reason: String,
}

/// What sharing came to.
#[derive(Debug, Default)]
pub struct ShareOutcome {
    /// The files that are shared by it.
    pub entries: Vec<SharedEntry>,
    /// The files that are not.
    pub skipped: Vec<Skipped>,
    /// Whether this node was at fault for some of them, and should look again later: its disk is full, say.
    pub unfinished: bool,
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
pub type OnProgress<'a> = &'a (dyn Fn(HashProgress) + Sync);

/// The share table. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct ShareTable {
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
    outboards: serve::Outboards,
    generation: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Tables are changed in single steps: a panic leaves none half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ShareTable {
    /// Opens the share table in a data directory. Nothing is shared until [`ShareTable::rescan`].
    /// `threads` hash at a time; 0 means one for each processor.
    pub fn open(folder: &Path, threads: usize) -> Result<Self, ShareError> {
        let outboards = serve::Outboards::open(folder)?;
        Ok(Self {
            shared: Arc::new(Shared {
                folder: folder.to_owned(),
                threads: thread_count(threads),
                scans: Scans::default(),
                database: Mutex::new(Database::open(&folder.join("shares.db"))?),
                table: Mutex::default(),
                outboards,
                generation: watch::Sender::new(0),
            }),
        })
    }

    /// Shares files and folders, and remembers that. `name` renames a file, or puts `name/` in front of
    /// what is in a folder.
    pub fn add(
        &self,
        paths: &[PathBuf],
        name: Option<&str>,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        if name.is_some() && paths.len() != 1 {
            return Err(ShareError::OneName);
        }
        let mut roots = Vec::new();
        for path in paths {
            let found = path.canonicalize().map_err(|source| ShareError::Path { path: path.clone(), source })?;
            let prefix = match name {
                Some(name) => {
                    Some(Name::from_path_text(name).map_err(|source| ShareError::Name { path: path.clone(), source })?)
                }
                None => None,
            };
            roots.push((found, prefix));
        }
        let mut outcome = ShareOutcome::default();
        for (root, prefix) in &roots {
            let _scan = self.shared.scans.begin(root, cancel)?;
            let known = lock(&self.shared.database).has_root(root)?;
            let added = self.add_root(root, prefix.as_ref(), progress, cancel);
            if added.is_err() && !known {
                lock(&self.shared.database).remove_root(root)?;
            }
            let added = added?;
            outcome.entries.extend(added.entries);
            outcome.skipped.extend(added.skipped);
        }
        Ok(outcome)
    }

    fn add_root(
        &self,
        root: &Path,
        prefix: Option<&Name>,
        progress: OnProgress<'_>,
        cancel: &AtomicBool,
    ) -> Result<ShareOutcome, ShareError> {
        let mut found = scan::scan(root, prefix, &self.shared.folder)?;
        found.strict = true;
        {
            let names: Vec<_> = found.candidates.iter().map(|candidate| &candidate.name).collect();
            let database = lock(&self.shared.database);
            // Sharing anew brings back what was revoked.
            database.include(&names)?;
            database.add_root(root, prefix)?;
        }
        let direct = found.direct;
        let added = self.take_in(root, root, found, progress, cancel)?;
        match added.skipped.first() {
            Some(skipped) if direct => Err(self.explain(root, skipped, &names_of(root, prefix))),
            _ => Ok(added),
        }
    }

    /// Why a file that was named directly is not shared.
    fn explain(&self, root: &Path, skipped: &Skipped, name: &Option<Name>) -> ShareError {
        let taken = name.as_ref().and_then(|name| lock(&self.shared.table).get(name).cloned());
        match taken {
            Some(other) => {
                ShareError::Taken { path: root.to_owned(), name: other.name, other: other.path.to_path_buf() }
            }
            None => ShareError::Path { path: root.to_owned(), source: io::Error::other(skipped.reason.clone()) },
        }
    }

    /// Gives names up, all of them or none; returns those that were shared. A file in a shared folder stays out when the
    /// folder is scanned again, until it is shared anew.
    pub fn remove(&self, names: &[Name]) -> Result<Vec<Name>, ShareError> {
        let database = lock(&self.shared.database);
        let entries: Vec<_> = {
            let table = lock(&self.shared.table);
            names.iter().filter_map(|name| table.get(name).cloned()).collect()
        };
        let (roots, below): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.root == entry.path);
        let roots: Vec<_> = roots.iter().map(|entry| &*entry.root).collect();
        database.give_up(&roots, &below.iter().map(|entry| &entry.name).collect::<Vec<_>>())?;
        let removed: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
        self.change(|table| removed.iter().for_each(|name| table.remove(name)));
        Ok(removed)
    }

    /// Files that were found changed when somebody asked for them, to be told to [`ShareTable::update`]; they are told once.
    pub fn take_stale(&self) -> Vec<PathBuf> {
        std::mem::take(&mut lock(&self.shared.table).stale).iter().map(|path| path.to_path_buf()).collect()
    }

    /// The files and folders that are shared.
    pub fn roots(&self) -> Result<Vec<PathBuf>, ShareError> {
        Ok(lock(&self.shared.database).roots()?.into_iter().map(|(root, _)| root).collect())
    }

    /// The node's own folder, of which nothing is shared.
    pub fn own_folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Everything that is shared, sorted by name.
    pub fn entries(&self) -> Arc<Vec<SharedEntry>> {
        lock(&self.shared.table).listed()
    }

    /// What is shared under a name.
    pub fn entry(&self, name: &Name) -> Option<SharedEntry> {
        lock(&self.shared.table).get(name).cloned()
    }

    /// Changes whenever the table does, and when a file is found changed.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut lock(&self.shared.table));
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

fn names_of(root: &Path, prefix: Option<&Name>) -> Option<Name> {
    prefix.cloned().or_else(|| Name::from_path_text(root.file_name()?.to_str()?).ok())
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
