//! The processes of the demo, and their folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::Failure;
use crate::cli::backend::TemporaryFolder;
use crate::http::Client;
use crate::node::Ready;

/// How long a node may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a node may take to leave.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Free ports.
const LISTEN: &[&str] = &["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
/// Short leases, so that the eviction is not worth a coffee.
const CONFIG: &str =
    "[lease]\nlease_seconds = 3\nping_interval_seconds = 0.4\nmissed_pings = 2\nmax_backoff_seconds = 1\n";

/// Everything that the demo started and wrote; ended and removed when dropped.
pub(super) struct Stage {
    pub(super) nodes: Vec<Actor>,
    folder: TemporaryFolder,
}

/// One node.
pub(super) struct Actor {
    pub(super) name: &'static str,
    pub(super) ready: Ready,
    pub(super) client: Client,
    pub(super) folder: PathBuf,
    process: Child,
}

impl Stage {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { nodes: Vec::new(), folder: TemporaryFolder::new("swarmdex-demo")? })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a node and waits until it listens.
    pub(super) async fn start(&mut self, name: &'static str, arguments: &[&str]) -> Result<&Actor, String> {
        let folder = self.folder.path().join(name);
        let actor = tokio::time::timeout(START_TIMEOUT, Actor::start(name, folder, arguments))
            .await
            .map_err(|_| format!("{name} did not start within {START_TIMEOUT:?}"))??;
        self.nodes.push(actor);
        self.node(name)
    }

    pub(super) fn node(&self, name: &str) -> Result<&Actor, String> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| format!("{name} does not run"))
    }

    /// Takes a node out of the stage.
    pub(super) fn take(&mut self, name: &str) -> Result<Actor, String> {
        let at = self.nodes.iter().position(|node| node.name == name);
        at.map(|at| self.nodes.remove(at)).ok_or_else(|| format!("{name} does not run"))
    }

    /// The end of every node's log, for when something went wrong.
    pub(super) fn logs(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let log = std::fs::read_to_string(node.folder.join("log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(5).collect();
            text.push_str(&format!("last lines of the log of {}:\n", node.name));
            last.iter().rev().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
        text
    }
}

impl Actor {
    async fn start(name: &'static str, folder: PathBuf, arguments: &[&str]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{name} cannot be started: {error}");
        std::fs::create_dir_all(folder.join("files")).map_err(failed)?;
        std::fs::write(folder.join("config.toml"), CONFIG).map_err(failed)?;
        let data = folder.join("data");
        let log = std::fs::File::create(folder.join("log")).map_err(failed)?;
        let mut process = Command::new(std::env::current_exe().map_err(failed)?)
            .args(["run", "--no-mdns"])
            .args(if arguments.contains(&"--listen") { &[] } else { LISTEN })
            .arg("--config")
            .arg(folder.join("config.toml"))
            .arg("--data-dir")
            .arg(&data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = process.stdout.take().ok_or_else(|| format!("{name} has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await.map_err(failed)?;
        let line = line.ok_or_else(|| {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            format!("{name} ended at once: {}", log.trim())
        })?;
        let ready = serde_json::from_str(&line).map_err(|error| format!("{name} said {line:?}: {error}"))?;
        let client = Client::find(&data).await.map_err(|error| error.describe())?;
        let client = client.ok_or_else(|| format!("{name} has no control socket"))?;
        Ok(Self { name, ready, client, folder, process })
    }

    /// A place for files of this node.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Ends it as `kill -9` does.
    pub(super) async fn kill(mut self) -> Result<(), String> {
        self.process.kill().await.map_err(|error| error.to_string())
    }

    /// Asks it to leave, and waits for its end.
    pub(super) async fn stop(mut self) -> Result<(), String> {
        let pid = self.process.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| format!("{} has ended already", self.name))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| error.to_string())?;
        match tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{} ended with {status}", self.name)),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("{} did not end within {STOP_TIMEOUT:?}", self.name)),
        }
    }
}
