//! Long operations: a task of their own, with progress and an outcome.

use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

use super::{Error, Progress};

/// A long operation. Dropping it cancels the operation.
#[derive(Debug)]
pub struct Operation<T> {
    progress: watch::Receiver<Progress>,
    outcome: oneshot::Receiver<Result<T, Error>>,
    task: AbortHandle,
}

impl<T: Send + 'static> Operation<T> {
    /// Runs `work` on a task of its own.
    pub(super) fn start<F>(work: impl FnOnce(watch::Sender<Progress>) -> F) -> Self
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (sender, progress) = watch::channel(Progress::default());
        let (answer, outcome) = oneshot::channel();
        let work = work(sender);
        let task = tokio::spawn(async move {
            // Whoever started it may be gone.
            let _ = answer.send(work.await);
        });
        Self { progress, outcome, task: task.abort_handle() }
    }
}

impl<T> Operation<T> {
    /// How far it is; the latest value only.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits for its end. Cancel safe: call it again to go on waiting.
    pub async fn outcome(&mut self) -> Result<T, Error> {
        (&mut self.outcome).await.unwrap_or(Err(Error::ShuttingDown))
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
