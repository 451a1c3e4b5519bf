//! Flags that say what of shared folders is shared.

use crate::config::Selection;

/// What of shared folders is shared.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sharing")]
pub(super) struct SelectArgs {
    /// Leave out of shared folders what matches, as in .gitignore; may be repeated
    #[arg(long, global = true, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Share hidden files and folders as well
    #[arg(long, global = true)]
    hidden: bool,
    /// Share what .swarmdexignore and the built-in list of secrets and junk leave out as well
    #[arg(long, global = true)]
    no_ignore: bool,
}

impl SelectArgs {
    /// What they say alone.
    pub(super) fn selection(&self) -> Selection {
        let Self { exclude, hidden, no_ignore } = self;
        Selection { exclude: exclude.clone(), hidden: *hidden, no_ignore: *no_ignore }
    }

    /// With what the configuration says.
    pub(super) fn merge(
        &self,
        exclude: Option<Vec<String>>,
        hidden: Option<bool>,
        no_ignore: Option<bool>,
    ) -> Selection {
        let flags = self.selection();
        Selection {
            // Who leaves out more does not mean to leave out less.
            exclude: [exclude.unwrap_or_default(), flags.exclude].concat(),
            hidden: flags.hidden || hidden.unwrap_or_default(),
            no_ignore: flags.no_ignore || no_ignore.unwrap_or_default(),
        }
    }
}
