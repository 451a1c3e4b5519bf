//! Work that can wait gives way where this machine has no time for it.

use std::time::{Duration, Instant};

/// How long a task sleeps to see whether this process gets the processor.
const LOOK: Duration = Duration::from_millis(1);
/// How late it may wake up without consequences.
const TOLERATED: Duration = Duration::from_millis(100);
/// The work waits so many times as long as the process was late.
const TIMES: u32 = 5;
/// The work waits no longer than this.
const MOST: Duration = Duration::from_secs(5);

/// Passes at once where there is time, and waits for a while where there is none: what nodes publish, repeat and
/// compare can wait. Without this a machine, or a network, that has too much to do for a moment never comes to rest.
/// Answers are late, questions are asked again, members are lost and come back, and all that is more to do.
pub(crate) async fn leisure() {
    let begin = Instant::now();
    tokio::time::sleep(LOOK).await;
    let pause = pause(begin.elapsed());
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait when a sleep of [`LOOK`] took so long.
fn pause(took: Duration) -> Duration {
    let late = took.saturating_sub(LOOK);
    if late > TOLERATED { (late * TIMES).min(MOST) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_waits_and_nobody_waits_for_ever() {
        assert_eq!(pause(LOOK), Duration::ZERO);
        assert_eq!(pause(LOOK + TOLERATED), Duration::ZERO);
        assert_eq!(pause(LOOK + TOLERATED * 2), TOLERATED * 2 * TIMES);
        assert_eq!(pause(Duration::from_secs(3600)), MOST);
    }
}
