//! A peer of a simulated network.

use std::ops::Bound;

use super::*;

pub(super) struct Peer {
    pub(super) announcer: Announcer,
    /// What it said of its names when it last published, followed change by change.
    pub(super) said: BTreeMap<Name, Statement>,
    pub(super) share: BTreeMap<Name, (ContentId, u64)>,
    pub(super) records: Records,
    pub(super) session: Option<Session>,
    pub(super) sequence: u64,
    /// The question under way and when to give up on it.
    pub(super) waiting: Option<(u64, Pending, u64)>,
    /// Whether what it left with is being granted again.
    pub(super) returning: bool,
    /// The share that the last join told of.
    pub(super) joining: BTreeMap<Name, (ContentId, u64)>,
    /// When the lease is renewed next.
    pub(super) renewal: u64,
    /// Whether no master answers, or one does and was not told everything yet: the node claims names by itself.
    pub(super) masterless: bool,
    /// When the master was last heard.
    pub(super) heard: u64,
    pub(super) up: bool,
}

/// What a peer waits for.
#[derive(Debug)]
pub(super) enum Pending {
    Change(Batch),
    Again,
    Seals,
    Renewal,
    Comparison(Comparison),
}

impl Peer {
    /// Takes up what changed in what it has to say: that must be what it says now.
    fn follow(&mut self) {
        let names = match self.announcer.take_changed() {
            Changed::Names(names) => names,
            Changed::All => self.announcer.said_names().chain(self.said.keys()).cloned().collect(),
        };
        for name in names {
            match self.announcer.said(&name) {
                Some(statement) => self.said.insert(name, statement),
                None => self.said.remove(&name),
            };
        }
        let whole = self.announcer.statements().map(|statement| (statement.name().clone(), statement));
        assert_eq!(self.said, whole.collect());
    }

    /// What the answer to a question is about, unless it comes too late.
    fn answered(&mut self, session: Session, sequence: u64) -> Option<Pending> {
        let fits = self.session == Some(session) && self.waiting.as_ref().is_some_and(|(at, ..)| *at == sequence);
        if fits { self.waiting.take().map(|(_, pending, _)| pending) } else { None }
    }

    pub(super) fn lose_session(&mut self) {
        (self.session, self.waiting) = (None, None);
        self.announcer.on_session_over();
    }

    fn next_batch(&self, unix_ms: u64) -> Option<Batch> {
        let share = |after: Option<&Name>| {
            let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rest = self.share.range::<Name, _>((begin, Bound::Unbounded));
            rest.map(|(name, (content, size))| (name, content, *size, None))
        };
        self.announcer.next_batch(share, unix_ms)
    }
}

impl World {
    pub(super) fn at_peer(&mut self, from: usize, to: usize, message: Message) {
        let now = self.time(to);
        let peer = &mut self.peers[to];
        if from == MASTER && !matches!(message, Message::Store(_)) {
            peer.heard = self.now;
        }
        match message {
            // An answer to an earlier join is overtaken.
            Message::Joined { session, unchanged, again } if peer.session.is_none_or(|held| held < session) => {
                peer.session = Some(session);
                (peer.sequence, peer.waiting) = (0, None);
                peer.returning = again && !unchanged;
                let share = peer.joining.iter().map(|(name, (content, size))| (name, content, *size));
                peer.announcer.on_joined(unchanged, share, now.mono);
                peer.announcer.look_again();
            }
            Message::Announced { session, sequence, verdicts } => match peer.answered(session, sequence) {
                Some(Pending::Change(Batch::Announce { offers, last })) => {
                    assert!(peer.announcer.on_announced(&offers, last.is_some(), verdicts, now));
                }
                other => assert!(other.is_none()),
            },
            Message::Revoked { session, sequence } => match peer.answered(session, sequence) {
                Some(Pending::Change(Batch::Revoke(names))) => {
                    let outcomes = vec![swarmdex_protocols::index::RevokeOutcome::NotHeld; names.len()];
                    assert!(peer.announcer.on_revoked(&names, &outcomes));
                }
                other => assert!(other.is_none()),
            },
            Message::Returned { session, sequence, returned } => match peer.answered(session, sequence) {
                Some(Pending::Again) => {
                    let share = peer.joining.iter().map(|(name, (content, size))| (name, content, *size));
                    assert!(peer.announcer.on_returned(share, &returned, now));
                    peer.returning = returned.through.is_some();
                }
                other => assert!(other.is_none()),
            },
            Message::Sealed { session, sequence, sealed } => match peer.answered(session, sequence) {
                Some(Pending::Seals) => assert!(peer.announcer.on_sealed(sealed)),
                other => assert!(other.is_none()),
            },
            Message::Renewed { session, sequence, agreed } => match peer.answered(session, sequence) {
                Some(_) if agreed => peer.announcer.on_agreed(now.mono),
                Some(_) => self.compare(to, Comparison::default()),
                None => {}
            },
            Message::Compared { session, sequence, answers } => {
                if let Some(Pending::Comparison(mut comparison)) = peer.answered(session, sequence) {
                    match comparison.on_compared(answers, &peer.announcer) {
                        Ok(()) => self.compare(to, comparison),
                        Err(_) => peer.lose_session(),
                    }
                }
            }
            Message::Refused => peer.lose_session(),
            Message::Store(statement) => {
                let sender = IDS.get(from).copied().unwrap_or(IDS[0]);
                peer.records.store(key_of(statement.name()), [0; 32], statement, sender, false, now);
            }
            Message::Count(claim) => self.count(to, claim),
            _ => {}
        }
    }

    /// What a peer does when it has time.
    pub(super) fn step(&mut self, number: usize) {
        let now = self.time(number);
        if !self.peers[number].up {
            return;
        }
        self.peers[number].records.handle_timeout(now);
        let peer = &mut self.peers[number];
        if peer.waiting.as_ref().is_some_and(|(_, _, until)| *until < self.now) {
            peer.lose_session();
        }
        // Pings: a master that is not heard for long is lost.
        if self.connected(number, MASTER) {
            let now = self.time(MASTER).mono;
            if let Some(leases) = &mut self.master.leases {
                leases.on_alive(&IDS[number], now);
                if leases.get(&IDS[number]).is_some() {
                    self.watch.on_alive(&IDS[number], self.now);
                }
            }
        } else {
            self.peers[number].lose_session();
        }
        if self.peers[number].session.is_some() {
            if self.random.chance(2) {
                self.peers[number].announcer.retry_lost();
            }
            self.tell(number);
            if self.peers[number].masterless {
                self.outage(number);
            }
        } else {
            let peer = &self.peers[number];
            let newest = peer.announcer.newest().map(|certificate| certificate.entry.version);
            let share = peer.share.iter().map(|(name, (content, size))| (name, content, *size));
            let digest = peer.announcer.digest(share);
            let again = peer.announcer.may_return();
            let join = Message::Join { newest, entries: peer.share.len(), digest, again };
            self.peers[number].joining = self.peers[number].share.clone();
            if self.connected(number, MASTER) {
                self.send(number, MASTER, join);
            }
            if self.now > self.peers[number].heard + 2_000 {
                self.peers[number].masterless = true;
                self.give_up(number, true);
                self.outage(number);
            }
        }
        self.give_up(number, false);
        if self.random.chance(10) {
            self.peers[number].follow();
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
    pub(super) fn tell(&mut self, number: usize) {
        let unix_ms = self.time(number).unix_ms;
        let peer = &mut self.peers[number];
        let (Some(session), None) = (peer.session, &peer.waiting) else { return };
        peer.sequence += 1;
        let (sequence, until) = (peer.sequence, self.now + 1_500);
        if self.random.chance(30) {
            peer.announcer.look_again();
        }
        if peer.returning {
            peer.waiting = Some((sequence, Pending::Again, until));
            return self.send(number, MASTER, Message::Again { session, sequence });
        }
        if let Some(batch) = peer.next_batch(unix_ms) {
            peer.waiting = Some((sequence, Pending::Change(batch.clone()), until));
            self.send(number, MASTER, Message::Change { session, sequence, batch });
            return;
        }
        peer.masterless = false;
        if let Some(from) = peer.announcer.first_unsealed().cloned().filter(|_| self.random.chance(50)) {
            peer.waiting = Some((sequence, Pending::Seals, until));
            return self.send(number, MASTER, Message::Seals { session, sequence, from });
        }
        if let Some(held) = peer.announcer.granted().filter(|_| peer.renewal <= self.now) {
            peer.renewal = self.now + RENEWAL_MS;
            peer.waiting = Some((sequence, Pending::Renewal, until));
            self.send(number, MASTER, Message::Renew { session, sequence, held });
        }
    }

    /// Goes on with a comparison, or takes up what it found.
    fn compare(&mut self, number: usize, mut comparison: Comparison) {
        let peer = &mut self.peers[number];
        let ranges = comparison.next_ranges(&peer.announcer);
        if ranges.is_empty() {
            peer.renewal = self.now;
            return peer.announcer.on_differences(&comparison.finish());
        }
        peer.sequence += 1;
        let Some(session) = peer.session else { return };
        let sequence = peer.sequence;
        peer.waiting = Some((sequence, Pending::Comparison(comparison), self.now + 1_500));
        self.send(number, MASTER, Message::Compare { session, sequence, ranges });
    }

    /// A fault of a peer: it forgets what the master granted, or believes what it did not grant.
    pub(super) fn spoil_peer(&mut self, number: usize) {
        let now = self.time(number);
        for _ in 0..1 + self.random.below(6) {
            let name = name(self.random.below(NAMES as u64) as usize);
            let granted = self.random.chance(50).then(|| (ContentId::of(&[self.random.below(3) as u8]), 1, Version(7)));
            self.peers[number].announcer.spoil(&name, granted, now.mono);
        }
    }

    /// Withdraws claims that are over and, without a master, revokes what is no longer shared.
    pub(super) fn give_up(&mut self, number: usize, masterless: bool) {
        let now = self.time(number);
        let seal = self.seal(number, CERTIFICATE_LIFETIME_MS);
        let peer = &self.peers[number];
        let (certificates, claims) = peer.announcer.to_give_up(|name| peer.share.contains_key(name));
        let revoked = certificates
            .into_iter()
            .filter(|_| masterless)
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

    pub(super) fn outage(&mut self, number: usize) {
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
            let entry = Entry { name, content, size, owner: IDS[number], version, attributes: None };
            let claim =
                Claim { entry, base: tally.base(), withdrawn: false, seal: self.seal(number, CLAIM_LIFETIME_MS) };
            self.publish(number, &Statement::Claim(claim.clone()));
            self.sent += 1;
            self.queue.insert((self.now + 400, self.sent), (number, number, Message::Count(claim)));
        }
    }

    /// Counts the nodes that took a claim, as the answers to its storage would.
    pub(super) fn count(&mut self, number: usize, claim: Claim) {
        let Entry { name, content, size, .. } = claim.entry.clone();
        let peer = &self.peers[number];
        // Overtaken by the master, or by the user.
        if peer.session.is_some() || peer.share.get(&name) != Some(&(content, size)) {
            return;
        }
        let (mut stored, mut rival) = (0, None);
        for node in self.closest(&name) {
            let held = self.peers[node].records.ledger(&key_of(&name)).filter(|_| self.connected(number, node));
            match held.as_ref().map(|ledger| (ledger.claim(), ledger.settled())) {
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

    /// A peer ends without a word, or comes back with what it had on disk; what it stored for others is gone.
    pub(super) fn restart(&mut self, number: usize) {
        let peer = &mut self.peers[number];
        peer.up = !peer.up;
        peer.lose_session();
        if peer.up {
            peer.announcer = Announcer::new(IDS[number], peer.announcer.saved()).with_batch(BATCH);
        }
    }

    /// A peer is stopped in order, and started again some time later.
    pub(super) fn stop(&mut self, number: usize) {
        if !self.peers[number].up {
            return;
        }
        if let Some(session) = self.peers[number].session
            && self.connected(number, MASTER)
            && !self.random.chance(self.loss)
        {
            self.at_master(number, Message::Leave(session));
        }
        self.restart(number);
        self.sent += 1;
        let at = self.now + 100 + self.random.below(6_000);
        self.queue.insert((at, self.sent), (number, number, Message::Start));
    }
}
