//! The beginning of a node's life: what it shared before is looked through and taken up, and then it joins.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;

use super::Error;
use super::life::Phase;
use super::membership::Membership;
use super::standings::Standings;
use super::supervise::Supervisor;
use super::types::path_text;
use crate::clock::unix_ms;
use crate::config::Config;
use crate::storage::copies;
use crate::storage::shares::{DeclareOutcome, HashProgress, ShareOutcome, ShareTable};

/// How long joining waits for files that have to be hashed.
const HASHING_PATIENCE: Duration = Duration::from_secs(3);
/// How long a start waits for what it looks at first.
const SETTLING: Duration = Duration::from_secs(3);

/// Takes up what was shared before, then joins. Files that are hashed already are ready at once; whatever
/// has to be hashed first is announced as it comes, and joining does not wait for it.
pub(super) async fn begin(membership: Membership, complete: watch::Sender<bool>, supervisor: Supervisor) {
    let context = membership.context.clone();
    let (shares, standings, mut phase) = (context.shares().clone(), context.standings.clone(), context.phase.clone());
    let cancel = Arc::new(AtomicBool::new(false));
    let stopping = cancel.clone();
    let watch = supervisor.watch("share");
    let mut hashing = tokio::task::spawn_blocking(move || {
        // Whatever was not taken up by then is not shared; the node is of use without it.
        let _watch = watch;
        look_through(&shares, &cancel);
        // What was away, and was granted before that.
        recall_granted(&shares, &standings);
        complete.send_replace(!cancel.load(Ordering::Relaxed));
    });
    tokio::select! {
        () = Phase::end(&mut phase) => {}
        _ = &mut hashing => {}
        () = tokio::time::sleep(HASHING_PATIENCE) => {}
    }
    supervisor.run("membership", membership, |membership| membership.run().boxed()).await;
    stopping.store(true, Ordering::Relaxed);
    if !hashing.is_finished() {
        // Stops at the next file or chunk.
        let _ = hashing.await;
    }
}

/// Takes up what flags and configuration name, and knows what was shared before. Who asks as soon as the node answers is told of it.
pub(super) fn recall(shares: &ShareTable, config: &Config) {
    match shares.declare(&config.share, config.share_from, &config.selection) {
        Ok(outcome) => say_declared(outcome),
        Err(error) => {
            tracing::error!(
                error = Error::from(error).describe(),
                "what flags and configuration name cannot be shared"
            );
        }
    }
    if let Err(error) = shares.recall() {
        tracing::error!(error = Error::from(error).describe(), "what was shared before is not known");
    }
}

/// Looks at downloads that nobody waited for, before they could be shared as if their user had changed them. If that takes longer (all of
/// a large one has to be read, or a disk does not answer) it goes on beside everything else.
pub(super) fn settle(home: PathBuf, threads: usize) {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let settling = move || {
        let _done = done;
        if let Err(error) = copies::settle(&home, Path::new("/"), threads) {
            tracing::warn!(%error, "what was downloaded is not known to be on disk");
        }
    };
    if std::thread::Builder::new().name("settle".to_owned()).spawn(settling).is_ok() {
        // Ends when the other side is gone, too.
        let _ = is_done.recv_timeout(SETTLING);
    }
}

/// What was granted to an earlier run of this node holds until the master says otherwise.
pub(super) fn recall_granted(shares: &ShareTable, standings: &Standings) {
    standings.change(|announcer| {
        for entry in shares.kept().iter() {
            announcer.recall_granted(&entry.name, &entry.content, entry.size, unix_ms());
        }
    });
}

/// Looks through everything that is shared.
fn look_through(shares: &ShareTable, cancel: &AtomicBool) {
    match shares.rescan(&|_: HashProgress| {}, cancel) {
        Ok(outcome) => {
            warn_skipped(&outcome);
            let left_out = outcome.left_out.total();
            let (names, kept) = (shares.entries().len(), shares.kept().len());
            let away = kept.saturating_sub(names);
            tracing::info!(names, away, left_out, "shared; 'swarmdex ls --roots' lists the roots");
        }
        Err(error) => tracing::error!(error = Error::from(error).describe(), "what was shared before cannot be shared"),
    }
}

fn say_declared(outcome: DeclareOutcome) {
    let DeclareOutcome { ended, unshared, missing } = outcome;
    for path in ended {
        tracing::info!(path = %path.display(), "no flag and no configuration names it any more: not shared any more");
    }
    for path in unshared {
        tracing::warn!(path = %path.display(), "not shared, for it was unshared by hand: 'swarmdex share' takes it up again");
    }
    for path in missing {
        tracing::error!(path = %path.display(), "cannot be shared: nothing is there; it is as soon as it comes");
    }
}

pub(super) fn warn_skipped(outcome: &ShareOutcome) {
    for skipped in &outcome.skipped {
        tracing::warn!(path = path_text::shown(&skipped.path), reason = skipped.reason, "not shared");
    }
}
