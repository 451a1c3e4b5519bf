//! Paths that carry nothing while something is due, and what a change of this host's address means for a download.

use std::time::{Duration, Instant};

use futures::FutureExt;
use swarmdex_protocols::PeerId;
use swarmdex_protocols::fetch::FetchRefusal;

use super::engine::{Engine, EngineEvent, Work};
use super::sources::{self, FoundHolder, RequestFailure};
use crate::net::ConnectError;
use crate::state::fetch::Download;
use crate::state::fetch::stalls::StallAction;

/// How often sources are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// How often it is asked where a source is now to which no connection stands.
const SEARCH_AGAIN: Duration = Duration::from_secs(2);

impl Engine<'_> {
    /// Looks at the sources that owe something.
    pub(super) fn look_for_stalls(&mut self, machine: &Download<PeerId>, work: &mut Work) {
        let (net, now, mut away) = (&self.inner.net, Instant::now(), false);
        for (source, since, whole) in machine.owing().filter(|(source, ..)| *source != net.local()) {
            let Some(data) = net.last_data(&source) else {
                self.stalls.forget(&source);
                away = true;
                continue;
            };
            let (due, trip) = (since.max(data), net.last_round_trip(&source));
            let net = net.clone();
            match self.stalls.look(source, due, trip, whole, now) {
                None => {}
                Some(StallAction::Ask) => {
                    let own = self.shares().then(|| self.store.clone());
                    let asking = sources::is_sending(net, source, self.content, own);
                    work.asks.push(asking.map(move |sends| EngineEvent::Sending(source, sends)).boxed());
                }
                Some(StallAction::Cut) => {
                    tracing::info!(%source, name = %self.name, silent = ?now.saturating_duration_since(due), "nothing comes over the connection: cut");
                    away = true;
                    // If too much is under way, the next look does it.
                    if self.inner.life.chores.spawn("cut", async move { net.cut(source).await }) {
                        self.cut.insert(source, due);
                    }
                }
            }
        }
        let due = work.searched.is_none_or(|at| now >= at + SEARCH_AGAIN);
        if away && due && machine.has_come() {
            work.searched = Some(now);
            work.search.again();
        }
    }

    /// A source said whether it is sending what it owes.
    pub(super) fn on_sending(&mut self, source: PeerId, sends: Result<bool, RequestFailure>) {
        match sends {
            Ok(sends) => self.stalls.on_answer(source, sends, Instant::now()),
            // It is alive, and has too much to do to say more.
            Err(RequestFailure::Refused(FetchRefusal::Busy)) => self.stalls.on_answer(source, false, Instant::now()),
            // The connection broke, or it has the content no more: the requests show it, too.
            Err(_) => {}
        }
    }

    /// A source was heard of at these addresses: if they are others than before, nobody waits until it has failed at those.
    pub(super) fn on_found(&mut self, machine: &mut Download<PeerId>, found: FoundHolder) {
        let known = self.addresses.get(&found.peer);
        if !found.addresses.is_empty() && known.is_some_and(|known| *known != found.addresses) {
            self.addresses.insert(found.peer, found.addresses.clone());
            let (net, peer, addresses) = (self.inner.net.clone(), found.peer, found.addresses.clone());
            if net.last_data(&peer).is_none() {
                self.inner.life.chores.spawn("connect", async move {
                    if let Err(error @ ConnectError::Unreachable { .. }) = net.connect(Some(peer), addresses).await {
                        tracing::debug!(%peer, %error, "it is not where it was found, either");
                    }
                });
            }
        }
        self.add(machine, found);
    }

    /// This host has other addresses than before.
    pub(super) fn on_moved(&mut self, machine: &mut Download<PeerId>, work: &mut Work) {
        self.silent.clear();
        machine.on_moved();
        work.search.again();
    }
}
