//! What a node tells its user: one set of types for the handle, the HTTP interface and `--json`.

mod as_text;
mod get;

use std::path::PathBuf;

pub(crate) use as_text::{optional_text, path_text, text, text_list};
pub use get::{FailedFile, GetOptions, GetReport, GetRequest, GotFile, KeptFile};
use serde::{Deserialize, Serialize};
use swarmdex_protocols::{ContentId, Multiaddr, Name, PeerId, Version};

use crate::config::Role;
use crate::storage::shares::LeftOut;

/// A node that listens: what the first line of `swarmdex run` says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// The node's role.
    pub role: Role,
    /// The node's peer id.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// Where it listens, each with `/p2p/` and its peer id.
    pub listen: Vec<Multiaddr>,
}

/// An entry of the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryInfo {
    /// The name.
    pub name: Name,
    /// Content id.
    pub content: ContentId,
    /// Size in bytes.
    pub size: u64,
    /// The peer that holds the name.
    #[serde(with = "text")]
    pub owner: PeerId,
    /// Version of the entry; 0 while no master has granted it.
    pub version: Version,
}

/// Who answered a lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The master.
    Master,
    /// The DHT.
    Dht,
}

/// A peer that can serve a content id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderInfo {
    /// Its peer id.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// Where it listens, without its peer id; at most 16 addresses.
    pub addresses: Vec<Multiaddr>,
    /// Whether the master hears of it.
    pub state: PeerState,
    /// Whether connections to its addresses come about, if the master has tried: one behind a router or a firewall connects by itself
    /// when something is wanted of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
}

/// The answer to a lookup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupInfo {
    /// The entry.
    #[serde(flatten)]
    pub entry: EntryInfo,
    /// Whether the master's signature on it was checked and good.
    pub certified: bool,
    /// Who answered.
    pub source: Source,
    /// Peers that have the content, the best to ask first; at most 32.
    pub holders: Vec<HolderInfo>,
    /// Peers that other certificates name as the owner: nodes that missed a change, or two masters that run with one key.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "text_list")]
    pub other_owners: Vec<PeerId>,
    /// Whether there may be more of them than are listed.
    #[serde(default)]
    pub more_holders: bool,
    /// Whether its owner says that the file may be executed; `None` if it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<bool>,
    /// When the file was last modified, by its owner, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified_ms: Option<i64>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SearchInfo {
    /// The entries, sorted by name.
    pub entries: Vec<EntryInfo>,
    /// Whether there are more than were asked for, or may be: an owner did not tell all of its names.
    pub more: bool,
}

/// How the master sees a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// It answers.
    Alive,
    /// It does not, and its lease runs out.
    Suspect,
}

/// A member of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its peer id.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// How the master sees it.
    pub state: PeerState,
    /// Where it listens, without its peer id; at most 16 addresses.
    pub addresses: Vec<Multiaddr>,
    /// Number of names that it holds.
    pub names: u64,
    /// Whether connections to its addresses come about, if the master has tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
}

/// How a node stands with its master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum MasterState {
    /// This node is the master.
    #[serde(rename = "self")]
    Own,
    /// No master is known yet.
    Unknown,
    /// A member of this master's network.
    Joined {
        /// The master.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// The master cannot be reached, or refuses.
    Unreachable {
        /// The master, if it is known.
        #[serde(with = "optional_text")]
        peer_id: Option<PeerId>,
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
        /// What went wrong last.
        reason: String,
    },
}

/// How a node and its master agree about the node's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgreementInfo {
    /// When both were last seen to hold the same, in milliseconds since 1970.
    pub confirmed_ms: u64,
    /// How many names that are now.
    pub names: u64,
    /// Names about which both differed, and that were put right, since the node started.
    pub repaired: u64,
    /// Whether the master compares; one of an earlier build does not.
    pub checked: bool,
}

/// What a node is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its peer id.
    #[serde(with = "text")]
    pub peer_id: PeerId,
    /// Its network.
    pub network: String,
    /// Version of the program.
    pub program: String,
    /// Process id.
    pub pid: u32,
    /// For how long it has run, in seconds.
    pub uptime_seconds: u64,
    /// Where it listens, each with `/p2p/` and its peer id.
    pub listen: Vec<Multiaddr>,
    /// Where its HTTP interface listens, if it does. The interface alone says so: [`crate::Node::status`] does not.
    pub http: Option<String>,
    /// How it stands with its master.
    pub master: MasterState,
    /// When node and master were last seen to hold the same names; `None` before the first join.
    #[serde(default)]
    pub agreement: Option<AgreementInfo>,
    /// What is known of another node with this identity.
    #[serde(default)]
    pub twin: Option<String>,
    /// Other masters of this network that were met, or that peers follow; 16 of either at most.
    #[serde(default, with = "text_list")]
    pub other_masters: Vec<PeerId>,
    /// Nodes that it is connected to.
    pub connected: usize,
    /// Interfaces on which it looks for other nodes by mDNS, each as `NAME (IPv4, IPv6)`; `None` if it does not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mdns: Option<Vec<String>>,
    /// Whether the master could connect to it, if it tried: not to one behind a router or a firewall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// How it stands with the DHT.
    pub dht: DhtInfo,
    /// Entries that it shares.
    pub shared: SharedCounts,
    /// Downloads that run.
    pub downloads: usize,
    /// Bytes of files sent to others since the node started.
    #[serde(default)]
    pub uploaded_bytes: u64,
    /// Bytes of files that came from others since the node started, those that were of no use included.
    #[serde(default)]
    pub downloaded_bytes: u64,
    /// Counts of the index; a master's alone.
    pub index: Option<IndexCounts>,
    /// Lines of the log of its process that could not be written.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// Parts of the node that panicked since it started, by name; those without which it cannot go on end it.
    #[serde(default)]
    pub failed_tasks: Vec<String>,
}

/// How a node stands with the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct DhtInfo {
    /// Nodes that it knows.
    pub nodes: u64,
    /// Names that it stores statements about, for others and its own.
    pub records: u64,
    /// Pairs of a key and a node that is found under it, that it stores.
    pub providers: u64,
    /// Closest-nodes queries since it started.
    pub closest_queries: u64,
    /// Messages that it sent to look records up since it started.
    #[serde(default)]
    pub lookup_requests: u64,
    /// What it publishes itself.
    #[serde(flatten)]
    pub mirror: MirrorInfo,
}

/// What a node publishes to the mirror.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct MirrorInfo {
    /// Records: statements about names, and keys under which it is found.
    #[serde(rename = "publications")]
    pub records: u64,
    /// Of these, those that some node stores.
    pub published: u64,
    /// Records that wait for room, at the nodes that are to store them or in this node's own list.
    #[serde(default)]
    pub no_room: u64,
    /// Records sent since the start, repetitions counted.
    pub sent: u64,
    /// Copies of a record at other nodes that were read back since they were stored, in the mean of all records.
    #[serde(default)]
    pub copies: f64,
    /// The fewest such copies of any record.
    #[serde(default)]
    pub fewest_copies: u64,
    /// Whether something was shared, granted or lost that these counts do not know of yet.
    #[serde(default)]
    pub changing: bool,
}

/// How many entries a node shares, by what the master says of them: each counts in one of these but `suspended`, and in `entries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SharedCounts {
    /// All.
    pub entries: u64,
    /// Size of all files together, in bytes.
    pub bytes: u64,
    /// Granted by the master, and confirmed in the last two leases.
    pub certified: u64,
    /// Granted by the master, and not confirmed lately.
    #[serde(default)]
    pub unconfirmed: u64,
    /// Claimed while no master can be reached.
    pub claimed: u64,
    /// Not yet answered.
    pub pending: u64,
    /// Lost to another owner.
    pub conflicts: u64,
    /// Refused for another reason.
    pub refused: u64,
    /// How many of all these have files that are away: the names are kept, and not served.
    #[serde(default)]
    pub suspended: u64,
}

/// What a master's index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IndexCounts {
    /// Names.
    pub names: u64,
    /// Members.
    pub peers: u64,
    /// Members that are suspect.
    pub suspects: u64,
}

/// What the master says of a name that this node shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "standing")]
pub enum Standing {
    /// Not yet answered.
    Pending,
    /// Granted, and confirmed in the last two leases.
    Certified,
    /// Granted, and not confirmed lately: the master cannot be asked, or is being told everything anew.
    Unconfirmed,
    /// Claimed while no master can be reached: provisional.
    Claimed,
    /// Another peer holds the name.
    Conflict {
        /// Its owner.
        #[serde(with = "text")]
        conflict_owner: PeerId,
    },
    /// Not granted for another reason.
    Refused {
        /// The reason.
        reason: String,
    },
}

/// A name that this node shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedInfo {
    /// The entry, with this node as owner.
    #[serde(flatten)]
    pub entry: EntryInfo,
    /// What the master says of it.
    #[serde(flatten)]
    pub standing: Standing,
    /// The file.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Whether it is away with the file or folder that was shared: the name is kept, and not served.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
}

/// What sharing came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShareReport {
    /// What is shared by it, with the master's verdicts as far as they came.
    pub entries: Vec<SharedInfo>,
    /// Files that are not shared although they were meant, and why; and what may hold secrets.
    pub skipped: Vec<Skipped>,
    /// How much was left out in all.
    #[serde(default)]
    pub left_out: LeftOut,
    /// Files that programs have open for writing, at most 1,000, as far as that was known within 2 seconds. What they change through a mapping shows
    /// late, or never.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub written: Vec<WrittenFile>,
}

/// A file that a program has open for writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// The file.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// The program, as it calls itself.
    pub program: String,
    /// Its process id.
    pub pid: u32,
}

/// A file that is not shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The file.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// Whether it would be shared if the disk, or this system, had done what was asked of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// What became of one name in a revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedInfo {
    /// The name.
    pub name: String,
    /// Whether the master knows already; if not, it is told as soon as it can be reached.
    pub acknowledged: bool,
}

/// How far a long operation is. Totals grow while more is found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, as far as known.
    pub total_bytes: u64,
    /// Files done.
    pub done_files: u64,
    /// Files in all, as far as known.
    pub total_files: u64,
    /// What is being worked on.
    pub current: String,
    /// What it waits for if it cannot go on, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}
