//! Pure state machines: rules without network, clock or disk.
//!
//! **Shape.** Events come in by `on_...`, and what is known at once is their return value. Work of several kinds is asked
//! for by `poll_action`, work of one kind by a method with its name (`next`, `next_ranges`, `due`). `poll_timeout` says
//! when there may be more although nothing happens. `handle_timeout` moves on what a deadline changes. All are safe to
//! call when there is nothing to do. Time is an argument; a deadline lives in the record that it is about.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod agreement;
pub(crate) mod announce;
pub(crate) mod arrivals;
pub(crate) mod backoff;
pub(crate) mod calls;
pub(crate) mod changes;
pub(crate) mod check;
pub(crate) mod closest;
pub(crate) mod fetch;
pub(crate) mod find;
pub(crate) mod guests;
pub(crate) mod hearsay;
pub(crate) mod index;
pub(crate) mod knocks;
pub(crate) mod lease;
pub(crate) mod least;
#[cfg(test)]
mod lists;
pub(crate) mod lookup;
pub(crate) mod lost;
pub(crate) mod meetings;
pub(crate) mod nearest;
#[cfg(test)]
mod network;
pub(crate) mod origins;
pub(crate) mod pages;
pub(crate) mod precedents;
pub(crate) mod publish;
pub(crate) mod quota;
pub(crate) mod race;
mod random;
pub(crate) mod reach;
pub(crate) mod records;
pub(crate) mod refusals;
pub(crate) mod reign;
pub(crate) mod reports;
pub(crate) mod restless;
pub(crate) mod runs;
pub(crate) mod settling;
#[cfg(test)]
mod sim;
pub(crate) mod unanswered;
pub(crate) mod upload;

use std::time::Instant;

/// The time, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    /// Monotonic time: for leases and time-outs, never affected by a clock that is set.
    pub mono: Instant,
    /// Wall-clock time in milliseconds since 1970: for versions and certificates alone.
    pub unix_ms: u64,
}
