//! What an index is opened with.

use libp2p::identity::Keypair;
use swarmdex_protocols::{Network, Statement};
use tokio::sync::mpsc;

use super::read::ROWS_PER_PAGE;
use crate::clock::unix_ms;
use crate::config::LimitsConfig;
use crate::state::index::NameLimits;
use crate::tasks::Failures;

/// What an index is opened with.
#[derive(Debug, Clone)]
pub(crate) struct IndexOptions {
    pub(super) network: Network,
    pub(super) master: Keypair,
    pub(super) limits: NameLimits,
    pub(super) clock: fn() -> u64,
    pub(super) mirror: Option<mpsc::Sender<Statement>>,
    pub(super) failures: Failures,
    /// Rows that one page of a search looks at.
    pub(super) rows_per_page: usize,
}

impl IndexOptions {
    /// For this network, with certificates signed by this key.
    pub(crate) fn new(network: Network, master: Keypair, limits: &LimitsConfig) -> Self {
        let limits = NameLimits {
            names_per_peer: limits.names_per_peer as u64,
            names_per_ip: limits.names_per_ip as u64,
            names: limits.names as u64,
        };
        let (rows_per_page, failures) = (ROWS_PER_PAGE, Failures::default());
        Self { network, master, limits, clock: unix_ms, mirror: None, failures, rows_per_page }
    }

    /// Hands every statement that the index makes to this queue, after it is on disk. What finds no room there
    /// is left out: owners publish their certificates by themselves, and tombstones are read again.
    pub(crate) fn with_mirror(mut self, mirror: mpsc::Sender<Statement>) -> Self {
        self.mirror = Some(mirror);
        self
    }

    /// Says here if a thread of the index panics: without it nothing is written, or found, any more.
    pub(crate) fn with_failures(mut self, failures: Failures) -> Self {
        self.failures = failures;
        self
    }
}
