#!/usr/bin/env bash
# tracing-appender: a log line that cannot be written is lost, and nothing counts it.
#
# One would expect that the counter of dropped lines, which the non-blocking writer has, goes up when the disk is full.
#
# It counts only the lines that found no room in the queue. Those that the thread behind the queue fails to write are
# dropped without a trace: the counter stays 0, nothing is printed, and whoever logged them was told that they were
# written. It is no different with lossy(false), which sounds as if nothing were ever lost.
#
# Seen with tracing-appender 0.2.5, on Linux: /dev/full stands for a full disk. We met it when we looked for a log that
# never holds a node up and can say in its status how many lines are missing. Upstream it is known:
# https://github.com/tokio-rs/tracing/issues/1155
#
# What to do: give it a writer that counts what fails, as the one below does, or write the log by a thread of one's own.
# swarmdex does the latter (src/log.rs).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR="${FINDINGS_TARGET:-$folder/target}" CARGO_PROFILE_DEV_DEBUG=0
mkdir "$folder/src"

cat >"$folder/Cargo.toml" <<'END'
[package]
name = "lost_log_lines"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
tracing-appender = "=0.2.5"
END

cat >"$folder/src/main.rs" <<'END'
use std::fs::File;
use std::io::{Result, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder};

const LINES: usize = 100;

/// Logs some lines; says how many the logger was told are written, and ends when the thread behind the queue has.
fn log(builder: NonBlockingBuilder, writer: impl Write + Send + 'static, then: impl FnOnce()) -> (usize, ErrorCounter) {
    let (mut log, guard) = builder.finish(writer);
    let written = (0..LINES).filter(|line| log.write_all(format!("line {line}\n").as_bytes()).is_ok()).count();
    then();
    drop(guard);
    (written, log.error_counter())
}

/// A full disk; counts the writes that fail.
struct Full(File, Arc<AtomicUsize>);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes).inspect_err(|_| {
            self.1.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

/// A disk that takes everything, once it is told to begin.
struct Slow(Receiver<()>);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let (begin, begun) = channel();
    let small = NonBlockingBuilder::default().buffered_lines_limit(10);
    let (written, counter) = log(small, Slow(begun), || drop(begin));
    let no_room = counter.dropped_lines();
    println!("room for 10 lines, slow disk: {written} of {LINES} lines accepted, {no_room} counted as dropped");
    let mut same = (written, no_room >= LINES - 11) == (LINES, true);

    for lossy in [true, false] {
        let failed = Arc::new(AtomicUsize::new(0));
        let disk = File::options().write(true).open("/dev/full").unwrap();
        let builder = NonBlockingBuilder::default().lossy(lossy);
        let (written, counter) = log(builder, Full(disk, failed.clone()), || ());
        let (failed, dropped) = (failed.load(Ordering::Relaxed), counter.dropped_lines());
        println!("full disk, lossy({lossy}): {written} accepted, {failed} could not be written, {dropped} counted");
        same &= (written, failed, dropped) == (LINES, LINES, 0);
    }
    if same { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
END

cargo tree --quiet --manifest-path "$folder/Cargo.toml" --depth 1 --prefix none | grep '^tracing-appender'
cargo build --quiet --manifest-path "$folder/Cargo.toml"
if "$CARGO_TARGET_DIR/debug/lost_log_lines" 2>"$folder/stderr" && [ ! -s "$folder/stderr" ]; then
    echo "As described: what cannot be written is neither counted nor printed."
else
    cat "$folder/stderr" >&2
    echo "This has changed." >&2
    exit 1
fi
