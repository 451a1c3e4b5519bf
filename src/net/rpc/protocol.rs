//! The protocols that have one answer to each request.

use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use swarmdex_protocols::{fetch, index, mirror};

use super::access::{Denied, Kind};
use super::codec::{FetchCodec, IndexCodec, MirrorCodec, Received};
use crate::net::hosts::Addressed;

/// A protocol that has one answer to each request.
pub(in crate::net) trait Protocol: 'static {
    /// What a node names to speak it.
    const ID: StreamProtocol;
    /// What serving a request of it is called in the log.
    const WORK: &'static str;
    /// What its requests are for [`Access`](super::access::Access).
    const KIND: Kind;
    /// What is asked.
    type Request: Addressed + Send + 'static;
    /// What is answered.
    type Response: Addressed + Send + 'static;
    /// Its frames.
    type Codec: Codec<Protocol = StreamProtocol, Request = Received<Self::Request>, Response = Received<Self::Response>>
        + Clone
        + Send
        + 'static;

    /// The answer to a request that is not served.
    fn refused(denied: Denied) -> Self::Response;
}

/// Questions to the index, and to owners about their names.
pub(in crate::net) enum IndexProtocol {}

impl Protocol for IndexProtocol {
    const ID: StreamProtocol = StreamProtocol::new("/swarmdex/index/1");
    const WORK: &'static str = "an index request";
    const KIND: Kind = Kind::Index;
    type Request = index::IndexRequest;
    type Response = index::IndexResponse;
    type Codec = IndexCodec;

    fn refused(denied: Denied) -> Self::Response {
        index::IndexResponse::Refused(denied.refusal())
    }
}

/// Records that are stored for others, many at a time.
pub(in crate::net) enum MirrorProtocol {}

impl Protocol for MirrorProtocol {
    const ID: StreamProtocol = StreamProtocol::new("/swarmdex/mirror/1");
    const WORK: &'static str = "a mirror request";
    const KIND: Kind = Kind::Mirror;
    type Request = mirror::MirrorRequest;
    type Response = mirror::MirrorResponse;
    type Codec = MirrorCodec;

    fn refused(denied: Denied) -> Self::Response {
        mirror::MirrorResponse::Refused(denied.refusal())
    }
}

/// Chunks of files.
pub(in crate::net) enum FetchProtocol {}

impl Protocol for FetchProtocol {
    const ID: StreamProtocol = StreamProtocol::new("/swarmdex/fetch/1");
    const WORK: &'static str = "an upload";
    const KIND: Kind = Kind::Fetch;
    type Request = fetch::FetchRequest;
    type Response = fetch::FetchResponse;
    type Codec = FetchCodec;

    fn refused(denied: Denied) -> Self::Response {
        fetch::FetchResponse::refused(denied.fetch_refusal())
    }
}
