//! Nodes and processes for tests: free ports, temporary folders, deadlines, and nothing left behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use swarmdex::config::{Config, Role};
use swarmdex::node::{GetReport, GetRequest, GotFile, LookupInfo, MasterState, Standing};
use swarmdex::{Error, Node};
use swarmdex_protocols::Multiaddr;
use tempfile::TempDir;

/// How long anything may take that is not meant to fail: ample on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Bytes of files that came to a node since it started.
pub async fn downloaded(node: &Node) -> u64 {
    node.status().await.unwrap().downloaded_bytes
}

/// Bytes of files that a node sent since it started.
pub async fn uploaded(node: &Node) -> u64 {
    node.status().await.unwrap().uploaded_bytes
}

/// Asks again and again until the answer is `Some`, or fails with what is being waited for.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the DHT has everything that a node publishes, and so that it can be found there.
pub async fn published(node: &Node) {
    until("everything is published", async || {
        let mirror = node.status().await.unwrap().dht.mirror;
        (!mirror.changing && mirror.records > 0 && mirror.published == mirror.records).then_some(())
    })
    .await;
}

/// A node in this process, with a data directory of its own.
pub struct TestNode {
    pub node: Node,
    pub dir: TempDir,
}

impl std::ops::Deref for TestNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// The loopback address of this process's nodes. All of 127.0.0.0/8 is this host, and connections made by others come
/// from 127.0.0.1: so the port of a node that is down stays free until it is started there again.
pub fn host() -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}", 1 + high)
}

/// Loopback addresses over TCP and QUIC, on free ports, as text.
pub fn free_ports() -> [String; 2] {
    let host = host();
    [format!("/ip4/{host}/tcp/0"), format!("/ip4/{host}/udp/0/quic-v1")]
}

/// Loopback addresses over TCP and QUIC, on free ports.
pub fn loopback() -> Vec<Multiaddr> {
    free_ports().iter().map(|text| address(text)).collect()
}

pub fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

/// A configuration for tests: loopback, no mDNS, short leases.
pub fn config(role: Role, dir: &Path) -> Config {
    let mut config = Config::new(role, dir.join("data"));
    config.listen = loopback();
    config.mdns = false;
    config.lease.lease = Duration::from_secs(4);
    config.lease.ping_interval = Duration::from_millis(500);
    config.lease.max_backoff = Duration::from_secs(1);
    config
}

impl TestNode {
    pub async fn start(role: Role, change: impl FnOnce(&mut Config)) -> Self {
        Self::try_start(role, TempDir::new().unwrap(), change).await.unwrap()
    }

    /// Starts a node in a folder that may have been used before.
    pub async fn try_start(role: Role, dir: TempDir, change: impl FnOnce(&mut Config)) -> Result<Self, Error> {
        let mut config = config(role, dir.path());
        change(&mut config);
        Ok(Self { node: Node::start(config).await?, dir })
    }

    pub async fn master() -> Self {
        Self::start(Role::Master, |_| {}).await
    }

    /// A peer of `master` that has joined.
    pub async fn peer(master: &Node) -> Self {
        Self::peer_with(master, |_| {}).await
    }

    pub async fn peer_with(master: &Node, change: impl FnOnce(&mut Config)) -> Self {
        let addresses = master.ready().listen;
        let peer = Self::start(Role::Peer, |config| {
            config.master = addresses;
            change(config);
        })
        .await;
        joined(&peer).await;
        peer
    }

    /// Writes a file outside the data directory.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Shares a new file by itself and waits until the master granted its name.
    pub async fn share_file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.file(name, bytes);
        let report = self.share(vec![path.clone()], None).outcome().await.unwrap();
        assert_eq!(report.entries.len(), 1, "{report:?}");
        assert_eq!(report.entries[0].standing, Standing::Certified, "{report:?}");
        path
    }

    pub fn output(&self) -> PathBuf {
        let path = self.dir.path().join("output");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub async fn fetch(&self, name: &str) -> Result<GotFile, Error> {
        let request = GetRequest { name: name.to_owned(), output: self.output(), recursive: false };
        let report = self.get(request).outcome().await?;
        Ok(report.files.into_iter().next().unwrap())
    }

    pub async fn fetch_below(&self, prefix: &str) -> Result<GetReport, Error> {
        let request = GetRequest { name: prefix.to_owned(), output: self.output(), recursive: true };
        self.get(request).outcome().await
    }

    /// Stops the node and hands its folder on, for a restart.
    pub async fn stop(self) -> TempDir {
        self.node.shutdown().await.unwrap();
        self.dir
    }

    /// Cuts the node off as a crash would: nobody is told.
    pub fn abandon(&self) {
        self.node.abort();
    }

    /// The folder of a node that was cut off, for a restart.
    pub async fn into_dir(self) -> TempDir {
        let Self { node, dir } = self;
        let _ = node.shutdown().await;
        drop(node);
        dir
    }

    /// Files in the output folder, hidden ones included.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.output()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// An address without the peer id at its end.
pub fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(libp2p::multiaddr::Protocol::P2p(_))) {
        address.pop();
    }
    address
}

/// The address of a node over TCP, without its peer id. A port of QUIC is not free at once when its node
/// stops in the same process, that of TCP is.
pub fn tcp_address(node: &Node) -> Multiaddr {
    let listen = node.ready().listen.into_iter().map(without_peer);
    listen.into_iter().find(|address| address.to_string().contains("/tcp/")).unwrap()
}

/// Waits until a node is a member.
pub async fn joined(node: &Node) {
    until("the peer has joined", async || {
        let status = node.status().await.unwrap();
        matches!(status.master, MasterState::Joined { .. }).then_some(())
    })
    .await;
}

/// Waits until a peer in a process of its own is a member.
pub fn process_joined(peer: &Process) {
    peer.until(&["status"], |status| status["master"]["state"] == "joined");
}

/// Cuts the master off, and waits until each of these peers misses it.
pub async fn lose(master: &TestNode, peers: &[TestNode]) {
    master.abandon();
    for peer in peers {
        alone(peer).await;
    }
}

/// Waits until a peer misses its master.
pub async fn alone(peer: &Node) {
    until("the master is missed", async || {
        matches!(peer.status().await.unwrap().master, MasterState::Unreachable { .. }).then_some(())
    })
    .await;
}

/// Waits until a name is found.
pub async fn found(node: &Node, name: &str) -> LookupInfo {
    until("the name is found", async || node.lookup(name).await.ok()).await
}

/// Waits until a name is gone.
pub async fn gone(node: &Node, name: &str) {
    until("the name is gone", async || matches!(node.lookup(name).await, Err(Error::NotFound { .. })).then_some(()))
        .await;
}

/// Bytes that look random and are the same for one seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(blake3::hash(&seed.to_le_bytes()).as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A folder below another.
pub fn made(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A file in a folder, with its folders; its path as an argument.
pub fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The program under test.
pub fn program() -> Command {
    // Benchmarks name the release build.
    let binary = std::env::var_os("BENCH_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_swarmdex").into());
    let mut command = Command::new(binary);
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("SWARMDEX_")) {
        command.env_remove(key);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// A node in a process of its own; killed when dropped.
pub struct Process {
    child: Child,
    pub data: PathBuf,
    pub ready: Value,
    log: PathBuf,
}

impl Process {
    /// Starts `swarmdex run` with test settings and waits for its first line.
    pub fn start(role: &str, folder: &Path, arguments: &[&str]) -> Self {
        Self::try_start(role, folder, arguments).unwrap_or_else(|(status, log)| panic!("{status}: {log}"))
    }

    /// Starts a node on a host of its own: in a network namespace, on all its interfaces and with mDNS.
    pub fn start_in(namespace: &str, role: &str, folder: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_swarmdex"), "run", "--role", role]);
        Self::spawn(command, folder, arguments).unwrap_or_else(|(status, log)| panic!("{status}: {log}"))
    }

    /// Starts a node whose wall clock is off; its monotonic clock is not.
    pub fn start_with_clock(offset: &str, role: &str, folder: &Path, arguments: &[&str]) -> Self {
        // What faketime starts is its child and would outlive it: the node is started just as faketime would.
        let output = Command::new("faketime").args(["-f", offset, "env"]).output().unwrap();
        let environment = String::from_utf8(output.stdout).unwrap();
        let wanted = |name: &str| name == "LD_PRELOAD" || name == "FAKETIME";
        let mut command = program();
        command.envs(environment.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| wanted(name)));
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.args(["run", "--role", role, "--no-mdns", "--listen", &free_ports()[0]]);
        Self::spawn(command, folder, arguments).unwrap_or_else(|(status, log)| panic!("{status}: {log}"))
    }

    /// The same, for a start that may fail: then its exit status and its log.
    pub fn try_start(role: &str, folder: &Path, arguments: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let mut command = program();
        command.args(["run", "--role", role, "--no-mdns"]);
        if !arguments.contains(&"--listen") {
            let [tcp, quic] = free_ports();
            command.args(["--listen", &tcp, "--listen", &quic]);
        }
        Self::spawn(command, folder, arguments)
    }

    /// Starts what is said, with this data directory.
    pub fn start_by(mut command: Command, data: &Path, log: &Path) -> Self {
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("SWARMDEX_")) {
            command.env_remove(key);
        }
        command.arg("--data-dir").arg(data);
        Self::begin(command, data.to_owned(), log.to_owned()).unwrap_or_else(|(status, log)| panic!("{status}: {log}"))
    }

    fn spawn(mut command: Command, folder: &Path, arguments: &[&str]) -> Result<Self, (ExitStatus, String)> {
        let data = folder.join("data");
        std::fs::create_dir_all(&data).unwrap();
        let config = folder.join("test.toml");
        // A test may add settings of its own.
        let extra = std::fs::read_to_string(folder.join("extra.toml")).unwrap_or_default();
        let own = if extra.contains("[lease]") { "" } else { TEST_CONFIG };
        std::fs::write(&config, format!("{own}{extra}")).unwrap();
        let log = folder.join(format!("log-{}", std::fs::read_dir(folder).unwrap().count()));
        command.arg("--data-dir").arg(&data).arg("--config").arg(&config).args(arguments);
        Self::begin(command, data, log)
    }

    fn begin(mut command: Command, data: PathBuf, log: PathBuf) -> Result<Self, (ExitStatus, String)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        if line.is_empty() {
            let status = child.wait().unwrap();
            return Err((status, std::fs::read_to_string(&log).unwrap()));
        }
        // Whatever else it prints is read, so that it never blocks.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Ok(Self { child, data, ready, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds of processor time that it has taken, in hundredths, as Linux counts them.
    pub fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// Its first address over TCP, with its peer id.
    pub fn address(&self) -> String {
        let listen = self.ready["listen"].as_array().unwrap();
        let tcp = listen.iter().filter_map(Value::as_str).find(|address| address.contains("/tcp/"));
        tcp.unwrap().to_owned()
    }

    pub fn peer_id(&self) -> String {
        self.ready["peer_id"].as_str().unwrap().to_owned()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log says something.
    pub fn until_log(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.log().contains(text) {
            assert!(Instant::now() < end, "waited in vain for {text:?} in the log");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command against this node.
    pub fn command(&self, arguments: &[&str]) -> Output {
        program().args(arguments).arg("--data-dir").arg(&self.data).output().unwrap()
    }

    /// Runs a command that must succeed, and parses its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// Waits until a command gives JSON that satisfies `accept`.
    pub fn until(&self, arguments: &[&str], accept: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let output = self.command(&[arguments, &["--json"]].concat());
            let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            if accept(&value) {
                return value;
            }
            assert!(Instant::now() < end, "waited in vain for {arguments:?}: {value} {}", stderr(&output));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "log of {}:\n{}", self.pid(), self.log());
        }
    }
}

/// Short leases, so that evictions take seconds.
const TEST_CONFIG: &str = "[lease]\nlease_seconds = 4\nping_interval_seconds = 0.5\nmax_backoff_seconds = 1\n";

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", stderr(output)))
}
