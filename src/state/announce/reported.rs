//! What the master answered in the present session, name by name, with the sum of what it granted.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use swarmdex_protocols::index::{ShareDigest, ShareSum};
use swarmdex_protocols::{Attributes, ContentId, Name, Version};

use super::Standing;

/// The master's answer about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MasterAnswer {
    pub(super) content: ContentId,
    pub(super) size: u64,
    /// What the master was told of the file beside its bytes.
    pub(super) attributes: Option<Attributes>,
    pub(super) standing: Standing,
    /// Wall clock when the certificate was signed, in milliseconds since 1970; 0 if there is none.
    pub(super) sealed_ms: u64,
    /// When it was given.
    pub(super) at: Instant,
}

impl MasterAnswer {
    /// The version at which the name was granted.
    pub(super) fn granted(&self) -> Option<Version> {
        match self.standing {
            Standing::Certified(version) => Some(version),
            _ => None,
        }
    }

    fn digest(&self, name: &Name) -> Option<ShareDigest> {
        self.granted().map(|version| ShareDigest::of(name.as_str(), &self.content, self.size, version))
    }
}

/// What the master was told and answered since the last join. Only its answers get in here: what this node
/// believes for other reasons (its certificates, its claims) is kept apart, and never counts as told.
#[derive(Debug, Default)]
pub(super) struct Reported {
    answers: BTreeMap<Name, MasterAnswer>,
    granted: ShareSum,
}

impl Reported {
    pub(super) fn get(&self, name: &Name) -> Option<&MasterAnswer> {
        self.answers.get(name)
    }

    pub(super) fn insert(&mut self, name: Name, answer: MasterAnswer) {
        self.remove(&name);
        if let Some(digest) = answer.digest(&name) {
            self.granted.add(&digest);
        }
        self.answers.insert(name, answer);
    }

    pub(super) fn remove(&mut self, name: &Name) -> Option<MasterAnswer> {
        let answer = self.answers.remove(name)?;
        if let Some(digest) = answer.digest(name) {
            self.granted.remove(&digest);
        }
        Some(answer)
    }

    /// Everything, taken out.
    pub(super) fn take(&mut self) -> BTreeMap<Name, MasterAnswer> {
        self.granted = ShareSum::default();
        std::mem::take(&mut self.answers)
    }

    /// Forgets what the master did not grant.
    pub(super) fn forget_losses(&mut self) {
        self.answers.retain(|_, answer| answer.granted().is_some());
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &MasterAnswer)> {
        self.answers.iter()
    }

    /// The sum of what was granted.
    pub(super) fn granted(&self) -> ShareSum {
        self.granted
    }

    /// What was granted, by digest, in order from one name on to before another.
    pub(super) fn range<'a>(
        &'a self,
        from: &str,
        to: Option<&str>,
    ) -> impl Iterator<Item = (&'a Name, ShareDigest)> + use<'a> {
        let begin = Bound::Included(from);
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        // A range that ends before it begins has no names; the map would not take it.
        let order = to.is_none_or(|to| from <= to);
        let names = order.then(|| self.answers.range::<str, _>((begin, end)));
        names.into_iter().flatten().filter_map(|(name, answer)| answer.digest(name).map(|digest| (name, digest)))
    }
}
