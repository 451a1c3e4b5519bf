//! In place of the log, in programs that embed a node: they see to what is traced themselves.

/// Lines that could not be written.
pub(crate) fn lost() -> u64 {
    0
}

/// Whether the log has failed.
pub(crate) fn has_failed() -> bool {
    false
}
