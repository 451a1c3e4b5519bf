//! Locks whose holders do not panic half-way, or leave nothing torn when they do.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. What a holder that panicked left is taken as it is: such tables are changed in steps that are whole by themselves.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
