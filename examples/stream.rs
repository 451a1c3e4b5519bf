// Reads a file of another node from the middle, without downloading all of it: what a player or an archive tool does.
#![allow(missing_docs)]

use std::error::Error;
use std::io::SeekFrom;
use std::path::Path;

use swarmdex::Multiaddr;
use swarmdex::config::{Config, Role};
use swarmdex::node::{Happened, Node, Notice};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes of the shared file.
const SIZE: usize = 32 << 20;

/// A configuration for this machine alone.
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
    let film: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    std::fs::write(at("film.mkv"), &film)?;
    anna.share(vec![at("film.mkv")], None).outcome().await?;

    let mut reader = ben.open("film.mkv").await?;
    assert_eq!(reader.len(), SIZE as u64);
    // The index of a film is mostly at its end.
    reader.seek(SeekFrom::End(-1000)).await?;
    let mut end = Vec::new();
    reader.read_to_end(&mut end).await?;
    assert_eq!(end, film[SIZE - 1000..]);
    // And then it is watched from somewhere.
    reader.seek(SeekFrom::Start(SIZE as u64 / 2)).await?;
    let mut scene = vec![0; 100_000];
    reader.read_exact(&mut scene).await?;
    assert_eq!(scene, film[SIZE / 2..][..scene.len()]);
    let came = ben.status().await?.downloaded_bytes;
    assert!(came < SIZE as u64 / 2, "{came} of {SIZE} bytes");

    drop(reader);
    for node in [anna, ben, master] {
        node.shutdown().await?;
    }
    Ok(())
}
