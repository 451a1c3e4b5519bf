//! Integration tests: real nodes over real sockets, real processes where a crash or the command line is the point.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod floors;
mod harness;
mod hostile;

mod nodes;
mod processes;

mod stranger;
