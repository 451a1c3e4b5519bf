//! What a node does not do without: a task that panics begins anew, a few times, and then the node ends.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::life::Phase;
use crate::tasks::{Failures, Watch};

/// Pause before a task that panicked begins anew, doubled each time.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a task begins anew before the node gives up, and for how long it must run to be as good as one that never
/// panicked. A fault that is met again at once is not cured by trying.
const RESTARTS: u32 = 5;
const CALM: Duration = Duration::from_secs(600);

/// Looks after the tasks of one node.
#[derive(Debug, Clone)]
pub(super) struct Supervisor {
    failures: Failures,
    phase: watch::Receiver<Phase>,
    pause: Duration,
}

impl Supervisor {
    /// Notes what fails in `failures`, and begins nothing anew once the node stops.
    pub(super) fn new(failures: Failures, phase: watch::Receiver<Phase>) -> Self {
        Self { failures, phase, pause: PAUSE }
    }

    /// See [`Failures::watch`].
    pub(super) fn watch(&self, name: &'static str) -> Watch {
        self.failures.watch(name)
    }

    /// Runs `work` on `state` until it ends by itself. If it panics it begins anew, on the state as it is then: what it
    /// keeps there must make sense at every step. Without an end to the panics the node is over.
    pub(super) async fn run<S, F>(mut self, name: &'static str, mut state: S, work: F)
    where
        S: Send,
        F: for<'a> Fn(&'a mut S) -> BoxFuture<'a, ()> + Send,
    {
        let mut restarts = 0;
        loop {
            let begin = Instant::now();
            if AssertUnwindSafe(work(&mut state)).catch_unwind().await.is_ok() {
                return;
            }
            if begin.elapsed() >= CALM {
                restarts = 0;
            }
            if restarts == RESTARTS || *self.phase.borrow() > Phase::Runs {
                tracing::error!(task = name, restarts, "a task of the node panicked and is given up");
                return self.failures.end(name);
            }
            let pause = self.pause * 2u32.pow(restarts);
            restarts += 1;
            tracing::error!(task = name, ?pause, "a task of the node panicked and begins anew");
            self.failures.note(name);
            tokio::select! {
                () = Phase::end(&mut self.phase) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> (Supervisor, watch::Sender<Phase>, Failures) {
        let (phase, phases) = watch::channel(Phase::Runs);
        let failures = Failures::default();
        (Supervisor { pause: Duration::from_millis(1), ..Supervisor::new(failures.clone(), phases) }, phase, failures)
    }

    #[tokio::test]
    async fn a_task_that_panics_begins_anew_where_it_was() {
        let (supervisor, _phase, failures) = supervisor();
        let (done, steps) = std::sync::mpsc::sync_channel(10);
        let work = supervisor.run("a", (0, done), |(runs, done)| {
            async move {
                *runs += 1;
                done.send(*runs).unwrap();
                assert!(*runs > 2, "on purpose");
            }
            .boxed()
        });
        work.await;
        assert_eq!(steps.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((failures.names(), failures.is_over()), (vec!["a".to_owned()], false));
    }

    #[tokio::test]
    async fn a_task_that_never_does_anything_else_ends_the_node() {
        let (supervisor, _phase, failures) = supervisor();
        let (done, runs) = std::sync::mpsc::sync_channel(10);
        let work = supervisor.run("a", done, |done| {
            async move {
                done.send(()).unwrap();
                panic!("on purpose");
            }
            .boxed()
        });
        work.await;
        assert_eq!(runs.iter().count() as u32, RESTARTS + 1);
        assert!(failures.is_over());
        failures.over().await;
    }

    #[tokio::test]
    async fn nothing_begins_anew_when_the_node_stops() {
        let (supervisor, phase, failures) = supervisor();
        let supervisor = Supervisor { pause: Duration::from_secs(3600), ..supervisor };
        let noted = failures.clone();
        let running = tokio::spawn(supervisor.run("a", (), |()| async { panic!("on purpose") }.boxed()));
        while noted.names().is_empty() {
            tokio::task::yield_now().await;
        }
        phase.send_replace(Phase::Leaves);
        running.await.unwrap();
        assert!(!failures.is_over());
    }

    #[tokio::test]
    async fn a_panic_while_the_node_stops_is_a_failure_of_the_stop() {
        let (supervisor, phase, failures) = supervisor();
        phase.send_replace(Phase::Leaves);
        supervisor.run("a", (), |()| async { panic!("on purpose") }.boxed()).await;
        assert!(failures.is_over());
    }
}
