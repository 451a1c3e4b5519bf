//! Clocks of the machine: the wall clock for what is signed and shown, the monotonic one for waiting.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock in milliseconds since 1970: for versions, dates of statements, and people. 0 before 1970.
pub(crate) fn unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until a moment that may never come: for ever if there is none. Cancel safe.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
