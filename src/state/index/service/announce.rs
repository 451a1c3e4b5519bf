//! A member announces.

use std::collections::BTreeMap;

use swarmdex_protocols::index::{Offer, Refusal, RefusalCode, Session, ShareSum, Verdict};
use swarmdex_protocols::{Certificate, Entry, Name, PeerId, Statement, Tally};

use super::{Authority, Done, Execution, Failure, IndexNotice, Member};
use crate::state::index::rules::{Announced, Evidence, announce};
use crate::state::index::{IndexTable, MemberRow, WriteOutcome};
use crate::state::lease::Holding;

impl<A: Authority, T: IndexTable> Execution<'_, A, T> {
    pub(super) fn announce(
        &mut self,
        id: PeerId,
        offers: &[Offer],
        neighbours: u64,
        end: Option<Option<&ShareSum>>,
        mirror: &BTreeMap<Name, Tally>,
    ) -> Done<WriteOutcome, T::Error> {
        let mut member = self.member(id)?;
        self.service.reports.on_offers(&id, offers.len()).map_err(Failure::Refused)?;
        let mut verdicts = Vec::with_capacity(offers.len());
        let mut adopted = BTreeMap::new();
        for offer in offers {
            verdicts.push(self.offer(&mut member, offer, neighbours, mirror, &mut adopted)?);
        }
        if let Some(total) = end {
            if self.service.reports.on_end(id, total).map_err(Failure::Refused)? {
                self.free_unconfirmed(&mut member)?;
            } else if total.is_none() {
                self.service.authority.notice(&IndexNotice::ToldLess { peer: id });
            }
        }
        self.table.set_held(&id, &member.held)?;
        Ok(WriteOutcome::Announced { verdicts, holding: self.holding(&member), adopted })
    }

    fn offer(
        &mut self,
        member: &mut Member,
        offer: &Offer,
        neighbours: u64,
        mirror: &BTreeMap<Name, Tally>,
        adopted: &mut BTreeMap<PeerId, Holding>,
    ) -> Done<Verdict, T::Error> {
        let evidence = self.evidence(member.id, offer, mirror)?;
        let view = self.view(member, neighbours);
        let announced = announce(&view, member.id, offer, &evidence, &self.service.limits, self.at)?;
        Ok(match announced {
            Announced::Granted { entry, new } => {
                if new {
                    adopted.extend(self.displace(member, &entry.name)?);
                    self.put(member, &entry)?;
                } else if self.table.confirm(&entry.name, member.session)? {
                    // A name that was announced again as it is belongs to the present session.
                    self.service.reports.on_granted(&member.id, &entry.digest());
                }
                self.seal(*entry)
            }
            Announced::Adopt(entry) => {
                let owner = entry.owner;
                self.service.authority.notice(&IndexNotice::Adopted { name: &entry.name, owner });
                adopted.insert(owner, self.adopt(*entry)?);
                Verdict::Conflict { owner }
            }
            Announced::Conflict(owner) => Verdict::Conflict { owner },
            Announced::Refused(refusal) => Verdict::Refused(refusal),
        })
    }

    /// What is known of an offer beyond the index: what the mirror says, and its own certificate, checked. One that this
    /// index ended proves nothing, and is not worth the check: a peer that left in order comes with thousands of these.
    fn evidence(&self, id: PeerId, offer: &Offer, mirror: &BTreeMap<Name, Tally>) -> Result<Evidence, T::Error> {
        let Ok(name) = Name::parse(&offer.name) else { return Ok(Evidence::default()) };
        let mirror = mirror.get(&name).cloned().unwrap_or_default();
        let Some(granted) = &offer.granted else { return Ok(Evidence { mirror, granted: None }) };
        if self.table.ended(&name)? >= Some(granted.version) {
            return Ok(Evidence { mirror, granted: None });
        }
        let Offer { content, size, .. } = *offer;
        let entry = Entry { name, content, size, owner: id, version: granted.version, attributes: None };
        let signed = self.service.authority.signed(&Certificate { entry, seal: granted.seal.clone() });
        Ok(Evidence { mirror, granted: signed.then_some(granted.version) })
    }

    /// Takes a name from a member that another is about to get, since it was granted to that one later. What the member
    /// holds then.
    fn displace(&mut self, by: &Member, name: &Name) -> Done<Option<(PeerId, Holding)>, T::Error> {
        let Some(before) = self.table.take_up(name)?.filter(|before| before.entry.owner != by.id) else {
            return Ok(None);
        };
        let holder = before.entry.owner;
        self.service.authority.notice(&IndexNotice::Displaced { name, holder, by: by.id });
        let mut member = self.member(holder)?;
        self.service.before.push((holder, self.service.reports.of(&holder)));
        self.count_out(&mut member, &before);
        self.table.set_held(&holder, &member.held)?;
        Ok(Some((holder, self.holding(&member))))
    }

    /// Takes in a name of a peer that may be no member: it has a lease to come back in.
    fn adopt(&mut self, entry: Entry) -> Done<Holding, T::Error> {
        let owner = entry.owner;
        if self.table.member(&owner)?.is_none() {
            self.insert_stranger(owner)?;
        }
        // It did not announce the name in its present session: unless it does, the end of its report frees it.
        let mut member = Member { session: Session::default(), ..self.member(owner)? };
        self.put(&mut member, &entry)?;
        self.table.set_held(&owner, &member.held)?;
        self.seal(entry);
        Ok(self.holding(&member))
    }

    /// A peer of which only names are known.
    pub(super) fn insert_stranger(&mut self, peer: PeerId) -> Result<(), T::Error> {
        let row = MemberRow { session: Session::default(), held: ShareSum::default() };
        self.table.put_member(&peer, &row, &[])?;
        self.service.totals.peers += 1;
        Ok(())
    }

    /// Certifies an entry, and has the certificate published once it is in the table.
    fn seal(&mut self, entry: Entry) -> Verdict {
        let version = entry.version;
        match self.service.authority.certify(entry, self.at.unix_ms) {
            Some(certificate) => {
                let seal = certificate.seal.clone();
                self.service.made.push(Statement::Certificate(certificate));
                Verdict::Accepted { version, seal }
            }
            None => Verdict::Refused(Refusal::new(RefusalCode::Storage, "the master could not sign the entry")),
        }
    }

    /// Frees what a member did not announce in its present session.
    fn free_unconfirmed(&mut self, member: &mut Member) -> Result<(), T::Error> {
        for name in self.table.names_of(&member.id, Some(member.session), None)? {
            let version = self.at.version_after(self.service.totals.last);
            self.free(member, name, version, false)?;
        }
        Ok(())
    }
}
