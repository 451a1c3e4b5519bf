//! `swarmdex status`: what a node is doing.

use super::{Context, Verb};
use crate::cli::Failure;
use crate::cli::interrupt::{Rest, interruptible};
use crate::cli::output::{self, Table, size};
use crate::node::{AgreementInfo, Api, MasterState, Status as NodeStatus};

/// Show what this node is doing
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Status;

impl Verb for Status {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let ask = async { Ok(context.running().await?.status().await?) };
        print(&interruptible(Rest::Nothing, ask).await?, context.output.json)
    }
}

fn agreement_line(agreement: &AgreementInfo) -> String {
    let AgreementInfo { confirmed_ms, names, repaired, checked } = agreement;
    let ago = output::ago(*confirmed_ms);
    let how = if *checked { "" } else { "; the master is of an earlier build and does not compare" };
    let repairs = if *repaired > 0 { format!("; {repaired} names differed and were put right") } else { String::new() };
    format!("with the master about {names} names, {ago} ago{how}{repairs}")
}

fn print(status: &NodeStatus, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(status);
    }
    let master = match &status.master {
        MasterState::Own => "this node".to_owned(),
        MasterState::Unknown => "none found yet".to_owned(),
        MasterState::Joined { peer_id } => format!("{peer_id}, joined"),
        MasterState::Unreachable { peer_id, since_ms, reason } => {
            let who = peer_id.map(|id| format!("{id}, ")).unwrap_or_default();
            let (since, instead) =
                (output::ago(*since_ms), if status.dht.nodes > 0 { "; the DHT answers" } else { "" });
            format!("{who}unreachable for {since}: {reason}{instead}")
        }
    };
    let shared = &status.shared;
    let mut table = Table::new(&[]);
    table.row(&["role", status.role.as_str()]);
    table.row(&["peer id", &status.peer_id.to_string()]);
    table.row(&["network", &status.network]);
    table.row(&["master", &master]);
    if let Some(twin) = &status.twin {
        table.row(&["twin", twin]);
    }
    for other in &status.other_masters {
        table.row(&[
            "other master",
            &format!("{other}, of a network with the same name: --network NAME tells them apart"),
        ]);
    }
    table.row(&["running for", &output::duration(status.uptime_seconds)]);
    for address in &status.listen {
        table.row(&["listens on", &address.to_string()]);
    }
    table.row(&["connected to", &format!("{} nodes", status.connected)]);
    match status.mdns.as_deref() {
        Some([]) => table.row(&["mdns", "no interface to look on"]),
        Some(interfaces) => table.row(&["mdns", &format!("looks for nodes on {}", interfaces.join(", "))]),
        None => table.row(&["mdns", "off"]),
    }
    match status.reachable {
        Some(true) => table.row(&["reached", "yes, the master could connect to this node"]),
        Some(false) => {
            table.row(&["reached", "no: behind a router or firewall; it connects itself to whoever wants its files"])
        }
        None => {}
    }
    let lost = shared.conflicts + shared.refused;
    let away = if shared.suspended > 0 { format!("; files of {} are away", shared.suspended) } else { String::new() };
    let names = format!(
        "{} names, {}: {} certified, {} unconfirmed, {} claimed, {} waiting, {lost} lost{away}",
        shared.entries,
        size(shared.bytes),
        shared.certified,
        shared.unconfirmed,
        shared.claimed,
        shared.pending
    );
    table.row(&["shares", &names]);
    if let Some(agreement) = &status.agreement {
        table.row(&["agreement", &agreement_line(agreement)]);
    }
    let dht = &status.dht;
    let mirror = format!(
        "{} nodes known, {} names stored; {} of {} own records published, {:.1} copies of each read back{}{}",
        dht.nodes,
        dht.records,
        dht.mirror.published,
        dht.mirror.records,
        dht.mirror.copies,
        if dht.mirror.no_room > 0 { format!(", {} wait for room", dht.mirror.no_room) } else { String::new() },
        if dht.mirror.changing { ", more to come" } else { "" }
    );
    table.row(&["dht", &mirror]);
    table.row(&["downloads", &status.downloads.to_string()]);
    let traffic = format!("{} received, {} sent", size(status.downloaded_bytes), size(status.uploaded_bytes));
    table.row(&["content", &traffic]);
    if let Some(index) = &status.index {
        let index = format!("{} names of {} members, {} of them suspect", index.names, index.peers, index.suspects);
        table.row(&["index", &index]);
    }
    if status.log_lines_lost > 0 {
        table.row(&["log", &format!("{} lines could not be written", status.log_lines_lost)]);
    }
    if !status.failed_tasks.is_empty() {
        table.row(&["failed", &format!("{}; this is a bug, see the log", status.failed_tasks.join(", "))]);
    }
    table.print()
}
