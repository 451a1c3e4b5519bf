//! What lies in this node's part of the key space, taken over from its neighbours when it comes there.

use swarmdex_protocols::check::KeyMark;
use swarmdex_protocols::limits::MAX_STOCK_STATEMENTS;
use swarmdex_protocols::mirror::{KeySpacePart, Stock};

use super::*;
use crate::net::dht::Adopt;
use crate::state::hearsay::Hearsay;
use crate::state::publish::{Neighbourhood, distance, leading_zeros};

/// Neighbours that are asked, the closest: two of them have to say who is found under a key.
const NEIGHBOURS: usize = 3;
/// Pages of one neighbour: a full store of a large network has some hundred.
const MAX_PAGES: usize = 512;
/// How long one neighbour may take for all its pages.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node that came took over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TakenOver {
    /// Neighbours that told all that they have.
    pub neighbours: usize,
    /// Statements.
    pub statements: usize,
    /// Pairs of a key and a node.
    pub pairs: usize,
}

/// What is being taken over.
struct Takeover {
    place: Position,
    known: Vec<Position>,
    authority: Authority,
    seen: BTreeSet<(RecordKey, u64)>,
    hearsay: Hearsay,
    taken: TakenOver,
}

impl Mirror {
    /// Asks this node's neighbours what lies in its part of the key space, and stores it. `None` in a small network, in which all
    /// nodes know each other: there those who published something bring it.
    pub(crate) async fn take_over(&self) -> Option<TakenOver> {
        let authority = self.net.authority()?;
        let local = self.net.local();
        let place = position_of_peer(&local);
        // The answer of a query is short all the time: what the routing table has counts as well.
        let found = self.net.closest_to(local.to_bytes(), self.patience).await.unwrap_or_default();
        let all: BTreeMap<_, _> = self.net.nodes().await.into_iter().chain(found).collect();
        let mut nodes: Vec<_> = all.into_iter().filter(|(node, _)| *node != local).collect();
        let known = nodes.iter().map(|(node, _)| position_of_peer(node)).collect();
        nodes.sort_by_key(|(node, _)| distance(&position_of_peer(node), &place));
        nodes.truncate(REPLICATION);
        let last = nodes.last().filter(|_| nodes.len() >= REPLICATION)?;
        // As far as the farthest of those who store the same: what lies beyond is mostly theirs.
        let bits = leading_zeros(&distance(&position_of_peer(&last.0), &place));
        let mut takeover = Takeover {
            place,
            known,
            authority,
            seen: BTreeSet::new(),
            hearsay: Hearsay::default(),
            taken: TakenOver::default(),
        };
        let part = KeySpacePart { place, bits: u8::try_from(bits).unwrap_or(u8::MAX), after: None };
        let mut asked = 0;
        for (node, addresses) in nodes {
            asked += 1;
            let telling = self.take_over_from(node, &addresses, part.clone(), asked, &mut takeover);
            if tokio::time::timeout(PATIENCE, telling).await.unwrap_or(false) {
                takeover.taken.neighbours += 1;
            }
            if takeover.taken.neighbours >= NEIGHBOURS || asked >= 2 * NEIGHBOURS {
                break;
            }
        }
        let pairs = std::mem::take(&mut takeover.hearsay).agreed();
        takeover.taken.pairs = pairs.len();
        self.net.adopt(Adopt { sender: local, statements: Vec::new(), pairs }).await;
        Some(takeover.taken)
    }

    /// Whether the neighbour told all.
    async fn take_over_from(
        &self,
        node: PeerId,
        addresses: &[Multiaddr],
        mut part: KeySpacePart,
        number: usize,
        takeover: &mut Takeover,
    ) -> bool {
        for _ in 0..MAX_PAGES {
            let page = match self.ask(node, addresses, MirrorRequest::Part(part.clone())).await {
                Ok(MirrorResponse::Part(page)) => page,
                Ok(_) => return false,
                Err(error) => {
                    tracing::debug!(%node, %error, "a neighbour does not say what it stores");
                    return false;
                }
            };
            let next = page.next;
            takeover.take(self, node, number, page).await;
            match next {
                // Pages go on.
                Some(next) if part.after.is_none_or(|after| after < next) => part.after = Some(next),
                Some(_) => return false,
                None => return true,
            }
        }
        false
    }
}

impl Takeover {
    async fn take(&mut self, mirror: &Mirror, node: PeerId, number: usize, page: Stock) {
        let around = Neighbourhood::around(&self.place, &self.known);
        let belongs = |key: &RecordKey| around.belongs(&position_of_key(key));
        self.hearsay.add(number, &page, belongs);
        let statements = page.statements.into_iter().take(MAX_STOCK_STATEMENTS);
        let keyed = statements.map(|(statement, left)| (mirror.key(statement.name()), statement, left));
        let seen = &mut self.seen;
        // Neighbours mostly have the same: each is checked once.
        let new = keyed
            .filter(|(key, statement, _)| belongs(key) && seen.insert((*key, KeyMark::statement(key, statement).0)));
        let new: Vec<_> = new.collect();
        let authority = self.authority.clone();
        let checking = tokio::task::spawn_blocking(move || {
            let unix_ms = now().unix_ms;
            let mut new = new;
            new.retain_mut(|(_, statement, _)| statement.check(&authority, unix_ms).is_ok());
            let valid = new.into_iter();
            let timed = valid.map(|(key, statement, left)| (key, statement, Duration::from_secs(u64::from(left))));
            timed.collect::<Vec<_>>()
        });
        let statements = checking.await.unwrap_or_default();
        self.taken.statements += statements.len();
        mirror.net.adopt(Adopt { sender: node, statements, pairs: Vec::new() }).await;
    }
}
