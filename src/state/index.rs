//! The index: who holds which name.
//!
//! [`rules`] decide on one name. [`Service`] carries requests out over an [`IndexTable`], whatever keeps it:
//! SQLite in `storage::index`, or maps in `memory` for tests and the simulation.

pub mod again;
#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod memory;
mod request;
pub mod rules;
pub mod service;
mod table;

pub use request::{WriteOp, WriteOutcome};
pub use rules::{IndexView, Moment, NameLimits};
pub use service::{Authority, Correction, Failure, IndexNotice, Service, Slices, corrections};
pub use table::{Ending, IndexTable, MemberRow, Noted, Row, Totals};
