//! Access: whether a request of another node is served at all.
//!
//! Each request that comes to the loop passes here once, with who asks and what kind it is, before anything is done about it. What
//! does not come to the loop does not pass: renewals that are answered on the task of their connection (`net::renewals`). Who may
//! connect is decided elsewhere: see `net::gate` for sockets and handshakes, `net::admission` for connections.

use std::time::Instant;

use swarmdex_protocols::{PeerId, fetch, index};

/// What kind a request is.
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
}

/// Why a request is not served. Nobody is refused so far. Whoever adds a reason gives it a sentence for the log, and an answer in
/// each of the two methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::net) enum Denied {}

impl Denied {
    /// The answer to requests of index and mirror, and to renewals. A record of Kademlia's has none: it is not stored.
    pub(in crate::net) fn refusal(self) -> index::Refusal {
        match self {}
    }

    /// The answer to requests for chunks, a number alone.
    pub(in crate::net) fn fetch_refusal(self) -> fetch::FetchRefusal {
        match self {}
    }
}

/// Who may ask for what.
#[derive(Debug, Default)]
pub(in crate::net) struct Access {}

impl Access {
    /// Whether this request is served; asked once for each.
    pub(in crate::net) fn check(&mut self, _peer: &PeerId, _kind: Kind, _now: Instant) -> Result<(), Denied> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_admitted() {
        let (mut access, now) = (Access::default(), Instant::now());
        for kind in [Kind::Index, Kind::Renewal, Kind::Mirror, Kind::Fetch, Kind::Record] {
            assert_eq!(access.check(&PeerId::random(), kind, now), Ok(()));
        }
    }
}
