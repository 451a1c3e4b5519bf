//! A day of eight nodes whose names change all the time, with messages lost and nodes restarted: what each stores of
//! the others follows what lives, not what lived.
#![allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, Seal};
use swarmdex_protocols::{
    Certificate, ContentId, Entry, Name, Network, PeerId, RecordKey, Statement, Tombstone, Version,
};

use super::{RecordLimits, Records};
use crate::config::DhtConfig;
use crate::state::Now;
use crate::state::publish::{Publications, What};
use crate::state::random::Random;

const NODES: usize = 8;
/// Names that live at any time, those that stay and those that come and go; the master owns none.
const STAY: u64 = 84;
const CHANGE: u64 = 40;
/// A step, and how many names change in it: 36 a minute, 50,000 in a day.
const STEP: Duration = Duration::from_secs(20);
const CHANGES: usize = 12;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a hundred messages so many are lost.
const LOSS: u64 = 5;

struct Node {
    id: PeerId,
    records: Records,
    publications: Publications,
    share: BTreeMap<Name, (ContentId, Version)>,
}

struct World {
    random: Random,
    begin: Instant,
    passed: Duration,
    nodes: Vec<Node>,
    /// Whether nodes hear what is withdrawn, as those of before do not.
    withdraw: bool,
    /// Names that were given up and not taken again.
    ended: BTreeMap<Name, Version>,
    contents: u64,
}

impl World {
    fn new(withdraw: bool) -> Self {
        let config = DhtConfig::default();
        let node = |number: u8| Node {
            id: swarmdex_protocols::Keypair::ed25519_from_bytes([number + 1; 32]).unwrap().public().to_peer_id(),
            records: Records::new(RecordLimits::from(&config)),
            publications: Publications::new(config.republish),
            share: BTreeMap::new(),
        };
        let nodes = (0..NODES as u8).map(node).collect();
        let (begin, passed) = (Instant::now(), Duration::ZERO);
        Self { random: Random(24), begin, passed, nodes, withdraw, ended: BTreeMap::new(), contents: 0 }
    }

    fn now(&self) -> Now {
        let unix_ms = 1_800_000_000_000 + self.passed.as_millis() as u64;
        Now { mono: self.begin + self.passed, unix_ms }
    }

    fn seal(&self) -> Seal {
        let issued_ms = self.now().unix_ms;
        Seal { issued_ms, expires_ms: issued_ms + CERTIFICATE_LIFETIME_MS, signature: vec![0; 64] }
    }

    /// A name gets a content that nothing had before.
    fn share(&mut self, name: &Name, owner: usize) {
        self.contents += 1;
        let content = ContentId::of(&self.contents.to_be_bytes());
        let version = Version(self.contents);
        self.nodes[owner].share.insert(name.clone(), (content, version));
        self.ended.remove(name);
        let entry =
            Entry { name: name.clone(), content, size: 8, owner: self.nodes[owner].id, version, attributes: None };
        self.grant(Statement::Certificate(Certificate { entry, seal: self.seal() }));
    }

    fn revoke(&mut self, name: &Name, owner: usize) {
        self.contents += 1;
        let version = Version(self.contents);
        self.nodes[owner].share.remove(name);
        self.ended.insert(name.clone(), version);
        let owner = self.nodes[owner].id;
        self.grant(Statement::Tombstone(Tombstone { name: name.clone(), owner, version, seal: self.seal() }));
    }

    /// The master, node 0, publishes what it grants and ends.
    fn grant(&mut self, statement: Statement) {
        let (key, now) = (RecordKey::name(&Network::default(), statement.name()), self.now().mono);
        self.nodes[0].publications.push(key, statement, now);
    }

    fn change(&mut self) {
        let number = STAY + self.random.below(2 * CHANGE);
        let (name, owner) = (name(number), 1 + number as usize % (NODES - 2));
        // Half of those that change get new contents; the others come and go.
        if number >= STAY + CHANGE && self.nodes[owner].share.contains_key(&name) {
            self.revoke(&name, owner);
        } else {
            self.share(&name, owner);
        }
    }

    /// What `node::mirror` collects of a node's share.
    fn wanted(&self, number: usize) -> BTreeMap<RecordKey, What> {
        let (node, network, seal) = (&self.nodes[number], Network::default(), self.seal());
        let mut wanted = BTreeMap::new();
        for (name, (content, version)) in &node.share {
            let keys = RecordKey::of_words(&network, name).into_iter().chain([RecordKey::content(&network, content)]);
            wanted.extend(keys.map(|key| (key, What::Provide)));
            let entry = Entry {
                name: name.clone(),
                content: *content,
                size: 8,
                owner: node.id,
                version: *version,
                attributes: None,
            };
            // As it was signed when it was granted: it is the same each time.
            let seal = Seal {
                issued_ms: version.0,
                expires_ms: seal.expires_ms / 1_000_000_000 * 3_000_000_000,
                ..seal.clone()
            };
            let certificate = Statement::Certificate(Certificate { entry, seal });
            wanted.insert(RecordKey::name(&network, name), What::Statement(Arc::new(certificate)));
        }
        wanted
    }

    /// One node publishes what is due, at all nodes: in so small a network each is among the closest to every key.
    fn publish(&mut self, number: usize) {
        let (now, sender) = (self.now(), self.nodes[number].id);
        let wanted = self.wanted(number);
        self.nodes[number].publications.replace(wanted, now.mono);
        for (key, what) in self.nodes[number].publications.due(now.mono, 10_000) {
            let mut stored = 0;
            for to in 0..NODES {
                if to != number && self.random.chance(LOSS) {
                    continue;
                }
                stored += 1;
                let records = &mut self.nodes[to].records;
                match &what {
                    What::Statement(statement) => {
                        let statement = Statement::clone(statement);
                        records.store(key, *key.as_bytes(), statement, sender, to == number, now);
                    }
                    What::Provide => drop(records.provide(key, sender, &[], now)),
                    What::Withdraw if self.withdraw => drop(records.unprovide(&key, &sender)),
                    What::Withdraw => {}
                }
            }
            self.nodes[number].publications.on_published(&key, &what, stored, NODES, now.mono);
        }
    }

    fn step(&mut self) {
        self.passed += STEP;
        (0..CHANGES).for_each(|_| self.change());
        for number in 0..NODES {
            self.publish(number);
            let now = self.now();
            self.nodes[number].records.handle_timeout(now);
            self.nodes[number].publications.expire(now.unix_ms);
        }
        // Now and then a node comes back with an empty memory.
        if self.random.below(2000) == 0 {
            let number = self.random.below(NODES as u64) as usize;
            self.nodes[number].records = Records::new(RecordLimits::from(&DhtConfig::default()));
        }
    }

    /// Pairs that each node should store now, and names: those that live, and those that ended and whose certificates
    /// may still be about.
    fn living(&self) -> (usize, usize) {
        let mut names = self.ended.len();
        let mut pairs = 0;
        for number in 0..NODES {
            pairs += self.wanted(number).values().filter(|what| **what == What::Provide).count();
            names += self.nodes[number].share.len();
        }
        (pairs, names)
    }
}

fn name(number: u64) -> Name {
    Name::parse(&format!("folder {}/file {number}", number % 7)).unwrap()
}

/// The most pairs and names that a node stored more than lived, looked at each hour.
fn surplus(withdraw: bool, time: Duration) -> (usize, usize) {
    let mut world = World::new(withdraw);
    for number in 0..STAY + CHANGE {
        world.share(&name(number), 1 + number as usize % (NODES - 2));
    }
    let (mut pairs, mut names) = (0, 0);
    while world.passed < time {
        world.step();
        if world.passed.as_secs().is_multiple_of(3600) {
            let living = world.living();
            for node in &world.nodes {
                let stored = node.records.counts();
                pairs = pairs.max(stored.0.max(stored.1).saturating_sub(living.0));
                names = names.max(stored.0.saturating_sub(living.1));
            }
        }
    }
    // What waits to be published is no more than what is published, and what was withdrawn in the last minutes.
    for number in 0..NODES {
        let (items, wanted) = (world.nodes[number].publications.counts().0, world.wanted(number).len());
        assert!(items <= wanted + 2 * CHANGES, "node {number} publishes {items}, and wants {wanted}");
    }
    (pairs, names)
}

#[test]
fn after_a_day_of_changes_nodes_store_what_lives() {
    let (pairs, names) = surplus(true, DAY);
    assert!(pairs < 100 && names == 0, "{pairs} pairs and {names} names more than live");
}

/// How it was: every content that was shared in the last hour.
#[test]
fn without_withdrawals_an_hour_of_changes_stays() {
    let (pairs, _) = surplus(false, DAY / 12);
    assert!(pairs > 1000, "{pairs} pairs more than live");
}
