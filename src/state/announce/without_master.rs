//! Without a master: what this peer believes by its certificates, claims and gives up by itself.

use swarmdex_protocols::statement::CLAIM_LIFETIME_MS;
use swarmdex_protocols::{Certificate, Claim, ContentId, Entry, Name, PeerId, Statement, Version};

use super::{Announcer, Assumed, Changed, Standing};

impl Announcer {
    /// Counts a name as granted, by its certificate if there is one.
    pub(super) fn assume_granted(&mut self, name: &Name, content: &ContentId, size: u64, otherwise: Version) {
        let version = self.certificate(name, content, size).map_or(otherwise, |held| held.entry.version);
        let assumed = Assumed { content: *content, size, standing: Standing::Certified(version) };
        self.changed.mark(name);
        self.assumed.insert(name.clone(), assumed);
    }

    /// Names that this peer has to claim: nobody has answered for them. What was granted before holds on. None while
    /// a master is being told: its answers are on their way.
    #[allow(clippy::wrong_self_convention)] // It is what there is to claim.
    pub(crate) fn to_claim<'a>(
        &mut self,
        share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>,
        unix_ms: u64,
    ) -> Vec<(Name, ContentId, u64)> {
        let mut wanted = Vec::new();
        if self.reporting {
            return wanted;
        }
        for (name, content, size) in share {
            let told = self.reported.get(name).is_some_and(|told| told.content == *content && told.size == size);
            if told {
                continue;
            }
            if let Some(assumed) = self.assumed.get(name).filter(|assumed| assumed.is(content, size)) {
                let half_over = |claim: &Claim| unix_ms >= claim.seal.issued_ms.saturating_add(CLAIM_LIFETIME_MS / 2);
                let due = match assumed.standing {
                    Standing::Claimed(_) => self.claims.get(name).is_some_and(half_over),
                    // Others know something later, and do not believe its certificate.
                    Standing::Certified(_) => self.doubted.contains(name),
                    Standing::Conflict(_) | Standing::Refused(_) => false,
                };
                if due {
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
    pub(crate) fn recall_granted(&mut self, name: &Name, content: &ContentId, size: u64, unix_ms: u64) -> bool {
        let valid = |certificate: &Certificate| certificate.seal.expires_ms > unix_ms && !self.is_revoked(certificate);
        let granted = self.certificate(name, content, size).is_some_and(valid);
        if granted && self.standing_of(name, content, size).is_none() {
            self.assume_granted(name, content, size, Version::default());
        }
        granted
    }

    /// Whether this peer ended a certificate of its own, and the master does not know yet.
    fn is_revoked(&self, certificate: &Certificate) -> bool {
        let revoked = self.revocations.get(&certificate.entry.name);
        revoked.is_some_and(|revoked| revoked.certificate.entry.version >= certificate.entry.version)
    }

    /// The network has a certificate of this peer's that the peer itself did not get, or lost.
    pub(crate) fn on_certificate(&mut self, certificate: Certificate) {
        let Entry { name, content, size, version, .. } = certificate.entry.clone();
        self.certificates.insert(name.clone(), certificate);
        self.doubted.remove(&name);
        self.unsealed.remove(&name);
        self.unsaved.insert(name.clone());
        self.look_again();
        self.reported.remove(&name);
        self.assume_granted(&name, &content, size, version);
    }

    /// Nodes that store the claim hold it for this peer's.
    pub(crate) fn on_claimed(&mut self, claim: Claim) {
        let Entry { name, content, size, version, .. } = claim.entry.clone();
        self.assume(&name, Assumed { content, size, standing: Standing::Claimed(version) });
        self.claims.insert(name, claim);
    }

    /// The name is another's, by certificate or by an earlier claim.
    pub(crate) fn on_claim_lost(&mut self, name: &Name, content: ContentId, size: u64, owner: PeerId) {
        self.claims.remove(name);
        self.assume(name, Assumed { content, size, standing: Standing::Conflict(owner) });
    }

    /// In place of what the master said of the name.
    fn assume(&mut self, name: &Name, assumed: Assumed) {
        self.look_again();
        self.changed.mark(name);
        self.reported.remove(name);
        self.assumed.insert(name.clone(), assumed);
    }

    /// Whether this peer claimed anything.
    pub(crate) fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    /// Certificates and claims of names that are no longer shared, and claims beside what is granted: to be revoked
    /// and withdrawn by this peer.
    pub(crate) fn to_give_up(&self, is_shared: impl Fn(&Name) -> bool) -> (Vec<Certificate>, Vec<Claim>) {
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
    pub(crate) fn on_given_up(&mut self, statement: Statement) {
        let name = statement.name().clone();
        self.changed.mark(&name);
        if matches!(statement, Statement::Revocation(_)) || !self.holds(&name) {
            self.look_again();
            self.reported.remove(&name);
            self.assumed.remove(&name);
        }
        match statement {
            Statement::Revocation(revocation) => {
                // If the name is shared again, it has to stand above this.
                self.doubted.insert(name.clone());
                self.revocations.insert(name, revocation);
            }
            Statement::Claim(withdrawal) => {
                self.claims.insert(name, withdrawal);
            }
            Statement::Certificate(_) | Statement::Tombstone(_) => {}
        }
    }

    /// Everything that this peer has to say of its names, for the mirror; the last about a name counts.
    #[cfg(test)]
    pub(crate) fn statements(&self) -> impl Iterator<Item = Statement> + '_ {
        let certificates = self.certificates.iter();
        certificates
            .filter(|(name, _)| self.holds(name) && !self.unsealed.contains_key(*name))
            .map(|(_, certificate)| Statement::Certificate(certificate.clone()))
            .chain(self.revocations.values().cloned().map(Statement::Revocation))
            .chain(self.claims.values().cloned().map(Statement::Claim))
    }

    /// Which names this peer may have something else to say of than when this was last asked.
    pub(crate) fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// The names of which this peer may have something to say.
    pub(crate) fn said_names(&self) -> impl Iterator<Item = &Name> {
        self.certificates.keys().chain(self.revocations.keys()).chain(self.claims.keys())
    }

    /// What this peer has to say of one name, for the mirror: what [`Announcer::statements`] has of it.
    pub(crate) fn said(&self, name: &Name) -> Option<Statement> {
        let claim = || self.claims.get(name).cloned().map(Statement::Claim);
        let revocation = || self.revocations.get(name).cloned().map(Statement::Revocation);
        let sealed = self.holds(name) && !self.unsealed.contains_key(name);
        let certificate = || self.certificates.get(name).filter(|_| sealed).cloned();
        claim().or_else(revocation).or_else(|| certificate().map(Statement::Certificate))
    }

    /// What this peer says of one of its names that stands.
    pub(crate) fn statement(&self, name: &Name) -> Option<Statement> {
        match self.said_of(name)? {
            Standing::Certified(_) if self.unsealed.contains_key(name) => None,
            Standing::Certified(_) => self.certificates.get(name).cloned().map(Statement::Certificate),
            Standing::Claimed(_) => self.claims.get(name).cloned().map(Statement::Claim),
            Standing::Conflict(_) | Standing::Refused(_) => None,
        }
    }
}
