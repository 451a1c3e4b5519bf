//! Joins and announces: what is looked up before the index is asked.

use std::collections::BTreeMap;
use std::time::Instant;

use super::*;

impl Master {
    pub(super) fn join(&mut self, peer: PeerId, origin: Option<Origin<'_>>, join: Join, now: Instant) -> Outcome<Step> {
        if join.network != self.network.as_str() {
            let reason = format!("this master keeps the network {}", self.network);
            return Err(Refusal::new(RefusalCode::WrongNetwork, reason));
        }
        let remote = origin.and_then(|origin| origin.remote);
        let addresses = useful_addresses(join.addresses, remote);
        let link = origin.map(|origin| origin.link);
        let arrival = Arrival { run: join.run, machine: join.machine, link, remote: remote.cloned() };
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
        self.write(peer, WriteOp::Join { peer, addresses, digest, entries, seen, again })
    }

    /// The version of a certificate that this master signed, whenever that was.
    fn seen_version(&self, certificate: &Certificate) -> Version {
        let authority = self.precedents.as_ref().and_then(Precedents::authority);
        let signed = |authority: Authority| certificate.verify_signature(&authority.network, &authority.master).is_ok();
        if authority.is_some_and(signed) { certificate.entry.version } else { Version::default() }
    }

    /// Announces, after a look at the DHT where that may know more than the index.
    pub(super) fn announce(&self, peer: PeerId, announce: Announce, now: Instant) -> Outcome<Step> {
        let Announce { session, offers, last, total, .. } = announce;
        let young = now < self.settled;
        let doubtful = |offer: &&index::Offer| young || offer.claimed || offer.granted.is_some();
        // Of what this index ended itself after it was granted others know no more, once everybody is back.
        let granted = |offer: &index::Offer| offer.granted.as_ref().filter(|_| !young).map(|granted| granted.version);
        let named = |offer: &index::Offer| Name::parse(&offer.name).ok().map(|name| (name, granted(offer)));
        let neighbours = self.names_of_neighbours(&peer);
        let names: Vec<_> = offers.iter().filter(doubtful).filter_map(named).collect();
        // Of names that the index knows only those matter of which the peer says that there is more to know.
        let claimed = offers.iter().filter(|offer| offer.claimed).filter_map(|offer| Name::parse(&offer.name).ok());
        let claimed: Vec<_> = claimed.collect();
        let change =
            move |mirror| in_session(session, WriteOp::Announce { peer, offers, neighbours, last, total, mirror });
        let (store, returning) = (self.store.clone(), self.returning.clone());
        let stopping = |_| Refusal::new(RefusalCode::Busy, "the master is stopping");
        let written = move |outcome: WriteOutcome| {
            if last {
                returning.on_told(&peer);
            }
            outcome
        };
        let announcing = match self.precedents.clone().filter(|_| !names.is_empty()) {
            // In its turn, after all that came before it.
            None => {
                let writing = store.try_write(change(BTreeMap::new()))?;
                async move { writing.await.map_err(stopping)?.map(written) }.boxed()
            }
            Some(precedents) => {
                let returning = self.returning.clone();
                async move {
                    let mut doubted = unknown(&store, names).await?;
                    if !doubted.is_empty() {
                        returning.wait(&peer).await;
                    }
                    doubted.extend(claimed);
                    doubted.sort();
                    doubted.dedup();
                    let mirror = precedents.of(doubted).await;
                    store.try_write(change(mirror))?.await.map_err(stopping)?.map(written)
                }
                .boxed()
            }
        };
        Ok(Step::Wait(announcing.map(move |outcome| Done { peer, outcome: outcome.map(DoneKind::Written) }).boxed()))
    }
}

/// Those of names that the index does not know.
async fn unknown(store: &IndexStore, names: Vec<(Name, Option<Version>)>) -> Outcome<Vec<Name>> {
    let stopping = |_| Refusal::new(RefusalCode::Busy, "the master is stopping");
    match store.try_read(ReadOp::Unknown { names })?.await.map_err(stopping)?? {
        ReadOutcome::Unknown(names) => Ok(names),
        _ => Ok(Vec::new()),
    }
}
