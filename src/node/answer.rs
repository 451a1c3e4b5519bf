//! What a lookup and a search come to, whoever answers them.

use swarmdex_protocols::index::Member;
use swarmdex_protocols::{Entry, PeerId};

use super::types::Source;

/// What was found, checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) entry: Entry,
    pub(super) certified: bool,
    pub(super) source: Source,
    pub(super) holders: Vec<Member>,
    /// Whom other certificates name as its owner.
    pub(super) rivals: Vec<PeerId>,
}

/// The entries that match a query, at most as many as were asked for, sorted by name.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    /// Whether something was left out that may match.
    pub(super) cut: bool,
}
