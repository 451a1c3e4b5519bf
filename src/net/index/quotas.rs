//! How many requests may wait, and how many members may come: by peer, by address, and in all.

use swarmdex_protocols::address::{Source, ip_of};

use super::*;

impl Master {
    pub(super) fn check_pending(&self, peer: &PeerId, source: Option<Source>) -> Outcome<()> {
        let of_peer = self.origins.waiting(peer);
        if of_peer >= self.limits.pending_per_peer {
            let reason = format!("{of_peer} requests of this peer are waiting, the most that one peer may have");
            return Err(Refusal::new(RefusalCode::Quota, reason));
        }
        if let Some(source) = source
            && self.origins.waiting_at(&source) >= self.limits.pending_per_ip
        {
            let most = self.limits.pending_per_ip;
            let reason = format!("{most} requests from {source} are waiting, the most that one address may have");
            return Err(Refusal::new(RefusalCode::Busy, reason));
        }
        if self.origins.total() >= self.limits.pending {
            let reason = format!("{} requests are waiting, the most that the master takes in", self.origins.total());
            return Err(Refusal::new(RefusalCode::Busy, reason));
        }
        Ok(())
    }

    /// Names that the other members of a member's address hold.
    pub(super) fn names_of_neighbours(&self, peer: &PeerId) -> u64 {
        let neighbours = self.origins.neighbours(peer).filter_map(|other| self.leases.get(other));
        neighbours.map(|member| member.names()).sum()
    }

    /// Whether a peer may be a member beside the others of its address.
    pub(super) fn check_members(&self, peer: &PeerId, source: Option<Source>) -> Outcome<()> {
        let most = self.limits.peers_per_ip;
        match source.filter(|source| self.origins.others_at(source, peer) >= most) {
            Some(source) => {
                let reason = format!("{most} members come from {source}, the most that one address may have");
                Err(Refusal::new(RefusalCode::Quota, reason))
            }
            None => Ok(()),
        }
    }
}

/// What the address counts as from which a request came; none for the master itself.
pub(super) fn source_of(origin: Option<Origin<'_>>) -> Option<Source> {
    origin?.remote.and_then(ip_of).map(Source::of)
}
