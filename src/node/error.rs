//! What can go wrong, sorted by what a user can do about it.

use serde::{Deserialize, Serialize};

/// The kinds of failure. Programs go by the kind: it decides the exit code and the HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// Anything without a kind of its own.
    Other,
    /// A wrong flag, configuration key, name or query.
    Usage,
    /// No such name, or nobody who has it.
    NotFound,
    /// The name is another's.
    Conflict,
    /// The master or the holders cannot be reached, refuse, or do not answer in time.
    Unreachable,
    /// What holders sent is not the content that was asked for.
    Verification,
    /// Disk full, no permission, target exists, data directory in use or damaged.
    Storage,
}

impl ErrorKind {
    /// The pinned exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
            Self::Verification => 6,
            Self::Storage => 7,
        }
    }

    /// The HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Other => 500,
            Self::Usage => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unreachable => 503,
            Self::Verification => 502,
            Self::Storage => 507,
        }
    }
}

/// What went wrong: one sentence, and a kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// What another process's node answered.
    #[error("{message}")]
    Remote {
        /// Kind of the error.
        kind: ErrorKind,
        /// The error as a sentence.
        message: String,
    },
}

impl Error {
    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ShuttingDown => ErrorKind::Other,
            Self::Remote { kind, .. } => *kind,
        }
    }
}
