//! Questions to the DHT, and to owners found through it. Nothing is believed that is not signed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt, stream};
use swarmdex_protocols::index::{IndexRequest, IndexResponse, Lookup, Member, Owned, RefusalCode, Search};
use swarmdex_protocols::ledger::Standing;
use swarmdex_protocols::limits::{MAX_HOLDERS, MAX_PAGE_ENTRIES, MAX_PROVIDERS};
use swarmdex_protocols::{
    Authority, ContentId, Entry, Ledger, Name, Pattern, PeerId, RecordKey, Rule, Statement, Tally,
};
use tokio::sync::mpsc;

use super::Error;
use super::answer::{Checked, Listing};
use super::error::shorten;
use super::types::Source;
use crate::clock::unix_ms;
use crate::net::{FoundRecord, Mirror, Net, OwnedNames, PROVIDERS_IN_ANSWER};
use crate::state::lost::Reached;

/// Nodes whose answers about a name are enough: with two liars among them the honest ones have the latest statement.
const ENOUGH_ANSWERS: usize = 5;
/// How long to wait for more answers after the first.
const ANSWER_GRACE: Duration = Duration::from_millis(500);
/// How long to look for nodes under one key.
const PROVIDER_PATIENCE: Duration = Duration::from_secs(2);
/// How long to look for other holders of a content whose owner is known.
const HOLDER_PATIENCE: Duration = Duration::from_millis(200);
/// Owners asked for one search, and how many of them at a time.
const MAX_OWNERS: usize = 2 * MAX_PROVIDERS;
const OWNERS_AT_A_TIME: usize = 64;
/// How long one owner may take for a page, connecting included, and how many pages it is asked for.
const OWNER_PATIENCE: Duration = Duration::from_secs(3);
const PAGES_OF_OWNER: usize = 1000;
/// How many of them may have less than was asked for, and for how long after the first question. An owner looks at
/// 20,000 names for each, and one that has nothing to say must not keep a search going.
const THIN_PAGES: usize = 32;
const THIN_PATIENCE: Duration = Duration::from_secs(10);
/// How often an owner is asked for a page if it is busy, or if it answered before, and the pause after the first time.
const PAGE_ATTEMPTS: u32 = 3;
const PAGE_PAUSE: Duration = Duration::from_millis(50);
/// Owners asked for a name whose record was not found.
const OWNERS_OF_NAME: usize = 8;

/// Asks the DHT.
#[derive(Clone)]
pub(super) struct Dht {
    pub(super) net: Net,
    pub(super) mirror: Mirror,
    /// What this node says of its own names.
    pub(super) own: OwnedNames,
}

impl std::fmt::Debug for Dht {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dht").finish_non_exhaustive()
    }
}

impl Dht {
    fn authority(&self) -> Result<Authority, Error> {
        self.net.authority().ok_or(Error::NoMaster)
    }

    /// What the network says of one name.
    pub(super) async fn lookup(&self, name: &Name) -> Result<Checked, Error> {
        let authority = self.authority()?;
        let request = IndexRequest::Lookup(Lookup { name: name.as_str().to_owned() });
        let (mut tally, reach) = match self.mirror.find(name).await {
            // A certificate is what the master signed. What is over, or claimed, takes more voices.
            Some(tally) if matches!(tally.standing(), Standing::Certified(_)) => (tally, Reached::default()),
            _ => self.record(name, &authority).await,
        };
        if let IndexResponse::Owned(owned) = (self.own)(request) {
            let local = self.net.local();
            let own = owned.statements.into_iter().filter_map(|statement| believed(statement, &local, &authority));
            own.for_each(|ledger| tally.add(&ledger, unix_ms()));
        }
        if tally.standing() == Standing::Free {
            // The nodes closest to the name may be gone, or hide what came after a tombstone: its owner is found by
            // its words as well.
            self.ask_owners_of(name, &authority, &mut tally).await;
        }
        let (entry, certified) = match tally.standing() {
            Standing::Certified(certificate) => (certificate.entry.clone(), true),
            Standing::Claimed(claim) => (claim.entry.clone(), false),
            // Somebody knows that it is over.
            Standing::Free if tally.answers() > 0 => return Err(Error::NotFound { name: shorten(name.as_str()) }),
            Standing::Free if self.net.dht_counts().await.nodes == 0 => return Err(Error::NoNodes),
            Standing::Free if reach.is_sure() => return Err(Error::NotFound { name: shorten(name.as_str()) }),
            Standing::Free => return Err(unsure(name.as_str(), reach)),
        };
        let holders = self.holders(&entry).await;
        let rivals: Vec<_> = tally.rivals().collect();
        if !rivals.is_empty() {
            tracing::warn!(%name, owner = %entry.owner, ?rivals, "certificates name more than one owner; the latest counts");
        }
        Ok(Checked { entry, certified, source: Source::Dht, holders, rivals })
    }

    /// The ledgers that nodes hold of a name, enough of them to have the latest statement; and who answered.
    async fn record(&self, name: &Name, authority: &Authority) -> (Tally, Reached) {
        // A question that breaks off is an answer of nobody.
        const NOBODY: Reached = Reached { answered: 0, silent: 1, lost: 0, closest: 0 };
        let mut records = self.net.record(self.mirror.key(name)).await;
        let (mut tally, mut deadline, mut seen) = (Tally::default(), None, BTreeSet::new());
        loop {
            let next = match deadline {
                None => records.recv().await,
                Some(deadline) => tokio::time::timeout_at(deadline, records.recv()).await.unwrap_or_default(),
            };
            let (peer, value) = match next {
                Some(FoundRecord::Value(peer, value)) => (peer, value),
                Some(FoundRecord::End(reach)) => return (tally, reach),
                None => return (tally, NOBODY),
            };
            let ledger = match Ledger::decode(&value, name, authority, unix_ms()) {
                Ok(ledger) if !ledger.is_empty() => ledger,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%peer, %name, %error, "a record is not believed");
                    continue;
                }
            };
            // One voice for each node.
            if seen.insert(peer) {
                tally.add(&ledger, unix_ms());
            }
            if tally.answers() >= ENOUGH_ANSWERS {
                return (tally, Reached::default());
            }
            deadline.get_or_insert_with(|| tokio::time::Instant::now() + ANSWER_GRACE);
        }
    }

    async fn ask_owners_of(&self, name: &Name, authority: &Authority, tally: &mut Tally) {
        // Keys lie far from each other: whoever stands near one of them hides nothing under the others.
        let keys = RecordKey::of_owner(&authority.network, name);
        let searches = keys.map(|key| self.found_under(key, OWNERS_OF_NAME, PROVIDER_PATIENCE));
        let owners: BTreeSet<_> = futures::future::join_all(searches).await.into_iter().flatten().collect();
        let request = IndexRequest::Lookup(Lookup { name: name.as_str().to_owned() });
        let asking: Vec<_> = owners.into_iter().map(|owner| self.ask_owner(owner, request.clone()).boxed()).collect();
        let mut answers = stream::iter(asking).buffer_unordered(OWNERS_OF_NAME);
        while let Some(answer) = answers.next().await {
            let Some((owner, IndexResponse::Owned(owned))) = answer else { continue };
            for statement in owned.statements.into_iter().take(1) {
                if let Some(ledger) = believed(statement, &owner, authority)
                    && ledger.statements().all(|statement| statement.name() == name)
                {
                    tally.add(&ledger, unix_ms());
                }
            }
        }
    }

    /// Nodes that are found under a key, at most `most` of them, this node not among them.
    async fn found_under(&self, key: RecordKey, most: usize, patience: Duration) -> BTreeSet<PeerId> {
        let mut receiver: mpsc::Receiver<PeerId> = self.net.providers(key).await;
        let deadline = tokio::time::Instant::now() + patience;
        let mut found = BTreeSet::new();
        while found.len() < most
            && let Ok(Some(peer)) = tokio::time::timeout_at(deadline, receiver.recv()).await
        {
            if peer != self.net.local() {
                found.insert(peer);
            }
        }
        found
    }

    async fn ask_owner(&self, owner: PeerId, request: IndexRequest) -> Option<(PeerId, IndexResponse)> {
        let asking = async {
            let addresses = self.net.locate(owner).await;
            self.net.connect(Some(owner), addresses).await.ok()?;
            self.net.index(owner, request).await.ok()
        };
        let answer = tokio::time::timeout(OWNER_PATIENCE, asking).await.ok().flatten();
        answer.map(|response| (owner, response))
    }

    /// The owner of an entry and other holders of its content, with their addresses.
    async fn holders(&self, entry: &Entry) -> Vec<Member> {
        let others = self.holders_of(&entry.content).await;
        let peers = std::iter::once(entry.owner).chain(others.into_iter().filter(|peer| *peer != entry.owner));
        let locating: Vec<_> = peers.take(MAX_HOLDERS).map(|peer| self.located(peer).boxed()).collect();
        stream::iter(locating).buffered(MAX_HOLDERS).collect().await
    }

    async fn located(&self, peer: PeerId) -> Member {
        let addresses = tokio::time::timeout(PROVIDER_PATIENCE, self.net.locate(peer)).await.unwrap_or_default();
        Member { peer, addresses, suspect: false, entries: 0, reachable: None }
    }

    async fn holders_of(&self, content: &ContentId) -> BTreeSet<PeerId> {
        let Some(authority) = self.net.authority() else { return BTreeSet::new() };
        let key = RecordKey::content(&authority.network, content);
        self.found_under(key, MAX_HOLDERS, HOLDER_PATIENCE).await
    }

    /// All nodes that are found under a key, at most [`MAX_OWNERS`], this node not among them.
    async fn owners_under(&self, key: RecordKey) -> BTreeSet<PeerId> {
        let mut owners = self.found_under(key, MAX_OWNERS, PROVIDER_PATIENCE).await;
        // From so many on there may be more than Kademlia's answers have.
        if owners.len() >= PROVIDERS_IN_ANSWER {
            let more = self.mirror.providers(key).await;
            let mut more = pin!(more.take_until(tokio::time::sleep(PROVIDER_PATIENCE)));
            // Twenty nodes name much the same owners: each counts once.
            while owners.len() < MAX_OWNERS
                && let Some(provider) = more.next().await
            {
                if provider.peer != self.net.local() {
                    owners.insert(provider.peer);
                }
            }
        }
        owners
    }

    /// The entries that match, from their owners, at most `limit`.
    pub(super) async fn search(&self, query: &str, limit: usize) -> Result<Listing, Error> {
        let authority = self.authority()?;
        let pattern = Pattern::parse(query).map_err(Error::Query)?;
        let keys = RecordKey::of_search(&authority.network, &pattern);
        let begin = Instant::now();
        let looking = keys.iter().map(|key| self.owners_under(*key));
        let owners: BTreeSet<_> = futures::future::join_all(looking).await.into_iter().flatten().collect();
        let nobody = owners.is_empty();
        let mut tallies = BTreeMap::<Name, Tally>::new();
        let asked = owners.len();
        let owners = std::iter::once(self.net.local()).chain(owners.into_iter().take(MAX_OWNERS));
        let asking: Vec<_> =
            owners.map(|owner| self.pages(owner, &pattern, query, limit, &authority).boxed()).collect();
        let mut pages = stream::iter(asking).flatten_unordered(OWNERS_AT_A_TIME);
        let mut cut = false;
        while let Some(page) = pages.next().await {
            cut |= page.cut;
            for (name, ledger) in page.proved {
                if tallies.len() < limit || tallies.contains_key(&name) {
                    tallies.entry(name).or_default().add(&ledger, unix_ms());
                } else {
                    cut = true;
                }
            }
        }
        drop(pages);
        if nobody && tallies.is_empty() && self.net.dht_counts().await.nodes == 0 {
            return Err(Error::NoNodes);
        }
        for key in keys {
            let reach = self.net.reach(key).await;
            if tallies.is_empty() && !reach.is_sure() {
                return Err(unsure(query, reach));
            }
        }
        // What owners say of their names may have been ended since, without their knowing or without their saying.
        for (name, known) in self.mirror.read(tallies.keys().cloned().collect()).await {
            if let Some(tally) = tallies.get_mut(&name) {
                tally.merge(&known);
            }
        }
        tracing::debug!(asked, found = tallies.len(), elapsed = ?begin.elapsed(), "searched by way of the DHT");
        Ok(Listing { entries: tallies.values().filter_map(entry_of).collect(), cut })
    }

    /// What one owner, or this node itself, proves in answer to a search, page after page. It ends when the owner has
    /// proved `limit` names, or cannot prove half of what it says.
    fn pages<'a>(
        &'a self,
        owner: PeerId,
        pattern: &'a Pattern,
        query: &'a str,
        limit: usize,
        authority: &'a Authority,
    ) -> impl Stream<Item = Proved> + 'a {
        let begin = Some((None, PagesLeft::new(limit)));
        stream::unfold(begin, move |place| async move {
            let (cursor, mut left) = place?;
            // At most 500, see the limit.
            let wanted = left.names.clamp(1, MAX_PAGE_ENTRIES);
            let search = Search { query: query.to_owned(), cursor, limit: wanted as u32, rule: Rule::Second };
            let request = IndexRequest::Search(search);
            let Some(page) = self.owned_page(owner, request, cursor.is_some()).await else {
                // What it did not come to is missing; one that never answered is gone with its names.
                return cursor.is_some().then(|| (Proved { proved: Vec::new(), cut: true }, None));
            };
            let said = page.statements.len().min(wanted);
            let statements = page.statements.into_iter().take(wanted);
            let proved: Vec<_> = statements.filter_map(|it| proved(it, &owner, pattern, authority)).collect();
            let more = left.after(wanted, said, proved.len()) && page.next.is_some() && page.next != cursor;
            let cut = page.next.is_some() && !more;
            Some((Proved { proved, cut }, more.then_some((page.next, left))))
        })
    }

    /// A page of what an owner says of its own names; `None` if there is no answer. One that is busy is asked again, and
    /// so is one that answered for an earlier page.
    async fn owned_page(&self, owner: PeerId, request: IndexRequest, answered: bool) -> Option<Owned> {
        if owner == self.net.local() {
            let IndexResponse::Owned(page) = (self.own)(request) else { return None };
            return Some(page);
        }
        for attempt in 1..=PAGE_ATTEMPTS {
            match self.ask_owner(owner, request.clone()).await {
                Some((_, IndexResponse::Owned(page))) => return Some(page),
                Some((_, IndexResponse::Refused(refusal))) if refusal.code == RefusalCode::Busy => {}
                None if answered => {}
                _ => return None,
            }
            tokio::time::sleep(PAGE_PAUSE * attempt * attempt).await;
        }
        None
    }
}

fn unsure(what: &str, reach: Reached) -> Error {
    let (silent, of) = reach.missing();
    Error::Unsure { what: shorten(what), silent, of }
}

/// A page of what an owner proves of its names.
struct Proved {
    proved: Vec<(Name, Ledger)>,
    /// Whether it is the last one that is asked for, and not the last there is.
    cut: bool,
}

/// How much more an owner is asked for.
#[derive(Debug, Clone, Copy)]
struct PagesLeft {
    names: usize,
    pages: usize,
    thin: usize,
    begun: Instant,
}

impl PagesLeft {
    fn new(names: usize) -> Self {
        Self { names, pages: PAGES_OF_OWNER, thin: THIN_PAGES, begun: Instant::now() }
    }

    /// Counts a page of which `wanted` names were asked for, `said` came, and `proved` of them were proved; whether
    /// another is worth a question.
    fn after(&mut self, wanted: usize, said: usize, proved: usize) -> bool {
        self.names = self.names.saturating_sub(proved);
        self.pages = self.pages.saturating_sub(1);
        if said < wanted {
            // Where few names match, or none, the rest is still to come.
            self.thin = self.thin.saturating_sub(1);
            if self.thin == 0 || self.begun.elapsed() > THIN_PATIENCE {
                return false;
            }
        }
        // Only true statements are worth more questions; some may have expired.
        2 * proved >= said && self.names > 0 && self.pages > 0
    }
}

/// What an owner says of a name that matches, if it proves it.
fn proved(statement: Statement, owner: &PeerId, pattern: &Pattern, authority: &Authority) -> Option<(Name, Ledger)> {
    let name = statement.name().clone();
    let ledger = pattern.matches(&name).then(|| believed(statement, owner, authority))?;
    ledger.map(|ledger| (name, ledger))
}

/// The entry that a name stands for.
fn entry_of(tally: &Tally) -> Option<Entry> {
    match tally.standing() {
        Standing::Certified(certificate) => Some(certificate.entry.clone()),
        Standing::Claimed(claim) => Some(claim.entry.clone()),
        Standing::Free => None,
    }
}

/// What an owner says of a name of its own, if it is signed.
fn believed(mut statement: Statement, owner: &PeerId, authority: &Authority) -> Option<Ledger> {
    if statement.owner() != owner || statement.check(authority, unix_ms()).is_err() {
        return None;
    }
    let mut ledger = Ledger::default();
    ledger.insert(statement, unix_ms()).ok()?;
    Some(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages that an owner is asked for which says and proves so many of 500 names each time.
    fn asked(limit: usize, said: usize, proved: usize) -> usize {
        let mut left = PagesLeft::new(limit);
        1 + (0..).take_while(|_| left.after(500, said, proved)).count()
    }

    #[test]
    fn an_owner_is_asked_for_all_of_its_pages_and_a_liar_for_few() {
        assert_eq!(asked(500, 500, 500), 1);
        assert_eq!(asked(501, 500, 500), 2);
        assert_eq!(asked(1_000_000, 500, 500), PAGES_OF_OWNER);
        assert_eq!(asked(1_000_000, 500, 250), PAGES_OF_OWNER);
        assert_eq!(asked(1_000_000, 500, 249), 1);
        // Few names match, or none on most pages.
        assert_eq!(asked(1000, 3, 3), THIN_PAGES);
        assert_eq!(asked(1000, 0, 0), THIN_PAGES);
        assert_eq!(asked(1000, 3, 1), 1);
        // Long after the first question, full pages alone are worth it.
        let begun = Instant::now().checked_sub(THIN_PATIENCE * 2).unwrap();
        let mut late = PagesLeft { begun, ..PagesLeft::new(10_000) };
        assert!(late.after(500, 500, 500) && !late.after(500, 499, 499));
    }
}
