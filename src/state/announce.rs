//! What a peer has to tell its master: the difference between its share and what the master said. While no master
//! answers, what it says of its names by itself.

mod again;
mod attributes;
mod changed;
mod reported;
mod saved;
#[cfg(test)]
mod tests;
mod without_master;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Granted, Offer, RevokeOutcome, ShareDigest, ShareSum, Verdict, share_digest};
use swarmdex_protocols::limits::MAX_BATCH_ENTRIES;
use swarmdex_protocols::statement::{self, CERTIFICATE_LIFETIME_MS};
use swarmdex_protocols::{Attributes, Certificate, Claim, ContentId, Entry, Name, PeerId, Version};

use super::Now;
use super::agreement::{Differences, Held};
pub(crate) use changed::Changed;
use reported::{MasterAnswer, Reported};

/// How a name of this peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Granted at this version; 0 if it was granted to an earlier run of this node.
    Certified(Version),
    /// Claimed at this version while no master could be reached.
    Claimed(Version),
    /// Held by another peer.
    Conflict(PeerId),
    /// Refused for another reason.
    Refused(String),
}

/// What this node believes of a name of which the master said nothing in this session: by its certificate, its claim,
/// or what the network says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assumed {
    content: ContentId,
    size: u64,
    standing: Standing,
}

impl Assumed {
    fn is(&self, content: &ContentId, size: u64) -> bool {
        self.content == *content && self.size == size
    }
}

/// One change to send. At most one is under way at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Batch {
    /// Claim these names; `last` ends the first report after a join with a changed share.
    Announce {
        /// What is offered.
        offers: Vec<Offer>,
        /// Ends the report: what the master granted since the join. It drops every other name of the peer, if it
        /// counts the same.
        last: Option<ShareSum>,
    },
    /// Give these names up.
    Revoke(Vec<String>),
}

/// Keeps track of what the master was told and what it answered, and apart from that of what this peer believes.
#[derive(Debug)]
pub(crate) struct Announcer {
    local: PeerId,
    /// Most names in one change.
    batch: usize,
    reported: Reported,
    /// What stands in for the master's answer where it has not answered in this session.
    assumed: BTreeMap<Name, Assumed>,
    /// Whether the master still waits for the end of the first report.
    reporting: bool,
    /// The name up to which the share was looked through for what is due: each batch goes on where the last one ended.
    seen: Option<Name>,
    /// Whether it is to be looked through from its beginning, whatever the answer that is under way is about: that was asked for
    /// since the last batch was made.
    afresh: Cell<bool>,
    /// Names that the master holds for this peer, and of which this peer knows nothing: to be given up unless shared.
    surplus: BTreeSet<Name>,
    /// When the master and this peer last agreed about everything that was granted.
    agreed: Option<Instant>,
    /// Proofs of what was granted to this peer.
    certificates: BTreeMap<Name, Certificate>,
    claims: BTreeMap<Name, Claim>,
    /// Names that were granted again, at these versions, and of which the peer has no seal yet. A certificate of such a name
    /// is of before, and over.
    unsealed: BTreeMap<Name, Version>,
    /// How far what this peer left with is granted again.
    returned: String,
    /// Whether the master lacks attributes of this peer's files.
    bare: bool,
    /// Certificates that this peer gave up while no master could be told.
    revocations: BTreeMap<Name, statement::Revocation>,
    /// Names of which the network knows something later than this peer's certificate.
    doubted: BTreeSet<Name>,
    /// Names whose certificates changed since they were last written to disk.
    unsaved: BTreeSet<Name>,
    /// Names of which this peer may have something else to say than before.
    changed: Changed,
}

impl Announcer {
    /// For the peer `local`, with the certificates that it was granted before.
    pub(crate) fn new(local: PeerId, certificates: impl IntoIterator<Item = Certificate>) -> Self {
        let certificates = certificates
            .into_iter()
            .filter(|certificate| certificate.entry.owner == local)
            .map(|certificate| (certificate.entry.name.clone(), certificate));
        Self {
            local,
            batch: MAX_BATCH_ENTRIES,
            reported: Reported::default(),
            assumed: BTreeMap::new(),
            reporting: false,
            seen: None,
            afresh: Cell::new(false),
            surplus: BTreeSet::new(),
            agreed: None,
            certificates: certificates.collect(),
            claims: BTreeMap::new(),
            unsealed: BTreeMap::new(),
            returned: String::new(),
            bare: false,
            revocations: BTreeMap::new(),
            doubted: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            changed: Changed::All,
        }
    }

    /// With at most so many names in one change, so that tests meet every path of several batches with few names.
    #[cfg(test)]
    pub(super) fn with_batch(mut self, names: usize) -> Self {
        self.batch = names;
        self
    }

    /// The certificate of just this content.
    fn certificate(&self, name: &Name, content: &ContentId, size: u64) -> Option<&Certificate> {
        let fits = |certificate: &&Certificate| certificate.entry.content == *content && certificate.entry.size == size;
        self.certificates.get(name).filter(fits).filter(|_| !self.unsealed.contains_key(name))
    }

    /// The version at which just this content was granted; 0 if it was not.
    fn version(&self, name: &Name, content: &ContentId, size: u64) -> Version {
        let certified = || self.certificate(name, content, size).map(|held| held.entry.version).unwrap_or_default();
        self.unsealed.get(name).copied().unwrap_or_else(certified)
    }

    /// A join: with an unchanged share the master knows `share` already, otherwise it is told everything.
    pub(crate) fn on_joined<'a>(
        &mut self,
        unchanged: bool,
        share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>,
        now: Instant,
    ) {
        self.on_session_over();
        self.reporting = !unchanged;
        self.surplus.clear();
        self.returned.clear();
        self.changed = Changed::All;
        self.revocations.clear();
        self.claims.retain(|_, claim| !claim.withdrawn);
        if unchanged {
            for (name, content, size) in share {
                let sealed_ms = match self.certificates.get(name) {
                    // Its seal is on its way.
                    _ if self.unsealed.contains_key(name) => u64::MAX,
                    _ => self.certificate(name, content, size).map_or(0, |held| held.seal.issued_ms),
                };
                let standing = Standing::Certified(self.version(name, content, size));
                let attributes = self.reported_attributes(name, content, size);
                let answer = MasterAnswer { content: *content, size, attributes, standing, sealed_ms, at: now };
                self.reported.insert(name.clone(), answer);
            }
            self.agreed = Some(now);
            self.on_whole();
        }
    }

    /// Nothing that the master said counts as told any more; what it granted is believed until it answers anew.
    pub(crate) fn on_session_over(&mut self) {
        self.reporting = false;
        self.changed = Changed::All;
        self.look_again();
        for (name, answer) in self.reported.take() {
            // Without a seal nobody else would believe it.
            if answer.granted().is_some() && !self.unsealed.contains_key(&name) {
                let MasterAnswer { content, size, standing, .. } = answer;
                self.assumed.insert(name, Assumed { content, size, standing });
            }
        }
    }

    /// The master knows everything: what was believed without it is of no use any more.
    fn on_whole(&mut self) {
        self.reporting = false;
        self.assumed.clear();
        self.forget_surplus();
    }

    /// Drops the certificates of names that are not this peer's any more.
    fn forget_surplus(&mut self) {
        let known = self.certificates.keys().chain(self.unsealed.keys());
        let gone: Vec<_> = known.filter(|name| !self.holds(name)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
    }

    fn forget(&mut self, name: &Name) {
        self.unsealed.remove(name);
        self.doubted.remove(name);
        if self.certificates.remove(name).is_some() {
            self.changed.mark(name);
            self.unsaved.insert(name.clone());
        }
    }

    /// The digest of a share with the versions at which it was granted.
    pub(crate) fn digest<'a>(&self, share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>) -> ShareDigest {
        let versioned = |(name, content, size): (&'a Name, &'a ContentId, u64)| {
            (name.as_str(), content, size, self.version(name, content, size))
        };
        share_digest(share.into_iter().map(versioned))
    }

    /// The next change to send to the master; `None` if it knows the whole share. `share` gives, sorted by name, what
    /// comes after some name, with what is known of each file beside its bytes. Offers have no attributes yet: whoever
    /// has the key adds them, signed.
    pub(crate) fn next_batch<'a, I>(&self, share: impl Fn(Option<&Name>) -> I, unix_ms: u64) -> Option<Batch>
    where
        I: Iterator<Item = (&'a Name, &'a ContentId, u64, Option<Attributes>)> + Clone,
    {
        self.afresh.set(false);
        let due = share(self.seen.as_ref())
            .filter(|(name, content, size, attributes)| self.is_due(name, content, *size, *attributes, unix_ms));
        let offers: Vec<_> =
            due.take(self.batch).map(|(name, content, size, _)| self.offer(name, content, size)).collect();
        if self.reporting || !offers.is_empty() {
            // Only a batch of its own ends the report: then every answer that it counts is here.
            let last = (self.reporting && offers.is_empty()).then(|| self.reported.granted());
            return Some(Batch::Announce { offers, last });
        }
        let names = self.surplus(share(None).map(|(name, content, size, _)| (name, content, size)));
        (!names.is_empty()).then_some(Batch::Revoke(names))
    }

    /// Looks through the whole share for the next batch: it changed, or time has passed.
    pub(crate) fn look_again(&mut self) {
        self.seen = None;
        self.afresh.set(true);
    }

    /// Whether the master is to be told of a name: it does not know it, or other attributes of its file, or its certificate is
    /// half over.
    fn is_due(
        &self,
        name: &Name,
        content: &ContentId,
        size: u64,
        attributes: Option<Attributes>,
        unix_ms: u64,
    ) -> bool {
        match self.reported.get(name) {
            Some(told) if told.content == *content && told.size == size => match told.standing {
                Standing::Certified(_) if self.doubted.contains(name) => true,
                Standing::Certified(_) if attributes.is_some() && attributes != told.attributes => true,
                Standing::Certified(_) => unix_ms >= told.sealed_ms.saturating_add(CERTIFICATE_LIFETIME_MS / 2),
                Standing::Claimed(_) => true,
                Standing::Conflict(_) | Standing::Refused(_) => false,
            },
            _ => true,
        }
    }

    fn offer(&self, name: &Name, content: &ContentId, size: u64) -> Offer {
        let granted = self
            .certificate(name, content, size)
            .map(|certificate| Granted { version: certificate.entry.version, seal: certificate.seal.clone() });
        let claimed = self.claims.contains_key(name) || self.doubted.contains(name);
        Offer { granted, claimed, ..Offer::new(name.as_str(), *content, size) }
    }

    /// Names that the master holds for this peer and that are no longer shared: all three lists are sorted.
    fn surplus<'a>(&self, share: impl Iterator<Item = (&'a Name, &'a ContentId, u64)> + Clone) -> Vec<String> {
        let granted = self.reported.iter().filter(|(_, told)| told.granted().is_some()).map(|(name, _)| name);
        let mut names: Vec<_> = without(granted, share.clone()).take(self.batch).collect();
        names.extend(without(self.surplus.iter(), share).take(self.batch - names.len()));
        names.into_iter().map(|name| name.as_str().to_owned()).collect()
    }

    /// The answer to an announce. False if it has not one verdict for each offer.
    pub(crate) fn on_announced(&mut self, offers: &[Offer], last: bool, verdicts: Vec<Verdict>, now: Now) -> bool {
        if offers.len() != verdicts.len() {
            return false;
        }
        // What was asked for again since these were offered may come before them.
        if !self.afresh.take() {
            self.seen = offers.last().and_then(|offer| Name::parse(&offer.name).ok()).or_else(|| self.seen.take());
        }
        for (offer, verdict) in offers.iter().zip(verdicts) {
            let Ok(name) = Name::parse(&offer.name) else { continue };
            self.changed.mark(&name);
            self.claims.remove(&name);
            self.doubted.remove(&name);
            self.assumed.remove(&name);
            self.surplus.remove(&name);
            self.unsealed.remove(&name);
            let (content, size, owner) = (offer.content, offer.size, self.local);
            let standing = match verdict {
                Verdict::Accepted { version, seal } => {
                    let attributes = offer.attributes.clone();
                    let entry = Entry { name: name.clone(), content, size, owner, version, attributes };
                    self.certificates.insert(name.clone(), Certificate { entry, seal });
                    self.unsaved.insert(name.clone());
                    Standing::Certified(version)
                }
                Verdict::Conflict { owner } => {
                    self.forget(&name);
                    Standing::Conflict(owner)
                }
                Verdict::Refused(refusal) => Standing::Refused(refusal.reason),
            };
            let attributes = offer.attributes.as_ref().map(|signed| signed.said());
            let answer = MasterAnswer { content, size, attributes, standing, sealed_ms: now.unix_ms, at: now.mono };
            self.reported.insert(name, answer);
        }
        if last {
            // The master counted the same.
            self.agreed = Some(now.mono);
            self.on_whole();
        }
        true
    }

    /// The answer to a revoke. False if it has not one outcome for each name.
    pub(crate) fn on_revoked(&mut self, names: &[String], outcomes: &[RevokeOutcome]) -> bool {
        if names.len() != outcomes.len() {
            return false;
        }
        for name in names {
            if let Ok(name) = Name::parse(name) {
                self.changed.mark(&name);
                self.reported.remove(&name);
                self.assumed.remove(&name);
                self.surplus.remove(&name);
                self.forget(&name);
            }
        }
        true
    }

    /// Every certificate that is on disk.
    #[cfg(test)]
    pub(super) fn saved(&self) -> Vec<Certificate> {
        self.certificates.values().cloned().collect()
    }

    /// A fault: forgets what the master said of a name, or believes that it granted it.
    #[cfg(test)]
    pub(super) fn spoil(&mut self, name: &Name, granted: Option<(ContentId, u64, Version)>, now: Instant) {
        self.changed.mark(name);
        self.reported.remove(name);
        if let Some((content, size, version)) = granted {
            let standing = Standing::Certified(version);
            let answer = MasterAnswer { content, size, attributes: None, standing, sealed_ms: 0, at: now };
            self.reported.insert(name.clone(), answer);
        }
    }

    /// What both have to hold alike: all that the master granted in this session. `None` while it is being told.
    pub(crate) fn granted(&self) -> Option<ShareSum> {
        (!self.reporting).then(|| self.reported.granted())
    }

    /// Master and peer hold the same.
    pub(crate) fn on_agreed(&mut self, now: Instant) {
        self.agreed = Some(now);
    }

    /// When both were last seen to hold the same.
    pub(crate) fn agreed(&self) -> Option<Instant> {
        self.agreed
    }

    /// Takes up what a comparison found. Names that the master does not hold as this peer does are told again. Names of
    /// which the peer knows nothing are given up, unless they are shared.
    pub(crate) fn on_differences(&mut self, differences: &Differences) {
        self.look_again();
        for name in differences.missing.iter().chain(&differences.other) {
            self.changed.mark(name);
            if let Some(answer) = self.reported.remove(name).filter(|_| !self.unsealed.contains_key(name)) {
                let MasterAnswer { content, size, standing, .. } = answer;
                self.assumed.insert(name.clone(), Assumed { content, size, standing });
            }
        }
        for name in &differences.surplus {
            // One that the master refused before is asked for again.
            self.changed.mark(name);
            self.reported.remove(name);
            self.surplus.insert(name.clone());
        }
    }

    /// Nodes know something later of a name than this peer's certificate: the master is to look into it. It may have
    /// lost its disk, and have certified the name anew below what it said before.
    pub(crate) fn doubt(&mut self, name: &Name) {
        if self.holds(name) {
            self.look_again();
            self.doubted.insert(name.clone());
        }
    }

    /// Asks again for names that were not granted: another may have given them up, or there may be room now.
    pub(crate) fn retry_lost(&mut self) {
        self.look_again();
        self.reported.forget_losses();
    }

    /// Asks again for one name that was not granted.
    pub(crate) fn retry(&mut self, name: &Name) {
        self.look_again();
        self.changed.mark(name);
        if self.reported.get(name).is_some_and(|told| told.granted().is_none()) {
            self.reported.remove(name);
        }
        if self.assumed.get(name).is_some_and(|assumed| matches!(assumed.standing, Standing::Conflict(_))) {
            self.assumed.remove(name);
        }
    }

    /// Whether `name` was granted and the master was not told since that it is given up.
    pub(crate) fn holds(&self, name: &Name) -> bool {
        matches!(self.said_of(name), Some(Standing::Certified(_)))
    }

    /// Whether the master, to which this peer is joined, knows that `name` is given up.
    pub(crate) fn is_known_to_be_free(&self, name: &Name) -> bool {
        let withdrawn = self.claims.contains_key(name);
        !(self.reporting
            || withdrawn
            || self.holds(name)
            || self.revocations.contains_key(name)
            || self.surplus.contains(name))
    }

    /// The master's answer, or else what stands in for it.
    fn said_of(&self, name: &Name) -> Option<&Standing> {
        let told = self.reported.get(name).map(|told| &told.standing);
        told.or_else(|| self.assumed.get(name).map(|assumed| &assumed.standing))
    }

    fn standing_of(&self, name: &Name, content: &ContentId, size: u64) -> Option<&Standing> {
        let told = self.reported.get(name).filter(|told| told.content == *content && told.size == size);
        let assumed = || self.assumed.get(name).filter(|assumed| assumed.is(content, size));
        told.map(|told| &told.standing).or_else(|| assumed().map(|assumed| &assumed.standing))
    }

    /// How `name` stands with this content.
    pub(crate) fn standing(&self, name: &Name, content: &ContentId) -> Option<&Standing> {
        let told = self.reported.get(name).filter(|told| told.content == *content).map(|told| &told.standing);
        let assumed = || self.assumed.get(name).filter(|assumed| assumed.content == *content);
        told.or_else(|| assumed().map(|assumed| &assumed.standing))
    }

    /// Whether the master said within the last `period` that `name` is granted, about this name or about all of them.
    pub(crate) fn is_confirmed(&self, name: &Name, period: Duration, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) <= period;
        let granted = self.reported.get(name).filter(|told| told.granted().is_some());
        granted.is_some_and(|told| recent(told.at) || self.agreed.is_some_and(recent))
    }

    /// The certificate of the highest version that this peer was granted.
    pub(crate) fn newest(&self) -> Option<&Certificate> {
        self.certificates.values().max_by_key(|certificate| certificate.entry.version)
    }
}

impl Held for Announcer {
    fn range<'a>(&'a self, from: &str, to: Option<&str>) -> Box<dyn Iterator<Item = (&'a Name, ShareDigest)> + 'a> {
        Box::new(self.reported.range(from, to))
    }
}

/// The `names` that are not shared; both lists are sorted.
fn without<'a, 'b>(
    names: impl Iterator<Item = &'b Name>,
    share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>,
) -> impl Iterator<Item = &'b Name> {
    let mut share = share.into_iter().map(|(name, ..)| name).peekable();
    names.filter(move |name| {
        while share.next_if(|other| *other < *name).is_some() {}
        share.peek().is_none_or(|other| other != name)
    })
}
