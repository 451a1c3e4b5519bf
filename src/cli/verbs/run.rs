//! `swarmdex run`: a node in the foreground.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::ignores;
use crate::cli::settings::NodeArgs;
use crate::cli::shown::Shown;
use crate::http;
use crate::log::Program;
use crate::node::{Node, Ready};

/// How long a node that cannot go on may take to end what still works.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Run a node in the foreground
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Run;

impl Verb for Run {
    const SHOWN: Shown = Shown::NODE;
    const PROGRAM: Program = Program::Node;

    async fn run(self, context: &Context) -> Result<(), Failure> {
        run(&context.node).await
    }
}

async fn run(args: &NodeArgs) -> Result<(), Failure> {
    let config = args.config()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
    let mut hangup = match ignores(SignalKind::hangup()) {
        // Whoever started it wishes that it outlives the terminal (nohup).
        true => None,
        false => Some(signal(SignalKind::hangup()).map_err(Failure::Runtime)?),
    };
    let node = Node::start(config).await?;
    let server = http::serve(&node).await?;
    let ready = FirstLine { ready: node.ready(), http: server.address.map(|address| address.to_string()) };
    // Nobody waits for it: a pipe that is full would keep the node from hearing signals.
    tokio::task::spawn_blocking(move || announce(&ready));
    let failed = tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("SIGTERM: leaving");
            None
        }
        _ = interrupt.recv() => {
            tracing::info!("interrupted: leaving");
            None
        }
        () = comes(&mut hangup) => {
            tracing::info!("the terminal is gone: leaving");
            None
        }
        stopped = node.stopped() => stopped.err(),
    };
    drop(server);
    if let Some(error) = failed {
        tracing::error!(tasks = ?node.failures().names(), "the node cannot go on: leaving");
        // What still works is ended in order; what does not must not keep the rest from ending.
        let _ = tokio::time::timeout(END_PATIENCE, node.shutdown()).await;
        return Err(Failure::Node(error));
    }
    tokio::select! {
        stopped = node.shutdown() => stopped.map_err(Failure::Node),
        _ = terminate.recv() => Err(Failure::Said(crate::node::ErrorKind::Other)),
        _ = interrupt.recv() => Err(Failure::Said(crate::node::ErrorKind::Other)),
    }
}

/// Waits for a signal, for ever if there is none to wait for.
async fn comes(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The first line on stdout: the node listens, and its HTTP interface does.
#[derive(Debug, Serialize)]
struct FirstLine {
    #[serde(flatten)]
    ready: Ready,
    /// Where it listens on TCP, if it does.
    http: Option<String>,
}

/// Writes the first line; whoever started the node may wait for it, not read it at all, or have closed it. A node that
/// cannot say where it is runs all the same: `status` says it too.
fn announce(ready: &FirstLine) {
    let written = serde_json::to_string(ready).map_err(std::io::Error::from).and_then(|line| {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush())
    });
    if let Err(error) = written {
        tracing::warn!(%error, "the first line could not be written to standard output; the node runs all the same");
    }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::PeerId;

    use super::*;
    use crate::config::Role;

    /// Scripts read it.
    #[test]
    fn the_first_line_has_its_fields_in_this_order() {
        let peer_id = PeerId::random();
        let listen = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
        let ready = Ready { ready: true, role: Role::Master, peer_id, listen };
        for (http, text) in [(None, "null"), (Some("127.0.0.1:2".to_owned()), "\"127.0.0.1:2\"")] {
            let line = serde_json::to_string(&FirstLine { ready: ready.clone(), http }).unwrap();
            let expected = format!(
                r#"{{"ready":true,"role":"master","peer_id":"{peer_id}","listen":["/ip4/127.0.0.1/tcp/1"],"http":{text}}}"#
            );
            assert_eq!(line, expected);
        }
    }
}
