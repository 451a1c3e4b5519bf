//! A part of the campaign of crashes: `benches/crash` kills master and peers, brings them back with the disks that they had or with
//! others, and checks what was asked and answered meanwhile by the rules of `benches/history.py`. `benches/power_cut` cuts their power.

use std::path::Path;
use std::process::Command;

/// Seconds after which a campaign that hangs is ended, with all that it started.
const PATIENCE: &str = "600";

/// Runs a program of the benchmarks, and fails with all that it printed if it does.
fn passes(arguments: &[&str]) {
    let whole = Command::new("python3").args(["-c", "import http.client, sqlite3, unittest"]).output();
    if !whole.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no whole python3 on this machine");
        return;
    }
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "python3"]).args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    let output = command.env("SWARMDEX", env!("CARGO_BIN_EXE_swarmdex")).output().unwrap();
    let [said, complained] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{arguments:?}: {}\n{said}\n{complained}", output.status);
    println!("{said}");
}

#[test]
fn the_rules_of_a_history_find_what_breaks_them_and_nothing_else() {
    passes(&["benches/history_test.py"]);
}

/// Two rounds of most kinds. What is printed of one that fails has its seed, and `benches/crash 1 SEED` runs it again; `CRASH_SEED`
/// begins elsewhere.
#[test]
fn twenty_rounds_of_crashes_break_no_rule() {
    let seed = std::env::var("CRASH_SEED").unwrap_or_else(|_| "1".to_owned());
    passes(&["benches/crash", "20", &seed]);
}

/// On ext4, XFS and btrfs in turn; says which of them cannot be had here, and why. `CRASH_SEED` begins elsewhere.
#[test]
fn thirty_power_cuts_take_back_nothing_that_was_acknowledged() {
    let seed = std::env::var("CRASH_SEED").unwrap_or_else(|_| "1".to_owned());
    passes(&["benches/power_cut", "30", &seed]);
}

/// The same without root and file systems of its own, from the system calls of the nodes.
#[test]
fn power_cuts_that_system_calls_tell_of_take_back_nothing_either() {
    passes(&["benches/power_cut", "5", "1", "--only", "traced"]);
}

/// A call that fails, for calls of each kind of file: a full disk, and one that fails. All of them: `benches/nth_write`.
#[test]
fn a_write_that_fails_is_one_failure_and_no_other() {
    for error in ["EIO", "ENOSPC"] {
        passes(&["benches/nth_write", "5", "--step", "4", "--error", error]);
    }
}
