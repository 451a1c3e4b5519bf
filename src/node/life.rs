//! How far a node has got, and what ends with it.

use std::collections::VecDeque;

use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::storage::dir::DataDir;
use crate::tasks::{Chores, Failures};

/// How far a node has got; it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Runs,
    /// It stops in order: whoever should know is told.
    Leaves,
    /// It is gone without a word, as after a crash.
    CutOff,
}

impl Phase {
    /// Waits until the node stops, in one way or the other.
    pub(super) async fn end(watch: &mut watch::Receiver<Self>) {
        // With the last handle the node stops as well.
        let _ = watch.wait_for(|phase| *phase > Self::Runs).await;
    }

    /// Works until the node stops, or the work is over.
    pub(super) async fn limit(watch: &watch::Receiver<Self>, work: impl Future<Output = ()>) {
        let mut watch = watch.clone();
        tokio::select! {
            () = Self::end(&mut watch) => {}
            () = work => {}
        }
    }
}

/// The tasks of a node, in the order in which they are waited for.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Those that nobody has seen end.
    pub(super) open: VecDeque<JoinHandle<()>>,
    /// How many have ended.
    ended: usize,
    /// Whether one of them had panicked.
    broken: bool,
}

impl Tasks {
    /// Waits until all have ended, with `network` once the first has: the membership says farewell over it. Whether none had panicked.
    /// Dropped in the middle, it goes on from there the next time.
    pub(super) async fn end(&mut self, network: impl AsyncFn()) -> bool {
        while let Some(task) = self.open.front_mut() {
            if self.ended == 1 {
                network().await;
            }
            self.broken |= task.await.is_err();
            self.open.pop_front();
            self.ended += 1;
        }
        !self.broken
    }
}

/// What ends with the node.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) phase: watch::Sender<Phase>,
    /// `None` while it runs; then whether it stopped as asked.
    pub(super) ended: watch::Sender<Option<bool>>,
    pub(super) tasks: Mutex<Tasks>,
    /// What downloads say to others without waiting for it.
    pub(super) chores: Chores,
    pub(super) failures: Failures,
    pub(super) network: AbortHandle,
    /// Holds the lock.
    pub(super) dir: DataDir,
}

impl Drop for Life {
    /// With the last handle: whoever looks at the phase sees it end, too.
    fn drop(&mut self) {
        self.enter(Phase::Leaves);
    }
}

impl Life {
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_modify(|now| *now = phase.max(*now));
    }
}
