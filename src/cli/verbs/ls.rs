//! `swarmdex ls`: what a node shares, or with `--roots` the files and folders that it was told to share.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output::{self, Table, size};
use crate::cli::summary::{left_out, note_cut, print_shared};
use crate::config::Origin;
use crate::node::{Api, RootInfo, RootPresence};

/// List what this node shares
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Ls {
    /// List the shared files and folders instead, where each came from, and what is left out of it
    #[arg(long)]
    roots: bool,
    /// Most names to print [default: all]; a line on stderr says if there are more
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Verb for Ls {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let json = context.output.json;
        if self.roots {
            let list = async { Ok(context.running().await?.roots().await?) };
            return print_roots(&interruptible(Rest::Nothing, list).await?, json);
        }
        let list = async { Ok(context.running().await?.some_shared(self.limit.unwrap_or(usize::MAX)).await?) };
        let shared = interruptible(Rest::Nothing, list).await?;
        print_shared(&shared.entries, json)?;
        note_cut(&shared);
        Ok(())
    }
}

/// Lists the shared files and folders.
fn print_roots(roots: &[RootInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&roots);
    }
    let mut table = Table::new(&["ROOT", "FROM", "NAMES", "SIZE", "STATE", "LEFT OUT"]);
    for root in roots {
        let from: Vec<_> = root.from.iter().map(|origin| origin_word(*origin)).collect();
        let (names, bytes) = (root.names.to_string(), size(root.bytes));
        let left_out = left_out(&root.left_out).unwrap_or_else(|| "nothing".to_owned());
        let path = root.path.display().to_string();
        table.row(&[&path, &from.join(", "), &names, &bytes, &state(root), &left_out]);
    }
    table.print()
}

fn origin_word(origin: Origin) -> &'static str {
    match origin {
        Origin::Command => "share",
        Origin::Flag => "flag",
        Origin::Configuration => "configuration",
        Origin::Earlier => "an earlier build",
    }
}

fn state(root: &RootInfo) -> String {
    match &root.presence {
        RootPresence::Shared => "shared".to_owned(),
        RootPresence::Away { reason } => format!("away, names kept: {reason}"),
        RootPresence::Waiting => "waits until it is there".to_owned(),
        RootPresence::Unshared => "unshared by hand".to_owned(),
    }
}
