//! What a command says of many files: a line for all of them, and each one that needs somebody's attention, as far as a
//! person reads on. `--verbose` says all of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Failure;
use super::output::{self, note, size};
use crate::node::{FailedFile, RevokedInfo, ShareReport, SharedInfo, Standing};

/// Lines of one kind that are printed without `--verbose`.
const LISTED: usize = 10;

/// Those of a list that are said one by one, and how many are left.
pub(super) fn listed<T>(all: &[T], verbose: bool) -> (&[T], usize) {
    let listed = if verbose { all.len() } else { all.len().min(LISTED) };
    (all.get(..listed).unwrap_or(all), all.len() - listed)
}

/// What of a share is said one by one, and the line for what lies in folders.
pub(super) fn shared(paths: &[PathBuf], report: &ShareReport, verbose: bool) -> (Vec<SharedInfo>, Option<String>) {
    let folders: Vec<_> = paths.iter().filter(|path| path.is_dir()).collect();
    if verbose || folders.is_empty() {
        return (report.entries.clone(), None);
    }
    let (files, below): (Vec<_>, Vec<_>) =
        report.entries.iter().cloned().partition(|entry| paths.contains(&entry.path));
    let whole = match folders.as_slice() {
        [folder] => folder.display().to_string(),
        more => format!("{} folders", more.len()),
    };
    let lost: Vec<_> = below.iter().filter(|entry| is_lost(&entry.standing)).cloned().collect();
    let (lost, left) = listed(&lost, false);
    let line = format!("{whole}: {}{}", counted(&below), more(left, "of these"));
    (files.into_iter().chain(lost.iter().cloned()).collect(), Some(line))
}

fn is_lost(standing: &Standing) -> bool {
    matches!(standing, Standing::Conflict { .. } | Standing::Refused { .. })
}

/// `3 files, 1.5 KiB: 2 certified, 1 of others`.
fn counted(entries: &[SharedInfo]) -> String {
    let bytes: u64 = entries.iter().map(|entry| entry.entry.size).sum();
    let word = |standing: &Standing| match standing {
        Standing::Certified => "certified",
        Standing::Unconfirmed => "unconfirmed",
        Standing::Claimed => "claimed until the master is back",
        Standing::Pending => "waiting for the master",
        Standing::Conflict { .. } => "of others",
        Standing::Refused { .. } => "refused",
    };
    let mut counts = BTreeMap::<_, usize>::new();
    for entry in entries {
        *counts.entry(word(&entry.standing)).or_default() += 1;
    }
    let counts = counts.into_iter().map(|(word, count)| format!("{count} {word}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let files = files(entries.len());
    if counts.is_empty() { files } else { format!("{files}, {}: {counts}", size(bytes)) }
}

/// `1 file`, `2 files`.
pub(super) fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn more(left: usize, what: &str) -> String {
    if left == 0 { String::new() } else { format!(" ({left} {what} are not listed; --verbose lists all)") }
}

/// Says what was left out of a share.
pub(super) fn note_skipped(report: &ShareReport, verbose: bool) {
    note_each(&report.skipped, verbose, "not shared", |skipped| {
        format!("{}: {}", skipped.path.display(), skipped.reason)
    });
}

/// Says which files are being written to, and what that means.
pub(super) fn note_written(report: &ShareReport, verbose: bool) {
    note_each(&report.written, verbose, "open for writing", |written| {
        format!(
            "{} by {} ({}): what it changes through memory shows in no time of the file; share a copy or a snapshot, or it again by \
             --rehash when it is at rest",
            written.path.display(),
            written.program,
            written.pid
        )
    });
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

/// Prints what became of names that were given up.
pub(super) fn print_revoked(revoked: &[RevokedInfo], json: bool, verbose: bool) -> Result<(), Failure> {
    if json {
        return output::json(&revoked);
    }
    if revoked.len() > LISTED && !verbose {
        let untold = revoked.iter().filter(|name| !name.acknowledged).count();
        let end = if untold > 0 { format!("  (the master will be told of {untold})") } else { String::new() };
        return output::line(&format!("{} names given up{end}", revoked.len()));
    }
    for name in revoked {
        let end = if name.acknowledged { "" } else { "  (the master will be told)" };
        output::line(&format!("{}{end}", name.name))?;
    }
    Ok(())
}

/// Says which files failed; the exit code is that of the first.
pub(super) fn fail_for(failed: &[FailedFile], verbose: bool) -> Result<(), Failure> {
    let (some, left) = listed(failed, verbose);
    for file in some {
        note(&format!("{}: {}", file.name, file.message));
    }
    if left > 0 {
        note(&format!("{left} more files failed; --verbose names them"));
    }
    failed.first().map_or(Ok(()), |file| Err(Failure::Said(file.kind)))
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::{ContentId, Name, PeerId, Version};

    use super::*;
    use crate::node::EntryInfo;

    fn entry(path: PathBuf, standing: Standing) -> SharedInfo {
        let entry = EntryInfo {
            name: Name::parse("name").unwrap(),
            content: ContentId::of(b""),
            size: 512,
            owner: PeerId::random(),
            version: Version(1),
        };
        SharedInfo { entry, standing, path, suspended: false }
    }

    #[test]
    fn a_folder_has_one_line_and_what_needs_attention_is_listed_as_far_as_a_person_reads() {
        let folder = tempfile::TempDir::new().unwrap();
        let (below, single) = (folder.path().to_owned(), PathBuf::from("/elsewhere/file"));
        let refused = || Standing::Refused { reason: "why".to_owned() };
        let mut entries: Vec<_> = (0..3000).map(|n| entry(below.join(n.to_string()), Standing::Certified)).collect();
        entries.extend((0..25).map(|n| entry(below.join(format!("r{n}")), refused())));
        entries.push(entry(single.clone(), Standing::Certified));
        let report = ShareReport { entries, ..ShareReport::default() };
        let (some, line) = shared(&[below.clone(), single.clone()], &report, false);
        let expected = format!(
            "{}: 3025 files, 1.5 MiB: 3000 certified, 25 refused (15 of these are not listed; --verbose lists all)",
            below.display()
        );
        assert_eq!((some.len(), line), (1 + LISTED, Some(expected)));
        assert_eq!(some[0].path, single);
        assert_eq!(shared(&[below], &report, true), (report.entries.clone(), None));
        assert_eq!(shared(&[single], &report, false), (report.entries.clone(), None));
    }

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
}
