//! Whether members can be reached, and members that call each other because they cannot be.

use swarmdex_protocols::index::{Call, Connect, Reach};

use super::*;
use crate::state::calls::Calls;
use crate::state::reach;

/// What is known of who can be reached.
#[derive(Default)]
pub(super) struct Reaching {
    pub(super) reach: reach::Reach,
    calls: Calls,
}

impl Master {
    /// A member joined with its addresses.
    pub(super) fn try_to_reach(&mut self, peer: PeerId, now: Instant) {
        let Some(member) = self.leases.get(&peer) else { return };
        if let Some(reachable) = self.reaching.reach.on_joined(peer, &member.addresses, now) {
            self.effects.push_back(Effect::Tell(peer, IndexRequest::Reach(Reach { reachable })));
        }
    }

    /// The members that are to be tried now.
    pub(super) fn try_next(&mut self, now: Instant) {
        while let Some((peer, addresses)) = self.reaching.reach.next(now) {
            self.effects.push_back(Effect::Try(peer, addresses));
        }
    }

    /// A connection to a member came about, or did not; `None` if none could be tried.
    pub(in crate::net) fn on_tried(&mut self, peer: &PeerId, reached: Option<bool>, now: Instant) {
        if self.reaching.reach.on_tried(peer, reached, now) {
            let reachable = reached == Some(true);
            if !reachable {
                tracing::info!(%peer, "no connection to a member comes about: it is behind a router or a firewall");
            }
            self.effects.push_back(Effect::Tell(*peer, IndexRequest::Reach(Reach { reachable })));
        }
    }

    /// A member has another one connect to it.
    pub(super) fn call(&mut self, from: PeerId, call: &Call, now: Instant) -> Outcome<IndexStep> {
        let not_found = || Refusal::new(RefusalCode::NotFound, "it is no member");
        let caller = self
            .leases
            .get(&from)
            .ok_or_else(|| Refusal::new(RefusalCode::NotJoined, "only members may have others connect to them"))?;
        let connect = Connect { peer: from, addresses: caller.addresses.clone() };
        self.leases.get(&call.peer).ok_or_else(not_found)?;
        if !self.reaching.calls.admit(from, call.peer, now) {
            return Err(Refusal::new(RefusalCode::Busy, "too many calls; try again"));
        }
        self.effects.push_back(Effect::Tell(call.peer, IndexRequest::Connect(connect)));
        Ok(IndexStep::Answer(IndexResponse::Done))
    }
}
