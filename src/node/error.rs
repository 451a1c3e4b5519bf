//! What can go wrong, sorted by what a user can do about it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use swarmdex_protocols::index::{Refusal, RefusalCode};
use swarmdex_protocols::name::InvalidName;
use swarmdex_protocols::pattern::InvalidPattern;
use swarmdex_protocols::{ContentId, Name, PeerId};

use crate::net::{NetError, RequestError};
use crate::storage::dir::{DataDirError, RenewError};
use crate::storage::grants::GrantsError;
use crate::storage::index::IndexError;
use crate::storage::partial::PartialError;
use crate::storage::shares::ShareError;

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
    /// Its user ended it.
    #[error("cancelled")]
    Cancelled,
    /// A path cannot be told to a running node.
    #[error("a path that is not UTF-8 cannot be told to a running node; rename it, or name the folder that it is in")]
    NotText,
    /// No node can go by its configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The identity cannot be changed.
    #[error(transparent)]
    Identity(#[from] RenewError),
    /// There is no identity yet.
    #[error("{path} has no identity yet; a node that is started there makes one: swarmdex run --role peer")]
    NoIdentity {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory is from another machine, and the node was told not to start then.
    #[error(
        "{path} was used on another machine before; start with --on-new-machine same if it moved here, with --on-new-machine new if it is a copy"
    )]
    OtherMachine {
        /// The data directory.
        path: PathBuf,
    },
    /// The index cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Files cannot be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Certificates cannot be kept.
    #[error(transparent)]
    Grants(#[from] GrantsError),
    /// A download cannot be written.
    #[error(transparent)]
    Partial(#[from] PartialError),
    /// The node cannot go online.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A text is no name.
    #[error("{name:?} is no name: {source}")]
    Name {
        /// The text, shortened.
        name: String,
        /// The rule that it breaks.
        #[source]
        source: InvalidName,
    },
    /// A text is no query.
    #[error("the query cannot be used: {0}")]
    Query(#[source] InvalidPattern),
    /// No peer holds the name.
    #[error("no file is named {name:?}; 'swarmdex search' lists what there is")]
    NotFound {
        /// The name.
        name: String,
    },
    /// No peer holds the name, and there is something like it.
    #[error("no file is named {name:?}; {hint}")]
    NotNamed {
        /// The name.
        name: String,
        /// What there is, as the rest of the sentence.
        hint: String,
    },
    /// No peer holds a name below the prefix, and there is something like it.
    #[error("no file's name begins with {prefix:?}; {hint}")]
    NotBelow {
        /// The prefix.
        prefix: String,
        /// What there is, as the rest of the sentence.
        hint: String,
    },
    /// A file was left as it is.
    #[error("{path} is left as it is: {reason}")]
    Kept {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No peer holds a name below the prefix.
    #[error("no file's name begins with {prefix:?}; 'swarmdex search' lists what there is")]
    NothingBelow {
        /// The prefix.
        prefix: String,
    },
    /// More peers' names are below the prefix than one download takes.
    #[error("more than {most} names begin with {prefix:?}; choose a longer beginning")]
    TooManyBelow {
        /// The prefix.
        prefix: String,
        /// Most names.
        most: usize,
    },
    /// This node does not share the name.
    #[error("this node does not share {name:?}; 'swarmdex ls' lists what it shares")]
    NotShared {
        /// The name.
        name: String,
    },
    /// No holder is known to the master.
    #[error("no peer that has {name:?} is online")]
    NoHolder {
        /// The name.
        name: Name,
    },
    /// No master is known.
    #[error(
        "no master was found; name one by --master /ip4/ADDRESS/tcp/4747, or start one on this network by --role master"
    )]
    NoMaster,
    /// No master is known, and no bootstrap node can be reached.
    #[error(
        "no master was found, and the network cannot be entered: {reason}; correct --bootstrap, or name the master by --master"
    )]
    NoEntrance {
        /// What each address came to, four of them at most.
        reason: String,
    },
    /// Neither a master nor another node can be asked.
    #[error("no other node of the network can be reached; name one by --bootstrap or --master")]
    NoNodes,
    /// Without a master nobody can say whether there is such a file.
    #[error(
        "nobody can say whether there is {what:?}: of {of} nodes that would know {silent} do not answer, and neither does the master; try again later"
    )]
    Unsure {
        /// What was asked for.
        what: String,
        /// Nodes that do not answer.
        silent: usize,
        /// Nodes that would know.
        of: usize,
    },
    /// The master cannot be reached.
    #[error("the master cannot be reached: {reason}")]
    MasterUnreachable {
        /// What the last attempt came to.
        reason: String,
    },
    /// The master did not answer.
    #[error("the master did not answer: {0}")]
    Request(#[from] RequestError),
    /// The master refused.
    #[error("the master refused: {}", .0.reason)]
    Refused(Refusal),
    /// The master's answer is not what was asked for.
    #[error("the master gave an answer that does not fit the question")]
    Answer,
    /// The certificate on an entry is not the master's.
    #[error("the entry of {name} is not signed by the master {master}")]
    Forged {
        /// The name.
        name: Name,
        /// The master.
        master: PeerId,
    },
    /// No holder could be reached.
    #[error(
        "{name} cannot be fetched now, for {reason}; see that {} runs and that no firewall is in between, or try again later",
        if *.holders == 1 { "it" } else { "one of them" }
    )]
    HoldersUnreachable {
        /// The name.
        name: Name,
        /// How many were tried.
        holders: usize,
        /// Who has not answered for how long, and what was tried.
        reason: String,
    },
    /// Those who have the content cannot read it.
    #[error("{name} cannot be fetched now, for {reason}; try again later, or see to that disk")]
    DisksSilent {
        /// The name.
        name: Name,
        /// Whose disks.
        reason: String,
    },
    /// Every holder refused to send the content.
    #[error("no peer that should have {name} still has the content {content}; its owner has to share it again")]
    ContentGone {
        /// The name.
        name: Name,
        /// The content.
        content: ContentId,
    },
    /// What was sent is not the content.
    #[error(
        "what {sources} sent for {name} is not the content {content}; {}",
        if *kept { "what was right of it is kept for another attempt" } else { "nothing was kept" }
    )]
    Verification {
        /// The name.
        name: Name,
        /// The content.
        content: ContentId,
        /// Who sent it.
        sources: String,
        /// Whether chunks that were right wait beside the target.
        kept: bool,
    },
    /// As many readers are open as a node serves.
    #[error("{most} readers are open, and no more can be; close one, or try again later")]
    TooManyReaders {
        /// Most readers.
        most: usize,
    },
    /// A task of the node panicked.
    #[error("a thread of the node ended early; this is a bug, see its log")]
    Bug,
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
            Self::ShuttingDown | Self::Cancelled | Self::Bug => ErrorKind::Other,
            Self::Share(ShareError::OneName | ShareError::Name { .. } | ShareError::Pattern { .. }) => ErrorKind::Usage,
            Self::Share(ShareError::NotRoot { .. }) => ErrorKind::NotFound,
            Self::Share(ShareError::Taken { .. }) => ErrorKind::Conflict,
            Self::OtherMachine { .. } | Self::Identity(RenewError::Master { .. }) => ErrorKind::Usage,
            Self::DataDir(_)
            | Self::Identity(_)
            | Self::Index(_)
            | Self::Grants(_)
            | Self::Share(_)
            | Self::Partial(_)
            | Self::Kept { .. } => ErrorKind::Storage,
            Self::NotText | Self::Config(_) | Self::Name { .. } | Self::Query(_) | Self::TooManyBelow { .. } => {
                ErrorKind::Usage
            }
            Self::Net(NetError::Listen { .. }) => ErrorKind::Unreachable,
            Self::Net(_) => ErrorKind::Other,
            Self::NotFound { .. }
            | Self::NotNamed { .. }
            | Self::NotBelow { .. }
            | Self::NoIdentity { .. }
            | Self::NothingBelow { .. }
            | Self::NotShared { .. }
            | Self::NoHolder { .. }
            | Self::ContentGone { .. } => ErrorKind::NotFound,
            Self::NoMaster
            | Self::NoEntrance { .. }
            | Self::NoNodes
            | Self::Unsure { .. }
            | Self::MasterUnreachable { .. }
            | Self::Request(_)
            | Self::Answer
            | Self::TooManyReaders { .. }
            | Self::DisksSilent { .. }
            | Self::HoldersUnreachable { .. } => ErrorKind::Unreachable,
            Self::Refused(refusal) => match refusal.code {
                RefusalCode::NotFound => ErrorKind::NotFound,
                RefusalCode::InvalidName | RefusalCode::InvalidQuery => ErrorKind::Usage,
                RefusalCode::Storage => ErrorKind::Storage,
                _ => ErrorKind::Unreachable,
            },
            Self::Forged { .. } | Self::Verification { .. } => ErrorKind::Verification,
            Self::Remote { kind, .. } => *kind,
        }
    }

    /// The error as one line: its sentence, and its causes where the sentence does not tell them.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let part = error.to_string();
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }
}

/// What a person gave, cut to a length that fits a message.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 100;
    let cut = text.floor_char_boundary(MOST);
    if cut < text.len() { format!("{}…", &text[..cut]) } else { text.to_owned() }
}
