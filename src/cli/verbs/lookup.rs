//! `swarmdex lookup`: what the index says of one name.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, with_node};
use crate::cli::output::{self, Table, note, size};
use crate::cli::shown::Shown;
use crate::cli::summary::{state_word, unreached};
use crate::node::{Api, LookupInfo, Source};

/// Show what the index says of one name
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Lookup {
    /// The name
    name: String,
}

impl Verb for Lookup {
    const SHOWN: Shown = Shown::ASKS;

    async fn run(self, context: &Context) -> Result<(), Failure> {
        let lookup = async |api: &dyn Api| Ok(api.lookup(&self.name).await?);
        let found = with_node(&context.node, Rest::Nothing, lookup).await?;
        print(&found, context.output.json)
    }
}

fn print(found: &LookupInfo, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(found);
    }
    let mut table = Table::new(&[]);
    table.row(&["name", found.entry.name.as_str()]);
    table.row(&["content", &found.entry.content.to_string()]);
    table.row(&["size", &format!("{} ({} bytes)", size(found.entry.size), found.entry.size)]);
    table.row(&["owner", &found.entry.owner.to_string()]);
    table.row(&["version", &found.entry.version.0.to_string()]);
    table.row(&["certified", if found.certified { "yes, by the master" } else { "no: claimed by its owner" }]);
    table.row(&["answered by", if found.source == Source::Dht { "the DHT" } else { "the master" }]);
    for other in &found.other_owners {
        table.row(&[
            "also named",
            &format!("{other}: an older certificate; if this stays, two masters run with one key"),
        ]);
    }
    for holder in &found.holders {
        let state = format!("{}{}", state_word(holder.state), unreached(holder.reachable));
        table.row(&["holder", &format!("{} ({state})", holder.peer_id)]);
    }
    table.print()?;
    if found.more_holders {
        note(&format!("only {} holders are listed, and there may be more", found.holders.len()));
    }
    Ok(())
}
