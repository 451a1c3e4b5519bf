//! What this node holds of what another node said, for that node to compare.

use swarmdex_protocols::check::{self, Held, KeyMark, KeyRange, KeysCompared};
use swarmdex_protocols::{Ledger, PeerId, RecordKey, Statement};

use super::Records;

/// Who sent a statement, and its mark; zeros if there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Said {
    by: u64,
    mark: KeyMark,
}

/// What owners said of a name. A tombstone does not tell who its master is, and masters send theirs by themselves.
pub(super) fn said(key: &RecordKey, ledger: &Ledger) -> [Said; 2] {
    let said = |statement: &Statement| match statement {
        Statement::Tombstone(_) => Said::default(),
        _ => Said { by: check::tag(statement.owner()), mark: KeyMark::statement(key, statement) },
    };
    let claim = ledger.claim().cloned().map(Statement::Claim);
    [ledger.settled().map(said).unwrap_or_default(), claim.as_ref().map(said).unwrap_or_default()]
}

impl Records {
    /// Compares what `sender` said in ranges of keys, which are in order, with what is held of it. One look through
    /// the keys of the ranges; the answer has a bounded number of items, `most`. And how many entries were looked at.
    pub(crate) fn compare(&self, sender: &PeerId, ranges: &[KeyRange], most: usize) -> (Vec<KeysCompared>, usize) {
        let (by, mut room, mut looked) = (check::tag(sender), most, 0);
        let compare = |range: &KeyRange| {
            if range.from > range.to {
                return KeysCompared::Same;
            }
            let slots = self.slots.range(range.from..=range.to).inspect(|_| looked += 1);
            let said = slots.flat_map(|(_, slot)| slot.said).filter(|said| said.by == by && *said != Said::default());
            let statements = said.map(|said| said.mark).collect();
            let provided: Vec<_> = self.providers.of(sender, range.from, range.to).collect();
            looked += provided.len();
            check::compare(range, Held { statements, provided }, &mut room)
        };
        (ranges.iter().map(compare).collect(), looked)
    }
}
