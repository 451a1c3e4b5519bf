//! `swarmdex get` as its users run it: where it writes, what it waits for, what it says, and how it is ended.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{DEADLINE, Process, code, file, made, noise, process_joined, program, stderr};

/// A master, an owner, and one who downloads.
struct Network {
    master: Process,
    owner: Process,
    peer: Process,
    /// Outlives them.
    folder: TempDir,
}

impl Network {
    fn new() -> Self {
        Self::with("")
    }

    /// With settings of its own.
    fn with(settings: &str) -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["master", "owner", "peer"] {
            file(folder.path(), &format!("{name}/extra.toml"), settings.as_bytes());
        }
        let master = Process::start("master", &made(folder.path(), "master"), &[]);
        let start = |name: &str| Process::start("peer", &made(folder.path(), name), &["--master", &master.address()]);
        let (owner, peer) = (start("owner"), start("peer"));
        [&owner, &peer].into_iter().for_each(process_joined);
        Self { master, owner, peer, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn share(&self, name: &str, bytes: &[u8]) {
        let path = file(self.folder.path(), &format!("files/{name}"), bytes);
        self.owner.json(&["share", &path, "--as", name]);
    }

    /// A command of the one who downloads, run in the network's folder.
    fn get(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("get").args(arguments).arg("--data-dir").arg(&self.peer.data).current_dir(self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same by a node of its own.
    fn own_get(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("get").args(arguments).args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--master"]);
        command.arg(self.master.address()).arg("--data-dir").arg(self.path("nobody"));
        command.current_dir(self.folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn restart_owner(&mut self) {
        self.owner = Process::start("peer", &self.path("owner"), &["--master", &self.master.address()]);
    }

    /// Waits until something has come of a download.
    fn until_coming(&self) {
        self.peer.until(&["status"], |status| status["downloaded_bytes"].as_u64().unwrap_or(0) > 1 << 20);
    }
}

/// Waits for a command's end, and says what it was if that does not come.
fn ended(mut child: Child) -> Output {
    let end = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("it does not end: {}", stderr(&output));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap().success());
}

/// Waits until a program has said what it does on SIGTERM.
fn until_it_listens(child: &Child) {
    const TERMINATE: u64 = 1 << 14;
    let begin = Instant::now();
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() & TERMINATE != 0 {
            return;
        }
        assert!(begin.elapsed() < DEADLINE, "it never listens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until some of a file has come.
fn until_begun(folder: &Path, name: &str) {
    let journal = folder.join(format!(".{name}.swarmdex-log"));
    let begin = Instant::now();
    while fs::metadata(&journal).map_or(0, |journal| journal.len()) < 4000 {
        assert!(begin.elapsed() < DEADLINE, "nothing comes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn partial(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".{name}.swarmdex-part"))
}

#[test]
fn an_owner_that_is_restarted_in_the_middle_is_waited_for_and_found_at_its_new_address() {
    let bytes = noise(1, 300 << 20);
    // By itself it waits a little longer than a lease.
    let mut network = Network::with("[lease]\nlease_seconds = 30\nping_interval_seconds = 0.5\n");
    network.share("large", &bytes);
    for (round, how) in ["KILL", "TERM"].into_iter().enumerate() {
        let target = format!("copy-{round}");
        let child = network.get(&["large", "-o", &target]).spawn().unwrap();
        until_begun(network.folder.path(), &target);
        network.owner.signal(how);
        network.owner.wait();
        // One that leaves in order may have sent all of it.
        assert!(how == "TERM" || !network.path(&target).exists(), "too late");
        network.restart_owner();
        let output = ended(child);
        assert_eq!(code(&output), 0, "{how}: {}", stderr(&output));
        assert!(fs::read(network.path(&target)).unwrap() == bytes, "{how}");
    }
}

#[test]
fn a_line_says_for_whom_it_waits_and_it_ends_as_soon_as_it_is_told_to() {
    let mut network = Network::new();
    network.share("large", &noise(2, 300 << 20));
    let owner = network.owner.peer_id();
    for (flags, says) in [(&["--no-wait"][..], false), (&["--wait", "6s"], true), (&[], true)] {
        let target = format!("copy-{}", flags.concat());
        let child = network.get(&[&["large", "-o", &target], flags].concat()).spawn().unwrap();
        until_begun(network.folder.path(), &target);
        network.owner.kill();
        let output = ended(child);
        assert!(matches!(code(&output), 3 | 5), "{flags:?}: {}", stderr(&output));
        let line = stderr(&output).lines().any(|line| line.contains(&owner) && line.contains("waiting"));
        assert_eq!(line, says, "{flags:?}: {}", stderr(&output));
        assert!(partial(network.folder.path(), &target).exists(), "what has come is kept");
        network.restart_owner();
        network.peer.until(&["lookup", "large"], |found| found["holders"][0]["state"] == "alive");
    }
}

#[test]
fn who_says_how_long_also_waits_for_a_name_that_nobody_has_yet() {
    let network = Network::new();
    let file = network.get(&["later", "-o", "later", "--wait", "50s"]).spawn().unwrap();
    let folder = network.get(&["-r", "set", "-o", "set", "--wait", "50s"]).spawn().unwrap();
    let soon = network.get(&["never", "--wait", "1s"]).spawn().unwrap();
    let soon = ended(soon);
    assert_eq!(code(&soon), 3, "{}", stderr(&soon));
    assert!(stderr(&soon).contains("waiting"), "{}", stderr(&soon));
    network.share("later", b"it came");
    network.share("set/a", b"a");
    for child in [file, folder] {
        let output = ended(child);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    assert_eq!(fs::read(network.path("later")).unwrap(), b"it came");
    assert_eq!(fs::read(network.path("set/a")).unwrap(), b"a");
    let wrong = network.get(&["a", "--wait", "soon"]).output().unwrap();
    assert_eq!(code(&wrong), 2, "{}", stderr(&wrong));
    assert_eq!(code(&network.get(&["a", "--wait", "5s", "--no-wait"]).output().unwrap()), 2);
}

#[test]
fn a_folder_whose_owner_is_restarted_in_the_middle_arrives() {
    let mut network = Network::new();
    for number in 0..3000 {
        file(network.folder.path(), &format!("tree/small/{number}"), number.to_string().as_bytes());
    }
    for number in 0..6 {
        file(network.folder.path(), &format!("tree/large/{number}"), &noise(number, 60 << 20));
    }
    let tree = network.path("tree");
    network.owner.json(&["share", tree.to_str().unwrap(), "--as", "tree"]);
    // Thousands of lines that nobody reads.
    let child = network.get(&["-r", "tree", "-o", "copy", "--wait", "50s"]).stdout(Stdio::null()).spawn().unwrap();
    network.until_coming();
    network.owner.kill();
    network.restart_owner();
    let output = ended(child);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for number in (0..3000).step_by(61) {
        let copy = network.path(&format!("copy/small/{number}"));
        assert_eq!(fs::read_to_string(copy).unwrap(), number.to_string());
    }
    for number in 0..6 {
        assert!(fs::read(network.path(&format!("copy/large/{number}"))).unwrap() == noise(number, 60 << 20));
    }
}

#[test]
fn folders_that_are_missing_are_made_and_none_is_left_of_a_failure() {
    let network = Network::new();
    network.share("dir/one.txt", b"1");
    for (output, place) in [
        ("new/", "new/one.txt"),
        ("p/q/two.txt", "p/q/two.txt"),
        ("r/s/t/", "r/s/t/one.txt"),
        ("u/.", "u/one.txt"),
        ("./-", "-"),
    ] {
        let got = network.get(&["dir/one.txt", "-o", output, "--json"]).output().unwrap();
        assert_eq!(code(&got), 0, "{output}: {}", stderr(&got));
        assert_eq!(fs::read(network.path(place)).unwrap(), b"1", "{output}");
        let value: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
        assert_eq!(value["path"], network.path(place).to_str().unwrap());
    }
    file(network.folder.path(), "plain", b"x");
    for output in ["plain/", "plain/sub/x"] {
        let got = network.get(&["dir/one.txt", "-o", output]).output().unwrap();
        assert_eq!(code(&got), 7, "{output}: {}", stderr(&got));
    }
    assert_eq!(code(&network.get(&["nothing", "-o", "v/w/"]).output().unwrap()), 3);
    assert!(!network.path("v").exists());
}

#[test]
fn a_file_goes_to_standard_output_with_nothing_mixed_into_it() {
    let bytes = noise(5, 3_000_000);
    let network = Network::new();
    network.share("file", &bytes);
    for (name, mut get) in [
        ("running", network.get(&["file", "-o", "-"])),
        ("own", network.own_get(&["file", "-o", "-"])),
        ("by its path", network.get(&["file", "-o", "/dev/stdout"])),
        ("json", network.get(&["file", "-o", "-", "--json"])),
    ] {
        let output = get.output().unwrap();
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        assert!(output.stdout == bytes, "{name}");
        let said = stderr(&output);
        let json: Option<serde_json::Value> = said.lines().find_map(|line| serde_json::from_str(line).ok());
        assert_eq!(json.is_some_and(|got| got["bytes"] == bytes.len()), name == "json", "{said}");
    }
    assert!(!network.path("-").exists());
    // Appended to a file, as a shell does it.
    let target = network.path("target");
    fs::write(&target, "before").unwrap();
    let append = fs::File::options().append(true).open(&target).unwrap();
    assert!(network.get(&["file", "-o", "-"]).stdout(append).status().unwrap().success());
    assert!(fs::read(&target).unwrap() == [b"before", &bytes[..]].concat());
    // Nothing comes of what is not there, and nothing is left.
    let none = network.get(&["none", "-o", "-"]).output().unwrap();
    assert_eq!((code(&none), none.stdout.len()), (3, 0));
    for wrong in [&["-r", "file", "-o", "-"][..], &["--update", "file", "-o", "-"]] {
        assert_eq!(code(&network.get(wrong).output().unwrap()), 2);
    }
    let left = fs::read_dir(&network.peer.data).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with("swarmdex-stream")));
}

#[test]
fn pipes_that_close_and_pipes_with_names() {
    let bytes = noise(6, 3_000_000);
    let network = Network::new();
    network.share("file", &bytes);
    // Whoever reads has seen enough.
    let mut child = network.get(&["file", "-o", "-"]).spawn().unwrap();
    let mut first = [0; 1000];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let output = ended(child);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "as with other output");
    assert!(first[..] == bytes[..1000]);
    // A named pipe, as `mkfifo` makes it.
    let fifo = network.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let child = network.get(&["file", "-o", "fifo"]).spawn().unwrap();
    assert!(fs::read(&fifo).unwrap() == bytes);
    let output = ended(child);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!output.stdout.is_empty(), "said beside it");
    assert!(fs::symlink_metadata(&fifo).unwrap().mode() & 0o170_000 == 0o010_000, "it is what it was");
    // Its reader sees the end of a download that fails.
    let child = network.get(&["none", "-o", "fifo"]).spawn().unwrap();
    let reading = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    assert_eq!(code(&ended(child)), 3);
    // It may have come too late to see even that.
    drop(fs::File::options().read(true).write(true).open(&fifo));
    assert!(reading.join().unwrap().is_empty());
    assert_eq!(code(&network.get(&["file", "-o", "/dev/null"]).output().unwrap()), 0);
    let full = network.get(&["file", "-o", "/dev/full"]).output().unwrap();
    assert_eq!(code(&full), 7, "{}", stderr(&full));
    let full = network.get(&["file", "-o", "-"]).stdout(fs::File::create("/dev/full").unwrap()).output().unwrap();
    assert_eq!(code(&full), 7, "{}", stderr(&full));
}

#[test]
fn a_name_that_nobody_has_is_answered_with_what_was_meant() {
    let network = Network::new();
    for name in ["docs/Report.txt", "docs/notes.txt", "photos/summer/sea.jpg"] {
        network.share(name, name.as_bytes());
    }
    for (arguments, parts) in [
        (&["docs"][..], &["--recursive", "\"docs\"", "2 files"][..]),
        (&["docs/"], &["--recursive", "\"docs\""]),
        (&["Docs"], &["--recursive", "\"docs\""]),
        (&["photos/summer"], &["--recursive", "1 file:"]),
        (&["docs/report.txt"], &["\"docs/Report.txt\""]),
        (&["REPORT.TXT"], &["\"docs/Report.txt\""]),
        (&["sea.jpg"], &["\"photos/summer/sea.jpg\""]),
        (&["docs/note.txt"], &["\"docs/notes.txt\""]),
        (&["docs/ntoes.txt"], &["\"docs/notes.txt\""]),
        (&["dosc"], &["--recursive", "\"docs\""]),
        (&["-r", "Photos"], &["\"photos\""]),
        (&["-r", "phtoos"], &["\"photos\""]),
        (&["nothing like it"], &["swarmdex search"]),
    ] {
        for mut get in [network.get(arguments), network.own_get(arguments)] {
            let output = get.output().unwrap();
            assert_eq!(code(&output), 3, "{arguments:?}: {}", stderr(&output));
            for part in parts {
                assert!(stderr(&output).contains(part), "{arguments:?} {part}: {}", stderr(&output));
            }
        }
    }
    assert_eq!(code(&network.get(&["-r", "docs/Report.txt", "-o", "one"]).output().unwrap()), 0, "a file by itself");
}

#[test]
fn a_signal_interrupts_and_the_same_command_goes_on() {
    let bytes = noise(7, 300 << 20);
    let network = Network::new();
    network.share("large", &bytes);
    for (own, name, expected) in [(false, "INT", 130), (false, "TERM", 143), (true, "INT", 130), (true, "TERM", 143)] {
        let target = format!("copy-{own}-{name}");
        let arguments = ["large", "-o", target.as_str()];
        let get = || if own { network.own_get(&arguments) } else { network.get(&arguments) };
        let child = get().spawn().unwrap();
        let part = partial(network.folder.path(), &target);
        until_begun(network.folder.path(), &target);
        signal(&child, name);
        let output = ended(child);
        assert_eq!(code(&output), expected, "{own} {name}: {}", stderr(&output));
        assert_eq!(stderr(&output), "swarmdex: interrupted; the same command goes on\n", "{own} {name}");
        assert!(part.exists() && !network.path(&target).exists());
        let output = get().output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(fs::read(network.path(&target)).unwrap() == bytes);
        fs::remove_file(network.path(&target)).unwrap();
    }
}

#[test]
fn commands_that_wait_or_cannot_write_end_by_a_signal_as_well() {
    let network = Network::new();
    // One that waits for a name, one that hashes, and one whose output nobody reads.
    let waits = network.get(&["later", "--wait", "1h"]).spawn().unwrap();
    let mut waits = waits;
    let mut said = [0; 20];
    waits.stderr.take().unwrap().read_exact(&mut said).unwrap();
    signal(&waits, "INT");
    assert_eq!(code(&ended(waits)), 130);

    let huge = file(network.folder.path(), "huge", b"");
    fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let mut share = program();
    share.args(["share", &huge, "--data-dir"]).arg(&network.owner.data).stdout(Stdio::null()).stderr(Stdio::piped());
    let share = share.spawn().unwrap();
    until_it_listens(&share);
    signal(&share, "TERM");
    let output = ended(share);
    assert_eq!(code(&output), 143, "{}", stderr(&output));

    for number in 0..3000 {
        file(network.folder.path(), &format!("tree/{number:0150}"), b"x");
    }
    let tree = network.path("tree");
    network.owner.json(&["share", tree.to_str().unwrap()]);
    let mut search = program();
    search.args(["search", "0*", "--limit", "5000", "--data-dir"]).arg(&network.peer.data);
    let mut search = search.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = search.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    signal(&search, "INT");
    // The pipe is full, and stays so.
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = search.try_wait().unwrap() {
            break status;
        }
        assert!(begin.elapsed() < DEADLINE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(130));
    drop(stdout);

    // A stream that nobody reads any more.
    network.share("file", &noise(8, 3_000_000));
    let mut child = network.get(&["file", "-o", "-"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    signal(&child, "INT");
    assert_eq!(code(&ended(child)), 130);
}
