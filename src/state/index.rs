//! The index: who holds which name.
//!
//! [`rules`] decide on one name. [`Service`] carries requests out over an [`IndexTable`], whatever keeps it:
//! SQLite in `storage::index`, or maps in `memory` for tests and the simulation.

pub(crate) mod again;
#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod memory;
mod request;
pub(crate) mod rules;
pub(crate) mod service;
mod table;

pub(crate) use request::{WriteOp, WriteOutcome};
pub(crate) use rules::{IndexView, Moment, NameLimits};
pub(crate) use service::{Authority, Correction, Failure, IndexNotice, Service, Slices, corrections};
pub(crate) use table::{Ending, IndexTable, MemberRow, Noted, Row, Totals};
