//! Lists that come in pages: what a search has found so far, and which names of this node a page is about.
//!
//! Between two pages anything may change, and a page may be a lie. A name is found once, at its latest version; a list
//! that does not come to its end is never taken for the whole.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use swarmdex_protocols::index::{Cursor, Page};
use swarmdex_protocols::limits::MAX_PAGE_ENTRIES;
use swarmdex_protocols::{Entry, Name, Pattern};

/// Most pages read for one search: twenty million names, 2,000 looked at for each page. A master that never ends its
/// pages cannot keep a search going.
pub(crate) const MAX_PAGES: usize = 10_000;

/// What follows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: everything was found, or as much as is wanted.
    End,
    /// The page at this cursor.
    Page(Cursor),
    /// The pages lead nowhere: what was found is not the whole.
    Astray,
}

/// What a search has found.
#[derive(Debug)]
pub(crate) struct Found {
    limit: usize,
    left: usize,
    cursor: Option<Cursor>,
    entries: BTreeMap<Name, Entry>,
}

impl Found {
    /// Nothing yet; at most `limit` names, in at most `pages` pages.
    pub(crate) fn new(limit: usize, pages: usize) -> Self {
        Self { limit, left: pages, cursor: None, entries: BTreeMap::new() }
    }

    /// Takes in the page that was asked for. Of its entries those count that match.
    pub(crate) fn add_page(&mut self, page: Page, pattern: &Pattern) -> Next {
        let matching = page.entries.into_iter().take(MAX_PAGE_ENTRIES).filter(|entry| pattern.matches(&entry.name));
        matching.for_each(|entry| self.add(entry));
        self.left = self.left.saturating_sub(1);
        match page.next {
            _ if self.missing() == 0 => Next::End,
            None => Next::End,
            // Only a page that goes on where the last one ended is worth another question.
            Some(_) if page.next == self.cursor || self.left == 0 => Next::Astray,
            Some(next) => {
                self.cursor = Some(next);
                Next::Page(next)
            }
        }
    }

    /// Takes in an entry, wherever it was found. A name that was given up and granted again between two pages comes
    /// twice: its latest version counts.
    pub(crate) fn add(&mut self, entry: Entry) {
        let room = self.missing() > 0;
        match self.entries.entry(entry.name.clone()) {
            Slot::Occupied(mut held) if held.get().version < entry.version => drop(held.insert(entry)),
            Slot::Vacant(slot) if room => drop(slot.insert(entry)),
            Slot::Occupied(_) | Slot::Vacant(_) => {}
        }
    }

    /// Where the next page begins.
    #[cfg(test)]
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    /// How many more names are wanted.
    pub(crate) fn missing(&self) -> usize {
        self.limit - self.entries.len()
    }

    /// All that was found, sorted by name.
    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries.into_values().collect()
    }
}

/// The order in which this node tells others of its names: that of their hashes. A name has its place there whatever
/// else comes and goes, so a cursor stays where it is while the share changes.
#[derive(Debug, Default)]
pub(crate) struct NamePlaces {
    /// Each place with the index of its name.
    order: Vec<(u64, usize)>,
}

impl NamePlaces {
    /// The places of these names.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a Name>) -> Self {
        let mut order: Vec<_> = names.into_iter().enumerate().map(|(index, name)| (place(name), index)).collect();
        order.sort_unstable();
        Self { order }
    }

    /// The names of the page that begins at `cursor`, by their indexes, at most `most` of them. Each comes with the
    /// cursor behind it; `None` behind the last of all.
    pub(crate) fn page(&self, cursor: Option<Cursor>, most: usize) -> impl Iterator<Item = (usize, Option<Cursor>)> {
        let first = cursor.map_or(0, |Cursor(last)| self.order.partition_point(|(place, _)| *place <= last));
        let end = first.saturating_add(most).min(self.order.len());
        (first..end).map(|at| {
            let (place, index) = self.order[at];
            (index, (at + 1 < self.order.len()).then_some(Cursor(place)))
        })
    }
}

/// The beginning of a name's hash. Two of 200,000 names share a place once in a thousand million shares: the second is
/// then left out if a page ends between them.
fn place(name: &Name) -> u64 {
    let hash = blake3::hash(name.as_str().as_bytes());
    u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))
}

/// A part of a list that is dealt with a part at a time: `most` items, beginning behind the last one of the part
/// before, and again from the front. Items that fail again and again keep none of the others waiting. The list is
/// sorted by `key`.
pub(crate) fn part<T, K: Ord + Clone>(
    mut items: Vec<T>,
    last: &mut Option<K>,
    most: usize,
    key: impl Fn(&T) -> &K,
) -> Vec<T> {
    if items.len() > most {
        let first = last.as_ref().map_or(0, |last| items.partition_point(|item| key(item) <= last));
        items.rotate_left(first);
        items.truncate(most);
    }
    *last = items.last().map(|item| key(item).clone());
    items
}

#[cfg(test)]
mod tests;
