//! Requests for chunks: what others say along with them, and what is read for them.

use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::PeerId;
use libp2p::request_response::InboundRequestId;
use swarmdex_protocols::fetch::{FetchRefusal, FetchRequest, FetchResponse, Have, Header};
use swarmdex_protocols::limits::MAX_FETCH_BODY;

use super::serve::Serve;
use super::{Driver, Job};
use crate::net::behaviour::Behaviour;
use crate::net::fetch::{Asked, Upload};
use crate::net::rpc::{FetchProtocol, Inbound, Reply, Rpc};
use crate::storage::hanging::HANGING;
use crate::storage::library::Library;

impl Serve for FetchProtocol {
    fn rpc(behaviour: &mut Behaviour) -> &mut Rpc<Self> {
        &mut behaviour.fetch
    }

    fn serve(driver: &mut Driver, inbound: Inbound<Self>) {
        let Inbound { peer, request, reply, .. } = inbound;
        match request {
            Ok(FetchRequest::Have(mut have)) => {
                driver.crowd.on_have_update(&have.content, peer, std::mem::take(&mut have.have));
                let response = driver.have(peer, have);
                driver.send(reply, response);
            }
            Ok(FetchRequest::Cancel(run)) => {
                driver.send(reply, FetchResponse::bare(Header::Done));
                if let Some(waiting) = driver.uploads.cancel(&peer, &run) {
                    driver.send(waiting, FetchResponse::refused(FetchRefusal::Cancelled));
                }
            }
            Ok(FetchRequest::Wrong(run)) => {
                driver.complaints.hear(peer, run, &driver.services.library);
                driver.send(reply, FetchResponse::bare(Header::Done));
            }
            Ok(request) => driver.queue_upload(peer, request, reply),
            Err(_) => drop(driver.send(reply, FetchResponse::refused(FetchRefusal::Malformed))),
        }
    }

    fn on_over(driver: &mut Driver, id: &InboundRequestId) {
        driver.uploads.finish(id, Instant::now());
    }
}

impl Driver {
    /// A request for chunks waits for its turn.
    fn queue_upload(&mut self, peer: PeerId, mut request: FetchRequest, reply: Reply<FetchProtocol>) {
        self.on_asked_for_chunks(peer);
        let holdings = &self.services.library.holdings;
        let (crowd, early) = match &mut request {
            FetchRequest::Chunks(want) => {
                self.crowd.on_have_update(&want.content, peer, std::mem::take(&mut want.have));
                (holdings.is_part(&want.content), holdings.is_incoming(&want.content, want.first))
            }
            request => (matches!(request, FetchRequest::Any(_)), false),
        };
        if let Err((reply, refusal)) = self.uploads.push(peer, Asked { request, reply }, crowd, early) {
            self.send(reply, FetchResponse::refused(refusal));
        }
    }

    /// Which chunks of a content this node has, and who else may have some.
    fn have(&mut self, peer: PeerId, have: Have) -> FetchResponse {
        let Some(chunks) = self.services.library.have(&have.content) else {
            return FetchResponse::refused(FetchRefusal::NotFound);
        };
        let others = self.crowd.on_have(have.content, peer, have.addresses, Instant::now());
        let body = chunks.as_ref().map(|chunks| chunks.as_bytes().to_vec()).unwrap_or_default();
        match u32::try_from(body.len()) {
            Ok(bytes) if body.len() <= MAX_FETCH_BODY => {
                let sending = self.uploads.is_sending(&peer, Instant::now());
                FetchResponse { header: Header::Have { bytes, whole: chunks.is_none(), others, sending }, body }
            }
            // A part of a content of more than 8 TiB is of use to nobody else before it is whole.
            _ => FetchResponse::refused(FetchRefusal::NotFound),
        }
    }
}

/// Says which chunk it is that was chosen.
fn say_instead(first: u64, response: FetchResponse) -> FetchResponse {
    match response.header {
        Header::Chunks { bytes, mut proofs, .. } if proofs.len() == 1 => {
            let header = Header::Instead { first, bytes, proof: proofs.remove(0) };
            FetchResponse { header, ..response }
        }
        header => FetchResponse { header, ..response },
    }
}

/// Reads chunks on a thread for blocking work.
pub(super) fn read(library: Library, upload: Upload) -> BoxFuture<'static, Job> {
    let Upload { request, reply, instead } = upload;
    let reading = tokio::task::spawn_blocking(move || match request {
        FetchRequest::Chunks(want) if instead => say_instead(want.first, library.chunks(&want.run())),
        FetchRequest::Chunks(want) => library.chunks(&want.run()),
        FetchRequest::Files(contents) => library.files(&contents),
        // Answered when they came, or made a request for one chunk.
        FetchRequest::Any(_) | FetchRequest::Have(_) | FetchRequest::Cancel(_) | FetchRequest::Wrong(_) => {
            FetchResponse::bare(Header::Done)
        }
    });
    async move {
        // A reader that panicked has read nothing.
        let refused = FetchResponse::refused(FetchRefusal::Storage);
        // Nor has one whose disk does not answer.
        let read = tokio::time::timeout(HANGING, reading).await;
        Job::Upload { reply, response: read.unwrap_or(Ok(refused.clone())).unwrap_or(refused) }
    }
    .boxed()
}
