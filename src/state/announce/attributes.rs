//! What the master knows of files beside their bytes.

use swarmdex_protocols::{Attributes, ContentId, Name};

use super::Announcer;

impl Announcer {
    /// Says, before a join, whether the master lacks attributes of files that it knows.
    pub(crate) fn set_bare(&mut self, bare: bool) {
        self.bare = bare;
    }

    /// What a master that knows just this content without being told of it in this session knows of the file beside its bytes:
    /// what it was told when it granted the name.
    pub(super) fn reported_attributes(&self, name: &Name, content: &ContentId, size: u64) -> Option<Attributes> {
        let held = self.certificates.get(name).filter(|_| !self.bare).map(|held| &held.entry);
        let fits = held.filter(|entry| entry.content == *content && entry.size == size);
        fits.and_then(|entry| entry.attributes.as_ref()).map(|signed| signed.said())
    }
}
