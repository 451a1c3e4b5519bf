//! Requests of this node that wait for an answer: a bounded table from request id to responder.
//!
//! libp2p ends each request by an answer, a failure or a time-out, so every row is removed.

use std::collections::HashMap;
use std::hash::Hash;

use libp2p::request_response::OutboundFailure;
use tokio::sync::oneshot;

use crate::net::error::RequestError;

/// Requests of this node that wait for an answer, of each protocol.
pub(in crate::net) const MAX_REQUESTS: usize = 1024;

/// Waiting responders by request id.
#[derive(Debug)]
pub(in crate::net) struct Pending<Id, Answer> {
    waiting: HashMap<Id, oneshot::Sender<Result<Answer, RequestError>>>,
    limit: usize,
}

impl<Id: Eq + Hash, Answer> Pending<Id, Answer> {
    /// At most `limit` at a time.
    pub(in crate::net) fn new(limit: usize) -> Self {
        Self { waiting: HashMap::new(), limit }
    }

    /// Whether another request may be made.
    pub(in crate::net) fn has_room(&self) -> bool {
        self.waiting.len() < self.limit
    }

    /// Remembers who waits for the answer to `id`.
    pub(in crate::net) fn insert(&mut self, id: Id, answer: oneshot::Sender<Result<Answer, RequestError>>) {
        self.waiting.insert(id, answer);
    }

    /// Who waits for the answer to `id`, if anybody; it is forgotten.
    pub(in crate::net) fn take(&mut self, id: &Id) -> Option<oneshot::Sender<Result<Answer, RequestError>>> {
        self.waiting.remove(id)
    }

    /// Hands the answer on; whoever waited may be gone.
    pub(in crate::net) fn answer(&mut self, id: &Id, result: Result<Answer, RequestError>) {
        if let Some(waiting) = self.take(id) {
            let _ = waiting.send(result);
        }
    }
}

/// What a failure of libp2p means to whoever asked.
pub(in crate::net) fn request_error(failure: &OutboundFailure) -> RequestError {
    match failure {
        OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => RequestError::Disconnected,
        OutboundFailure::Timeout => RequestError::TimedOut,
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported,
        OutboundFailure::Io(error) => RequestError::Stream(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_empties() {
        let mut pending = Pending::<u32, ()>::new(2);
        let (first, mut answered) = oneshot::channel();
        pending.insert(1, first);
        assert!(pending.has_room());
        let (second, _) = oneshot::channel();
        pending.insert(2, second);
        assert!(!pending.has_room());
        pending.answer(&1, Err(RequestError::TimedOut));
        pending.answer(&2, Ok(()));
        pending.answer(&2, Ok(()));
        assert!(pending.has_room() && pending.waiting.is_empty());
        assert_eq!(answered.try_recv().unwrap(), Err(RequestError::TimedOut));
    }
}
