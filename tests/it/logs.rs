//! Output that cannot be written: full disks, readers that are gone or hang. The node goes on, commands say so and end.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{DEADLINE, code, program, stderr};

/// A node in a process of its own, whatever its output is.
struct Node {
    child: Child,
    folder: TempDir,
}

impl Node {
    fn start(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, arguments: &[&str]) -> Self {
        Self::start_by(program(), stdout, stderr, arguments)
    }

    fn start_by(mut command: Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>, arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        command.args(["run", "--role", "master", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--data-dir"]);
        let child = command.arg(folder.path()).args(arguments).stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child, folder }
    }

    /// Waits until its status is like that. Whoever asks begins before the node can be asked.
    fn until(&mut self, accept: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let output = self.command(&["status", "--json"]);
            let status = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            if accept(&status) {
                return status;
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "the node ended");
            assert!(Instant::now() < end, "waited in vain: {status} {}", stderr(&output));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&self, arguments: &[&str]) -> std::process::Output {
        program().args(arguments).arg("--data-dir").arg(self.folder.path()).output().unwrap()
    }

    /// Asks it to leave, and waits for its end.
    fn stop(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_ready(status: &Value) -> bool {
    status["role"] == "master"
}

fn has_lost(status: &Value) -> bool {
    status["log_lines_lost"].as_u64().is_some_and(|lost| lost > 0)
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader is gone.
fn broken() -> std::io::PipeWriter {
    std::io::pipe().unwrap().1
}

/// Flags that make a node log much at once: folders that are not there.
fn noise() -> Vec<String> {
    (0..4500).flat_map(|number| ["--share".to_owned(), format!("/no/{number}/{}", ["n"; 150].join("/"))]).collect()
}

#[test]
fn a_log_that_cannot_be_written_is_counted_and_the_node_goes_on() {
    for out in [Stdio::from(full()), Stdio::from(broken())] {
        let mut node = Node::start(Stdio::null(), out, &["--share", "/does/not/exist"]);
        let status = node.until(has_lost);
        assert_eq!(status["failed_tasks"], Value::Array(Vec::new()));
        let shown = node.command(&["status"]);
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(text.lines().any(|line| line.starts_with("log ") && line.contains("could not be written")), "{text}");
        assert_eq!(node.stop().code(), Some(0));
    }
}

/// The terminal goes with whoever reads the log: the node leaves in order, or stays if it was started to outlive it.
#[test]
fn a_terminal_that_is_gone_ends_a_node_in_order_unless_it_is_to_stay() {
    let hang_up = |node: &Node| {
        let status = Command::new("kill").args(["-HUP", &node.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    };
    let mut node = Node::start(Stdio::null(), broken(), &[]);
    node.until(is_ready);
    hang_up(&node);
    assert_eq!(node.ended().code(), Some(0));
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_swarmdex")]).env_remove("SWARMDEX_LOG");
    let mut node = Node::start_by(shell, Stdio::null(), broken(), &[]);
    node.until(is_ready);
    hang_up(&node);
    node.until(is_ready);
    assert_eq!(node.stop().code(), Some(0));
}

/// A log that has reached the size that a file may have: the system sends a signal to whoever writes on.
#[test]
fn a_log_that_may_not_grow_any_more_costs_lines_and_not_the_node() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    // In blocks of 512 bytes: far more than the databases of an empty node, and all of it in the log already.
    std::fs::write(&log, vec![b'\n'; 8 << 20]).unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -f 16384 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_swarmdex")])
        .env_remove("SWARMDEX_LOG");
    let out = File::options().append(true).open(&log).unwrap();
    let mut node = Node::start_by(shell, Stdio::null(), out, &["--share", "/does/not/exist"]);
    node.until(has_lost);
    assert_eq!(node.stop().code(), Some(0));
}

#[test]
fn nothing_is_lost_and_nothing_is_said_of_it_as_a_rule() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let mut node = Node::start(Stdio::null(), File::create(&log).unwrap(), &[]);
    let status = node.until(is_ready);
    assert_eq!((&status["log_lines_lost"], &status["failed_tasks"]), (&0.into(), &Value::Array(Vec::new())));
    let shown = node.command(&["status"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(!text.lines().any(|line| line.starts_with("log ") || line.starts_with("failed ")), "{text}");
    assert_eq!(node.stop().code(), Some(0));
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("SIGTERM: leaving"), "the last words are written before the process ends: {log}");
}

#[test]
fn a_reader_that_hangs_does_not_hold_up_the_node() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let noise = noise();
    let mut arguments = vec!["--log-format", "json"];
    arguments.extend(noise.iter().map(String::as_str));
    let mut node = Node::start(Stdio::null(), writer, &arguments);
    let lost = node.until(has_lost)["log_lines_lost"].as_u64().unwrap();
    // It answers, and does what it is told.
    assert_eq!(code(&node.command(&["peers"])), 0);
    assert_eq!(code(&node.command(&["share", "/does/not/exist"])), 7);
    // The reader comes to itself: everything that waited is there, and then the number of lines that did not.
    let read = Arc::new(Mutex::new(Vec::new()));
    let into = read.clone();
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..count]);
        }
    });
    let end = Instant::now() + DEADLINE;
    while read.lock().unwrap().len() < 1_000_000 {
        assert!(Instant::now() < end, "what waited is not written");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(node.stop().code(), Some(0));
    reading.join().unwrap();
    let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: u64 = lines.iter().filter_map(|line| line["fields"]["lost"].as_u64()).sum();
    assert!(told >= lost, "{told} of {lost}");
    assert!(lines.iter().any(|line| line["fields"]["message"] == "SIGTERM: leaving"), "{text}");
}

#[test]
fn a_reader_that_never_reads_does_not_keep_the_node_from_leaving() {
    let (reader, writer) = std::io::pipe().unwrap();
    // Both outputs: the first line waits in the same pipe.
    let noise = noise();
    let arguments: Vec<_> = noise.iter().map(String::as_str).collect();
    let mut node = Node::start(writer.try_clone().unwrap(), writer, &arguments);
    node.until(has_lost);
    assert_eq!(node.stop().code(), Some(0));
    drop(reader);
}

#[test]
fn a_node_runs_although_nobody_can_be_told_that_it_is_ready() {
    let folder = TempDir::new().unwrap();
    let log = |name: &str| File::create(folder.path().join(name)).unwrap();
    let mut node = Node::start(full(), log("full"), &[]);
    node.until(is_ready);
    assert_eq!(node.stop().code(), Some(0));
    let text = std::fs::read_to_string(folder.path().join("full")).unwrap();
    assert!(text.contains("the first line could not be written"), "{text}");
    let mut node = Node::start(broken(), log("broken"), &[]);
    node.until(is_ready);
    assert_eq!(node.stop().code(), Some(0));
    // Closed from the start, both of them.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" >&- 2>&-", "sh", env!("CARGO_BIN_EXE_swarmdex")]).env_remove("SWARMDEX_LOG");
    let mut node = Node::start_by(shell, Stdio::null(), Stdio::null(), &[]);
    node.until(is_ready);
    assert_eq!(node.stop().code(), Some(0));
}

#[test]
fn a_command_whose_output_cannot_be_written_says_so_and_fails() {
    let mut node = Node::start(Stdio::null(), Stdio::null(), &[]);
    node.until(is_ready);
    let folder = TempDir::new().unwrap();
    let shared = folder.path().join("file");
    std::fs::write(&shared, "x").unwrap();
    assert_eq!(code(&node.command(&["share", shared.to_str().unwrap()])), 0);
    let run = |arguments: &[&str], stdout: Stdio| {
        let mut command = program();
        command.args(arguments).stdout(stdout).stderr(Stdio::piped());
        if !matches!(arguments[0], "--help" | "--version") {
            command.arg("--data-dir").arg(node.folder.path());
        }
        command.spawn().unwrap().wait_with_output().unwrap()
    };
    for arguments in [
        &["ls"][..],
        &["ls", "--json"],
        &["status"],
        &["lookup", "file"],
        &["search", "--json"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let output = run(arguments, full().into());
        let said = stderr(&output);
        assert_eq!(code(&output), 1, "{arguments:?}: {said}");
        assert!(said.starts_with("swarmdex: cannot write to standard output"), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        // Whoever has seen enough is no failure.
        let output = run(arguments, broken().into());
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn exit_codes_hold_where_nothing_can_be_said() {
    let mut node = Node::start(Stdio::null(), Stdio::null(), &[]);
    node.until(is_ready);
    let second: &[&str] = &["run", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
    for (arguments, expected) in [
        (&["lookup", "none"][..], 3),
        (&["share", "/does/not/exist"], 7),
        (&["frobnicate"], 2),
        (&["get"], 2),
        (second, 7),
    ] {
        for out in [Stdio::from(full()), Stdio::from(broken())] {
            let mut command = program();
            command.args(arguments).arg("--data-dir").arg(node.folder.path());
            let status = command.stdout(Stdio::null()).stderr(out).status().unwrap();
            assert_eq!(status.code(), Some(expected), "{arguments:?}");
        }
    }
}

#[test]
fn a_demo_that_nobody_watches_ends_and_cleans_up() {
    let folder = TempDir::new().unwrap();
    let demo = |out: Stdio| {
        let mut command = program();
        command.arg("demo").env("TMPDIR", folder.path()).stdout(out).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap()
    };
    let output = demo(broken().into());
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let output = demo(full().into());
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).starts_with("swarmdex: cannot write to standard output"), "{}", stderr(&output));
    assert!(is_empty(folder.path()), "the temporary folder is removed");
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}
