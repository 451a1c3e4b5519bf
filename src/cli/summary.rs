//! What commands say alike: lists as far as a person reads on (`--verbose` says all of it), states in words.

use super::Failure;
use super::output::{self, Table, note, size};
use crate::node::{LeftOut, Listed, PeerState, SharedInfo, Standing};

/// Lines of one kind that are printed without `--verbose`.
pub(super) const LISTED: usize = 10;

/// The items of a list that are printed one by one, and how many are left over.
pub(super) fn listed<T>(all: &[T], verbose: bool) -> (&[T], usize) {
    let listed = if verbose { all.len() } else { all.len().min(LISTED) };
    (all.get(..listed).unwrap_or(all), all.len() - listed)
}

/// `1 file`, `2 files`.
pub(super) fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Says the same of each, as far as a person reads on.
pub(super) fn note_each<T>(all: &[T], verbose: bool, what: &str, text: impl Fn(&T) -> String) {
    let (some, left) = listed(all, verbose);
    for one in some {
        note(&format!("{what}: {}", text(one)));
    }
    if left > 0 {
        note(&format!("{what}: {left} more; --verbose names them"));
    }
}

/// Says that a list was cut. `most` is the longest that there is of its kind.
pub(super) fn there_are_more(listed: usize, most: Option<usize>) -> String {
    let listed = match listed {
        0 => "nothing is listed".to_owned(),
        listed => format!("only {listed} are listed"),
    };
    match most {
        Some(most) => format!("{listed}, and there are more: --limit lists up to {most}, more words find fewer"),
        None => format!("{listed}, and there are more: a higher --limit lists them"),
    }
}

/// Says so if a list was cut.
pub(super) fn note_cut<T>(list: &Listed<T>) {
    if list.more {
        note(&there_are_more(list.entries.len(), None));
    }
}

/// Lists names that a node shares.
pub(super) fn print_shared(shared: &[SharedInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&shared);
    }
    let mut table = Table::new(&["NAME", "SIZE", "STATE", "FILE"]);
    for entry in shared {
        let state = match &entry.standing {
            Standing::Pending => "waits for the master".to_owned(),
            Standing::Certified => "certified".to_owned(),
            Standing::Unconfirmed => "unconfirmed: granted, and the master did not say so lately".to_owned(),
            Standing::Claimed => "claimed until the master is back".to_owned(),
            Standing::Conflict { conflict_owner } => format!("belongs to {conflict_owner}"),
            Standing::Refused { reason } => format!("refused: {reason}"),
        };
        let state = if entry.suspended { format!("away, its name is kept: {state}") } else { state };
        table.row(&[entry.entry.name.as_str(), &size(entry.entry.size), &state, &entry.path.display().to_string()]);
    }
    table.print()
}

/// How the master sees a peer, in a word.
pub(super) fn state_word(state: PeerState) -> &'static str {
    match state {
        PeerState::Alive => "alive",
        PeerState::Suspect => "suspect",
    }
}

/// What is added where the master could not connect.
pub(super) fn unreached(reachable: Option<bool>) -> &'static str {
    if reachable == Some(false) { ", behind a router or firewall" } else { "" }
}

/// How much is left out, for people; `None` for nothing.
pub(super) fn left_out(left_out: &LeftOut) -> Option<String> {
    let parts = left_out.parts();
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_bounded_unless_all_is_asked_for() {
        for (length, verbose, expected) in
            [(0, false, (0, 0)), (10, false, (10, 0)), (11, false, (10, 1)), (11, true, (11, 0))]
        {
            let all = vec![(); length];
            let (some, left) = listed(&all, verbose);
            assert_eq!((some.len(), left), expected);
        }
    }

    #[test]
    fn what_is_left_out_is_said_in_words() {
        assert_eq!(left_out(&LeftOut::default()), None);
        let some = LeftOut { secrets: 2, hidden: 1, ..LeftOut::default() };
        assert_eq!(left_out(&some).unwrap(), "2 that may hold secrets, 1 hidden");
    }
}
