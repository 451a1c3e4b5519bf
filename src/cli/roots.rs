//! `swarmdex ls --roots` and `swarmdex unshare`.

use std::path::PathBuf;

use super::output::{self, Table, size};
use super::{Failure, absolute};
use crate::config::Origin;
use crate::http::Client;
use crate::node::{LeftOut, RootInfo, RootPresence, UnsharedInfo};

/// Lists the shared files and folders.
pub(super) async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let roots = client.roots().await?;
    if json {
        return output::json(&roots);
    }
    let mut table = Table::new(&["ROOT", "FROM", "NAMES", "SIZE", "STATE", "LEFT OUT"]);
    for root in &roots {
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

/// How much is left out, for people; `None` for nothing.
pub(super) fn left_out(left_out: &LeftOut) -> Option<String> {
    let parts = left_out.parts();
    let parts: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Ends shares.
pub(super) async fn unshare(client: &Client, paths: Vec<PathBuf>, json: bool) -> Result<(), Failure> {
    let paths = paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let ended = client.unshare(paths).await?;
    if json {
        return output::json(&ended);
    }
    for UnsharedInfo { path, names, acknowledged } in &ended {
        let end = if *acknowledged { "" } else { " (the master will be told)" };
        output::line(&format!("{}  {names} names given up{end}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_in_words() {
        assert_eq!(left_out(&LeftOut::default()), None);
        let some = LeftOut { secrets: 2, hidden: 1, ..LeftOut::default() };
        assert_eq!(left_out(&some).unwrap(), "2 that may hold secrets, 1 hidden");
    }
}
