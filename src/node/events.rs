//! What happens in a node, for whoever follows it: numbered events, of which the last are kept.
//!
//! Whoever tells of something never waits: it takes a lock for moments, and what is oldest makes room. Whoever follows asks for the
//! next event when it is ready for it, and hears how many it has missed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use swarmdex_protocols::{Name, PeerId};
use tokio::sync::watch;

use super::error::shorten;
use super::life::Phase;
use super::types::{GetReport, GetRequest, MasterState, optional_text, text};
use super::{Error, ErrorKind};
use crate::clock::unix_ms;
use crate::locks::lock;
use crate::net::{MemberChange, MemberChanges};
use crate::storage::shares::ShareTable;

/// How many events are kept: so far behind may be who follows them. About 300 bytes each, at most 5 KiB.
pub const EVENTS_KEPT: usize = 1024;
/// Longest text of an event that is not this program's own, in bytes.
const MAX_TEXT: usize = 1024;
/// How often it is told that the share has changed, at most: one that is hashed changes all the time.
const SHARE_PAUSE: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: 1 for the first since the node started, and one more for each.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Happened {
    /// At the master: a peer joined, or said anew where it listens.
    PeerJoined {
        /// The peer.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// At the master: a peer left.
    PeerLeft {
        /// The peer.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// At the master: a peer's lease is over, and its names are free.
    PeerEvicted {
        /// The peer.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// At the master: a peer does not answer.
    PeerSuspect {
        /// The peer.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// At the master: a peer that was suspect answers.
    PeerAlive {
        /// The peer.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// This node announced names, or renewed their certificates.
    NamesAnnounced {
        /// Those that the master answered.
        names: u64,
        /// Of these, those that belong to others or were refused.
        lost: u64,
    },
    /// This node gave names up, and the master knows.
    NamesRevoked {
        /// How many.
        names: u64,
    },
    /// This node claimed a name while no master answered.
    NameClaimed {
        /// The name.
        name: Name,
    },
    /// A name that this node wanted while no master answered is another's.
    ClaimLost {
        /// The name.
        name: Name,
        /// Its owner.
        #[serde(with = "text")]
        owner: PeerId,
    },
    /// What this node shares changed; several changes in a row are one event.
    ShareChanged {
        /// Names that it shares now, those whose files are away included.
        names: u64,
    },
    /// A download began, of one file or of all below a prefix.
    DownloadBegun {
        /// Its number, in its other events as well.
        download: u64,
        /// The name or prefix, shortened.
        name: String,
        /// Whether it is of a prefix.
        recursive: bool,
    },
    /// A download is done.
    DownloadDone {
        /// Its number.
        download: u64,
        /// Files that are in place.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Files that failed.
        failed: u64,
    },
    /// A download failed, or was interrupted.
    DownloadFailed {
        /// Its number.
        download: u64,
        /// Kind of the error.
        kind: ErrorKind,
        /// The error as a sentence, shortened.
        message: String,
    },
    /// A master is followed that was not known before.
    MasterFound {
        /// The master.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// This node is a member of the master's network, or is one again.
    MasterJoined {
        /// The master.
        #[serde(with = "text")]
        peer_id: PeerId,
    },
    /// The master cannot be reached any more.
    MasterLost {
        /// The master, if it is known.
        #[serde(with = "optional_text")]
        peer_id: Option<PeerId>,
        /// Why, shortened.
        reason: String,
    },
}

/// What comes next to whoever follows events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Notice {
    /// The next event.
    Event(Event),
    /// Some events before the next one are not kept any more. 0 if the number to go on from is of an earlier run of the
    /// node: then all that is kept follows.
    Missed {
        /// How many.
        missed: u64,
    },
}

/// The events of one node. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Events {
    kept: Arc<Mutex<History>>,
    /// Number of the last event; `None` once there will be no other.
    last: Arc<watch::Sender<Option<u64>>>,
    downloads: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct History {
    /// Number of the last event.
    last: u64,
    /// The last events, in the order of their numbers.
    events: VecDeque<Event>,
}

impl History {
    /// The event with this number, or the oldest one after it.
    fn from(&self, number: u64) -> Option<&Event> {
        let at = self.events.partition_point(|event| event.number < number);
        self.events.get(at)
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Arc::default(), last: Arc::new(watch::Sender::new(Some(0))), downloads: Arc::default() }
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, History> {
        // Changed in steps that cannot panic.
        lock(&self.kept)
    }

    /// Tells of something to all who follow. Never waits for them.
    pub(super) fn tell(&self, what: Happened) {
        let mut kept = self.lock();
        kept.last += 1;
        let event = Event { number: kept.last, unix_ms: unix_ms(), what };
        if kept.events.len() >= EVENTS_KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(event);
        // Under the lock, so that the number rises for everybody.
        let number = kept.last;
        self.last.send_if_modified(|last| last.as_mut().map(|last| *last = number).is_some());
    }

    /// There is nothing more to tell of: streams end.
    pub(super) fn close(&self) {
        self.last.send_replace(None);
    }

    /// See [`super::Node::events`].
    pub(super) fn follow(&self, since: Option<u64>) -> EventStream {
        let last = self.last.subscribe();
        let newest = self.lock().last;
        let since = since.unwrap_or(newest);
        // Numbers that were not given out yet are of an earlier run.
        let (next, is_earlier) = if since > newest { (1, true) } else { (since + 1, false) };
        EventStream { kept: self.kept.clone(), last, next, is_earlier }
    }

    /// The hook by which the master's side of the index reports changes of members.
    pub(super) fn of_members(&self) -> MemberChanges {
        let events = self.clone();
        Arc::new(move |peer_id, change| {
            events.tell(match change {
                MemberChange::Joined => Happened::PeerJoined { peer_id },
                MemberChange::Left => Happened::PeerLeft { peer_id },
                MemberChange::Evicted => Happened::PeerEvicted { peer_id },
                MemberChange::Suspect => Happened::PeerSuspect { peer_id },
                MemberChange::Alive => Happened::PeerAlive { peer_id },
            });
        })
    }

    /// The node stands otherwise with its master than before.
    pub(super) fn on_master(&self, before: &MasterState, now: &MasterState) {
        match (before, now) {
            (MasterState::Joined { peer_id: before }, MasterState::Joined { peer_id }) if before == peer_id => {}
            // One that stays away is no news.
            (MasterState::Unreachable { .. }, MasterState::Unreachable { .. }) => {}
            (_, MasterState::Joined { peer_id }) => self.tell(Happened::MasterJoined { peer_id: *peer_id }),
            (_, MasterState::Unreachable { peer_id, reason, .. }) => {
                self.tell(Happened::MasterLost { peer_id: *peer_id, reason: cut(reason.clone()) });
            }
            _ => {}
        }
    }

    /// A download begins. The value that is returned reports its end, even when it is dropped.
    pub(super) fn on_download(&self, request: &GetRequest) -> DownloadWatch {
        let download = self.downloads.fetch_add(1, Ordering::Relaxed) + 1;
        self.tell(Happened::DownloadBegun { download, name: shorten(&request.name), recursive: request.recursive });
        DownloadWatch { events: self.clone(), download, is_told: false }
    }
}

/// Tells how a download ends.
#[derive(Debug)]
pub(super) struct DownloadWatch {
    events: Events,
    download: u64,
    is_told: bool,
}

impl DownloadWatch {
    /// It ended like this.
    pub(super) fn end(mut self, outcome: &Result<GetReport, Error>) {
        match outcome {
            Ok(report) => self.events.tell(Happened::DownloadDone {
                download: self.download,
                files: report.files.len() as u64,
                bytes: report.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes)),
                failed: report.failed.len() as u64,
            }),
            Err(error) => self.fail(error),
        }
        self.is_told = true;
    }

    fn fail(&self, error: &Error) {
        let (download, kind, message) = (self.download, error.kind(), cut(error.describe()));
        self.events.tell(Happened::DownloadFailed { download, kind, message });
    }
}

impl Drop for DownloadWatch {
    fn drop(&mut self) {
        if !self.is_told {
            self.fail(&Error::Cancelled);
        }
    }
}

/// Events as they come. It keeps nothing of its own: whoever does not ask for the next one costs nothing.
///
/// It ends with [`crate::Node::shutdown`] and [`crate::Node::abort`], after what is kept was given. It is no handle of the node, and
/// ends as well once the last handle and all tasks of the node are gone.
///
/// # Cancel safety
/// Dropping it loses nothing: another one goes on from the number of the last event.
#[derive(Debug)]
pub struct EventStream {
    kept: Arc<Mutex<History>>,
    last: watch::Receiver<Option<u64>>,
    /// Number of the event that comes next.
    next: u64,
    /// Whether the number to go on from was of an earlier run, and this was not told yet.
    is_earlier: bool,
}

impl EventStream {
    /// Waits for the next event; `None` once there will be no other.
    ///
    /// # Cancel safety
    /// Cancel safe: an event that was not given comes next time.
    pub async fn next(&mut self) -> Option<Notice> {
        if std::mem::take(&mut self.is_earlier) {
            return Some(Notice::Missed { missed: 0 });
        }
        loop {
            // Before the look, so that what comes after it is heard of.
            let is_over = self.last.borrow_and_update().is_none();
            if let Some(told) = self.try_next() {
                return Some(told);
            }
            if is_over || self.last.changed().await.is_err() {
                return None;
            }
        }
    }

    fn try_next(&mut self) -> Option<Notice> {
        let kept = lock(&self.kept);
        let event = kept.from(self.next)?;
        let missed = event.number - self.next;
        if missed > 0 {
            self.next = event.number;
            return Some(Notice::Missed { missed });
        }
        self.next += 1;
        Some(Notice::Event(event.clone()))
    }
}

/// Tells whenever the share has changed, until the node stops.
pub(super) async fn watch_share(events: Events, shares: ShareTable, mut phase: watch::Receiver<Phase>) {
    let mut changes = shares.generation();
    changes.borrow_and_update();
    loop {
        tokio::select! {
            () = Phase::end(&mut phase) => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        // What comes right behind it belongs to it.
        tokio::select! {
            () = Phase::end(&mut phase) => return,
            () = tokio::time::sleep(SHARE_PAUSE) => {}
        }
        changes.borrow_and_update();
        events.tell(Happened::ShareChanged { names: shares.count() as u64 });
    }
}

/// What came from elsewhere, as far as an event carries it.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn revoked(names: u64) -> Happened {
        Happened::NamesRevoked { names }
    }

    fn numbers(stream: &mut EventStream) -> Vec<Result<u64, u64>> {
        std::iter::from_fn(|| stream.next().now_or_never().flatten())
            .map(|told| match told {
                Notice::Event(event) => Ok(event.number),
                Notice::Missed { missed } => Err(missed),
            })
            .collect()
    }

    #[test]
    fn numbers_rise_and_whoever_follows_goes_on_where_it_was() {
        let events = Events::default();
        events.tell(revoked(1));
        let (mut new, mut whole, mut rest) = (events.follow(None), events.follow(Some(0)), events.follow(Some(1)));
        events.tell(revoked(2));
        events.tell(revoked(3));
        assert_eq!(numbers(&mut new), [Ok(2), Ok(3)]);
        assert_eq!(numbers(&mut whole), [Ok(1), Ok(2), Ok(3)]);
        assert_eq!(numbers(&mut rest), [Ok(2), Ok(3)]);
        events.tell(revoked(4));
        assert_eq!((numbers(&mut new), numbers(&mut whole)), (vec![Ok(4)], vec![Ok(4)]));
    }

    #[test]
    fn the_history_is_bounded_and_whoever_lags_hears_how_much_it_missed() {
        let events = Events::default();
        let mut slow = events.follow(None);
        for number in 0..EVENTS_KEPT as u64 + 10 {
            events.tell(revoked(number));
            assert!(events.lock().events.len() <= EVENTS_KEPT);
        }
        assert_eq!(slow.next().now_or_never().flatten(), Some(Notice::Missed { missed: 10 }));
        let told = numbers(&mut slow);
        assert_eq!((told.len(), told[0]), (EVENTS_KEPT, Ok(11)));
        let mut late = events.follow(Some(5));
        assert_eq!(late.next().now_or_never().flatten(), Some(Notice::Missed { missed: 5 }));
    }

    #[test]
    fn a_number_of_an_earlier_run_is_followed_by_all_that_is_kept() {
        let events = Events::default();
        events.tell(revoked(1));
        events.tell(revoked(2));
        assert_eq!(numbers(&mut events.follow(Some(700))), [Err(0), Ok(1), Ok(2)]);
        assert_eq!(numbers(&mut events.follow(Some(u64::MAX))), [Err(0), Ok(1), Ok(2)]);
    }

    #[tokio::test]
    async fn streams_end_with_the_node_after_what_is_left() {
        let events = Events::default();
        let mut stream = events.follow(None);
        let waiting = tokio::spawn(async move { (stream.next().await, stream.next().await) });
        tokio::task::yield_now().await;
        events.tell(revoked(1));
        events.close();
        let (first, second) = waiting.await.unwrap();
        assert!(matches!(first, Some(Notice::Event(Event { number: 1, .. }))) && second.is_none());
        // What fails while the node ends is still kept, and opens nothing again.
        events.tell(revoked(2));
        let mut rest = events.follow(Some(1));
        assert!(matches!(rest.next().await, Some(Notice::Event(Event { number: 2, .. }))));
        assert_eq!(rest.next().await, None);
    }

    #[test]
    fn a_download_that_is_dropped_has_an_end_as_well() {
        let events = Events::default();
        let mut stream = events.follow(None);
        let request = GetRequest { name: "a".to_owned(), output: "/b".into(), recursive: false };
        drop(events.on_download(&request));
        events.on_download(&request).end(&Ok(GetReport::default()));
        let mut next = || match stream.next().now_or_never().flatten() {
            Some(Notice::Event(event)) => event.what,
            other => panic!("{other:?}"),
        };
        assert!(matches!(next(), Happened::DownloadBegun { download: 1, .. }));
        assert!(matches!(next(), Happened::DownloadFailed { download: 1, .. }));
        assert!(matches!(next(), Happened::DownloadBegun { download: 2, .. }));
        assert!(matches!(next(), Happened::DownloadDone { download: 2, files: 0, .. }));
    }

    #[test]
    fn what_others_say_is_cut_and_a_master_that_stays_away_is_told_of_once() {
        let events = Events::default();
        let mut stream = events.follow(None);
        let away = |reason: &str| MasterState::Unreachable { peer_id: None, since_ms: 0, reason: reason.to_owned() };
        let long = "ü".repeat(MAX_TEXT);
        events.on_master(&MasterState::Unknown, &away(&long));
        events.on_master(&away("a"), &away("b"));
        let joined = MasterState::Joined { peer_id: PeerId::random() };
        events.on_master(&away("b"), &joined);
        events.on_master(&joined, &joined);
        let Some(Some(Notice::Event(Event { what: Happened::MasterLost { reason, .. }, .. }))) =
            stream.next().now_or_never()
        else {
            panic!("no event");
        };
        assert_eq!(reason.len(), MAX_TEXT);
        assert_eq!(numbers(&mut stream), [Ok(2)]);
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let peer_id = PeerId::random();
        let event = Event { number: 7, unix_ms: 5, what: Happened::PeerEvicted { peer_id } };
        let json = serde_json::to_value(Notice::Event(event.clone())).unwrap();
        let expected = serde_json::json!({
            "number": 7, "unix_ms": 5, "event": "peer_evicted", "peer_id": peer_id.to_string(),
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Notice>(json).unwrap(), Notice::Event(event));
        assert_eq!(serde_json::to_string(&Notice::Missed { missed: 3 }).unwrap(), r#"{"missed":3}"#);
    }
}
