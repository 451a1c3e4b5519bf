//! Signals that end a command: it says so, ends what it began, and its exit code says which it was.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use super::backend::Backend;
use super::settings::NodeArgs;
use crate::node::Api;

/// How long a command may take to end what it began. A second signal does not wait.
const GRACE: Duration = Duration::from_secs(5);

/// A signal by which users and systems end a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The terminal is gone.
    Hangup,
    /// Ctrl-C.
    CtrlC,
    /// `kill`, and systems that shut down.
    Terminate,
}

impl Interrupt {
    /// What shells make of a program that a signal ended: 128 and its number.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::CtrlC => 130,
            Self::Terminate => 143,
        }
    }
}

/// What a command that was interrupted leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// The same command goes on where it was.
    GoesOn,
    /// Nothing.
    Nothing,
    /// Nothing, although it had made much.
    CleanedUp,
}

impl std::fmt::Display for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GoesOn => "interrupted; the same command goes on",
            Self::Nothing => "interrupted",
            Self::CleanedUp => "interrupted; everything is cleaned up",
        })
    }
}

/// Listens for signals. The first signal is passed on, and the command ends by itself while this value lives. After
/// that, or with a second signal, the program ends at once, even in the middle of output that nobody reads.
#[derive(Debug)]
struct Interrupts(watch::Receiver<Option<Interrupt>>);

impl Interrupts {
    fn listen() -> io::Result<Self> {
        let mut kinds =
            vec![(SignalKind::interrupt(), Interrupt::CtrlC), (SignalKind::terminate(), Interrupt::Terminate)];
        if !ignores(SignalKind::hangup()) {
            kinds.push((SignalKind::hangup(), Interrupt::Hangup));
        }
        let listen = |(kind, interrupt)| signal(kind).map(|signal| (signal, interrupt));
        let signals = kinds.into_iter().map(listen).collect::<io::Result<Vec<_>>>()?;
        let (sender, receiver) = watch::channel(None);
        crate::tasks::spawn("signals", obey(signals, sender));
        Ok(Self(receiver))
    }

    async fn next(&mut self) -> Interrupt {
        let seen = self.0.wait_for(Option::is_some).await.map(|seen| *seen);
        match seen {
            Ok(Some(interrupt)) => interrupt,
            _ => std::future::pending().await,
        }
    }
}

async fn obey(mut signals: Vec<(Signal, Interrupt)>, sender: watch::Sender<Option<Interrupt>>) {
    let first = next(&mut signals).await;
    if sender.send(Some(first)).is_ok() {
        let _ = tokio::time::timeout(GRACE, next(&mut signals)).await;
    }
    std::process::exit(first.exit_code().into());
}

async fn next(signals: &mut [(Signal, Interrupt)]) -> Interrupt {
    let waiting = signals.iter_mut().map(|(signal, interrupt)| {
        Box::pin(async move {
            signal.recv().await;
            *interrupt
        })
    });
    futures::future::select_all(waiting).await.0
}

/// Whether whoever started the program had it ignore a signal, as `nohup` does.
pub(super) fn ignores(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    u32::try_from(kind.as_raw_value() - 1).is_ok_and(|bit| mask >> bit & 1 == 1)
}

/// Does some work unless it is interrupted.
pub(super) async fn interruptible<T>(rest: Rest, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen().map_err(Failure::Runtime)?;
    tokio::select! {
        result = work => result,
        interrupt = interrupts.next() => Err(Failure::Interrupted(interrupt, rest)),
    }
}

/// Does some work with a node, and ends one that was started for it, interrupted or not.
pub(super) async fn with_node<T>(
    args: &NodeArgs,
    rest: Rest,
    work: impl AsyncFnOnce(&dyn Api) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen().map_err(Failure::Runtime)?;
    let backend = tokio::select! {
        backend = Backend::find_or_start(args) => backend?,
        interrupt = interrupts.next() => return Err(Failure::Interrupted(interrupt, rest)),
    };
    let result = tokio::select! {
        result = work(backend.api()) => result,
        interrupt = interrupts.next() => Err(Failure::Interrupted(interrupt, rest)),
    };
    backend.end().await;
    result
}
