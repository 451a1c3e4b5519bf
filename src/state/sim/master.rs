//! The master of a simulated network: the messages and clocks around the index that is shipped, over a table in memory.

use super::*;

/// How much the index deals with at a time: less than a share has.
const SLICES: Slices = Slices { evicted: 2 * BATCH as u64, again: BATCH, except: BATCH };
/// How soon the index notices that somebody changed it by hand, at most.
const NOTICED_MS: u64 = 1_000;

pub(super) struct Master {
    /// The index on its disk.
    pub(super) table: MemoryTable,
    /// The index as a service, as this run of the master has it.
    pub(super) service: Service<Unsigned>,
    /// In which way this run gives versions.
    run: u64,
    /// `None` while it is down.
    pub(super) leases: Option<Leases>,
    /// Peers whose names are being freed, some at a time.
    evicting: VecDeque<PeerId>,
    /// Until then every name is looked up.
    settled: u64,
}

impl Master {
    /// One that was not started yet, with an empty disk.
    pub(super) fn new() -> Self {
        Self {
            table: MemoryTable::default(),
            service: Service::new(Unsigned, LIMITS),
            run: 0,
            leases: None,
            evicting: VecDeque::new(),
            settled: 0,
        }
    }
}

impl World {
    pub(super) fn start_master(&mut self) {
        let config = LeaseConfig { lease: Duration::from_millis(LEASE_MS), ..LeaseConfig::default() };
        let mut leases = Leases::new(&config, 100);
        let known =
            self.master.table.members().map(|(peer, row)| (*peer, Vec::new(), Holding { sum: row.held, at: 0 }));
        leases.restore(known.collect::<Vec<_>>(), self.time(MASTER).mono);
        self.master.run = self.random.next();
        self.master.service = Service::new(Unsigned, LIMITS).with_slices(SLICES);
        let at = self.moment();
        let Ok(_) = self.master.service.open(&self.master.table, at);
        self.master.evicting.clear();
        self.master.settled = self.now + SETTLED_MS;
        // Neither connections nor what is under way survive a process.
        self.peers.iter_mut().for_each(Peer::lose_session);
        self.queue.retain(|_, (_, _, message)| !matches!(message, Message::Apply { .. }));
        self.watch.on_master_started(self.now);
        self.master.leases = Some(leases);
        self.recount();
    }

    /// Its disk is lost.
    pub(super) fn lose_index(&mut self) {
        self.master.table = MemoryTable::default();
        self.watch.on_index_lost();
    }

    fn moment(&mut self) -> Moment {
        Moment { unix_ms: self.time(MASTER).unix_ms, random: self.random.next(), run: self.master.run }
    }

    /// Has the index carry out a request, and publishes what it says then.
    fn write(&mut self, op: WriteOp) -> Result<WriteOutcome, ()> {
        let at = self.moment();
        let before = self.master.table.clone();
        let outcome = self.master.table.write(&mut self.master.service, &op, at);
        self.watch.on_written(&before, &self.master.table, &op, &outcome);
        for statement in self.master.service.on_committed() {
            self.watch.on_statement(&statement);
            self.publish(MASTER, &statement);
        }
        outcome.map_err(drop)
    }

    fn set_holding(&mut self, peer: &PeerId, holding: Holding) {
        let now = self.time(MASTER).mono;
        let Some(leases) = &mut self.master.leases else { return };
        // One that is no member but holds names gets a lease to come back in.
        if leases.get(peer).is_none() {
            leases.restore([(*peer, Vec::new(), holding)], now);
            self.watch.on_alive(peer, self.now);
        }
        leases.set_holding(peer, holding);
    }

    pub(super) fn at_master(&mut self, from: usize, message: Message) {
        let (peer, now) = (IDS[from.min(PEERS - 1)], self.time(MASTER));
        let Some(leases) = &mut self.master.leases else { return };
        if matches!(message, Message::Recount) {
            return self.recount();
        }
        leases.on_alive(&peer, now.mono);
        if leases.get(&peer).is_some() {
            self.watch.on_alive(&peer, self.now);
        }
        let answer = match message {
            Message::Join { newest, entries, digest, again } => {
                if leases.on_join(&peer, Vec::new(), now.mono).is_err() {
                    return;
                }
                self.watch.on_alive(&peer, self.now);
                let again = again && self.now >= self.master.settled;
                self.join(
                    peer,
                    WriteOp::Join {
                        peer,
                        addresses: Vec::new(),
                        digest,
                        entries: entries as u64,
                        seen: newest.unwrap_or_default(),
                        again,
                    },
                )
            }
            Message::Leave(session) => {
                if leases.on_leave(&peer, session).is_ok() {
                    self.watch.on_left(&peer);
                    self.master.evicting.push_back(peer);
                }
                return;
            }
            Message::Again { session, sequence } => match leases.admit_change(&peer, session, Sequence(sequence)) {
                Ok(()) => self.change(peer, session, sequence, WriteOp::Again { peer, neighbours: 0 }),
                Err(_) => Message::Refused,
            },
            Message::Seals { session, sequence, from: first } => match leases.admit_question(&peer, session) {
                Ok(()) => Message::Sealed { session, sequence, sealed: self.seals(&peer, &first) },
                Err(_) => Message::Refused,
            },
            Message::Renew { session, sequence, held } => match leases.on_renew(&peer, session, &held) {
                Ok(renewal) => Message::Renewed { session, sequence, agreed: renewal.agreed },
                Err(_) => Message::Refused,
            },
            Message::Compare { session, sequence, ranges } => match leases.admit_comparison(&peer, session) {
                Ok(_) => {
                    let answers = ranges.into_iter().map(|range| self.divide(&peer, &range)).collect();
                    Message::Compared { session, sequence, answers }
                }
                Err(_) => Message::Refused,
            },
            Message::Change { session, sequence, batch } => {
                match leases.admit_change(&peer, session, Sequence(sequence)) {
                    Ok(()) => return self.look_up(from, session, sequence, batch),
                    Err(_) => Message::Refused,
                }
            }
            Message::Apply { session, sequence, batch, mirror } => {
                let op = match batch {
                    Batch::Announce { offers, last } => {
                        WriteOp::Announce { peer, offers, neighbours: 0, last: last.is_some(), total: last, mirror }
                    }
                    Batch::Revoke(names) => WriteOp::Revoke { peer, names },
                };
                self.change(peer, session, sequence, op)
            }
            _ => return,
        };
        self.send(MASTER, from, answer);
    }

    fn join(&mut self, peer: PeerId, op: WriteOp) -> Message {
        // A peer that is back in the midst of its eviction keeps the names that it still has.
        self.master.evicting.retain(|other| *other != peer);
        let Ok(WriteOutcome::Joined { session, unchanged, again, holding, .. }) = self.write(op) else {
            return Message::Refused;
        };
        if let Some(leases) = &mut self.master.leases {
            leases.on_joined(&peer, session);
            leases.set_holding(&peer, holding);
        }
        Message::Joined { session, unchanged, again }
    }

    /// Looks the names of a change up before the index is asked; meanwhile anything may happen.
    fn look_up(&mut self, from: usize, session: Session, sequence: u64, batch: Batch) {
        let mut mirror = BTreeMap::new();
        if let Batch::Announce { offers, .. } = &batch {
            for name in offers.iter().filter_map(|offer| Name::parse(&offer.name).ok()) {
                let tally = self.read(MASTER, &name);
                mirror.insert(name, tally);
            }
        }
        self.sent += 1;
        let at = self.now + 1 + self.random.below(100);
        self.queue.insert((at, self.sent), (from, MASTER, Message::Apply { session, sequence, batch, mirror }));
    }

    /// A change that a member asked for in a session.
    fn change(&mut self, peer: PeerId, session: Session, sequence: u64, change: WriteOp) -> Message {
        let written =
            self.write(WriteOp::InSession { session, sequence: Sequence(sequence), change: Box::new(change) });
        if written.is_ok() {
            self.watch.on_changed(peer, session, sequence);
        }
        match written {
            Ok(WriteOutcome::Announced { verdicts, holding, adopted }) => {
                self.hold(&peer, holding);
                adopted.into_iter().for_each(|(owner, holding)| self.set_holding(&owner, holding));
                Message::Announced { session, sequence, verdicts }
            }
            Ok(WriteOutcome::Revoked { holding, .. }) => {
                self.hold(&peer, holding);
                Message::Revoked { session, sequence }
            }
            Ok(WriteOutcome::Returned { returned, holding }) => {
                self.hold(&peer, holding);
                self.again += u64::from(returned.through.is_none());
                Message::Returned { session, sequence, returned }
            }
            _ => Message::Refused,
        }
    }

    /// What a member holds, if it is one still.
    fn hold(&mut self, peer: &PeerId, holding: Holding) {
        if let Some(leases) = &mut self.master.leases {
            leases.set_holding(peer, holding);
        }
    }

    /// Certifies what a member was granted without.
    fn seals(&mut self, peer: &PeerId, first: &Name) -> Vec<Sealed> {
        let held = self.master.table.entries(peer).filter(|entry| entry.name >= *first).take(BATCH);
        let (held, unix_ms) = (held.cloned().collect::<Vec<_>>(), self.time(MASTER).unix_ms);
        let certified = held.into_iter().filter_map(|entry| Unsigned.certify(entry, unix_ms));
        let mut sealed = Vec::new();
        for certificate in certified.collect::<Vec<_>>() {
            let (name, version) = (certificate.entry.name.as_str().to_owned(), certificate.entry.version);
            sealed.push(Sealed { name, version, seal: certificate.seal.clone() });
            let statement = Statement::Certificate(certificate);
            self.watch.on_statement(&statement);
            self.publish(MASTER, &statement);
        }
        sealed
    }

    pub(super) fn evict(&mut self) {
        let now = self.time(MASTER).mono;
        let Some(leases) = &mut self.master.leases else { return };
        leases.handle_timeout(now);
        let mut evicted = Vec::new();
        while let Some(action) = leases.poll_action() {
            if let LeaseAction::Evict(peer) = action {
                self.watch.on_lease_over(&peer, self.now);
                evicted.push(peer);
            }
        }
        self.master.evicting.extend(evicted);
        // Some names at a time.
        let Some(peer) = self.master.evicting.pop_front() else { return };
        if let Ok(WriteOutcome::Evicted { names }) = self.write(WriteOp::Evict { peer })
            && names == SLICES.evicted
        {
            self.master.evicting.push_back(peer);
        }
    }

    /// What a peer holds in a range, as it is answered to a comparison.
    fn divide(&self, peer: &PeerId, range: &Range) -> Compared {
        let mut division = Division::new(range.from.clone());
        for entry in self.master.table.entries(peer) {
            let name = entry.name.as_str();
            if range.from.as_str() <= name && range.to.as_deref().is_none_or(|to| name < to) {
                division.push(name, &entry.digest());
            }
        }
        division.finish(&range.held)
    }

    /// Counts everything anew, and corrects what is kept of members.
    fn recount(&mut self) {
        let at = self.moment();
        for correction in self.master.table.corrections() {
            let Ok(corrected) = self.master.service.correct(&mut self.master.table, &correction, at);
            if let Some((peer, holding)) = corrected {
                self.set_holding(&peer, holding);
            }
        }
        let Ok(()) = self.master.service.recount(&self.master.table);
    }

    /// Somebody changes rows of the index by hand: deletes some, changes some, adds some; or bits flip.
    pub(super) fn spoil_index(&mut self) {
        let unix_ms = self.time(MASTER).unix_ms;
        for _ in 0..1 + self.random.below(6) {
            let name = name(self.random.below(NAMES as u64) as usize);
            let Ok(before) = self.master.table.entry(&name);
            let version = self.master.service.totals().last.next(unix_ms);
            let content = ContentId::of(b"by hand");
            let table = &mut self.master.table;
            self.watch.on_spoiled(&name);
            match (self.random.below(4), before) {
                (0, _) => table.change_by_hand(&name, None),
                (1, Some(entry)) => table.change_by_hand(&name, Some(Entry { content, version, ..entry })),
                (2, None) => {
                    let owner = IDS[self.random.below(PEERS as u64) as usize];
                    if table.members().any(|(member, _)| *member == owner) {
                        let entry = Entry { name: name.clone(), content, size: 1, owner, version, attributes: None };
                        table.change_by_hand(&name, Some(entry));
                    }
                }
                (3, _) => table.damage(&name),
                _ => {}
            }
            // Whoever changes versions by hand sees to it that they rise.
            let Ok(()) = self.master.service.recount(&self.master.table);
        }
        self.sent += 1;
        let at = self.now + 1 + self.random.below(NOTICED_MS);
        self.queue.insert((at, self.sent), (MASTER, MASTER, Message::Recount));
    }
}
