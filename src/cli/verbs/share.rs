//! `swarmdex share`: files and folders for the network.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Context, Verb};
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output::{self, Bar, note, size};
use crate::cli::shown::{NodeFlags, Shown};
use crate::cli::summary::{files, left_out, listed, note_each, print_shared};
use crate::cli::{Failure, absolute};
use crate::config::ShareOptions;
use crate::node::{Api, ErrorKind, ShareReport, SharedInfo, Standing};

/// Share files and folders with the network
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Share {
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// New name of the file, or what to put in front of the names in the folder
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Hash every file, also those whose times say that they have not changed since they were
    #[arg(long)]
    rehash: bool,
}

impl Verb for Share {
    const SHOWN: Shown = Shown { node: NodeFlags::Share, verbose: true, ..Shown::RUNNING };

    async fn run(self, context: &Context) -> Result<(), Failure> {
        let options = ShareOptions { selection: context.node.select.selection(), rehash: self.rehash };
        // What was hashed is not hashed again.
        interruptible(Rest::GoesOn, share(context, self.paths, self.name, options)).await
    }
}

async fn share(
    context: &Context,
    paths: Vec<PathBuf>,
    name: Option<String>,
    options: ShareOptions,
) -> Result<(), Failure> {
    let (client, json, verbose) = (context.running().await?, context.output.json, context.output.verbose);
    let paths = paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let mut operation = client.share_with(paths.clone(), name, options);
    let mut bar = Bar::new();
    let report = operation.follow(|progress| bar.show(&progress)).await;
    bar.finish();
    let report = report?;
    if json {
        output::json(&report)?
    } else {
        let (each, line) = shown(&paths, &report, verbose);
        print_shared(&each, false)?;
        line.map_or(Ok(()), |line| output::line(&line))?
    }
    note_skipped(&report, verbose);
    note_written(&report, verbose);
    if let Some(left_out) = left_out(&report.left_out) {
        note(&format!("left out: {left_out}; --hidden and --no-ignore share such files, too"));
    }
    let pending = report.entries.iter().filter(|entry| entry.standing == Standing::Pending).count();
    let claimed = report.entries.iter().filter(|entry| entry.standing == Standing::Claimed).count();
    if claimed > 0 {
        note(&format!("{claimed} names are claimed: the master cannot be reached, and certifies them when it is back"));
    }
    if pending > 0 {
        note(&format!("{pending} names wait for the master; 'swarmdex status' says how it stands"));
    }
    let lost = |kind| report.entries.iter().any(|entry| standing_kind(&entry.standing) == Some(kind));
    for kind in [ErrorKind::Conflict, ErrorKind::Other] {
        if lost(kind) {
            return Err(Failure::Said(kind));
        }
    }
    if report.skipped.iter().any(|skipped| skipped.failed) {
        return Err(Failure::Said(ErrorKind::Storage));
    }
    Ok(())
}

fn standing_kind(standing: &Standing) -> Option<ErrorKind> {
    match standing {
        Standing::Pending | Standing::Certified | Standing::Unconfirmed | Standing::Claimed => None,
        Standing::Conflict { .. } => Some(ErrorKind::Conflict),
        Standing::Refused { .. } => Some(ErrorKind::Other),
    }
}

/// What of a share is said one by one, and the line for what lies in folders.
fn shown(paths: &[PathBuf], report: &ShareReport, verbose: bool) -> (Vec<SharedInfo>, Option<String>) {
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

fn more(left: usize, what: &str) -> String {
    if left == 0 { String::new() } else { format!(" ({left} {what} are not listed; --verbose lists all)") }
}

/// Says what was left out of a share.
fn note_skipped(report: &ShareReport, verbose: bool) {
    note_each(&report.skipped, verbose, "not shared", |skipped| {
        format!("{}: {}", skipped.path.display(), skipped.reason)
    });
}

/// Says which files are being written to, and what that means.
fn note_written(report: &ShareReport, verbose: bool) {
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

#[cfg(test)]
mod tests {
    use swarmdex_protocols::{ContentId, Name, PeerId, Version};

    use super::*;
    use crate::cli::summary::LISTED;
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
        let (some, line) = shown(&[below.clone(), single.clone()], &report, false);
        let expected = format!(
            "{}: 3025 files, 1.5 MiB: 3000 certified, 25 refused (15 of these are not listed; --verbose lists all)",
            below.display()
        );
        assert_eq!((some.len(), line), (1 + LISTED, Some(expected)));
        assert_eq!(some[0].path, single);
        assert_eq!(shown(&[below], &report, true), (report.entries.clone(), None));
        assert_eq!(shown(&[single], &report, false), (report.entries.clone(), None));
    }
}
