//! Peers that come back with the share that they left with: what of it is granted again at once.
//!
//! A name that its owner leaves with is free, and anybody may take it. The index remembers beside its tombstone what
//! the name stood for, and what the peer held in all. If the peer joins with just that, it is told only which names it
//! did not get. One version, higher than every tombstone, serves for all others.

use swarmdex_protocols::index::ShareSum;
use swarmdex_protocols::{Entry, Version};

use super::{IndexView, NameLimits};

/// What a peer held when it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Departure {
    /// All of it. As it comes back, what has been dealt with is taken out: nothing is left at the end, or something else was
    /// remembered than the peer left with.
    pub sum: ShareSum,
    /// The version at which it is granted again; none before the peer is back.
    pub version: Option<Version>,
}

impl Departure {
    /// The peer joins, at most once: with a share of this sum. What it left with is granted again at `version` if that is
    /// just the same; whoever comes with another share reports it.
    pub(crate) fn on_joined(self, share: &ShareSum, version: Version) -> Option<Self> {
        let returns = self.version.is_none() && self.sum == *share;
        returns.then_some(Self { version: Some(version), ..self })
    }

    /// A name is dealt with.
    pub(crate) fn take(&mut self, entry: &Entry) {
        self.sum.remove(&entry.digest());
    }

    /// Whether just what the peer left with was dealt with, no less and nothing else.
    pub(crate) fn is_whole(&self) -> bool {
        self.sum == ShareSum::default()
    }
}

/// A name that its owner left with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Left {
    /// What it stood for.
    pub entry: Entry,
    /// Version of the tombstone.
    pub ended: Version,
}

/// What a name stands for again, at this version. `None` if it has to be offered by itself: another took it, there is
/// no room, or more happened to it than that its owner left.
pub(crate) fn grant_again<V: IndexView>(
    view: &V,
    left: &Left,
    version: Version,
    limits: &NameLimits,
) -> Result<Option<Entry>, V::Error> {
    let Entry { name, owner, .. } = &left.entry;
    let as_it_was = view.ended(name)? == Some(left.ended) && left.entry.version < left.ended && left.ended < version;
    if !as_it_was || view.entry(name)?.is_some() || view.damaged(name)?.is_some() {
        return Ok(None);
    }
    let of_peer = view.names_of(owner)?;
    let of_address = of_peer + view.names_of_neighbours(owner)?;
    let room = view.names()? < limits.names && of_peer < limits.names_per_peer && of_address < limits.names_per_ip;
    Ok(room.then(|| Entry { version, ..left.entry.clone() }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use swarmdex_protocols::{ContentId, Name, PeerId};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct View {
        entry: Option<Entry>,
        ended: Option<Version>,
        damaged: Option<PeerId>,
        names: u64,
    }

    impl IndexView for View {
        type Error = Infallible;

        fn entry(&self, _: &Name) -> Result<Option<Entry>, Infallible> {
            Ok(self.entry.clone())
        }

        fn names_of(&self, _: &PeerId) -> Result<u64, Infallible> {
            Ok(self.names)
        }

        fn names_of_neighbours(&self, _: &PeerId) -> Result<u64, Infallible> {
            Ok(0)
        }

        fn names(&self) -> Result<u64, Infallible> {
            Ok(self.names)
        }

        fn last_version(&self) -> Result<Version, Infallible> {
            Ok(Version(20))
        }

        fn ended(&self, _: &Name) -> Result<Option<Version>, Infallible> {
            Ok(self.ended)
        }

        fn damaged(&self, _: &Name) -> Result<Option<PeerId>, Infallible> {
            Ok(self.damaged)
        }

        fn reported(&self, _: &PeerId) -> Result<bool, Infallible> {
            Ok(false)
        }
    }

    const LIMITS: NameLimits = NameLimits { names_per_peer: 4, names_per_ip: 4, names: 9 };

    fn entry(version: u64) -> Entry {
        let name = Name::parse("name").unwrap();
        Entry {
            name,
            content: ContentId::of(b"x"),
            size: 1,
            owner: PeerId::random(),
            version: Version(version),
            attributes: None,
        }
    }

    #[test]
    fn a_name_comes_back_only_if_nothing_happened_but_that_its_owner_left() {
        let left = Left { entry: entry(3), ended: Version(5) };
        let free = View { ended: Some(Version(5)), names: 3, ..View::default() };
        let again = |view: &View, version: u64| grant_again(view, &left, Version(version), &LIMITS).unwrap();
        assert_eq!(again(&free, 6), Some(Entry { version: Version(6), ..left.entry.clone() }));
        assert_eq!(again(&free, 5), None, "not above its tombstone");
        let others = [
            View { entry: Some(entry(6)), ..free.clone() },
            View { entry: Some(Entry { version: Version(6), ..left.entry.clone() }), ..free.clone() },
            View { ended: None, ..free.clone() },
            // Taken by another and given up again.
            View { ended: Some(Version(7)), ..free.clone() },
            View { damaged: Some(PeerId::random()), ..free.clone() },
            View { names: 4, ..free.clone() },
        ];
        for view in others {
            assert_eq!(again(&view, 8), None, "{view:?}");
        }
    }

    #[test]
    fn a_share_comes_back_only_as_it_left_and_once() {
        let (a, b) = (entry(3), entry(4));
        let mut sum = ShareSum::default();
        [&a, &b].into_iter().for_each(|entry| sum.add(&entry.digest()));
        let left = Departure { sum, version: None };
        let mut other = sum;
        other.remove(&b.digest());
        assert_eq!(left.on_joined(&other, Version(9)), None);
        let mut back = left.on_joined(&sum, Version(9)).unwrap();
        assert_eq!(back.version, Some(Version(9)));
        assert_eq!(back.on_joined(&sum, Version(10)), None, "once");
        back.take(&a);
        assert!(!back.is_whole());
        let mut spoiled = back;
        spoiled.take(&entry(5));
        assert!(!spoiled.is_whole(), "another name than that it left with");
        back.take(&b);
        assert!(back.is_whole());
    }
}
