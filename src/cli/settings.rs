//! The configuration of a node from flags, environment, file and defaults, in that order of precedence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;
use serde::Deserialize;
use swarmdex_protocols::{Multiaddr, Network};

use super::select::SelectArgs;
use crate::config::{
    Config, DhtConfig, FetchConfig, IdentityConfig, LONGEST_TIME, LeaseConfig, LimitsConfig, OnNewMachine, Origin, Role,
};
use crate::node::check_patterns;

/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Flags that say what kind of node to run; each also has an environment variable.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Node")]
pub(super) struct NodeArgs {
    /// What the node does: keep the index, or share and download
    #[arg(long, global = true, value_enum, env = "SWARMDEX_ROLE")]
    role: Option<Role>,
    /// Share a file or folder from the start; may be repeated
    #[arg(long, global = true, value_name = "PATH", env = "SWARMDEX_SHARE", value_delimiter = ',')]
    share: Vec<PathBuf>,
    /// Address of the master, such as /ip4/10.0.0.1/tcp/4747/p2p/12D3…; may be repeated
    #[arg(long, global = true, value_name = "MULTIADDR", env = "SWARMDEX_MASTER", value_delimiter = ',')]
    master: Vec<Multiaddr>,
    /// Address of any node through which to enter the network; may be repeated
    #[arg(long, global = true, value_name = "MULTIADDR", env = "SWARMDEX_BOOTSTRAP", value_delimiter = ',')]
    bootstrap: Vec<Multiaddr>,
    /// Address to listen on; may be repeated
    #[arg(long, global = true, value_name = "MULTIADDR", env = "SWARMDEX_LISTEN", value_delimiter = ',')]
    listen: Vec<Multiaddr>,
    /// Offer the HTTP interface on TCP as well, for holders of the token in DIR/http-token
    #[arg(long, global = true, value_name = "ADDR:PORT|off", env = "SWARMDEX_HTTP", value_parser = parse_http)]
    http: Option<Http>,
    /// Folder for identity, index and share table [default: the platform's data folder]
    #[arg(long, global = true, value_name = "DIR", env = "SWARMDEX_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Name of the network; nodes of other networks are ignored
    #[arg(long, global = true, value_name = "NAME", env = "SWARMDEX_NETWORK", value_parser = parse_network)]
    network: Option<Network>,
    /// Configuration file [default: config.toml in the data folder, if it exists]
    #[arg(long, global = true, value_name = "FILE", env = "SWARMDEX_CONFIG")]
    config: Option<PathBuf>,
    /// Do not look for nodes on the local network
    #[arg(long, global = true, env = "SWARMDEX_NO_MDNS", value_parser = clap::builder::BoolishValueParser::new())]
    no_mdns: bool,
    /// Do not pass on to others what was downloaded
    #[arg(long, global = true, env = "SWARMDEX_NO_RESHARE", value_parser = clap::builder::BoolishValueParser::new())]
    no_reshare: bool,
    #[command(flatten)]
    pub(super) select: SelectArgs,
    /// What to do if the data folder was used on another machine before [default: same]
    #[arg(long, global = true, value_enum, env = "SWARMDEX_ON_NEW_MACHINE")]
    on_new_machine: Option<OnNewMachine>,
}

/// Where the HTTP interface is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Http(Option<SocketAddr>);

fn parse_http(text: &str) -> Result<Http, String> {
    if text == "off" {
        return Ok(Http(None));
    }
    text.parse().map(|address| Http(Some(address))).map_err(|_| "it is neither ADDR:PORT nor off".to_owned())
}

fn parse_network(text: &str) -> Result<Network, String> {
    Network::parse(text).map_err(|error| error.to_string())
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum SettingsError {
    /// No data folder is known.
    #[error("this system names no data folder for its user; choose one by --data-dir")]
    NoDataDir,
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is longer than any configuration.
    #[error("the configuration {path} is over {MAX_FILE} bytes long")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file is no configuration; the text shows the line.
    #[error("in the configuration {path}: {text}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        text: String,
    },
    /// Values do not go together.
    #[error("{0}")]
    Invalid(#[from] Invalid),
}

/// Values that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Invalid {
    /// A lease that ends before the pings that would renew it.
    #[error("lease_seconds must be longer than ping_interval_seconds * (missed_pings + 1)")]
    Lease,
    /// Records that are forgotten before they come again.
    #[error("lifetime_seconds must be at least twice republish_seconds")]
    Republish,
    /// A time that is none.
    #[error("{0} must be more than 0 and at most a year")]
    Time(&'static str),
    /// A bound of nothing.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A pattern that is none.
    #[error("{0}")]
    Pattern(String),
    /// An address of a kind that a node cannot use.
    #[error("{key}: {address} is not of the form /ip4|ip6/ADDRESS/tcp/PORT or …/udp/PORT/quic-v1")]
    Address {
        /// The key.
        key: &'static str,
        /// The address.
        address: Multiaddr,
    },
}

/// The configuration file: every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    role: Option<Role>,
    data_dir: Option<PathBuf>,
    network: Option<Network>,
    listen: Option<Vec<Multiaddr>>,
    master: Option<Vec<Multiaddr>>,
    bootstrap: Option<Vec<Multiaddr>>,
    share: Option<Vec<PathBuf>>,
    exclude: Option<Vec<String>>,
    hidden: Option<bool>,
    no_ignore: Option<bool>,
    watch: Option<bool>,
    http: Option<String>,
    mdns: Option<bool>,
    lease: LeaseFile,
    limits: LimitsFile,
    fetch: FetchFile,
    dht: DhtFile,
    identity: IdentityFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LeaseFile {
    lease_seconds: Option<f64>,
    ping_interval_seconds: Option<f64>,
    missed_pings: Option<u32>,
    max_backoff_seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsFile {
    peers: Option<usize>,
    peers_per_ip: Option<usize>,
    names_per_peer: Option<usize>,
    names_per_ip: Option<usize>,
    names: Option<usize>,
    pending_per_peer: Option<usize>,
    pending_per_ip: Option<usize>,
    pending: Option<usize>,
    connections: Option<usize>,
    connections_per_ip: Option<usize>,
    connections_per_peer: Option<usize>,
    memory_mib: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FetchFile {
    window_mib: Option<usize>,
    upload_mib: Option<usize>,
    timeout_seconds: Option<f64>,
    downloads: Option<usize>,
    threads: Option<usize>,
    reshare: Option<bool>,
    sync: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DhtFile {
    lifetime_seconds: Option<f64>,
    republish_seconds: Option<f64>,
    records: Option<usize>,
    claims_per_peer: Option<usize>,
    providers: Option<usize>,
    keys_per_peer: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct IdentityFile {
    on_new_machine: Option<OnNewMachine>,
    machine_id_file: Option<PathBuf>,
}

impl NodeArgs {
    /// The data directory that these flags mean, whatever else they say.
    pub(super) fn data_dir(&self) -> Result<PathBuf, SettingsError> {
        self.config().map(|config| config.data_dir)
    }

    /// The flags by which this data directory was found, as a shell takes them, each with a space in front.
    pub(super) fn repeated(&self) -> String {
        let given = [("--data-dir", &self.data_dir), ("--config", &self.config)];
        let flag = |(flag, value): (&str, &Option<PathBuf>)| {
            value.as_ref().map(|value| format!(" {flag} {}", quoted(&value.display().to_string())))
        };
        given.into_iter().filter_map(flag).collect()
    }

    /// The whole configuration.
    pub(super) fn config(&self) -> Result<Config, SettingsError> {
        let (path, file) = self.read_file()?;
        let data_dir = self.data_dir.clone().or_else(|| file.data_dir.clone());
        let data_dir = data_dir.map_or_else(default_data_dir, Ok)?;
        self.merge(file, data_dir).map_err(|error| match (error, path) {
            (SettingsError::Parse { text, .. }, Some(path)) => SettingsError::Parse { path, text },
            (error, _) => error,
        })
    }

    /// The file that was named, or the one in the data directory if there is one.
    fn read_file(&self) -> Result<(Option<PathBuf>, File), SettingsError> {
        if let Some(path) = &self.config {
            return Ok((Some(path.clone()), parse(path, &read(path)?)?));
        }
        let folder = self.data_dir.clone().map_or_else(default_data_dir, Ok)?;
        let path = folder.join("config.toml");
        match read(&path) {
            Ok(text) => Ok((Some(path.clone()), parse(&path, &text)?)),
            Err(SettingsError::Read { source, .. })
                if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                Ok((None, File::default()))
            }
            Err(error) => Err(error),
        }
    }

    fn merge(&self, file: File, data_dir: PathBuf) -> Result<Config, SettingsError> {
        // Taken apart, so that a key that is forgotten here does not compile.
        let File {
            role,
            data_dir: _,
            network,
            listen,
            master,
            bootstrap,
            share,
            exclude,
            hidden,
            no_ignore,
            watch,
            http,
            mdns,
            lease,
            limits,
            fetch,
            dht,
            identity,
        } = file;
        let defaults = Config::new(Role::Peer, data_dir);
        let http = match (self.http, http) {
            (Some(Http(http)), _) => http,
            (None, Some(text)) => {
                let wrong = |text| SettingsError::Parse { path: PathBuf::new(), text: format!("http: {text}") };
                parse_http(&text).map_err(wrong)?.0
            }
            (None, None) => defaults.http,
        };
        let mut fetch = fetch.merge(defaults.fetch)?;
        fetch.reshare &= !self.no_reshare;
        let config = Config {
            role: self.role.or(role).unwrap_or(defaults.role),
            network: self.network.clone().or(network).unwrap_or(defaults.network),
            listen: first_given(&self.listen, listen),
            master: first_given(&self.master, master),
            bootstrap: first_given(&self.bootstrap, bootstrap),
            share_from: if self.share.is_empty() { Origin::Configuration } else { Origin::Flag },
            share: first_given(&self.share, share),
            selection: self.select.merge(exclude, hidden, no_ignore),
            watch: watch.unwrap_or(defaults.watch),
            http,
            mdns: !self.no_mdns && mdns.unwrap_or(defaults.mdns),
            lease: lease.merge(defaults.lease)?,
            limits: limits.merge(defaults.limits)?,
            fetch,
            dht: dht.merge(defaults.dht)?,
            identity: identity.merge(self.on_new_machine, defaults.identity),
            transient: false,
            copies: None,
            data_dir: defaults.data_dir,
        };
        check_addresses(&config)?;
        check_patterns(&config.selection.exclude).map_err(|error| Invalid::Pattern(error.to_string()))?;
        Ok(config)
    }
}

fn first_given<T: Clone>(flags: &[T], file: Option<Vec<T>>) -> Vec<T> {
    if flags.is_empty() { file.unwrap_or_default() } else { flags.to_vec() }
}

impl LeaseFile {
    fn merge(self, defaults: LeaseConfig) -> Result<LeaseConfig, Invalid> {
        let Self { lease_seconds, ping_interval_seconds, missed_pings, max_backoff_seconds } = self;
        let config = LeaseConfig {
            lease: seconds("lease_seconds", lease_seconds, defaults.lease)?,
            ping_interval: seconds("ping_interval_seconds", ping_interval_seconds, defaults.ping_interval)?,
            missed_pings: missed_pings.unwrap_or(defaults.missed_pings),
            max_backoff: seconds("max_backoff_seconds", max_backoff_seconds, defaults.max_backoff)?,
        };
        at_least_one("missed_pings", config.missed_pings as usize)?;
        // A peer that does not answer is to be suspect before it is evicted.
        if config.lease <= config.ping_interval.saturating_mul(config.missed_pings.saturating_add(1)) {
            return Err(Invalid::Lease);
        }
        Ok(config)
    }
}

impl LimitsFile {
    fn merge(self, defaults: LimitsConfig) -> Result<LimitsConfig, Invalid> {
        let Self {
            peers,
            peers_per_ip,
            names_per_peer,
            names_per_ip,
            names,
            pending_per_peer,
            pending_per_ip,
            pending,
            connections,
            connections_per_ip,
            connections_per_peer,
            memory_mib,
        } = self;
        let bound = |key, given: Option<usize>, default| at_least_one(key, given.unwrap_or(default));
        Ok(LimitsConfig {
            peers: bound("peers", peers, defaults.peers)?,
            peers_per_ip: bound("peers_per_ip", peers_per_ip, defaults.peers_per_ip)?,
            names_per_peer: bound("names_per_peer", names_per_peer, defaults.names_per_peer)?,
            names_per_ip: bound("names_per_ip", names_per_ip, defaults.names_per_ip)?,
            names: bound("names", names, defaults.names)?,
            pending_per_peer: bound("pending_per_peer", pending_per_peer, defaults.pending_per_peer)?,
            pending_per_ip: bound("pending_per_ip", pending_per_ip, defaults.pending_per_ip)?,
            pending: bound("pending", pending, defaults.pending)?,
            connections: bound("connections", connections, defaults.connections)?,
            connections_per_ip: bound("connections_per_ip", connections_per_ip, defaults.connections_per_ip)?,
            connections_per_peer: bound("connections_per_peer", connections_per_peer, defaults.connections_per_peer)?,
            memory_mib: bound("memory_mib", memory_mib, defaults.memory_mib)?,
        })
    }
}

impl FetchFile {
    fn merge(self, defaults: FetchConfig) -> Result<FetchConfig, Invalid> {
        let Self { window_mib, upload_mib, timeout_seconds, downloads, threads, reshare, sync } = self;
        Ok(FetchConfig {
            window_mib: at_least_one("window_mib", window_mib.unwrap_or(defaults.window_mib))?,
            upload_mib: at_least_one("upload_mib", upload_mib.unwrap_or(defaults.upload_mib))?,
            timeout: seconds("timeout_seconds", timeout_seconds, defaults.timeout)?,
            downloads: at_least_one("downloads", downloads.unwrap_or(defaults.downloads))?,
            threads: threads.unwrap_or(defaults.threads),
            reshare: reshare.unwrap_or(defaults.reshare),
            sync: sync.unwrap_or(defaults.sync),
        })
    }
}

impl DhtFile {
    fn merge(self, defaults: DhtConfig) -> Result<DhtConfig, Invalid> {
        let Self { lifetime_seconds, republish_seconds, records, claims_per_peer, providers, keys_per_peer } = self;
        let bound = |key, given: Option<usize>, default| at_least_one(key, given.unwrap_or(default));
        let config = DhtConfig {
            lifetime: seconds("lifetime_seconds", lifetime_seconds, defaults.lifetime)?,
            republish: seconds("republish_seconds", republish_seconds, defaults.republish)?,
            records: bound("records", records, defaults.records)?,
            claims_per_peer: bound("claims_per_peer", claims_per_peer, defaults.claims_per_peer)?,
            providers: bound("providers", providers, defaults.providers)?,
            keys_per_peer: bound("keys_per_peer", keys_per_peer, defaults.keys_per_peer)?,
        };
        // A record must come again before it is forgotten.
        if config.lifetime < config.republish * 2 {
            return Err(Invalid::Republish);
        }
        Ok(config)
    }
}

impl IdentityFile {
    fn merge(self, flag: Option<OnNewMachine>, defaults: IdentityConfig) -> IdentityConfig {
        let Self { on_new_machine, machine_id_file } = self;
        IdentityConfig {
            on_new_machine: flag.or(on_new_machine).unwrap_or(defaults.on_new_machine),
            machine_id_file: machine_id_file.unwrap_or(defaults.machine_id_file),
        }
    }
}

fn at_least_one(key: &'static str, value: usize) -> Result<usize, Invalid> {
    if value == 0 { Err(Invalid::Zero(key)) } else { Ok(value) }
}

fn seconds(key: &'static str, given: Option<f64>, default: Duration) -> Result<Duration, Invalid> {
    match given {
        None => Ok(default),
        Some(value) if value > 0.0 && value <= LONGEST_TIME.as_secs_f64() => Ok(Duration::from_secs_f64(value)),
        Some(_) => Err(Invalid::Time(key)),
    }
}

/// Addresses of a kind that a node can listen on or dial.
fn check_addresses(config: &Config) -> Result<(), Invalid> {
    use swarmdex_protocols::address::{can_be_dialled, can_be_listened_on};
    let fits_listen: fn(&Multiaddr) -> bool = can_be_listened_on;
    let checks = [
        ("listen", &config.listen, fits_listen),
        ("master", &config.master, can_be_dialled),
        ("bootstrap", &config.bootstrap, can_be_dialled),
    ];
    for (key, addresses, fits) in checks {
        if let Some(address) = addresses.iter().find(|address| !fits(address)) {
            return Err(Invalid::Address { key, address: address.clone() });
        }
    }
    Ok(())
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_safe =
        |char: char| char.is_alphanumeric() || matches!(char, '/' | '.' | '-' | '_' | '+' | ',' | ':' | '@' | '%');
    if !word.is_empty() && word.chars().all(is_safe) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    use std::io::Read;
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(SettingsError::TooLong { path: path.to_owned() });
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<File, SettingsError> {
    toml::from_str(text)
        .map_err(|error| SettingsError::Parse { path: path.to_owned(), text: error.to_string().trim_end().to_owned() })
}

/// The platform's data folder.
fn default_data_dir() -> Result<PathBuf, SettingsError> {
    let base = etcetera::choose_base_strategy().map_err(|_| SettingsError::NoDataDir)?;
    Ok(base.data_dir().join("swarmdex"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Selection;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn config(flags: &[&str], file: &str) -> Result<Config, SettingsError> {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("config.toml"), file).unwrap();
        let folder = folder.path().to_str().unwrap();
        Flags::parse_from([&["swarmdex", "--data-dir", folder], flags].concat()).node.config()
    }

    #[test]
    fn the_example_lists_every_key_with_its_default() {
        let example = include_str!("../../config.example.toml");
        let plain = config(&[], "").unwrap();
        let loaded = config(&[], example).unwrap();
        assert_eq!(Config { data_dir: plain.data_dir.clone(), ..loaded }, plain);
        // With every comment mark of a key gone, every key is there: none is unknown, and none is missing.
        let full: String =
            example.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
        let table: toml::Table = toml::from_str(&full).unwrap();
        let count: usize = table.values().map(|value| value.as_table().map_or(1, toml::Table::len)).sum();
        assert_eq!(count, 13 + 4 + 12 + 7 + 6 + 2, "keys in the example");
        config(&[], &full).unwrap();
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let file = "role = \"master\"\nnetwork = \"lab\"\nlisten = [\"/ip4/127.0.0.1/tcp/1\"]\nmdns = false\n[fetch]\ndownloads = 3\n";
        let from_file = config(&[], file).unwrap();
        assert_eq!((from_file.role, from_file.network.as_str(), from_file.mdns), (Role::Master, "lab", false));
        assert_eq!(from_file.fetch, FetchConfig { downloads: 3, ..FetchConfig::default() });
        let from_flags =
            config(&["--role", "slave", "--listen", "/ip6/::1/udp/2/quic-v1", "--http", "off"], file).unwrap();
        assert_eq!((from_flags.role, from_flags.listen.len()), (Role::Peer, 1));
        assert_eq!(from_flags.listen[0].to_string(), "/ip6/::1/udp/2/quic-v1");
        // What is left out adds up, and who named a share is told apart.
        let file = "share = [\"/a\"]\nexclude = [\"*.raw\"]\nhidden = true\n";
        let from_file = config(&[], file).unwrap();
        assert_eq!((from_file.share_from, from_file.selection.exclude.len()), (Origin::Configuration, 1));
        let from_flags = config(&["--share", "/b", "--exclude", "*.log", "--no-ignore"], file).unwrap();
        assert_eq!((from_flags.share_from, from_flags.share), (Origin::Flag, vec![PathBuf::from("/b")]));
        let exclude = ["*.raw", "*.log"].map(str::to_owned).to_vec();
        assert_eq!(from_flags.selection, Selection { exclude, hidden: true, no_ignore: true });
    }

    #[test]
    fn flags_that_lead_to_a_node_are_repeated_as_a_shell_takes_them() {
        let repeated = |flags: &[&str]| Flags::parse_from([&["swarmdex"], flags].concat()).node.repeated();
        assert_eq!(repeated(&["--data-dir", "/srv/a_b", "--no-mdns"]), " --data-dir /srv/a_b");
        assert_eq!(
            repeated(&["--config", "it's.toml", "--data-dir", "my data"]),
            r" --data-dir 'my data' --config 'it'\''s.toml'"
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = config(&[], "role = \"peer\"\n\n[lease]\nleese_seconds = 3\n").unwrap_err().to_string();
        assert!(error.contains("leese_seconds") && error.contains("line 4"), "{error}");
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (file, part) in [
            ("[lease]\nlease_seconds = 0", "lease_seconds"),
            ("[lease]\nlease_seconds = -1.5", "lease_seconds"),
            ("[lease]\nlease_seconds = nan", "lease_seconds"),
            ("[lease]\nlease_seconds = 8", "longer"),
            ("[limits]\nnames = 0", "names"),
            ("[dht]\nlifetime_seconds = 60", "twice"),
            ("listen = [\"/dns4/example.org/tcp/1\"]", "listen"),
            ("master = [\"/ip4/10.0.0.1/udp/1\"]", "master"),
            ("http = \"everywhere\"", "http"),
            ("exclude = [\"{a,b\"]", "{a,b"),
            ("role = \"king\"", "role"),
            ("network = \"a/b\"", "network"),
        ] {
            let error = config(&[], file).unwrap_err().to_string();
            assert!(error.contains(part), "{file}: {error}");
        }
    }
}
