//! A network of state machines in simulated time: a master with its rules and leases, peers with their announcers, and
//! the records that they store. It meets loss, delay, reordering, duplication, partitions, crashes, lost disks and
//! clocks that are off. One seed is one history, always the same.
//!
//! What is simulated here is what `net` and `node` do between the machines, in as few lines as possible.

mod master;
mod peer;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{
    Compared, Range, Refusal, Returned, Sealed, Sequence, Session, ShareDigest, ShareSum, Verdict,
};
use swarmdex_protocols::ledger::Standing as Stands;
use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, CLAIM_LIFETIME_MS, Revocation, Seal};
use swarmdex_protocols::{
    Certificate, Claim, ContentId, Entry, Keypair, Name, PeerId, RecordKey, Statement, Tally, Version,
};

use super::Now;
use super::agreement::{Comparison, Division};
use super::announce::{Announcer, Batch, Changed, Standing};
use super::index::memory::{MemoryTable, Unsigned};
use super::index::{Authority, IndexTable, Moment, NameLimits, Service, Slices, WriteOp, WriteOutcome};
use super::lease::{Holding, LeaseAction, Leases};
use super::random::Random;
use super::records::{RecordLimits, Records};
use crate::config::LeaseConfig;
use master::Master;
use peer::Peer;
use watch::Watch;

const PEERS: usize = 5;
const NAMES: usize = 30;
/// Names in one change: shares of 0 to 10 batches are met.
const BATCH: usize = 3;
/// How often a peer renews its lease.
const RENEWAL_MS: u64 = 1_500;
/// Nodes that store each record; the others do not.
const COPIES: usize = 4;
const LIFETIME: Duration = Duration::from_secs(60);
const LEASE_MS: u64 = 5_000;
/// How late the repetition of a change comes, at most.
const REPEATED_MS: u64 = 2_000;
/// How long a master that has started looks every name up.
const SETTLED_MS: u64 = 6_000;
const LIMITS: NameLimits = NameLimits { names_per_peer: 100, names_per_ip: 1000, names: 1000 };
/// Wall clock at the beginning.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// Peer ids are keys; making them takes longer than a history.
static IDS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    let key = |number: u8| Keypair::ed25519_from_bytes([number + 1; 32]).map(|key| key.public().to_peer_id());
    (0..PEERS as u8).map(|number| key(number).unwrap()).collect()
});

fn name(number: usize) -> Name {
    Name::parse(&format!("name {number}")).unwrap()
}

fn key_of(name: &Name) -> RecordKey {
    RecordKey::name(&Default::default(), name)
}

#[derive(Clone)]
enum Message {
    Join {
        newest: Option<Version>,
        entries: usize,
        digest: ShareDigest,
        again: bool,
    },
    Joined {
        session: Session,
        unchanged: bool,
        again: bool,
    },
    Leave(Session),
    /// Have the next part of what the peer left with granted again.
    Again {
        session: Session,
        sequence: u64,
    },
    Returned {
        session: Session,
        sequence: u64,
        returned: Returned,
    },
    Seals {
        session: Session,
        sequence: u64,
        from: Name,
    },
    Sealed {
        session: Session,
        sequence: u64,
        sealed: Vec<Sealed>,
    },
    /// A peer that was stopped starts.
    Start,
    Change {
        session: Session,
        sequence: u64,
        batch: Batch,
    },
    Apply {
        session: Session,
        sequence: u64,
        batch: Batch,
        mirror: BTreeMap<Name, Tally>,
    },
    Announced {
        session: Session,
        sequence: u64,
        verdicts: Vec<Verdict>,
    },
    Revoked {
        session: Session,
        sequence: u64,
    },
    Renew {
        session: Session,
        sequence: u64,
        held: ShareSum,
    },
    Renewed {
        session: Session,
        sequence: u64,
        agreed: bool,
    },
    Compare {
        session: Session,
        sequence: u64,
        ranges: Vec<Range>,
    },
    Compared {
        session: Session,
        sequence: u64,
        answers: Vec<Compared>,
    },
    Refused,
    Store(Statement),
    /// The master counts everything that its index holds.
    Recount,
    /// The nodes have had time to take a claim: count them.
    Count(Claim),
}

/// The master is node `PEERS`.
const MASTER: usize = PEERS;

struct World {
    random: Random,
    now: u64,
    begin: Instant,
    queue: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sent: u64,
    loss: u64,
    /// Nodes of different sides do not hear each other.
    side: [bool; PEERS + 1],
    skew: [i64; PEERS + 1],
    master: Master,
    peers: Vec<Peer>,
    /// The invariants of the index.
    watch: Watch,
    /// How often a peer came back with what it left with, and got all of it again.
    again: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limits = RecordLimits {
            records: 1000,
            claims_per_sender: 1000,
            providers: 0,
            keys_per_provider: 0,
            providers_per_key: 0,
            lifetime: LIFETIME,
            own: true,
        };
        let peer = |id: &PeerId| Peer {
            announcer: Announcer::new(*id, []).with_batch(BATCH),
            said: BTreeMap::new(),
            share: BTreeMap::new(),
            joining: BTreeMap::new(),
            records: Records::new(limits),
            session: None,
            sequence: 0,
            waiting: None,
            returning: false,
            renewal: 0,
            masterless: false,
            heard: 0,
            up: true,
        };
        // Clocks are up to ten minutes off: within what statements tolerate.
        let skew = std::array::from_fn(|_| random.below(1_200_000) as i64 - 600_000);
        #[allow(clippy::disallowed_methods)] // A moment to begin at; all others are computed.
        let begin = Instant::now();
        let mut world = Self {
            random,
            now: 0,
            begin,
            queue: BTreeMap::new(),
            sent: 0,
            loss: 5,
            side: [false; PEERS + 1],
            skew,
            master: Master::new(),
            peers: IDS.iter().map(peer).collect(),
            watch: Watch::default(),
            again: 0,
        };
        world.start_master();
        world
    }

    fn time(&self, node: usize) -> Now {
        let unix_ms = EPOCH_MS.saturating_add(self.now).saturating_add_signed(self.skew[node]);
        Now { mono: self.begin + Duration::from_millis(self.now), unix_ms }
    }

    fn seal(&self, node: usize, lifetime_ms: u64) -> Seal {
        let issued_ms = self.time(node).unix_ms;
        Seal { issued_ms, expires_ms: issued_ms + lifetime_ms, signature: Vec::new() }
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let up = |node: usize| if node == MASTER { self.master.leases.is_some() } else { self.peers[node].up };
        up(a) && up(b) && self.side[a] == self.side[b]
    }

    /// Sends with delay, and sometimes twice or not at all. A change that is repeated because its answer is late may
    /// come long after it.
    fn send(&mut self, from: usize, to: usize, message: Message) {
        let copies = if from != to && self.random.chance(self.loss) { 0 } else { 1 + u64::from(self.random.chance(3)) };
        for copy in 0..copies {
            let late = copy > 0 && matches!(message, Message::Change { .. } | Message::Again { .. });
            let at = self.now + 1 + self.random.below(if late { REPEATED_MS } else { 150 });
            self.sent += 1;
            self.queue.insert((at, self.sent), (from, to, message.clone()));
        }
    }

    /// Nodes that store the record of a name: the closest to it, as everybody agrees.
    fn closest(&self, name: &Name) -> impl Iterator<Item = usize> + use<> {
        let first = key_of(name).as_bytes()[0] as usize;
        (0..COPIES).map(move |step| (first + step) % PEERS)
    }

    fn publish(&mut self, from: usize, statement: &Statement) {
        for node in self.closest(statement.name()) {
            self.send(from, node, Message::Store(statement.clone()));
        }
    }

    /// What the nodes closest to a name say at this moment, as far as they can be heard.
    fn read(&mut self, reader: usize, name: &Name) -> Tally {
        let (mut tally, now) = (Tally::default(), self.time(reader));
        for node in self.closest(name) {
            let heard = node == reader || (self.connected(reader, node) && !self.random.chance(self.loss));
            if heard && let Some(mut ledger) = self.peers[node].records.ledger(&key_of(name)) {
                ledger.expire(now.unix_ms);
                tally.add(&ledger, now.unix_ms);
            }
        }
        tally
    }

    /// Something that users and machines do.
    fn trouble(&mut self) {
        let peer = self.random.below(PEERS as u64) as usize;
        match self.random.below(25) {
            0..8 => {
                // One file, or a folder.
                let (first, content) = (self.random.below(NAMES as u64) as usize, self.random.below(3) as u8);
                let files = if self.random.chance(30) { 1 + self.random.below(NAMES as u64) as usize } else { 1 };
                for number in first..(first + files).min(NAMES) {
                    self.peers[peer].share.insert(name(number), (ContentId::of(&[content]), 1));
                    self.peers[peer].announcer.retry(&name(number));
                }
            }
            8..11 => {
                let first = self.random.below(NAMES as u64) as usize;
                let files = if self.random.chance(20) { 1 + self.random.below(NAMES as u64) as usize } else { 1 };
                for number in first..(first + files).min(NAMES) {
                    self.peers[peer].share.remove(&name(number));
                }
            }
            11..13 => self.side[self.random.below(PEERS as u64 + 1) as usize] ^= true,
            13 => self.master.leases = None,
            14 => {
                // Without its disk, and with whatever its clock shows by then.
                self.master.leases = None;
                if self.random.chance(40) {
                    self.lose_index();
                    self.skew[MASTER] = self.random.below(1_200_000) as i64 - 600_000;
                }
                self.start_master();
            }
            15..17 if self.master.leases.is_none() => self.start_master(),
            17 => self.restart(peer),
            18 => self.skew[peer] = self.random.below(1_200_000) as i64 - 600_000,
            19 => self.spoil_index(),
            20 => self.spoil_peer(peer),
            21..24 => self.stop(peer),
            _ => self.loss = self.random.below(30),
        }
    }

    fn run(&mut self, until: u64, trouble: bool) {
        while self.now < until {
            self.now += 50;
            while let Some(entry) = self.queue.first_entry()
                && entry.key().0 <= self.now
            {
                let (from, to, message) = entry.remove();
                if matches!(message, Message::Start) {
                    if !self.peers[to].up {
                        self.restart(to);
                    }
                    continue;
                }
                let local = from == to || matches!(message, Message::Apply { .. });
                if !local && !self.connected(from, to) {
                    continue;
                }
                match to {
                    MASTER => self.at_master(from, message),
                    _ if self.peers[to].up => self.at_peer(from, to, message),
                    _ => {}
                }
            }
            for number in 0..PEERS {
                if self.random.chance(20) {
                    self.step(number);
                }
            }
            self.evict();
            if trouble && self.random.chance(8) {
                self.trouble();
            }
        }
    }

    /// Peers leave in order and come back, while others take some of their names; once in a while the master crashes meanwhile.
    fn leave_and_return(&mut self) {
        // Who shares a name of another's reports each time.
        for peer in &mut self.peers {
            peer.share.retain(|name, _| peer.announcer.holds(name));
        }
        self.loss = self.random.below(4);
        for round in 0..3 {
            for number in 0..PEERS {
                if self.random.chance(50) {
                    self.stop(number);
                }
            }
            let until = self.now + self.random.below(2_000);
            self.run(until, false);
            for number in 0..PEERS {
                if self.peers[number].up && self.random.chance(50) {
                    let name = name(self.random.below(NAMES as u64) as usize);
                    self.peers[number].share.insert(name, (ContentId::of(&[round]), 1));
                }
            }
            let crash = self.random.chance(15);
            let at = self.now + if crash { 1_000 + self.random.below(6_000) } else { 0 };
            self.run(at, false);
            if crash {
                self.start_master();
            }
            self.run(self.now + 15_000, false);
        }
        self.loss = 0;
        self.run(self.now + 2 * LIFETIME.as_millis() as u64, false);
    }

    /// When all is quiet again, everybody agrees.
    fn check(&mut self) {
        let entries: BTreeMap<_, _> =
            self.master.table.rows().map(|(entry, _)| (entry.name.clone(), entry.clone())).collect();
        for (number, peer) in self.peers.iter().enumerate() {
            for (name, (content, _)) in &peer.share {
                let owner = entries.get(name).map(|entry| entry.owner);
                match peer.announcer.standing(name, content) {
                    Some(Standing::Certified(version)) => {
                        let entry = &entries[name];
                        assert_eq!((entry.owner, entry.content, entry.version), (IDS[number], *content, *version));
                    }
                    Some(Standing::Conflict(_)) => assert_ne!(owner, Some(IDS[number]), "{name}"),
                    // A name that another holds is being asked for again at this very moment.
                    None => assert!(owner.is_some_and(|owner| owner != IDS[number]), "{name} of {number}"),
                    other => panic!("{name} of {number}: {other:?}"),
                }
            }
        }
        let held: BTreeSet<_> = entries.values().map(|entry| (entry.owner, entry.name.clone())).collect();
        for (number, peer) in self.peers.iter().enumerate() {
            for (_, name) in held.iter().filter(|(owner, _)| *owner == IDS[number]) {
                assert!(peer.share.contains_key(name), "{name} is held by a peer that does not share it");
            }
        }
        self.loss = 0;
        for number in 0..NAMES {
            let name = name(number);
            let tally = self.read(number % PEERS, &name);
            match (tally.standing(), entries.get(&name)) {
                (Stands::Certified(certificate), Some(entry)) => assert_eq!(&certificate.entry, entry),
                (Stands::Free, None) => {}
                (stands, entry) => {
                    let held: Vec<_> = self
                        .closest(&name)
                        .map(|node| {
                            self.peers[node]
                                .records
                                .ledger(&key_of(&name))
                                .map(|held| held.statements().map(|said| said.to_string()).collect::<Vec<_>>())
                        })
                        .collect();
                    panic!("{name}: the mirror says {stands:?}, the index {entry:?}; nodes hold {held:?}")
                }
            }
        }
    }
}

/// One history: a minute of trouble, then quiet until everything that nobody stands for is forgotten.
fn history(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.run(60_000, true);
    world.side = [false; PEERS + 1];
    world.loss = 0;
    // Clocks that agree again: a claim of a fast clock is over when its hour is.
    if world.master.leases.is_none() {
        world.start_master();
    }
    for number in 0..PEERS {
        if !world.peers[number].up {
            world.restart(number);
        }
    }
    let end = world.now + 3 * LIFETIME.as_millis() as u64;
    world.run(end, false);
    world.check();
    if seed.is_multiple_of(RETURNS) {
        world.leave_and_return();
        world.check();
    }
    world.again
}

#[test]
fn no_history_ever_shows_two_certified_owners_of_one_name_at_one_version() {
    // So many that a rare order of events has its turn; a failing seed is named by its panic.
    let mut again = 0;
    for seed in 0..HISTORIES {
        let result = std::panic::catch_unwind(|| history(seed));
        assert!(result.is_ok(), "seed {seed}");
        again += result.unwrap_or_default();
    }
    assert!(again >= HISTORIES / RETURNS, "too few came back with what they left with: {again}");
}

/// Seeds that are run each time.
const HISTORIES: u64 = 1000;
/// One of so many histories goes on with peers that leave in peace and come back.
const RETURNS: u64 = 4;

#[test]
fn one_seed_is_one_history() {
    let trace = |seed| {
        let mut world = World::new(seed);
        world.run(20_000, true);
        (world.sent, world.watch.issued.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
