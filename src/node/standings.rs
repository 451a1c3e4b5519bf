//! What the master, and without it the network, said of this node's names; shared between the membership, the
//! mirror and the handle.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{Cursor, IndexRequest, IndexResponse, Owned, Refusal, RefusalCode};
use swarmdex_protocols::limits::MAX_PAGE_ENTRIES;
use swarmdex_protocols::{Certificate, ContentId, Name, Pattern, PeerId};
use tokio::sync::watch;

use super::types::AgreementInfo;
use crate::clock::unix_ms;
use crate::locks::lock;
use crate::net::OwnedNames;
use crate::state::announce::{Announcer, Standing};
use crate::state::pages::NamePlaces;
use crate::storage::grants::Grants;
use crate::storage::shares::{ShareTable, SharedEntry};

/// Names that one page of an answer looks at: bounds how long one question takes.
const NAMES_PER_PAGE: usize = 20_000;

/// The places of the names of one listing of the share, which is not kept alive for that.
type Ordered = (Weak<Vec<SharedEntry>>, Arc<NamePlaces>);

/// The announcer behind a lock, its certificates on disk.
#[derive(Debug, Clone)]
pub(super) struct Standings {
    announcer: Arc<Mutex<Announcer>>,
    grants: Arc<Grants>,
    changed: Arc<watch::Sender<u64>>,
    agreement: Arc<Mutex<AgreementState>>,
    /// Of the listing that was asked about last.
    places: Arc<Mutex<Option<Ordered>>>,
}

/// How master and node agree about the node's names.
#[derive(Debug, Clone, Copy, Default)]
struct AgreementState {
    /// Length of a lease; zero before the first join.
    lease: Duration,
    /// Wall clock when both were last seen to hold the same, in milliseconds since 1970.
    confirmed_ms: Option<u64>,
    /// Names that differed and were put right since the node started.
    repaired: u64,
    /// Whether the master compares at all.
    checked: bool,
}

impl Standings {
    /// For the node `local`, with what it was granted before.
    pub(super) fn new(local: PeerId, grants: Grants, certificates: Vec<Certificate>) -> Self {
        let announcer = Announcer::new(local, certificates);
        Self {
            announcer: Arc::new(Mutex::new(announcer)),
            grants: Arc::new(grants),
            changed: Arc::new(watch::Sender::new(0)),
            agreement: Arc::default(),
            places: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Announcer> {
        // The announcer is never left half-changed: a panic elsewhere does not spoil it.
        lock(&self.announcer)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Announcer) -> T) -> T {
        self.change_at(change).0
    }

    /// Also the number of the change.
    pub(super) fn change_at<T>(&self, change: impl FnOnce(&mut Announcer) -> T) -> (T, u64) {
        let result = change(&mut self.lock());
        let mut number = 0;
        self.changed.send_modify(|generation| {
            *generation += 1;
            number = *generation;
        });
        (result, number)
    }

    fn agreement(&self) -> MutexGuard<'_, AgreementState> {
        lock(&self.agreement)
    }

    /// The master grants leases of this length.
    pub(super) fn set_lease(&self, lease: Duration) {
        self.agreement().lease = lease;
    }

    /// Length of the master's leases.
    pub(super) fn lease(&self) -> Duration {
        self.agreement().lease
    }

    /// Master and node hold the same; `checked` unless the master does not say. What is told of the names stays as it is, so
    /// nobody is woken.
    pub(super) fn on_agreed(&self, now: Instant, checked: bool) {
        self.lock().on_agreed(now);
        let mut agreement = self.agreement();
        (agreement.confirmed_ms, agreement.checked) = (Some(unix_ms()), checked);
    }

    /// So many names differed.
    pub(super) fn on_repaired(&self, names: u64) {
        let mut agreement = self.agreement();
        agreement.repaired = agreement.repaired.saturating_add(names);
    }

    /// How master and node agree, for people.
    pub(super) fn agreement_info(&self) -> Option<AgreementInfo> {
        let AgreementState { confirmed_ms, repaired, checked, .. } = *self.agreement();
        let confirmed_ms = confirmed_ms?;
        let names = self.lock().granted().map_or(0, |sum| sum.entries);
        Some(AgreementInfo { confirmed_ms, names, repaired, checked })
    }

    /// Whether the master said within the last two leases that `name` is granted.
    pub(super) fn is_confirmed(&self, name: &Name) -> bool {
        let period = self.lease() * 2;
        self.lock().is_confirmed(name, period, Instant::now())
    }

    /// Writes certificates that changed to disk. They can be had anew: a failure is logged.
    pub(super) async fn save(&self) {
        let unsaved = self.lock().take_unsaved();
        if unsaved.is_empty() {
            return;
        }
        let grants = self.grants.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || grants.save(&unsaved)).await {
            tracing::warn!(%error, "certificates were not written to disk");
        }
    }

    /// Writes certificates again that somebody changed on disk.
    pub(super) async fn restore(&self) {
        let grants = self.grants.clone();
        let found = match tokio::task::spawn_blocking(move || grants.changed()).await {
            Ok(Ok(Some(found))) => found,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return tracing::warn!(%error, "certificates could not be read"),
            Err(_) => return,
        };
        let differ = self.lock().resave(&found);
        if differ > 0 {
            tracing::warn!(names = differ, "another program changed certificates of this node; they are written again");
            self.save().await;
        }
    }

    /// Whether master and node agreed about all names within the last two leases.
    pub(super) fn all_confirmed(&self) -> bool {
        let period = self.lease() * 2;
        self.lock().agreed().is_some_and(|agreed| agreed.elapsed() <= period)
    }

    /// How these names stand with their contents, and whether that was confirmed.
    pub(super) fn of_all<'a>(
        &self,
        names: impl Iterator<Item = (&'a Name, &'a ContentId)>,
    ) -> Vec<(Option<Standing>, bool)> {
        let (period, now) = (self.lease() * 2, Instant::now());
        let announcer = self.lock();
        let said =
            |(name, content)| (announcer.standing(name, content).cloned(), announcer.is_confirmed(name, period, now));
        names.map(said).collect()
    }

    /// How `name` stands with this content.
    pub(super) fn of(&self, name: &Name, content: &ContentId) -> Option<Standing> {
        self.lock().standing(name, content).cloned()
    }

    /// Whether the master counts `name` as this node's.
    pub(super) fn knows(&self, name: &Name) -> bool {
        self.lock().holds(name)
    }

    /// Whether the master, to which this node is joined, knows that `name` is given up.
    pub(super) fn is_known_to_be_free(&self, name: &Name) -> bool {
        self.lock().is_known_to_be_free(name)
    }

    /// Asks again for names that were lost.
    pub(super) fn retry(&self, names: &[Name]) {
        self.change(|announcer| names.iter().for_each(|name| announcer.retry(name)));
    }

    /// Changes whenever something was said, or is to be asked again.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What this node answers about its own names to those who ask it instead of the master.
    pub(super) fn service(&self, shares: ShareTable) -> OwnedNames {
        let standings = self.clone();
        Arc::new(move |request| standings.answer(&shares, request))
    }

    fn answer(&self, shares: &ShareTable, request: IndexRequest) -> IndexResponse {
        let refused = |code, reason: String| IndexResponse::Refused(Refusal::new(code, reason));
        match request {
            IndexRequest::Lookup(lookup) => match Name::parse(&lookup.name) {
                Ok(name) => {
                    let statements = self.lock().statement(&name).into_iter().collect();
                    IndexResponse::Owned(Owned { statements, next: None })
                }
                Err(error) => refused(RefusalCode::InvalidName, error.to_string()),
            },
            IndexRequest::Search(search) => match Pattern::parse_by(&search.query, search.rule) {
                Ok(pattern) => {
                    let limit = (search.limit as usize).clamp(1, MAX_PAGE_ENTRIES);
                    IndexResponse::Owned(self.page(shares, &pattern, search.cursor, limit))
                }
                Err(error) => refused(RefusalCode::InvalidQuery, error.to_string()),
            },
            _ => refused(RefusalCode::NotMaster, "this node is not the master".to_owned()),
        }
    }

    /// A page of this node's names that match, in the order of their places.
    fn page(&self, shares: &ShareTable, pattern: &Pattern, cursor: Option<Cursor>, limit: usize) -> Owned {
        let entries = shares.kept();
        let places = self.places(&entries);
        let (mut statements, mut next) = (Vec::new(), None);
        for (index, after) in places.page(cursor, NAMES_PER_PAGE) {
            next = after;
            let Some(entry) = entries.get(index).filter(|entry| pattern.matches(&entry.name)) else { continue };
            statements.extend(self.lock().statement(&entry.name));
            if statements.len() == limit {
                break;
            }
        }
        Owned { statements, next }
    }

    /// The places of all names of a listing. They are found once, and serve all its pages.
    fn places(&self, entries: &Arc<Vec<SharedEntry>>) -> Arc<NamePlaces> {
        let mut held = lock(&self.places);
        if let Some((listing, places)) = &*held
            && listing.as_ptr() == Arc::as_ptr(entries)
        {
            return places.clone();
        }
        let places = Arc::new(NamePlaces::of(entries.iter().map(|entry| &entry.name)));
        *held = Some((Arc::downgrade(entries), places.clone()));
        places
    }
}
