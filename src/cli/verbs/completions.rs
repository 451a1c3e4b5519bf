//! `swarmdex completions`: what a shell completes.

use clap::CommandFactory;

use super::{Context, Verb, help};
use crate::cli::shown::Shown;
use crate::cli::{Cli, Failure, output};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Verb for Completions {
    const SHOWN: Shown = Shown::NOTHING;

    async fn run(self, _: &Context) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut help::tidy(Cli::command()), "swarmdex", &mut script);
        output::bytes(&script)
    }
}
