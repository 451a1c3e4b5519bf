//! The swarm: one behaviour, one event loop, one handle to ask it.
//!
//! The loop turns events into calls of the state machines and their results into commands. It never
//! waits for a consumer: answers go out by one-shot channels whose receivers may be gone, work for the
//! disk goes to bounded queues and is refused when they are full.

mod admission;
mod agent;
mod behaviour;
mod calls;
mod command;
mod crowd;
mod dht;
mod dial;
mod discovery;
mod driver;
mod error;
mod fetch;
mod gate;
mod handle;
mod hosts;
mod index;
#[cfg(test)]
mod index_tests;
mod links;
mod listen;
mod mirror;
mod nodes;
mod peers;
mod pings;
mod precedents;
mod probe;
mod queries;
mod racing;
mod refused;
mod renewals;
mod rpc;
mod services;
mod start;
mod stranger;
#[cfg(test)]
mod test_swarms;
mod transport;
mod trips;
mod types;

pub(crate) use crowd::HaveUpdate;
pub(crate) use dht::FoundRecord;
pub(crate) use dht::{PROVIDERS_IN_ANSWER, position_of_key, position_of_peer};
pub(crate) use discovery::mdns_interfaces;
pub(crate) use error::{ConnectError, FetchError, NetError, RequestError};
pub(crate) use handle::Net;
pub(crate) use index::{Master, MemberChange, MemberChanges};
pub(crate) use mirror::{Copies, Differences, Mirror, leisure};
pub(crate) use services::{OwnedNames, Services};
pub(crate) use types::{Came, Identified};
