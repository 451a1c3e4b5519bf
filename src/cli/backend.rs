//! Who carries a command out: the node that runs in the data directory, or one that is started for it.

use std::path::{Path, PathBuf};

use super::Failure;
use super::settings::NodeArgs;
use crate::config::{Config, Role};
use crate::http::Client;
use crate::node::{Error, GetReport, GetRequest, LookupInfo, Node, Progress, SearchInfo};

/// A node for one command.
pub(super) enum Backend {
    /// The node that runs.
    Running(Client),
    /// One of our own, in a folder of its own.
    Own(Own),
}

/// A node that lives as long as a command.
pub(super) struct Own {
    node: Node,
    folder: TemporaryFolder,
}

impl Backend {
    /// The node that runs in the data directory, or a short-lived one with the same flags.
    pub(super) async fn find_or_start(args: &NodeArgs) -> Result<Self, Failure> {
        let config = args.config()?;
        if let Some(client) = Client::find(&config.data_dir).await? {
            return Ok(Self::Running(client));
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
            watch: false,
            ..config
        };
        Ok(Self::Own(Own { node: Node::start(config).await?, folder }))
    }

    pub(super) async fn lookup(&self, name: &str) -> Result<LookupInfo, Error> {
        match self {
            Self::Running(client) => client.lookup(name).await,
            Self::Own(own) => own.node.lookup(name).await,
        }
    }

    pub(super) async fn search(&self, query: &str, limit: usize) -> Result<SearchInfo, Error> {
        match self {
            Self::Running(client) => client.matching(query, limit).await,
            Self::Own(own) => own.node.matching(query, limit).await,
        }
    }

    pub(super) async fn get(
        &self,
        request: GetRequest,
        mut progress: impl FnMut(Progress),
    ) -> Result<GetReport, Error> {
        match self {
            Self::Running(client) => client.fetch(&request).await?.follow(progress).await,
            Self::Own(own) => {
                let mut operation = own.node.get(request);
                let mut watch = operation.progress();
                loop {
                    tokio::select! {
                        outcome = operation.outcome() => return outcome,
                        changed = watch.changed() => if changed.is_ok() {
                            progress(watch.borrow_and_update().clone());
                            // Often enough for the eye.
                            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                        } else {
                            return operation.outcome().await;
                        },
                    }
                }
            }
        }
    }

    /// Ends a node that was started for the command.
    pub(super) async fn end(self) {
        if let Self::Own(own) = self {
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
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let path = std::env::temp_dir().join(format!("{prefix}-{}-{:08x}", std::process::id(), rand::random::<u32>()));
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

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
