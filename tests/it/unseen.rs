//! Files that change and do not say so, names and disks that lack what others have.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use swarmdex::config::{Role, ShareOptions};
use swarmdex::node::{ErrorKind, GetRequest};
use swarmdex_protocols::ContentId;
use swarmdex_protocols::fetch::{ChunkRun, FetchRequest, Header};

use crate::disks::Disk;
use crate::harness::{Process, TestNode, code, made, noise, process_joined, stderr, tcp_address, until};
use crate::stranger::{FETCH, Stranger, framed, unframed};

/// A program that writes to a file through memory: once before it says so, and once more when it is told to. Size and times of the file
/// do not show the second time.
struct Mapping(Child, BufReader<std::process::ChildStdout>);

impl Mapping {
    fn new(path: &Path) -> Self {
        const PROGRAM: &str = "import mmap, sys\nf = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()\n\
            for n in range(1, 200):\n m[9] = n; print(n, flush=True); sys.stdin.readline()";
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM, path.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut mapping = Self(child, output);
        mapping.until_written();
        mapping
    }

    fn until_written(&mut self) {
        self.1.read_line(&mut String::new()).unwrap();
    }

    fn write(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.until_written();
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn changes_unseen(path: &Path, change: impl FnOnce()) {
    let stamp = || {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.len(), metadata.modified().unwrap())
    };
    let before = stamp();
    change();
    assert_eq!(stamp(), before, "it shows");
}

/// A receiver's complaint makes the owner look: what its file is not any more is withdrawn, and what it is now is announced. One that
/// complains without a reason changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_unseen_is_hashed_anew_after_a_complaint() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    for (name, size) in [("base.db", 8 << 20), ("small.db", 1000)] {
        let path = anna.file(name, &noise(1, size));
        let mut mapping = Mapping::new(&path);
        anna.share(vec![path.clone()], None).outcome().await.unwrap();
        let before = ben.lookup(name).await.unwrap().entry.content;
        let liar = Stranger::start().await;
        let owner = liar.connect(&tcp_address(&anna)).await.unwrap();
        let complaint = framed(&FetchRequest::Wrong(ChunkRun { content: before, first: 0, count: 1 }));
        let answer = liar.send(FETCH, owner, complaint).await.unwrap();
        assert_eq!(unframed::<Header>(&answer), Header::Done);
        changes_unseen(&path, || mapping.write());
        let error = ben.fetch(name).await.unwrap_err();
        // The owner may have looked for the other one's sake just now, and then it has it no more.
        assert!([ErrorKind::Verification, ErrorKind::NotFound].contains(&error.kind()), "{error}");
        let kept = ben.leftovers().iter().any(|name| name.ends_with("part"));
        assert!(!(kept && error.to_string().contains("nothing was kept")), "{error}");
        let now = ContentId::of(&std::fs::read(&path).unwrap());
        assert_ne!(now, before);
        until("what it is now is announced", async || {
            (ben.lookup(name).await.ok()?.entry.content == now).then_some(())
        })
        .await;
        let got = ben.fetch(name).await.unwrap();
        assert_eq!(ContentId::of(&std::fs::read(&got.path).unwrap()), now);
    }
}

/// Who knows better than the times says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_unseen_is_hashed_anew_when_somebody_asks_for_that() {
    let master = TestNode::master().await;
    let anna = TestNode::peer(&master).await;
    let path = anna.file("base.db", &noise(2, 1 << 20));
    let mut mapping = Mapping::new(&path);
    anna.share(vec![path.clone()], None).outcome().await.unwrap();
    changes_unseen(&path, || mapping.write());
    let now = ContentId::of(&std::fs::read(&path).unwrap());
    for (rehash, is_now) in [(false, false), (true, true)] {
        let options = ShareOptions { rehash, ..ShareOptions::default() };
        let report = anna.share_with(vec![path.clone()], None, options).outcome().await.unwrap();
        assert_eq!(report.entries[0].entry.content == now, is_now);
        // And is told that there is something to know.
        assert_eq!(
            report.written.iter().map(|written| (&written.path, written.pid)).collect::<Vec<_>>(),
            [(&path, mapping.0.id())]
        );
    }
}

/// A master, and an owner that was told to share a folder.
fn sharing(folder: &Path, files: &Path) -> (Process, Process) {
    let master = Process::start("master", &made(folder, "master"), &[]);
    let arguments = ["--master", &master.address(), "--share", files.to_str().unwrap()];
    let owner = Process::start("peer", &made(folder, "anna"), &arguments);
    (master, owner)
}

/// A copy that its user touched is not passed on any more, and nobody is blamed for that.
#[test]
fn a_copy_that_changed_is_fetched_from_others_and_nobody_is_blamed() {
    let folder = tempfile::TempDir::new().unwrap();
    let files = made(folder.path(), "files");
    std::fs::write(files.join("big.bin"), noise(3, 3 << 20)).unwrap();
    let (master, anna) = sharing(folder.path(), &files);
    let ben = Process::start("peer", &made(folder.path(), "ben"), &["--master", &master.address()]);
    anna.until(&["status"], |status| status["shared"]["certified"] == 1);
    process_joined(&ben);
    let get = |name: &str| {
        let target = folder.path().join(name);
        let output = ben.command(&["get", "big.bin", "-o", target.to_str().unwrap()]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        target
    };
    let first = get("first");
    std::fs::File::options().write(true).open(&first).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    get("second");
    let log = ben.log();
    assert!(!log.contains("sent something else") && !log.contains("WARN"), "{log}");
}

/// What is no text is named in one line, and everything else is shared.
#[test]
fn a_name_that_is_no_text_costs_a_line_and_nothing_else() {
    let folder = tempfile::TempDir::new().unwrap();
    let files = made(folder.path(), "files");
    std::fs::write(files.join("plain.txt"), "x").unwrap();
    std::fs::write(files.join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt")), "x").unwrap();
    let master = Process::start("master", &made(folder.path(), "master"), &[]);
    let anna = Process::start("peer", &made(folder.path(), "anna"), &["--master", &master.address()]);
    process_joined(&anna);
    let output = anna.command(&["share", files.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let lines: Vec<_> =
        stderr(&output).lines().filter(|line| line.contains("caf\\xE9.txt")).map(str::to_owned).collect();
    assert!(lines.len() == 1 && lines[0].contains("not UTF-8"), "{lines:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 file"));
    // The same by itself cannot be said to a node.
    let command = Command::new(env!("CARGO_BIN_EXE_swarmdex"))
        .arg("share")
        .arg(files.join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt")))
        .args(["--data-dir", folder.path().join("anna/data").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(code(&command) == 2 && stderr(&command).contains("not UTF-8"), "{}", stderr(&command));
    let roots = anna.json(&["ls", "--roots"]);
    assert!(roots.to_string().contains("caf\\\\xE9.txt"), "{roots}");
}

/// A limit of the user's for the length of files ends one download, with its reason, and not the program.
#[test]
fn a_limit_for_the_length_of_files_ends_one_download() {
    let folder = tempfile::TempDir::new().unwrap();
    let files = made(folder.path(), "files");
    std::fs::write(files.join("large"), noise(8, 3 << 20)).unwrap();
    std::fs::write(files.join("small"), "x").unwrap();
    let (master, anna) = sharing(folder.path(), &files);
    anna.until(&["status"], |status| status["shared"]["certified"] == 2);
    let get = |name: &str| {
        let script = format!(
            "ulimit -f 2048; exec '{}' get {name} -o '{}' --master '{}' --no-mdns --data-dir '{}'",
            env!("CARGO_BIN_EXE_swarmdex"),
            folder.path().join(name).display(),
            master.address(),
            folder.path().join("getter").display()
        );
        Command::new("bash").args(["-c", &script]).output().unwrap()
    };
    let output = get("large");
    assert!(code(&output) == 7 && stderr(&output).contains("may a file be as long"), "{}", stderr(&output));
    let output = get("small");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

/// A disk that has space and no place for one more file says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_inodes_is_told_from_one_without_space() {
    let Some(disk) = Disk::of_few_files(3) else { return };
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    anna.share_file("large", &noise(4, 3 << 20)).await;
    anna.share_file("small", &noise(5, 300)).await;
    let get = async |name: &str| {
        let request = GetRequest { name: name.to_owned(), output: disk.path(), recursive: false };
        ben.get(request).outcome().await
    };
    // The disk itself, and one file: there is none for what is written beside it.
    std::fs::write(disk.path().join("other"), "").unwrap();
    get("large").await.unwrap();
    let error = get("small").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Storage && error.to_string().contains("inodes"), "{error}");
    std::fs::remove_file(disk.path().join("other")).unwrap();
    get("small").await.unwrap();
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 2);
}

fn tree(node: &TestNode, names: &[&str]) -> PathBuf {
    for (number, name) in names.iter().enumerate() {
        node.file(&format!("tree/{name}"), &noise(number as u64, if number % 2 == 0 { 700_000 } else { 100 }));
    }
    node.dir.path().join("files/tree")
}

/// A disk without links, permissions, and a way to rename without replacing: downloads come to their end, replace nothing, and what the
/// disk cannot hold is named beforehand. No node lives there, and nothing is left of the attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_disk_takes_downloads_and_no_node() {
    let Some(disk) = Disk::plain() else { return };
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let names = ["one", "two", "deep/three", "deep/four", "Deep/Three"];
    anna.share(vec![tree(&anna, &names)], Some("t".to_owned())).outcome().await.unwrap();
    let below = |output: PathBuf| GetRequest { name: "t".to_owned(), output, recursive: true };
    let report = ben.get(below(disk.path().join("t"))).outcome().await.unwrap();
    assert_eq!((report.files.len(), report.failed.len()), (4, 1), "{report:?}");
    let failed = &report.failed[0];
    assert!(failed.message.contains("capital letters") && failed.kind == ErrorKind::Storage, "{failed:?}");
    for file in &report.files {
        let number = names.iter().position(|name| file.name.as_str() == format!("t/{name}")).unwrap();
        assert!(std::fs::read(&file.path).unwrap() == noise(number as u64, file.bytes as usize));
    }
    // What is there is left alone.
    std::fs::write(disk.path().join("mine"), "mine").unwrap();
    let mine = GetRequest { name: "t/one".to_owned(), output: disk.path().join("mine"), recursive: false };
    let error = ben.get(mine).outcome().await.unwrap_err();
    assert_eq!(
        (error.kind(), std::fs::read(disk.path().join("mine")).unwrap()),
        (ErrorKind::Storage, b"mine".to_vec()),
        "{error}"
    );
    let unfit = GetRequest { name: "t/one".to_owned(), output: disk.path().join("a:b"), recursive: false };
    let error = ben.get(unfit).outcome().await.unwrap_err().to_string();
    assert!(error.contains("a:b") && error.contains("characters"), "{error}");
    let folder = disk.path().join("new/node");
    let error =
        match TestNode::try_start(Role::Peer, tempfile::TempDir::new().unwrap(), |config| config.data_dir = folder)
            .await
        {
            Ok(_) => panic!("a node lives there"),
            Err(error) => error,
        };
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.to_string().contains("permissions") && error.to_string().contains("fuse"), "{error}");
    let mut left = disk.names();
    left.sort();
    assert_eq!(left, ["mine", "t"]);
}

/// The disk of a share does not answer: who wants something from there is told so in time, and everything else is served; when it does
/// again, so is that.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_holds_nobody_else_up() {
    let Some(disk) = Disk::plain() else { return };
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let bytes = noise(6, 20 << 20);
    std::fs::write(disk.path().join("there"), &bytes).unwrap();
    anna.share(vec![disk.path().join("there")], None).outcome().await.unwrap();
    anna.share_file("here", b"here").await;
    anna.share_file("large", &noise(7, 20 << 20)).await;
    disk.signal("STOP");
    let waiting = tokio::spawn({
        let (node, output) = (ben.node.clone(), ben.output());
        async move { node.get(GetRequest { name: "there".to_owned(), output, recursive: false }).outcome().await }
    });
    for name in ["here", "large"] {
        ben.fetch(name).await.unwrap();
    }
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("disk that does not answer"), "{error}");
    disk.signal("CONT");
    let got = ben.fetch("there").await.unwrap();
    assert!(std::fs::read(&got.path).unwrap() == bytes);
}
