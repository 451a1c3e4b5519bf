//! Other nodes with the identity of this one: copied disks, restored backups, containers with data baked in.
//!
//! The master refuses the second of two runs and tells both. Without it a node looks, from time to time, under which
//! addresses it is itself found in the DHT. It knocks where it does not listen. Whoever answers there with its own key
//! is a twin, and has noticed it, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use swarmdex_protocols::Multiaddr;
use tokio::sync::watch;

/// How often the log tells of a twin, at most.
const WARNING_PAUSE: Duration = Duration::from_secs(60);
/// For how long a twin is spoken of after it was met.
const MEMORY: Duration = Duration::from_secs(900);

/// Addresses that are looked at in one check, at most.
pub(super) const MAX_STRANGE: usize = 32;

/// What is known of twins; shared by all who hear of them.
#[derive(Debug, Clone)]
pub(super) struct Twins {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Why the master refuses this run.
    refused: Option<String>,
    /// What the master says of another run that it refuses.
    noticed: Option<String>,
    met: Option<(Instant, String)>,
    /// Why this master gave way to another with its key.
    gave_way: Option<String>,
    /// Where others say that a master with this key is.
    heard_at: Vec<Multiaddr>,
    warned: Option<Instant>,
}

impl State {
    /// Whether this run may publish: what it says would take the place of what the other says.
    fn may_publish(&self) -> bool {
        self.refused.is_none() && self.gave_way.is_none()
    }

    fn text(&self, now: Instant) -> Option<&str> {
        let met = self.met.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) <= MEMORY);
        let met = met.map(|(_, text)| text.as_str());
        self.gave_way.as_deref().or(self.refused.as_deref()).or(self.noticed.as_deref()).or(met)
    }
}

impl Twins {
    pub(super) fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// The master keeps another run: this one is no member.
    pub(super) fn on_refused(&self, reason: &str) {
        self.change(|state| state.refused = Some(reason.to_owned()));
    }

    /// The master took this run.
    pub(super) fn on_joined(&self) {
        self.state.send_if_modified(|state| state.refused.take().is_some());
    }

    /// What the master says of twins of this node, each time that it is asked; `None` if it knows of none.
    pub(super) fn on_notice(&self, notice: Option<String>) {
        if notice.is_some() {
            self.change(|state| state.noticed = notice);
        } else {
            self.state.send_if_modified(|state| state.noticed.take().is_some());
        }
    }

    /// Another node answered with this one's key.
    pub(super) fn on_met(&self, address: &Multiaddr) {
        let text = format!(
            "another node runs with this identity, at {address}; stop one of the two, or give one of them a new identity: swarmdex identity new"
        );
        self.change(|state| state.met = Some((Instant::now(), text)));
    }

    /// Changes what is known, and says so in the log if that was not done a moment ago.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let now = Instant::now();
        self.state.send_modify(|state| {
            change(state);
            let recent = state.warned.is_some_and(|warned| now.duration_since(warned) < WARNING_PAUSE);
            if let Some(text) = state.text(now).filter(|_| !recent) {
                tracing::warn!("{text}");
                state.warned = Some(now);
            }
        });
    }

    /// What to show to people.
    pub(super) fn text(&self) -> Option<String> {
        self.state.borrow().text(Instant::now()).map(ToOwned::to_owned)
    }

    /// Another master with this key has the newer index.
    pub(super) fn on_gave_way(&self, reason: &str) {
        self.change(|state| state.gave_way = Some(reason.to_owned()));
    }

    /// Others say that a master with this key listens there. It is looked for.
    pub(super) fn on_heard_at(&self, addresses: Vec<Multiaddr>) {
        self.state.send_if_modified(|state| {
            let before = state.heard_at.len();
            for address in addresses {
                if state.heard_at.len() < MAX_STRANGE && !state.heard_at.contains(&address) {
                    state.heard_at.push(address);
                }
            }
            state.heard_at.len() > before
        });
    }

    /// Where one is to be looked for; waits until it is to be.
    pub(super) async fn heard_at(&self) -> Vec<Multiaddr> {
        // The sender is held by `self`.
        let _ = self.state.subscribe().wait_for(|state| !state.heard_at.is_empty()).await;
        let mut heard = Vec::new();
        self.state.send_if_modified(|state| {
            heard = std::mem::take(&mut state.heard_at);
            false
        });
        heard
    }

    /// Whether the master keeps another run, or this one gave way. Then it publishes nothing: it would take the place of the other's.
    pub(super) fn is_refused(&self) -> bool {
        !self.state.borrow().may_publish()
    }

    /// Waits until this run may publish.
    pub(super) async fn admitted(&self) {
        // The sender is held by `self`.
        let _ = self.state.subscribe().wait_for(State::may_publish).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_master_says_comes_first_and_goes_when_it_is_over() {
        let twins = Twins::new();
        assert_eq!((twins.text(), twins.is_refused()), (None, false));
        twins.on_met(&"/ip4/10.0.0.9/tcp/1".parse().unwrap());
        assert!(twins.text().unwrap().contains("10.0.0.9"));
        twins.on_notice(Some("another tries to join".to_owned()));
        assert_eq!(twins.text().as_deref(), Some("another tries to join"));
        twins.on_refused("kept out");
        assert_eq!((twins.text().as_deref(), twins.is_refused()), (Some("kept out"), true));
        twins.on_joined();
        twins.on_notice(None);
        assert!(twins.text().unwrap().contains("10.0.0.9") && !twins.is_refused());
    }

    #[tokio::test]
    async fn a_master_that_gave_way_says_so_and_publishes_nothing() {
        let twins = Twins::new();
        twins.on_met(&"/ip4/10.0.0.9/tcp/1".parse().unwrap());
        twins.on_gave_way("it gave way");
        assert_eq!((twins.text().as_deref(), twins.is_refused()), (Some("it gave way"), true));
        twins.on_joined();
        assert!(twins.is_refused(), "until it is started again");
        let heard =
            |count: u16| (0..count).map(|port| format!("/ip4/10.0.0.1/tcp/{}", port + 1).parse().unwrap()).collect();
        twins.on_heard_at(heard(1000));
        assert_eq!(twins.heard_at().await.len(), MAX_STRANGE);
        twins.on_heard_at(heard(1));
        assert_eq!(twins.heard_at().await.len(), 1, "each is looked for again");
    }

    #[test]
    fn a_twin_that_was_not_met_for_long_is_forgotten() {
        let now = Instant::now();
        let state = State { met: Some((now, "met".to_owned())), ..State::default() };
        assert_eq!(state.text(now + MEMORY), Some("met"));
        assert_eq!(state.text(now + MEMORY + Duration::from_secs(1)), None);
    }
}
