//! The `swarmdex` program.

fn main() -> std::process::ExitCode {
    // It is as good without, and somewhat slower.
    swarmdex::tune();
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
