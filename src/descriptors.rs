//! Descriptors: how many the system lets this process have, and who may use how many of them.
//!
//! Each connection takes one, and so does each file. A process without a free one is deaf: it can take in nobody, and
//! open nothing. So the bounds of connections of all kinds come to less than what there is, with a reserve for files.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// For databases, sockets that listen, files that are read for others, hashed or watched, and the standard library's own.
const RESERVE: usize = 256;
/// For one download: its partial file, its journal, the folder.
const OF_DOWNLOAD: usize = 4;
/// Connections on the control socket, at most.
const CONTROL: usize = 512;
/// Connections of the HTTP interface over TCP, at most.
const HTTP: usize = 256;
/// Handshakes of connections from outside, at most.
const HANDSHAKES: usize = 256;
/// Attempts to connect, at most.
const DIALS: usize = 256;
/// Addresses that each attempt may try at a time.
const OF_DIAL: usize = 2;
/// Part of what is there that each kind may take where it is not enough for all.
const PART: usize = 8;
/// What is left to each kind in any case.
const LEAST: usize = 8;
/// More than that is as good as no limit.
const UNLIMITED: usize = 1 << 20;

/// What this process got, once it has asked.
static LIMIT: OnceLock<usize> = OnceLock::new();

/// Raises the limit to what the system allows; what it is then. Once in a process: it is never lowered again.
pub fn raise() -> usize {
    *LIMIT.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        let wish = |current| Rlimit { current, maximum: limit.maximum };
        // Where there is no hard limit the system has one of its own all the same.
        let wishes = [limit.maximum, limit.maximum.map_or(Some(UNLIMITED as u64), |_| None)];
        let _ = wishes
            .into_iter()
            .flatten()
            .filter(|wished| limit.current.is_some_and(|current| current < *wished))
            .try_for_each(|wished| match setrlimit(Resource::Nofile, wish(Some(wished))) {
                Ok(()) => Err(()),
                Err(_) => Ok(()),
            });
        let got = getrlimit(Resource::Nofile).current;
        got.and_then(|got| usize::try_from(got).ok()).unwrap_or(UNLIMITED).min(UNLIMITED)
    })
}

/// Who may use how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What there is.
    pub limit: usize,
    /// Connections of the control interface.
    pub control: usize,
    /// Connections of the HTTP interface over TCP.
    pub http: usize,
    /// Connections from outside that shake hands, of each transport.
    pub handshakes: usize,
    /// Attempts to connect to others.
    pub dials: usize,
    /// Connections with other nodes.
    pub connections: usize,
    /// Those of them from one address.
    pub connections_per_ip: usize,
    /// Small files that are open while they wait for the disk; out of the reserve.
    pub unplaced: usize,
}

impl Plan {
    /// What a node with this configuration may use, given what there is.
    pub fn of(config: &Config) -> Self {
        Self::with(raise(), config)
    }

    fn with(limit: usize, config: &Config) -> Self {
        let reserve = RESERVE + OF_DOWNLOAD * config.fetch.downloads;
        let there = limit.saturating_sub(reserve);
        let http = if config.http.is_some() { HTTP } else { 0 };
        let wanted = [CONTROL, http, HANDSHAKES, OF_DIAL * DIALS, config.limits.connections];
        let wanted = wanted.into_iter().fold(0, usize::saturating_add);
        let part = if wanted <= there { usize::MAX } else { (there / PART).max(LEAST) };
        let (control, http, handshakes, dials) =
            (CONTROL.min(part), http.min(part), HANDSHAKES.min(part), DIALS.min(part / OF_DIAL));
        let rest = there.saturating_sub(control + http + handshakes + OF_DIAL * dials).max(LEAST);
        let connections = config.limits.connections.min(rest);
        // One address must not have all that is left.
        let of_one = if connections < config.limits.connections { (connections / 2).max(1) } else { usize::MAX };
        let connections_per_ip = config.limits.connections_per_ip.min(of_one);
        let unplaced = (RESERVE / 2).min(limit / PART).max(1);
        Self { limit, control, http, handshakes, dials, connections, connections_per_ip, unplaced }
    }

    /// Says so if it is less than what is configured.
    pub fn report(&self, config: &Config) {
        if self.connections < config.limits.connections {
            tracing::warn!(
                limit = self.limit,
                connections = self.connections,
                connections_per_ip = self.connections_per_ip,
                configured = config.limits.connections,
                "this process may open too few files for all connections that are configured: there will be fewer; raise the hard limit (ulimit -Hn, LimitNOFILE= of systemd) or lower [limits] connections"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Role;

    #[test]
    fn all_bounds_together_fit_into_what_there_is_with_a_reserve() {
        let mut config = Config::new(Role::Master, PathBuf::new());
        for http in [None, Some("127.0.0.1:0".parse().unwrap())] {
            config.http = http;
            for limit in [512, 1024, 2048, 3000, 4096, 8192, 1 << 20] {
                let plan = Plan::with(limit, &config);
                let Plan { control, http, handshakes, dials, connections, connections_per_ip, .. } = plan;
                let most = control + http + handshakes + 2 * dials + connections;
                assert!(most + RESERVE + OF_DOWNLOAD * config.fetch.downloads <= limit, "{plan:?}");
                assert!(connections_per_ip <= connections && connections_per_ip > 0 && connections >= 64, "{plan:?}");
                assert_eq!(connections == config.limits.connections, limit >= 4096, "{plan:?}");
            }
        }
        let plan = Plan::with(64, &config);
        assert!(plan.connections == LEAST && plan.control == LEAST, "a node still has a few: {plan:?}");
    }

    #[test]
    fn the_limit_is_raised_to_what_the_system_allows() {
        let got = raise();
        let hard = getrlimit(Resource::Nofile).maximum.map_or(UNLIMITED, |hard| usize::try_from(hard).unwrap());
        assert_eq!(got, hard.min(UNLIMITED));
        assert_eq!(raise(), got);
    }
}
