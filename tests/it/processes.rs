//! The program as its users run it: commands, exit codes, crashes and restarts.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use swarmdex_protocols::ContentId;
use tempfile::TempDir;

use crate::harness::{Process, code, file, made, noise, program, stderr};

/// A master and a peer that has joined it.
fn network(folder: &Path) -> (Process, Process) {
    let master = Process::start("master", &made(folder, "master"), &[]);
    let peer = Process::start("peer", &made(folder, "peer"), &["--master", &master.address()]);
    peer.until(&["status"], |status| status["master"]["state"] == "joined");
    (master, peer)
}

#[test]
fn every_command_prints_its_pinned_json_and_ends_with_its_pinned_code() {
    let folder = TempDir::new().unwrap();
    let (master, peer) = network(folder.path());
    assert_eq!(master.ready["ready"], true);
    assert_eq!((&master.ready["role"], &peer.ready["role"]), (&"master".into(), &"peer".into()));
    assert!(master.ready["http"].is_null());
    let listen = master.ready["listen"].as_array().unwrap();
    let suffix = format!("/p2p/{}", master.peer_id());
    assert!(listen.iter().all(|address| address.as_str().unwrap().ends_with(&suffix)), "{listen:?}");

    let bytes = noise(1, 2_000_000);
    let path = file(folder.path(), "files/Data 2024.bin", &bytes);
    let shared = peer.json(&["share", &path]);
    assert_eq!(shared["entries"][0]["name"], "Data 2024.bin");
    assert_eq!(shared["entries"][0]["standing"], "certified");
    let content = ContentId::of(&bytes).to_string();

    let lookup = peer.json(&["lookup", "Data 2024.bin"]);
    assert_eq!(lookup["content"], content.as_str());
    assert_eq!((&lookup["size"], &lookup["certified"]), (&2_000_000.into(), &true.into()));
    assert_eq!((&lookup["source"], &lookup["owner"]), (&"master".into(), &peer.peer_id().into()));
    assert!(lookup["version"].is_u64());
    assert_eq!(lookup["holders"][0]["peer_id"], peer.peer_id());

    for command in [&["search", "2024", "dat"][..], &["ls"]] {
        let entries = peer.json(command);
        assert_eq!(entries.as_array().unwrap().len(), 1, "{command:?}");
        for key in ["name", "content", "size", "owner", "version"] {
            assert_eq!(entries[0][key], lookup[key], "{command:?} {key}");
        }
    }
    let out = made(folder.path(), "out");
    let got = master.json(&["get", "Data 2024.bin", "-o", out.to_str().unwrap()]);
    assert_eq!(
        (&got["name"], &got["bytes"], &got["verified"]),
        (&"Data 2024.bin".into(), &2_000_000.into(), &true.into())
    );
    assert_eq!(got["sources"][0], peer.peer_id());
    assert!(got["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read(got["path"].as_str().unwrap()).unwrap(), bytes);

    let peers = peer.json(&["peers"]);
    assert_eq!(peers.as_array().unwrap().len(), 2);
    for entry in peers.as_array().unwrap() {
        assert_eq!(entry["state"], "alive");
        assert!(entry["peer_id"].is_string() && entry["addresses"].is_array());
    }
    let status = master.json(&["status"]);
    assert_eq!((&status["role"], &status["peer_id"]), (&"master".into(), &master.peer_id().into()));
    assert_eq!((&status["index"]["names"], &status["index"]["peers"]), (&1.into(), &2.into()));
    assert_eq!(status["master"]["state"], "self");

    // 3 not found, 4 conflict, 7 target exists, 2 usage.
    assert_eq!(code(&peer.command(&["lookup", "none"])), 3);
    assert_eq!(code(&peer.command(&["get", "none"])), 3);
    assert_eq!(code(&peer.command(&["revoke", "none"])), 3);
    let conflict = master.command(&["share", &file(folder.path(), "other", b"x"), "--as", "Data 2024.bin"]);
    assert_eq!(code(&conflict), 4);
    let exists = master.command(&["get", "Data 2024.bin", "-o", out.to_str().unwrap()]);
    assert_eq!(code(&exists), 7, "{}", stderr(&exists));
    for wrong in [&["lookup", "../x"][..], &["get", "/etc/passwd"], &["search", "a\x07"], &["lookup", "NUL"]] {
        let output = peer.command(wrong);
        assert_eq!(code(&output), 2, "{wrong:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("swarmdex: "));
    }
    assert_eq!(code(&peer.command(&["share", "/does/not/exist"])), 7);
    assert_eq!(code(&peer.command(&["share", &path, "/tmp", "--as", "one"])), 2);
    let twin = file(folder.path(), "twin/Data 2024.bin", b"another");
    assert_eq!(code(&peer.command(&["share", &twin])), 4, "this node has another file under that name");
    assert_eq!(code(&peer.command(&["revoke", "Data 2024.bin"])), 0);
    assert_eq!(code(&master.command(&["lookup", "Data 2024.bin"])), 3);
}

#[test]
fn usage_and_configuration_errors_end_with_2_and_say_where() {
    let folder = TempDir::new().unwrap();
    let config = file(folder.path(), "bad.toml", b"role = \"peer\"\n\n[limits]\nnamez = 3\n");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = program();
        command.args(arguments).arg("--data-dir").arg(folder.path().join("data")).envs(variables.iter().copied());
        command.output().unwrap()
    };
    for (arguments, variables, part) in [
        (&["run", "--role", "king"][..], &[][..], "--role"),
        (&["frobnicate"], &[], "frobnicate"),
        (&["get"], &[], "NAME"),
        (&["run", "--listen", "nonsense"], &[], "--listen"),
        (&["run", "--listen", "/ip4/127.0.0.1/udp/1"], &[], "listen"),
        (&["run", "--master", "/ip4/127.0.0.1"], &[], "master"),
        (&["run", "--http", "everywhere"], &[], "--http"),
        (&["run", "--network", "a/b"], &[], "--network"),
        (&["run", "--config", &config], &[], "namez"),
        (&["run", "--config", &config], &[], "line 4"),
        (&["run"], &[("SWARMDEX_ROLE", "king")], "king"),
        (&["run"], &[("SWARMDEX_LISTEN", "/ip4/1.2.3.4")], "listen"),
        (&["run", "--config", "/does/not/exist"], &[], "/does/not/exist"),
    ] {
        let output = run(arguments, variables);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{arguments:?}: {}", stderr(&output));
    }
    assert!(!folder.path().join("data").exists(), "nothing was made");
}

#[test]
fn help_version_and_completions_need_no_node() {
    for arguments in
        [&["--help"][..], &["get", "--help"], &["--version"], &["completions", "bash"], &["completions", "zsh"]]
    {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("swarmdex"));
    }
    assert_eq!(code(&program().output().unwrap()), 2, "help, and nothing done");
}

#[test]
fn commands_without_a_node_say_so_and_find_starts_one_of_its_own() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    for command in [&["ls"][..], &["status"], &["peers"], &["share", "/tmp"], &["revoke", "x"]] {
        let output = program().args(command).arg("--data-dir").arg(&data).output().unwrap();
        assert_eq!(code(&output), 5, "{command:?}");
        assert!(stderr(&output).contains("swarmdex run"), "{}", stderr(&output));
    }
    let (master, peer) = network(folder.path());
    let path = file(folder.path(), "file", b"found without a daemon");
    peer.json(&["share", &path]);
    let own = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).args([
            "--no-mdns",
            "--json",
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
            "--master",
            &master.address(),
        ]);
        command.arg("--data-dir").arg(&data).current_dir(folder.path().join("peer")).output().unwrap()
    };
    let found = own(&["lookup", "file"]);
    assert_eq!(code(&found), 0, "{}", stderr(&found));
    assert_eq!(code(&own(&["search", "fil"])), 0);
    let got = own(&["get", "file", "-o", "copy"]);
    assert_eq!(code(&got), 0, "{}", stderr(&got));
    assert_eq!(std::fs::read(folder.path().join("peer/copy")).unwrap(), b"found without a daemon");
    assert_eq!(code(&own(&["get", "none"])), 3);
    // It left in order, and took nothing with it.
    peer.until(&["peers"], |peers| peers.as_array().is_some_and(|peers| peers.len() == 2));
    assert!(!data.exists(), "the data directory of the real node is not touched");
    let nobody = program()
        .args(["get", "x", "--no-mdns", "--master", "/ip4/127.0.0.1/tcp/1", "--listen", "/ip4/127.0.0.1/tcp/0"])
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    assert_eq!(code(&nobody), 5, "{}", stderr(&nobody));
}

#[test]
fn a_second_node_in_a_data_directory_and_a_busy_port_are_refused() {
    let folder = TempDir::new().unwrap();
    let first = Process::start("master", folder.path(), &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let (status, log) = Process::try_start("peer", folder.path(), &[]).err().unwrap();
    assert_eq!(status.code(), Some(7), "{log}");
    assert!(log.contains("another node is running") && log.contains(&first.pid().to_string()), "{log}");
    let other = TempDir::new().unwrap();
    let address = first.address();
    let address = address.split("/p2p/").next().unwrap();
    let (status, log) = Process::try_start("master", other.path(), &["--listen", address]).err().unwrap();
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains(address) && log.contains("--listen"), "{log}");
    // The first one goes on.
    assert_eq!(first.json(&["status"])["role"], "master");
}

#[test]
fn a_foreign_a_damaged_and_a_newer_database_are_refused_and_left_alone() {
    for (what, bytes) in [
        ("foreign", b"SQLite format 3\0 but not really a database of any kind".to_vec()),
        ("garbage", noise(1, 10_000)),
    ] {
        let folder = TempDir::new().unwrap();
        let path = file(folder.path(), "data/index.db", &bytes);
        let (status, log) = Process::try_start("master", folder.path(), &[]).err().unwrap();
        assert_eq!(status.code(), Some(7), "{what}: {log}");
        assert!(log.contains("index.db"), "{what}: {log}");
        assert_eq!(std::fs::read(path).unwrap(), bytes, "{what}");
    }
    // Another program's database, and one of a later version of this one.
    for sql in [
        "CREATE TABLE other (x)",
        "PRAGMA application_id = 2004313193; PRAGMA user_version = 99; CREATE TABLE later (x)",
    ] {
        let folder = TempDir::new().unwrap();
        let path = made(folder.path(), "data").join("index.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let before = std::fs::read(&path).unwrap();
        let (status, log) = Process::try_start("master", folder.path(), &[]).err().unwrap();
        assert_eq!(status.code(), Some(7), "{sql}: {log}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{sql}");
    }
    let folder = TempDir::new().unwrap();
    file(folder.path(), "data/format", b"2");
    let (status, log) = Process::try_start("peer", folder.path(), &[]).err().unwrap();
    assert_eq!(status.code(), Some(7), "{log}");
    assert!(log.contains("newer"), "{log}");
}

#[test]
fn a_node_is_private_to_its_user() {
    use std::os::unix::fs::MetadataExt;
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &["--http", "127.0.0.1:0"]);
    let mode = |name: &str| std::fs::metadata(node.data.join(name)).unwrap().mode() & 0o777;
    for name in ["identity.key", "control.sock", "http-token"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let address = node.ready["http"].as_str().unwrap();
    let token = std::fs::read_to_string(node.data.join("http-token")).unwrap();
    let ask = |headers: &str| {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET /v1/status HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(ask(&format!("Host: {address}\r\n{bearer}")), 200);
    assert_eq!(ask(&format!("Host: {address}\r\n")), 401);
    assert_eq!(ask(&format!("Host: evil.example\r\n{bearer}")), 403, "DNS rebinding");
    assert_eq!(ask(&format!("Host: {address}\r\nOrigin: http://evil.example\r\n{bearer}")), 403, "a foreign page");
    assert!(!node.log().contains(&token));
}

/// Ops: SIGTERM: leaves in order, the master is told, exit code 0.
#[test]
fn sigterm_and_sigint_leave_in_order() {
    let folder = TempDir::new().unwrap();
    let (mut master, mut peer) = network(folder.path());
    peer.json(&["share", &file(folder.path(), "file", b"x")]);
    assert_eq!(code(&master.command(&["lookup", "file"])), 0);
    peer.signal("TERM");
    assert_eq!(peer.wait().code(), Some(0), "{}", peer.log());
    assert_eq!(code(&master.command(&["lookup", "file"])), 3, "freed before the peer was gone");
    assert_eq!(master.json(&["peers"]).as_array().unwrap().len(), 1);
    master.signal("INT");
    assert_eq!(master.wait().code(), Some(0), "{}", master.log());
    assert!(!master.data.join("control.sock").exists());
}

/// Ops: SIGTERM mid-transfer: the upload under way is finished or the download fails over, never a corrupt file.
#[test]
fn sigterm_mid_transfer_ends_soon_and_leaves_what_can_be_resumed() {
    let folder = TempDir::new().unwrap();
    let (master, mut peer) = network(folder.path());
    peer.json(&["share", &file(folder.path(), "large", &noise(2, 200 << 20))]);
    let out = made(folder.path(), "out");
    let mut get = program();
    get.args(["get", "large", "-o", out.to_str().unwrap(), "--data-dir"]).arg(&master.data);
    let child = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    master.until(&["status"], |status| status["downloads"] == 1);
    peer.signal("TERM");
    let begin = std::time::Instant::now();
    assert_eq!(peer.wait().code(), Some(0), "{}", peer.log());
    assert!(begin.elapsed().as_secs() < 15);
    let output = child.wait_with_output().unwrap();
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    if code(&output) == 0 {
        assert_eq!(std::fs::read(out.join("large")).unwrap(), noise(2, 200 << 20));
    } else {
        assert!(matches!(code(&output), 3 | 5), "{}", stderr(&output));
        assert!(left.iter().all(|name| name.to_string_lossy().starts_with(".large.swarmdex-")), "{left:?}");
    }
}

/// Master failure: `kill -9` in mid-registration: what was acknowledged is there after the restart.
#[test]
fn nothing_acknowledged_is_lost_by_kill_9_of_the_master() {
    let folder = TempDir::new().unwrap();
    let (mut master, peer) = network(folder.path());
    let address = master.address();
    let listen = address.split("/p2p/").next().unwrap().to_owned();
    let mut versions = std::collections::BTreeMap::new();
    for round in 0..4 {
        // Announces go on while the master is killed in their midst.
        let acknowledged: Vec<(String, u64)> = std::thread::scope(|scope| {
            let announcing = scope.spawn(|| {
                let mut done = Vec::new();
                for number in 0..12 {
                    let name = format!("name-{round}-{number}");
                    let path = file(folder.path(), &format!("files/{name}"), name.as_bytes());
                    let output = peer.command(&["share", &path, "--json"]);
                    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
                    if value["entries"][0]["standing"] == "certified" {
                        done.push((name, value["entries"][0]["version"].as_u64().unwrap()));
                    }
                }
                done
            });
            std::thread::sleep(std::time::Duration::from_millis(40 + 60 * round));
            master.kill();
            master = Process::start("master", &folder.path().join("master"), &["--listen", &listen]);
            announcing.join().unwrap()
        });
        for (name, version) in acknowledged {
            let found = master.json(&["lookup", &name]);
            assert!(found["version"].as_u64().unwrap() >= version, "{name}");
            versions.insert(name, version);
        }
        peer.until(&["status"], |status| status["master"]["state"] == "joined" && status["shared"]["pending"] == 0);
    }
    assert!(!versions.is_empty());
    let entries = master.json(&["search", "name"]);
    assert_eq!(entries.as_array().unwrap().len(), 48, "and in the end everything is there");
    // Versions given after a restart are higher than all before.
    let last = versions.values().max().unwrap();
    let later = peer.json(&["share", &file(folder.path(), "later", b"x")]);
    assert!(later["entries"][0]["version"].as_u64().unwrap() > *last);
}

/// A peer is killed and started again: it remembers what it shared, reads no file anew, and its names are its own.
#[test]
fn a_restarted_peer_shares_what_it_shared_before() {
    let folder = TempDir::new().unwrap();
    let (master, mut peer) = network(folder.path());
    for name in ["tree/a", "tree/b", "tree/c"] {
        file(folder.path(), name, name.as_bytes());
    }
    peer.json(&["share", folder.path().join("tree").to_str().unwrap(), "--as", "top"]);
    peer.json(&["revoke", "top/b"]);
    let before = master.json(&["lookup", "top/a"]);
    peer.kill();
    let peer = Process::start("peer", &folder.path().join("peer"), &["--master", &master.address()]);
    let shared = peer.until(&["ls"], |entries| {
        let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
        entries.len() == 2 && entries.iter().all(|entry| entry["standing"] == "certified")
    });
    let names: Vec<_> = shared.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["top/a", "top/c"], "what was revoked stays revoked");
    assert_eq!(
        master.json(&["lookup", "top/a"])["version"],
        before["version"],
        "an unchanged share is not announced anew"
    );
}

/// Index / names: a peer's clock that is ten years off: leases are unaffected, and so is what it shares and fetches.
#[test]
fn a_peer_whose_clock_is_ten_years_off_is_a_member_like_any_other() {
    for offset in ["+10y", "-10y"] {
        let folder = TempDir::new().unwrap();
        let (master, honest) = network(folder.path());
        let works = std::process::Command::new("faketime").args(["-f", offset, "true"]).status();
        if !works.is_ok_and(|status| status.success()) {
            println!("SKIPPED: no faketime on this machine");
            return;
        }
        let path = made(folder.path(), "off");
        let off = Process::start_with_clock(offset, "peer", &path, &["--master", &master.address()]);
        off.until(&["status"], |status| status["master"]["state"] == "joined");
        let shared = off.json(&["share", &file(folder.path(), "files/by off", b"off")]);
        assert_eq!(shared["entries"][0]["standing"], "certified");
        honest.json(&["share", &file(folder.path(), "files/by honest", b"honest")]);
        // Longer than a lease.
        std::thread::sleep(std::time::Duration::from_secs(5));
        let found = honest.json(&["lookup", "by off"]);
        assert_eq!((&found["certified"], &found["holders"][0]["state"]), (&true.into(), &"alive".into()));
        // Whose clock is so far off cannot tell whether a certificate has expired, and says that it is not certain.
        let found = off.json(&["lookup", "by honest"]);
        assert_eq!(found["certified"], false);
        let out = folder.path().join("out");
        off.json(&["get", "by honest", "-o", out.to_str().unwrap()]);
        assert_eq!(std::fs::read(out).unwrap(), b"honest");
    }
}

/// Index / names: a GC-paused peer (SIGSTOP for two leases, then SIGCONT) cannot act on its stale lease.
#[test]
fn a_paused_peer_is_evicted_and_joins_again_when_it_wakes() {
    let folder = TempDir::new().unwrap();
    let (master, peer) = network(folder.path());
    peer.json(&["share", &file(folder.path(), "peer/kept", b"k")]);
    peer.json(&["share", &file(folder.path(), "peer/taken", b"t")]);
    peer.signal("STOP");
    master.until(&["search", "kept"], |entries| entries.as_array().is_some_and(Vec::is_empty));
    let taken = master.json(&["share", &file(folder.path(), "master/taken", b"the master's now")]);
    assert_eq!(taken["entries"][0]["standing"], "certified");
    peer.signal("CONT");
    let listed = peer.until(&["ls"], |entries| {
        let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
        let standing =
            |name: &str| entries.iter().find(|entry| entry["name"] == name).map(|entry| entry["standing"].clone());
        standing("taken") == Some("conflict".into()) && standing("kept") == Some("certified".into())
    });
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(peer.json(&["lookup", "taken"])["owner"], master.peer_id());
    assert_eq!(peer.json(&["lookup", "kept"])["owner"], peer.peer_id());
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &[]);
    for arguments in [&["status"][..], &["status", "--json"], &["peers"]] {
        let mut command = program();
        let mut child = command
            .args(arguments)
            .arg("--data-dir")
            .arg(&node.data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
    }
}

#[test]
fn the_demo_shows_everything_and_cleans_up() {
    let folder = TempDir::new().unwrap();
    let output = program().arg("demo").env("TMPDIR", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(code(&output), 0, "{text}{}", stderr(&output));
    for part in ["certified", "byte for byte the same", "belongs to Anna", "Evicted", "Everything worked"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "the temporary folder is removed");
}
