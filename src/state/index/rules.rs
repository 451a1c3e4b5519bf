//! The rules of names: who may hold one, and at which version.
//!
//! Rules decide, the caller applies. A decision is a list of changes and an answer. It is made against the index as it
//! is inside the transaction that will hold the changes.

use swarmdex_protocols::index::{Offer, Refusal, RefusalCode, RevokeOutcome};
use swarmdex_protocols::limits::MAX_FILE_BYTES;
use swarmdex_protocols::statement::Rank;
use swarmdex_protocols::{Entry, Name, PeerId, SignedAttributes, Statement, Tally, Version};

/// The index as a rule sees it.
pub(crate) trait IndexView {
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
pub(crate) struct NameLimits {
    /// Names that one peer may hold.
    pub names_per_peer: u64,
    /// Names that the members of one address may hold together.
    pub names_per_ip: u64,
    /// Names in all.
    pub names: u64,
}

/// A name that is given up: a tombstone takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freed {
    /// The name.
    pub name: Name,
    /// Who held it.
    pub owner: PeerId,
    /// Version of the tombstone.
    pub version: Version,
    /// Whether the owner was evicted, or revoked the name itself.
    pub evicted: bool,
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Announced {
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
pub(crate) struct Moment {
    /// The wall clock in milliseconds since 1970.
    pub unix_ms: u64,
    /// A random number, for leaps of versions.
    pub random: u64,
    /// The way in which this run of the master gives versions, one of [`RUNS`](swarmdex_protocols::statement::RUNS).
    pub run: u64,
}

impl Moment {
    /// The version to give after another.
    pub(crate) fn version_after(&self, last: Version) -> Version {
        last.next_of(self.run, self.unix_ms)
    }
}

/// What was found outside the index about a name that an offer is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// What the mirror says.
    pub mirror: Tally,
    /// The version of the offer's own certificate, checked.
    pub granted: Option<Version>,
}

/// Decides on one offer of `owner`. `evidence` is what is known beyond the index, which may have lost its
/// disk, and was away while names were claimed.
pub(crate) fn announce<V: IndexView>(
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
        // The name is another's, unless the peer shows a later grant: then this index went back to an older copy of
        // itself.
        Some(entry) if entry.owner != owner && !is_overtaken(&entry, evidence) => {
            return Ok(Announced::Conflict(entry.owner));
        }
        Some(entry) if entry.owner != owner => {}
        // The name is confirmed unless something later was said of it: by this master before it lost its memory, or by
        // the owner without a master, who gave it up and took it again. Then it needs a version above that.
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
            if let Some(entry) = earlier_claim(view.ended(&name)?, owner, evidence)
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
pub(crate) fn after(last: Version, seen: Version, random: u64) -> Version {
    if seen > last { seen.leap(random) } else { last }
}

/// Who else has a name that the index does not know, by what was found outside: by a certificate that nothing ended,
/// or else by the claim that most nodes hold. `None` if the offer's owner may have it.
///
/// What comes back so is certified anew, at a new version: of what else was said of the name before this master
/// lost its memory, some may come to light later.
fn earlier_claim(ended: Option<Version>, owner: PeerId, evidence: &Evidence) -> Option<&Entry> {
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
pub(crate) fn revoke<V: IndexView>(
    view: &V,
    owner: PeerId,
    name: &str,
    moment: Moment,
) -> Result<(RevokeOutcome, Option<Freed>), V::Error> {
    let name = match Name::parse(name) {
        Ok(name) => name,
        Err(error) => {
            let refusal = Refusal::new(RefusalCode::InvalidName, error.to_string());
            return Ok((RevokeOutcome::Refused(refusal), None));
        }
    };
    match view.entry(&name)? {
        None => Ok((RevokeOutcome::NotHeld, None)),
        Some(entry) if entry.owner != owner => Ok((RevokeOutcome::Conflict { owner: entry.owner }, None)),
        Some(_) => {
            let version = moment.version_after(view.last_version()?);
            let change = Freed { name, owner, version, evicted: false };
            Ok((RevokeOutcome::Revoked { version }, Some(change)))
        }
    }
}

/// The change that frees one name of an evicted peer.
pub(crate) fn evict(name: Name, owner: PeerId, last: Version, moment: Moment) -> Freed {
    Freed { name, owner, version: moment.version_after(last), evicted: true }
}

#[cfg(test)]
mod tests;
