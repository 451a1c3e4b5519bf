//! `swarmdex unshare`: the end of shares.

use std::path::PathBuf;

use super::{Context, Verb};
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output;
use crate::cli::{Failure, absolute};
use crate::node::{Api, UnsharedInfo};

/// End shares: the names are given up, the files stay
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Unshare {
    /// Files and folders that were shared
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Verb for Unshare {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let unshare = async {
            let client = context.running().await?;
            let paths = self.paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
            Ok(client.unshare(paths).await?)
        };
        print(&interruptible(Rest::GoesOn, unshare).await?, context.output.json)
    }
}

fn print(ended: &[UnsharedInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&ended);
    }
    for UnsharedInfo { path, names, acknowledged } in ended {
        let end = if *acknowledged { "" } else { " (the master will be told)" };
        output::line(&format!("{}  {names} names given up{end}", path.display()))?;
    }
    Ok(())
}
