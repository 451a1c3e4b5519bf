//! The rules of names, by themselves and over histories by chance.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;
use swarmdex_protocols::ContentId;
use swarmdex_protocols::index::Session;

use super::*;
use crate::state::index::memory::MemoryTable;
use crate::state::index::{Ending, IndexTable};

/// The index in memory, with what is counted beside it.
#[derive(Debug, Default, Clone)]
struct Maps {
    table: MemoryTable,
    last: Version,
    neighbours: u64,
}

impl IndexView for Maps {
    type Error = Infallible;

    fn entry(&self, name: &Name) -> Result<Option<Entry>, Infallible> {
        self.table.entry(name)
    }

    fn names_of(&self, owner: &PeerId) -> Result<u64, Infallible> {
        Ok(self.table.entries(owner).count() as u64)
    }

    fn names_of_neighbours(&self, _: &PeerId) -> Result<u64, Infallible> {
        Ok(self.neighbours)
    }

    fn names(&self) -> Result<u64, Infallible> {
        Ok(self.table.rows().count() as u64)
    }

    fn last_version(&self) -> Result<Version, Infallible> {
        Ok(self.last)
    }

    fn ended(&self, name: &Name) -> Result<Option<Version>, Infallible> {
        self.table.ended(name)
    }

    fn damaged(&self, name: &Name) -> Result<Option<PeerId>, Infallible> {
        self.table.damaged(name)
    }

    fn reported(&self, _: &PeerId) -> Result<bool, Infallible> {
        Ok(false)
    }
}

impl Maps {
    fn put(&mut self, entry: Entry) {
        let Ok(before) = self.table.take_up(&entry.name);
        let Ok(()) = self.table.put(&entry, Session(1), before.is_none());
        self.rise(entry.version);
    }

    fn free(&mut self, freed: Freed) {
        let Freed { name, owner, version, evicted } = freed;
        let Ok(Some(before)) = self.table.take_up(&name) else { panic!("{name} is free") };
        let Ok(()) = self.table.free(&before, &owner, Ending { version, unix_ms: 0, evicted });
        self.rise(version);
    }

    fn rise(&mut self, version: Version) {
        assert!(version > self.last, "versions rise");
        self.last = version;
    }
}

#[derive(Debug, Clone)]
enum Step {
    Announce { peer: usize, name: u8, content: u8 },
    Revoke { peer: usize, name: u8 },
    Evict { peer: usize },
    Clock(i32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, 0..5u8, 0..3u8).prop_map(|(peer, name, content)| Step::Announce { peer, name, content }),
        2 => (0..3usize, 0..5u8).prop_map(|(peer, name)| Step::Revoke { peer, name }),
        1 => (0..3usize).prop_map(|peer| Step::Evict { peer }),
        1 => (-3_600_000..3_600_000i32).prop_map(Step::Clock),
    ]
}

const LIMITS: NameLimits = NameLimits { names_per_peer: 4, names_per_ip: 6, names: 9 };

fn at(unix_ms: u64) -> Moment {
    Moment { unix_ms, random: 0, run: 7 }
}

fn offer(name: &str, content: u8) -> Offer {
    Offer::new(name, ContentId::of(&[content]), 1)
}

#[test]
fn a_later_grant_counts_more_than_an_index_that_went_back() {
    let [holder, owner] = [PeerId::random(), PeerId::random()];
    let name = Name::parse("a").unwrap();
    let entry = |owner, version| {
        let (content, name) = (ContentId::of(&[0]), name.clone());
        Entry { name, content, size: 1, owner, version: Version(version), attributes: None }
    };
    let mut index = Maps::default();
    index.put(entry(holder, 10));
    index.last = Version(12);
    let ask = |owner, granted: Option<u64>| {
        let evidence = Evidence { granted: granted.map(Version), ..Evidence::default() };
        announce(&index, owner, &offer("a", 0), &evidence, &LIMITS, at(0)).unwrap()
    };
    for earlier in [None, Some(9), Some(10)] {
        assert_eq!(ask(owner, earlier), Announced::Conflict(holder));
        assert_eq!(ask(holder, earlier), Announced::Granted { entry: Box::new(entry(holder, 10)), new: false });
    }
    // Granted anew, above all that was given.
    for asks in [owner, holder] {
        let Announced::Granted { entry, new: true } = ask(asks, Some(20)) else { panic!("it was granted later") };
        assert!(entry.owner == asks && entry.version > Version(20), "{entry:?}");
    }
}

#[test]
fn names_of_one_address_are_bounded_whatever_peers_they_are_of() {
    let (mut index, peer) = (Maps { neighbours: LIMITS.names_per_ip - 1, ..Maps::default() }, PeerId::random());
    let mut ask = |name: &str| {
        let said = announce(&index, peer, &offer(name, 0), &Evidence::default(), &LIMITS, at(0)).unwrap();
        if let Announced::Granted { entry, new: true } = &said {
            index.put((**entry).clone());
        }
        said
    };
    assert!(matches!(ask("a"), Announced::Granted { .. }));
    let Announced::Refused(refusal) = ask("b") else { panic!("there is no room") };
    assert!(refusal.code == RefusalCode::Quota && refusal.reason.contains("one address"), "{refusal:?}");
    assert!(matches!(ask("a"), Announced::Granted { new: false, .. }), "what is held stays");
}

#[test]
fn versions_of_two_runs_never_meet() {
    let [one, other] = [3, 7].map(|run| Moment { unix_ms: 1_700_000_000_000, random: 0, run });
    let (mut last, mut given) = (Version(5), std::collections::BTreeSet::new());
    for number in 0..1000 {
        let moment = if number % 3 == 0 { one } else { other };
        let version = moment.version_after(last);
        assert!(version > last && version.0 % swarmdex_protocols::statement::RUNS == moment.run);
        assert!(given.insert(version));
        last = version;
    }
}

proptest! {
    #[test]
    fn a_name_has_one_owner_and_versions_rise(steps in prop::collection::vec(step(), 0..80)) {
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        let mut index = Maps::default();
        // The model: who holds a name with which content.
        let mut model = BTreeMap::<String, (usize, u8)>::new();
        let mut unix_ms = 1_700_000_000_000i64;
        for step in steps {
            match step {
                Step::Clock(jump) => unix_ms += i64::from(jump),
                Step::Announce { peer, name, content } => {
                    let text = format!("name {name}");
                    let said = announce(&index, peers[peer], &offer(&text, content), &Evidence::default(), &LIMITS, at(unix_ms as u64)).unwrap();
                    let held = model.get(&text).copied();
                    match said {
                        Announced::Granted { entry, new } => {
                            prop_assert!(held.is_none_or(|(owner, _)| owner == peer));
                            prop_assert_eq!(new, held != Some((peer, content)));
                            prop_assert_eq!(entry.owner, peers[peer]);
                            if new {
                                index.put(*entry);
                            }
                            model.insert(text, (peer, content));
                        }
                        Announced::Adopt(entry) => prop_assert!(false, "{:?} out of nothing", entry),
                        Announced::Conflict(owner) => {
                            prop_assert_eq!(held.map(|(owner, _)| peers[owner]), Some(owner));
                            prop_assert_ne!(owner, peers[peer]);
                        }
                        Announced::Refused(refusal) => {
                            prop_assert_eq!(refusal.code, RefusalCode::Quota);
                            let of_peer = model.values().filter(|(owner, _)| *owner == peer).count() as u64;
                            prop_assert!(of_peer >= LIMITS.names_per_peer || model.len() as u64 >= LIMITS.names);
                        }
                    }
                }
                Step::Revoke { peer, name } => {
                    let text = format!("name {name}");
                    let (said, change) = revoke(&index, peers[peer], &text, at(unix_ms as u64)).unwrap();
                    match model.get(&text).copied() {
                        None => prop_assert_eq!(said, RevokeOutcome::NotHeld),
                        Some((owner, _)) if owner != peer => {
                            prop_assert_eq!(said, RevokeOutcome::Conflict { owner: peers[owner] });
                            prop_assert_eq!(change, None);
                        }
                        Some(_) => {
                            index.free(change.unwrap());
                            model.remove(&text);
                        }
                    }
                }
                Step::Evict { peer } => {
                    let names: Vec<_> =
                        index.table.entries(&peers[peer]).map(|entry| entry.name.clone()).collect();
                    for name in names {
                        let change = evict(name, peers[peer], index.last, at(unix_ms as u64));
                        index.free(change);
                    }
                    model.retain(|_, (owner, _)| *owner != peer);
                }
            }
            let held: BTreeMap<_, _> = index.table.rows().map(|(entry, _)| (entry.name.to_string(), (entry.owner, entry.content))).collect();
            let meant: BTreeMap<_, _> = model.iter().map(|(name, (owner, content))| (name.clone(), (peers[*owner], ContentId::of(&[*content])))).collect();
            prop_assert_eq!(held, meant);
        }
    }
}

#[test]
fn bad_names_and_sizes_are_refused_for_themselves() {
    let index = Maps::default();
    let peer = PeerId::random();
    for name in ["", "../../etc/passwd", "/abs", "C:\\x", "NUL", "a\nb"] {
        let said = announce(&index, peer, &offer(name, 0), &Evidence::default(), &LIMITS, at(0)).unwrap();
        assert!(matches!(said, Announced::Refused(refusal) if refusal.code == RefusalCode::InvalidName), "{name}");
    }
    let huge = Offer { size: 1 << 63, ..offer("a", 0) };
    assert!(matches!(
        announce(&index, peer, &huge, &Evidence::default(), &LIMITS, at(0)).unwrap(),
        Announced::Refused(_)
    ));
}

#[test]
fn a_quota_says_which_bound_it_is() {
    let mut index = Maps::default();
    let peer = PeerId::random();
    let mut said = Vec::new();
    for number in 0..5 {
        match announce(&index, peer, &offer(&format!("{number}x"), 0), &Evidence::default(), &LIMITS, at(0)).unwrap() {
            Announced::Granted { entry, .. } => index.put(*entry),
            Announced::Refused(refusal) => said.push(refusal.reason),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("one peer"), "{said:?}");
}
