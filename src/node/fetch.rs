//! Fetching one content from whoever has it: the scheduler of `state/fetch` decides, the engine asks, and a thread
//! verifies and writes.

mod engine;
mod sharing;
mod silence;
mod sources;
mod stalled;
mod target;
mod turns;
mod writer;
mod wrong;

pub(super) use engine::download;
pub(super) use sources::ask;
pub(super) use target::{Got, Target};
pub(super) use turns::Turns;
