//! `swarmdex search`: names by their words.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, with_node};
use crate::cli::output::{self, Table, note, size};
use crate::cli::shown::Shown;
use crate::cli::summary::there_are_more;
use crate::http::MAX_RESULTS;
use crate::node::{Api, EntryInfo};

/// Find files by words of their names
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Search {
    /// Words in any order, beginnings of words, or globs with *
    words: Vec<String>,
    /// Most entries to print, up to 100000; a line on stderr says if there are more
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

impl Verb for Search {
    const SHOWN: Shown = Shown::ASKS;

    async fn run(self, context: &Context) -> Result<(), Failure> {
        let query = self.words.join(" ");
        let search = async |api: &dyn Api| Ok(api.matching(&query, self.limit).await?);
        let found = with_node(&context.node, Rest::Nothing, search).await?;
        print(&found.entries, context.output.json)?;
        if found.more {
            note(&there_are_more(found.entries.len(), Some(MAX_RESULTS)));
        }
        Ok(())
    }
}

fn print(entries: &[EntryInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&entries);
    }
    let mut table = Table::new(&["NAME", "SIZE", "OWNER"]);
    for entry in entries {
        table.row(&[entry.name.as_str(), &size(entry.size), &entry.owner.to_string()]);
    }
    table.print()
}
