//! Holders that do not answer: whether to try them again, and what is said of them in the end.

use std::time::{Duration, Instant};

use swarmdex_protocols::fetch::ChunkRun;
use swarmdex_protocols::{Multiaddr, PeerId};

use super::engine::{Engine, Said};
use super::sources::Silence;
use crate::node::{Error, Inner};
use crate::state::fetch::{Download, Exhausted};

/// Holders that an error names, and addresses of one that was not given up yet.
const MAX_NAMED: usize = 3;
/// How long a download goes on that hears nothing: longer than an attempt to connect takes, and than a node on a connection that
/// stands takes to answer the next ping.
const PATIENCE: Duration = Duration::from_millis(6500);

/// How long nobody may be there before it is said.
const NOTICE: Duration = Duration::from_secs(1);

/// A download that has not heard anything yet of anybody who has the file.
pub(super) struct Unmet {
    begun: Instant,
    /// What had come to this node before.
    received: u64,
}

impl Unmet {
    pub(super) fn begin(inner: &Inner) -> Self {
        Self { begun: Instant::now(), received: inner.net.downloaded_bytes() }
    }

    /// When it is over, whoever else may yet be found.
    pub(super) fn end(&self) -> Instant {
        self.begun + PATIENCE
    }
}

impl Engine<'_> {
    /// No connection to a source came about. Unless another address of it was heard of meanwhile, it is given up.
    pub(super) fn on_silent(
        &mut self,
        machine: &mut Download<PeerId>,
        source: PeerId,
        run: ChunkRun,
        silence: Silence,
    ) {
        self.silent.insert(source, silence);
        let known = self.addresses.get(&source).map(Vec::as_slice).unwrap_or_default();
        if self.was_tried(&source, known) {
            machine.on_unreachable(source, Some(run.first));
        } else {
            machine.on_failed(source, run.first, Instant::now());
        }
    }

    /// Whether nobody answered at any of these addresses of a source.
    pub(super) fn was_tried(&self, source: &PeerId, addresses: &[Multiaddr]) -> bool {
        let silence = self.silent.get(source);
        silence.is_some_and(|silence| addresses.iter().all(|address| silence.tried.contains(address)))
    }

    /// Says that it is waited for whoever has what is missing once that takes a moment, and again when it is over.
    pub(super) fn look_who_is_away(&mut self, machine: &Download<PeerId>) {
        if !self.is_abandoned(machine) || self.terms.patience.is_zero() {
            if self.away.take().is_some() {
                (self.says)(Said::Away(false));
            }
            return;
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        if since.elapsed() >= NOTICE {
            (self.says)(Said::Away(true));
        }
    }

    /// Whether nobody is left who has what is missing, or nobody of those who owe some of it is connected.
    fn is_abandoned(&self, machine: &Download<PeerId>) -> bool {
        let net = &self.inner.net;
        let is_there = |source: &PeerId| *source == net.local() || net.last_data(source).is_some();
        let mut owing = machine.owing().map(|(source, ..)| source).peekable();
        let cut_off = owing.peek().is_some() && !owing.any(|source| is_there(&source));
        machine.is_waiting() || machine.is_patient() && cut_off
    }

    /// Whether anything was heard of any source since.
    pub(super) fn has_met(&self, unmet: &Unmet) -> bool {
        let net = &self.inner.net;
        let answers = |source: &PeerId| net.heard(source).is_some_and(|heard| heard >= unmet.begun);
        net.downloaded_bytes() > unmet.received || self.addresses.keys().any(answers)
    }

    /// Tells the master of a source that does not answer.
    pub(super) fn report(&self, source: PeerId) {
        let questions = self.inner.questions.clone();
        self.inner.life.chores.spawn("report", async move {
            if let Err(error) = questions.report(source).await {
                tracing::debug!(%source, %error, "a report was not taken");
            }
        });
    }

    /// Why the download ended without the file.
    pub(super) fn exhausted(self, reason: Exhausted) -> Error {
        if self.addresses.is_empty() {
            return Error::NoHolder { name: self.name };
        }
        match reason {
            Exhausted::Wrong => {
                let sources = self.bad_sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let kept = self.store.is_resumable();
                Error::Verification { name: self.name, content: self.content, sources, kept }
            }
            Exhausted::Gone => Error::ContentGone { name: self.name, content: self.content },
            Exhausted::Unreachable => {
                let reason = self.who_is_silent();
                if self.addresses.keys().all(|source| self.unread.contains(source)) {
                    return Error::DisksSilent { name: self.name, reason };
                }
                Error::HoldersUnreachable { name: self.name, holders: self.addresses.len(), reason }
            }
        }
    }

    /// Who has not answered for how long, and what was tried.
    fn who_is_silent(&self) -> String {
        let holders = self.addresses.len();
        let one = |(source, addresses): (&PeerId, &Vec<Multiaddr>)| {
            let missed = match (self.suspect.contains(source), self.hidden.contains(source)) {
                (true, _) => ", and the master misses it, too",
                (_, true) => ", is behind a router or a firewall, and could not connect to this node either",
                _ => "",
            };
            let text = match self.silent.get(source) {
                _ if self.unread.contains(source) => "has it on a disk that does not answer, or fails".to_owned(),
                Some(silence) => describe(silence, Instant::now()),
                // Its connection stands, or broke, or it is still being tried.
                None => {
                    let last = self.last_failure.as_deref().unwrap_or("no answer");
                    let heard = self.inner.net.heard(source).or_else(|| self.cut.get(source).copied());
                    let heard = heard.map(|heard| rounded(heard.elapsed()));
                    let time = heard.map(|time| format!(" for {time}")).unwrap_or_default();
                    let tried = addresses.iter().take(MAX_NAMED).map(ToString::to_string).collect::<Vec<_>>();
                    format!("has not answered{time} (at {}: {last})", tried.join(", "))
                }
            };
            format!("{source} {text}{missed}")
        };
        let mut text = self.addresses.iter().take(MAX_NAMED).map(one).collect::<Vec<_>>().join("; ");
        if holders > MAX_NAMED {
            text.push_str(&format!("; nor do {} more", holders - MAX_NAMED));
        }
        if holders == 1 { text } else { format!("none of the {holders} peers that have it can be reached: {text}") }
    }
}

/// For how long a node has not answered, and where.
fn describe(silence: &Silence, now: Instant) -> String {
    let Silence { reason, since, .. } = silence;
    match since.map(|since| now.saturating_duration_since(since)) {
        Some(silent) => format!("has not answered for {} (tried {reason})", rounded(silent)),
        None => format!("cannot be reached ({reason})"),
    }
}

/// A time as people say it.
fn rounded(time: Duration) -> String {
    match time.as_secs() {
        0 => "a moment".to_owned(),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_with_its_time_and_what_was_tried() {
        let now = Instant::now();
        let mut silence =
            Silence { tried: Vec::new(), reason: "/ip4/10.0.0.1/tcp/1: no answer".to_owned(), since: None };
        assert_eq!(describe(&silence, now), "cannot be reached (/ip4/10.0.0.1/tcp/1: no answer)");
        for (seconds, text) in [(0, "a moment"), (5, "5 s"), (119, "119 s"), (185, "3 min")] {
            silence.since = Some(now);
            let told = describe(&silence, now + Duration::from_secs(seconds));
            assert_eq!(told, format!("has not answered for {text} (tried /ip4/10.0.0.1/tcp/1: no answer)"));
        }
    }
}
