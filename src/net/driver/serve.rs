//! Requests: those of others that this node answers, and the answers to its own.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::request_response::{self, Message};
use libp2p::swarm::ConnectionId;
use swarmdex_protocols::address::ip_of;
use swarmdex_protocols::fetch::Header;
use swarmdex_protocols::index::{Followed, Refusal, RefusalCode, Request, Response};
use swarmdex_protocols::limits::{MAX_ADDRESSES, MAX_FETCH_BODY};
use swarmdex_protocols::{fetch as fetch_protocol, index as index_protocol, mirror};

use super::{Driver, IndexChannel, Job};
use crate::net::codec::Received;
use crate::net::dht;
use crate::net::fetch::Upload;
use crate::net::hosts::Addressed;
use crate::net::index::{Origin, Step, refuse_bytes};
use crate::net::pending::request_error;
use crate::net::renewals::{self, Asker, Unanswered};
use crate::net::{IndexAnswer, MirrorAnswer, RequestError};
use crate::state::quota::Counts;
use crate::storage::hanging::HANGING;
use crate::storage::library::Library;

/// Questions about names of this node that are answered at a time, in all.
const MAX_OWNED: usize = 16;
/// The same of one peer: as many as a node asks that looks for the files of a folder, see `FILES_AT_A_TIME` of `node::get`.
const MAX_OWNED_OF_PEER: usize = 8;

/// The questions about names of this node that are being answered: none yet.
pub(super) fn owned_questions() -> Counts<PeerId> {
    Counts::bounded(MAX_OWNED_OF_PEER, MAX_OWNED)
}

/// Where the answer to an index request goes.
pub(super) enum IndexReply {
    /// To a node that is on this host, or not.
    Remote {
        channel: IndexChannel,
        here: bool,
    },
    Renewal(Asker),
    Local(IndexAnswer),
}

fn refused(code: RefusalCode, reason: &str) -> Response {
    Response::Refused(Refusal::new(code, reason))
}

impl Driver {
    pub(super) fn ask_index(&mut self, to: PeerId, request: index_protocol::Request, answer: IndexAnswer) {
        if to == *self.swarm.local_peer_id() {
            return self.serve_index(to, None, Ok(request), IndexReply::Local(answer));
        }
        if matches!(request, Request::Renew(_)) {
            return self.ask_renewal(to, request, answer);
        }
        self.send_index(to, request, answer);
    }

    fn send_index(&mut self, to: PeerId, request: index_protocol::Request, answer: IndexAnswer) {
        let refusal = if !self.requests.index.has_room() {
            RequestError::Busy
        } else if !self.swarm.is_connected(&to) {
            RequestError::Disconnected
        } else {
            let request = request.only_working(self.is_here(&to));
            let id = self.swarm.behaviour_mut().index.send_request(&to, Ok(request));
            return self.requests.index.insert(id, answer);
        };
        let _ = answer.send(Err(refusal));
    }

    fn ask_renewal(&mut self, to: PeerId, request: index_protocol::Request, answer: IndexAnswer) {
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

    pub(super) fn on_renewal(&mut self, event: renewals::Event) {
        match event {
            renewals::Event::Asked { asker, request } => {
                let reply = IndexReply::Renewal(asker);
                if matches!(request, Ok(Request::Renew(_)) | Err(_)) {
                    self.serve_remote(asker.peer, asker.connection, request, reply);
                } else {
                    self.reply(reply, refused(RefusalCode::Unsupported, "only renewals are asked here"));
                }
            }
            renewals::Event::Answered { peer, answer: Err(Unanswered::Unsupported(request)), .. } => {
                // A build from before this protocol answers on a stream for each request.
                if let Some(answer) = self.requests.renewals.take(&peer) {
                    self.send_index(peer, request, answer);
                }
            }
            renewals::Event::Answered { peer, answer: Err(Unanswered::Failed(error)), .. } => {
                self.requests.renewals.answer(&peer, Err(error));
            }
            renewals::Event::Answered { peer, connection, answer: Ok(response) } => {
                self.on_pong(peer, connection, Instant::now());
                if let Response::Renewed(renewed) = &response {
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
        request: Received<index_protocol::Request>,
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
        request: Received<index_protocol::Request>,
        reply: IndexReply,
    ) {
        let step = match (&mut self.services.index, request) {
            (Some(_), Ok(Request::Call(call))) if !self.swarm.is_connected(&call.peer) => {
                Step::Answer(refused(RefusalCode::NotFound, "it is not connected with the master"))
            }
            (_, Ok(Request::Master)) => Step::Answer(Response::Master(self.followed())),
            (Some(master), request) => master.handle(peer, origin, request, Instant::now()),
            (None, Ok(request @ (Request::Lookup(_) | Request::Search(_)))) => {
                return self.serve_owned(peer, request, reply);
            }
            (None, Ok(Request::Reach(reach))) if self.dht.master() == Some(peer) => {
                self.on_reach(reach);
                Step::Answer(Response::Done)
            }
            (None, Ok(Request::Connect(connect))) if self.dht.master() == Some(peer) => {
                self.on_call(connect);
                Step::Answer(Response::Done)
            }
            (None, Ok(_)) => Step::Answer(refused(RefusalCode::NotMaster, "this node is not the master")),
            (None, Err(error)) => Step::Answer(Response::Refused(refuse_bytes(&error))),
        };
        match step {
            Step::Answer(response) => self.reply(reply, response),
            Step::Wait(future) => self.jobs.push(future.map(|done| Job::Index { reply, done: Box::new(done) }).boxed()),
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

    pub(super) fn reply(&mut self, reply: IndexReply, response: Response) {
        match reply {
            // A failure to send shows as an inbound failure; the peer asks again.
            IndexReply::Remote { channel, here } => {
                let response = response.only_working(here);
                let _ = self.swarm.behaviour_mut().index.send_response(channel, Ok(response));
            }
            IndexReply::Renewal(asker) => {
                let master = self.services.index.as_ref();
                let standing = master.and_then(|master| master.standing(&asker.peer));
                self.swarm.behaviour_mut().renewals.answer(asker, response, standing);
            }
            IndexReply::Local(answer) => {
                let _ = answer.send(Ok(response));
            }
        }
    }

    /// Answers for this node's own names, on a thread for blocking work: there may be very many.
    fn serve_owned(&mut self, peer: PeerId, request: Request, reply: IndexReply) {
        let channel = match reply {
            IndexReply::Remote { channel, .. } if self.requests.owned.try_add(peer) => channel,
            reply => return self.reply(reply, refused(RefusalCode::Busy, "too many questions; ask again")),
        };
        let owned = self.services.owned.clone();
        let answering = tokio::task::spawn_blocking(move || owned(request));
        let job = async move {
            let failed = |_| refused(RefusalCode::Storage, "the question could not be answered");
            Job::Owned { peer, channel, response: answering.await.unwrap_or_else(failed) }
        };
        self.jobs.push(job.boxed());
    }

    pub(super) fn ask_mirror(&mut self, to: PeerId, request: mirror::Request, answer: MirrorAnswer) {
        let here = self.is_here(&to);
        let swarm = &mut self.swarm;
        if to == *swarm.local_peer_id() {
            let step = self.dht.serve(&mut swarm.behaviour_mut().kad, to, None, request, dht::Reply::Local(answer));
            return self.on_mirror_step(step);
        }
        let refusal = if !self.requests.mirror.has_room() {
            RequestError::Busy
        } else if !swarm.is_connected(&to) {
            RequestError::Disconnected
        } else {
            let request = request.only_working(here);
            let id = swarm.behaviour_mut().mirror.send_request(&to, Ok(request));
            return self.requests.mirror.insert(id, answer);
        };
        let _ = answer.send(Err(refusal));
    }

    pub(super) fn on_mirror_step(&mut self, step: dht::Step) {
        match step {
            dht::Step::Answer(reply, response) => self.reply_mirror(reply, response),
            dht::Step::Wait(future) => self.jobs.push(future.map(|checked| Job::Checked(Box::new(checked))).boxed()),
            dht::Step::Done => {}
        }
    }

    pub(super) fn reply_mirror(&mut self, reply: dht::Reply, response: mirror::Response) {
        match reply {
            // A failure to send shows as an inbound failure; the sender tries again.
            dht::Reply::Remote { channel, here } => {
                let response = response.only_working(here);
                let _ = self.swarm.behaviour_mut().mirror.send_response(channel, Ok(response));
            }
            dht::Reply::Local(answer) => {
                let _ = answer.send(Ok(response));
            }
            dht::Reply::None => {}
        }
    }

    pub(super) fn on_mirror(
        &mut self,
        event: request_response::Event<Received<mirror::Request>, Received<mirror::Response>>,
    ) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message: Message::Request { request, channel, .. },
            } => {
                let here = self.is_here(&peer);
                let behaviour = self.swarm.behaviour_mut();
                let at = behaviour.admission.remote(&connection_id).and_then(ip_of);
                let reply = dht::Reply::Remote { channel, here };
                let step = match request.only_working(here) {
                    Ok(request) => self.dht.serve(&mut behaviour.kad, peer, at, request, reply),
                    Err(error) => dht::Step::Answer(reply, mirror::Response::Refused(refuse_bytes(&error))),
                };
                self.on_mirror_step(step);
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                let response = response.only_working(self.is_here(&peer));
                self.requests.mirror.answer(&request_id, response.map_err(RequestError::Malformed));
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.requests.mirror.answer(&request_id, Err(request_error(&error)));
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a mirror request failed");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_index(
        &mut self,
        event: request_response::Event<Received<index_protocol::Request>, Received<Response>>,
    ) {
        match event {
            request_response::Event::Message {
                peer,
                connection_id,
                message: Message::Request { request, channel, .. },
            } => {
                let here = self.is_here(&peer);
                let request = request.only_working(here);
                self.serve_remote(peer, connection_id, request, IndexReply::Remote { channel, here });
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                let response = response.only_working(self.is_here(&peer));
                self.requests.index.answer(&request_id, response.map_err(RequestError::Malformed));
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.requests.index.answer(&request_id, Err(request_error(&error)));
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "an index request failed");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_fetch(
        &mut self,
        event: request_response::Event<Received<fetch_protocol::Request>, Received<fetch_protocol::Response>>,
    ) {
        use fetch_protocol::{Refusal, Request, Response};
        match event {
            request_response::Event::Message {
                peer,
                message: Message::Request { request_id, request, channel },
                ..
            } => {
                let here = self.is_here(&peer);
                let refused = match request.only_working(here) {
                    Ok(Request::Have(mut have)) => {
                        self.crowd.on_word(&have.content, peer, std::mem::take(&mut have.have));
                        let response = self.have(peer, have).only_working(here);
                        let _ = self.swarm.behaviour_mut().fetch.send_response(channel, Ok(response));
                        Ok(())
                    }
                    Ok(Request::Cancel(run)) => {
                        let done = Response::bare(Header::Done);
                        let _ = self.swarm.behaviour_mut().fetch.send_response(channel, Ok(done));
                        self.uploads.cancel(&peer, &run).map_or(Ok(()), |channel| Err((channel, Refusal::Cancelled)))
                    }
                    Ok(Request::Wrong(run)) => {
                        self.complaints.hear(peer, run, &self.services.library);
                        let done = Response::bare(Header::Done);
                        let _ = self.swarm.behaviour_mut().fetch.send_response(channel, Ok(done));
                        Ok(())
                    }
                    Ok(mut request) => {
                        self.on_asked_for_chunks(peer);
                        let holdings = &self.services.library.holdings;
                        let (crowd, early) = match &mut request {
                            Request::Chunks(want) => {
                                self.crowd.on_word(&want.content, peer, std::mem::take(&mut want.have));
                                (holdings.is_part(&want.content), holdings.is_coming(&want.content, want.first))
                            }
                            request => (matches!(request, Request::Any(_)), false),
                        };
                        let instead = false;
                        self.uploads.push(Upload { id: request_id, peer, request, channel, crowd, instead, early })
                    }
                    Err(_) => Err((channel, Refusal::Malformed)),
                };
                if let Err((channel, refusal)) = refused {
                    let _ = self.swarm.behaviour_mut().fetch.send_response(channel, Ok(Response::refused(refusal)));
                }
            }
            request_response::Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                let response = response.only_working(self.is_here(&peer));
                self.requests.fetch.answer(&request_id, response.map_err(RequestError::Malformed));
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.requests.fetch.answer(&request_id, Err(request_error(&error)));
            }
            request_response::Event::InboundFailure { request_id, peer, error, .. } => {
                tracing::debug!(%peer, %error, "an upload failed");
                self.uploads.finish(&request_id, Instant::now());
            }
            request_response::Event::ResponseSent { request_id, .. } => {
                self.uploads.finish(&request_id, Instant::now());
            }
        }
    }

    /// Which chunks of a content this node has, and who else may have some.
    fn have(&mut self, peer: PeerId, have: fetch_protocol::Have) -> fetch_protocol::Response {
        use fetch_protocol::{Refusal, Response};
        let Some(chunks) = self.services.library.have(&have.content) else {
            return Response::refused(Refusal::NotFound);
        };
        let others = self.crowd.on_have(have.content, peer, have.addresses, Instant::now());
        let body = chunks.as_ref().map(|chunks| chunks.as_bytes().to_vec()).unwrap_or_default();
        match u32::try_from(body.len()) {
            Ok(bytes) if body.len() <= MAX_FETCH_BODY => {
                let sending = self.uploads.is_sending(&peer, Instant::now());
                Response { header: Header::Have { bytes, whole: chunks.is_none(), others, sending }, body }
            }
            // A part of a content of more than 8 TiB is of use to nobody else before it is whole.
            _ => Response::refused(Refusal::NotFound),
        }
    }
}

/// Says which chunk it is that was chosen.
fn say_instead(first: u64, response: fetch_protocol::Response) -> fetch_protocol::Response {
    match response.header {
        Header::Chunks { bytes, mut proofs, .. } if proofs.len() == 1 => {
            let header = Header::Instead { first, bytes, proof: proofs.remove(0) };
            fetch_protocol::Response { header, ..response }
        }
        header => fetch_protocol::Response { header, ..response },
    }
}

/// Reads chunks on a thread for blocking work.
pub(super) fn read(library: Library, upload: Upload) -> BoxFuture<'static, Job> {
    let Upload { id, request, channel, instead, .. } = upload;
    let reading = tokio::task::spawn_blocking(move || match request {
        fetch_protocol::Request::Chunks(want) if instead => say_instead(want.first, library.chunks(&want.run())),
        fetch_protocol::Request::Chunks(want) => library.chunks(&want.run()),
        fetch_protocol::Request::Files(contents) => library.files(&contents),
        // Answered when they came, or made a request for one chunk.
        fetch_protocol::Request::Any(_)
        | fetch_protocol::Request::Have(_)
        | fetch_protocol::Request::Cancel(_)
        | fetch_protocol::Request::Wrong(_) => fetch_protocol::Response::bare(Header::Done),
    });
    async move {
        // A reader that panicked has read nothing.
        let refused = fetch_protocol::Response::refused(fetch_protocol::Refusal::Storage);
        // Nor has one whose disk does not answer.
        let read = tokio::time::timeout(HANGING, reading).await;
        Job::Upload { id, channel, response: read.unwrap_or(Ok(refused.clone())).unwrap_or(refused) }
    }
    .boxed()
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
