//! One connection's part: the stream on which this node asks, and the one on which it is asked.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures::future::BoxFuture;
use futures::{AsyncWriteExt, FutureExt};
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, StreamUpgradeError,
};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, SubstreamProtocol};
use libp2p::{PeerId, StreamProtocol};
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::index::{IndexRequest, IndexResponse};
use swarmdex_protocols::limits::MAX_RENEW_MESSAGE;

use super::{RENEW_PROTOCOL, StandingAnswer, Unanswered};
use crate::net::error::RequestError;
use crate::net::rpc::access::{Access, Kind};
use crate::net::rpc::codec::{Received, read_message, send_message};

/// What the behaviour says to a connection.
pub(in crate::net) enum Say {
    /// Ask this.
    Ask(IndexRequest),
    /// Answer the question of this number, and later ones by the standing.
    Answer(u64, IndexResponse, Option<StandingAnswer>),
}

impl fmt::Debug for Say {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(request) => formatter.debug_tuple("Ask").field(request).finish(),
            Self::Answer(question, response, _) => {
                formatter.debug_tuple("Answer").field(question).field(response).finish()
            }
        }
    }
}

/// What a connection tells the behaviour.
#[derive(Debug)]
pub(in crate::net) enum HandlerEvent {
    /// A question, with its number.
    Asked(u64, Received<IndexRequest>),
    /// What came of a question of this node.
    Answered(Result<IndexResponse, Unanswered>),
}

type Asking = BoxFuture<'static, Result<(Stream, IndexResponse), Unanswered>>;

/// The stream on which this node asks.
enum OutboundStream {
    /// None yet, or none any more.
    None,
    /// It is asked for, for this question.
    Opening(IndexRequest),
    Idle(Stream),
    Asking(Asking),
    /// The other side does not know the protocol.
    Unsupported,
}

/// The stream on which this node is asked.
enum InboundStream {
    None,
    /// The next question is awaited.
    Reading(BoxFuture<'static, io::Result<(Stream, Received<IndexRequest>)>>),
    /// The behaviour has the question; whether another may follow.
    Answering(Stream, bool),
    /// An answer is on its way; after a question that was none, the stream is given up.
    Writing(BoxFuture<'static, io::Result<Option<Stream>>>),
}

/// The streams of one connection: at most one each way.
pub(in crate::net) struct RenewalHandler {
    peer: PeerId,
    access: Access,
    timeout: Duration,
    outbound: OutboundStream,
    inbound: InboundStream,
    /// What answers without the behaviour, if it can.
    standing: Option<StandingAnswer>,
    /// Questions that came in, so that an answer that is overtaken by a new stream is not taken for another's.
    questions: u64,
    /// A stream is to be asked for.
    opens: bool,
    /// A question that has no answer.
    unanswered: Option<Unanswered>,
}

impl RenewalHandler {
    /// `timeout` is for each question, the opening of the stream included.
    pub(super) fn new(timeout: Duration, peer: PeerId, access: &Access) -> Self {
        Self {
            peer,
            access: access.clone(),
            timeout,
            outbound: OutboundStream::None,
            inbound: InboundStream::None,
            standing: None,
            questions: 0,
            opens: false,
            unanswered: None,
        }
    }

    fn ask(&mut self, request: IndexRequest) {
        self.outbound = match std::mem::replace(&mut self.outbound, OutboundStream::None) {
            OutboundStream::Idle(stream) => OutboundStream::Asking(ask(stream, false, request, self.timeout).boxed()),
            OutboundStream::None => {
                self.opens = true;
                OutboundStream::Opening(request)
            }
            OutboundStream::Unsupported => {
                self.unanswered = Some(Unanswered::Unsupported(request));
                OutboundStream::Unsupported
            }
            // The behaviour asks one question at a time.
            busy @ (OutboundStream::Opening(_) | OutboundStream::Asking(_)) => busy,
        };
    }

    fn on_no_stream(&mut self, error: StreamUpgradeError<std::convert::Infallible>) {
        let OutboundStream::Opening(request) = std::mem::replace(&mut self.outbound, OutboundStream::None) else {
            return;
        };
        self.unanswered = Some(match error {
            StreamUpgradeError::NegotiationFailed => {
                self.outbound = OutboundStream::Unsupported;
                Unanswered::Unsupported(request)
            }
            StreamUpgradeError::Timeout => Unanswered::Failed(RequestError::TimedOut),
            StreamUpgradeError::Io(error) => Unanswered::Failed(RequestError::Stream(error.to_string())),
            StreamUpgradeError::Apply(never) => match never {},
        });
    }

    fn poll_outbound(&mut self, context: &mut Context<'_>) -> Option<HandlerEvent> {
        if let Some(unanswered) = self.unanswered.take() {
            return Some(HandlerEvent::Answered(Err(unanswered)));
        }
        let OutboundStream::Asking(asking) = &mut self.outbound else { return None };
        let Poll::Ready(asked) = asking.poll_unpin(context) else { return None };
        Some(HandlerEvent::Answered(match asked {
            Ok((stream, response)) => {
                self.outbound = OutboundStream::Idle(stream);
                Ok(response)
            }
            Err(unanswered) => {
                // The next question gets a new stream.
                let unsupported = matches!(unanswered, Unanswered::Unsupported(_));
                self.outbound = if unsupported { OutboundStream::Unsupported } else { OutboundStream::None };
                Err(unanswered)
            }
        }))
    }

    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Option<HandlerEvent> {
        loop {
            match &mut self.inbound {
                InboundStream::None | InboundStream::Answering(..) => return None,
                InboundStream::Writing(writing) => {
                    let Poll::Ready(written) = writing.poll_unpin(context) else { return None };
                    self.inbound = written.ok().flatten().map_or(InboundStream::None, reading);
                }
                InboundStream::Reading(read) => {
                    let Poll::Ready(read) = read.poll_unpin(context) else { return None };
                    // An end between two questions, or a connection that broke: nobody waits for an answer.
                    let (stream, request) = match read {
                        Ok((_, Err(DecodeError::Truncated))) | Err(_) => {
                            self.inbound = InboundStream::None;
                            return None;
                        }
                        Ok(read) => read,
                    };
                    if let Err(denied) = self.access.check(&self.peer, Kind::Renewal, Instant::now()) {
                        tracing::debug!(peer = %self.peer, %denied, "a renewal is refused");
                        let refused = IndexResponse::Refused(denied.refusal());
                        self.inbound = InboundStream::Writing(answer(stream, refused, request.is_ok()).boxed());
                        continue;
                    }
                    let standing = self.standing.as_ref().zip(request.as_ref().ok());
                    if let Some(response) = standing.and_then(|(standing, request)| standing(request)) {
                        self.inbound = InboundStream::Writing(answer(stream, response, true).boxed());
                        continue;
                    }
                    self.inbound = InboundStream::Answering(stream, request.is_ok());
                    self.questions += 1;
                    return Some(HandlerEvent::Asked(self.questions, request));
                }
            }
        }
    }
}

/// Waits for the next question.
fn reading(mut stream: Stream) -> InboundStream {
    let read = async move {
        let request = read_message(&mut stream, MAX_RENEW_MESSAGE).await?;
        Ok((stream, request))
    };
    InboundStream::Reading(read.boxed())
}

async fn ask(
    mut stream: Stream,
    first: bool,
    request: IndexRequest,
    timeout: Duration,
) -> Result<(Stream, IndexResponse), Unanswered> {
    let asked = async {
        send_message(&mut stream, &request, MAX_RENEW_MESSAGE).await?;
        read_message(&mut stream, MAX_RENEW_MESSAGE).await
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(Ok(response))) => Ok((stream, response)),
        Ok(Ok(Err(error))) => Err(Unanswered::Failed(RequestError::Malformed(error))),
        // The name of the protocol goes out with the first question: that it is unknown shows only now, and like any
        // other error of the stream.
        Ok(Err(_)) if first => Err(Unanswered::Unsupported(request)),
        Ok(Err(error)) => Err(Unanswered::Failed(RequestError::Stream(error.to_string()))),
        Err(_) => Err(Unanswered::Failed(RequestError::TimedOut)),
    }
}

async fn answer(mut stream: Stream, response: IndexResponse, more: bool) -> io::Result<Option<Stream>> {
    send_message(&mut stream, &response, MAX_RENEW_MESSAGE).await?;
    if more {
        return Ok(Some(stream));
    }
    // In order, or the answer would be thrown away with the stream.
    stream.close().await?;
    Ok(None)
}

impl ConnectionHandler for RenewalHandler {
    type FromBehaviour = Say;
    type ToBehaviour = HandlerEvent;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(RENEW_PROTOCOL), ())
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if std::mem::take(&mut self.opens) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(RENEW_PROTOCOL), ()).with_timeout(self.timeout);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        match self.poll_outbound(context).or_else(|| self.poll_inbound(context)) {
            Some(heard) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(heard)),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, say: Say) {
        match say {
            Say::Ask(request) => self.ask(request),
            Say::Answer(question, response, standing) if question == self.questions => {
                self.standing = standing;
                self.inbound = match std::mem::replace(&mut self.inbound, InboundStream::None) {
                    InboundStream::Answering(stream, more) => {
                        InboundStream::Writing(answer(stream, response, more).boxed())
                    }
                    other => other,
                };
            }
            // Whoever asked has given up that stream.
            Say::Answer(..) => {}
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            // One that asks anew has given up the stream from before.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: mut stream, .. }) => {
                stream.ignore_for_keep_alive();
                self.inbound = reading(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: mut stream, .. }) => {
                stream.ignore_for_keep_alive();
                self.outbound = match std::mem::replace(&mut self.outbound, OutboundStream::None) {
                    OutboundStream::Opening(request) => {
                        OutboundStream::Asking(ask(stream, true, request, self.timeout).boxed())
                    }
                    other => other,
                };
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => self.on_no_stream(error),
            _ => {}
        }
    }
}
