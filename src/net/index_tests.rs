//! The master's answers that are cut: members in pages, and the best of many holders.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use swarmdex_protocols::index::{IndexRequest, IndexResponse, Lookup, Member, Offer, Peers, ShareDigest, ShareSum};
use swarmdex_protocols::limits::{MAX_HOLDERS, MAX_MEMBERS};
use swarmdex_protocols::{ContentId, Network, Version};
use tempfile::TempDir;

use super::index::{IndexStep, Master};
use crate::config::{Config, LimitsConfig, Role};
use crate::storage::index::{IndexOptions, IndexStore, KnownPeer, WriteOp};

fn store(folder: &TempDir) -> IndexStore {
    let options = IndexOptions::new(Network::default(), Keypair::generate_ed25519(), &LimitsConfig::default());
    IndexStore::open(&folder.path().join("index.db"), options).unwrap().0
}

fn master(store: &IndexStore, folder: &TempDir, peers: &[PeerId], now: Instant) -> Master {
    let known = |peer: &PeerId| KnownPeer { peer: *peer, addresses: Vec::new(), held: ShareSum::default() };
    let config = Config::new(Role::Master, folder.path().to_owned());
    Master::new(store.clone(), &config, peers.iter().map(known).collect(), now)
}

fn ask(master: &mut Master, request: IndexRequest, now: Instant) -> IndexResponse {
    match master.handle(PeerId::random(), None, Ok(request), now) {
        IndexStep::Answer(response) => response,
        IndexStep::Wait(future) => {
            let done = futures::executor::block_on(future);
            master.finish(done, now)
        }
    }
}

#[test]
fn members_come_in_pages_of_which_the_last_alone_is_short() {
    let folder = TempDir::new().unwrap();
    let (store, now) = (store(&folder), Instant::now());
    for count in [0, 1, MAX_MEMBERS - 1, MAX_MEMBERS, MAX_MEMBERS + 1, 3 * MAX_MEMBERS, 3 * MAX_MEMBERS + 1] {
        let peers: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
        let mut master = master(&store, &folder, &peers, now);
        let (mut told, mut after, mut pages) = (Vec::<Member>::new(), None, 0);
        loop {
            let IndexResponse::Members(page) = ask(&mut master, IndexRequest::Peers(Peers { after }), now) else {
                panic!()
            };
            assert!(page.len() <= MAX_MEMBERS);
            let full = page.len() == MAX_MEMBERS;
            after = page.last().map(|member| member.peer).or(after);
            told.extend(page);
            pages += 1;
            if !full {
                break;
            }
        }
        assert_eq!((told.len(), pages), (count, count / MAX_MEMBERS + 1));
        let told: BTreeSet<_> = told.iter().map(|member| member.peer).collect();
        assert_eq!(told, peers.into_iter().collect());
    }
    store.close();
}

/// Of many holders an answer has those that are alive, although they are the last of all in the index.
#[test]
fn the_holders_of_an_answer_are_those_that_are_alive() {
    const ALIVE: usize = 5;
    let folder = TempDir::new().unwrap();
    let (store, now) = (store(&folder), Instant::now());
    let mut peers: Vec<_> = (0..3 * MAX_HOLDERS + 1).map(|_| PeerId::random()).collect();
    peers.sort_by_key(|peer| peer.to_bytes());
    let content = ContentId::of(b"x");
    for (number, peer) in peers.iter().enumerate() {
        let (peer, seen) = (*peer, Version::default());
        let join =
            WriteOp::Join { peer, addresses: Vec::new(), digest: ShareDigest::empty(), entries: 1, seen, again: false };
        store.try_write(join).unwrap().blocking_recv().unwrap().unwrap();
        let offers = vec![Offer::new(format!("copy {number}"), content, 1)];
        let announce =
            WriteOp::Announce { peer, offers, neighbours: 0, last: false, total: None, mirror: BTreeMap::new() };
        store.try_write(announce).unwrap().blocking_recv().unwrap().unwrap();
    }
    let mut master = master(&store, &folder, &peers, now);
    let alive: BTreeSet<_> = peers[peers.len() - ALIVE..].iter().copied().collect();
    let connection = libp2p::swarm::ConnectionId::new_unchecked(1);
    alive.iter().for_each(|peer| master.on_linked(*peer, connection, now));
    let response = ask(&mut master, IndexRequest::Lookup(Lookup { name: "copy 0".to_owned() }), now);
    let IndexResponse::Found(found) = response else { panic!("{response:?}") };
    assert_eq!(found.holders.len(), MAX_HOLDERS);
    let first: BTreeSet<_> = found.holders[..ALIVE].iter().map(|holder| holder.peer).collect();
    assert_eq!(first, alive);
    assert_eq!(found.holders[ALIVE].peer, peers[0], "the owner is the first of those that do not answer");
    store.close();
}
