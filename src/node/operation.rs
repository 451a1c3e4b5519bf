//! Long operations: a task of their own, with progress and an outcome.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::Error;
use super::types::Progress;
use crate::tasks;

/// How often somebody who watches an operation is told how far it is, at most.
const EYE: Duration = Duration::from_millis(20);

/// What its user wants of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ControlRequest {
    /// To go on.
    #[default]
    Run,
    /// To wait, and keep what it has.
    Pause,
    /// To end, and leave nothing.
    Cancel,
}

/// What an operation tells and is told.
pub(super) struct Control {
    /// How far it is.
    pub(super) progress: watch::Sender<Progress>,
    /// What its user wants.
    pub(super) requested: watch::Receiver<ControlRequest>,
}

/// Sets the flag when an operation is dropped, so that the thread that hashes for it stops.
pub(super) struct CancelOnDrop(pub(super) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A long operation, on a task of its own: it goes on whether it is polled or not.
///
/// # Cancel safety
/// Dropping it interrupts it, and what it keeps is said where it begins: [`crate::Node::share_with`] and [`crate::Node::get_with`].
/// One of another process's node ends there as well. Until its end it counts as a handle of the node.
#[derive(Debug)]
pub struct Operation<T> {
    progress: watch::Receiver<Progress>,
    requested: watch::Sender<ControlRequest>,
    outcome: oneshot::Receiver<Result<T, Error>>,
    task: AbortHandle,
}

impl<T: Send + 'static> Operation<T> {
    /// Runs `work` on a task of its own, named for the log. A panic is its outcome: [`Error::Bug`].
    pub(super) fn start<F>(name: &'static str, work: impl FnOnce(Control) -> F) -> Self
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (sender, progress) = watch::channel(Progress::default());
        let (requested, requests) = watch::channel(ControlRequest::Run);
        let (answer, outcome) = oneshot::channel();
        let work = work(Control { progress: sender, requested: requests });
        let task = tasks::spawn(name, async move {
            // What the work has is dropped with it: permits, files and counts are given back.
            let outcome = AssertUnwindSafe(work).catch_unwind().await.unwrap_or(Err(Error::Bug));
            // Whoever started it may be gone.
            let _ = answer.send(outcome);
        });
        Self { progress, requested, outcome, task: task.abort_handle() }
    }
}

impl<T: Send + 'static> Operation<T> {
    /// One of another process's node, which `work` follows and tells the progress of. Its end is the end of that one: it is
    /// dropped when this is cancelled. It cannot be paused.
    pub(crate) fn elsewhere<F>(name: &'static str, work: impl FnOnce(watch::Sender<Progress>) -> F) -> Self
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        Self::start(name, |Control { progress, mut requested }| {
            let work = work(progress);
            async move {
                tokio::select! {
                    outcome = work => outcome,
                    Ok(_) = requested.wait_for(|requested| *requested == ControlRequest::Cancel) => Err(Error::Cancelled),
                }
            }
        })
    }
}

impl<T> Operation<T> {
    /// How far it is; the latest value only. The channel closes with the operation's end.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for its end, and tells meanwhile how far it is, at most every 20 milliseconds.
    ///
    /// # Errors
    /// As [`Operation::outcome`].
    ///
    /// # Cancel safety
    /// Cancel safe: call it again to go on. The latest progress is told once more then.
    pub async fn follow(&mut self, mut tell: impl FnMut(Progress)) -> Result<T, Error> {
        let mut progress = self.progress();
        loop {
            tokio::select! {
                // What was said before the end comes before it.
                biased;
                changed = progress.changed() => {
                    let now = progress.borrow_and_update().clone();
                    match changed {
                        Ok(()) => tell(now),
                        // Nothing more is said of it.
                        Err(_) => return self.outcome().await,
                    }
                }
                outcome = self.outcome() => return outcome,
            }
            if let Ok(outcome) = tokio::time::timeout(EYE, self.outcome()).await {
                return outcome;
            }
        }
    }

    /// Has a download ask for nothing more until [`Operation::resume`]; what was asked for still arrives. Other operations, and those
    /// of another process's node, go on.
    pub fn pause(&self) {
        self.requested.send_if_modified(|requested| {
            let runs = *requested == ControlRequest::Run;
            if runs {
                *requested = ControlRequest::Pause;
            }
            runs
        });
    }

    /// Goes on after [`Operation::pause`].
    pub fn resume(&self) {
        self.requested.send_if_modified(|requested| {
            let paused = *requested == ControlRequest::Pause;
            if paused {
                *requested = ControlRequest::Run;
            }
            paused
        });
    }

    /// Ends it; its outcome is [`Error::Cancelled`] unless it was done already. A download leaves nothing of unfinished files behind.
    /// What is shared already stays so. One of another process's node is dropped there, and a download keeps what it has.
    pub fn cancel(&self) {
        self.requested.send_replace(ControlRequest::Cancel);
    }

    /// Waits for its end, and gives what it came to. That is there once.
    ///
    /// # Errors
    /// - [`Error::Cancelled`]: [`Operation::cancel`] ended it. [`Error::Bug`]: it panicked, or has given its outcome already.
    /// - [`Error::ShuttingDown`]: its runtime ended before it did.
    /// - Those of what it does, as said where it begins.
    ///
    /// # Cancel safety
    /// Cancel safe: call it again to go on waiting.
    pub async fn outcome(&mut self) -> Result<T, Error> {
        if self.outcome.is_terminated() {
            return Err(Error::Bug);
        }
        (&mut self.outcome).await.unwrap_or(Err(Error::ShuttingDown))
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_that_panics_says_so_and_gives_back_what_it_had() {
        let slots = Arc::new(tokio::sync::Semaphore::new(1));
        let of_work = slots.clone();
        let mut operation = Operation::<()>::start("test", move |_| async move {
            let _slot = of_work.acquire().await;
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        assert!(matches!(operation.outcome().await, Err(Error::Bug)));
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn whoever_follows_one_hears_of_its_progress_and_then_of_its_end() {
        let mut operation = Operation::elsewhere("test", |progress| async move {
            for done_files in 1..=3 {
                progress.send_replace(Progress { done_files, ..Progress::default() });
                tokio::time::sleep(EYE * 5).await;
            }
            progress.send_replace(Progress { done_files: 4, ..Progress::default() });
            Ok("done")
        });
        let mut told = Vec::new();
        let outcome = operation.follow(|progress| told.push(progress.done_files)).await;
        assert_eq!((outcome.unwrap(), told), ("done", vec![1, 2, 3, 4]));
        assert!(matches!(operation.outcome().await, Err(Error::Bug)), "it is there once");
    }

    #[tokio::test]
    async fn one_of_another_process_is_cancelled_by_letting_go_of_it() {
        let (held, mut let_go) = tokio::sync::mpsc::channel::<()>(1);
        let mut operation = Operation::<()>::elsewhere("test", |_| async move {
            let _held = held;
            std::future::pending().await
        });
        operation.cancel();
        assert!(matches!(operation.outcome().await, Err(Error::Cancelled)));
        assert_eq!(let_go.recv().await, None);
    }

    #[tokio::test]
    async fn one_that_ends_with_the_runtime_is_no_bug() {
        let mut operation = Operation::<()>::start("test", |_| std::future::pending());
        operation.task.abort();
        assert!(matches!(operation.outcome().await, Err(Error::ShuttingDown)));
    }
}
