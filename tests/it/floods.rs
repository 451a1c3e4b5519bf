//! Strangers that open connections and do nothing with them: over TCP to the network's port, to the HTTP interface, to the
//! control socket. Whoever has something to say gets through.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::StreamExt;
use tempfile::TempDir;

use crate::harness::{DEADLINE, Process, TestNode, code, made, stderr, tcp_address};
use crate::stranger::Stranger;

/// Room for what a test itself holds open.
fn with_many_descriptors() {
    assert!(swarmdex::descriptors::raise() >= 4096, "this test needs 4096 descriptors");
}

/// Where a node of another process listens.
fn socket_of(node: &Process) -> SocketAddr {
    let address = node.address();
    let port = address.split('/').nth(4).unwrap();
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// A host that goes on opening connections and says nothing on any; it holds the latest ones.
struct Flood {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn begin(target: SocketAddr, held: usize) -> Self {
        let open = move || TcpStream::connect(target);
        let mut sockets: VecDeque<_> = (0..held).filter_map(|_| open().ok()).collect();
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                sockets.extend((0..5).filter_map(|_| open().ok()));
                while sockets.len() > held {
                    sockets.pop_front();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits until the other end closes a connection; what it said before.
fn until_closed<S: Read>(mut stream: S) -> String {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "closed in time"),
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn one_address_that_floods_keeps_nobody_out_and_the_log_says_who() {
    with_many_descriptors();
    let folder = TempDir::new().unwrap();
    let master = Process::start("master", &made(folder.path(), "master"), &["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let (begin, flood) = (Instant::now(), Flood::begin(socket_of(&master), 400));
    master.until_log("too many begin to connect and do not get on");
    let arguments = ["--listen", "/ip4/127.0.0.2/tcp/0", "--master", &master.address()];
    let peer = Process::start("peer", &made(folder.path(), "peer"), &arguments);
    peer.until(&["status"], |status| status["master"]["state"] == "joined");
    let log = master.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("too many begin to connect")).collect();
    assert!(lines.iter().all(|line| line.contains("127.0.0.1 (")), "{lines:?}");
    assert!(lines.len() as u64 <= 1 + begin.elapsed().as_secs() / 10, "at a bounded rate: {lines:?}");
    drop(flood);
    let silent = TcpStream::connect(socket_of(&master)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    until_closed(silent);
}

/// Two hundred behind one router, and in the same network somebody who opens sockets and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_peers_behind_an_address_that_floods_get_in() {
    const PEERS: usize = 200;
    with_many_descriptors();
    let master = TestNode::master().await;
    let address = tcp_address(&master);
    let text = address.to_string();
    let parts: Vec<_> = text.split('/').collect();
    let (ip, port) = (parts[2], parts[4].parse::<u16>().unwrap());
    let members: Vec<_> =
        futures::stream::iter((0..PEERS).map(|_| Stranger::start())).buffer_unordered(16).collect().await;
    let silent: Vec<_> = (0..300).map(|_| TcpStream::connect((ip, port)).unwrap()).collect();
    let joining = members.iter().map(|member| async {
        let id = loop {
            match member.connect(&address).await {
                Ok(id) => break id,
                // As one that cannot reach its master comes again.
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        member.join(id).await
    });
    let joined = tokio::time::timeout(DEADLINE, futures::future::join_all(joining)).await.expect("all get in");
    assert_eq!(joined.len(), PEERS);
    drop(silent);
}

fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    until_closed(stream)
}

fn tcp(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn unix(data: &Path) -> UnixStream {
    let stream = UnixStream::connect(data.join("control.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Begins a request, until the node has seen who asks and waits for the rest: before that it gives way to others.
fn begin(stream: &mut (impl Read + Write), request: &str) {
    const GO_ON: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = [0; GO_ON.len()];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(std::str::from_utf8(&said), Ok(GO_ON));
    stream.write_all(b"{").unwrap();
}

#[test]
fn sockets_that_show_nothing_leave_the_interface_to_those_who_may_use_it() {
    with_many_descriptors();
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &["--http", "127.0.0.1:0"]);
    let address = node.ready["http"].as_str().unwrap();
    let token = std::fs::read_to_string(node.data.join("http-token")).unwrap();
    let head = format!("HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n");
    // What is begun and not gone on with, with the token and without.
    let body = "Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    let request = format!("POST /v1/revoke {head}{body}");
    let (mut slow, mut slow_local) = (tcp(address), unix(&node.data));
    begin(&mut slow, &request);
    begin(&mut slow_local, &request);
    let mut begun: Vec<_> = (0..1000).map(|_| tcp(address)).collect();
    begun.iter_mut().skip(900).for_each(|stream| drop(stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost:")));
    let local: Vec<_> = (0..700).map(|_| unix(&node.data)).collect();

    let answer = ask(tcp(address), &format!("GET /v1/status {head}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let status = node.command(&["status"]);
    assert_eq!(code(&status), 0, "{}", stderr(&status));
    let none = ask(tcp(address), &format!("GET /v1/status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
    assert!(none.starts_with("HTTP/1.1 401"), "{none}");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count();
    assert!(descriptors < 1000, "{descriptors} descriptors");
    node.until_log("too many connections to the HTTP interface");

    // All of them come to an end by themselves.
    for stream in [begun.pop().unwrap(), begun.remove(899)] {
        until_closed(stream);
    }
    until_closed(local.into_iter().next_back().unwrap());
    for answer in [until_closed(slow), until_closed(slow_local)] {
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
}

#[test]
fn a_request_that_says_twice_whom_it_means_is_refused() {
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &["--http", "127.0.0.1:0"]);
    let address = node.ready["http"].as_str().unwrap();
    let token = std::fs::read_to_string(node.data.join("http-token")).unwrap();
    for second in [address, "evil.example"] {
        let head = format!(
            "GET /v1/status HTTP/1.1\r\nHost: {address}\r\nHost: {second}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        for answer in [ask(tcp(address), &head), ask(unix(&node.data), &head)] {
            assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
    }
    let long = format!("GET /v1/lookup?name={} HTTP/1.1\r\nHost: {address}\r\n\r\n", "x".repeat(100_000));
    assert!(!ask(tcp(address), &long).starts_with("HTTP/1.1 200"), "a head without an end");
}

/// A node that the system gives few descriptors: its bounds fit, it says so, and a flood does not make it deaf.
#[test]
fn a_node_with_few_descriptors_says_so_and_goes_on_taking_in_others() {
    with_many_descriptors();
    let folder = TempDir::new().unwrap();
    let start = |limits: &str, name: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limits} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_swarmdex")]);
        shell.args(["run", "--role", "master", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
        shell.args(["--http", "127.0.0.1:0"]);
        Process::start_by(shell, &folder.path().join(name), &folder.path().join(format!("{name}.log")))
    };
    let raised = start("-S -n 300", "raised");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", raised.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<_> = line.split_whitespace().collect();
    assert_eq!(fields[3], fields[4], "the limit is raised to the hard one");
    drop(raised);

    let few = start("-n 600", "few");
    few.until_log("this process may open too few files");
    let http = few.ready["http"].as_str().unwrap().parse().unwrap();
    let _floods = [Flood::begin(socket_of(&few), 700), Flood::begin(http, 700)];
    assert_eq!(code(&few.command(&["status"])), 0);
    let arguments = ["--listen", "/ip4/127.0.0.2/tcp/0", "--master", &few.address()];
    let peer = Process::start("peer", &made(folder.path(), "peer"), &arguments);
    peer.until(&["status"], |status| status["master"]["state"] == "joined");
    assert_eq!(code(&few.command(&["status"])), 0);
}
