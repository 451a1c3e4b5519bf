//! Takes the place of the crate of this name, whose timers have a thread of their own. Streams of libp2p have several
//! of them each, as limits that are hardly ever reached. Each woke that thread, which cost 7 % of the processor time of
//! a download by many (`benches/flash_crowd`). Timers of tokio wake nobody before they are due.
//!
//! [`Delay`] is all that the crates which ask for it use. It may be made only where tokio runs, as everything here does.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// What is farther away than anything runs.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A future that is ready after a while.
#[derive(Debug)]
pub struct Delay(Pin<Box<Sleep>>);

impl Delay {
    /// Ready after `duration` from now on.
    ///
    /// # Panics
    /// Outside a runtime of tokio with timers.
    pub fn new(duration: Duration) -> Self {
        Self(Box::pin(sleep(duration)))
    }

    /// Ready after `duration` from now on, whether it was ready before or not.
    pub fn reset(&mut self, duration: Duration) {
        let now = Instant::now();
        self.0.as_mut().reset(now.checked_add(duration).unwrap_or(now + NEVER));
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_ready_in_time_and_again_after_a_reset() {
        let begin = Instant::now();
        let mut delay = Delay::new(5 * SECOND);
        (&mut delay).await;
        assert_eq!(begin.elapsed(), 5 * SECOND);
        delay.reset(2 * SECOND);
        (&mut delay).await;
        assert_eq!(begin.elapsed(), 7 * SECOND);
        delay.reset(Duration::MAX);
        assert!(tokio::time::timeout(1000 * SECOND, delay).await.is_err());
    }
}
