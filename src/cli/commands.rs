//! The commands that ask a node.

use std::path::PathBuf;

use super::interrupt::{Rest, interruptible, with_node};
use super::output::{self, Bar, Table, note, size};
use super::settings::NodeArgs;
use super::{Command, Failure, OutputArgs, absolute, roots, summary};
use crate::config::ShareOptions;
use crate::http::{Client, Listed, MAX_RESULTS};
use crate::node::{
    AgreementInfo, EntryInfo, ErrorKind, LookupInfo, MasterState, PeerInfo, PeerState, ShareReport, SharedInfo, Source,
    Standing, Status,
};

pub(super) async fn command(command: Command, args: &NodeArgs, output: &OutputArgs) -> Result<(), Failure> {
    let (json, verbose) = (output.json, output.verbose);
    match command {
        Command::Get(get) => super::get::get(args, get, output).await,
        Command::Search { words, limit } => {
            let query = words.join(" ");
            let found =
                with_node(args, Rest::Nothing, async |backend| Ok(backend.search(&query, limit).await?)).await?;
            print_entries(&found.entries, json)?;
            if found.more {
                note(&there_are_more(found.entries.len(), Some(MAX_RESULTS)));
            }
            Ok(())
        }
        Command::Lookup { name } => {
            let found = with_node(args, Rest::Nothing, async |backend| Ok(backend.lookup(&name).await?)).await?;
            print_lookup(&found, json)
        }
        // What was hashed is not hashed again.
        Command::Share { paths, name, rehash } => {
            let options = ShareOptions { selection: args.select.selection(), rehash };
            let share = async { share(&running(args).await?, paths, name, options, output).await };
            interruptible(Rest::GoesOn, share).await
        }
        Command::Unshare { paths } => {
            interruptible(Rest::GoesOn, async { roots::unshare(&running(args).await?, paths, json).await }).await
        }
        Command::Revoke { names } => {
            let revoke = async { Ok(running(args).await?.revoke(names).await?) };
            summary::print_revoked(&interruptible(Rest::GoesOn, revoke).await?, json, verbose)
        }
        Command::Ls { roots: true, .. } => {
            interruptible(Rest::Nothing, async { roots::list(&running(args).await?, json).await }).await
        }
        Command::Ls { roots: false, limit } => {
            let list = async { Ok(running(args).await?.some_shared(limit.unwrap_or(usize::MAX)).await?) };
            let shared = interruptible(Rest::Nothing, list).await?;
            print_shared(&shared.entries, json)?;
            note_cut(&shared);
            Ok(())
        }
        Command::Peers { limit } => {
            let list = async { Ok(running(args).await?.some_peers(limit.unwrap_or(usize::MAX)).await?) };
            let peers = interruptible(Rest::Nothing, list).await?;
            print_peers(&peers.entries, json)?;
            note_cut(&peers);
            Ok(())
        }
        Command::Status => {
            let ask = async { Ok(running(args).await?.status().await?) };
            print_status(&interruptible(Rest::Nothing, ask).await?, json)
        }
        // Dealt with before.
        Command::Run | Command::Demo | Command::Identity { .. } | Command::Completions { .. } => Ok(()),
    }
}

/// Says that a list was cut. `most` is the longest that there is of its kind.
fn there_are_more(listed: usize, most: Option<usize>) -> String {
    let listed = match listed {
        0 => "nothing is listed".to_owned(),
        listed => format!("only {listed} are listed"),
    };
    match most {
        Some(most) => format!("{listed}, and there are more: --limit lists up to {most}, more words find fewer"),
        None => format!("{listed}, and there are more: a higher --limit lists them"),
    }
}

fn note_cut<T>(list: &Listed<T>) {
    if list.more {
        note(&there_are_more(list.entries.len(), None));
    }
}

async fn running(args: &NodeArgs) -> Result<Client, Failure> {
    let data_dir = args.data_dir()?;
    Client::find(&data_dir).await?.ok_or_else(|| Failure::NotRunning { data_dir, flags: args.repeated() })
}

async fn share(
    client: &Client,
    paths: Vec<PathBuf>,
    name: Option<String>,
    options: ShareOptions,
    &OutputArgs { json, verbose, .. }: &OutputArgs,
) -> Result<(), Failure> {
    let paths = paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let mut call = client.share_with(paths.clone(), name, options).await?;
    let mut bar = Bar::new();
    let report: Result<ShareReport, _> = call.follow(|progress| bar.show(&progress)).await;
    bar.finish();
    let report = report?;
    if json {
        output::json(&report)?
    } else {
        let (each, line) = summary::shared(&paths, &report, verbose);
        print_shared(&each, false)?;
        line.map_or(Ok(()), |line| output::line(&line))?
    }
    summary::note_skipped(&report, verbose);
    summary::note_written(&report, verbose);
    if let Some(left_out) = roots::left_out(&report.left_out) {
        note(&format!("left out: {left_out}; --hidden and --no-ignore share such files, too"));
    }
    let pending = report.entries.iter().filter(|entry| entry.standing == Standing::Pending).count();
    let claimed = report.entries.iter().filter(|entry| entry.standing == Standing::Claimed).count();
    if claimed > 0 {
        note(&format!("{claimed} names are claimed: the master cannot be reached, and certifies them when it is back"));
    }
    if pending > 0 {
        note(&format!("{pending} names wait for the master; 'swarmdex status' says how it stands"));
    }
    let lost = |kind| report.entries.iter().any(|entry| standing_kind(&entry.standing) == Some(kind));
    for kind in [ErrorKind::Conflict, ErrorKind::Other] {
        if lost(kind) {
            return Err(Failure::Said(kind));
        }
    }
    if report.skipped.iter().any(|skipped| skipped.failed) {
        return Err(Failure::Said(ErrorKind::Storage));
    }
    Ok(())
}

fn standing_kind(standing: &Standing) -> Option<ErrorKind> {
    match standing {
        Standing::Pending | Standing::Certified | Standing::Unconfirmed | Standing::Claimed => None,
        Standing::Conflict { .. } => Some(ErrorKind::Conflict),
        Standing::Refused { .. } => Some(ErrorKind::Other),
    }
}

fn print_entries(entries: &[EntryInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&entries);
    }
    let mut table = Table::new(&["NAME", "SIZE", "OWNER"]);
    for entry in entries {
        table.row(&[entry.name.as_str(), &size(entry.size), &entry.owner.to_string()]);
    }
    table.print()
}

fn print_lookup(found: &LookupInfo, json: bool) -> Result<(), Failure> {
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

fn print_shared(shared: &[SharedInfo], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&shared);
    }
    let mut table = Table::new(&["NAME", "SIZE", "STATE", "FILE"]);
    for entry in shared {
        let state = match &entry.standing {
            Standing::Pending => "waits for the master".to_owned(),
            Standing::Certified => "certified".to_owned(),
            Standing::Unconfirmed => "unconfirmed: granted, and the master did not say so lately".to_owned(),
            Standing::Claimed => "claimed until the master is back".to_owned(),
            Standing::Conflict { conflict_owner } => format!("belongs to {conflict_owner}"),
            Standing::Refused { reason } => format!("refused: {reason}"),
        };
        let state = if entry.suspended { format!("away, its name is kept: {state}") } else { state };
        table.row(&[entry.entry.name.as_str(), &size(entry.entry.size), &state, &entry.path.display().to_string()]);
    }
    table.print()
}

fn state_word(state: PeerState) -> &'static str {
    match state {
        PeerState::Alive => "alive",
        PeerState::Suspect => "suspect",
    }
}

/// What is added where the master could not connect.
fn unreached(reachable: Option<bool>) -> &'static str {
    if reachable == Some(false) { ", behind a router or firewall" } else { "" }
}

fn print_peers(peers: &[PeerInfo], json: bool) -> Result<(), Failure> {
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

fn agreement_line(agreement: &AgreementInfo) -> String {
    let AgreementInfo { confirmed_ms, names, repaired, checked } = agreement;
    let ago = output::ago(*confirmed_ms);
    let how = if *checked { "" } else { "; the master is of an earlier build and does not compare" };
    let repairs = if *repaired > 0 { format!("; {repaired} names differed and were put right") } else { String::new() };
    format!("with the master about {names} names, {ago} ago{how}{repairs}")
}

fn print_status(status: &Status, json: bool) -> Result<(), Failure> {
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
    table.row(&["role", &format!("{:?}", status.role).to_lowercase()]);
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
