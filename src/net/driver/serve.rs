//! Requests: those of others that this node answers, and the answers to its own.

use std::time::{Duration, Instant};

use futures::FutureExt;
use libp2p::PeerId;
use libp2p::request_response::InboundRequestId;
use libp2p::swarm::ConnectionId;
use swarmdex_protocols::address::ip_of;
use swarmdex_protocols::index::{Followed, IndexRequest, IndexResponse, Refusal, RefusalCode};
use swarmdex_protocols::limits::MAX_ADDRESSES;
use swarmdex_protocols::mirror;

use super::{Driver, Job};
use crate::net::behaviour::Behaviour;
use crate::net::dht;
use crate::net::error::RequestError;
use crate::net::index::{IndexStep, Origin, refuse_bytes};
use crate::net::renewals::{self, Asker, Unanswered};
use crate::net::rpc::codec::Received;
use crate::net::rpc::{self, Event, Inbound, Protocol, Reply, Rpc, Waiting};
use crate::state::quota::Counts;

/// Questions about names of this node that are answered at a time, in all.
const MAX_OWNED: usize = 16;
/// Questions of one peer at a time: as many as a node asks that looks for the files of a folder, see `FILES_AT_A_TIME`
/// of `node::get`.
const MAX_OWNED_OF_PEER: usize = 8;

/// The questions about names of this node that are being answered: none yet.
pub(super) fn owned_questions() -> Counts<PeerId> {
    Counts::bounded(MAX_OWNED_OF_PEER, MAX_OWNED)
}

/// Where the answer to an index request goes.
pub(super) enum IndexReply {
    /// To another node.
    Remote(Reply<rpc::IndexProtocol>),
    Renewal(Asker),
    Local(Waiting<rpc::IndexProtocol>),
}

fn refused(code: RefusalCode, reason: &str) -> IndexResponse {
    IndexResponse::Refused(Refusal::new(code, reason))
}

/// A protocol whose requests the loop serves.
pub(super) trait Serve: Protocol + Sized {
    /// What speaks it.
    fn rpc(behaviour: &mut Behaviour) -> &mut Rpc<Self>;

    /// Answers a request, at once or by and by.
    fn serve(driver: &mut Driver, inbound: Inbound<Self>);

    /// An answer was sent, or never will be.
    fn on_over(_: &mut Driver, _: &InboundRequestId) {}
}

impl Serve for rpc::IndexProtocol {
    fn rpc(behaviour: &mut Behaviour) -> &mut Rpc<Self> {
        &mut behaviour.index
    }

    fn serve(driver: &mut Driver, inbound: Inbound<Self>) {
        let Inbound { peer, connection, request, reply } = inbound;
        driver.serve_remote(peer, connection, request, IndexReply::Remote(reply));
    }
}

impl Serve for rpc::MirrorProtocol {
    fn rpc(behaviour: &mut Behaviour) -> &mut Rpc<Self> {
        &mut behaviour.mirror
    }

    fn serve(driver: &mut Driver, inbound: Inbound<Self>) {
        let Inbound { peer, connection, request, reply } = inbound;
        let behaviour = driver.swarm.behaviour_mut();
        let at = behaviour.admission.remote(&connection).and_then(ip_of);
        let reply = dht::MirrorReply::Remote(reply);
        let step = match request {
            Ok(request) => driver.dht.serve(&mut behaviour.kad, peer, at, request, reply),
            Err(error) => dht::MirrorStep::Answer(reply, mirror::MirrorResponse::Refused(refuse_bytes(&error))),
        };
        driver.on_mirror_step(step);
    }
}

impl Driver {
    /// Something happened in one of the protocols that have one answer to each request.
    pub(super) fn on_rpc<P: Serve>(&mut self, event: Event<P>) {
        match event {
            Event::Asked(inbound) => match self.access.check(&inbound.peer, P::KIND, Instant::now()) {
                Ok(()) => P::serve(self, inbound),
                Err(denied) => {
                    tracing::debug!(peer = %inbound.peer, %denied, "{} is refused", P::WORK);
                    self.send(inbound.reply, P::refused(denied));
                }
            },
            Event::Answered => {}
            Event::Over(id) => P::on_over(self, &id),
        }
    }

    /// Answers a request of another node; false if nobody waits for that any more.
    pub(super) fn send<P: Serve>(&mut self, reply: Reply<P>, response: P::Response) -> bool {
        P::rpc(self.swarm.behaviour_mut()).reply(reply, response)
    }

    pub(super) fn ask_index(&mut self, to: PeerId, request: IndexRequest, answer: Waiting<rpc::IndexProtocol>) {
        if to == *self.swarm.local_peer_id() {
            return self.serve_index(to, None, Ok(request), IndexReply::Local(answer));
        }
        if matches!(request, IndexRequest::Renew(_)) {
            return self.ask_renewal(to, request, answer);
        }
        self.swarm.behaviour_mut().index.ask(&to, request, answer);
    }

    fn ask_renewal(&mut self, to: PeerId, request: IndexRequest, answer: Waiting<rpc::IndexProtocol>) {
        let asked = if self.requests.renewals.has_room() {
            self.swarm.behaviour_mut().renewals.ask(to, request)
        } else {
            Err(RequestError::Busy)
        };
        match asked {
            Ok(()) => self.requests.renewals.insert(to, answer),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    pub(super) fn on_renewal(&mut self, event: renewals::RenewalEvent) {
        match event {
            renewals::RenewalEvent::Asked { asker, request } => {
                let reply = IndexReply::Renewal(asker);
                if matches!(request, Ok(IndexRequest::Renew(_)) | Err(_)) {
                    self.serve_remote(asker.peer, asker.connection, request, reply);
                } else {
                    self.reply(reply, refused(RefusalCode::Unsupported, "only renewals are asked here"));
                }
            }
            renewals::RenewalEvent::Answered { peer, answer: Err(Unanswered::Unsupported(request)), .. } => {
                // A build from before this protocol answers on a stream for each request.
                if let Some(answer) = self.requests.renewals.take(&peer) {
                    self.swarm.behaviour_mut().index.ask(&peer, request, answer);
                }
            }
            renewals::RenewalEvent::Answered { peer, answer: Err(Unanswered::Failed(error)), .. } => {
                self.requests.renewals.answer(&peer, Err(error));
            }
            renewals::RenewalEvent::Answered { peer, connection, answer: Ok(response) } => {
                self.on_pong(peer, connection, Instant::now());
                if let IndexResponse::Renewed(renewed) = &response {
                    let next = Duration::from_millis(renewed.wait_ms);
                    self.swarm.behaviour_mut().pings.on_heard(peer, connection, next);
                }
                self.requests.renewals.answer(&peer, Ok(response));
            }
        }
    }

    fn serve_remote(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        request: Received<IndexRequest>,
        reply: IndexReply,
    ) {
        let remote = self.swarm.behaviour().admission.remote(&connection).cloned();
        let origin = Origin { link: connection, remote: remote.as_ref() };
        self.serve_index(peer, Some(origin), request, reply);
    }

    fn serve_index(
        &mut self,
        peer: PeerId,
        origin: Option<Origin<'_>>,
        request: Received<IndexRequest>,
        reply: IndexReply,
    ) {
        let step = match (&mut self.services.index, request) {
            (Some(_), Ok(IndexRequest::Call(call))) if !self.swarm.is_connected(&call.peer) => {
                IndexStep::Answer(refused(RefusalCode::NotFound, "it is not connected with the master"))
            }
            (_, Ok(IndexRequest::Master)) => IndexStep::Answer(IndexResponse::Master(self.followed())),
            (Some(master), request) => master.handle(peer, origin, request, Instant::now()),
            (None, Ok(request @ (IndexRequest::Lookup(_) | IndexRequest::Search(_)))) => {
                return self.serve_owned(peer, request, reply);
            }
            (None, Ok(IndexRequest::Reach(reach))) if self.dht.master() == Some(peer) => {
                self.on_reach(reach);
                IndexStep::Answer(IndexResponse::Done)
            }
            (None, Ok(IndexRequest::Connect(connect))) if self.dht.master() == Some(peer) => {
                self.on_call(connect);
                IndexStep::Answer(IndexResponse::Done)
            }
            (None, Ok(_)) => IndexStep::Answer(refused(RefusalCode::NotMaster, "this node is not the master")),
            (None, Err(error)) => IndexStep::Answer(IndexResponse::Refused(refuse_bytes(&error))),
        };
        match step {
            IndexStep::Answer(response) => self.reply(reply, response),
            IndexStep::Wait(future) => {
                self.jobs.push(future.map(|done| Job::Index { reply, done: Box::new(done) }).boxed())
            }
        }
    }

    /// The master that this node follows, and where it was last: itself, if it is one.
    fn followed(&self) -> Followed {
        let Some(master) = self.dht.master() else { return Followed::default() };
        let addresses = if self.services.index.is_some() {
            self.outside.listen.borrow().clone()
        } else {
            let masters = self.outside.masters.borrow();
            masters.iter().find(|node| node.peer == master).map(|node| node.addresses.clone()).unwrap_or_default()
        };
        let reign = self.services.index.as_ref().map(|index| index.reign(Instant::now()));
        Followed { master: Some(master), addresses: addresses.into_iter().take(MAX_ADDRESSES).collect(), reign }
    }

    pub(super) fn reply(&mut self, reply: IndexReply, response: IndexResponse) {
        match reply {
            IndexReply::Remote(reply) => drop(self.send(reply, response)),
            IndexReply::Renewal(asker) => {
                let master = self.services.index.as_ref();
                let standing = master.and_then(|master| master.standing_answer(&asker.peer));
                self.swarm.behaviour_mut().renewals.answer(asker, response, standing);
            }
            IndexReply::Local(answer) => {
                let _ = answer.send(Ok(response));
            }
        }
    }

    /// Answers for this node's own names, on a thread for blocking work: there may be very many.
    fn serve_owned(&mut self, peer: PeerId, request: IndexRequest, reply: IndexReply) {
        if !self.requests.owned.try_add(peer) {
            return self.reply(reply, refused(RefusalCode::Busy, "too many questions; ask again"));
        }
        let owned = self.services.owned.clone();
        let answering = tokio::task::spawn_blocking(move || owned(request));
        let job = async move {
            let failed = |_| refused(RefusalCode::Storage, "the question could not be answered");
            Job::Owned { peer, reply, response: Box::new(answering.await.unwrap_or_else(failed)) }
        };
        self.jobs.push(job.boxed());
    }

    pub(super) fn ask_mirror(
        &mut self,
        to: PeerId,
        request: mirror::MirrorRequest,
        answer: Waiting<rpc::MirrorProtocol>,
    ) {
        let local = to == *self.swarm.local_peer_id();
        let behaviour = self.swarm.behaviour_mut();
        if local {
            let step = self.dht.serve(&mut behaviour.kad, to, None, request, dht::MirrorReply::Local(answer));
            return self.on_mirror_step(step);
        }
        behaviour.mirror.ask(&to, request, answer);
    }

    pub(super) fn on_mirror_step(&mut self, step: dht::MirrorStep) {
        match step {
            dht::MirrorStep::Answer(reply, response) => self.reply_mirror(reply, response),
            dht::MirrorStep::Wait(future) => {
                self.jobs.push(future.map(|checked| Job::Checked(Box::new(checked))).boxed())
            }
            dht::MirrorStep::Done => {}
        }
    }

    pub(super) fn reply_mirror(&mut self, reply: dht::MirrorReply, response: mirror::MirrorResponse) {
        match reply {
            dht::MirrorReply::Remote(reply) => drop(self.send(reply, response)),
            dht::MirrorReply::Local(answer) => {
                let _ = answer.send(Ok(response));
            }
            dht::MirrorReply::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_asks_all_the_time_leaves_places_to_others() {
        let (mut owned, greedy) = (owned_questions(), PeerId::random());
        assert_eq!((0..100).filter(|_| owned.try_add(greedy)).count(), MAX_OWNED_OF_PEER);
        let others = (0..100).filter(|_| owned.try_add(PeerId::random())).count();
        assert_eq!(others, MAX_OWNED - MAX_OWNED_OF_PEER);
        owned.remove(&greedy);
        assert!(owned.try_add(PeerId::random()) && !owned.has_room(&greedy));
    }
}
