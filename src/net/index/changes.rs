//! Joins and announces: what is looked up before the index is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use swarmdex_protocols::Tally;
use swarmdex_protocols::index::{Offer, ShareSum};

use super::*;
use crate::storage::index::Later;

impl Master {
    pub(super) fn join(
        &mut self,
        peer: PeerId,
        origin: Option<Origin<'_>>,
        join: Join,
        now: Instant,
    ) -> Outcome<IndexStep> {
        if join.network != self.network.as_str() {
            let reason = format!("this master keeps the network {}", self.network);
            return Err(Refusal::new(RefusalCode::WrongNetwork, reason));
        }
        let remote = origin.and_then(|origin| origin.remote);
        let addresses = useful_addresses(join.addresses, remote);
        let link = origin.map(|origin| origin.link);
        let arrival = JoinAttempt { run: join.run, machine: join.machine, link, remote: remote.cloned() };
        self.runs.admit(&peer, &arrival, now).map_err(|turned| {
            self.leases.set_notice(&peer, true);
            if turned.tell {
                tracing::warn!(%peer, from = ?arrival.remote, reason = turned.refusal.reason, "a peer's twin is refused");
            }
            turned.refusal
        })?;
        let source = source_of(origin);
        self.check_members(&peer, source)?;
        self.leases.on_join(&peer, addresses.clone(), now)?;
        self.origins.on_joined(peer, source);
        let replaced = self.runs.on_joined(peer, arrival, now);
        if !replaced.is_empty() {
            tracing::info!(%peer, "another run of a peer takes the place of one that is silent");
        }
        self.effects.extend(replaced.into_iter().map(Effect::Close));
        self.effects.push_back(Effect::Keep(peer));
        let seen = join.newest.as_ref().map(|certificate| self.seen_version(certificate)).unwrap_or_default();
        if seen > self.store.versions().1 {
            self.returning.on_lost();
        }
        // While names may have been claimed that this index does not know of yet, each is looked up: by an offer of its own.
        let again = join.again && now >= self.settled;
        let Join { digest, entries, .. } = join;
        self.returning.on_joined(&peer, entries);
        self.write(peer, WriteOp::Join { peer, addresses, digest, entries, seen, again })
    }

    /// The version of a certificate that this master signed, whenever that was.
    fn seen_version(&self, certificate: &Certificate) -> Version {
        let authority = self.precedents.as_ref().and_then(Precedents::authority);
        let signed = |authority: Authority| certificate.verify_signature(&authority.network, &authority.master).is_ok();
        if authority.is_some_and(signed) { certificate.entry.version } else { Version::default() }
    }

    /// Announces, after a look at the DHT where that may know more than the index.
    pub(super) fn announce(&self, peer: PeerId, announce: Announce, now: Instant) -> Outcome<IndexStep> {
        let Announce { session, sequence, offers, last, total } = announce;
        let young = now < self.settled;
        let doubtful = |offer: &&Offer| young || offer.claimed || offer.granted.is_some();
        let granted = |offer: &Offer| offer.granted.as_ref().map(|granted| granted.version);
        let named = |offer: &Offer| Name::parse(&offer.name).ok().map(|name| (name, granted(offer)));
        let neighbours = self.names_of_neighbours(&peer);
        let names: Vec<_> = offers.iter().filter(doubtful).filter_map(named).collect();
        let announce = Announcing {
            peer,
            session,
            sequence,
            neighbours,
            store: self.store.clone(),
            returning: self.returning.clone(),
        };
        let announcing = match self.precedents.clone().filter(|_| !names.is_empty()) {
            // In its turn, after all that came before it.
            None => {
                let writing = announce.write(offers, last, total, BTreeMap::new())?;
                async move { announce.written(writing.await, last) }.boxed()
            }
            // Once everybody is back, others know no more than this index of names that it granted and ended itself.
            Some(precedents) => announce.after_a_look(precedents, (names, young), offers, last, total).boxed(),
        };
        Ok(IndexStep::Wait(
            announcing.map(move |outcome| Done { peer, outcome: outcome.map(DoneKind::Written) }).boxed(),
        ))
    }
}

type Written = Result<Outcome<WriteOutcome>, oneshot::error::RecvError>;

/// An announce under way.
struct Announcing {
    peer: PeerId,
    session: Session,
    sequence: Sequence,
    neighbours: u64,
    store: IndexStore,
    returning: Returning,
}

impl Announcing {
    /// Offers that the index does not know, and that their owner cannot show a grant of, wait for those who may; the others do not
    /// wait for them. `names` are those of which the DHT may know more than the index.
    async fn after_a_look(
        self,
        precedents: Precedents,
        (names, ended): (Vec<(Name, Option<Version>)>, bool),
        offers: Vec<Offer>,
        last: bool,
        total: Option<ShareSum>,
    ) -> Outcome<WriteOutcome> {
        let mut doubted: BTreeSet<_> = unknown(&self.store, names, ended).await?.into_iter().collect();
        let name = |offer: &Offer| Name::parse(&offer.name).ok();
        let waits = |offer: &Offer| offer.granted.is_none() && name(offer).is_some_and(|name| doubted.contains(&name));
        let waiting: Vec<_> = offers.iter().map(waits).collect();
        // A name that the index knows is looked up only if the peer claimed it: then there is more to know.
        doubted.extend(offers.iter().filter(|offer| offer.claimed).filter_map(name));
        if !self.returning.is_complete(&self.peer) && waiting.contains(&true) {
            let both = offers.into_iter().zip(&waiting);
            let (later, first): (Vec<_>, Vec<_>) = both.partition(|(_, waits)| **waits);
            let [later, first] =
                [later, first].map(|part| part.into_iter().map(|(offer, _)| offer).collect::<Vec<_>>());
            let of = |part: &[Offer]| part.iter().filter_map(name).filter(|name| doubted.contains(name)).collect();
            let (of_first, of_later) = (of(&first), of(&later));
            let mirror = precedents.of(of_first).await;
            let first = self.written(self.write(first, false, None, mirror)?.await, false)?;
            self.returning.on_offers(&self.peer, waiting.len());
            self.returning.wait(&self.peer).await;
            let mirror = precedents.of(of_later).await;
            let later = self.written(self.write(later, last, total, mirror)?.await, last)?;
            return Ok(together(first, later, &waiting));
        }
        let mirror = precedents.of(doubted.into_iter().collect()).await;
        let outcome = self.written(self.write(offers, last, total, mirror)?.await, last)?;
        self.returning.on_offers(&self.peer, waiting.len());
        Ok(outcome)
    }

    fn write(
        &self,
        offers: Vec<Offer>,
        last: bool,
        total: Option<ShareSum>,
        mirror: BTreeMap<Name, Tally>,
    ) -> Outcome<Later<WriteOutcome>> {
        let (peer, neighbours) = (self.peer, self.neighbours);
        let change = WriteOp::Announce { peer, offers, neighbours, last, total, mirror };
        self.store.try_write(in_session(self.session, self.sequence, change))
    }

    fn written(&self, written: Written, last: bool) -> Outcome<WriteOutcome> {
        let outcome = written.map_err(stopping)??;
        if last {
            self.returning.on_told(&self.peer);
        }
        Ok(outcome)
    }
}

/// The outcome of offers of which those that `waited` were written after the others.
fn together(first: WriteOutcome, later: WriteOutcome, waited: &[bool]) -> WriteOutcome {
    let announced = |outcome| match outcome {
        WriteOutcome::Announced { verdicts, holding, adopted } => Some((verdicts.into_iter(), holding, adopted)),
        _ => None,
    };
    // There is no other outcome of an announce.
    let (Some((mut first, _, mut adopted)), Some((mut later, holding, more))) =
        (announced(first), announced(later.clone()))
    else {
        return later;
    };
    adopted.extend(more);
    let verdicts = waited.iter().filter_map(|waited| if *waited { later.next() } else { first.next() }).collect();
    WriteOutcome::Announced { verdicts, holding, adopted }
}

/// The names among these that the index does not know, or knows by an earlier grant.
async fn unknown(store: &IndexStore, names: Vec<(Name, Option<Version>)>, ended: bool) -> Outcome<Vec<Name>> {
    match store.try_read(ReadOp::Unknown { names, ended })?.await.map_err(stopping)?? {
        ReadOutcome::Unknown(names) => Ok(names),
        _ => Ok(Vec::new()),
    }
}
