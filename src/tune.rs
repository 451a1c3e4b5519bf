//! Settings of the process that make a node faster, for programs to choose.

use std::num::NonZeroUsize;

/// Has glibc keep some MiB that were freed. Buffers of some KiB come and go by the ten thousand in a transfer. By itself
/// glibc gives their pages back to the system each time, and asks for them again. That took a tenth of the processor time
/// of a download, and a sixth of its duration (`benches/transfer`).
///
/// To be called first in `main`: once other threads run, nothing is changed. Whether it was changed; it never is with other
/// allocators than glibc's.
pub fn tune() -> bool {
    is_alone() && keep_freed_memory()
}

/// Threads that a runtime should have for a node: those that wait on the network. Files, hashes and SQLite have threads of their
/// own, and more threads that share the rest wake each other more often. It is half the number of processors, rounded up, and 1 at
/// least. With one instead of two on two processors a download was 6 % faster (`benches/loopback`). It took 9 % less processor time of
/// both sides.
pub fn worker_threads() -> usize {
    of_processors(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

fn of_processors(processors: usize) -> usize {
    processors.div_ceil(2)
}

/// Whether this is the only thread of the process.
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.take(2).count() == 1)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() -> bool {
    const MIB: libc::c_int = 1 << 20;
    let settings = [(libc::M_TRIM_THRESHOLD, 8 * MIB), (libc::M_TOP_PAD, MIB), (libc::M_MMAP_THRESHOLD, 2 * MIB)];
    let mut all = true;
    for (parameter, bytes) in settings {
        // SAFETY: no other thread runs yet, and mallopt only takes a number in; what it refuses stays as it was.
        #[allow(unsafe_code)]
        let taken = unsafe { libc::mallopt(parameter, bytes) };
        all &= taken == 1;
    }
    all
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_thread_for_the_network() {
        assert_eq!([1, 2, 3, 16].map(of_processors), [1, 1, 2, 8]);
        assert!(worker_threads() > 0);
    }

    #[test]
    fn nothing_is_changed_while_other_threads_run() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || held.recv());
        assert!(!tune());
        drop(hold);
        other.join().unwrap().unwrap_err();
    }
}
