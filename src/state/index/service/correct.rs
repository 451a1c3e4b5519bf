//! Puts right what is counted of members whose rows somebody else changed.

use std::collections::{BTreeMap, BTreeSet};

use swarmdex_protocols::PeerId;
use swarmdex_protocols::index::{ShareDigest, ShareSum};

use super::{Authority, Execution, Service};
use crate::state::index::{IndexTable, Moment};
use crate::state::lease::Holding;

/// What is wrong with the account of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Correction {
    /// The member.
    pub peer: PeerId,
    /// Names to add, or to take away if negative.
    pub names: i64,
    /// To be added to the digest.
    pub digest: ShareDigest,
    /// Whether the member has a row of its own; if not, only names of its are there.
    pub known: bool,
}

/// Where what is kept of members is not what their rows come to.
///
/// The difference stays the same whatever is changed after both were read at once, since digests are sums.
pub(crate) fn corrections(kept: &BTreeMap<PeerId, ShareSum>, counted: &BTreeMap<PeerId, ShareSum>) -> Vec<Correction> {
    let peers = kept.keys().chain(counted.keys()).copied().collect::<BTreeSet<_>>();
    let corrections = peers.into_iter().filter_map(|peer| {
        let known = kept.contains_key(&peer);
        let [before, now] = [kept, counted].map(|sums| sums.get(&peer).copied().unwrap_or_default());
        let mut digest = before.digest;
        digest.join(&now.digest);
        let names = now.entries.cast_signed().wrapping_sub(before.entries.cast_signed());
        (before != now).then_some(Correction { peer, names, digest, known })
    });
    corrections.collect()
}

impl<A: Authority> Service<A> {
    /// Puts the account of one member right. What it holds then; `None` if it is no member any more.
    pub(crate) fn correct<T: IndexTable>(
        &mut self,
        table: &mut T,
        correction: &Correction,
        at: Moment,
    ) -> Result<Option<(PeerId, Holding)>, T::Error> {
        let Correction { peer, names, digest, known } = correction;
        let mut execution = Execution { service: self, table, at };
        if !known && execution.find(*peer)?.is_none() {
            // Its names are here: it gets a lease to come back in.
            execution.insert_stranger(*peer)?;
        }
        let Some(mut member) = execution.find(*peer)? else { return Ok(None) };
        member.held.entries = member.held.entries.saturating_add_signed(*names);
        member.held.digest.join(digest);
        execution.table.set_held(peer, &member.held)?;
        Ok(Some((*peer, execution.holding(&member))))
    }
}
