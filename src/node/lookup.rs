//! Questions to the master or, without it, to the DHT; and checks of the master's answers.

use std::pin::pin;
use std::time::{Duration, Instant};

use swarmdex_protocols::index::{
    Cursor, Found as FoundName, IndexRequest, IndexResponse, Lookup, Member, Page, Peers, RefusalCode, Report, Search,
};
use swarmdex_protocols::limits::{MAX_ADDRESSES, MAX_HOLDERS, MAX_MEMBERS, MAX_PAGE_ENTRIES};
use swarmdex_protocols::statement::Invalid;
use swarmdex_protocols::{Entry, Name, Network, Pattern, PeerId, Rule, statement};
use tokio::sync::watch;

use super::answer::{Checked, Listing};
use super::dht::Dht;
use super::entrances::Entrances;
use super::error::shorten;
use super::types::{EntryInfo, HolderInfo, LookupInfo, MasterState, PeerInfo, PeerState, SearchInfo, Source};
use super::{Error, ErrorKind};
use crate::clock::sleep_until;
use crate::clock::unix_ms;
use crate::net::Net;
use crate::state::lookup::{self as hedge, Hedge, LookupAnswer, Side};
use crate::state::pages::{self, MAX_PAGES, Next};

/// How long a question waits for the first attempt to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// For how long after the loss of the master a name that is not found is looked up again, and after which pause.
const OUTAGE_GRACE: Duration = Duration::from_secs(3);
const OUTAGE_PAUSE: Duration = Duration::from_millis(200);
/// How often a page is asked for while the master is busy, and the pause after the first time.
const PAGE_ATTEMPTS: u32 = 4;
const PAGE_PAUSE: Duration = Duration::from_millis(50);

/// Asks the master, or the DHT.
#[derive(Debug, Clone)]
pub(super) struct Questions {
    pub(super) net: Net,
    pub(super) network: Network,
    pub(super) master: watch::Receiver<MasterState>,
    pub(super) dht: Dht,
    pub(super) entrances: Entrances,
}

impl Questions {
    /// The master, as soon as this node is a member.
    pub(super) async fn master(&self) -> Result<PeerId, Error> {
        let mut state = self.master.clone();
        let settled = state.wait_for(|state| !matches!(state, MasterState::Unknown));
        let settled = match tokio::time::timeout(JOIN_PATIENCE, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(Error::ShuttingDown),
            Err(_) => MasterState::Unknown,
        };
        match settled {
            MasterState::Own => Ok(self.net.local()),
            MasterState::Joined { peer_id } => Ok(peer_id),
            MasterState::Unreachable { reason, .. } => Err(Error::MasterUnreachable { reason }),
            MasterState::Unknown => Err(self.explain(Error::NoMaster).await),
        }
    }

    async fn ask(&self, request: IndexRequest) -> Result<(PeerId, IndexResponse), Error> {
        let master = self.master().await?;
        match self.net.index(master, request).await? {
            IndexResponse::Refused(refusal) => Err(Error::Refused(refusal)),
            response => Ok((master, response)),
        }
    }

    /// Asks the master, and the DHT as soon as the master is known to be down or takes its time.
    async fn hedged<T>(
        &self,
        master: impl Future<Output = Result<T, Error>>,
        dht: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let down = matches!(*self.master.borrow(), MasterState::Unreachable { .. });
        let mut hedge = Hedge::new(down, Instant::now());
        let (mut master, mut dht) = (pin!(master), pin!(dht));
        let (mut asked, mut answers) = ([false; 2], [None, None]);
        loop {
            while let Some(action) = hedge.poll_action(Instant::now()) {
                match action {
                    hedge::LookupAction::Ask(side) => asked[side as usize] = true,
                    hedge::LookupAction::Take(side) => {
                        // Only a master that was not asked has no answer of its own.
                        let [of_master, of_dht] = answers;
                        let chosen = if side == Side::Master { of_master.or(of_dht) } else { of_dht };
                        return match chosen.unwrap_or(Err(Error::NoMaster)) {
                            Ok(answer) => Ok(answer),
                            Err(error) => Err(self.explain(error).await),
                        };
                    }
                }
            }
            let (side, answer) = tokio::select! {
                answer = &mut master, if asked[0] && answers[0].is_none() => (Side::Master, answer),
                answer = &mut dht, if asked[1] && answers[1].is_none() => (Side::Dht, answer),
                () = sleep_until(hedge.poll_timeout()) => continue,
            };
            hedge.on_answer(side, classify(&answer));
            answers[side as usize] = Some(answer);
        }
    }

    /// With no node of the DHT to ask, it is the master that the user misses; and with no master, the way into the network.
    async fn explain(&self, error: Error) -> Error {
        match error {
            Error::NoNodes => match self.master.borrow().clone() {
                MasterState::Unreachable { reason, .. } => Error::MasterUnreachable { reason },
                _ => error,
            },
            Error::NoMaster => match self.entrances.reason() {
                // Whoever knows nodes is in the network, whatever way it came.
                Some(reason) if self.net.dht_counts().await.nodes == 0 => Error::NoEntrance { reason },
                _ => error,
            },
            error => error,
        }
    }

    /// What is known of one name.
    pub(super) async fn lookup(&self, text: &str) -> Result<Checked, Error> {
        let name = parse_name(text)?;
        self.hedged(self.lookup_at_master(&name), self.lookup_in_dht(&name)).await
    }

    /// Owners publish what they hold as soon as they miss their master: what is not found in the first moments
    /// after that may be found a little later.
    async fn lookup_in_dht(&self, name: &Name) -> Result<Checked, Error> {
        loop {
            let answer = self.dht.lookup(name).await;
            let young = match *self.master.borrow() {
                MasterState::Unreachable { since_ms, .. } => {
                    unix_ms().saturating_sub(since_ms) < u64::try_from(OUTAGE_GRACE.as_millis()).unwrap_or(u64::MAX)
                }
                _ => false,
            };
            if !young || !matches!(answer, Err(Error::NotFound { .. } | Error::Unsure { .. })) {
                return answer;
            }
            tokio::time::sleep(OUTAGE_PAUSE).await;
        }
    }

    async fn lookup_at_master(&self, name: &Name) -> Result<Checked, Error> {
        let request = IndexRequest::Lookup(Lookup { name: name.as_str().to_owned() });
        let (master, found) = match self.ask(request).await {
            Ok((master, IndexResponse::Found(found))) => (master, found),
            Ok(_) => return Err(Error::Answer),
            Err(Error::Refused(refusal)) if refusal.code == RefusalCode::NotFound => {
                return Err(Error::NotFound { name: shorten(name.as_str()) });
            }
            Err(error) => return Err(error),
        };
        self.check(name.clone(), master, found)
    }

    fn check(&self, name: Name, master: PeerId, found: FoundName) -> Result<Checked, Error> {
        let FoundName { certificate, mut holders } = found;
        if certificate.entry.name != name {
            return Err(Error::Answer);
        }
        let key = statement::key_of(&master).ok_or(Error::Answer)?;
        let certified = match certificate.verify(&self.network, &key, unix_ms()) {
            Ok(()) => true,
            Err(Invalid::Signature) => return Err(Error::Forged { name, master }),
            Err(error) => {
                // The answer came from the master itself: it is this clock or that one that is wrong.
                tracing::warn!(%name, %error, "check the clocks of this machine and of the master");
                false
            }
        };
        holders.truncate(MAX_HOLDERS);
        for holder in &mut holders {
            holder.addresses.truncate(MAX_ADDRESSES);
        }
        Ok(Checked { entry: certificate.entry, certified, source: Source::Master, holders, rivals: Vec::new() })
    }

    /// At most `limit` entries that match, sorted by name. One more is asked for, to say whether there are more.
    pub(super) async fn search(&self, query: &str, limit: usize) -> Result<SearchInfo, Error> {
        let found = self.entries(query, limit.saturating_add(1)).await?;
        let more = found.cut || found.entries.len() > limit;
        let entries = found.entries.into_iter().take(limit).map(EntryInfo::from).collect();
        Ok(SearchInfo { entries, more })
    }

    /// Entries that match, each name once, at most `limit`, sorted by name. If the master's pages break off or lead
    /// nowhere, what they had is filled up from the DHT; a part alone is never the answer.
    pub(super) async fn entries(&self, query: &str, limit: usize) -> Result<Listing, Error> {
        let pattern = Pattern::parse(query).map_err(Error::Query)?;
        let first = async { self.page(query, None, limit).await.map(FirstAnswer::Page) };
        let all = async { self.dht.search(query, limit).await.map(FirstAnswer::All) };
        let mut page = match self.hedged(first, all).await? {
            FirstAnswer::All(all) => return Ok(all),
            FirstAnswer::Page(page) => page,
        };
        let mut found = pages::Found::new(limit, MAX_PAGES);
        let failure = loop {
            let cursor = match found.add_page(page, &pattern) {
                Next::End => return Ok(Listing { entries: found.into_entries(), cut: false }),
                Next::Page(cursor) => cursor,
                Next::Astray => break Error::Answer,
            };
            page = match self.page(query, Some(cursor), found.missing()).await {
                Ok(page) => page,
                Err(error) => break error,
            };
        };
        tracing::info!(error = failure.describe(), "the master's answer to a search broke off; the DHT fills it up");
        let cut = match self.dht.search(query, limit).await {
            // What this node shares itself is not what the others do.
            Ok(all) if self.net.dht_counts().await.nodes > 0 => {
                all.entries.into_iter().for_each(|entry| found.add(entry));
                all.cut
            }
            Ok(_) => return Err(failure),
            Err(error) => {
                tracing::debug!(%error, "nor does the DHT answer");
                return Err(failure);
            }
        };
        Ok(Listing { entries: found.into_entries(), cut })
    }

    /// Some entries that match: a page of the master's, or what the DHT has.
    pub(super) async fn few(&self, query: &str, limit: usize) -> Result<Vec<Entry>, Error> {
        let pattern = Pattern::parse(query).map_err(Error::Query)?;
        let page = async { self.page(query, None, limit).await.map(|page| page.entries) };
        let all = async { self.dht.search(query, limit).await.map(|found| found.entries) };
        let mut entries = self.hedged(page, all).await?;
        entries.retain(|entry| pattern.matches(&entry.name));
        entries.truncate(limit);
        Ok(entries)
    }

    /// A page of the master's. What it is too busy for is asked again a few times.
    async fn page(&self, query: &str, cursor: Option<Cursor>, limit: usize) -> Result<Page, Error> {
        // At most 500, see the limit.
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES) as u32;
        let request = IndexRequest::Search(Search { query: query.to_owned(), cursor, limit, rule: Rule::Second });
        let mut attempt = 1;
        loop {
            match self.ask(request.clone()).await {
                Ok((_, IndexResponse::Page(page))) => return Ok(page),
                Ok(_) => return Err(Error::Answer),
                // For the first page there is an answer of the DHT, too.
                Err(Error::Refused(refusal))
                    if refusal.code == RefusalCode::Busy && cursor.is_some() && attempt < PAGE_ATTEMPTS =>
                {
                    tokio::time::sleep(PAGE_PAUSE * attempt * attempt).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Every member of the network.
    pub(super) async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        let mut peers: Vec<PeerInfo> = Vec::new();
        let mut after = None;
        for _ in 0..MAX_PAGES {
            let (_, IndexResponse::Members(mut members)) = self.ask(IndexRequest::Peers(Peers { after })).await? else {
                return Err(Error::Answer);
            };
            members.truncate(MAX_MEMBERS);
            let full = members.len() == MAX_MEMBERS;
            let last = members.last().map(|member| member.peer);
            peers.extend(members.into_iter().map(PeerInfo::from));
            if !full {
                return Ok(peers);
            }
            // Only a page that goes on where the last one ended is worth another question.
            if last <= after {
                break;
            }
            after = last;
        }
        Err(Error::Answer)
    }

    /// Tells the master that a holder cannot be reached.
    pub(super) async fn report(&self, peer: PeerId) -> Result<(), Error> {
        self.ask(IndexRequest::Report(Report { peer })).await.map(drop)
    }
}

/// What a search has found so far.
enum FirstAnswer {
    /// A page of the master's.
    Page(Page),
    /// All that the DHT knows.
    All(Listing),
}

fn classify<T>(answer: &Result<T, Error>) -> LookupAnswer {
    match answer {
        Ok(_) => LookupAnswer::Found,
        Err(Error::NotFound { .. }) => LookupAnswer::NotFound,
        // The question itself is wrong: nobody has another answer to it.
        Err(error) if error.kind() == ErrorKind::Usage => LookupAnswer::Found,
        Err(_) => LookupAnswer::Failed,
    }
}

/// Parses what a user gave as a name.
pub(super) fn parse_name(text: &str) -> Result<Name, Error> {
    Name::parse(text).map_err(|source| Error::Name { name: shorten(text), source })
}

impl From<Entry> for EntryInfo {
    fn from(entry: Entry) -> Self {
        let Entry { name, content, size, owner, version, .. } = entry;
        Self { name, content, size, owner, version }
    }
}

fn state(suspect: bool) -> PeerState {
    if suspect { PeerState::Suspect } else { PeerState::Alive }
}

impl From<Member> for PeerInfo {
    fn from(member: Member) -> Self {
        let Member { peer, addresses, suspect, entries, reachable } = member;
        Self { peer_id: peer, state: state(suspect), addresses, names: entries, reachable }
    }
}

impl From<Member> for HolderInfo {
    fn from(member: Member) -> Self {
        let Member { peer, addresses, suspect, reachable, .. } = member;
        Self { peer_id: peer, addresses, state: state(suspect), reachable }
    }
}

impl From<Checked> for LookupInfo {
    fn from(checked: Checked) -> Self {
        let Checked { entry, certified, source, holders, rivals } = checked;
        // Whoever was asked names no more, however many there are.
        let more_holders = holders.len() >= MAX_HOLDERS;
        let holders = holders.into_iter().map(HolderInfo::from).collect();
        Self {
            entry: entry.into(),
            certified,
            source,
            holders,
            other_owners: rivals,
            more_holders,
            executable: None,
            modified_ms: None,
        }
    }
}
