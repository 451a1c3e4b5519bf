//! What happens is told to whoever follows it: by the handle, and over the control interface.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use swarmdex::node::{EventStream, Happened, Notice};
use tempfile::TempDir;

use crate::harness::{Process, TestNode, file, joined, lose, made, process_joined, until};

/// How long an event may take that is bound to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// The next event of this kind; others in between are passed over. Their numbers rise by one each.
async fn comes<T>(stream: &mut EventStream, what: &str, accept: impl Fn(&Happened) -> Option<T>) -> T {
    let mut last = None;
    let waiting = async {
        loop {
            match stream.next().await {
                Some(Notice::Event(event)) => {
                    assert!(last.is_none_or(|last| event.number == last + 1), "{last:?} {event:?}");
                    last = Some(event.number);
                    if let Some(found) = accept(&event.what) {
                        return found;
                    }
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_tells_who_comes_and_goes() {
    let master = TestNode::master().await;
    let mut stream = master.events(None);
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let (of_anna, of_ben) = (anna.ready().peer_id, ben.ready().peer_id);
    for peer in [of_anna, of_ben] {
        let mut stream = master.events(Some(0));
        comes(&mut stream, "a peer joins", |what| (*what == Happened::PeerJoined { peer_id: peer }).then_some(()))
            .await;
    }
    ben.stop().await;
    comes(&mut stream, "a peer leaves", |what| (*what == Happened::PeerLeft { peer_id: of_ben }).then_some(())).await;
    anna.abandon();
    let suspect = Happened::PeerSuspect { peer_id: of_anna };
    comes(&mut stream, "a peer is suspect", |what| (*what == suspect).then_some(())).await;
    let evicted = Happened::PeerEvicted { peer_id: of_anna };
    comes(&mut stream, "a peer is evicted", |what| (*what == evicted).then_some(())).await;
    master.stop().await;
    // Whatever is left, and then the end.
    while stream.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_tells_of_its_names_its_downloads_and_its_master() {
    let master = TestNode::master().await;
    let (anna, ben) = (TestNode::peer(&master).await, TestNode::peer(&master).await);
    let mut of_anna = anna.events(Some(0));
    let id = master.ready().peer_id;
    comes(&mut of_anna, "the master is joined", |what| (*what == Happened::MasterJoined { peer_id: id }).then_some(()))
        .await;
    anna.share_file("file", b"bytes").await;
    comes(&mut of_anna, "a name is announced", |what| {
        matches!(what, Happened::NamesAnnounced { names: 1, lost: 0 }).then_some(())
    })
    .await;
    comes(&mut anna.events(Some(0)), "the share changes", |what| {
        matches!(what, Happened::ShareChanged { names: 1 }).then_some(())
    })
    .await;

    let mut of_ben = ben.events(None);
    ben.fetch("file").await.unwrap();
    let first = comes(&mut of_ben, "a download begins", |what| match what {
        Happened::DownloadBegun { download, name, recursive: false } if name == "file" => Some(*download),
        _ => None,
    })
    .await;
    let done = Happened::DownloadDone { download: first, files: 1, bytes: 5, failed: 0 };
    comes(&mut of_ben, "a download is done", |what| (*what == done).then_some(())).await;
    ben.fetch("nothing").await.unwrap_err();
    let second = comes(&mut of_ben, "a download fails", |what| match what {
        Happened::DownloadFailed { download, .. } => Some(*download),
        _ => None,
    })
    .await;
    assert!(second > first);

    anna.revoke(vec!["file".to_owned()]).await.unwrap();
    comes(&mut of_anna, "a name is revoked", |what| matches!(what, Happened::NamesRevoked { names: 1 }).then_some(()))
        .await;
    // Without the master names are claimed, and the loss is told of.
    let address = master.ready().listen;
    lose(&master, std::slice::from_ref(&anna)).await;
    comes(&mut of_anna, "the master is lost", |what| matches!(what, Happened::MasterLost { .. }).then_some(())).await;
    let path = anna.file("new", b"new");
    let sharing = anna.share(vec![path], None).outcome().await.unwrap();
    assert_eq!(sharing.entries.len(), 1, "{sharing:?}");
    let claimed = comes(&mut of_anna, "a name is claimed", |what| match what {
        Happened::NameClaimed { name } => Some(name.to_string()),
        _ => None,
    })
    .await;
    assert_eq!(claimed, "new");
    let dir = master.into_dir().await;
    let listen: Vec<_> = address.into_iter().map(crate::harness::without_peer).collect();
    let listen = listen.into_iter().filter(|address| address.to_string().contains("/tcp/")).collect();
    let _master =
        TestNode::try_start(swarmdex::config::Role::Master, dir, |config| config.listen = listen).await.unwrap();
    joined(&anna).await;
    comes(&mut of_anna, "the master is back", |what| (*what == Happened::MasterJoined { peer_id: id }).then_some(()))
        .await;
}

/// Whoever follows over the control interface: the head of the answer, and its lines as they come.
struct Follower(BufReader<UnixStream>);

impl Follower {
    fn begin(node: &Process, query: &str) -> (String, Self) {
        let mut stream = UnixStream::connect(node.data.join("control.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut follower = Self(BufReader::new(stream));
        let status = follower.line();
        while !follower.line().trim().is_empty() {}
        (status, follower)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection ended");
        line
    }

    /// The next event; what stands between chunks is passed over.
    fn event(&mut self) -> serde_json::Value {
        loop {
            let line = self.line();
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

#[test]
fn events_are_followed_over_the_control_interface() {
    let folder = TempDir::new().unwrap();
    let master = Process::start("master", &made(folder.path(), "master"), &["--http", "127.0.0.1:0"]);
    let (status, mut live) = Follower::begin(&master, "");
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    let peer = Process::start("peer", &made(folder.path(), "peer"), &["--master", &master.address()]);
    process_joined(&peer);
    let joined = loop {
        let event = live.event();
        if event["event"] == "peer_joined" && event["peer_id"] == peer.peer_id() {
            break event["number"].as_u64().unwrap();
        }
    };
    // The same again for whoever asks for it, and nothing of it for whoever knows it.
    let (_, mut again) = Follower::begin(&master, &format!("?since={}", joined - 1));
    assert_eq!(again.event()["number"], joined);
    let (_, mut after) = Follower::begin(&master, &format!("?since={joined}"));
    peer.json(&["share", &file(folder.path(), "file", b"x")]);
    peer.signal("TERM");
    let next = after.event();
    assert_eq!(next["number"], joined + 1, "{next}");
    // Numbers that were not given out are of an earlier run.
    let (_, mut earlier) = Follower::begin(&master, "?since=1000000");
    assert_eq!(earlier.event()["missed"], 0);
    assert_eq!(earlier.event()["number"], 1);
    // Over TCP the token is needed, as for everything else.
    let address = master.ready["http"].as_str().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /v1/events HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).unwrap();
    assert!(status.starts_with("HTTP/1.1 401"), "{status}");
}

#[tokio::test]
async fn so_many_may_follow_and_the_node_can_still_be_asked() {
    let folder = TempDir::new().unwrap();
    let node = Process::start("master", folder.path(), &[]);
    let mut following = Vec::new();
    let refused = loop {
        assert!(following.len() < 1000, "nobody is refused");
        let (status, follower) = Follower::begin(&node, "");
        if !status.starts_with("HTTP/1.1 200") {
            break status;
        }
        following.push(follower);
    };
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(!following.is_empty());
    assert_eq!(node.json(&["status"])["role"], "master");
    drop(following);
    until("there is room again", async || Follower::begin(&node, "").0.starts_with("HTTP/1.1 200").then_some(())).await;
}
