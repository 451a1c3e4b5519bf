//! What a person and a stranger meet at the edge of the program: modes of files, help, summaries, texts of others.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Process, code, file, made, noise, program, stderr};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything in a folder that others than its owner may do something with.
fn open_to_others(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let mode = folder.symlink_metadata().unwrap().permissions().mode() & 0o7777;
        if mode != 0o700 {
            found.push((folder.clone(), mode));
        }
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Databases come and go with those who have them open.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                folders.push(path);
            } else if mode != 0o600 {
                found.push((path, mode));
            }
        }
    }
    found
}

#[test]
fn a_data_directory_is_its_users_alone_whatever_the_umask_and_an_old_one_is_mended() {
    for umask in ["000", "022", "277"] {
        let folder = TempDir::new().unwrap();
        let shared = file(folder.path(), "files/large", &noise(1, 3_000_000));
        let data = folder.path().join("deep/er/data");
        let start = |umask: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_swarmdex")]);
            shell.args(["run", "--role", "master", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
            shell.args(["--http", "127.0.0.1:0"]);
            Process::start_by(shell, &data, &folder.path().join("log"))
        };
        let mut node = start(umask);
        assert_eq!(code(&node.command(&["share", &shared])), 0);
        assert_eq!(open_to_others(&data), [], "umask {umask}");
        assert!(data.join("outboards").read_dir().unwrap().count() > 0 && data.join("index.db-wal").exists());
        node.kill();
        // As a build from before left it, its key apart.
        let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(&data).status().unwrap();
        assert!(opened.success() && !open_to_others(&data).is_empty());
        std::fs::set_permissions(data.join("identity.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let node = start("022");
        assert_eq!(open_to_others(&data), [], "umask {umask}, mended");
        assert_eq!(node.json(&["ls"]).as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_folder_that_is_somebodys_home_stays_open_and_the_log_says_so() {
    let folder = TempDir::new().unwrap();
    let home = made(folder.path(), "data");
    made(&home, "public_html");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755)).unwrap();
    let node = Process::start("peer", folder.path(), &[]);
    assert_eq!(home.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    node.until_log("other users of this machine can get at the data directory");
    for name in ["identity.key", "shares.db", "control.sock"] {
        assert_eq!(home.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_folder_of_many_files_has_one_line_and_verbose_says_it_of_each() {
    let folder = TempDir::new().unwrap();
    let other = Process::start("master", &made(folder.path(), "other"), &[]);
    let node = Process::start("peer", folder.path(), &["--master", &other.address()]);
    node.until(&["status"], |status| status["master"]["state"] == "joined");
    let files = made(folder.path(), "docs/many");
    for number in 0..200 {
        file(&files, &format!("file-{number}"), format!("{number}").as_bytes());
    }
    let docs = files.parent().unwrap().to_str().unwrap();
    let single = file(folder.path(), "single", b"x");
    let shared = node.command(&["share", docs]);
    let text = stdout(&shared);
    assert_eq!(code(&shared), 0, "{}", stderr(&shared));
    assert!(text.lines().count() == 1 && text.contains("200 files") && text.contains("200 certified"), "{text}");
    assert!(stdout(&node.command(&["share", docs, "--verbose"])).lines().count() > 200);
    assert_eq!(node.json(&["share", docs])["entries"].as_array().unwrap().len(), 200);
    let text = stdout(&node.command(&["share", &single]));
    assert!(text.contains("single") && text.contains("certified"), "one file as ever: {text}");

    let out = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let got = other.command(&["get", "--recursive", "many", "-o", &out("a")]);
    assert_eq!(code(&got), 0, "{}", stderr(&got));
    assert!(stdout(&got).lines().count() == 1 && stdout(&got).starts_with("200 files, "), "{}", stdout(&got));
    assert_eq!(std::fs::read_dir(out("a")).unwrap().count(), 200);
    let got = other.command(&["get", "-r", "-v", "many", "-o", &out("b")]);
    assert_eq!(stdout(&got).lines().count(), 201);
    let json = other.json(&["get", "-r", "many", "-o", &out("c")]);
    assert_eq!(json.as_array().unwrap().len(), 200);

    // What was changed here is kept, and of many as much is said.
    for number in 0..30 {
        file(Path::new(&out("a")), &format!("file-{number}"), b"changed here");
    }
    let kept = |flags: &[&str]| {
        let updated = other.command(&[&["get", "-r", "many", "-o", &out("a")], flags].concat());
        stderr(&updated).lines().filter(|line| line.contains("kept: ")).count()
    };
    assert_eq!((kept(&["--update"]), kept(&["--update", "-v"])), (11, 30));

    let names: Vec<_> = (0..150).map(|number| format!("many/file-{number}")).collect();
    let revoke = |names: &[String], flag: &str| {
        let names = names.iter().map(String::as_str);
        let flags = (!flag.is_empty()).then_some(flag);
        node.command(&["revoke"].into_iter().chain(flags).chain(names).collect::<Vec<_>>())
    };
    let text = stdout(&revoke(&names[..50], ""));
    assert!(text.lines().count() == 1 && text.starts_with("50 names given up"), "{text}");
    assert_eq!(stdout(&revoke(&names[50..100], "-v")).lines().count(), 50);
    assert_eq!(stdout(&revoke(&names[100..103], "")).lines().count(), 3);
    let json: Value = serde_json::from_slice(&revoke(&names[103..], "--json").stdout).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 47);
}

#[test]
fn the_logs_flags_work_for_every_command_and_say_nothing_unasked() {
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &[]);
    let path = file(folder.path(), "file", b"x");
    assert_eq!(code(&node.command(&["share", &path])), 0);
    let elsewhere = folder.path().join("none");
    let run = |arguments: &[&str], data: &Path, log: Option<&str>| {
        let mut command = program();
        command.args(arguments).arg("--data-dir").arg(data).envs(log.map(|log| ("SWARMDEX_LOG", log)));
        command.output().unwrap()
    };
    for arguments in [&["ls"][..], &["status"], &["lookup", "file"], &["search", "file"], &["peers"], &["share", &path]]
    {
        let quiet = run(arguments, &node.data, None);
        assert_eq!((code(&quiet), stderr(&quiet).as_str()), (0, ""), "{arguments:?}");
        let loud = run(arguments, &node.data, Some("debug"));
        assert!(stderr(&loud).contains("DEBUG swarmdex"), "{arguments:?}: {}", stderr(&loud));
        assert_eq!(stdout(&loud).lines().count(), stdout(&quiet).lines().count(), "what it is asked for stays");
        let json = run(&[arguments, &["--log-format", "json"]].concat(), &node.data, Some("swarmdex=debug"));
        let lines: Vec<Value> = stderr(&json).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["level"] == "DEBUG"), "{arguments:?}");
    }
    // A node of its own logs as well.
    let own = ["lookup", "file", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--master", &node.address()];
    assert_eq!(stderr(&run(&own, &elsewhere, None)), "");
    let loud = stderr(&run(&own, &elsewhere, Some("info")));
    assert!(loud.contains("INFO swarmdex"), "{loud}");
    let complaint = run(&["ls"], &node.data, Some("a=b=c"));
    assert!(
        code(&complaint) == 0 && stderr(&complaint).contains("SWARMDEX_LOG is no filter"),
        "{}",
        stderr(&complaint)
    );
}

#[test]
fn a_command_without_a_node_repeats_the_flags_that_led_there() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("my data");
    for arguments in [&["ls"][..], &["status"], &["peers"], &["share", "/tmp"], &["revoke", "x"]] {
        let output = program().args(arguments).arg("--data-dir").arg(&data).output().unwrap();
        let expected = format!("swarmdex run --role peer --data-dir '{}'", data.display());
        assert!(code(&output) == 5 && stderr(&output).contains(&expected), "{}", stderr(&output));
    }
}

#[test]
fn help_is_about_the_command_and_its_flags_go_on_working() {
    for (command, shown, hidden) in [
        ("ls", &["--data-dir", "--json"][..], &["--role", "--master", "--http", "--share "][..]),
        ("revoke", &["--data-dir", "--verbose"], &["--role", "--listen"]),
        ("get", &["--data-dir", "--master", "--recursive"], &["--role", "--http"]),
        ("run", &["--role", "--share", "--http", "--master"], &["--verbose"]),
    ] {
        for flag in ["--help", "-h"] {
            let text = stdout(&program().args([command, flag]).output().unwrap());
            assert!(shown.iter().all(|part| text.contains(part)), "{command}: {text}");
            assert!(!hidden.iter().any(|part| text.contains(part)), "{command}: {text}");
            assert!(command == "run" || command == "get" || text.lines().count() < 40, "{command}: {text}");
        }
    }
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &[]);
    let same = ["--no-mdns", "--role", "peer", "--listen", "/ip4/127.0.0.1/tcp/0", "--http", "off", "--network", "x"];
    assert_eq!(code(&node.command(&[&["ls"], &same[..]].concat())), 0, "one list of flags for all commands");
    assert_eq!(code(&node.command(&[&same[..], &["status"]].concat())), 0);
}

/// Whatever answers at the socket: the reason of a refusal is what a master said.
#[test]
fn what_others_say_is_printed_plain_and_kept_in_json() {
    let folder = TempDir::new().unwrap();
    let listener = UnixListener::bind(folder.path().join("control.sock")).unwrap();
    let hostile = "no\u{1b}[2J\u{1b}]0;title\u{7}\nswarmdex: all is well\u{202e}\u{9b}31m\u{2028}";
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), Vec::new());
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let (status, body) = if head.contains("/v1/shared") {
                let refused = serde_json::json!([{
                    "name": "file", "content": "0".repeat(64), "size": 1, "version": 0, "path": "/file",
                    "owner": "12D3KooWGjMCFWcL5XcLkfvBMYfXLDFu4DPmc4cVcDRTzXmF8JqS",
                    "standing": "refused", "reason": hostile,
                }]);
                ("200 OK", refused)
            } else {
                ("500 Internal Server Error", serde_json::json!({ "kind": "other", "message": hostile }))
            };
            let body = body.to_string();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let run = |arguments: &[&str]| program().args(arguments).arg("--data-dir").arg(folder.path()).output().unwrap();
    let is_plain = |text: &str| {
        text.lines().count() == 1
            && text
                .trim_end_matches('\n')
                .chars()
                .all(|char| !char.is_control() && !matches!(char, '\u{202e}' | '\u{2028}'))
    };
    for arguments in
        [&["status"][..], &["peers"], &["lookup", "x"], &["search", "x"], &["share", "/tmp"], &["revoke", "x"]]
    {
        let output = run(arguments);
        assert!(code(&output) == 1 && is_plain(&stderr(&output)), "{arguments:?}: {:?}", stderr(&output));
        assert!(stderr(&output).contains("\\u{1b}[2J"), "{:?}", stderr(&output));
    }
    let table = stdout(&run(&["ls"]));
    assert!(table.contains("\\u{a}swarmdex: all is well") && table.lines().all(is_plain), "{table:?}");
    let json = stdout(&run(&["ls", "--json"]));
    assert!(is_plain(&json), "{json:?}");
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value[0]["reason"], hostile);
    // A name that somebody else chose, among the arguments.
    let output = run(&["get", "a", "\u{1b}[31mred"]);
    assert!(code(&output) == 2 && !stderr(&output).contains('\u{1b}'), "{:?}", stderr(&output));
}
