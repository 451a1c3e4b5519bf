//! Looks at everything that the index of a simulated master does: whether anybody may complain.

use super::*;

/// What the index did so far, as an onlooker keeps it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Every certificate that was ever signed: one owner and one content of a name at one version, for ever.
    pub(super) issued: BTreeMap<(Name, Version), (PeerId, ContentId)>,
    /// The latest version that was signed for a name since the disk was new.
    latest: BTreeMap<Name, Version>,
    /// Those of them that end it.
    ended: BTreeMap<Name, Version>,
    /// The session of each member, and what was granted to it in it.
    granted: BTreeMap<PeerId, (Session, BTreeSet<Name>)>,
    /// When each member was last heard, or got a lease without being heard.
    heard: BTreeMap<PeerId, u64>,
    /// The last change of each session, since the master was started.
    changed: BTreeMap<PeerId, (Session, u64)>,
}

impl Watch {
    pub(super) fn on_master_started(&mut self, now: u64) {
        self.granted.clear();
        self.changed.clear();
        self.heard.values_mut().for_each(|heard| *heard = now);
    }

    /// A peer is heard, or gets a lease to come back in.
    pub(super) fn on_alive(&mut self, peer: &PeerId, now: u64) {
        self.heard.insert(*peer, now);
    }

    /// A peer leaves in order.
    pub(super) fn on_left(&mut self, peer: &PeerId) {
        self.heard.remove(peer);
    }

    /// What comes then leaps above what was, as far as anybody shows it.
    pub(super) fn on_index_lost(&mut self) {
        self.latest.clear();
        self.ended.clear();
    }

    /// The master says something.
    pub(super) fn on_statement(&mut self, statement: &Statement) {
        let (name, version) = (statement.name(), statement.version());
        let latest = self.latest.entry(name.clone()).or_default();
        match statement {
            Statement::Certificate(Certificate { entry, .. }) => {
                let key = (name.clone(), version);
                let again = self.issued.contains_key(&key);
                let issued = *self.issued.entry(key).or_insert((entry.owner, entry.content));
                assert_eq!(issued, (entry.owner, entry.content), "two owners of {name} at {version:?}");
                assert!(again || version > *latest, "{name} is granted at {version:?}, not above {latest:?}");
                let ended = self.ended.get(name).copied().unwrap_or_default();
                assert!(version > ended, "{name} is granted at {version:?}, not above its end at {ended:?}");
            }
            _ => {
                assert!(version > *latest, "{name} ends at {version:?}, not above {latest:?}");
                self.ended.insert(name.clone(), version);
            }
        }
        *latest = version.max(*latest);
    }

    /// The lease of a peer is over: nothing was heard of it for so long.
    pub(super) fn on_lease_over(&mut self, peer: &PeerId, now: u64) {
        let silent = self.heard.remove(peer).map(|heard| now - heard);
        assert!(silent.is_none_or(|silent| silent >= LEASE_MS), "a lease is over after {silent:?} ms");
    }

    /// Somebody changes a row of the index by hand, or a bit of it flips.
    pub(super) fn on_spoiled(&mut self, name: &Name) {
        self.forget(name);
    }

    /// A name stands for something else: what was granted before counts no more.
    fn forget(&mut self, name: &Name) {
        for (_, granted) in self.granted.values_mut() {
            granted.remove(name);
        }
    }

    /// A change of a session was made.
    pub(super) fn on_changed(&mut self, peer: PeerId, session: Session, sequence: u64) {
        let before = self.changed.insert(peer, (session, sequence));
        let late = before.is_some_and(|before| before > (session, sequence));
        assert!(!late, "change {sequence} of {session:?} is made after {before:?}");
    }

    /// The index carried out a request.
    pub(super) fn on_written(
        &mut self,
        before: &MemoryTable,
        after: &MemoryTable,
        op: &WriteOp,
        outcome: &Result<WriteOutcome, Refusal>,
    ) {
        let op = if let WriteOp::InSession { change, .. } = op { change.as_ref() } else { op };
        if let (WriteOp::Join { peer, .. }, Ok(WriteOutcome::Joined { session, .. })) = (op, outcome) {
            self.granted.insert(*peer, (*session, BTreeSet::new()));
        }
        let rows = |table: &MemoryTable| {
            table
                .rows()
                .map(|(entry, session)| (entry.name.clone(), (entry.clone(), session)))
                .collect::<BTreeMap<_, _>>()
        };
        let (held, now) = (rows(before), rows(after));
        for (name, (entry, session)) in &now {
            let was = held.get(name);
            if was.map(|(entry, _)| entry) != Some(entry) {
                self.check_put(before, op, was.map(|(entry, _)| entry), entry);
                self.forget(name);
            }
            if let Some((of, granted)) = self.granted.get_mut(&entry.owner)
                && of == session
            {
                granted.insert(name.clone());
            }
        }
        for (name, (entry, _)) in held.iter().filter(|(name, _)| !now.contains_key(*name)) {
            self.check_freed(op, entry);
            if let Some((_, granted)) = self.granted.get_mut(&entry.owner) {
                granted.remove(name);
            }
            let Ok(ended) = after.ended(name);
            assert!(ended > Some(entry.version), "{name} of {:?} ends at {ended:?}", entry.version);
        }
        check_counts(before, after);
    }

    /// Something is put in the place of what a name stood for.
    fn check_put(&self, before: &MemoryTable, op: &WriteOp, was: Option<&Entry>, entry: &Entry) {
        let Entry { name, owner, version, .. } = entry;
        let Ok(ended) = before.ended(name);
        assert!(ended < Some(*version), "{name} comes at {version:?}, not above its end at {ended:?}");
        let offer = match op {
            WriteOp::Announce { offers, .. } => offers.iter().rfind(|offer| offer.name == name.as_str()),
            WriteOp::Again { .. } => None,
            other => panic!("{name} is put by {other:?}"),
        };
        match was {
            Some(was) => {
                assert!(*version > was.version, "{name} goes from {:?} to {version:?}", was.version);
                assert_eq!(*owner, op.peer(), "{name} is put by another");
                let shown = offer.and_then(|offer| offer.granted.as_ref()).map(|granted| granted.version);
                assert!(was.owner == *owner || shown > Some(was.version), "{name} is taken from its owner");
            }
            // What others hold by the DHT comes only as an answer to an offer.
            None => assert!(offer.is_some() || *owner == op.peer(), "{name} of another is put"),
        }
    }

    /// A name was somebody's, and is nobody's.
    fn check_freed(&self, op: &WriteOp, entry: &Entry) {
        let Entry { name, owner, .. } = entry;
        assert_eq!(*owner, op.peer(), "{name} is freed for another");
        match op {
            WriteOp::Revoke { names, .. } => assert!(names.iter().any(|given| given == name.as_str()), "{name}"),
            // Its lease is over, or it left: that was looked at before.
            WriteOp::Evict { .. } => {}
            WriteOp::Announce { last: true, .. } => {
                let granted = self.granted.get(owner).is_some_and(|(_, granted)| granted.contains(name));
                assert!(!granted, "{name} is freed although it was granted in this session");
            }
            other => panic!("{name} is freed by {other:?}"),
        }
    }
}

/// Members of whom the right count was kept are counted right: only a change by hand puts that out.
fn check_counts(before: &MemoryTable, after: &MemoryTable) {
    let was: BTreeSet<_> = before.corrections().into_iter().map(|correction| correction.peer).collect();
    for correction in after.corrections() {
        let right = before.members().any(|(peer, _)| *peer == correction.peer) && !was.contains(&correction.peer);
        assert!(!right, "the count of a member goes astray: {correction:?}");
    }
}
