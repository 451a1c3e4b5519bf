//! `swarmdex identity`: who the node of a data directory is, and a new identity for a copy. Needs no running node.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::output::{self, Table};
use crate::node::{MachineState, new_identity, show_identity};

/// Show or change who the node of a data folder is
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Identity {
    #[command(subcommand)]
    action: Action,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the peer id, and whether the data folder was last used on this machine
    Show,
    /// Make a new identity; shares and settings stay, and the old key is kept beside it
    New {
        /// Also for a master's data folder: every peer has to be told the new master
        #[arg(long)]
        force: bool,
    },
}

impl Verb for Identity {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let config = context.node.config()?;
        match &self.action {
            Action::Show => {
                let identity = show_identity(&config)?;
                if context.output.json {
                    return output::json(&identity);
                }
                let machine = match identity.machine {
                    MachineState::Same => "the one that the data folder was last used on",
                    MachineState::Other => "another than the one that the data folder was last used on",
                    MachineState::Unknown => "not compared: it has no id, or no node ran here yet",
                };
                let mut table = Table::new(&[]);
                table.row(&["peer id", &identity.peer_id.to_string()]);
                table.row(&["data folder", &identity.data_dir.display().to_string()]);
                table.row(&["this machine", machine]);
                table.print()
            }
            Action::New { force } => {
                let renewed = new_identity(&config, *force)?;
                if context.output.json {
                    return output::json(&renewed);
                }
                output::line(&renewed.peer_id.to_string())?;
                match &renewed.old_key {
                    Some(path) => output::line(&format!("the old key is kept in {}", path.display())),
                    None => Ok(()),
                }
            }
        }
    }
}
