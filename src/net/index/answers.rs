//! Answers to questions: what the store said, and how the members stand.

use super::*;

impl Master {
    /// To a question that the store answered.
    pub(super) fn answer(&self, read: ReadOutcome) -> IndexResponse {
        match read {
            ReadOutcome::Found { certificate, holders } => {
                IndexResponse::Found(Found { holders: self.holders(&certificate.entry.owner, holders), certificate })
            }
            ReadOutcome::Page(Page { entries, next }) => IndexResponse::Page(Page { entries, next }),
            ReadOutcome::NotFound => {
                IndexResponse::Refused(Refusal::new(RefusalCode::NotFound, "nobody holds that name"))
            }
            ReadOutcome::Sealed(sealed) => IndexResponse::Sealed(sealed),
            // Not asked for by any request.
            ReadOutcome::Tombstones(_) | ReadOutcome::Unknown(_) | ReadOutcome::Compared(_) => IndexResponse::Done,
        }
    }

    /// Members that have the content: those alive first, and the owner of the name first among equals.
    fn holders(&self, owner: &PeerId, peers: Vec<PeerId>) -> Vec<Member> {
        let mut holders: Vec<_> = peers.into_iter().filter_map(|peer| self.member(&peer)).collect();
        holders.sort_by_key(|holder| (holder.suspect, holder.peer != *owner));
        holders.truncate(MAX_HOLDERS);
        holders
    }

    fn member(&self, peer: &PeerId) -> Option<Member> {
        let record = self.leases.get(peer)?;
        Some(Member {
            peer: *peer,
            addresses: record.addresses.to_vec(),
            suspect: record.state == LeaseState::Suspect,
            entries: record.names(),
            reachable: self.reaching.reach.of(peer),
        })
    }

    pub(super) fn members(&self, after: Option<PeerId>) -> IndexResponse {
        let peers = self.leases.peers_after(after.as_ref()).take(MAX_MEMBERS);
        IndexResponse::Members(peers.filter_map(|peer| self.member(&peer)).collect())
    }
}
