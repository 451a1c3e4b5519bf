//! How many uploads are under way at a time.
//!
//! Three at first, and eight once as many have left. More while answers leave at once, fewer when they take longer than
//! half a second. The round trip to the peer does not count.

use std::time::Duration;

use super::STUCK;

/// Uploads at a time that a node begins with. Measured with `benches/flash_crowd`: with fewer the link is idle in between; with
/// more, chunks arrive later that others wait for, most of all the first ones, of which nobody has another.
pub(super) const FIRST: usize = 3;
/// Those that it allows before it is choosy.
pub(super) const USUAL: usize = 8;
/// The fewest.
pub(super) const LEAST: usize = 2;
/// Uploads to distant peers at a time that a node begins with.
pub(super) const FIRST_FAR: usize = 16;
/// Uploads that are left for others than distant peers.
pub(super) const NEAR: usize = 4;
/// An upload that took less than this makes room for one more.
pub(super) const QUICK: Duration = Duration::from_millis(20);
/// One that took longer than this makes room for one less, and one in between for one more up to the usual ones.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// Uploads at a time, to distant peers and to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    near: usize,
    far: usize,
    most: usize,
    most_far: usize,
}

impl Slots {
    /// There is memory for `most`, and one peer has at most `most_per_peer`.
    pub(super) fn new(most: usize, most_per_peer: usize) -> Self {
        let most_far = most.saturating_sub(NEAR).max(most_per_peer);
        Self { near: FIRST.min(most), far: FIRST_FAR.min(most), most, most_far }
    }

    /// For peers that are not distant.
    pub(super) fn near(&self) -> usize {
        self.near
    }

    /// For distant peers.
    pub(super) fn far(&self) -> usize {
        self.far
    }

    /// An upload is over that took so long, but for the way.
    pub(super) fn on_finished(&mut self, took: Duration, is_far: bool) {
        let (slots, usual, most) = match is_far {
            true => (&mut self.far, self.most_far, self.most_far),
            false => (&mut self.near, USUAL, self.most),
        };
        if took < QUICK || took < SLOW && *slots < usual {
            *slots = (*slots + 1).min(most);
        } else if took > SLOW && took < STUCK {
            *slots = slots.saturating_sub(1).max(LEAST.min(self.most));
        }
    }
}
