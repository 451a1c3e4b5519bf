#!/usr/bin/env bash
# tokio: a connection that was just accepted is called readable at once, although the other end has said nothing.
#
# One would expect that waiting for a stream to become readable tells a client that speaks from one that opens a connection and
# says nothing: readable() returns when there is something to read, or the stream has ended.
#
# A TcpStream from TcpListener::accept is taken for readable from the beginning, without having been looked at: readable() returns
# at once. It does so once; only a read that finds nothing puts that right. That readable() may be wrong at times is documented;
# that it is wrong for each silent connection is not. A stream from TcpStream::connect waits, and so does peek() on either.
#
# Seen with tokio 1.54.1, on Linux. We met it in the guard that ends connections that say nothing: each counted as one that had
# spoken, and a flood of silent ones kept others of its address out.
#
# What to do: where it matters whether something came, peek() into a buffer of one byte, and not readable().
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR="${FINDINGS_TARGET:-$folder/target}" CARGO_PROFILE_DEV_DEBUG=0
mkdir "$folder/src"

cat >"$folder/Cargo.toml" <<'END'
[package]
name = "accepted_is_readable"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
tokio = { version = "=1.54.1", features = ["net", "rt", "time", "macros"] }
END

cat >"$folder/src/main.rs" <<'END'
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const MOMENT: Duration = Duration::from_millis(500);
const TIMES: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut accepted_readable, mut connected_readable, mut accepted_peeked) = (0, 0, 0);
    for _ in 0..TIMES {
        let connected = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        // Nobody writes anything.
        accepted_readable += usize::from(timeout(MOMENT, accepted.readable()).await.is_ok());
        connected_readable += usize::from(timeout(MOMENT / 10, connected.readable()).await.is_ok());
        accepted_peeked += usize::from(timeout(MOMENT / 10, accepted.peek(&mut [0])).await.is_ok());
    }
    println!("of {TIMES} silent connections, tokio 1.54.1:");
    println!("readable() of the accepted end returned: {accepted_readable}");
    println!("readable() of the connecting end returned: {connected_readable}");
    println!("peek() of the accepted end returned: {accepted_peeked}");
    let as_described = (accepted_readable, connected_readable, accepted_peeked) == (TIMES, 0, 0);
    println!("{}", if as_described { "as described" } else { "it has changed" });
    if as_described { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
END

cargo run --quiet --manifest-path "$folder/Cargo.toml"
