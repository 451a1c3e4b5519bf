//! The `swarmdex` program.

fn main() -> std::process::ExitCode {
    keep_freed_memory();
    outlive_full_files();
    swarmdex::cli::run()
}

/// Has a file that may not grow any more (`ulimit -f`, of a log for one) say so to whoever writes, as a full disk does, in
/// place of ending the process.
fn outlive_full_files() {
    // SAFETY: no other thread runs yet, and the signal gets no handler.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Has glibc keep some MiB that were freed. Buffers of some KiB come and go by the ten thousand in a transfer. By
/// itself it gives their pages back to the system each time and asks for them again. That was a tenth of the processor
/// time of a download, and a sixth of its duration (`benches/transfer`).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const MIB: libc::c_int = 1 << 20;
    for (parameter, bytes) in
        [(libc::M_TRIM_THRESHOLD, 8 * MIB), (libc::M_TOP_PAD, MIB), (libc::M_MMAP_THRESHOLD, 2 * MIB)]
    {
        // SAFETY: no other thread runs yet, and mallopt only takes a number in; what it refuses stays as it was.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(parameter, bytes);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}
