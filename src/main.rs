//! The `swarmdex` program.

fn main() -> std::process::ExitCode {
    keep_freed_memory();
    swarmdex::cli::run()
}

/// Has glibc keep some MiB that were freed. Buffers of some KiB come and go by the ten thousand in a transfer, and by
/// itself it gives their pages back to the system each time and asks for them again: a tenth of the processor time of
/// a download, and a sixth of its duration (`benches/transfer`).
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
