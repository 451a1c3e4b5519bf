#!/usr/bin/env bash
# yamux: what a connection has learnt of its bandwidth is forgotten with each stream.
#
# The receive window grows by itself with the length and the bandwidth of the way. One would expect that what comes next on
# the same connection begins with it, or that one may at least choose a larger one to begin with.
#
# The window grows for one stream. The next one begins at 256 KiB again, and no setting of yamux or libp2p changes that:
# max_connection_receive_window is a limit from above only. libp2p opens a stream for each request, so an answer that is
# longer than 256 KiB by a single byte takes two round trips, on however fast and idle a connection, every time.
#
# Seen with yamux 0.14.1, which libp2p-yamux 0.48.0 uses. We met it in downloads between distant hosts: a chunk of 256 KiB
# and its envelope are a little more than the window. What the format allows, a window update right at the start of a
# stream, yamux does not send; https://github.com/libp2p/rust-libp2p/issues/1849 asked for it.
#
# What to do: have several requests under way at a time, more of them the longer the way is, or keep answers (with all
# that goes around them) within 262,144 bytes. And do not take a round trip more for a slow peer.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR="${FINDINGS_TARGET:-$folder/target}" CARGO_PROFILE_DEV_DEBUG=0
mkdir "$folder/src"

cat >"$folder/Cargo.toml" <<'END'
[package]
name = "yamux_new_stream"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
futures = "=0.3.34"
tokio = { version = "=1.54.1", features = ["io-util", "macros", "rt", "sync", "time"] }
tokio-util = { version = "=0.7.20", features = ["compat"] }
yamux = "=0.14.1"
END

cat >"$folder/src/main.rs" <<'END'
use std::process::ExitCode;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::poll_fn;
use futures::{AsyncReadExt, AsyncWriteExt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};
use tokio_util::compat::TokioAsyncReadCompatExt;
use yamux::{Config, Connection, Mode, Stream};

/// A way there and back.
const ROUND_TRIP: Duration = Duration::from_millis(200);
const MIB: usize = 1 << 20;
const WINDOW: usize = 256 << 10;

/// Carries bytes one way, as many as come, half a round trip later.
async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
    let (send, mut receive) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((due, bytes)) = receive.recv().await {
            sleep_until(due).await;
            let bytes: Vec<u8> = bytes;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; MIB];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let due = tokio::time::Instant::now() + ROUND_TRIP / 2;
        let _ = send.send((due, buffer[..count].to_vec()));
    }
}

type Open = mpsc::UnboundedSender<oneshot::Sender<Stream>>;

/// Keeps a connection going. Streams that the other side opens are passed on, others are opened when asked for.
fn drive(io: DuplexStream, mode: Mode) -> (Open, mpsc::UnboundedReceiver<Stream>) {
    let (open, mut wanted) = mpsc::unbounded_channel::<oneshot::Sender<Stream>>();
    let (opened, streams) = mpsc::unbounded_channel();
    let mut config = Config::default();
    config.set_max_connection_receive_window(None);
    let mut connection = Connection::new(io.compat(), config, mode);
    tokio::spawn(poll_fn(move |cx| {
        while let Poll::Ready(Some(answer)) = wanted.poll_recv(cx) {
            let Poll::Ready(Ok(stream)) = connection.poll_new_outbound(cx) else { panic!("no new stream") };
            let _ = answer.send(stream);
        }
        while let Poll::Ready(next) = connection.poll_next_inbound(cx) {
            let Some(Ok(stream)) = next else { return Poll::Ready(()) };
            let _ = opened.send(stream);
        }
        Poll::Pending
    }));
    (open, streams)
}

/// Asks on a stream of its own; returns both ends of it.
async fn ask(client: &Open, server: &mut mpsc::UnboundedReceiver<Stream>) -> (Stream, Stream) {
    let (answer, stream) = oneshot::channel();
    client.send(answer).unwrap();
    let mut here = stream.await.unwrap();
    here.write_all(b"?").await.unwrap();
    here.flush().await.unwrap();
    let mut there = server.recv().await.unwrap();
    there.read_exact(&mut [0]).await.unwrap();
    (here, there)
}

/// How much may be sent while nothing is read at the other end.
async fn credit(stream: &mut Stream) -> usize {
    let zeros = vec![0; MIB];
    let mut sent = 0;
    while let Ok(written) = timeout(4 * ROUND_TRIP, stream.write(&zeros)).await {
        sent += written.unwrap();
    }
    sent
}

/// How long a request and an answer of so many bytes take, at best.
async fn time(client: &Open, server: &mut mpsc::UnboundedReceiver<Stream>, length: usize) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        let (mut here, mut there) = ask(client, server).await;
        let sending = tokio::spawn(async move { there.write_all(&vec![0; length]).await.unwrap() });
        here.read_exact(&mut vec![0; length]).await.unwrap();
        best = best.min(begin.elapsed());
        sending.await.unwrap();
    }
    best
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (here, left) = duplex(64 * MIB);
    let (right, there) = duplex(64 * MIB);
    let ((left_read, left_write), (right_read, right_write)) = (split(left), split(right));
    tokio::spawn(carry(left_read, right_write));
    tokio::spawn(carry(right_read, left_write));
    let (client, _none) = drive(here, Mode::Client);
    let (_open, mut server) = drive(there, Mode::Server);

    let (mut here, mut there) = ask(&client, &mut server).await;
    let sending = tokio::spawn(async move {
        there.write_all(&vec![0; 16 * MIB]).await.unwrap();
        there
    });
    here.read_exact(&mut vec![0; 16 * MIB]).await.unwrap();
    let grown = credit(&mut sending.await.unwrap()).await;
    println!("after 16 MiB on one stream, {grown} more bytes may be sent on it that are not read yet");
    drop(here);

    let (_here, mut there) = ask(&client, &mut server).await;
    let fresh = credit(&mut there).await;
    println!("on the next stream of the same connection, {fresh} bytes");

    let fits = time(&client, &mut server, WINDOW).await;
    let exceeds = time(&client, &mut server, WINDOW + 1).await;
    let trips = |time: Duration| time.as_secs_f32() / ROUND_TRIP.as_secs_f32();
    println!("round trips of a request, when the answer has {WINDOW} bytes: {:.1}", trips(fits));
    println!("round trips of a request, when the answer has {} bytes: {:.1}", WINDOW + 1, trips(exceeds));
    let same = grown >= MIB && fresh == WINDOW && fits < 2 * ROUND_TRIP && exceeds >= 2 * ROUND_TRIP;
    if same { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
END

cargo tree --quiet --manifest-path "$folder/Cargo.toml" --depth 1 --prefix none | grep '^yamux v'
cargo build --quiet --manifest-path "$folder/Cargo.toml"
if "$CARGO_TARGET_DIR/debug/yamux_new_stream"; then
    echo "As described: each stream begins with 256 KiB, whatever the one before had come to."
else
    echo "This has changed." >&2
    exit 1
fi
