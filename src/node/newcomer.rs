//! Takes over what lies in this node's part of the key space when it comes into a large network, or back to it.

use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use super::context::Context;
use super::life::Phase;
use crate::clock::sleep_until;
use crate::net::Came;
use crate::state::settling::Settling;

/// How often this node looks whether it slept.
const TICK: Duration = Duration::from_secs(5);
/// After such a silence the other node may have missed something, or this one has.
const AWAY: Duration = Duration::from_secs(90);

/// The task.
pub(super) struct Newcomer {
    pub(super) context: Context,
}

impl Newcomer {
    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let phase = self.context.phase.clone();
        Phase::limit(&phase, self.work()).await;
    }

    async fn work(&mut self) {
        let mut came = self.context.net.came();
        let mut settling = Settling::new(TICK, Instant::now());
        loop {
            tokio::select! {
                node = came.recv() => match node {
                    // Who is back after a moment was not away.
                    Ok(Came { missed, .. }) => {
                        if missed.is_none_or(|since| since.elapsed() >= AWAY) {
                            settling.on_came(1, Instant::now());
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(many)) => settling.on_came(many, Instant::now()),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = sleep_until(Some(settling.poll_timeout())) => {}
            }
            let nodes = self.context.net.dht_counts().await.nodes;
            if settling.is_due(nodes as u64, Instant::now()) {
                let begin = Instant::now();
                if let Some(taken) = self.context.mirror.take_over().await {
                    tracing::debug!(?taken, elapsed = ?begin.elapsed(), "took over what lies in this node's part");
                }
            }
        }
    }
}
