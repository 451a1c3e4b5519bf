//! The index protocol: what a peer asks of the master, and what the master answers.
//!
//! Names, queries and addresses in requests travel as plain text and bytes. The receiver parses each one by itself, so
//! that one bad name costs its own verdict and not the whole batch.

use libp2p_identity::PeerId;
use multiaddr::Multiaddr;
use serde::{Deserialize, Serialize};

pub use crate::again::{Again, Returned, Sealed, Seals};
pub use crate::agreement::{Compare, Compared, Mark, Part, Range, Renew, Renewed};
use crate::content::ContentId;
pub use crate::digest::{ShareDigest, ShareSum, share_digest};
pub use crate::refusal::{Refusal, RefusalCode};
pub use crate::run::{Fingerprint, Followed, Reign, Run};
use crate::statement::{Certificate, Entry, Seal, SignedAttributes, Statement, Version};
use crate::words::Rule;

/// Identifies the stretch of time between a peer's join and its leave or eviction. Requests that
/// change the index carry it, so that a peer that was evicted without noticing cannot act on its old lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Session(pub u64);

/// Number of a change within a session, rising by at least one with each new change; a change that
/// is repeated because its answer was lost keeps its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// What a peer asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexRequest {
    /// Become, or remain, a member of the network.
    #[serde(rename = "join")]
    Join(Join),
    /// Claim names.
    #[serde(rename = "announce")]
    Announce(Announce),
    /// Give names up.
    #[serde(rename = "revoke")]
    Revoke(Revoke),
    /// Ask for one name.
    #[serde(rename = "lookup")]
    Lookup(Lookup),
    /// Ask for the entries that match a query, a page at a time.
    #[serde(rename = "search")]
    Search(Search),
    /// Say that a peer could not be reached.
    #[serde(rename = "report")]
    Report(Report),
    /// Ask which peers are members.
    #[serde(rename = "peers")]
    Peers(Peers),
    /// Give up membership and every name.
    #[serde(rename = "leave")]
    Leave(Leave),
    /// Renew the lease, and see whether both hold the same names.
    #[serde(rename = "renew")]
    Renew(Renew),
    /// Find the names that both do not hold alike.
    #[serde(rename = "compare")]
    Compare(Compare),
    /// Have the names granted again that the peer left with.
    #[serde(rename = "again")]
    Again(Again),
    /// Ask for the seals of what was granted so.
    #[serde(rename = "seals")]
    Seals(Seals),
    /// Ask any node which master it follows.
    #[serde(rename = "master")]
    Master,
    /// Ask the master to have a member connect to the asker.
    #[serde(rename = "call")]
    Call(Call),
    /// The master asks a member to connect to another.
    #[serde(rename = "connect")]
    Connect(Connect),
    /// The master tells a member whether it can be reached.
    #[serde(rename = "reach")]
    Reach(Reach),
}

/// Become, or remain, a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Name of the network that the peer means.
    #[serde(rename = "n")]
    pub network: String,
    /// Addresses where the peer listens, without its peer id; at most [`crate::limits::MAX_ADDRESSES`].
    #[serde(rename = "a")]
    pub addresses: Vec<Multiaddr>,
    /// Digest of the peer's share, see [`share_digest`].
    #[serde(rename = "d")]
    pub digest: ShareDigest,
    /// Number of entries in the peer's share.
    #[serde(rename = "k")]
    pub entries: u64,
    /// The certificate of the highest version that the peer has seen, expired or not: a master that lost its
    /// disk learns from it how far versions had come.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Box<Certificate>>,
    /// The run of the peer's process; none from a build that does not know of runs.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Fingerprint of the peer's machine; none where the system gives the machine no id.
    #[serde(rename = "f", default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Fingerprint>,
    /// Whether the peer would have the names that it left with granted again at once, by [`IndexRequest::Again`].
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// Claim names, at most [`crate::limits::MAX_BATCH_ENTRIES`] at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
    /// Number of this change.
    #[serde(rename = "q")]
    pub sequence: Sequence,
    /// What is offered.
    #[serde(rename = "e")]
    pub offers: Vec<Offer>,
    /// Whether this ends the report of the whole share after a join with a changed share: names of the
    /// peer that were not announced since that join are freed.
    #[serde(rename = "l", default)]
    pub last: bool,
    /// With `last`: what the master granted to the peer since that join, by the peer's account. A master that
    /// counts otherwise frees nothing and refuses with [`RefusalCode::Differs`].
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub total: Option<ShareSum>,
}

/// A name with the content that it is to stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The name.
    #[serde(rename = "n")]
    pub name: String,
    /// Content id of the file.
    #[serde(rename = "c")]
    pub content: ContentId,
    /// Size of the file in bytes.
    #[serde(rename = "s")]
    pub size: u64,
    /// Shows a master that does not remember it that just this was granted before.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
    /// Whether the peer claimed the name while it could not reach the master.
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// What the peer says of the file beside its bytes, signed by it; the master passes it on as it is.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Box<SignedAttributes>>,
}

impl Offer {
    /// An offer of what was neither granted nor claimed before.
    pub fn new(name: impl Into<String>, content: ContentId, size: u64) -> Self {
        Self { name: name.into(), content, size, granted: None, claimed: false, attributes: None }
    }
}

/// What an earlier certificate says beyond the offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Version of the entry.
    #[serde(rename = "v")]
    pub version: Version,
    /// The master's seal on it.
    #[serde(rename = "z")]
    pub seal: Seal,
}

/// Give names up, at most [`crate::limits::MAX_BATCH_ENTRIES`] at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
    /// Number of this change.
    #[serde(rename = "q")]
    pub sequence: Sequence,
    /// The names.
    #[serde(rename = "n")]
    pub names: Vec<String>,
}

/// Ask for one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The name.
    #[serde(rename = "n")]
    pub name: String,
}

/// Ask for a page of the entries that match a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// The query, see [`crate::Pattern`].
    #[serde(rename = "w")]
    pub query: String,
    /// Where the previous page ended; `None` for the first.
    #[serde(rename = "u", default)]
    pub cursor: Option<Cursor>,
    /// Most entries wanted; the master may send fewer, at most [`crate::limits::MAX_PAGE_ENTRIES`].
    #[serde(rename = "m")]
    pub limit: u32,
    /// By which rule names match: what the asker checks the answer by. Builds that do not say so mean the first.
    #[serde(rename = "r", default, skip_serializing_if = "Rule::is_first")]
    pub rule: Rule,
}

/// Where a page of results ended. It is all the state there is: the master keeps none between pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub u64);

/// Say that a peer could not be reached; the master then probes that peer itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The peer that did not answer.
    #[serde(rename = "p")]
    pub peer: PeerId,
}

/// Ask which peers are members, at most [`crate::limits::MAX_MEMBERS`] at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// The last peer of the previous answer; `None` for the first.
    #[serde(rename = "a", default)]
    pub after: Option<PeerId>,
}

/// Give up membership and every name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// The session of the latest join.
    #[serde(rename = "i")]
    pub session: Session,
}

/// Have a member connect to the asker, which cannot connect to it. The master answers before it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The member.
    #[serde(rename = "p")]
    pub peer: PeerId,
}

/// Connect to a member that called, from the master alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Who called.
    #[serde(rename = "p")]
    pub peer: PeerId,
    /// Where it listens, without its peer id; at most [`crate::limits::MAX_ADDRESSES`].
    #[serde(rename = "a")]
    pub addresses: Vec<Multiaddr>,
}

/// Whether the member that is told can be reached at the addresses with which it joined, from the master alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Whether a connection that the master made came about.
    #[serde(rename = "r")]
    pub reachable: bool,
}

/// What the master answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexResponse {
    /// To a join.
    #[serde(rename = "joined")]
    Joined(Joined),
    /// To an announce: a verdict for each offer, in order.
    #[serde(rename = "announced")]
    Announced(Vec<Verdict>),
    /// To a revoke: an outcome for each name, in order.
    #[serde(rename = "revoked")]
    Revoked(Vec<RevokeOutcome>),
    /// To a lookup of a name that exists.
    #[serde(rename = "found")]
    Found(Found),
    /// To a search.
    #[serde(rename = "page")]
    Page(Page),
    /// To a lookup or a search, from a peer that is not the master: what it holds itself.
    #[serde(rename = "owned")]
    Owned(Owned),
    /// To a request for the members, in order of their ids; fewer than the limit at the end.
    #[serde(rename = "members")]
    Members(Vec<Member>),
    /// To a question for the master, from any node.
    #[serde(rename = "master")]
    Master(Followed),
    /// To a report or a leave.
    #[serde(rename = "done")]
    Done,
    /// To a renewal.
    #[serde(rename = "renewed")]
    Renewed(Renewed),
    /// To a comparison: an outcome for each range, in order.
    #[serde(rename = "compared")]
    Compared(Vec<Compared>),
    /// To a peer that has granted again what it left with.
    #[serde(rename = "returned")]
    Returned(Returned),
    /// To a question for seals: those of the names that the master holds for the peer, in order.
    #[serde(rename = "sealed")]
    Sealed(Vec<Sealed>),
    /// To anything that cannot be granted.
    #[serde(rename = "refused")]
    Refused(Refusal),
}

/// Membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Session that later changes carry.
    #[serde(rename = "i")]
    pub session: Session,
    /// Length of the lease in milliseconds.
    #[serde(rename = "l")]
    pub lease_ms: u64,
    /// Whether the master still holds exactly the peer's share, so that nothing need be announced.
    #[serde(rename = "u")]
    pub unchanged: bool,
    /// Whether the peer left with exactly this share, and is to ask by [`IndexRequest::Again`] for what is still free of it.
    #[serde(rename = "g", default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// Whether the master keeps attributes of files, and lacks those of some name that it holds for the peer or that the peer
    /// left with.
    #[serde(rename = "x", default, skip_serializing_if = "std::ops::Not::not")]
    pub bare: bool,
}

/// What became of one offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The name is the peer's.
    #[serde(rename = "ok")]
    Accepted {
        /// Version of the entry.
        #[serde(rename = "v")]
        version: Version,
        /// Makes entry and version a certificate.
        #[serde(rename = "z")]
        seal: Seal,
    },
    /// The name is another's.
    #[serde(rename = "conflict")]
    Conflict {
        /// The owner of the name.
        #[serde(rename = "o")]
        owner: PeerId,
    },
    /// The offer cannot be granted to anybody.
    #[serde(rename = "refused")]
    Refused(Refusal),
}

/// What became of one name in a revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevokeOutcome {
    /// The name is free.
    #[serde(rename = "ok")]
    Revoked {
        /// Version of the tombstone.
        #[serde(rename = "v")]
        version: Version,
    },
    /// Nobody held the name.
    #[serde(rename = "none")]
    NotHeld,
    /// Another peer holds the name.
    #[serde(rename = "conflict")]
    Conflict {
        /// The owner of the name.
        #[serde(rename = "o")]
        owner: PeerId,
    },
    /// The name is none.
    #[serde(rename = "refused")]
    Refused(Refusal),
}

/// A name, and where to fetch it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The entry with the master's seal.
    #[serde(rename = "c")]
    pub certificate: Certificate,
    /// Peers that have the content, the best to ask first; at most [`crate::limits::MAX_HOLDERS`].
    #[serde(rename = "h")]
    pub holders: Vec<Member>,
}

/// A page of search results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The entries, in the order of the index.
    #[serde(rename = "e")]
    pub entries: Vec<Entry>,
    /// Where to go on; `None` at the end. A page may be empty and still not be the last.
    #[serde(rename = "u", default)]
    pub next: Option<Cursor>,
}

/// Statements of an owner about its own names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Certificates and claims; at most [`crate::limits::MAX_PAGE_ENTRIES`].
    #[serde(rename = "s")]
    pub statements: Vec<Statement>,
    /// Where to go on; `None` at the end. A page may be empty and still not be the last.
    #[serde(rename = "u", default)]
    pub next: Option<Cursor>,
}

/// A peer as the master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    #[serde(rename = "p")]
    pub peer: PeerId,
    /// Where it listens, without its peer id.
    #[serde(rename = "a")]
    pub addresses: Vec<Multiaddr>,
    /// Whether the master doubts that it can be reached.
    #[serde(rename = "t")]
    pub suspect: bool,
    /// Number of names that it holds.
    #[serde(rename = "k")]
    pub entries: u64,
    /// Whether connections to its addresses come about, if the master has tried.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
}
