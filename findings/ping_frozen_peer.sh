#!/usr/bin/env bash
# libp2p: a peer that froze is reported long after the time-out of its pings, and not as a time-out.
#
# One would expect that a ping with an interval of 1 s and a time-out of 1 s reports a peer that stops answering
# after 2 s, as Failure::Timeout.
#
# It takes 13 s, and Failure::Timeout is never seen. The ping that timed out is not reported: the first failure in a row
# is counted in silence. For the next ping a new stream is opened, and choosing its protocol needs an answer as well.
# That has a time limit of its own, 10 s, which neither setting changes. Only when it has passed there is an event, with
# Failure::Other ("ping protocol negotiation timed out"), and from there on one each 10 s. All the while the
# connection counts as established, since the system of a frozen process goes on taking what is sent to it.
#
# Seen with libp2p 0.57.1, libp2p-ping 0.48.0 and libp2p-swarm 0.48.0. We met it in tests with hosts that fall silent
# (tests/it/lan.rs): after how many missed pings a member is suspect did not say when.
#
# What to do: measure by oneself how long nothing was heard of a peer (each ping that is answered is an event), and close
# the connection when that is too long. Whoever counts failures nevertheless has to count those of every kind.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR="${FINDINGS_TARGET:-$folder/target}" CARGO_PROFILE_DEV_DEBUG=0
mkdir "$folder/src"

cat >"$folder/Cargo.toml" <<'END'
[package]
name = "ping_frozen_peer"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
futures = "=0.3.34"
libp2p = { version = "=0.57.1", features = ["ed25519", "ping", "plaintext", "tcp", "tokio", "yamux"] }
libp2p-ping = "=0.48.0"
libp2p-swarm = "=0.48.0"
tokio = { version = "=1.54.1", features = ["macros", "rt", "time"] }
END

cat >"$folder/src/main.rs" <<'END'
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::upgrade::Version;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, Transport, identity, ping, plaintext, tcp, yamux};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(600);

fn swarm() -> Swarm<ping::Behaviour> {
    let config = ping::Config::new().with_interval(SECOND).with_timeout(SECOND);
    SwarmBuilder::with_existing_identity(identity::Keypair::generate_ed25519())
        .with_tokio()
        .with_other_transport(|keypair| {
            tcp::tokio::Transport::default()
                .upgrade(Version::V1)
                .authenticate(plaintext::Config::new(keypair))
                .multiplex(yamux::Config::default())
        })
        .unwrap()
        .with_behaviour(|_| ping::Behaviour::new(config))
        .unwrap()
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(LONG))
        .build()
}

/// Answers pings until it is told to freeze.
#[tokio::main(flavor = "current_thread")]
async fn peer(address: mpsc::Sender<Multiaddr>, freeze: mpsc::Receiver<()>) {
    let mut swarm = swarm();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    while freeze.try_recv().is_err() {
        let event = tokio::time::timeout(SECOND / 100, swarm.select_next_some()).await;
        if let Ok(SwarmEvent::NewListenAddr { address: own, .. }) = event {
            address.send(own).unwrap();
        }
    }
    thread::sleep(LONG);
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (address, its_address) = mpsc::channel();
    let (freeze, frozen) = mpsc::channel();
    thread::spawn(|| peer(address, frozen));
    let mut swarm = swarm();
    swarm.dial(its_address.recv().unwrap()).unwrap();

    let mut pongs = 0;
    let mut since = Instant::now();
    let mut failures = Vec::new();
    while failures.len() < 2 {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(ping::Event { result: Ok(_), .. }) => {
                pongs += 1;
                since = Instant::now();
                if pongs == 3 {
                    freeze.send(()).unwrap();
                    println!("interval and time-out of pings: 1 s; the peer freezes after the third");
                }
            }
            SwarmEvent::Behaviour(ping::Event { result: Err(failure), .. }) => {
                let after = since.elapsed();
                println!("{:4.1} s later: {failure}", after.as_secs_f32());
                failures.push((after, failure));
            }
            SwarmEvent::ConnectionClosed { .. } => {
                println!("{:4.1} s later: the connection is closed", since.elapsed().as_secs_f32());
                return ExitCode::FAILURE;
            }
            _ => {}
        }
    }
    let late = (12 * SECOND..20 * SECOND).contains(&failures[0].0);
    let timeouts = failures.iter().filter(|(_, failure)| matches!(failure, ping::Failure::Timeout)).count();
    println!("reported as Failure::Timeout: {timeouts}");
    if late && timeouts == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
END

cargo tree --quiet --manifest-path "$folder/Cargo.toml" --depth 1 --prefix none | grep '^libp2p'
cargo build --quiet --manifest-path "$folder/Cargo.toml"
if "$CARGO_TARGET_DIR/debug/ping_frozen_peer"; then
    echo "As described: a frozen peer is reported late, and never as a time-out."
else
    echo "This has changed." >&2
    exit 1
fi
