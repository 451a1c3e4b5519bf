//! Names of members that have not been heard since this master started. They may have given names up while it was away,
//! told the other nodes so, and be gone themselves. So before it confirms one of their names it asks the DHT.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use swarmdex_protocols::statement::Rank;
use swarmdex_protocols::{Statement, Tally};

use super::returning::ACQUAINTED;
use super::*;

/// How often an answer is read anew because names in it were over.
const ROUNDS: usize = 3;

/// Members from before the start of which nothing was heard.
#[derive(Debug, Default)]
pub(super) struct Absent(Arc<BTreeSet<PeerId>>);

impl Absent {
    /// All that the index knew when the master started.
    pub(super) fn new(known: impl IntoIterator<Item = PeerId>) -> Self {
        Self(Arc::new(known.into_iter().collect()))
    }

    /// It joined, or is no member any more: what it holds is settled with itself.
    pub(super) fn on_back(&mut self, peer: &PeerId) {
        if self.0.contains(peer) {
            Arc::make_mut(&mut self.0).remove(peer);
        }
    }
}

impl Master {
    /// Answers a question about names, those of absent members after a look at the DHT.
    pub(super) fn read_checked(&self, peer: PeerId, op: ReadOp) -> Outcome<IndexStep> {
        // Members that are back, and have more to announce than fits one message.
        let untold = self.returning.untold();
        let absent = match untold.is_subset(&self.absent.0) {
            true => self.absent.0.clone(),
            false => Arc::new(self.absent.0.union(&untold).copied().collect()),
        };
        let precedents = self.precedents.clone().filter(|_| !absent.is_empty());
        let Some(precedents) = precedents else { return self.read(peer, op) };
        let (store, acquainted) = (self.store.clone(), self.began + ACQUAINTED);
        let reading = async move {
            let mut holdings = BTreeMap::new();
            let mut outcome = store.try_read(op.clone())?.await.map_err(stopping)??;
            for _ in 0..ROUNDS {
                let granted = names_of(&outcome, &absent);
                if granted.is_empty() {
                    break;
                }
                // Whoever asks the master about such a name asks the DHT meanwhile.
                tokio::time::sleep_until(acquainted.into()).await;
                let known = precedents.of(granted.into_keys().collect()).await;
                // Their owners may have come back meanwhile, and given them up themselves.
                outcome = store.try_read(op.clone())?.await.map_err(stopping)??;
                let over = overtaken(&names_of(&outcome, &absent), &known);
                if over.is_empty() {
                    break;
                }
                for (owner, names) in over {
                    let count = names.len();
                    let written =
                        store.try_write(WriteOp::Overtaken { peer: owner, names })?.await.map_err(stopping)??;
                    if let WriteOutcome::Revoked { holding, .. } = written {
                        tracing::info!(%owner, names = count, "a peer that is away had given up names while this master was: they are free");
                        holdings.insert(owner, holding);
                    }
                }
                outcome = store.try_read(op.clone())?.await.map_err(stopping)??;
            }
            Ok(DoneKind::Checked(Box::new(outcome), holdings))
        };
        Ok(IndexStep::Wait(reading.map(move |outcome| Done { peer, outcome }).boxed()))
    }
}

/// Names in an answer whose owners are absent, with their owners and the versions at which they were granted.
fn names_of(outcome: &ReadOutcome, absent: &BTreeSet<PeerId>) -> BTreeMap<Name, (PeerId, Version)> {
    let entries: Vec<_> = match outcome {
        ReadOutcome::Found { certificate, .. } => vec![&certificate.entry],
        ReadOutcome::Page(page) => page.entries.iter().collect(),
        _ => Vec::new(),
    };
    let of_absent = entries.into_iter().filter(|entry| absent.contains(&entry.owner));
    of_absent.map(|entry| (entry.name.clone(), (entry.owner, entry.version))).collect()
}

/// Names, by owner, of which the DHT has an end that is later than the grant in the index.
fn overtaken(
    granted: &BTreeMap<Name, (PeerId, Version)>,
    known: &BTreeMap<Name, Tally>,
) -> BTreeMap<PeerId, Vec<(Name, Version)>> {
    let mut over = BTreeMap::<_, Vec<_>>::new();
    for (name, (owner, version)) in granted {
        let settled = known.get(name).and_then(Tally::settled);
        let ended = settled.is_some_and(|settled| {
            let ends = matches!(settled, Statement::Revocation(_) | Statement::Tombstone(_));
            ends && settled.rank() > Some(Rank::certificate(*version))
        });
        if ended {
            over.entry(*owner).or_default().push((name.clone(), *version));
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::statement::Revocation;
    use swarmdex_protocols::{ContentId, Entry, Keypair, Ledger};

    use super::*;

    #[test]
    fn a_name_is_over_only_by_a_later_end_that_the_dht_has() {
        let (master, owner, network) = (Keypair::generate_ed25519(), Keypair::generate_ed25519(), Network::default());
        let peer = owner.public().to_peer_id();
        let certificate = |name: &str, version| {
            let name = Name::parse(name).unwrap();
            let entry = Entry {
                name,
                content: ContentId::of(b"x"),
                size: 1,
                owner: peer,
                version: Version(version),
                attributes: None,
            };
            Certificate::sign(entry, &network, &master, 1000).unwrap()
        };
        let tally = |statement: Statement| {
            let (mut ledger, mut tally) = (Ledger::default(), Tally::default());
            ledger.insert(statement, 1000).unwrap();
            tally.add(&ledger, 1000);
            tally
        };
        let revoked = |name: &str, version| {
            let revocation = Revocation::sign(certificate(name, version), &network, &owner, 1000).unwrap();
            tally(Statement::Revocation(revocation))
        };
        let name = |text: &str| Name::parse(text).unwrap();
        let granted = ["gone", "stands", "unknown", "again"].map(|text| (name(text), (peer, Version(5)))).into();
        let known = BTreeMap::from([
            (name("gone"), revoked("gone", 5)),
            (name("stands"), tally(Statement::Certificate(certificate("stands", 5)))),
            // It was granted again since.
            (name("again"), revoked("again", 4)),
        ]);
        assert_eq!(overtaken(&granted, &known), BTreeMap::from([(peer, vec![(name("gone"), Version(5))])]));
    }

    #[test]
    fn only_names_of_absent_members_are_looked_up() {
        let [away, here] = [PeerId::random(), PeerId::random()];
        let mut absent = Absent::new([away, here]);
        absent.on_back(&here);
        let entry = |name: &str, owner| {
            let name = Name::parse(name).unwrap();
            Entry { name, content: ContentId::of(b"x"), size: 1, owner, version: Version(1), attributes: None }
        };
        let page = ReadOutcome::Page(Page { entries: vec![entry("a", away), entry("b", here)], next: None });
        assert_eq!(names_of(&page, &absent.0).into_keys().collect::<Vec<_>>(), [Name::parse("a").unwrap()]);
        assert!(names_of(&ReadOutcome::NotFound, &absent.0).is_empty());
    }
}
