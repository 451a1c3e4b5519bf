//! `swarmdex peers`: the members of the network.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output::{self, Table};
use crate::cli::summary::{note_cut, state_word, unreached};
use crate::node::{Api, PeerInfo};

/// List the members of the network
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Peers {
    /// Most members to print [default: all]; a line on stderr says if there are more
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Verb for Peers {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let list = async { Ok(context.running().await?.some_peers(self.limit.unwrap_or(usize::MAX)).await?) };
        let peers = interruptible(Rest::Nothing, list).await?;
        print(&peers.entries, context.output.json)?;
        note_cut(&peers);
        Ok(())
    }
}

fn print(peers: &[PeerInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&peers);
    }
    let mut table = Table::new(&["PEER", "STATE", "NAMES", "ADDRESS"]);
    for peer in peers {
        let address = peer.addresses.first().map(ToString::to_string).unwrap_or_default();
        let state = format!("{}{}", state_word(peer.state), unreached(peer.reachable));
        table.row(&[&peer.peer_id.to_string(), &state, &peer.names.to_string(), &address]);
    }
    table.print()
}
