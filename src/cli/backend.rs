//! Who carries a command out: the node that runs in the data directory, or one that is started for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;
use super::settings::NodeArgs;
use crate::config::{Config, Role};
use crate::http::Client;
use crate::node::{Api, Node};

/// How old a temporary folder has to be to be left over.
const ORPHANED: Duration = Duration::from_secs(24 * 3600);

/// The node that a command asks.
pub(super) struct Backend {
    api: Box<dyn Api>,
    /// What is ended with the command, if the node was started for it.
    own: Option<Own>,
}

/// A node that lives as long as a command, in a folder of its own.
struct Own {
    node: Node,
    folder: TemporaryFolder,
}

impl Backend {
    /// The node that runs in the data directory, or a short-lived one with the same flags.
    pub(super) async fn find_or_start(args: &NodeArgs) -> Result<Self, Failure> {
        let config = args.config()?;
        if let Some(client) = Client::find(&config.data_dir).await? {
            return Ok(Self { api: Box::new(client), own: None });
        }
        tracing::info!(data_dir = %config.data_dir.display(), "no node runs here: one is started for this command");
        // An identity and a share of its own: the names of the node that runs here at other times must not
        // be taken for given up.
        let folder = TemporaryFolder::new("swarmdex-command")?;
        let pin = format!("master-{}", config.network);
        // Without a pin the first master found is trusted, as on the first start of a node.
        let _ = std::fs::copy(config.data_dir.join(&pin), folder.path().join(&pin));
        // The nodes that were known here lead into the network when its master is down.
        let nodes = format!("nodes-{}", config.network);
        let _ = std::fs::copy(config.data_dir.join(&nodes), folder.path().join(&nodes));
        let config = Config {
            role: Role::Peer,
            data_dir: folder.path().to_owned(),
            share: Vec::new(),
            http: None,
            transient: true,
            // What was written where outlives the command.
            copies: Some(config.data_dir.clone()),
            watch: false,
            ..config
        };
        let node = Node::start(config).await?;
        Ok(Self { api: Box::new(node.clone()), own: Some(Own { node, folder }) })
    }

    /// What it can be asked.
    pub(super) fn api(&self) -> &dyn Api {
        &*self.api
    }

    /// Ends a node that was started for the command.
    pub(super) async fn end(self) {
        if let Some(own) = self.own {
            if let Err(error) = own.node.shutdown().await {
                tracing::debug!(%error, "the short-lived node did not stop in order");
            }
            drop(own.folder);
        }
    }
}

/// A folder that is removed with its content when dropped.
pub(super) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(super) fn new(prefix: &str) -> Result<Self, Failure> {
        Self::in_folder(&std::env::temp_dir(), prefix)
    }

    /// One in another folder than the system's for temporary ones. What processes that were killed left there is removed.
    pub(super) fn in_folder(folder: &Path, prefix: &str) -> Result<Self, Failure> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        remove_orphans(folder, prefix);
        let path = folder.join(format!("{prefix}-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        // Fails if it exists: nobody else can have prepared it.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        // The umask may have taken more away than from others.
        let made = made.and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)));
        made.map_err(|error| Failure::Path(path.clone(), error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

/// Removes folders whose process is gone: their names say which it was.
fn remove_orphans(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_prefix('-'));
        let Some((pid, _)) = rest.and_then(|rest| rest.split_once('-')) else { continue };
        let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        // The process may be one of another container, that cannot be seen from here.
        let is_old = age.is_some_and(|age| age > ORPHANED);
        if is_pid && is_old && !Path::new("/proc").join(pid).exists() {
            // What belongs to others stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
