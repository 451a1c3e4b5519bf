#!/usr/bin/env bash
# futures-timer: a delay that is never waited for wakes a thread when it is made, and again when it is dropped.
#
# One would expect that a time limit of an hour costs nothing while it is not reached: a timer's thread has to know of the
# delay that is due first, and of no other.
#
# Every futures_timer::Delay is handed to one thread for the whole process, which is woken for it at once, however
# late it is due, and once more when it is dropped. That is two wake-ups for each time limit that is never reached, in
# the middle of other work. tokio's timers wake nobody for a delay that is due later than others.
#
# Seen with futures-timer 3.0.3, on Linux (the kernel's count of a thread's context switches). libp2p 0.57.1 makes several
# such delays for each stream. We met it in the profile of a download by many nodes: 7 % of the processor time.
#
# What to do: where there is tokio anyway, put a crate of the same name, made of tokio::time::sleep, in its place by
# [patch.crates-io]. It needs Delay::new, Delay::reset and a Future. swarmdex has that in timers/.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CARGO_TARGET_DIR="${FINDINGS_TARGET:-$folder/target}" CARGO_PROFILE_DEV_DEBUG=0
mkdir "$folder/src"

cat >"$folder/Cargo.toml" <<'END'
[package]
name = "timers_wake_a_thread"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
futures-timer = "=3.0.3"
tokio = { version = "=1.54.1", features = ["rt-multi-thread", "time"] }
END

cat >"$folder/src/main.rs" <<'END'
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Waker};
use std::time::Duration;
use std::{fs, process, thread};

const LIMITS: usize = 500;
const HOUR: Duration = Duration::from_secs(3600);
const PAUSE: Duration = Duration::from_millis(1);

/// How often the other threads of this process went to sleep so far.
fn naps() -> usize {
    let main = process::id().to_string();
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap());
    let others = threads.filter(|thread| thread.file_name().to_str() != Some(&main));
    let status = others.map(|thread| fs::read_to_string(thread.path().join("status")).unwrap());
    status.map(|status| {
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<usize>().unwrap()
    })
    .sum()
}

/// Sets one limit after the other, each polled once and then dropped; says how often other threads were woken.
fn woken_by<F: Future<Output = ()>>(limit: impl Fn() -> F) -> usize {
    // The first one starts the thread.
    drop(limit());
    thread::sleep(100 * PAUSE);
    let before = naps();
    for _ in 0..LIMITS {
        {
            let mut limit = pin!(limit());
            assert!(limit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            thread::sleep(PAUSE);
        }
        thread::sleep(PAUSE);
    }
    thread::sleep(100 * PAUSE);
    naps() - before
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let tokio = runtime.block_on(async { woken_by(|| tokio::time::sleep(HOUR)) });
    drop(runtime);
    println!("{LIMITS} limits of an hour, by tokio: other threads were woken {tokio} times");
    let futures_timer = woken_by(|| futures_timer::Delay::new(HOUR));
    println!("{LIMITS} limits of an hour, by futures-timer: other threads were woken {futures_timer} times");
    // Wake-ups may coincide on a busy machine.
    if tokio < LIMITS / 20 && futures_timer > LIMITS { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
END

cargo tree --quiet --manifest-path "$folder/Cargo.toml" --depth 1 --prefix none | grep -E '^(futures-timer|tokio) '
cargo build --quiet --manifest-path "$folder/Cargo.toml"
if "$CARGO_TARGET_DIR/debug/timers_wake_a_thread"; then
    echo "As described: each limit that is never reached wakes a thread twice."
else
    echo "This has changed." >&2
    exit 1
fi
