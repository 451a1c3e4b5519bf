//! Memory for chunks on their way, used again and again: fresh memory has to be cleared by the system page by page, which took
//! a tenth of a download's processor time.

use crate::locks::lock;
use std::sync::{Arc, Mutex};

/// Buffers that wait for their next use; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Buffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    kept: usize,
}

impl Buffers {
    /// Keeps at most `kept` buffers that nobody uses.
    pub(crate) fn new(kept: usize) -> Self {
        Self { free: Arc::default(), kept }
    }

    /// A buffer of `length` bytes with anything in them.
    pub(crate) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = lock(&self.free).pop().unwrap_or_default();
        if buffer.len() < length && buffer.capacity() < length {
            // Nothing of the old one is wanted: no bytes need to move.
            return vec![0; length];
        }
        buffer.resize(length, 0);
        buffer
    }

    /// Takes back what is no longer used.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        /// What is smaller costs nothing to make anew, and would be handed out for what is larger.
        const WORTH: usize = 256 << 10;
        if buffer.capacity() >= WORTH {
            let mut free = lock(&self.free);
            if free.len() < self.kept {
                free.push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_bounded() {
        let buffers = Buffers::new(2);
        let first = buffers.take(1 << 20);
        let place = first.as_ptr();
        buffers.give(first);
        let again = buffers.take(300 << 10);
        assert_eq!((again.as_ptr(), again.len()), (place, 300 << 10));
        for _ in 0..5 {
            buffers.give(vec![0; 1 << 20]);
        }
        assert_eq!(buffers.free.lock().unwrap().len(), 2);
        buffers.give(vec![0; 10]);
        assert_eq!(buffers.take(10).len(), 10);
    }
}
