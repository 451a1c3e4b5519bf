//! Questions to the master, and checks of its answers.

use std::time::Duration;

use swarmdex_protocols::index::{
    Cursor, Found, Lookup, Member, Page, Peers, RefusalCode, Report, Request, Response, Search,
};
use swarmdex_protocols::limits::{MAX_ADDRESSES, MAX_HOLDERS, MAX_MEMBERS, MAX_PAGE_ENTRIES};
use swarmdex_protocols::statement::InvalidCertificate;
use swarmdex_protocols::{Entry, Name, Network, Pattern, PeerId, statement};
use tokio::sync::watch;

use super::membership::unix_ms;
use super::types::{EntryInfo, HolderInfo, LookupInfo, MasterState, PeerInfo, PeerState, Source};
use super::{Error, shorten};
use crate::net::Net;

/// How long a question waits for the first attempt to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// Most pages read for one search: a master that never ends its pages cannot keep a search going.
const MAX_PAGES: usize = 10_000;

/// Asks the master.
#[derive(Debug, Clone)]
pub(super) struct Questions {
    pub(super) net: Net,
    pub(super) network: Network,
    pub(super) master: watch::Receiver<MasterState>,
}

/// What was found, checked.
#[derive(Debug, Clone)]
pub(super) struct Checked {
    pub(super) entry: Entry,
    pub(super) certified: bool,
    pub(super) holders: Vec<Member>,
}

impl Questions {
    /// The master, as soon as this node is a member.
    pub(super) async fn master(&self) -> Result<PeerId, Error> {
        let mut state = self.master.clone();
        let settled = state.wait_for(|state| !matches!(state, MasterState::Unknown));
        let settled = match tokio::time::timeout(JOIN_PATIENCE, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(Error::ShuttingDown),
            Err(_) => return Err(Error::NoMaster),
        };
        match settled {
            MasterState::Own => Ok(self.net.local()),
            MasterState::Joined { peer_id } => Ok(peer_id),
            MasterState::Unreachable { reason, .. } => Err(Error::MasterUnreachable { reason }),
            MasterState::Unknown => Err(Error::NoMaster),
        }
    }

    async fn ask(&self, request: Request) -> Result<(PeerId, Response), Error> {
        let master = self.master().await?;
        match self.net.index(master, request).await? {
            Response::Refused(refusal) => Err(Error::Refused(refusal)),
            response => Ok((master, response)),
        }
    }

    /// What the index says of one name.
    pub(super) async fn lookup(&self, text: &str) -> Result<Checked, Error> {
        let name = parse_name(text)?;
        let request = Request::Lookup(Lookup { name: name.as_str().to_owned() });
        let (master, found) = match self.ask(request).await {
            Ok((master, Response::Found(found))) => (master, found),
            Ok(_) => return Err(Error::Answer),
            Err(Error::Refused(refusal)) if refusal.code == RefusalCode::NotFound => {
                return Err(Error::NotFound { name: shorten(text) });
            }
            Err(error) => return Err(error),
        };
        self.check(name, master, found)
    }

    fn check(&self, name: Name, master: PeerId, found: Found) -> Result<Checked, Error> {
        let Found { certificate, mut holders } = found;
        if certificate.entry.name != name {
            return Err(Error::Answer);
        }
        let key = statement::key_of(&master).ok_or(Error::Answer)?;
        let certified = match certificate.verify(&self.network, &key, unix_ms()) {
            Ok(()) => true,
            Err(InvalidCertificate::Signature) => return Err(Error::Forged { name, master }),
            Err(error @ (InvalidCertificate::Dates | InvalidCertificate::Expired)) => {
                // The answer came from the master itself: it is this clock or that one that is wrong.
                tracing::warn!(%name, %error, "check the clocks of this machine and of the master");
                false
            }
        };
        holders.truncate(MAX_HOLDERS);
        for holder in &mut holders {
            holder.addresses.truncate(MAX_ADDRESSES);
        }
        Ok(Checked { entry: certificate.entry, certified, holders })
    }

    /// Entries that match, sorted by name.
    pub(super) async fn search(&self, query: &str, limit: usize) -> Result<Vec<EntryInfo>, Error> {
        let pattern = Pattern::parse(query).map_err(Error::Query)?;
        let mut entries = Vec::new();
        let mut pages = Pages::new(self, query);
        while let Some(page) = pages.next(limit.saturating_sub(entries.len())).await? {
            entries.extend(page.into_iter().filter(|entry| pattern.matches(&entry.name)).map(EntryInfo::from));
            if entries.len() >= limit {
                break;
            }
        }
        entries.truncate(limit);
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Every member of the network.
    pub(super) async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        let mut peers: Vec<PeerInfo> = Vec::new();
        let mut after = None;
        loop {
            let (_, Response::Members(members)) = self.ask(Request::Peers(Peers { after })).await? else {
                return Err(Error::Answer);
            };
            let full = members.len() >= MAX_MEMBERS;
            let last = members.last().map(|member| member.peer);
            peers.extend(members.into_iter().take(MAX_MEMBERS).map(PeerInfo::from));
            // Only a page that goes on where the last one ended is worth another question.
            if !full || last <= after || peers.len() > MAX_PAGES * MAX_MEMBERS {
                return Ok(peers);
            }
            after = last;
        }
    }

    /// Tells the master that a holder cannot be reached.
    pub(super) async fn report(&self, peer: PeerId) -> Result<(), Error> {
        self.ask(Request::Report(Report { peer })).await.map(drop)
    }
}

/// The pages of one search.
pub(super) struct Pages<'a> {
    questions: &'a Questions,
    query: &'a str,
    cursor: Option<Cursor>,
    read: usize,
    ended: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(questions: &'a Questions, query: &'a str) -> Self {
        Self { questions, query, cursor: None, read: 0, ended: false }
    }

    /// The entries of the next page, at most `limit` of them; `None` after the last page.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Option<Vec<Entry>>, Error> {
        if self.ended || self.read >= MAX_PAGES {
            return Ok(None);
        }
        // At most 500, see the limit.
        let limit = limit.clamp(1, MAX_PAGE_ENTRIES) as u32;
        let request = Request::Search(Search { query: self.query.to_owned(), cursor: self.cursor, limit });
        let (_, Response::Page(Page { mut entries, next })) = self.questions.ask(request).await? else {
            return Err(Error::Answer);
        };
        entries.truncate(MAX_PAGE_ENTRIES);
        self.read += 1;
        self.ended = next.is_none() || next == self.cursor;
        self.cursor = next;
        Ok(Some(entries))
    }
}

/// Parses what a user gave as a name.
pub(super) fn parse_name(text: &str) -> Result<Name, Error> {
    Name::parse(text).map_err(|source| Error::Name { name: shorten(text), source })
}

impl From<Entry> for EntryInfo {
    fn from(entry: Entry) -> Self {
        let Entry { name, content, size, owner, version } = entry;
        Self { name, content, size, owner, version }
    }
}

fn state(suspect: bool) -> PeerState {
    if suspect { PeerState::Suspect } else { PeerState::Alive }
}

impl From<Member> for PeerInfo {
    fn from(member: Member) -> Self {
        let Member { peer, addresses, suspect, entries } = member;
        Self { peer_id: peer, state: state(suspect), addresses, names: entries }
    }
}

impl From<Member> for HolderInfo {
    fn from(member: Member) -> Self {
        Self { peer_id: member.peer, addresses: member.addresses, state: state(member.suspect) }
    }
}

impl From<Checked> for LookupInfo {
    fn from(checked: Checked) -> Self {
        let Checked { entry, certified, holders } = checked;
        let holders = holders.into_iter().map(HolderInfo::from).collect();
        Self { entry: entry.into(), certified, source: Source::Master, holders }
    }
}
