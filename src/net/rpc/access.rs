//! Access: whether a request of another node is served at all.
//!
//! Each request passes here once, with who asks and what kind it is, before anything is done about it. So does each stream of a
//! protocol that libp2p serves by itself (`net::rpc::streams`). Who may connect is decided elsewhere: see `net::gate` for sockets and
//! handshakes, `net::admission` for connections.

use std::time::Instant;

use swarmdex_protocols::{PeerId, fetch, index};

/// What kind a request or a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::net) enum Kind {
    /// Of the index protocol.
    Index,
    /// A renewal, on the stream that is for renewals alone.
    Renewal,
    /// Of the mirror protocol.
    Mirror,
    /// Of the fetch protocol.
    Fetch,
    /// A record of Kademlia's that is to be stored here.
    Record,
    /// A stream of Kademlia's, whatever is asked on it.
    Kademlia,
    /// A stream on which the other side says, or asks, who a node is.
    Identify,
    /// A stream of pings.
    Ping,
}

/// Why a request is not served. Nobody is refused so far, but by tests. Whoever adds a reason gives it a sentence for the log, and an
/// answer in each of the two methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::net) enum Denied {
    /// A test refuses requests of this kind.
    #[cfg(test)]
    #[error("a test refuses it")]
    ByTest,
}

impl Denied {
    /// The answer to requests of index and mirror, and to renewals. A record of Kademlia's has none: it is not stored.
    pub(in crate::net) fn refusal(self) -> index::Refusal {
        match self {
            #[cfg(test)]
            Self::ByTest => index::Refusal::new(index::RefusalCode::Busy, "a test refuses it"),
        }
    }

    /// The answer to requests for chunks, a number alone.
    pub(in crate::net) fn fetch_refusal(self) -> fetch::FetchRefusal {
        match self {
            #[cfg(test)]
            Self::ByTest => fetch::FetchRefusal::Busy,
        }
    }
}

/// Who may ask for what. Clones are handles to the same one: the loop has one, and so has the task of each connection.
#[derive(Debug, Clone, Default)]
pub(in crate::net) struct Access {
    #[cfg(test)]
    denied: std::sync::Arc<std::sync::Mutex<std::collections::BTreeSet<Kind>>>,
}

impl Access {
    /// Whether this request or stream is served; asked once for each.
    pub(in crate::net) fn check(&self, _peer: &PeerId, _kind: Kind, _now: Instant) -> Result<(), Denied> {
        #[cfg(test)]
        if crate::locks::lock(&self.denied).contains(&_kind) {
            return Err(Denied::ByTest);
        }
        Ok(())
    }

    /// From now on requests of this kind are refused.
    #[cfg(test)]
    pub(in crate::net) fn deny(&self, kind: Kind) {
        crate::locks::lock(&self.denied).insert(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_admitted() {
        let (access, now) = (Access::default(), Instant::now());
        let kinds = [
            Kind::Index,
            Kind::Renewal,
            Kind::Mirror,
            Kind::Fetch,
            Kind::Record,
            Kind::Kademlia,
            Kind::Identify,
            Kind::Ping,
        ];
        for kind in kinds {
            assert_eq!(access.check(&PeerId::random(), kind, now), Ok(()));
        }
        access.clone().deny(Kind::Fetch);
        assert_eq!(access.check(&PeerId::random(), Kind::Fetch, now), Err(Denied::ByTest));
    }
}
