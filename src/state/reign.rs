//! Two masters with one key: a data directory was restored while the old machine still runs, or comes back. Both would certify, each
//! for its own peers, and a name would have two owners. So the one with the older index gives way.

use swarmdex_protocols::index::Reign;

/// Whether this master gives way to another with its key. Of any two just one does, whoever looks.
///
/// The one that began later gives way if the other has gone on since: its index is a copy of before. If it has not, this index is
/// the later one, and the other gives way. Ages are compared and not dates: clocks differ.
pub(crate) fn gives_way(own: &Reign, other: &Reign) -> bool {
    if is_later(own, other) { own.first <= other.last } else { other.first > own.last }
}

fn is_later(own: &Reign, other: &Reign) -> bool {
    (other.age_ms, other.run.0) > (own.age_ms, own.run.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use swarmdex_protocols::Version;
    use swarmdex_protocols::index::Run;

    use super::*;

    fn reign(run: u64, age_ms: u64, first: u64, last: u64) -> Reign {
        Reign { run: Run(run), age_ms, first: Version(first), last: Version(last) }
    }

    #[test]
    fn the_copy_of_before_gives_way() {
        // A copy of the directory at version 50, started while the old machine goes on.
        let (old, copy) = (reign(1, 9000, 10, 70), reign(2, 500, 50, 80));
        assert!(gives_way(&copy, &old) && !gives_way(&old, &copy));
        // The old machine comes back after its replacement went on.
        let (replacement, old) = (reign(1, 9000, 50, 90), reign(2, 500, 60, 60));
        assert!(gives_way(&old, &replacement) && !gives_way(&replacement, &old));
        // One whose index ends before the other began is of before, however long it runs.
        let (stale, later) = (reign(1, 9000, 10, 20), reign(2, 500, 50, 60));
        assert!(gives_way(&stale, &later) && !gives_way(&later, &stale));
    }

    proptest! {
        #[test]
        fn of_two_just_one_gives_way(
            (one, other) in (any::<(u64, u64, u64)>(), any::<(u64, u64, u64)>()),
            equal in any::<bool>(),
        ) {
            let of = |run, (age, first, more): (u64, u64, u64)| reign(run, age, first >> 2, (first >> 2) + (more >> 2));
            let one_reign = of(1, one);
            let other_reign = of(2, if equal { one } else { other });
            prop_assert_ne!(gives_way(&one_reign, &other_reign), gives_way(&other_reign, &one_reign));
        }
    }
}
