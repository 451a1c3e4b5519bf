//! What the service has to answer over every table, whatever keeps it; and that two tables answer alike.

mod cases;
mod histories;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::LazyLock;

use swarmdex_protocols::index::{
    Granted, Offer, Refusal, RefusalCode, Returned, RevokeOutcome, Sequence, Session, ShareDigest, ShareSum, Verdict,
};
use swarmdex_protocols::{Certificate, ContentId, Entry, Keypair, Ledger, Name, PeerId, Statement, Tally, Version};

use super::memory::{Content, MemoryTable, Unsigned};
use super::*;
pub(crate) use cases::conforms;
pub(crate) use histories::{agree, steps};

/// What keeps a table that is tried.
pub(crate) trait Subject: Sized {
    /// What can go wrong in the table.
    type Error: Debug;
    /// The table, while it is lent.
    type Table<'a>: IndexTable<Error = Self::Error>
    where
        Self: 'a;

    /// Lends the table. What was written is undone unless `work` succeeds.
    fn lend<R, E>(&mut self, work: impl FnOnce(&mut Self::Table<'_>) -> Result<R, E>) -> Result<R, E>;
    /// All that the table holds.
    fn content(&mut self) -> Content;
    /// A bit of a row flips.
    fn damage(&mut self, name: &Name);
}

impl Subject for MemoryTable {
    type Error = std::convert::Infallible;
    type Table<'a> = Self;

    fn lend<R, E>(&mut self, work: impl FnOnce(&mut Self) -> Result<R, E>) -> Result<R, E> {
        let before = self.clone();
        work(self).inspect_err(|_| *self = before)
    }

    fn content(&mut self) -> Content {
        MemoryTable::content(self)
    }

    fn damage(&mut self, name: &Name) {
        MemoryTable::damage(self, name);
    }
}

const LIMITS: NameLimits = NameLimits { names_per_peer: 6, names_per_ip: 8, names: 12 };
const SLICES: Slices = Slices { evicted: 3, again: 2, except: 1 };
const NOON_MS: u64 = 1_800_000_000_000;

/// Peer ids are keys; making them takes long.
static IDS: LazyLock<[PeerId; 3]> =
    LazyLock::new(|| [(); 3].map(|()| Keypair::generate_ed25519().public().to_peer_id()));

/// An index over a table that is tried.
struct Index<S> {
    subject: S,
    service: Service<Unsigned>,
    at: Moment,
    /// What it said in the last request that it carried out.
    said: Vec<Statement>,
}

impl<S: Subject> Index<S> {
    fn new(subject: S) -> Self {
        let at = Moment { unix_ms: NOON_MS, random: 5, run: 3 };
        let mut index = Self { subject, service: Service::new(Unsigned, LIMITS), at, said: Vec::new() };
        index.restart();
        index
    }

    /// The same table in another run of the master.
    fn restart(&mut self) {
        self.at.run += 1;
        self.service = Service::new(Unsigned, LIMITS).with_slices(SLICES);
        let Self { subject, service, at, .. } = self;
        subject.lend(|table| service.open(table, *at)).unwrap();
    }

    fn write(&mut self, op: &WriteOp) -> Result<WriteOutcome, Refusal> {
        self.at.unix_ms += 1;
        let Self { subject, service, at, .. } = self;
        let outcome = subject.lend(|table| service.apply(table, op, *at));
        subject.lend(|table| service.finish(table)).unwrap();
        self.said = self.service.on_committed();
        outcome.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Table(error) => panic!("{error:?}"),
        })
    }

    fn join_with(&mut self, peer: PeerId, share: ShareSum, again: bool) -> (Session, bool, bool) {
        let ShareSum { entries, digest } = share;
        let op = WriteOp::Join { peer, addresses: Vec::new(), digest, entries, seen: Version::default(), again };
        match self.write(&op) {
            Ok(WriteOutcome::Joined { session, unchanged, again, .. }) => (session, unchanged, again),
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, peer: PeerId) -> Session {
        // Not what the index holds: the peer reports.
        self.join_with(peer, ShareSum { entries: 1, digest: ShareDigest::empty() }, false).0
    }

    fn announce(&mut self, peer: PeerId, offers: Vec<Offer>) -> Vec<Verdict> {
        match self.write(&announce(peer, offers, None, BTreeMap::new())) {
            Ok(WriteOutcome::Announced { verdicts, .. }) => verdicts,
            other => panic!("{other:?}"),
        }
    }

    /// Joins and announces names, each with its own content; what is granted then.
    fn share(&mut self, peer: PeerId, names: &[&str]) -> Vec<Entry> {
        self.join(peer);
        self.announce(peer, names.iter().map(|name| offer(name, name)).collect());
        names.iter().map(|name| self.entry(name).unwrap()).collect()
    }

    fn revoke(&mut self, peer: PeerId, name: &str) -> RevokeOutcome {
        match self.write(&WriteOp::Revoke { peer, names: vec![name.to_owned()] }) {
            Ok(WriteOutcome::Revoked { mut outcomes, .. }) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Frees all names of a peer, as many slices as that takes. How many they are.
    fn evict(&mut self, peer: PeerId) -> u64 {
        let mut all = 0;
        loop {
            match self.write(&WriteOp::Evict { peer }) {
                Ok(WriteOutcome::Evicted { names }) => all += names,
                other => panic!("{other:?}"),
            }
            if self.member(peer).is_none() {
                return all;
            }
        }
    }

    fn again(&mut self, peer: PeerId, session: Session) -> Result<Returned, Refusal> {
        let change = Box::new(WriteOp::Again { peer, neighbours: 0 });
        match self.write(&in_session(session, 1, change))? {
            WriteOutcome::Returned { returned, .. } => Ok(returned),
            other => panic!("{other:?}"),
        }
    }

    fn entry(&mut self, name: &str) -> Option<Entry> {
        self.subject.lend(|table| table.entry(&parse(name))).unwrap()
    }

    fn ended(&mut self, name: &str) -> Option<Version> {
        self.subject.lend(|table| table.ended(&parse(name))).unwrap()
    }

    fn member(&mut self, peer: PeerId) -> Option<MemberRow> {
        self.subject.lend(|table| table.member(&peer)).unwrap()
    }

    /// That what is counted is what is there.
    fn check_counts(&mut self) {
        let content = self.subject.content();
        for (peer, row) in &content.members {
            assert_eq!(
                row.held,
                sum(content.names.iter().map(|(entry, _)| entry).filter(|entry| entry.owner == *peer))
            );
        }
        let Totals { last, names, peers } = self.service.totals();
        assert_eq!((names, peers), (content.names.len() as u64, content.members.len() as u64));
        assert!(content.last == last || content.last == Version::default(), "{last:?}");
    }
}

fn parse(name: &str) -> Name {
    Name::parse(name).unwrap()
}

fn offer(name: &str, content: &str) -> Offer {
    Offer::new(name, ContentId::of(content.as_bytes()), content.len() as u64)
}

fn sum<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> ShareSum {
    let mut sum = ShareSum::default();
    entries.into_iter().for_each(|entry| sum.add(&entry.digest()));
    sum
}

fn announce(peer: PeerId, offers: Vec<Offer>, end: Option<Option<ShareSum>>, mirror: BTreeMap<Name, Tally>) -> WriteOp {
    WriteOp::Announce { peer, offers, neighbours: 0, last: end.is_some(), total: end.flatten(), mirror }
}

fn in_session(session: Session, sequence: u64, change: Box<WriteOp>) -> WriteOp {
    WriteOp::InSession { session, sequence: Sequence(sequence), change }
}

fn version(verdict: &Verdict) -> Version {
    match verdict {
        Verdict::Accepted { version, .. } => *version,
        other => panic!("{other:?}"),
    }
}

/// What a node of the mirror says.
fn tally(statements: impl IntoIterator<Item = Statement>, unix_ms: u64) -> Tally {
    let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
    for statement in statements {
        let _ = ledger.insert(statement, unix_ms);
    }
    tally.add(&ledger, unix_ms);
    tally
}

fn certificate(name: &str, owner: PeerId, version: Version, unix_ms: u64) -> Certificate {
    let (name, content) = (parse(name), ContentId::of(b"by the mirror"));
    let entry = Entry { name, content, size: 1, owner, version, attributes: None };
    Unsigned.certify(entry, unix_ms).unwrap()
}

fn granted(certificate: &Certificate) -> Offer {
    let Entry { name, content, size, version, .. } = &certificate.entry;
    let seal = certificate.seal.clone();
    Offer { granted: Some(Granted { version: *version, seal }), ..Offer::new(name.as_str(), *content, *size) }
}

#[test]
fn the_table_in_memory_conforms() {
    conforms(MemoryTable::default);
}
