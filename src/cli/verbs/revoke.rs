//! `swarmdex revoke`: names that are given up.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output;
use crate::cli::shown::Shown;
use crate::cli::summary::LISTED;
use crate::node::{Api, RevokedInfo};

/// Give names up
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Revoke {
    /// Names that this node shares
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Verb for Revoke {
    const SHOWN: Shown = Shown { verbose: true, ..Shown::RUNNING };

    async fn run(self, context: &Context) -> Result<(), Failure> {
        let revoke = async { Ok(context.running().await?.revoke(self.names).await?) };
        let revoked = interruptible(Rest::GoesOn, revoke).await?;
        print(&revoked, context.output.json, context.output.verbose)
    }
}

/// Prints what became of names that were given up.
fn print(revoked: &[RevokedInfo], json: bool, verbose: bool) -> Result<(), Failure> {
    if json {
        return output::json(&revoked);
    }
    if revoked.len() > LISTED && !verbose {
        let untold = revoked.iter().filter(|name| !name.acknowledged).count();
        let end = if untold > 0 { format!("  (the master will be told of {untold})") } else { String::new() };
        return output::line(&format!("{} names given up{end}", revoked.len()));
    }
    for name in revoked {
        let end = if name.acknowledged { "" } else { "  (the master will be told)" };
        output::line(&format!("{}{end}", name.name))?;
    }
    Ok(())
}
