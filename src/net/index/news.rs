//! What is told of members to whoever follows them from outside of the loop.

use std::sync::Arc;

use swarmdex_protocols::PeerId;

use super::Master;

/// What became of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberChange {
    /// It joined, or said anew where it listens.
    Joined,
    /// It left.
    Left,
    /// Its lease is over.
    Evicted,
    /// It does not answer.
    Suspect,
    /// It was suspect, and answers.
    Alive,
}

/// Hears of each change. It is called by the loop, and must not wait for anything.
pub(crate) type MemberChanges = Arc<dyn Fn(PeerId, MemberChange) + Send + Sync>;

/// Who hears of changes, if anybody does.
#[derive(Default)]
pub(super) struct News(Option<MemberChanges>);

impl News {
    pub(super) fn tell(&self, peer: &PeerId, change: MemberChange) {
        if let Some(changes) = &self.0 {
            changes(*peer, change);
        }
    }
}

impl Master {
    /// Has every change of a member told from now on.
    pub(crate) fn tell_changes(&mut self, changes: MemberChanges) {
        self.news = News(Some(changes));
    }
}
