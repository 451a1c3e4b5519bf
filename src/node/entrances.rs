//! Bootstrap addresses that lead nowhere: whoever finds no master is told of them.

use std::sync::{Arc, Mutex};

use crate::locks::lock;

/// Addresses that are named in an error.
const MAX_NAMED: usize = 4;

/// What the last attempt to enter the network came to. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Entrances(Arc<Mutex<Vec<String>>>);

impl Entrances {
    /// An attempt is over. `failed` says what each address came to that could not be reached; one that was reached is enough.
    pub(super) fn on_tried(&self, reached: usize, mut failed: Vec<String>) {
        failed.truncate(if reached == 0 { MAX_NAMED } else { 0 });
        *lock(&self.0) = failed;
    }

    /// What is wrong with the addresses; `None` if one leads into the network, or none was tried.
    pub(super) fn reason(&self) -> Option<String> {
        let failed = lock(&self.0);
        (!failed.is_empty()).then(|| failed.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_all_lead_nowhere_are_named() {
        let entrances = Entrances::default();
        let failed = |count: usize| (0..count).map(|number| format!("{number}: refused")).collect();
        assert_eq!(entrances.reason(), None);
        entrances.on_tried(0, failed(2));
        assert_eq!(entrances.reason().as_deref(), Some("0: refused; 1: refused"));
        entrances.on_tried(0, failed(100));
        assert_eq!(entrances.reason().unwrap().split(';').count(), MAX_NAMED);
        entrances.on_tried(1, failed(1));
        assert_eq!(entrances.reason(), None, "one is enough");
    }
}
