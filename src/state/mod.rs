//! Pure state machines: rules without network, clock or disk.
//!
//! **Shape.** Events come in by `on_...`, and what is known at once is their return value. Work of several kinds is asked
//! for by `poll_action`, work of one kind by a method with its name (`next`, `next_ranges`, `due`). `poll_timeout` says
//! when there may be more although nothing happens. `handle_timeout` moves on what a deadline changes. All are safe to
//! call when there is nothing to do. Time is an argument; a deadline lives in the record that it is about.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod agreement;
pub mod announce;
pub mod arrivals;
pub mod backoff;
pub mod calls;
pub mod changes;
pub mod check;
pub mod closest;
pub mod fetch;
pub mod find;
pub mod guests;
pub mod hearsay;
pub mod index;
pub mod knocks;
pub mod lease;
pub mod least;
#[cfg(test)]
mod lists;
pub mod lookup;
pub mod lost;
pub mod meetings;
pub mod nearest;
#[cfg(test)]
mod network;
pub mod origins;
pub mod pages;
pub mod precedents;
pub mod publish;
pub mod quota;
pub mod race;
mod random;
pub mod reach;
pub mod records;
pub mod refusals;
pub mod reign;
pub mod reports;
pub mod restless;
pub mod runs;
pub mod settling;
#[cfg(test)]
mod sim;
pub mod unanswered;
pub mod upload;

use std::time::Instant;

/// The time, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time: for leases and time-outs, never affected by a clock that is set.
    pub mono: Instant,
    /// Wall-clock time in milliseconds since 1970: for versions and certificates alone.
    pub unix_ms: u64,
}
