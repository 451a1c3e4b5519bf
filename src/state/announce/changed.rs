//! Which names changed since they were last published.

use std::collections::BTreeSet;

use swarmdex_protocols::Name;

/// Names that are kept one by one; with more, all count as changed.
const MAX_NAMES: usize = 1 << 16;

/// The names that may have to be published otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// These.
    Names(BTreeSet<Name>),
    /// Any.
    All,
}

impl Default for Changed {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

impl Changed {
    /// One name more.
    pub(super) fn mark(&mut self, name: &Name) {
        let Self::Names(names) = self else { return };
        if names.len() >= MAX_NAMES && !names.contains(name) {
            *self = Self::All;
        } else {
            names.insert(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_all() {
        let mut changed = Changed::default();
        for number in 0..=MAX_NAMES {
            assert!(matches!(&changed, Changed::Names(names) if names.len() == number));
            changed.mark(&Name::parse(&format!("name {number}")).unwrap());
        }
        assert_eq!(changed, Changed::All);
    }
}
