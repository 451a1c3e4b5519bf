//! Copies of what is gone: removed only if it is certain that it is gone, and that nobody changed the copy.
//!
//! A name that is not listed may be one of an owner that is away, or that was just restarted and has not announced it again.
//! So its owner has to be there with another name, nobody may find the name, and the list has to stand still.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt, stream};
use swarmdex_protocols::{Entry, Name, PeerId};

use super::{FILES_AT_A_TIME, Folder, alike};
use crate::node::in_place::Removed;
use crate::node::operation::ControlRequest;
use crate::node::record::Gone;
use crate::node::record::rest_of;
use crate::node::types::{GetReport, KeptFile, MasterState};
use crate::node::{Error, Node, in_place};

/// How long a list has to stand still, and how often that is looked at.
const STILL: Duration = Duration::from_secs(2);
const LOOKS: usize = 10;

const FAILED: &str = "it is gone at its owner's, and stays until all other files could be fetched";
const UNSURE: &str = "it is gone at its owner's as far as can be seen, and the master cannot be asked";
const AWAY: &str = "it is not listed, and neither is anything else of its owner: that may be away";
const MOVING: &str = "it is not listed, and names are still being announced";

impl Node {
    /// Removes copies of what is gone below the prefix.
    pub(super) async fn tidy(
        &self,
        folder: &Folder<'_>,
        listed: BTreeMap<Name, Entry>,
        report: &mut GetReport,
    ) -> Result<(), Error> {
        let names: BTreeSet<Name> = listed.keys().cloned().collect();
        let gone = folder.record.gone(folder.prefix.as_ref(), &names);
        if gone.is_empty() {
            return Ok(());
        }
        let keep = |file: Gone, reason: &str| KeptFile {
            name: file.name,
            path: folder.output.join(&file.rest),
            reason: reason.to_owned(),
        };
        if !report.failed.is_empty() {
            report.kept.extend(gone.into_iter().map(|file| keep(file, FAILED)));
            return Ok(());
        }
        if matches!(*self.inner.questions.master.borrow(), MasterState::Unreachable { .. }) {
            report.kept.extend(gone.into_iter().map(|file| keep(file, UNSURE)));
            return Ok(());
        }
        let Some(names) = self.stand_still(folder, names).await? else {
            report.kept.extend(gone.into_iter().map(|file| keep(file, MOVING)));
            return Ok(());
        };
        let owners: BTreeSet<PeerId> = listed.values().map(|entry| entry.owner).collect();
        let (gone, away): (Vec<_>, Vec<_>) =
            gone.into_iter().filter(|file| !names.contains(&file.name)).partition(|file| owners.contains(&file.owner));
        report.kept.extend(away.into_iter().map(|file| keep(file, AWAY)));
        let looks = stream::iter(gone).map(|file| async move {
            let found = self.inner.questions.lookup(file.name.as_str()).await;
            (file, matches!(found, Err(Error::NotFound { .. })))
        });
        let looked: Vec<_> = looks.buffer_unordered(FILES_AT_A_TIME).collect().await;
        let gone: Vec<_> = looked.into_iter().filter(|(_, gone)| *gone).map(|(file, _)| file).collect();
        let prefix = folder.prefix.as_ref();
        let places: BTreeSet<_> = names.iter().map(|name| rest_of(name, prefix).to_lowercase()).collect();
        let (record, output) = (folder.record.clone(), folder.output.to_owned());
        let removing = tokio::task::spawn_blocking(move || {
            let root = record.folder().unwrap_or(&output);
            // Where capital letters are the same as small ones, one of another name may be one that is there.
            let is_alike = |file: &Gone| places.contains(&file.rest.to_lowercase());
            let apart = !gone.iter().any(is_alike) || alike::tells_letters_apart(root);
            let gone = gone.into_iter().filter(|file| apart || !is_alike(file)).collect();
            let Removed { removed, missing, kept } = in_place::remove(root, &record, gone);
            record.forget(&[removed.as_slice(), missing.as_slice()].concat());
            let place = |path: &std::path::PathBuf| path.strip_prefix(root).map(|rest| output.join(rest)).ok();
            (removed.iter().filter_map(place).collect::<Vec<_>>(), kept)
        });
        let (mut removed, kept) = removing.await.map_err(|_| Error::Bug)?;
        removed.sort();
        report.deleted = removed;
        report.kept.extend(kept.into_iter().map(|file| keep(file, in_place::CHANGED_AND_GONE)));
        Ok(())
    }

    /// The names below the prefix once they are the same for a while; `None` if they go on changing.
    async fn stand_still(
        &self,
        folder: &Folder<'_>,
        mut names: BTreeSet<Name>,
    ) -> Result<Option<BTreeSet<Name>>, Error> {
        for _ in 0..LOOKS {
            let mut requested = folder.control.requested.clone();
            tokio::select! {
                () = tokio::time::sleep(STILL) => {}
                Ok(_) = requested.wait_for(|requested| *requested == ControlRequest::Cancel) => return Err(Error::Cancelled),
            }
            // What was downloaded is there, whether the list can be had again or not.
            let Ok(now) = self.names_below(folder.prefix.as_ref()).await else { return Ok(None) };
            let now: BTreeSet<Name> = now.into_keys().collect();
            if now == names {
                return Ok(Some(names));
            }
            names = now;
        }
        Ok(None)
    }
}
