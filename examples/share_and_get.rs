// A master and two peers in one process: one peer shares a file, the other finds and downloads it.
#![allow(missing_docs)]

use std::error::Error;
use std::path::Path;

use swarmdex::Multiaddr;
use swarmdex::config::{Config, Role};
use swarmdex::node::{GetRequest, Happened, Node, Notice};

/// A configuration for this machine alone: real nodes leave out `with_listen` and `with_mdns`.
fn config(role: Role, data_dir: &Path, master: Vec<Multiaddr>) -> Result<Config, Box<dyn Error>> {
    let listen: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse()?;
    Ok(Config::new(role, data_dir.to_owned()).with_listen(vec![listen]).with_master(master).with_mdns(false))
}

/// Starts a peer, and waits until it is a member.
async fn peer(data_dir: &Path, master: &Node) -> Result<Node, Box<dyn Error>> {
    let peer = Node::start(config(Role::Peer, data_dir, master.ready().listen)?).await?;
    let mut events = peer.events(Some(0));
    while let Some(told) = events.next().await {
        if matches!(told, Notice::Event(event) if matches!(event.what, Happened::MasterJoined { .. })) {
            break;
        }
    }
    Ok(peer)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::TempDir::new()?;
    let at = |name: &str| folder.path().join(name);
    let master = Node::start(config(Role::Master, &at("master"), Vec::new())?).await?;
    let (anna, ben) = (peer(&at("anna"), &master).await?, peer(&at("ben"), &master).await?);

    std::fs::write(at("hello.txt"), "Hello, Ben.")?;
    let shared = anna.share(vec![at("hello.txt")], None).outcome().await?;
    assert_eq!(shared.entries.len(), 1);

    let found = ben.search("hello", 10).await?;
    assert_eq!(found[0].owner, anna.ready().peer_id);
    let request = GetRequest { name: "hello.txt".to_owned(), output: at("got.txt"), recursive: false };
    ben.get(request).outcome().await?;
    assert_eq!(std::fs::read_to_string(at("got.txt"))?, "Hello, Ben.");

    for node in [anna, ben, master] {
        node.shutdown().await?;
    }
    Ok(())
}
