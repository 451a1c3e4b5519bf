//! A peer that is back with the share that it left with: what is granted again, and the seals that follow.

use std::collections::BTreeSet;

use swarmdex_protocols::index::{Returned, Sealed};
use swarmdex_protocols::{Certificate, ContentId, Entry, Name};

use super::{Announcer, MasterAnswer, Standing};
use crate::state::Now;

impl Announcer {
    /// Whether this peer has said nothing of its names that the master does not know: then it may have back at once
    /// what it left with. Others may know something later than its certificates, for the master ended them.
    pub(crate) fn may_return(&self) -> bool {
        self.claims.is_empty() && self.revocations.is_empty()
    }

    /// A part of what this peer left with is granted again. `share` is what the join told of, sorted by name. False if
    /// the answer cannot be right.
    pub(crate) fn on_returned<'a>(
        &mut self,
        share: impl IntoIterator<Item = (&'a Name, &'a ContentId, u64)>,
        returned: &Returned,
        now: Now,
    ) -> bool {
        let Returned { version, through, except } = returned;
        if !self.reporting || through.as_ref().is_some_and(|through| *through <= self.returned) {
            return false;
        }
        let except: BTreeSet<_> = except.iter().map(String::as_str).collect();
        let before = self.returned.clone();
        let part = share.into_iter().skip_while(|(name, ..)| *name.as_str() <= *before);
        let part =
            part.take_while(|(name, ..)| through.as_ref().is_none_or(|through| name.as_str() <= through.as_str()));
        let granted = part.filter(|(name, ..)| !except.contains(name.as_str()));
        for (name, content, size) in granted {
            let standing = Standing::Certified(*version);
            let attributes = self.reported_attributes(name, content, size);
            let answer =
                MasterAnswer { content: *content, size, attributes, standing, sealed_ms: u64::MAX, at: now.mono };
            // What was believed before, and its certificate, count no more.
            self.changed.mark(name);
            self.reported.insert(name.clone(), answer);
            self.unsealed.insert(name.clone(), *version);
            // The version is above all that this master said. If there is something later, others say so again.
            self.doubted.remove(name);
        }
        match through {
            Some(through) => self.returned.clone_from(through),
            None => self.on_whole(),
        }
        true
    }

    /// The first name whose seal is to be asked for.
    pub(crate) fn first_unsealed(&self) -> Option<&Name> {
        self.unsealed.keys().next()
    }

    /// The seals of names from the first on that has none. What the master does not say is offered again. False if the
    /// answer leads nowhere.
    pub(crate) fn on_sealed(&mut self, sealed: Vec<Sealed>) -> bool {
        let Some(first) = self.first_unsealed().cloned() else { return true };
        let last = sealed.last().map(|last| last.name.clone());
        for Sealed { name, version, seal } in sealed {
            let Ok(name) = Name::parse(&name) else { continue };
            if self.unsealed.get(&name) != Some(&version) {
                continue;
            }
            // Told of just that version; if not, it is not this peer's any more, or is being told anew.
            let Some(answer) = self.reported.get(&name).filter(|answer| answer.granted() == Some(version)).cloned()
            else {
                continue;
            };
            let MasterAnswer { content, size, .. } = answer;
            // Signed for an earlier certificate of the same content, and as good for this one.
            let before = self.certificates.get(&name).map(|held| &held.entry);
            let before = before.filter(|before| before.content == content && before.size == size);
            let attributes = before.and_then(|before| before.attributes.clone());
            let entry = Entry { name: name.clone(), content, size, owner: self.local, version, attributes };
            self.reported.insert(name.clone(), MasterAnswer { sealed_ms: seal.issued_ms, ..answer });
            self.certificates.insert(name.clone(), Certificate { entry, seal });
            self.unsealed.remove(&name);
            self.changed.mark(&name);
            self.unsaved.insert(name);
        }
        // The master does not hold the names that the answer passes over. If it has no more, these are all that are
        // left.
        let left_out = self.unsealed.range(first.clone()..);
        let left_out: Vec<_> = left_out
            .map(|(name, _)| name)
            .take_while(|name| last.as_ref().is_none_or(|last| name.as_str() <= last.as_str()))
            .cloned()
            .collect();
        for name in left_out {
            self.look_again();
            self.changed.mark(&name);
            self.reported.remove(&name);
            self.forget(&name);
        }
        self.first_unsealed() != Some(&first)
    }
}
