//! Says who is refused, at a bounded rate.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::locks::lock;
use crate::state::refusals::Refusals;

/// Why somebody is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Too many of its address shake hands, or too many do at all.
    Handshakes,
    /// Its address has as many connections as one may have.
    Connections,
    /// There are as many connections as there may be, or memory is short.
    Full,
}

/// Those who were refused, by reason. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(Arc<Mutex<[Refusals; 3]>>);

impl Refused {
    /// One from there is refused.
    pub(super) fn add(&self, reason: Reason, source: IpAddr) {
        let report = {
            // Changed in steps that cannot panic.
            let mut all = lock(&self.0);
            let [handshakes, connections, full] = &mut *all;
            let refusals = match reason {
                Reason::Handshakes => handshakes,
                Reason::Connections => connections,
                Reason::Full => full,
            };
            refusals.add(source);
            refusals.due(Instant::now())
        };
        if let Some(report) = report {
            say(reason, &report.to_string());
        }
    }

    /// Says what has not been said yet.
    pub(super) fn say(&self) {
        let now = Instant::now();
        let reports = {
            let mut all = lock(&self.0);
            let [handshakes, connections, full] = &mut *all;
            [
                (Reason::Handshakes, handshakes.due(now)),
                (Reason::Connections, connections.due(now)),
                (Reason::Full, full.due(now)),
            ]
        };
        for (reason, report) in reports {
            if let Some(report) = report {
                say(reason, &report.to_string());
            }
        }
    }
}

fn say(reason: Reason, from: &str) {
    match reason {
        Reason::Handshakes => tracing::warn!(from, "too many begin to connect and do not get on; others are let in"),
        Reason::Connections => tracing::warn!(
            from,
            "too many connections from one address: more are refused, others are let in; [limits] connections_per_ip"
        ),
        Reason::Full => tracing::warn!(
            from,
            "connections are refused: there are as many as there may be ([limits] connections), or memory is short ([limits] memory_mib)"
        ),
    }
}
