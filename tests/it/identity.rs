//! Two nodes with one identity, restarts that look like two, and data directories on another machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::identity::Keypair;
use serde_json::Value;
use swarmdex::config::{Config, OnNewMachine, Role};
use swarmdex::node::{ErrorKind, MachineState, Standing, new_identity, show_identity};
use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{
    Announce, Fingerprint, IndexRequest, IndexResponse, Join, Joined, Leave, RefusalCode, Revoke, Run, Sequence,
    Session, ShareDigest,
};
use tempfile::TempDir;

use crate::harness::{
    Process, TestNode, code, config, file, found, gone, joined, made, program, stderr, tcp_address, until,
};
use crate::stranger::Stranger;

/// A copy of a folder, as a disk image or a backup makes it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => copy(&entry.path(), &target),
            // A socket of a node that is gone.
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), &target).unwrap()),
            _ => {}
        }
    }
}

fn is_joined(status: &Value) -> bool {
    status["master"]["state"] == "joined"
}

fn is_refused(status: &Value) -> bool {
    status["master"]["reason"].as_str().is_some_and(|reason| reason.contains("another run of this identity"))
}

/// A master, and a peer with a copy of its data directory that was made while it was stopped.
fn twins(folder: &Path) -> (Process, Process, PathBuf, Vec<String>) {
    let master = Process::start("master", &made(folder, "master"), &[]);
    let at = vec!["--master".to_owned(), master.address()];
    let first = Process::start("peer", &made(folder, "first"), &[&at[0], &at[1]]);
    first.until(&["status"], is_joined);
    stop(first);
    let twin = folder.join("twin");
    copy(&folder.join("first"), &twin);
    let shared = file(folder, "files/first.txt", b"first");
    let first = Process::start("peer", &folder.join("first"), &[&at[0], &at[1], "--share", &shared]);
    first.until(&["ls"], |names| names[0]["standing"] == "certified");
    (master, first, twin, at)
}

fn stop(mut process: Process) {
    process.signal("TERM");
    process.wait();
}

/// Two machines made from one image. The first keeps its names, both logs tell the cause and the way out, and once the
/// first is killed the other is let in.
#[test]
fn of_two_runs_the_one_that_answers_is_kept_and_the_other_says_why() {
    let folder = TempDir::new().unwrap();
    let (master, mut first, twin, at) = twins(folder.path());
    let shared = file(folder.path(), "files/second.txt", b"second");
    let twin = Process::start("peer", &twin, &[&at[0], &at[1], "--share", &shared]);
    assert_eq!(twin.peer_id(), first.peer_id());
    let status = twin.until(&["status"], is_refused);
    for text in [&status["master"]["reason"], &status["twin"]] {
        assert!(text.as_str().unwrap().contains("swarmdex identity new"), "{status}");
    }
    if Path::new("/etc/machine-id").exists() && status["twin"].as_str().unwrap().contains("machine") {
        assert!(status["twin"].as_str().unwrap().contains("the same machine"), "{status}");
    }
    twin.until_log("another run of this identity");
    master.until_log("a peer's twin is refused");
    // It tries again and again, and in vain.
    let lookup = master.json(&["lookup", "first.txt"]);
    assert_eq!((&lookup["owner"], &lookup["certified"]), (&first.peer_id().into(), &true.into()));
    assert_eq!(code(&master.command(&["lookup", "second.txt"])), 3);
    assert_eq!(first.json(&["ls"])[0]["standing"], "certified");
    assert!(is_joined(&first.json(&["status"])));
    assert_eq!(twin.json(&["ls"])[0]["standing"], "pending", "a refused twin claims nothing");
    first.kill();
    let status = twin.until(&["status"], is_joined);
    assert!(status["twin"].is_null(), "{status}");
    master.until(&["lookup", "second.txt"], |found| found["certified"] == true);
}

/// A run whose connection hangs makes room for its restart; when it wakes up, it is the twin.
#[test]
fn a_restart_is_let_in_while_the_connection_of_the_run_before_hangs() {
    let folder = TempDir::new().unwrap();
    let (_master, first, twin, at) = twins(folder.path());
    first.signal("STOP");
    let restart = Process::start("peer", &twin, &[&at[0], &at[1]]);
    restart.until(&["status"], is_joined);
    first.signal("CONT");
    first.until(&["status"], is_refused);
    assert!(is_joined(&restart.json(&["status"])));
}

/// A process that was killed and starts again does not wait for the end of its lease, which here takes ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_let_in_at_once() {
    let long = |config: &mut Config| config.lease.lease = Duration::from_secs(600);
    let master = TestNode::start(Role::Master, long).await;
    let listen = tcp_address(&master);
    let mut peer = TestNode::peer_with(&master, long).await;
    let path = peer.share_file("kept", b"kept").await;
    for _ in 0..3 {
        peer.abandon();
        let dir = peer.into_dir().await;
        let at = vec![listen.clone()];
        peer = TestNode::try_start(Role::Peer, dir, |config| {
            long(config);
            config.master = at;
        })
        .await
        .unwrap();
        joined(&peer).await;
        assert_eq!(peer.status().await.unwrap().twin, None);
    }
    assert_eq!(found(&master, "kept").await.entry.owner, peer.ready().peer_id);
    assert!(path.exists());
}

fn join_of(run: Option<u64>, machine: u8) -> IndexRequest {
    IndexRequest::Join(Join {
        network: "swarmdex".to_owned(),
        addresses: Vec::new(),
        digest: ShareDigest::empty(),
        entries: 2,
        newest: None,
        run: run.map(Run),
        machine: run.map(|_| Fingerprint::from_bytes([machine; 32])),
        again: false,
    })
}

async fn taken(stranger: &Stranger, master: PeerId, run: Option<u64>, machine: u8) -> Session {
    match stranger.ask(master, &join_of(run, machine)).await {
        IndexResponse::Joined(Joined { session, .. }) => session,
        other => panic!("{other:?}"),
    }
}

fn report(session: Session, sequence: u64, name: &str, last: bool) -> IndexRequest {
    let offers = vec![swarmdex_protocols::index::Offer::new(name, swarmdex_protocols::ContentId::of(b"x"), 1)];
    IndexRequest::Announce(Announce { session, sequence: Sequence(sequence), offers, last, total: None })
}

fn refusal(response: &IndexResponse) -> Option<RefusalCode> {
    match response {
        IndexResponse::Refused(refusal) => Some(refusal.code),
        _ => None,
    }
}

/// Two strangers with one key.
async fn pair(master: &TestNode) -> (Stranger, Stranger, PeerId) {
    let key = Keypair::generate_ed25519();
    let (one, other) = (Stranger::with_key(key.clone()).await, Stranger::with_key(key).await);
    let id = one.connect(&tcp_address(master)).await.unwrap();
    other.connect(&tcp_address(master)).await.unwrap();
    (one, other, id)
}

/// Bad input: reports from two runs at once, of builds that know of runs. The second is no member, whatever it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_twin_cannot_disturb_the_report_of_the_run_that_joined() {
    let master = TestNode::master().await;
    let (one, other, id) = pair(&master).await;
    let session = taken(&one, id, Some(1), 7).await;
    one.ask(id, &report(session, 1, "one 1", false)).await;
    for machine in [7, 8] {
        let turned = other.ask(id, &join_of(Some(2), machine)).await;
        assert_eq!(refusal(&turned), Some(RefusalCode::Twin), "{turned:?}");
        let IndexResponse::Refused(turned) = turned else { panic!() };
        let which = if machine == 7 { "the same machine" } else { "another machine" };
        assert!(turned.reason.contains(which) && turned.reason.contains("127.0.0.1"), "{}", turned.reason);
    }
    for guess in [0, 1, session.0 + 1] {
        let guessed = other.ask(id, &report(Session(guess), 1, "other 1", true)).await;
        assert_eq!(refusal(&guessed), Some(RefusalCode::NotJoined));
    }
    one.ask(id, &report(session, 2, "one 2", true)).await;
    let names: Vec<_> = master.search("", 10).await.unwrap().into_iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["one 1", "one 2"]);
    // The connection of the run that joined ends, that of the twin stands: it is a restart now.
    one.disconnect(id).await;
    until("the twin is let in", async || {
        matches!(other.ask(id, &join_of(Some(2), 8)).await, IndexResponse::Joined(_)).then_some(())
    })
    .await;
}

/// The same of builds that do not know of runs: the later join holds, and what comes of the earlier session is refused.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_runs_of_an_old_build_the_later_session_holds() {
    let master = TestNode::master().await;
    let (one, other, id) = pair(&master).await;
    let first = taken(&one, id, None, 0).await;
    one.ask(id, &report(first, 1, "one 1", false)).await;
    let second = taken(&other, id, None, 0).await;
    assert!(second > first);
    other.ask(id, &report(second, 1, "other 1", false)).await;
    for late in [
        report(first, 2, "one 2", true),
        IndexRequest::Revoke(Revoke { session: first, sequence: Sequence(3), names: vec!["other 1".to_owned()] }),
        IndexRequest::Leave(Leave { session: first }),
    ] {
        assert_eq!(refusal(&one.ask(id, &late).await), Some(RefusalCode::NotJoined), "{late:?}");
    }
    other.ask(id, &report(second, 2, "other 2", true)).await;
    gone(&master, "one 1").await;
    assert_eq!(master.search("", 10).await.unwrap().len(), 2);
    // One that knows of runs takes the place of one that does not, as a new build does after an upgrade.
    let third = taken(&one, id, Some(1), 7).await;
    assert!(third > second);
    // And one of an old build still takes the place of any, as ever.
    taken(&other, id, None, 0).await;
}

/// Without the master two twins find each other by the DHT, where each is found under the other's address.
#[test]
fn twins_notice_each_other_without_the_master() {
    let folder = TempDir::new().unwrap();
    let place = |name: &str| {
        let place = folder.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("extra.toml"), "[dht]\nrepublish_seconds = 4\n").unwrap();
        place
    };
    let status = ["status"];
    let is_joined = |status: &Value| status["master"]["state"] == "joined";
    let mut master = Process::start("master", &place("master"), &[]);
    let at = master.address();
    let other = Process::start("peer", &place("other"), &["--master", &at]);
    let mut first = Process::start("peer", &place("first"), &["--master", &at]);
    for peer in [&other, &first] {
        peer.until(&status, is_joined);
        peer.until(&status, |status| status["dht"]["nodes"].as_u64() >= Some(2));
    }
    let nodes = first.data.join("nodes-swarmdex");
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(&nodes).is_ok_and(|text| text.contains(&other.peer_id())) {
        assert!(std::time::Instant::now() < end, "the neighbour is written down");
        std::thread::sleep(Duration::from_millis(50));
    }
    first.signal("TERM");
    first.wait();
    copy(&folder.path().join("first/data"), &place("image").join("data"));
    let first = Process::start("peer", &place("first"), &["--master", &at]);
    first.until(&status, is_joined);
    master.kill();
    first.until(&status, |status| status["master"]["state"] == "unreachable");
    assert!(first.json(&status)["twin"].is_null());
    let twin = Process::start("peer", &place("image"), &["--master", &at]);
    assert_eq!(twin.peer_id(), first.peer_id());
    for node in [&twin, &first] {
        let seen = node.until(&status, |status| status["twin"].is_string());
        let text = seen["twin"].as_str().unwrap();
        assert!(text.contains("/ip4/127.") && text.contains("swarmdex identity new"), "{text}");
    }
    assert!(other.json(&status)["twin"].is_null());
}

/// `swarmdex identity new` keeps shares and settings, and the node joins as a new one.
#[test]
fn a_new_identity_keeps_the_shares() {
    let folder = TempDir::new().unwrap();
    let (master, first, _, at) = twins(folder.path());
    let home = folder.path().join("first");
    let data = first.data.clone();
    let identity = |arguments: &[&str]| {
        let mut command = program();
        command.arg("identity").args(arguments).arg("--json").arg("--data-dir").arg(&data).output().unwrap()
    };
    let parse = |output: &std::process::Output| -> Value {
        assert_eq!(code(output), 0, "{}", stderr(output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let old = first.peer_id();
    // By hand: what flags alone name ends with them.
    first.json(&["share", folder.path().join("files/first.txt").to_str().unwrap()]);
    assert_eq!(parse(&identity(&["show"]))["peer_id"], old.as_str(), "also while the node runs");
    let busy = identity(&["new"]);
    assert_eq!(code(&busy), 7, "{}", stderr(&busy));
    assert!(stderr(&busy).contains("another node is running"));
    stop(first);
    let new = parse(&identity(&["new"]));
    assert_eq!(new["old_peer_id"], old.as_str());
    assert_ne!(new["peer_id"], old.as_str());
    assert!(Path::new(new["old_key"].as_str().unwrap()).exists());
    assert_eq!(parse(&identity(&["show"]))["peer_id"], new["peer_id"]);
    let shared = folder.path().join("files/first.txt");
    let again = Process::start("peer", &home, &[&at[0], &at[1], "--share", shared.to_str().unwrap()]);
    assert_eq!(again.peer_id(), new["peer_id"].as_str().unwrap());
    again.until(&["ls"], |names| names[0]["standing"] == "certified" && names[0]["name"] == "first.txt");
    master.until(&["lookup", "first.txt"], |found| found["owner"] == new["peer_id"]);

    // A master is known by its identity: its own is changed by force alone.
    let data = master.data.clone();
    let before = master.peer_id();
    stop(master);
    let run =
        |force: &[&str]| program().args(["identity", "new"]).args(force).arg("--data-dir").arg(&data).output().unwrap();
    let refused = run(&[]);
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("--force"));
    assert_eq!(code(&run(&["--force"])), 0);
    let master = Process::start("master", &folder.path().join("master"), &[]);
    assert_ne!(master.peer_id(), before);
    let empty = program().args(["identity", "show", "--data-dir", "/does/not/exist"]).output().unwrap();
    assert_eq!(code(&empty), 3, "{}", stderr(&empty));
}

const MACHINES: [&str; 2] = ["0123456789abcdef0123456789abcdef\n", "fedcba9876543210fedcba9876543210\n"];

/// A data directory that finds itself on another machine says so once, and goes on as its user says.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_on_another_machine_goes_on_as_it_is_told() {
    let master = TestNode::master().await;
    let at = vec![tcp_address(&master)];
    let machine = TempDir::new().unwrap();
    let id = machine.path().join("machine-id");
    let start = async |dir: TempDir, what: OnNewMachine| {
        let (at, id) = (at.clone(), id.clone());
        let start = TestNode::try_start(Role::Peer, dir, |config| {
            config.master = at;
            config.identity.machine_id_file = id;
            config.identity.on_new_machine = what;
        });
        start.await
    };
    std::fs::write(&id, MACHINES[0]).unwrap();
    let node = start(TempDir::new().unwrap(), OnNewMachine::Stop).await.unwrap();
    joined(&node).await;
    node.share_file("kept", b"kept").await;
    let mut shown = config(Role::Peer, node.dir.path());
    shown.identity.machine_id_file.clone_from(&id);
    assert_eq!(show_identity(&shown).unwrap().machine, MachineState::Same);
    let dir = node.stop().await;

    std::fs::write(&id, MACHINES[1]).unwrap();
    assert_eq!(show_identity(&shown).unwrap().machine, MachineState::Other);
    let path = dir.path().to_owned();
    let error = start(dir, OnNewMachine::Stop).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("--on-new-machine"), "{error}");
    assert!(!path.exists(), "the folder went with the attempt");
}

/// The same, by the other two answers; in processes, for the log.
#[test]
fn a_moved_data_directory_is_told_of_and_may_become_a_new_node() {
    let folder = TempDir::new().unwrap();
    let master = Process::start("master", &made(folder.path(), "master"), &[]);
    let id = file(folder.path(), "machine-id", MACHINES[0].as_bytes());
    let home = made(folder.path(), "peer");
    file(&home, "extra.toml", format!("[identity]\nmachine_id_file = {id:?}\n").as_bytes());
    let shared = file(folder.path(), "files/kept", b"kept");
    let address = master.address();
    let at = ["--master", &address, "--share", &shared];
    const SAID: &str = "used on another machine before";
    let start = |arguments: &[&str]| {
        let process = Process::start("peer", &home, &[&at, arguments].concat());
        process.until(&["ls"], |names| names[0]["standing"] == "certified");
        process
    };
    let first = start(&[]);
    let known = first.peer_id();
    assert!(!first.log().contains(SAID), "{}", first.log());
    stop(first);
    file(folder.path(), "machine-id", MACHINES[1].as_bytes());
    let moved = start(&[]);
    assert_eq!(moved.peer_id(), known);
    assert!(moved.log().contains(SAID) && moved.log().contains("identity new"), "{}", moved.log());
    stop(moved);
    let settled = start(&[]);
    assert!(!settled.log().contains(SAID), "it lives here now");
    stop(settled);
    file(folder.path(), "machine-id", MACHINES[0].as_bytes());
    let (status, log) = Process::try_start("peer", &home, &["--on-new-machine", "stop"]).err().unwrap();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("--on-new-machine new"), "{log}");
    let new = start(&["--on-new-machine", "new"]);
    assert_ne!(new.peer_id(), known);
    assert!(new.log().contains(SAID) && new.log().contains(&known), "{}", new.log());
    stop(new);
    // Without a machine id nothing is compared.
    file(folder.path(), "machine-id", b"uninitialized\n");
    assert!(!start(&["--on-new-machine", "stop"]).log().contains(SAID));
}

/// What a build without machines and runs left behind opens without a word, and is written down then.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_an_earlier_build_opens_with_everything_in_it() {
    let master = TestNode::master().await;
    let at = vec![tcp_address(&master)];
    let machine = TempDir::new().unwrap();
    let id = machine.path().join("machine-id");
    std::fs::write(&id, MACHINES[0]).unwrap();
    let change = |config: &mut Config| {
        config.master.clone_from(&at);
        config.identity.machine_id_file.clone_from(&id);
        config.identity.on_new_machine = OnNewMachine::Stop;
    };
    let node = TestNode::peer_with(&master, change).await;
    node.share_file("kept", b"kept").await;
    let known = node.ready().peer_id;
    let dir = node.stop().await;
    let written = dir.path().join("data/machine");
    std::fs::remove_file(&written).unwrap();
    let node = TestNode::try_start(Role::Peer, dir, change).await.unwrap();
    joined(&node).await;
    assert_eq!(node.ready().peer_id, known);
    until("the name is certified again", async || {
        let shared = node.shared().await.unwrap();
        shared.first().is_some_and(|shared| shared.standing == Standing::Certified).then_some(())
    })
    .await;
    assert!(written.exists());
    let dir = node.stop().await;
    let plain = config(Role::Peer, dir.path());
    assert_eq!(new_identity(&plain, false).unwrap().old_peer_id, Some(known));
}
