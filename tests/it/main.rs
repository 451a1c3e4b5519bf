//! Integration tests: real nodes over real sockets, real processes where a crash or the command line is the point.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod agreement;
mod backup;
mod closest;
mod copies;
mod dialing;
mod disks;
mod early;
mod floors;
mod forger;
mod get;
mod harness;
mod holders;
mod hostile;
mod identity;
mod lab;
mod lan;
mod lies;
mod logs;
mod masters;
mod mirror;
mod mishaps;
mod newcomers;
mod nodes;
mod outage;
mod pages;
mod processes;
mod renewals;
mod returning;
mod stranger;
mod transfer;
mod update;
mod watching;
