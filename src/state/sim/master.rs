//! The master of a simulated network, with its disk.

use super::*;

/// The index on the master's disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) entries: BTreeMap<Name, (Entry, Session)>,
    pub(super) ended: BTreeMap<Name, Version>,
    pub(super) last: Version,
    /// Members and their sessions.
    pub(super) members: BTreeMap<PeerId, Session>,
    /// What peers left with, and the names of each.
    departures: BTreeMap<PeerId, Noted>,
}

/// What is noted of a peer that left.
#[derive(Debug, Clone)]
struct Noted {
    session: Session,
    departure: Departure,
    names: BTreeMap<Name, Left>,
}

impl Disk {
    /// What a peer holds, in order.
    fn of<'a>(&'a self, owner: &'a PeerId) -> impl Iterator<Item = &'a (Entry, Session)> {
        self.entries.values().filter(move |(entry, _)| entry.owner == *owner)
    }

    fn sum(&self, owner: &PeerId) -> ShareSum {
        let mut sum = ShareSum::default();
        self.of(owner).for_each(|(entry, _)| sum.add(&entry.digest()));
        sum
    }
}

/// The index, and what its members have reported, as a rule sees them.
struct View<'a>(&'a Disk, &'a Reports);

impl IndexView for View<'_> {
    type Error = Infallible;

    fn entry(&self, name: &Name) -> Result<Option<Entry>, Infallible> {
        Ok(self.0.entries.get(name).map(|(entry, _)| entry.clone()))
    }

    fn names_of(&self, owner: &PeerId) -> Result<u64, Infallible> {
        Ok(self.0.entries.values().filter(|(entry, _)| entry.owner == *owner).count() as u64)
    }

    fn names_of_neighbours(&self, _: &PeerId) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn names(&self) -> Result<u64, Infallible> {
        Ok(self.0.entries.len() as u64)
    }

    fn last_version(&self) -> Result<Version, Infallible> {
        Ok(self.0.last)
    }

    fn ended(&self, name: &Name) -> Result<Option<Version>, Infallible> {
        Ok(self.0.ended.get(name).copied())
    }

    fn damaged(&self, _: &Name) -> Result<Option<PeerId>, Infallible> {
        Ok(None)
    }

    fn reported(&self, peer: &PeerId) -> Result<bool, Infallible> {
        Ok(self.1.is_whole(peer))
    }
}

pub(super) struct Master {
    pub(super) disk: Disk,
    /// `None` while it is down.
    pub(super) leases: Option<Leases>,
    /// What members have told since they joined; forgotten by every restart.
    pub(super) reports: Reports,
    /// Peers whose names are being freed, some at a time.
    pub(super) evicting: VecDeque<PeerId>,
    /// Until then every name is looked up.
    pub(super) settled: u64,
}

impl World {
    pub(super) fn start_master(&mut self) {
        let config = LeaseConfig { lease: Duration::from_millis(LEASE_MS), ..LeaseConfig::default() };
        let mut leases = Leases::new(&config, 100);
        let known: Vec<_> =
            self.master.disk.members.keys().map(|peer| (*peer, Vec::new(), Holding::default())).collect();
        leases.restore(known, self.time(MASTER).mono);
        self.master.reports = Reports::default();
        self.master.evicting.clear();
        self.master.settled = self.now + SETTLED_MS;
        // Connections do not survive a process.
        self.peers.iter_mut().for_each(Peer::lose_session);
        self.master.leases = Some(leases);
    }

    /// Signs, and holds the invariant: one owner and one content of a name at one version, for ever.
    pub(super) fn certify(&mut self, entry: Entry) -> Seal {
        let key = (entry.name.clone(), entry.version);
        let issued = *self.issued.entry(key).or_insert((entry.owner, entry.content));
        assert_eq!(issued, (entry.owner, entry.content), "two owners of {} at {:?}", entry.name, entry.version);
        let seal = self.seal(MASTER, CERTIFICATE_LIFETIME_MS);
        self.publish(MASTER, &Statement::Certificate(Certificate { entry, seal: seal.clone() }));
        seal
    }

    pub(super) fn free(&mut self, change: Change) {
        let Change::Free { name, owner, version, .. } = change else { return };
        assert!(version > self.master.disk.last, "versions rise");
        self.master.disk.last = version;
        if let Some((entry, session)) = self.master.disk.entries.remove(&name) {
            self.count_out(&entry, session);
        }
        self.master.disk.ended.insert(name.clone(), version);
        let seal = self.seal(MASTER, CERTIFICATE_LIFETIME_MS);
        self.publish(MASTER, &Statement::Tombstone(Tombstone { name, owner, version, seal }));
    }

    /// An entry goes: it does not count for its owner's report any more.
    fn count_out(&mut self, entry: &Entry, session: Session) {
        if self.master.disk.members.get(&entry.owner) == Some(&session) {
            self.master.reports.on_lost(&entry.owner, &entry.digest());
        }
    }

    pub(super) fn free_all(&mut self, owner: PeerId, before: Session) {
        let unix_ms = self.time(MASTER).unix_ms;
        let held = self.master.disk.entries.iter();
        let names: Vec<_> = held
            .filter(|(_, (entry, session))| entry.owner == owner && *session < before)
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.free(evict(name, owner, self.master.disk.last, at(unix_ms)));
        }
    }

    pub(super) fn at_master(&mut self, from: usize, message: Message) {
        let (peer, now) = (IDS[from], self.time(MASTER));
        let Some(leases) = &mut self.master.leases else { return };
        leases.on_alive(&peer, now.mono);
        match message {
            Message::Join { newest, entries, digest, again } => {
                if leases.on_join(&peer, Vec::new(), now.mono).is_err() {
                    return;
                }
                let disk = &mut self.master.disk;
                let random = self.random.next();
                disk.last = after(disk.last, newest.unwrap_or_default(), random).next(now.unix_ms);
                let session = Session(disk.last.0);
                disk.members.insert(peer, session);
                leases.on_joined(&peer, session);
                let share = ShareSum { entries: entries as u64, digest };
                let unchanged = disk.sum(&peer) == share;
                let again = again && !unchanged && self.now >= self.master.settled && self.returns(&peer, &share);
                if !again {
                    self.master.disk.departures.remove(&peer);
                }
                self.master.evicting.retain(|other| *other != peer);
                self.master.reports.on_joined(peer, unchanged, entries as u64);
                self.send(MASTER, from, Message::Joined { session, unchanged, again });
            }
            Message::Leave(session) => {
                let left = leases.on_leave(&peer, session).is_ok();
                self.master.evicting.extend(left.then_some(peer));
            }
            Message::Again { session, sequence } => {
                let admitted = leases.admit_change(&peer, session, Sequence(sequence)).is_ok();
                if !admitted || self.master.disk.members.get(&peer) != Some(&session) {
                    return self.send(MASTER, from, Message::Refused);
                }
                let answer = match self.grant_again(&peer, session) {
                    Some(returned) => Message::Returned { session, sequence, returned },
                    None => Message::Refused,
                };
                self.send(MASTER, from, answer);
            }
            Message::Seals { session, sequence, from: first } => {
                if leases.admit_question(&peer, session).is_err() {
                    return self.send(MASTER, from, Message::Refused);
                }
                let held = self.master.disk.of(&peer).map(|(entry, _)| entry);
                let held: Vec<_> = held.filter(|entry| entry.name >= first).take(BATCH).cloned().collect();
                let sealed = held.into_iter().map(|entry| {
                    let (name, version) = (entry.name.as_str().to_owned(), entry.version);
                    Sealed { name, version, seal: self.certify(entry) }
                });
                let sealed = sealed.collect();
                self.send(MASTER, from, Message::Sealed { session, sequence, sealed });
            }
            Message::Renew { session, sequence, held } => {
                self.sent += 1;
                let holding = Holding { sum: self.master.disk.sum(&peer), at: self.sent };
                leases.set_holding(&peer, holding);
                let answer = match leases.on_renew(&peer, session, &held) {
                    Ok(renewal) => Message::Renewed { session, sequence, agreed: renewal.agreed },
                    Err(_) => Message::Refused,
                };
                self.send(MASTER, from, answer);
            }
            Message::Compare { session, sequence, ranges } => {
                if leases.admit_comparison(&peer, session).is_err() {
                    return self.send(MASTER, from, Message::Refused);
                }
                let answers = ranges.into_iter().map(|range| self.divide(&peer, &range)).collect();
                self.send(MASTER, from, Message::Compared { session, sequence, answers });
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
                if self.master.reports.on_offers(&peer, offers.len()).is_err() {
                    return self.send(MASTER, from, Message::Refused);
                }
                let verdicts = offers.iter().map(|offer| self.grant(peer, session, offer, mirror)).collect();
                if let Some(total) = last {
                    match self.master.reports.on_end(peer, Some(&total)) {
                        Ok(true) => self.free_all(peer, session),
                        Ok(false) => {}
                        Err(_) => return self.send(MASTER, from, Message::Refused),
                    }
                }
                self.send(MASTER, from, Message::Announced { session, sequence, verdicts });
            }
            Batch::Revoke(names) => {
                for name in &names {
                    let Ok((_, change)) =
                        revoke(&View(&self.master.disk, &self.master.reports), peer, name, at(unix_ms));
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
        let moment = Moment { random: self.random.next(), ..at(unix_ms) };
        let Ok(announced) =
            announce(&View(&self.master.disk, &self.master.reports), peer, offer, &evidence, &LIMITS, moment);
        match announced {
            Announced::Granted { entry, .. } => {
                self.master.disk.last = self.master.disk.last.max(entry.version);
                if let Some((before, of)) = self.master.disk.entries.insert(name, ((*entry).clone(), session)) {
                    self.count_out(&before, of);
                }
                self.master.reports.on_granted(&peer, &entry.digest());
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
                    leases.restore([(owner, Vec::new(), Holding::default())], now);
                }
                self.certify(*entry);
                Verdict::Conflict { owner }
            }
            Announced::Conflict(owner) => Verdict::Conflict { owner },
            Announced::Refused(refusal) => Verdict::Refused(refusal),
        }
    }

    pub(super) fn evict(&mut self) {
        let now = self.time(MASTER).mono;
        let Some(leases) = &mut self.master.leases else { return };
        leases.handle_timeout(now);
        let mut evicted = Vec::new();
        while let Some(action) = leases.poll_action() {
            if let LeaseAction::Evict(peer) = action {
                evicted.push(peer);
            }
        }
        self.master.evicting.extend(evicted);
        // Some names at a time.
        let Some(peer) = self.master.evicting.pop_front() else { return };
        if self.free_some(peer) {
            self.master.evicting.push_back(peer);
        }
    }

    /// Frees some names of a peer that is gone, and remembers what they were. Whether there are more.
    fn free_some(&mut self, peer: PeerId) -> bool {
        let unix_ms = self.time(MASTER).unix_ms;
        let disk = &mut self.master.disk;
        let Some(session) = disk.members.get(&peer).copied() else { return false };
        let sum = disk.sum(&peer);
        if session != Session::default()
            && sum.entries > 0
            && disk.departures.get(&peer).is_none_or(|noted| noted.session != session)
        {
            let departure = Departure { sum, version: None };
            disk.departures.insert(peer, Noted { session, departure, names: BTreeMap::new() });
        }
        let entries: Vec<_> = disk.of(&peer).map(|(entry, _)| entry.clone()).take(2 * BATCH).collect();
        for entry in &entries {
            self.free(evict(entry.name.clone(), peer, self.master.disk.last, at(unix_ms)));
            let disk = &mut self.master.disk;
            if session != Session::default()
                && let Some(noted) = disk.departures.get_mut(&peer)
            {
                noted.names.insert(entry.name.clone(), Left { entry: entry.clone(), ended: disk.last });
            }
        }
        if entries.len() == 2 * BATCH {
            return true;
        }
        self.master.disk.members.remove(&peer);
        self.master.reports.put_back(peer, None);
        false
    }

    /// Whether a peer joins with what it left with.
    fn returns(&mut self, peer: &PeerId, share: &ShareSum) -> bool {
        let unix_ms = self.time(MASTER).unix_ms;
        let disk = &mut self.master.disk;
        let version = disk.last.next(unix_ms);
        let Some(noted) = disk.departures.get_mut(peer) else { return false };
        let Some(departure) = noted.departure.on_joined(share, version) else { return false };
        (noted.departure, disk.last) = (departure, version);
        true
    }

    /// Grants the next names that a peer left with.
    fn grant_again(&mut self, peer: &PeerId, session: Session) -> Option<Returned> {
        let disk = &self.master.disk;
        let mut noted = disk.departures.get(peer).cloned()?;
        let version = noted.departure.version?;
        let held = disk.of(peer).filter(|(_, of)| *of < session).map(|(entry, _)| entry.clone());
        let mut items: BTreeMap<_, _> = held.map(|entry| (entry.name.clone(), (entry, None))).collect();
        items.extend(
            noted.names.values().map(|left| (left.entry.name.clone(), (left.entry.clone(), Some(left.clone())))),
        );
        let all = items.len() <= BATCH;
        let (mut except, mut through) = (Vec::new(), None);
        for (name, (entry, left)) in items.into_iter().take(BATCH) {
            through = Some(name.as_str().to_owned());
            noted.departure.take(&entry);
            noted.names.remove(&name);
            let again = match left {
                Some(left) => {
                    let view = View(&self.master.disk, &self.master.reports);
                    let Ok(again) = grant_again(&view, &left, version, &LIMITS);
                    again
                }
                None => Some(Entry { version, ..entry }),
            };
            let Some(entry) = again else {
                except.push(name.as_str().to_owned());
                continue;
            };
            self.again[0] += 1;
            self.master.reports.on_granted(peer, &entry.digest());
            self.master.disk.entries.insert(name, (entry, session));
        }
        if all && !noted.departure.is_whole() {
            return None;
        }
        if all {
            self.again[1] += 1;
            self.master.disk.departures.remove(peer);
            self.master.reports.on_returned(*peer);
        } else {
            self.master.disk.departures.insert(*peer, noted);
        }
        Some(Returned { version, through: through.filter(|_| !all), except })
    }

    /// What a peer holds in a range, as it is answered to a comparison.
    fn divide(&self, peer: &PeerId, range: &Range) -> Compared {
        let mut division = Division::new(range.from.clone());
        for (entry, _) in self.master.disk.of(peer) {
            let name = entry.name.as_str();
            if range.from.as_str() <= name && range.to.as_deref().is_none_or(|to| name < to) {
                division.push(name, &entry.digest());
            }
        }
        division.finish(&range.held)
    }

    /// Somebody changes rows of the index by hand: deletes some, changes some, adds some.
    pub(super) fn spoil_index(&mut self) {
        let unix_ms = self.time(MASTER).unix_ms;
        for _ in 0..1 + self.random.below(6) {
            let name = name(self.random.below(NAMES as u64) as usize);
            let disk = &mut self.master.disk;
            match self.random.below(3) {
                0 => drop(disk.entries.remove(&name)),
                1 => {
                    disk.last = disk.last.next(unix_ms);
                    let (content, version) = (ContentId::of(b"by hand"), disk.last);
                    if let Some((entry, _)) = disk.entries.get_mut(&name) {
                        (entry.content, entry.version) = (content, version);
                    }
                }
                _ => {
                    let owner = IDS[self.random.below(PEERS as u64) as usize];
                    disk.last = disk.last.next(unix_ms);
                    let entry = Entry {
                        name: name.clone(),
                        content: ContentId::of(b"by hand"),
                        size: 1,
                        owner,
                        version: disk.last,
                        attributes: None,
                    };
                    if disk.members.contains_key(&owner) {
                        disk.entries.entry(name).or_insert((entry, Session::default()));
                    }
                }
            }
        }
    }
}

fn at(unix_ms: u64) -> Moment {
    Moment { unix_ms, random: 0, run: 0 }
}
