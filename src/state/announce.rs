//! What a peer has to tell its master: the difference between its share and what the master said; and what it
//! says of its names by itself while no master answers.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use swarmdex_protocols::index::{Granted, Offer, Revocation, ShareDigest, Verdict, share_digest};
use swarmdex_protocols::limits::MAX_BATCH_ENTRIES;
use swarmdex_protocols::statement::{self, CERTIFICATE_LIFETIME_MS, CLAIM_LIFETIME_MS};
use swarmdex_protocols::{Certificate, Claim, ContentId, Entry, Name, PeerId, Statement, Version};

/// How a name of this peer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Granted at this version; 0 if it was granted to an earlier run of this node.
    Certified(Version),
    /// Claimed at this version while no master could be reached.
    Claimed(Version),
    /// Held by another peer.
    Conflict(PeerId),
    /// Refused for another reason.
    Refused(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    content: ContentId,
    size: u64,
    standing: Standing,
    /// Wall clock when the certificate was signed, in milliseconds since 1970; 0 if there is none.
    sealed_ms: u64,
}

/// One change to send. At most one is under way at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// Claim these names; `last` ends the first report after a join with a changed share.
    Announce {
        /// What is offered.
        offers: Vec<Offer>,
        /// Whether the master may drop every name of the peer that was not announced since the join.
        last: bool,
    },
    /// Give these names up.
    Revoke(Vec<String>),
}

/// Keeps track of what the master was told and what it answered.
#[derive(Debug)]
pub struct Announcer {
    local: PeerId,
    told: BTreeMap<Name, Told>,
    /// Whether the master still waits for the end of the first report.
    reporting: bool,
    /// Proofs of what was granted to this peer.
    certificates: BTreeMap<Name, Certificate>,
    claims: BTreeMap<Name, Claim>,
    /// Certificates that this peer gave up while no master could be told.
    revocations: BTreeMap<Name, statement::Revocation>,
    /// Names of which the network knows something later than this peer's certificate.
    doubted: BTreeSet<Name>,
    /// Names whose certificates changed since they were last written to disk.
    unsaved: BTreeSet<Name>,
}

impl Announcer {
    /// For the peer `local`, with the certificates that it was granted before.
    pub fn new(local: PeerId, certificates: impl IntoIterator<Item = Certificate>) -> Self {
        let certificates = certificates
            .into_iter()
            .filter(|certificate| certificate.entry.owner == local)
            .map(|certificate| (certificate.entry.name.clone(), certificate));
        Self {
            local,
            told: BTreeMap::new(),
            reporting: false,
            certificates: certificates.collect(),
            claims: BTreeMap::new(),
            revocations: BTreeMap::new(),
            doubted: BTreeSet::new(),
            unsaved: BTreeSet::new(),
        }
    }

    /// The certificate of just this content.
    fn certificate(&self, name: &Name, content: &ContentId, size: u64) -> Option<&Certificate> {
        let fits = |certificate: &&Certificate| certificate.entry.content == *content && certificate.entry.size == size;
        self.certificates.get(name).filter(fits)
    }

    /// A join: with an unchanged share the master knows `share` already, otherwise it is told everything.
    pub fn on_joined<'a>(&mut self, unchanged: bool, share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>) {
        self.reporting = !unchanged;
        self.told.clear();
        self.revocations.clear();
        self.claims.retain(|_, claim| !claim.withdrawn);
        if unchanged {
            for (name, content, size) in share {
                self.recall(name, content, size, Version::default());
            }
            self.forget_surplus();
        }
    }

    /// Counts a name as granted, by its certificate if there is one.
    fn recall(&mut self, name: &Name, content: &ContentId, size: u64, otherwise: Version) {
        let certificate = self.certificate(name, content, size);
        let version = certificate.map_or(otherwise, |certificate| certificate.entry.version);
        let sealed_ms = certificate.map_or(0, |certificate| certificate.seal.issued_ms);
        let told = Told { content: *content, size, standing: Standing::Certified(version), sealed_ms };
        self.told.insert(name.clone(), told);
    }

    /// Drops the certificates of names that are not this peer's any more.
    fn forget_surplus(&mut self) {
        let told = &self.told;
        let holds = |name: &Name| told.get(name).is_some_and(|told| matches!(told.standing, Standing::Certified(_)));
        let gone: Vec<_> = self.certificates.keys().filter(|name| !holds(name)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
    }

    fn forget(&mut self, name: &Name) {
        if self.certificates.remove(name).is_some() {
            self.unsaved.insert(name.clone());
        }
    }

    /// The digest of a share with the versions at which it was granted.
    pub fn digest<'a>(&self, share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>) -> ShareDigest {
        let versioned = |(name, content, size): (&'a Name, &'a ContentId, u64)| {
            let version = self.certificate(name, content, size).map(|held| held.entry.version).unwrap_or_default();
            (name.as_str(), content, size, version)
        };
        share_digest(share.into_iter().map(versioned))
    }

    /// The next change to send for a share, sorted by name; `None` if the master knows it all.
    pub fn next_batch<'a>(
        &self,
        share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)> + Clone,
        unix_ms: u64,
    ) -> Option<Batch> {
        let mut offers = Vec::new();
        let mut complete = true;
        for (name, content, size) in share.clone() {
            if !self.is_due(name, content, size, unix_ms) {
                continue;
            }
            if offers.len() == MAX_BATCH_ENTRIES {
                complete = false;
                break;
            }
            offers.push(self.offer(name, content, size));
        }
        if self.reporting || !offers.is_empty() {
            return Some(Batch::Announce { offers, last: self.reporting && complete });
        }
        let names = self.surplus(share);
        (!names.is_empty()).then_some(Batch::Revoke(names))
    }

    /// Whether the master is to be told of a name: it does not know it, or its certificate is half over.
    fn is_due(&self, name: &Name, content: &ContentId, size: u64, unix_ms: u64) -> bool {
        match self.told.get(name) {
            Some(told) if told.content == *content && told.size == size => match told.standing {
                Standing::Certified(_) if self.doubted.contains(name) => true,
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

    /// Names that the master was told of and that are no longer shared: both lists are sorted.
    fn surplus<'a>(&self, share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>) -> Vec<String> {
        let mut share = share.into_iter().map(|(name, ..)| name).peekable();
        let mut names = Vec::new();
        for (name, told) in &self.told {
            while share.next_if(|other| *other < name).is_some() {}
            if share.peek() != Some(&name) && matches!(told.standing, Standing::Certified(_)) {
                names.push(name.as_str().to_owned());
            }
            if names.len() == MAX_BATCH_ENTRIES {
                break;
            }
        }
        names
    }

    /// The answer to an announce. False if it has not one verdict for each offer.
    pub fn on_announced(&mut self, offers: &[Offer], last: bool, verdicts: Vec<Verdict>, unix_ms: u64) -> bool {
        if offers.len() != verdicts.len() {
            return false;
        }
        for (offer, verdict) in offers.iter().zip(verdicts) {
            let Ok(name) = Name::parse(&offer.name) else { continue };
            self.claims.remove(&name);
            self.doubted.remove(&name);
            let standing = match verdict {
                Verdict::Accepted { version, seal } => {
                    let (content, size, owner) = (offer.content, offer.size, self.local);
                    let entry = Entry { name: name.clone(), content, size, owner, version };
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
            let told = Told { content: offer.content, size: offer.size, standing, sealed_ms: unix_ms };
            self.told.insert(name, told);
        }
        if last {
            self.reporting = false;
            self.forget_surplus();
        }
        true
    }

    /// The answer to a revoke. False if it has not one outcome for each name.
    pub fn on_revoked(&mut self, names: &[String], outcomes: &[Revocation]) -> bool {
        if names.len() != outcomes.len() {
            return false;
        }
        for name in names {
            if let Ok(name) = Name::parse(name) {
                self.told.remove(&name);
                self.forget(&name);
            }
        }
        true
    }

    /// Nodes know something later of a name than this peer's certificate: the master is to look into it. It may have
    /// lost its disk, and have certified the name anew below what it said before.
    pub fn doubt(&mut self, name: &Name) {
        if self.holds(name) {
            self.doubted.insert(name.clone());
        }
    }

    /// Asks again for names that another held: it may have given them up.
    pub fn retry_lost(&mut self) {
        self.told.retain(|_, told| !matches!(told.standing, Standing::Conflict(_)));
    }

    /// Asks again for one name that was not granted.
    pub fn retry(&mut self, name: &Name) {
        if self
            .told
            .get(name)
            .is_some_and(|told| !matches!(told.standing, Standing::Certified(_) | Standing::Claimed(_)))
        {
            self.told.remove(name);
        }
    }

    /// Whether the master granted `name` and was not told since that it is given up.
    pub fn holds(&self, name: &Name) -> bool {
        self.told.get(name).is_some_and(|told| matches!(told.standing, Standing::Certified(_)))
    }

    /// How `name` stands with this content.
    pub fn standing(&self, name: &Name, content: &ContentId) -> Option<&Standing> {
        self.told.get(name).filter(|told| told.content == *content).map(|told| &told.standing)
    }

    /// Certificates to write to disk, or to delete there.
    pub fn take_unsaved(&mut self) -> Vec<(Name, Option<Certificate>)> {
        let names = std::mem::take(&mut self.unsaved);
        names.into_iter().map(|name| (name.clone(), self.certificates.get(&name).cloned())).collect()
    }

    /// The certificate of the highest version that this peer was granted.
    pub fn newest(&self) -> Option<&Certificate> {
        self.certificates.values().max_by_key(|certificate| certificate.entry.version)
    }
}

/// Without a master.
impl Announcer {
    /// Names that this peer has to claim: nobody has answered for them. What was granted before holds on.
    pub fn to_claim<'a>(
        &mut self,
        share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>,
        unix_ms: u64,
    ) -> Vec<(Name, ContentId, u64)> {
        let mut wanted = Vec::new();
        for (name, content, size) in share {
            if let Some(told) = self.told.get(name)
                && told.content == *content
                && told.size == size
            {
                let half_over = |claim: &Claim| unix_ms >= claim.seal.issued_ms.saturating_add(CLAIM_LIFETIME_MS / 2);
                if matches!(told.standing, Standing::Claimed(_)) && self.claims.get(name).is_some_and(half_over) {
                    wanted.push((name.clone(), *content, size));
                }
                continue;
            }
            if !self.recall_granted(name, content, size, unix_ms) {
                wanted.push((name.clone(), *content, size));
            }
        }
        wanted
    }

    /// Counts a name that nobody answered for yet as granted, if there is a certificate that says so.
    pub fn recall_granted(&mut self, name: &Name, content: &ContentId, size: u64, unix_ms: u64) -> bool {
        let valid = |certificate: &Certificate| certificate.seal.expires_ms > unix_ms;
        let granted = self.certificate(name, content, size).is_some_and(valid);
        if granted && self.told.get(name).is_none_or(|told| told.content != *content || told.size != size) {
            self.recall(name, content, size, Version::default());
        }
        granted
    }

    /// The network has a certificate of this peer's that the peer itself did not get, or lost.
    pub fn on_certificate(&mut self, certificate: Certificate) {
        let Entry { name, content, size, version, .. } = certificate.entry.clone();
        self.certificates.insert(name.clone(), certificate);
        self.unsaved.insert(name.clone());
        self.recall(&name, &content, size, version);
    }

    /// Nodes that store the claim hold it for this peer's.
    pub fn on_claimed(&mut self, claim: Claim) {
        let Entry { name, content, size, version, .. } = claim.entry.clone();
        let told = Told { content, size, standing: Standing::Claimed(version), sealed_ms: 0 };
        self.told.insert(name.clone(), told);
        self.claims.insert(name, claim);
    }

    /// The name is another's, by certificate or by an earlier claim.
    pub fn on_claim_lost(&mut self, name: &Name, content: ContentId, size: u64, owner: PeerId) {
        self.claims.remove(name);
        let told = Told { content, size, standing: Standing::Conflict(owner), sealed_ms: 0 };
        self.told.insert(name.clone(), told);
    }

    /// Certificates and claims of names that are no longer shared, and claims beside what is granted: to be revoked
    /// and withdrawn by this peer.
    pub fn to_give_up(&self, is_shared: impl Fn(&Name) -> bool) -> (Vec<Certificate>, Vec<Claim>) {
        let given_up = |name: &Name| !is_shared(name);
        let certificates = self.certificates.iter().filter(|(name, certificate)| {
            let said = self.revocations.get(*name).map(|revocation| revocation.certificate.entry.version);
            given_up(name) && said != Some(certificate.entry.version)
        });
        let claims =
            self.claims.iter().filter(|(name, claim)| !claim.withdrawn && (given_up(name) || self.holds(name)));
        (certificates.map(|(_, held)| held.clone()).collect(), claims.map(|(_, claim)| claim.clone()).collect())
    }

    /// What this peer gave up is known to the network.
    pub fn on_given_up(&mut self, statement: Statement) {
        let name = statement.name().clone();
        if matches!(statement, Statement::Revocation(_)) || !self.holds(&name) {
            self.told.remove(&name);
        }
        match statement {
            Statement::Revocation(revocation) => {
                self.revocations.insert(name, revocation);
            }
            Statement::Claim(withdrawal) => {
                self.claims.insert(name, withdrawal);
            }
            Statement::Certificate(_) | Statement::Tombstone(_) => {}
        }
    }

    /// Everything that this peer has to say of its names, for the mirror.
    pub fn statements(&self) -> impl Iterator<Item = Statement> + '_ {
        let certificates = self.certificates.iter().filter(|(name, _)| self.holds(name));
        certificates
            .map(|(_, certificate)| Statement::Certificate(certificate.clone()))
            .chain(self.revocations.values().cloned().map(Statement::Revocation))
            .chain(self.claims.values().cloned().map(Statement::Claim))
    }

    /// What this peer says of one of its names that stands.
    pub fn statement(&self, name: &Name) -> Option<Statement> {
        match self.told.get(name)?.standing {
            Standing::Certified(_) => self.certificates.get(name).cloned().map(Statement::Certificate),
            Standing::Claimed(_) => self.claims.get(name).cloned().map(Statement::Claim),
            Standing::Conflict(_) | Standing::Refused(_) => None,
        }
    }
}
