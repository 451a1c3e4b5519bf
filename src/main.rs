//! The `swarmdex` program.

fn main() -> std::process::ExitCode {
    swarmdex::cli::run()
}
