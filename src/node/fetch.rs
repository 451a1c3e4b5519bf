//! Fetching one content from whoever has it: the scheduler of `state/fetch` decides, the engine asks, and a thread
//! verifies and writes. The engine does not know what becomes of the bytes: a download into a file and readers use it.

mod chunks;
mod consumers;
mod engine;
mod place;
mod reader;
mod sharing;
mod silence;
mod sources;
mod stalled;
mod turns;
mod writer;
mod wrong;

pub(super) use consumers::Fetches;
pub(super) use place::{Got, Target, download};
pub use reader::Reader;
pub(super) use sources::ask;
