//! The table behind the index, as the service reads and writes it.

use swarmdex_protocols::index::{Session, ShareSum};
use swarmdex_protocols::{Entry, Multiaddr, Name, PeerId, Version};

use crate::state::index::again::{Departure, Left};

/// A name that somebody holds.
#[derive(Debug, Clone)]
pub(crate) struct Row<K> {
    /// By what the table finds it again.
    pub key: K,
    /// What the name stands for.
    pub entry: Entry,
    /// The session in which its owner last announced it; the default if it did not.
    pub session: Session,
}

/// A peer that has names, or may have some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemberRow {
    /// Its session; the default if it never joined this index.
    pub session: Session,
    /// What it holds, as counted with each change.
    pub held: ShareSum,
}

/// What a peer left with, as far as it is not granted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// The session that ended.
    pub session: Session,
    /// What it held.
    pub departure: Departure,
    /// The last name that was dealt with since the peer is back.
    pub through: String,
}

/// How a name is freed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    /// Version of the tombstone.
    pub version: Version,
    /// When, by the wall clock, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Whether its owner was evicted, or gave the name up by itself.
    pub evicted: bool,
}

/// Counts of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The last version that was given.
    pub last: Version,
    /// Names that somebody holds.
    pub names: u64,
    /// Peers with a row of their own.
    pub peers: u64,
}

/// Names, tombstones, members, and what peers left with. The service decides; the table keeps.
///
/// All that one request writes is kept together or not at all: whoever calls the service sees to that.
/// A damaged row is one that can be seen not to be as it was written. It is read as if it were not there.
pub(crate) trait IndexTable {
    /// What can go wrong.
    type Error;
    /// By what a row is found again.
    type Key;

    /// What a name stands for.
    fn entry(&self, name: &Name) -> Result<Option<Entry>, Self::Error>;
    /// The row of a name that is about to be replaced or freed. One that is damaged is removed, and counts as none.
    fn take_up(&mut self, name: &Name) -> Result<Option<Row<Self::Key>>, Self::Error>;
    /// Puts an entry in place of what its name stood for. A name that is `new` had no row; its tombstone goes.
    fn put(&mut self, entry: &Entry, session: Session, new: bool) -> Result<(), Self::Error>;
    /// Puts a tombstone in the place of a row.
    fn free(&mut self, row: &Row<Self::Key>, owner: &PeerId, ending: Ending) -> Result<(), Self::Error>;
    /// Counts a name to a session of its owner. Whether it was counted to another before.
    fn confirm(&mut self, name: &Name, session: Session) -> Result<bool, Self::Error>;
    /// The version of the tombstone of a name.
    fn ended(&self, name: &Name) -> Result<Option<Version>, Self::Error>;
    /// The member to whom a damaged row belongs, as far as it can be read. `None` if there is no such row.
    fn damaged(&self, name: &Name) -> Result<Option<PeerId>, Self::Error>;
    /// Names of an owner in order, at most `most`; with a session those that were last announced before it.
    fn names_of(&self, owner: &PeerId, before: Option<Session>, most: Option<u64>) -> Result<Vec<Name>, Self::Error>;
    /// Entries of an owner after a name in order, at most `most`, that were last announced before a session.
    fn entries_of(&self, owner: &PeerId, after: &str, before: Session, most: usize) -> Result<Vec<Entry>, Self::Error>;
    /// What the rows of an owner come to.
    fn count(&self, owner: &PeerId) -> Result<ShareSum, Self::Error>;
    /// Whether the attributes of some name of an owner are not known; with `left` of those that it left with.
    fn has_bare(&self, owner: &PeerId, left: bool) -> Result<bool, Self::Error>;

    /// A member.
    fn member(&self, peer: &PeerId) -> Result<Option<MemberRow>, Self::Error>;
    /// Begins a session of a member. One that is new holds what `row` says; one that is known keeps what it holds.
    fn put_member(&mut self, peer: &PeerId, row: &MemberRow, addresses: &[Multiaddr]) -> Result<(), Self::Error>;
    /// Sets what a member holds.
    fn set_held(&mut self, peer: &PeerId, held: &ShareSum) -> Result<(), Self::Error>;
    /// Removes a member.
    fn remove_member(&mut self, peer: &PeerId) -> Result<(), Self::Error>;

    /// What is noted of a peer that left.
    fn departure(&self, peer: &PeerId) -> Result<Option<Noted>, Self::Error>;
    /// Notes what a peer leaves with at this time of the wall clock, in milliseconds since 1970.
    fn put_departure(&mut self, peer: &PeerId, noted: &Noted, unix_ms: u64) -> Result<(), Self::Error>;
    /// Notes how far a peer that is back has come.
    fn set_departure(&mut self, peer: &PeerId, noted: &Noted) -> Result<(), Self::Error>;
    /// Forgets what a peer left with. Names that are remembered for it go by and by.
    fn forget_departure(&mut self, peer: &PeerId) -> Result<(), Self::Error>;
    /// Remembers a name whose owner leaves with it, in the session that ends so.
    fn remember(&mut self, session: Session, left: &Left) -> Result<(), Self::Error>;
    /// The next names that a peer left with in order, at most `most`.
    fn left(&self, peer: &PeerId, noted: &Noted, most: usize) -> Result<Vec<Left>, Self::Error>;
    /// Forgets names that a peer left with, up to the last one that was dealt with.
    fn forget_left(&mut self, peer: &PeerId, noted: &Noted) -> Result<(), Self::Error>;

    /// Counts everything.
    fn totals(&self) -> Result<Totals, Self::Error>;
    /// Notes the last version that was given.
    fn set_last_version(&mut self, version: Version) -> Result<(), Self::Error>;
}
