//! Tasks by name, and which of them failed.
//!
//! A panic ends the task in which it happens and nothing else; the log names that task (`log.rs`). What a node cannot
//! do without is watched here besides: its status lists what failed, and a node that cannot go on says so.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::locks::lock;

/// Chores of one owner at a time.
const MAX_CHORES: usize = 1024;

tokio::task_local! {
    static NAME: &'static str;
}

/// Runs a future on a task of its own, which bears this name in the log if it panics.
pub(crate) fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(NAME.scope(name, future))
}

/// Short tasks whose outcome nobody waits for. There are at most [`MAX_CHORES`] at a time, and none outlives its owner.
/// Clones are handles to the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chores {
    state: Arc<Mutex<ChoresState>>,
}

#[derive(Debug, Default)]
struct ChoresState {
    running: JoinSet<()>,
    ended: bool,
}

impl Chores {
    /// Runs a future on a task of its own, named for the log. False if too many run, or the owner has ended: then it is
    /// not run at all.
    pub(crate) fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut state = lock(&self.state);
        while state.running.try_join_next().is_some() {}
        let runs = !state.ended && state.running.len() < MAX_CHORES;
        if runs {
            state.running.spawn(NAME.scope(name, future));
        }
        runs
    }

    /// Ends those that run; none begins from here on.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.state);
        state.ended = true;
        state.running.abort_all();
    }
}

/// Waits until a task panics, for ever if it ends otherwise or there is none; one that ended is taken out. Cancel safe.
pub(crate) async fn panics(task: &mut Option<JoinHandle<()>>) {
    if let Some(running) = task {
        let outcome = running.await;
        *task = None;
        if outcome.is_err_and(|error| error.is_panic()) {
            return;
        }
    }
    std::future::pending().await
}

/// The name of the task that runs on this thread at the moment, if it was given one.
pub(crate) fn name() -> Option<&'static str> {
    NAME.try_with(|name| *name).ok()
}

/// What failed in one node. Clones are handles to the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures {
    state: Arc<watch::Sender<State>>,
}

/// At most as many names as the program has tasks.
#[derive(Debug, Default)]
struct State {
    names: BTreeSet<&'static str>,
    over: bool,
}

impl Failures {
    /// A part of the node failed; the rest goes on.
    pub(crate) fn note(&self, name: &'static str) {
        self.state.send_modify(|state| {
            state.names.insert(name);
        });
    }

    /// A part failed without which the node cannot go on.
    pub(crate) fn end(&self, name: &'static str) {
        self.state.send_modify(|state| {
            state.names.insert(name);
            state.over = true;
        });
    }

    /// Notes the failure of `name` if the value is dropped by a panic: held by whoever does the work.
    pub(crate) fn watch(&self, name: &'static str) -> Watch {
        Watch { failures: self.clone(), name, vital: false }
    }

    /// The same for a part without which the node cannot go on.
    pub(crate) fn watch_vital(&self, name: &'static str) -> Watch {
        Watch { failures: self.clone(), name, vital: true }
    }

    /// Everything that failed since the node started, each once, in the order of the names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state.borrow().names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Whether something failed without which the node cannot go on.
    pub(crate) fn is_over(&self) -> bool {
        self.state.borrow().over
    }

    /// Waits until something fails without which the node cannot go on.
    pub(crate) async fn over(&self) {
        // The sender is this value's own, so it is not gone.
        let _ = self.state.subscribe().wait_for(|state| state.over).await;
    }
}

/// See [`Failures::watch`].
#[derive(Debug)]
pub(crate) struct Watch {
    failures: Failures,
    name: &'static str,
    vital: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if self.vital {
            self.failures.end(self.name);
        } else {
            self.failures.note(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_has_its_name_and_a_blocking_one_has_none() {
        assert_eq!(spawn("a", async { name() }).await.unwrap(), Some("a"));
        assert_eq!(tokio::spawn(async { name() }).await.unwrap(), None);
        assert_eq!(name(), None);
    }

    #[tokio::test]
    async fn chores_are_counted_and_end_with_their_owner() {
        let (chores, (sender, mut receiver)) = (Chores::default(), tokio::sync::mpsc::channel::<()>(1));
        assert!(chores.spawn("a", async { assert_eq!(name(), Some("a")) }));
        for _ in 0..2 * MAX_CHORES {
            let sender = sender.clone();
            chores.spawn("b", async move {
                let _sender = sender;
                std::future::pending::<()>().await;
            });
        }
        assert_eq!(lock(&chores.state).running.len(), MAX_CHORES);
        drop(sender);
        chores.end();
        assert!(receiver.recv().await.is_none(), "none is left");
        assert!(!chores.spawn("c", async {}));
    }

    #[tokio::test]
    async fn a_chore_that_ended_makes_room() {
        let chores = Chores::default();
        for _ in 0..2 * MAX_CHORES {
            assert!(chores.spawn("a", async {}));
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_a_panic_is_heard_of_by_who_waits_for_one() {
        let mut task = Some(spawn("a", async { panic!("on purpose") }));
        panics(&mut task).await;
        assert!(task.is_none());
        for mut task in [None, Some(spawn("b", async {}))] {
            let waiting = panics(&mut task);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(50), waiting).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_panics_is_noted_once_and_what_ends_is_not() {
        let failures = Failures::default();
        for _ in 0..2 {
            let watch = failures.watch("b");
            let work = move || {
                let _watch = watch;
                panic!("on purpose");
            };
            assert!(tokio::task::spawn_blocking(work).await.is_err());
        }
        drop(failures.watch_vital("c"));
        assert_eq!((failures.names(), failures.is_over()), (vec!["b".to_owned()], false));
    }

    #[tokio::test]
    async fn the_failure_of_a_vital_part_is_heard_of() {
        let failures = Failures::default();
        let (watch, heard) = (failures.watch_vital("a"), failures.clone());
        let waiting = tokio::spawn(async move { heard.over().await });
        let thread = std::thread::spawn(move || {
            let _watch = watch;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        waiting.await.unwrap();
        failures.note("0");
        assert!(failures.is_over());
        assert_eq!(failures.names(), ["0", "a"]);
    }
}
