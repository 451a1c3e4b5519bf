//! The rules of names: who may hold one, and at which version.
//!
//! Rules decide, the caller applies: a decision is a list of changes and an answer, made against
//! a view of the index as it is inside the transaction that will hold the changes.

use swarmdex_protocols::index::{Offer, Refusal, RefusalCode, Revocation};
use swarmdex_protocols::limits::MAX_FILE_BYTES;
use swarmdex_protocols::statement::Rank;
use swarmdex_protocols::{Entry, Name, PeerId, SignedAttributes, Statement, Tally, Version};

/// The index as a rule sees it.
pub trait IndexView {
    /// What can go wrong when the index is read.
    type Error;

    /// The entry of a name.
    fn entry(&self, name: &Name) -> Result<Option<Entry>, Self::Error>;
    /// How many names a peer holds.
    fn names_of(&self, owner: &PeerId) -> Result<u64, Self::Error>;
    /// How many names the other members of a peer's address hold.
    fn names_of_neighbours(&self, owner: &PeerId) -> Result<u64, Self::Error>;
    /// How many names there are.
    fn names(&self) -> Result<u64, Self::Error>;
    /// The highest version that was ever given.
    fn last_version(&self) -> Result<Version, Self::Error>;
    /// The version at which a free name was last given up, as far as this index remembers.
    fn ended(&self, name: &Name) -> Result<Option<Version>, Self::Error>;
    /// The member to whom a row belongs that is damaged: nobody else gets its name. `None` if there is no such row.
    fn damaged(&self, name: &Name) -> Result<Option<PeerId>, Self::Error>;
    /// Whether a peer has told its whole share since it joined: what is not in the index it does not hold.
    fn reported(&self, peer: &PeerId) -> Result<bool, Self::Error>;
}

/// Bounds of the index.
#[derive(Debug, Clone, Copy)]
pub struct NameLimits {
    /// Names that one peer may hold.
    pub names_per_peer: u64,
    /// Names that the members of one address may hold together.
    pub names_per_ip: u64,
    /// Names in all.
    pub names: u64,
}

/// A change of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The name stands for this entry, whatever it stood for before.
    Put(Entry),
    /// The name is given up by its owner at this version.
    Free {
        /// The name.
        name: Name,
        /// Who held it.
        owner: PeerId,
        /// Version of the tombstone.
        version: Version,
        /// Whether the owner was evicted, or revoked the name itself.
        evicted: bool,
    },
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// The name is the peer's, by this entry.
    Granted {
        /// The entry.
        entry: Box<Entry>,
        /// Whether it has to be put into the index, maybe in place of somebody else's; if not, it is there.
        new: bool,
    },
    /// Another holds the name.
    Conflict(PeerId),
    /// Another holds the name by what was found outside this index; its entry has to be put into it.
    Adopt(Box<Entry>),
    /// The offer cannot be granted to anybody.
    Refused(Refusal),
}

/// When something is decided.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The wall clock in milliseconds since 1970.
    pub unix_ms: u64,
    /// A random number, for leaps of versions.
    pub random: u64,
    /// In which of the [`RUNS`](swarmdex_protocols::statement::RUNS) ways this run of the master gives versions.
    pub run: u64,
}

impl Moment {
    /// The version to give after another.
    pub fn version_after(&self, last: Version) -> Version {
        last.next_of(self.run, self.unix_ms)
    }
}

/// What was found outside the index about a name that an offer is for.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What the mirror says.
    pub mirror: Tally,
    /// The version of the offer's own certificate, checked.
    pub granted: Option<Version>,
}

/// Decides on one offer of `owner`. `evidence` is what is known beyond the index, which may have lost its
/// disk, and was away while names were claimed.
pub fn announce<V: IndexView>(
    view: &V,
    owner: PeerId,
    offer: &Offer,
    evidence: &Evidence,
    limits: &NameLimits,
    moment: Moment,
) -> Result<Announced, V::Error> {
    let refused = |code, reason: String| Ok(Announced::Refused(Refusal::new(code, reason)));
    let name = match Name::parse(&offer.name) {
        Ok(name) => name,
        Err(error) => return refused(RefusalCode::InvalidName, error.to_string()),
    };
    if offer.size > MAX_FILE_BYTES {
        let reason = format!("a size of {} bytes; at most {MAX_FILE_BYTES} are allowed", offer.size);
        return refused(RefusalCode::Malformed, reason);
    }
    match view.entry(&name)? {
        // Unless the peer shows that the name was granted to it later: this index went back to an older copy of itself.
        Some(entry) if entry.owner != owner && !is_overtaken(&entry, evidence) => {
            return Ok(Announced::Conflict(entry.owner));
        }
        Some(entry) if entry.owner != owner => {}
        // Unless something later was said of it: by this master before it lost its memory, or by the owner, who gave
        // the name up and took it again while no master could be told. Then the name has to stand above that.
        Some(entry)
            if entry.content == offer.content
                && entry.size == offer.size
                && says_the_same(&entry, offer)
                && evidence.mirror.rank() <= Some(Rank::certificate(entry.version))
                && evidence.granted.is_none_or(|granted| granted <= entry.version) =>
        {
            return Ok(Announced::Granted { entry: Box::new(entry), new: false });
        }
        Some(_) => {}
        None => {
            // Its owner proves that it is its own, or gets it back when it announces it.
            if let Some(by) = view.damaged(&name)?
                && by != owner
                && evidence.granted.is_none()
            {
                return refused(
                    RefusalCode::Storage,
                    format!("the master's record of this name is damaged; it belonged to {by}"),
                );
            }
            let (of_peer, all) = (view.names_of(&owner)?, view.names()?);
            if all >= limits.names {
                return refused(RefusalCode::Quota, format!("the index holds {all} names, the most that it takes"));
            }
            if let Some(entry) = precedent(view.ended(&name)?, owner, evidence)
                // What that peer gave up since, it would not get rid of.
                && !view.reported(&entry.owner)?
            {
                let version = next_version(view, evidence, moment)?;
                return Ok(Announced::Adopt(Box::new(Entry { version, ..entry.clone() })));
            }
            if of_peer >= limits.names_per_peer {
                let reason = format!("this peer holds {of_peer} names, the most that one peer may hold");
                return refused(RefusalCode::Quota, reason);
            }
            if of_peer + view.names_of_neighbours(&owner)? >= limits.names_per_ip {
                let most = limits.names_per_ip;
                let reason =
                    format!("the members of this address hold {most} names, the most that one address may hold");
                return refused(RefusalCode::Quota, reason);
            }
        }
    }
    let version = next_version(view, evidence, moment)?;
    let (content, size, attributes) = (offer.content, offer.size, offer.attributes.clone());
    let entry = Entry { name, content, size, owner, version, attributes };
    Ok(Announced::Granted { entry: Box::new(entry), new: true })
}

/// Whether a later grant to somebody else is shown, of which nobody knows an end.
fn is_overtaken(entry: &Entry, evidence: &Evidence) -> bool {
    let known = evidence.mirror.settled().map(Statement::version).unwrap_or_default();
    evidence.granted.is_some_and(|granted| granted > entry.version && granted >= known)
}

/// Whether an offer says nothing else of the file than its entry; a peer that does not know of attributes says nothing.
fn says_the_same(entry: &Entry, offer: &Offer) -> bool {
    let said = |signed: &Option<Box<SignedAttributes>>| signed.as_ref().map(|signed| signed.said());
    offer.attributes.is_none() || said(&entry.attributes) == said(&offer.attributes)
}

/// A version above all that this index gave, and above what it gave before it lost its memory.
fn next_version<V: IndexView>(view: &V, evidence: &Evidence, moment: Moment) -> Result<Version, V::Error> {
    let mirrored = evidence.mirror.settled().map(Statement::version).unwrap_or_default();
    let seen = mirrored.max(evidence.granted.unwrap_or_default());
    Ok(moment.version_after(after(view.last_version()?, seen, moment.random)))
}

/// The version to go on from when `seen` was given by this master: if that is news, it has forgotten, and leaps.
pub fn after(last: Version, seen: Version, random: u64) -> Version {
    if seen > last { seen.leap(random) } else { last }
}

/// Who else has a name that the index does not know, by what was found outside: by a certificate that nothing ended,
/// or else by the claim that most nodes hold. `None` if the offer's owner may have it.
///
/// What comes back so is certified anew, at a new version: of what else was said of the name before this master
/// lost its memory, some may come to light later.
fn precedent(ended: Option<Version>, owner: PeerId, evidence: &Evidence) -> Option<&Entry> {
    let ended = ended.unwrap_or_default();
    let mirrored = evidence.mirror.settled();
    let over = mirrored.map(Statement::version).unwrap_or_default().max(ended);
    if evidence.granted.is_some_and(|granted| granted > over) {
        return None;
    }
    if let Some(Statement::Certificate(certificate)) = mirrored
        && certificate.entry.version > ended
    {
        return Some(&certificate.entry).filter(|entry| entry.owner != owner);
    }
    let claim = evidence.mirror.claim().filter(|claim| claim.base >= ended)?;
    Some(&claim.entry).filter(|entry| entry.owner != owner)
}

/// Decides on the revocation of one name by `owner`.
pub fn revoke<V: IndexView>(
    view: &V,
    owner: PeerId,
    name: &str,
    moment: Moment,
) -> Result<(Revocation, Option<Change>), V::Error> {
    let name = match Name::parse(name) {
        Ok(name) => name,
        Err(error) => {
            let refusal = Refusal::new(RefusalCode::InvalidName, error.to_string());
            return Ok((Revocation::Refused(refusal), None));
        }
    };
    match view.entry(&name)? {
        None => Ok((Revocation::NotHeld, None)),
        Some(entry) if entry.owner != owner => Ok((Revocation::Conflict { owner: entry.owner }, None)),
        Some(_) => {
            let version = moment.version_after(view.last_version()?);
            let change = Change::Free { name, owner, version, evicted: false };
            Ok((Revocation::Revoked { version }, Some(change)))
        }
    }
}

/// The change that frees one name of an evicted peer.
pub fn evict(name: Name, owner: PeerId, last: Version, moment: Moment) -> Change {
    Change::Free { name, owner, version: moment.version_after(last), evicted: true }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;
    use swarmdex_protocols::ContentId;

    use super::*;

    /// The index as maps.
    #[derive(Debug, Default, Clone)]
    struct Maps {
        entries: BTreeMap<Name, Entry>,
        ended: BTreeMap<Name, Version>,
        last: Version,
        neighbours: u64,
    }

    impl IndexView for Maps {
        type Error = Infallible;

        fn entry(&self, name: &Name) -> Result<Option<Entry>, Infallible> {
            Ok(self.entries.get(name).cloned())
        }

        fn names_of(&self, owner: &PeerId) -> Result<u64, Infallible> {
            Ok(self.entries.values().filter(|entry| entry.owner == *owner).count() as u64)
        }

        fn names_of_neighbours(&self, _: &PeerId) -> Result<u64, Infallible> {
            Ok(self.neighbours)
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

        fn damaged(&self, _: &Name) -> Result<Option<PeerId>, Infallible> {
            Ok(None)
        }

        fn reported(&self, _: &PeerId) -> Result<bool, Infallible> {
            Ok(false)
        }
    }

    impl Maps {
        fn apply(&mut self, change: Change) {
            let version = match change {
                Change::Put(entry) => {
                    let version = entry.version;
                    self.entries.insert(entry.name.clone(), entry);
                    version
                }
                Change::Free { name, version, .. } => {
                    self.entries.remove(&name);
                    self.ended.insert(name, version);
                    version
                }
            };
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
        let index = Maps { entries: [(name.clone(), entry(holder, 10))].into(), last: Version(12), ..Maps::default() };
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
                index.apply(Change::Put((**entry).clone()));
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
                                    index.apply(Change::Put(*entry));
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
                            None => prop_assert_eq!(said, Revocation::NotHeld),
                            Some((owner, _)) if owner != peer => {
                                prop_assert_eq!(said, Revocation::Conflict { owner: peers[owner] });
                                prop_assert_eq!(change, None);
                            }
                            Some(_) => {
                                index.apply(change.unwrap());
                                model.remove(&text);
                            }
                        }
                    }
                    Step::Evict { peer } => {
                        let names: Vec<_> =
                            index.entries.values().filter(|entry| entry.owner == peers[peer]).map(|entry| entry.name.clone()).collect();
                        for name in names {
                            let change = evict(name, peers[peer], index.last, at(unix_ms as u64));
                            index.apply(change);
                        }
                        model.retain(|_, (owner, _)| *owner != peer);
                    }
                }
                let held: BTreeMap<_, _> = index.entries.iter().map(|(name, entry)| (name.to_string(), (entry.owner, entry.content))).collect();
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
            match announce(&index, peer, &offer(&format!("{number}x"), 0), &Evidence::default(), &LIMITS, at(0))
                .unwrap()
            {
                Announced::Granted { entry, .. } => index.apply(Change::Put(*entry)),
                Announced::Refused(refusal) => said.push(refusal.reason),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("one peer"), "{said:?}");
    }
}
