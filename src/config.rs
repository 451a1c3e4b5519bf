//! Configuration of a node: plain data with defaults. Reading it from files, environment and flags is
//! the command line's work, and so is most of checking it: see [`Config`].

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use swarmdex_protocols::{Multiaddr, Network};

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Keeps the central index.
    Master,
    /// Shares files, searches and downloads.
    #[serde(alias = "slave")]
    #[cfg_attr(feature = "cli", value(alias = "slave"))]
    Peer,
}

impl Role {
    /// The word for it, as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a node does that finds its data directory on another machine than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum OnNewMachine {
    /// Go on as the same node, and say so. A disk that moved is more common than one that was copied, and the master
    /// keeps a copy out for as long as the other answers.
    #[default]
    Same,
    /// Become a new node that shares the same files.
    New,
    /// Do not start.
    Stop,
}

/// Who said that something is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `swarmdex share`: it stands until `unshare`.
    Command,
    /// `--share` or `SWARMDEX_SHARE`: it ends with them.
    Flag,
    /// The configuration file: it ends with its line there.
    Configuration,
    /// An earlier build, which did not note who: it stands until `unshare`.
    Earlier,
}

/// What of shared folders is shared. Data directories of nodes never are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Patterns, in the syntax of `.gitignore`, of what is left out; at most 1,000, each of 1 to 4,096 bytes.
    pub exclude: Vec<String>,
    /// Whether hidden files and folders are shared.
    pub hidden: bool,
    /// Whether what `.swarmdexignore` and the built-in list leave out is shared.
    pub no_ignore: bool,
}

/// How files and folders are shared by hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShareOptions {
    /// What of folders is shared.
    pub selection: Selection,
    /// Whether every file is hashed, also where its times say that it has not changed since it was.
    pub rehash: bool,
}

/// Everything that a node can be told. Every key of the configuration file is a field here.
///
/// Made by [`Config::new`] and changed by its fields or, in a row, by the methods that begin with `with_`; more fields may
/// come.
///
/// # Limits
/// The command line refuses counts of 0, times that are not above 0 or are over a year, and a lifetime of records that is less than
/// twice the time in which they come again. It also refuses addresses of kinds that nothing can be done with.
/// [`crate::Node::start`] refuses such times, an address that it cannot listen on, and a pattern that is none. What else breaks these
/// limits it takes as it is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// What the node does.
    pub role: Role,
    /// Folder for identity, index and share table; made if it is not there. The command line takes the platform's data folder if none
    /// is given.
    pub data_dir: PathBuf,
    /// The network that the node belongs to; nodes of other networks are ignored.
    pub network: Network,
    /// Addresses to listen on; if empty, all interfaces over TCP and QUIC, IPv4 and IPv6: a master on port 4747, a peer on free ports.
    pub listen: Vec<Multiaddr>,
    /// Addresses of the master, each with or without its `/p2p/` peer id.
    pub master: Vec<Multiaddr>,
    /// Addresses of any nodes through which to enter the network.
    pub bootstrap: Vec<Multiaddr>,
    /// Files and folders to share from the start.
    pub share: Vec<PathBuf>,
    /// Who named them.
    pub share_from: Origin,
    /// What of shared folders is shared: `exclude` counts for all of them, the rest for those in `share`.
    pub selection: Selection,
    /// Whether files that are added to shared folders, changed or deleted are announced and revoked by themselves.
    pub watch: bool,
    /// Where the command line serves the HTTP interface besides the local socket; `None` turns it off. A node by itself serves neither.
    pub http: Option<SocketAddr>,
    /// Whether to find nodes on the local network by mDNS.
    pub mdns: bool,
    /// Times of membership.
    pub lease: LeaseConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Downloads and uploads.
    pub fetch: FetchConfig,
    /// The mirror of the index.
    pub dht: DhtConfig,
    /// Who the node is.
    pub identity: IdentityConfig,
    /// Whether the node lives for one command only: it asks the DHT and is no part of it. No key of the file.
    pub transient: bool,
    /// Folder in which such a node remembers what it downloaded where; other nodes do so in their data directory. No key of
    /// the file.
    pub copies: Option<PathBuf>,
}

/// The longest time that a configuration may name: a year.
pub(crate) const LONGEST_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Times of membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseConfig {
    /// For how long the master counts a peer as alive without hearing from it.
    pub lease: Duration,
    /// How often nodes ping each other.
    pub ping_interval: Duration,
    /// After how many missed pings in a row a peer is suspect.
    pub missed_pings: u32,
    /// Longest pause between two attempts to reach the master; attempts begin at half a second and double, with jitter.
    pub max_backoff: Duration,
}

/// Bounds of what strangers can make a node keep. What is over one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Members of the network that the master admits.
    pub peers: usize,
    /// Members that come from one IP address, or from one /64 of IPv6.
    pub peers_per_ip: usize,
    /// Names that one peer may hold.
    pub names_per_peer: usize,
    /// Names that the members of one IP address, or of one /64 of IPv6, may hold together.
    pub names_per_ip: usize,
    /// Names in the index.
    pub names: usize,
    /// Requests of one peer that wait for an answer.
    pub pending_per_peer: usize,
    /// Requests from one IP address that wait for an answer.
    pub pending_per_ip: usize,
    /// Requests that wait for an answer in all.
    pub pending: usize,
    /// Connections in all. There are fewer if the system lets the process open too few files: the log says so.
    pub connections: usize,
    /// Connections from one IP address, or from one /64 of IPv6.
    pub connections_per_ip: usize,
    /// Connections with one peer.
    pub connections_per_peer: usize,
    /// Resident memory, in MiB, above which new connections are refused.
    pub memory_mib: usize,
}

/// Downloads and uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchConfig {
    /// Most bytes, in MiB, asked of one source and not yet answered; 0 counts as 1.
    pub window_mib: usize,
    /// Most bytes, in MiB, read from disk for others and not yet sent.
    pub upload_mib: usize,
    /// For how long a source may leave a request unanswered.
    pub timeout: Duration,
    /// Downloads at the same time; more wait for their turn. 0 counts as 1.
    pub downloads: usize,
    /// Threads that hash what is shared, and what `get` finds in place; 0 means one for each processor.
    pub threads: usize,
    /// Whether what was downloaded, wholly or in part, is passed on while the node runs.
    pub reshare: bool,
    /// Whether a download counts as done only when its bytes and its name are on disk, not merely with the system.
    pub sync: bool,
}

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentityConfig {
    /// What to do on another machine than before.
    pub on_new_machine: OnNewMachine,
    /// File with the id of the machine; without one nothing is compared. Another than the system's is for tests, and for containers
    /// that are given the id of their host.
    pub machine_id_file: PathBuf,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self { on_new_machine: OnNewMachine::default(), machine_id_file: PathBuf::from("/etc/machine-id") }
    }
}

/// The mirror of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DhtConfig {
    /// For how long a node stores a record unless it comes again. Names of owners that died without a master to
    /// say so are found for so long.
    pub lifetime: Duration,
    /// How often a node publishes its records again: a third of the lifetime survives two failures.
    pub republish: Duration,
    /// Names that this node stores statements about, its own not counted; 500 to 600 bytes each.
    pub records: usize,
    /// Names of which this node stores nothing but a claim: of one sender.
    pub claims_per_peer: usize,
    /// Pairs of a key and a node that is found under it; about 70 bytes each.
    pub providers: usize,
    /// Keys under which one node is found.
    pub keys_per_peer: usize,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(3600),
            republish: Duration::from_secs(1200),
            records: 250_000,
            claims_per_peer: 2000,
            providers: 1_500_000,
            keys_per_peer: 1_100_000,
        }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            ping_interval: Duration::from_secs(4),
            missed_pings: 2,
            max_backoff: Duration::from_secs(30),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            peers: 10_000,
            peers_per_ip: 2000,
            names_per_peer: 200_000,
            names_per_ip: 2_000_000,
            names: 5_000_000,
            pending_per_peer: 64,
            pending_per_ip: 1024,
            pending: 4096,
            connections: 2000,
            connections_per_ip: 256,
            connections_per_peer: 4,
            memory_mib: 2048,
        }
    }
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            window_mib: 8,
            upload_mib: 32,
            timeout: Duration::from_secs(20),
            downloads: 16,
            threads: 0,
            reshare: true,
            sync: true,
        }
    }
}

impl Config {
    /// The defaults, for a node with this role and data directory. Nothing is made or checked yet.
    pub fn new(role: Role, data_dir: PathBuf) -> Self {
        Self {
            role,
            data_dir,
            network: Network::default(),
            listen: Vec::new(),
            master: Vec::new(),
            bootstrap: Vec::new(),
            share: Vec::new(),
            share_from: Origin::Configuration,
            selection: Selection::default(),
            watch: true,
            http: None,
            mdns: true,
            lease: LeaseConfig::default(),
            limits: LimitsConfig::default(),
            fetch: FetchConfig::default(),
            dht: DhtConfig::default(),
            identity: IdentityConfig::default(),
            transient: false,
            copies: None,
        }
    }

    /// Whether a node can go by it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let Self { lease, fetch, dht, .. } = self;
        let times = [
            ("lease.lease", lease.lease),
            ("lease.ping_interval", lease.ping_interval),
            ("lease.max_backoff", lease.max_backoff),
            ("fetch.timeout", fetch.timeout),
            ("dht.lifetime", dht.lifetime),
            ("dht.republish", dht.republish),
        ];
        match times.into_iter().find(|(_, time)| time.is_zero() || *time > LONGEST_TIME) {
            Some((field, _)) => Err(ConfigError::Time { field }),
            None => Ok(()),
        }
    }
}

/// Why no node can go by a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A time that is none.
    #[error("the configuration's {field} must be more than 0 and at most a year")]
    Time {
        /// The field of [`Config`].
        field: &'static str,
    },
}

/// Makes a method for each field that embedding programs set.
macro_rules! with {
    ($($(#[$doc:meta])* $method:ident => $field:ident: $type:ty,)+) => {
        impl Config {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $method(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}

with! {
    /// With this for [`Config::network`].
    with_network => network: Network,
    /// With this for [`Config::listen`].
    with_listen => listen: Vec<Multiaddr>,
    /// With this for [`Config::master`].
    with_master => master: Vec<Multiaddr>,
    /// With this for [`Config::bootstrap`].
    with_bootstrap => bootstrap: Vec<Multiaddr>,
    /// With this for [`Config::share`].
    with_share => share: Vec<PathBuf>,
    /// With this for [`Config::selection`].
    with_selection => selection: Selection,
    /// With this for [`Config::watch`].
    with_watch => watch: bool,
    /// With this for [`Config::http`].
    with_http => http: Option<SocketAddr>,
    /// With this for [`Config::mdns`].
    with_mdns => mdns: bool,
    /// With this for [`Config::lease`].
    with_lease => lease: LeaseConfig,
    /// With this for [`Config::limits`].
    with_limits => limits: LimitsConfig,
    /// With this for [`Config::fetch`].
    with_fetch => fetch: FetchConfig,
    /// With this for [`Config::dht`].
    with_dht => dht: DhtConfig,
    /// With this for [`Config::identity`].
    with_identity => identity: IdentityConfig,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_one_word_everywhere() {
        for role in [Role::Master, Role::Peer] {
            let json = serde_json::to_value(role).unwrap();
            assert_eq!(json, role.to_string());
            #[cfg(feature = "cli")]
            assert_eq!(clap::ValueEnum::to_possible_value(&role).unwrap().get_name(), role.as_str());
        }
    }

    #[test]
    fn what_is_set_in_a_row_is_what_the_fields_say() {
        let address: Multiaddr = "/ip4/10.0.0.1/tcp/4747".parse().unwrap();
        let config = Config::new(Role::Peer, PathBuf::from("/data"))
            .with_master(vec![address.clone()])
            .with_share(vec![PathBuf::from("/share")])
            .with_mdns(false)
            .with_fetch(FetchConfig { downloads: 3, ..FetchConfig::default() });
        let mut expected = Config::new(Role::Peer, PathBuf::from("/data"));
        expected.master = vec![address];
        expected.share = vec![PathBuf::from("/share")];
        expected.mdns = false;
        expected.fetch.downloads = 3;
        assert_eq!(config, expected);
    }
}
