//! The command line: flags to calls of the handle, answers to text or JSON, errors to exit codes.

mod backend;
mod interrupt;
mod output;
mod select;
mod settings;
mod shown;
mod summary;
mod verbs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use interrupt::{Interrupt, Rest};
use settings::{NodeArgs, SettingsError};
use tokio::signal::unix::{SignalKind, signal};
use verbs::{Command, Context};

use crate::http::HttpError;
use crate::log::{self, Format};
use crate::node::{Error, ErrorKind};

/// Share, find and fetch files between machines.
#[derive(Debug, Parser)]
#[command(name = "swarmdex", version, arg_required_else_help = true, args_conflicts_with_subcommands = false)]
#[command(
    after_help = "Without a command, 'run' is meant. Exit codes: 0 done, 1 other failure, 2 usage or configuration, \
    3 not found, 4 name conflict, 5 network unreachable or timed out, 6 content failed verification, 7 local storage."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say it of each file, where there are many
    #[arg(short, long, global = true)]
    verbose: bool,
    /// How logs are written to stderr; SWARMDEX_LOG filters them
    #[arg(long, global = true, value_enum, default_value = "text", env = "SWARMDEX_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// A JSON object a line
    Json,
}

/// What a command fails with.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{}", .0.describe())]
    Node(#[from] Error),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("no node is running in {}; start one with: swarmdex run --role peer{flags}", data_dir.display())]
    NotRunning {
        data_dir: PathBuf,
        /// Flags that led there, as a shell takes them.
        flags: String,
    },
    #[error("{0} is not a path that can be used: {1}")]
    Path(PathBuf, std::io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    #[error("cannot write to {0}: {1}")]
    Write(PathBuf, std::io::Error),
    #[error("{0}")]
    Stream(&'static str),
    #[error("this process cannot run a node: {0}")]
    Runtime(std::io::Error),
    #[error("{0}")]
    Demo(String),
    /// A signal ended it.
    #[error("{1}")]
    Interrupted(Interrupt, Rest),
    /// Everything was said already; only the exit code is left to say.
    #[error("")]
    Said(ErrorKind),
}

impl Failure {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Settings(_) => ErrorKind::Usage,
            Self::Node(error) => error.kind(),
            Self::Http(HttpError::Tcp { .. }) => ErrorKind::Unreachable,
            Self::Http(_) | Self::Path(..) | Self::Write(..) => ErrorKind::Storage,
            Self::Stream(_) => ErrorKind::Usage,
            Self::NotRunning { .. } => ErrorKind::Unreachable,
            Self::Output(_) | Self::Runtime(_) | Self::Demo(_) | Self::Interrupted(..) => ErrorKind::Other,
            Self::Said(kind) => *kind,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted(interrupt, _) => interrupt.exit_code(),
            failure => failure.kind().exit_code(),
        }
    }
}

/// A path that another process understands, which works elsewhere.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::Path(path.to_owned(), error))
}

/// Runs the program with the arguments of this process.
pub fn run() -> ExitCode {
    let mut command = verbs::help::tidy(Cli::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let parse = |matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command));
    let cli = match matches.and_then(parse) {
        Ok(cli) => cli,
        Err(error) => return said(&error),
    };
    let code = end(execute(cli));
    log::flush();
    code
}

/// Prints what the parser has to say: help and version are no errors, and go to stdout.
fn said(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    // An argument may be a name that somebody else chose.
    let plain = output::plain_lines(&text);
    if plain != text {
        log::say(plain.trim_end());
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let printed = error.print().and_then(|()| std::io::stdout().flush());
    match printed {
        Err(failed) if !error.use_stderr() => end(Err(Failure::Output(failed))),
        // The exit code says it to whoever has closed stderr.
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

/// Says what failed; the exit code.
fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            match &failure {
                Failure::Said(_) => {}
                Failure::Settings(_) | Failure::Demo(_) => output::note_lines(&failure.to_string()),
                _ => output::note(&failure.to_string()),
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    let Cli { command, node, output } = cli;
    let format = match output.log_format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let command = command.unwrap_or_default();
    log::to_stderr(format, command.program()).map_err(Failure::Runtime)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(crate::worker_threads())
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    survive_limits(&runtime);
    let context = Context { node, output };
    let result = runtime.block_on(command.run(&context));
    // Threads that wait for a disk do not hold up the end of the program.
    runtime.shutdown_background();
    result
}

/// A file that grows beyond what the user or the service may write is an error of that write, and not the end of the program.
fn survive_limits(runtime: &tokio::runtime::Runtime) {
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    // The handler stays for as long as the program runs.
    if let Err(error) = runtime.block_on(async { signal(kind) }) {
        tracing::debug!(%error, "a file that is too long would end the program");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_well_formed() {
        Cli::command().debug_assert();
        verbs::help::tidy(Cli::command()).debug_assert();
    }

    #[test]
    fn flags_stand_before_or_after_the_command_and_run_may_be_left_out() {
        let parse = |arguments: &[&str]| {
            let matches =
                verbs::help::tidy(Cli::command()).try_get_matches_from([&["swarmdex"], arguments].concat()).unwrap();
            Cli::from_arg_matches(&matches).unwrap()
        };
        assert!(parse(&["--role", "slave", "--no-mdns"]).command.is_none());
        assert!(matches!(parse(&["run", "--role", "master"]).command, Some(Command::Run(_))));
        for arguments in [&["--json", "get", "a", "-o", "b"], &["get", "a", "-o", "b", "--json"]] {
            let cli = parse(arguments);
            assert!(cli.output.json && matches!(cli.command, Some(Command::Get(get)) if !get.recursive));
        }
        for arguments in
            [&["--role", "master", "--http", "off", "-v", "ls"], &["ls", "--role", "master", "--http", "off", "-v"]]
        {
            let cli = parse(arguments);
            assert!(cli.output.verbose && cli.node.repeated().is_empty(), "flags that its help does not show");
        }
    }
}
