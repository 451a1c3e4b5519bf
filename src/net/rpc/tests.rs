//! Who is asked, and what reaches whoever waits.

use libp2p::request_response::OutboundFailure;
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::index::{Followed, IndexRequest, IndexResponse};

use super::codec::IndexCodec;
use super::*;

/// With a connection from elsewhere.
fn connected() -> (Rpc<IndexProtocol>, PeerId, Here) {
    let here = Here::default();
    let mut rpc = Rpc::<IndexProtocol>::new(IndexCodec::default(), Duration::from_secs(1), here.clone());
    let (peer, address) = (PeerId::random(), "/ip4/10.0.0.1/tcp/1".parse().unwrap());
    let connection = ConnectionId::new_unchecked(1);
    drop(rpc.handle_established_inbound_connection(connection, peer, &address, &address).unwrap());
    (rpc, peer, here)
}

#[test]
fn nobody_is_asked_without_a_connection_and_requests_that_wait_are_bounded() {
    let (mut rpc, peer, _) = connected();
    let (answer, mut answered) = oneshot::channel();
    rpc.ask(&PeerId::random(), IndexRequest::Master, answer);
    assert_eq!(answered.try_recv().unwrap(), Err(RequestError::Disconnected));
    let asked: Vec<_> = (0..MAX_REQUESTS + 1)
        .map(|_| {
            let (answer, answered) = oneshot::channel();
            rpc.ask(&peer, IndexRequest::Master, answer);
            answered
        })
        .collect();
    let at_once: Vec<_> = asked.into_iter().filter_map(|mut answered| answered.try_recv().ok()).collect();
    assert_eq!(at_once, [Err(RequestError::Busy)]);
    assert!(!rpc.waiting.has_room());
}

#[test]
fn an_answer_reaches_who_waits_for_it_and_a_failure_too() {
    let (mut rpc, peer, _) = connected();
    let connection_id = ConnectionId::new_unchecked(1);
    let ask = |rpc: &mut Rpc<IndexProtocol>| {
        let (answer, answered) = oneshot::channel();
        let id = rpc.send(&peer, IndexRequest::Master);
        rpc.waiting.insert(id, answer);
        (id, answered)
    };
    let (request_id, mut answered) = ask(&mut rpc);
    let message = Message::Response { request_id, response: Ok(IndexResponse::Done) };
    let event = rpc.on_event(request_response::Event::Message { peer, connection_id, message });
    assert!(matches!(event, Event::Answered));
    assert_eq!(answered.try_recv().unwrap(), Ok(IndexResponse::Done));
    let (request_id, mut answered) = ask(&mut rpc);
    let message = Message::Response { request_id, response: Err(DecodeError::Truncated) };
    rpc.on_event(request_response::Event::Message { peer, connection_id, message });
    assert_eq!(answered.try_recv().unwrap(), Err(RequestError::Malformed(DecodeError::Truncated)));
    let (request_id, mut answered) = ask(&mut rpc);
    let error = OutboundFailure::Timeout;
    rpc.on_event(request_response::Event::OutboundFailure { peer, connection_id, request_id, error });
    assert_eq!(answered.try_recv().unwrap(), Err(RequestError::TimedOut));
    assert!(rpc.waiting.has_room());
    // One that nobody waits for any more is no harm.
    let message = Message::Response { request_id, response: Ok(IndexResponse::Done) };
    rpc.on_event(request_response::Event::Message { peer, connection_id, message });
}

#[test]
fn addresses_of_this_host_are_believed_of_nobody_elsewhere() {
    let (mut rpc, peer, here) = connected();
    let addresses = ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"].map(|text| text.parse::<Multiaddr>().unwrap());
    let followed = Followed { addresses: addresses.to_vec(), ..Followed::default() };
    let heard = |rpc: &mut Rpc<IndexProtocol>| {
        let (answer, mut answered) = oneshot::channel();
        let request_id = rpc.send(&peer, IndexRequest::Master);
        rpc.waiting.insert(request_id, answer);
        let message = Message::Response { request_id, response: Ok(IndexResponse::Master(followed.clone())) };
        let connection_id = ConnectionId::new_unchecked(1);
        rpc.on_event(request_response::Event::Message { peer, connection_id, message });
        let Ok(IndexResponse::Master(followed)) = answered.try_recv().unwrap() else { panic!() };
        followed.addresses
    };
    assert_eq!(heard(&mut rpc), addresses[1..]);
    here.on_connected(peer);
    assert_eq!(heard(&mut rpc), addresses);
    here.on_closed(&peer);
    assert_eq!(heard(&mut rpc), addresses[1..]);
}
