//! Certificates on disk: what has to be written there.

use std::collections::BTreeMap;

use swarmdex_protocols::{Certificate, Name};

use super::Announcer;

impl Announcer {
    /// Certificates to write to disk, or to delete there.
    pub(crate) fn take_unsaved(&mut self) -> Vec<(Name, Option<Certificate>)> {
        let names = std::mem::take(&mut self.unsaved);
        names.into_iter().map(|name| (name.clone(), self.certificates.get(&name).cloned())).collect()
    }

    /// Marks as unsaved what differs from what was found on disk; how many names that are.
    pub(crate) fn resave(&mut self, found: &BTreeMap<String, Option<Certificate>>) -> usize {
        let before = self.unsaved.len();
        let unsaved = &mut self.unsaved;
        let held = self.certificates.iter();
        unsaved.extend(
            held.filter(|(name, held)| found.get(name.as_str()) != Some(&Some((*held).clone())))
                .map(|(name, _)| name.clone()),
        );
        let gone = found.keys().filter(|name| !self.certificates.contains_key(name.as_str()));
        unsaved.extend(gone.filter_map(|name| Name::parse(name).ok()));
        unsaved.len() - before
    }
}
