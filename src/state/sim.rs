//! A network of state machines in simulated time: a master with its rules and leases, peers with their announcers,
//! and the records that they store, under loss, delay, reordering, duplication, partitions, crashes, lost disks
//! and clocks that are off. One seed is one history, always the same.
//!
//! What is simulated here is what `net` and `node` do between the machines, in as few lines as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Offer, Sequence, Session, ShareDigest, Verdict, share_digest};
use swarmdex_protocols::ledger::Standing as Stands;
use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, CLAIM_LIFETIME_MS, Revocation, Seal};
use swarmdex_protocols::{
    Certificate, Claim, ContentId, Entry, Keypair, Name, PeerId, RecordKey, Statement, Tally, Tombstone, Version,
};

use super::Now;
use super::announce::{Announcer, Batch, Standing};
use super::index::{Announced, Change, Evidence, IndexView, Moment, NameLimits, after, announce, evict, revoke};
use super::lease::{Action, Leases};
use super::records::{RecordLimits, Records};
use crate::config::LeaseConfig;

const PEERS: usize = 5;
const NAMES: usize = 4;
/// Nodes that store each record; the others do not.
const COPIES: usize = 4;
const LIFETIME: Duration = Duration::from_secs(60);
const LEASE_MS: u64 = 5_000;
const LIMITS: NameLimits = NameLimits { names_per_peer: 100, names: 1000 };
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

/// Random numbers by SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The index on the master's disk.
#[derive(Debug, Clone, Default)]
struct Disk {
    entries: BTreeMap<Name, (Entry, Session)>,
    ended: BTreeMap<Name, Version>,
    last: Version,
    /// Members and their sessions.
    members: BTreeMap<PeerId, Session>,
    /// Those that have told their whole share; forgotten by every restart.
    reported: BTreeSet<PeerId>,
}

impl IndexView for Disk {
    type Error = Infallible;

    fn entry(&self, name: &Name) -> Result<Option<Entry>, Infallible> {
        Ok(self.entries.get(name).map(|(entry, _)| entry.clone()))
    }

    fn names_of(&self, owner: &PeerId) -> Result<u64, Infallible> {
        Ok(self.entries.values().filter(|(entry, _)| entry.owner == *owner).count() as u64)
    }

    fn names(&self) -> Result<u64, Infallible> {
        Ok(self.entries.len() as u64)
    }

    fn last_version(&self) -> Result<Version, Infallible> {
        Ok(self.last)
    }

    fn ended(&self, name: &Name) -> Result<Option<Version>, Infallible> {
        Ok(self.ended.get(name).copied())
    }

    fn reported(&self, peer: &PeerId) -> Result<bool, Infallible> {
        Ok(self.reported.contains(peer))
    }
}

struct Master {
    disk: Disk,
    /// `None` while it is down.
    leases: Option<Leases>,
}

struct Peer {
    announcer: Announcer,
    share: BTreeMap<Name, (ContentId, u64)>,
    records: Records,
    session: Option<Session>,
    sequence: u64,
    /// The change under way and when to give up on it.
    waiting: Option<(u64, Batch, u64)>,
    /// When the master was last heard.
    heard: u64,
    up: bool,
}

#[derive(Clone)]
enum Message {
    Join {
        newest: Option<Version>,
        entries: usize,
        digest: ShareDigest,
    },
    Joined {
        session: Session,
        unchanged: bool,
    },
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
    Refused,
    Store(Statement),
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
    /// Every certificate that was ever signed: the invariant.
    issued: BTreeMap<(Name, Version), (PeerId, ContentId)>,
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
        };
        let peer = |id: &PeerId| Peer {
            announcer: Announcer::new(*id, []),
            share: BTreeMap::new(),
            records: Records::new(limits),
            session: None,
            sequence: 0,
            waiting: None,
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
            master: Master { disk: Disk::default(), leases: None },
            peers: IDS.iter().map(peer).collect(),
            issued: BTreeMap::new(),
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

    /// Sends with delay, and sometimes twice or not at all.
    fn send(&mut self, from: usize, to: usize, message: Message) {
        let copies = if from != to && self.random.chance(self.loss) { 0 } else { 1 + u64::from(self.random.chance(3)) };
        for _ in 0..copies {
            let at = self.now + 1 + self.random.below(150);
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
            if heard && let Some(ledger) = self.peers[node].records.ledger(&key_of(name)) {
                let mut ledger = ledger.clone();
                ledger.expire(now.unix_ms);
                tally.add(&ledger, now.unix_ms);
            }
        }
        tally
    }

    fn start_master(&mut self) {
        let config = LeaseConfig { lease: Duration::from_millis(LEASE_MS), ..LeaseConfig::default() };
        let mut leases = Leases::new(&config, 100);
        let known: Vec<_> =
            self.master.disk.members.iter().map(|(peer, session)| (*peer, *session, Vec::new(), 0)).collect();
        leases.restore(known, self.time(MASTER).mono);
        self.master.disk.reported.clear();
        // Connections do not survive a process.
        for peer in &mut self.peers {
            (peer.session, peer.waiting) = (None, None);
        }
        self.master.leases = Some(leases);
    }

    /// Signs, and holds the invariant: one owner and one content of a name at one version, for ever.
    fn certify(&mut self, entry: Entry) -> Seal {
        let key = (entry.name.clone(), entry.version);
        let issued = *self.issued.entry(key).or_insert((entry.owner, entry.content));
        assert_eq!(issued, (entry.owner, entry.content), "two owners of {} at {:?}", entry.name, entry.version);
        let seal = self.seal(MASTER, CERTIFICATE_LIFETIME_MS);
        self.publish(MASTER, &Statement::Certificate(Certificate { entry, seal: seal.clone() }));
        seal
    }

    fn free(&mut self, change: Change) {
        let Change::Free { name, owner, version, .. } = change else { return };
        assert!(version > self.master.disk.last, "versions rise");
        self.master.disk.last = version;
        self.master.disk.entries.remove(&name);
        self.master.disk.ended.insert(name.clone(), version);
        let seal = self.seal(MASTER, CERTIFICATE_LIFETIME_MS);
        self.publish(MASTER, &Statement::Tombstone(Tombstone { name, owner, version, seal }));
    }

    fn free_all(&mut self, owner: PeerId, before: Session) {
        let unix_ms = self.time(MASTER).unix_ms;
        let held = self.master.disk.entries.iter();
        let names: Vec<_> = held
            .filter(|(_, (entry, session))| entry.owner == owner && *session < before)
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.free(evict(name, owner, self.master.disk.last, unix_ms));
        }
    }

    fn at_master(&mut self, from: usize, message: Message) {
        let (peer, now) = (IDS[from], self.time(MASTER));
        let Some(leases) = &mut self.master.leases else { return };
        leases.on_alive(&peer, now.mono);
        match message {
            Message::Join { newest, entries, digest } => {
                if leases.on_join(&peer, Vec::new(), now.mono).is_err() {
                    return;
                }
                let disk = &mut self.master.disk;
                let random = self.random.next();
                disk.last = after(disk.last, newest.unwrap_or_default(), random).next(now.unix_ms);
                let session = Session(disk.last.0);
                disk.members.insert(peer, session);
                leases.on_joined(&peer, session);
                let held = disk.entries.values().filter(|(entry, _)| entry.owner == peer);
                let held: Vec<_> =
                    held.map(|(entry, _)| (entry.name.as_str(), &entry.content, entry.size, entry.version)).collect();
                let unchanged = held.len() == entries && share_digest(held) == digest;
                if unchanged {
                    disk.reported.insert(peer);
                } else {
                    disk.reported.remove(&peer);
                }
                self.send(MASTER, from, Message::Joined { session, unchanged });
            }
            Message::Change { session, sequence, batch } => {
                if leases.admit_change(&peer, session, Sequence(sequence)).is_err() {
                    return self.send(MASTER, from, Message::Refused);
                }
                let mut mirror = BTreeMap::new();
                if let Batch::Announce { offers, .. } = &batch {
                    for name in offers.iter().filter_map(|offer| Name::parse(&offer.name).ok()) {
                        let tally = self.read(MASTER, &name);
                        mirror.insert(name, tally);
                    }
                }
                // The network was asked before the index is written; meanwhile anything may happen.
                self.sent += 1;
                let at = self.now + 1 + self.random.below(100);
                self.queue.insert((at, self.sent), (from, MASTER, Message::Apply { session, sequence, batch, mirror }));
            }
            Message::Apply { session, sequence, batch, mirror } => {
                if self.master.disk.members.get(&peer) != Some(&session) {
                    return self.send(MASTER, from, Message::Refused);
                }
                self.apply(from, session, sequence, batch, &mirror);
            }
            _ => {}
        }
    }

    fn apply(&mut self, from: usize, session: Session, sequence: u64, batch: Batch, mirror: &BTreeMap<Name, Tally>) {
        let (peer, unix_ms) = (IDS[from], self.time(MASTER).unix_ms);
        match batch {
            Batch::Announce { offers, last } => {
                let verdicts = offers.iter().map(|offer| self.grant(peer, session, offer, mirror)).collect();
                if last {
                    self.master.disk.reported.insert(peer);
                    self.free_all(peer, session);
                }
                self.send(MASTER, from, Message::Announced { session, sequence, verdicts });
            }
            Batch::Revoke(names) => {
                for name in &names {
                    let Ok((_, change)) = revoke(&self.master.disk, peer, name, unix_ms);
                    if let Some(change) = change {
                        self.free(change);
                    }
                }
                self.send(MASTER, from, Message::Revoked { session, sequence });
            }
        }
    }

    fn grant(&mut self, peer: PeerId, session: Session, offer: &Offer, mirror: &BTreeMap<Name, Tally>) -> Verdict {
        let unix_ms = self.time(MASTER).unix_ms;
        let name = Name::parse(&offer.name).unwrap();
        let evidence = Evidence {
            mirror: mirror.get(&name).cloned().unwrap_or_default(),
            granted: offer.granted.as_ref().map(|granted| granted.version),
        };
        let moment = Moment { unix_ms, random: self.random.next() };
        let Ok(announced) = announce(&self.master.disk, peer, offer, &evidence, &LIMITS, moment);
        match announced {
            Announced::Granted { entry, .. } => {
                self.master.disk.last = self.master.disk.last.max(entry.version);
                self.master.disk.entries.insert(name, ((*entry).clone(), session));
                let version = entry.version;
                Verdict::Accepted { version, seal: self.certify(*entry) }
            }
            Announced::Adopt(entry) => {
                let owner = entry.owner;
                self.master.disk.last = self.master.disk.last.max(entry.version);
                self.master.disk.entries.insert(name, ((*entry).clone(), Session::default()));
                self.master.disk.members.entry(owner).or_default();
                let now = self.time(MASTER).mono;
                if let Some(leases) = &mut self.master.leases
                    && leases.get(&owner).is_none()
                {
                    leases.restore([(owner, Session::default(), Vec::new(), 1)], now);
                }
                self.certify(*entry);
                Verdict::Conflict { owner }
            }
            Announced::Conflict(owner) => Verdict::Conflict { owner },
            Announced::Refused(refusal) => Verdict::Refused(refusal),
        }
    }

    fn at_peer(&mut self, from: usize, to: usize, message: Message) {
        let now = self.time(to);
        let peer = &mut self.peers[to];
        if from == MASTER && !matches!(message, Message::Store(_)) {
            peer.heard = self.now;
        }
        match message {
            // An answer to an earlier join is overtaken.
            Message::Joined { session, unchanged } if peer.session.is_none_or(|held| held < session) => {
                peer.session = Some(session);
                (peer.sequence, peer.waiting) = (0, None);
                let share = peer.share.iter().map(|(name, (content, size))| (name, content, *size));
                peer.announcer.on_joined(unchanged, share);
            }
            Message::Announced { session, sequence, verdicts } => {
                if let Some((waiting, Batch::Announce { offers, last }, _)) = peer.waiting.clone()
                    && (waiting, peer.session) == (sequence, Some(session))
                {
                    assert!(peer.announcer.on_announced(&offers, last, verdicts, now.unix_ms));
                    peer.waiting = None;
                }
            }
            Message::Revoked { session, sequence } => {
                if let Some((waiting, Batch::Revoke(names), _)) = peer.waiting.clone()
                    && (waiting, peer.session) == (sequence, Some(session))
                {
                    let outcomes = vec![swarmdex_protocols::index::Revocation::NotHeld; names.len()];
                    assert!(peer.announcer.on_revoked(&names, &outcomes));
                    peer.waiting = None;
                }
            }
            Message::Refused => (peer.session, peer.waiting) = (None, None),
            Message::Store(statement) => {
                let sender = IDS.get(from).copied().unwrap_or(IDS[0]);
                peer.records.store(key_of(statement.name()), [0; 32], statement, sender, false, now);
            }
            Message::Count(claim) => self.count(to, claim),
            _ => {}
        }
    }

    /// What a peer does when it has time.
    fn step(&mut self, number: usize) {
        let now = self.time(number);
        if !self.peers[number].up {
            return;
        }
        self.peers[number].records.handle_timeout(now);
        let peer = &mut self.peers[number];
        if peer.waiting.as_ref().is_some_and(|(_, _, until)| *until < self.now) {
            (peer.session, peer.waiting) = (None, None);
        }
        // Pings: a master that is not heard for long is lost.
        if self.connected(number, MASTER) {
            let now = self.time(MASTER).mono;
            if let Some(leases) = &mut self.master.leases {
                leases.on_alive(&IDS[number], now);
            }
        } else {
            self.peers[number].session = None;
        }
        if self.peers[number].session.is_some() {
            if self.random.chance(2) {
                self.peers[number].announcer.retry_lost();
            }
            self.tell(number);
        } else {
            let peer = &self.peers[number];
            let newest = peer.announcer.newest().map(|certificate| certificate.entry.version);
            let share = peer.share.iter().map(|(name, (content, size))| (name, content, *size));
            let digest = peer.announcer.digest(share);
            let join = Message::Join { newest, entries: peer.share.len(), digest };
            if self.connected(number, MASTER) {
                self.send(number, MASTER, join);
            }
            if self.now > self.peers[number].heard + 2_000 {
                self.give_up(number, true);
                self.outage(number);
            }
        }
        self.give_up(number, false);
        if self.random.chance(10) {
            let statements: Vec<_> = self.peers[number].announcer.statements().collect();
            for statement in statements {
                self.publish(number, &statement);
                // What the answers would say.
                let key = key_of(statement.name());
                let older = self.closest(statement.name()).any(|node| {
                    let held = self.peers[node].records.ledger(&key).filter(|_| self.connected(number, node));
                    held.is_some_and(|held| held.settled().and_then(Statement::rank) > statement.rank())
                });
                if older && matches!(statement, Statement::Certificate(_)) {
                    self.peers[number].announcer.doubt(statement.name());
                }
            }
        }
    }

    /// The next change, if none is under way.
    fn tell(&mut self, number: usize) {
        let unix_ms = self.time(number).unix_ms;
        let peer = &mut self.peers[number];
        let (Some(session), None) = (peer.session, &peer.waiting) else { return };
        let share: Vec<_> = peer.share.iter().map(|(name, (content, size))| (name, content, *size)).collect();
        if let Some(batch) = peer.announcer.next_batch(share, unix_ms) {
            peer.sequence += 1;
            let sequence = peer.sequence;
            peer.waiting = Some((sequence, batch.clone(), self.now + 1_500));
            self.send(number, MASTER, Message::Change { session, sequence, batch });
        }
    }

    /// Withdraws claims that are over and, without a master, revokes what is no longer shared.
    fn give_up(&mut self, number: usize, alone: bool) {
        let now = self.time(number);
        let seal = self.seal(number, CERTIFICATE_LIFETIME_MS);
        let peer = &self.peers[number];
        let (certificates, claims) = peer.announcer.to_give_up(|name| peer.share.contains_key(name));
        let revoked = certificates
            .into_iter()
            .filter(|_| alone)
            .map(|certificate| Statement::Revocation(Revocation { certificate, seal: seal.clone() }));
        let withdrawn = claims.into_iter().map(|claim| {
            let entry = Entry { version: claim.entry.version.next(now.unix_ms), ..claim.entry };
            let seal = Seal { expires_ms: seal.issued_ms + CLAIM_LIFETIME_MS, ..seal.clone() };
            Statement::Claim(Claim { entry, base: claim.base, withdrawn: true, seal })
        });
        for statement in revoked.chain(withdrawn).collect::<Vec<_>>() {
            self.publish(number, &statement);
            self.peers[number].announcer.on_given_up(statement);
        }
    }

    fn outage(&mut self, number: usize) {
        let now = self.time(number);
        let peer = &mut self.peers[number];
        let share: Vec<_> = peer.share.iter().map(|(name, (content, size))| (name, content, *size)).collect();
        let wanted = peer.announcer.to_claim(share, now.unix_ms);
        for (name, content, size) in wanted {
            let tally = self.read(number, &name);
            let rival = match tally.standing() {
                Stands::Certified(granted)
                    if granted.entry.owner == IDS[number] && granted.entry.content == content =>
                {
                    let granted = granted.clone();
                    self.peers[number].announcer.on_certificate(granted);
                    continue;
                }
                Stands::Certified(certificate) => Some(certificate.entry.owner),
                Stands::Claimed(claim) => Some(claim.entry.owner),
                Stands::Free => None,
            };
            if let Some(owner) = rival.filter(|owner| *owner != IDS[number]) {
                self.peers[number].announcer.on_claim_lost(&name, content, size, owner);
                continue;
            }
            let version = tally.version().next(now.unix_ms);
            let entry = Entry { name, content, size, owner: IDS[number], version };
            let claim =
                Claim { entry, base: tally.base(), withdrawn: false, seal: self.seal(number, CLAIM_LIFETIME_MS) };
            self.publish(number, &Statement::Claim(claim.clone()));
            self.sent += 1;
            self.queue.insert((self.now + 400, self.sent), (number, number, Message::Count(claim)));
        }
    }

    /// Counts the nodes that took a claim, as the answers to its storage would.
    fn count(&mut self, number: usize, claim: Claim) {
        let Entry { name, content, size, .. } = claim.entry.clone();
        let peer = &self.peers[number];
        // Overtaken by the master, or by the user.
        if peer.session.is_some() || peer.share.get(&name) != Some(&(content, size)) {
            return;
        }
        let (mut stored, mut rival) = (0, None);
        for node in self.closest(&name) {
            let held = self.peers[node].records.ledger(&key_of(&name)).filter(|_| self.connected(number, node));
            match held.map(|ledger| (ledger.claim(), ledger.settled())) {
                Some((Some(held), _)) if held.entry == claim.entry => stored += 1,
                Some((Some(held), _)) if !held.withdrawn => rival = Some(held.entry.owner),
                Some((_, Some(Statement::Certificate(held)))) => rival = Some(held.entry.owner),
                _ => {}
            }
        }
        match rival.filter(|owner| stored == 0 && *owner != IDS[number]) {
            Some(owner) => self.peers[number].announcer.on_claim_lost(&name, content, size, owner),
            None if stored > 0 => self.peers[number].announcer.on_claimed(claim),
            None => {}
        }
    }

    fn evict(&mut self) {
        let now = self.time(MASTER).mono;
        let Some(leases) = &mut self.master.leases else { return };
        leases.handle_timeout(now);
        let mut evicted = Vec::new();
        while let Some(action) = leases.poll_action() {
            if let Action::Evict(peer) = action {
                evicted.push(peer);
            }
        }
        for peer in evicted {
            self.free_all(peer, Session(u64::MAX));
            self.master.disk.members.remove(&peer);
            self.master.disk.reported.remove(&peer);
        }
    }

    /// Something that users and machines do.
    fn trouble(&mut self) {
        let number = self.random.below(PEERS as u64) as usize;
        match self.random.below(20) {
            0..8 => {
                let (file, content) = (name(self.random.below(NAMES as u64) as usize), self.random.below(3) as u8);
                self.peers[number].share.insert(file.clone(), (ContentId::of(&[content]), 1));
                self.peers[number].announcer.retry(&file);
            }
            8..11 => {
                let file = name(self.random.below(NAMES as u64) as usize);
                self.peers[number].share.remove(&file);
            }
            11..13 => self.side[self.random.below(PEERS as u64 + 1) as usize] ^= true,
            13 => self.master.leases = None,
            14 => {
                // Without its disk, and with whatever its clock shows by then.
                self.master.leases = None;
                if self.random.chance(40) {
                    self.master.disk = Disk::default();
                    self.skew[MASTER] = self.random.below(1_200_000) as i64 - 600_000;
                    let fresh = Version::default().next(self.time(MASTER).unix_ms + 600_000);
                    self.master.disk.last = fresh.leap(self.random.next());
                }
                self.start_master();
            }
            15..17 if self.master.leases.is_none() => self.start_master(),
            17 => self.restart(number),
            18 => self.skew[number] = self.random.below(1_200_000) as i64 - 600_000,
            _ => self.loss = self.random.below(30),
        }
    }

    /// A peer ends without a word, or comes back with what it had on disk; what it stored for others is gone.
    fn restart(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        peer.up = !peer.up;
        (peer.session, peer.waiting) = (None, None);
        if peer.up {
            let saved = peer.announcer.statements().filter_map(|statement| match statement {
                Statement::Certificate(certificate) => Some(certificate),
                _ => None,
            });
            let saved: Vec<_> = saved.collect();
            peer.announcer = Announcer::new(IDS[number], saved);
        }
    }

    fn run(&mut self, until: u64, trouble: bool) {
        while self.now < until {
            self.now += 50;
            while let Some(entry) = self.queue.first_entry()
                && entry.key().0 <= self.now
            {
                let (from, to, message) = entry.remove();
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

    /// When all is quiet again, everybody agrees.
    fn check(&mut self) {
        let entries: BTreeMap<_, _> =
            self.master.disk.entries.iter().map(|(name, (entry, _))| (name.clone(), entry.clone())).collect();
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
fn history(seed: u64) {
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
}

#[test]
fn no_history_ever_shows_two_certified_owners_of_one_name_at_one_version() {
    // So many that a rare order of events has its turn; a failing seed is named by its panic.
    for seed in 0..HISTORIES {
        let result = std::panic::catch_unwind(|| history(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

/// Seeds that are run each time.
const HISTORIES: u64 = 2000;

#[test]
fn one_seed_is_one_history() {
    let trace = |seed| {
        let mut world = World::new(seed);
        world.run(20_000, true);
        (world.sent, world.issued.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
