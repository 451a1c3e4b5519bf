//! Being a member: finds the master, joins, tells it what is shared, and comes back by itself.
//!
//! One task, plain sequential code; the rules it follows are in `state::announce` and `state::backoff`.

mod again;
mod agree;
mod failed;
mod find;
mod vote;

use std::sync::Arc;
use std::time::{Duration, Instant};

use failed::Failed;
pub(super) use find::Finder;
use swarmdex_protocols::index::{
    Announce, Fingerprint, IndexRequest, IndexResponse, Join, Leave, Offer, RefusalCode, Revoke, Sequence, Session,
};
use swarmdex_protocols::{Authority, Name, PeerId};
use tokio::sync::{broadcast, watch};

use super::context::Context;
use super::events::Happened;
use super::life::Phase;
use super::types::MasterState;
use crate::clock::unix_ms;
use crate::config::Role;
use crate::net::RequestError;
use crate::state::Now;
use crate::state::announce::{Batch, Standing};
use crate::state::backoff::Backoff;
use crate::storage::shares::SharedEntry;

/// How long the master may take to hear that this node leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses change in bursts; the master is told once they have settled for so long.
const ADDRESS_PAUSE: Duration = Duration::from_millis(500);

/// How often certificates are looked through for those to renew, and lost names are asked for again.
const RENEWAL_CHECK: Duration = Duration::from_secs(600);

/// Reports in a row that the master counts otherwise, before this node waits a while.
const MAX_REPORTS: usize = 3;
/// A twin tries so many times in a lease to be let in.
const RETRIES_OF_TWIN: u32 = 4;

/// Why a session ended.
enum SessionEnd {
    /// The node stops.
    Stopped,
    /// Something failed; the text is for people.
    Failed { master: Option<PeerId>, reason: String },
}

/// The task.
pub(super) struct Membership {
    pub(super) context: Context,
    pub(super) finder: Finder,
    pub(super) state: watch::Sender<MasterState>,
    /// Length of a lease, as far as this node knows.
    pub(super) lease: Duration,
    pub(super) machine: Option<Fingerprint>,
}

impl Membership {
    /// Runs until the node stops, then tells the master.
    pub(super) async fn run(&mut self) {
        let seed = u64::from_le_bytes(key_bytes(&self.context.net.local()));
        let mut backoff = Backoff::new(self.context.config.lease.max_backoff, seed);
        let mut since_ms = None;
        loop {
            let (master, reason) = match self.session(&mut backoff).await {
                SessionEnd::Stopped => return,
                SessionEnd::Failed { master, reason } => (master, reason),
            };
            if matches!(*self.state.borrow(), MasterState::Joined { .. }) {
                since_ms = None;
            }
            let since_ms = *since_ms.get_or_insert_with(unix_ms);
            let twin = self.context.twins.is_refused();
            if !twin {
                tracing::warn!(%reason, "the master cannot be reached; the DHT answers until it is back");
            }
            self.publish(MasterState::Unreachable { peer_id: master, since_ms, reason });
            // Whoever is taken for a twin may be a restart: it comes back in time for its lease.
            let most = if twin { self.lease / RETRIES_OF_TWIN } else { Duration::MAX };
            if self.pause(backoff.pause().min(most)).await {
                return;
            }
        }
    }

    fn publish(&self, state: MasterState) {
        if self.context.config.role != Role::Master {
            self.context.events.on_master(&self.state.borrow(), &state);
            self.state.send_replace(state);
        }
    }

    /// Waits for the pause to end, for the master to show up by itself, or for another address of this host. True if the node stops.
    async fn pause(&mut self, pause: Duration) -> bool {
        let (mut masters, mut listen) = (self.context.net.masters(), self.context.net.listen());
        masters.mark_unchanged();
        listen.mark_unchanged();
        tokio::select! {
            () = Phase::end(&mut self.context.phase) => true,
            () = tokio::time::sleep(pause) => false,
            changed = masters.changed() => changed.is_err(),
            changed = listen.changed() => changed.is_err(),
        }
    }

    /// Finds the master and stays a member for as long as that goes well.
    async fn session(&mut self, backoff: &mut Backoff) -> SessionEnd {
        let found = tokio::select! {
            () = Phase::end(&mut self.context.phase) => return SessionEnd::Stopped,
            found = self.finder.find(&self.context.net) => found,
        };
        let master = match found {
            Ok(master) => master,
            Err(failure) => return SessionEnd::Failed { master: failure.master, reason: failure.reason },
        };
        if self.context.net.authority().is_none_or(|known| known.master.to_peer_id() != master) {
            self.context.net.trust(Authority::new(self.context.network().clone(), &master));
            self.context.events.tell(Happened::MasterFound { peer_id: master });
        }
        // From here on: the end of the connection of the last session is no news.
        let mut lost = self.context.net.lost();
        self.context.net.keep(master, true).await;
        let end = match self.member(master, &mut lost, backoff).await {
            Ok(()) => SessionEnd::Stopped,
            Err(failed) => {
                // A connection on which a question has no answer would be in the way of a better one.
                self.context.net.disconnect(master).await;
                SessionEnd::Failed { master: Some(master), reason: failed.to_string() }
            }
        };
        self.context.net.keep(master, false).await;
        self.context.standings.change(|announcer| announcer.on_session_over());
        end
    }

    /// Joins and keeps the master up to date. Returns when the node stops; an error says what failed.
    async fn member(
        &mut self,
        master: PeerId,
        lost: &mut broadcast::Receiver<PeerId>,
        backoff: &mut Backoff,
    ) -> Result<(), Failed> {
        let mut listen = self.context.net.listen();
        listen.mark_unchanged();
        let mut shares = self.context.shares().generation();
        let mut asked = self.context.standings.watch();
        let mut member = self.join(master).await?;
        backoff.reset();
        let mut retry = tokio::time::interval(RENEWAL_CHECK);
        retry.reset();
        let mut news = true;
        loop {
            if news {
                shares.borrow_and_update();
                self.context.standings.lock().look_again();
                if self.tell(&mut member, &mut asked).await? == ReportOutcome::Rejoin {
                    member = self.rejoin(&member).await?;
                    continue;
                }
            }
            // What changes while the lease is renewed is news of its own.
            news = true;
            // Only now is everything that was shared before the join known to the master.
            self.publish(MasterState::Joined { peer_id: master });
            tokio::select! {
                () = Phase::end(&mut self.context.phase) => break,
                () = std::future::ready(()), if self.context.standings.lock().first_unsealed().is_some() => {
                    news = self.fetch_seals(&member, &mut asked).await?;
                }
                () = tokio::time::sleep_until(member.renewal) => match self.renew(&mut member).await? {
                    Renewed::Agreed => news = false,
                    Renewed::News => {}
                    Renewed::Hopeless => member = self.rejoin(&member).await?,
                },
                // Certificates that are half over are renewed, and names that another held asked for again.
                _ = retry.tick() => self.context.standings.change(|announcer| announcer.retry_lost()),
                changed = shares.changed() => changed.map_err(|_| Failed::NoShares)?,
                changed = asked.changed() => changed.map_err(|_| Failed::Stopping)?,
                changed = listen.changed() => {
                    changed.map_err(|_| Failed::Stopping)?;
                    tokio::time::sleep(ADDRESS_PAUSE).await;
                    listen.borrow_and_update();
                    member = self.join(master).await?;
                }
                peer = lost.recv() => match peer {
                    Ok(peer) if peer != master => news = false,
                    // Whoever lost count of lost connections joins again to be sure.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        return Err(Failed::Lost);
                    }
                    Err(broadcast::error::RecvError::Closed) => break,
                },
            }
        }
        self.leave(&member).await;
        Ok(())
    }

    /// Says farewell, unless the node is cut off.
    async fn leave(&self, member: &Member) {
        let Member { master, session, .. } = *member;
        if *self.context.phase.borrow() == Phase::CutOff {
            return;
        }
        let leave = self.context.net.index(master, IndexRequest::Leave(Leave { session }));
        match tokio::time::timeout(LEAVE_TIMEOUT, leave).await {
            Ok(Ok(_)) => tracing::debug!("the master knows that this node leaves"),
            Ok(Err(error)) => tracing::info!(%error, "the master could not be told that this node leaves"),
            Err(_) => tracing::info!("the master did not answer the farewell in time"),
        }
    }

    /// Tells the master everything that it does not know.
    async fn tell(&self, member: &mut Member, asked: &mut watch::Receiver<u64>) -> Result<ReportOutcome, Failed> {
        if let Some(share) = member.returning.take()
            && self.take_back(member, &share).await? == ReportOutcome::Rejoin
        {
            return Ok(ReportOutcome::Rejoin);
        }
        loop {
            // What is asked for from here on is news of its own; what came before is looked at.
            asked.borrow_and_update();
            let Some(batch) = self.next_batch().await else { break };
            if self.send(member, batch).await? == ReportOutcome::Rejoin {
                return Ok(ReportOutcome::Rejoin);
            }
            if *self.context.phase.borrow() > Phase::Runs {
                break;
            }
            // Between two changes both hold the same as well; very many of them take longer than a lease.
            if member.renewal <= tokio::time::Instant::now() && self.renew(member).await? == Renewed::Hopeless {
                return Ok(ReportOutcome::Rejoin);
            }
        }
        Ok(ReportOutcome::All)
    }

    /// Joins once more, to tell everything anew: master and node do not hold the same.
    async fn rejoin(&self, member: &Member) -> Result<Member, Failed> {
        let (master, reports) = (member.master, member.reports + 1);
        if reports >= MAX_REPORTS {
            return Err(Failed::Miscounted);
        }
        Ok(Member { reports, ..self.join(master).await? })
    }

    async fn join(&self, master: PeerId) -> Result<Member, Failed> {
        let entries = self.context.shares().kept();
        let share = entries.iter().map(|entry| (&entry.name, &entry.content, entry.size));
        let (digest, newest, again) = {
            let announcer = self.context.standings.lock();
            (announcer.digest(share), announcer.newest().cloned().map(Box::new), announcer.may_return())
        };
        let join = Join {
            network: self.context.network().to_string(),
            addresses: self.context.net.listen().borrow().clone(),
            digest,
            entries: entries.len() as u64,
            newest,
            run: Some(self.context.net.run()),
            machine: self.machine,
            again,
        };
        let joined = match self.ask(master, IndexRequest::Join(join)).await? {
            IndexResponse::Joined(joined) => joined,
            _ => return Err(Failed::Misfit),
        };
        let share = entries.iter().map(|entry| (&entry.name, &entry.content, entry.size));
        let now = Instant::now();
        self.context.standings.change(|announcer| {
            announcer.set_bare(joined.bare);
            announcer.on_joined(joined.unchanged, share, now);
        });
        self.context.standings.set_lease(Duration::from_millis(joined.lease_ms));
        self.context.standings.save().await;
        self.context.twins.on_joined();
        tracing::info!(%master, unchanged = joined.unchanged, again = joined.again, "joined");
        let returning = (joined.again && !joined.unchanged).then_some(entries);
        Ok(Member { returning, ..Member::new(master, joined.session) })
    }

    async fn next_batch(&self) -> Option<Batch> {
        let entries = self.context.shares().kept();
        let share = |after: Option<&Name>| {
            let from = after.map_or(0, |after| entries.partition_point(|entry| entry.name <= *after));
            let entries = entries.get(from..).unwrap_or_default().iter();
            entries.map(|entry| (&entry.name, &entry.content, entry.size, entry.attributes()))
        };
        let batch = self.context.standings.lock().next_batch(share, unix_ms());
        let Some(Batch::Announce { mut offers, last }) = batch else { return batch };
        let (network, keypair) = (self.context.network().clone(), self.context.keypair.clone());
        // A thousand signatures take their time.
        let signing = tokio::task::spawn_blocking(move || {
            for offer in &mut offers {
                let found = entries.binary_search_by(|entry| entry.name.as_str().cmp(&offer.name)).ok();
                let entry = found.and_then(|number| entries.get(number));
                offer.attributes = entry.and_then(|entry| entry.signed_attributes(&network, &keypair));
            }
            offers
        });
        // Nothing else can be told if that fails: the node is ending.
        signing.await.ok().map(|offers| Batch::Announce { offers, last })
    }

    async fn send(&self, member: &mut Member, batch: Batch) -> Result<ReportOutcome, Failed> {
        member.sequence.0 += 1;
        let Member { master, session, sequence, .. } = *member;
        let fits = match batch {
            Batch::Announce { offers, last } => {
                let announce =
                    Announce { session, sequence, offers: offers.clone(), last: last.is_some(), total: last };
                let verdicts = match self.ask(master, IndexRequest::Announce(announce)).await {
                    Ok(IndexResponse::Announced(verdicts)) => verdicts,
                    Ok(_) => return Err(Failed::Misfit),
                    Err(failed) if failed.code() == Some(RefusalCode::Differs) => {
                        tracing::warn!(
                            reason = failed.to_string(),
                            "the master did not get the whole report; it is sent again"
                        );
                        return Ok(ReportOutcome::Rejoin);
                    }
                    Err(failed) => return Err(failed),
                };
                let now = Now { mono: Instant::now(), unix_ms: unix_ms() };
                let fits = self
                    .context
                    .standings
                    .change(|announcer| announcer.on_announced(&offers, last.is_some(), verdicts, now));
                self.context.standings.save().await;
                let lost = self.log_lost(&offers);
                self.context.events.tell(Happened::NamesAnnounced { names: offers.len() as u64, lost });
                if last.is_some() {
                    member.reports = 0;
                }
                fits
            }
            Batch::Revoke(names) => {
                let request = IndexRequest::Revoke(Revoke { session, sequence, names: names.clone() });
                let IndexResponse::Revoked(outcomes) = self.ask(master, request).await? else {
                    return Err(Failed::Misfit);
                };
                let fits = self.context.standings.change(|announcer| announcer.on_revoked(&names, &outcomes));
                self.context.standings.save().await;
                self.context.events.tell(Happened::NamesRevoked { names: names.len() as u64 });
                fits
            }
        };
        if fits { Ok(ReportOutcome::All) } else { Err(Failed::Misfit) }
    }

    /// Logs which names are another's or were refused; how many.
    fn log_lost(&self, offers: &[Offer]) -> u64 {
        let mut lost = 0;
        for offer in offers {
            let Ok(name) = Name::parse(&offer.name) else { continue };
            match self.context.standings.of(&name, &offer.content) {
                Some(Standing::Conflict(owner)) => tracing::warn!(%name, %owner, "the name belongs to another peer"),
                Some(Standing::Refused(reason)) => tracing::warn!(%name, reason, "the name was refused"),
                Some(Standing::Certified(_) | Standing::Claimed(_)) | None => continue,
            }
            lost += 1;
        }
        lost
    }

    /// Asks the master; what it is too busy for is asked again a few times. One that answers pings and has not answered
    /// this in time is busy as well. If its members left it they would all connect again, and claim what it is about to
    /// grant. Whatever changes something has a number, so that it is done once. Whoever does not answer pings is
    /// disconnected.
    async fn ask(&self, master: PeerId, request: IndexRequest) -> Result<IndexResponse, Failed> {
        /// Attempts while the master is busy.
        const ATTEMPTS: usize = 5;
        let mut backoff =
            Backoff::new(Duration::from_secs(2), u64::from_le_bytes(key_bytes(&self.context.net.local())));
        for attempt in 1.. {
            match self.context.net.index(master, request.clone()).await {
                Ok(IndexResponse::Refused(refusal)) if refusal.code == RefusalCode::Busy && attempt < ATTEMPTS => {
                    tokio::time::sleep(backoff.pause()).await;
                }
                Ok(IndexResponse::Refused(refusal)) => {
                    if refusal.code == RefusalCode::Twin {
                        self.context.twins.on_refused(&refusal.reason);
                    }
                    return Err(Failed::Refused(refusal));
                }
                Ok(response) => return Ok(response),
                Err(error @ RequestError::TimedOut) if attempt < ATTEMPTS => {
                    tracing::info!(%master, %error, "the master is slow; it is asked again");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failed::Busy)
    }
}

/// A session with a master.
struct Member {
    master: PeerId,
    session: Session,
    /// Number of the last change.
    sequence: Sequence,
    /// The share that this node left with and joined with, until it is granted again.
    returning: Option<Arc<Vec<SharedEntry>>>,
    /// Reports in a row that the master counted otherwise.
    reports: usize,
    /// When the lease is renewed next.
    renewal: tokio::time::Instant,
    /// Names that were put right since both last agreed.
    repaired: u64,
}

impl Member {
    fn new(master: PeerId, session: Session) -> Self {
        let renewal = tokio::time::Instant::now();
        Self { master, session, sequence: Sequence(0), returning: None, reports: 0, renewal, repaired: 0 }
    }
}

/// What a renewal came to.
#[derive(Debug, PartialEq, Eq)]
enum Renewed {
    /// Both hold the same, as far as the master says.
    Agreed,
    /// The master has to be told something.
    News,
    /// Too much differs: everything has to be told anew, in a new session.
    Hopeless,
}

/// What telling the master came to.
#[derive(Debug, PartialEq, Eq)]
enum ReportOutcome {
    /// It knows.
    All,
    /// It counts otherwise: everything is told anew, in a new session.
    Rejoin,
}

/// Eight bytes that differ between nodes: the end of the peer id, which is key material.
pub(super) fn key_bytes(peer: &PeerId) -> [u8; 8] {
    peer.to_bytes().last_chunk::<8>().copied().unwrap_or_default()
}
