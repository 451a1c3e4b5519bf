//! `swarmdex run`: a node in the foreground.

use std::io::{IsTerminal, Write};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::settings::NodeArgs;
use super::{Failure, LogFormat};
use crate::http;
use crate::node::{Node, Ready};

/// Environment variable that filters logs.
const LOG_VARIABLE: &str = "SWARMDEX_LOG";

pub(super) async fn run(args: &NodeArgs, format: LogFormat) -> Result<(), Failure> {
    let config = args.config()?;
    log_to_stderr(format);
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let node = Node::start(config).await?;
    let server = http::serve(&node).await?;
    let ready = Ready { http: server.address.map(|address| address.to_string()), ..node.ready() };
    announce(&ready)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: leaving"),
        _ = interrupt.recv() => tracing::info!("interrupted: leaving"),
        stopped = node.stopped() => return stopped.map_err(Failure::Node),
    }
    drop(server);
    tokio::select! {
        stopped = node.shutdown() => stopped.map_err(Failure::Node),
        _ = terminate.recv() => Err(Failure::Said(crate::node::ErrorKind::Other)),
        _ = interrupt.recv() => Err(Failure::Said(crate::node::ErrorKind::Other)),
    }
}

/// The first line on stdout; whoever started the node may wait for it, or not read it at all.
fn announce(ready: &Ready) -> Result<(), Failure> {
    let line = serde_json::to_string(ready).map_err(|error| Failure::Output(error.into()))?;
    let mut stdout = std::io::stdout();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Failure::Output),
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new("info,libp2p_mdns=warn,libp2p_kad=error,libp2p_swarm=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // Set once in a process: a second attempt changes nothing.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked; this is a bug")));
}
