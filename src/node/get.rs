//! From a name, or a prefix of names, to files in place.

mod alike;
mod hints;
pub(super) mod report;
mod tidy;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::{StreamExt, stream};
use swarmdex_protocols::limits::MAX_QUERY_BYTES;
use swarmdex_protocols::{Entry, Name, PeerId};
use tokio::sync::watch;

use super::answer::Checked;
use super::error::shorten;
use super::fetch::{self, Got, Target};
use super::lookup::parse_name;
use super::operation::{Control, ControlRequest};
use super::patience::{Patience, away, is_away, say};
use super::record::{self, Record, rest_of};
use super::small::{Place, Small, by_owner};
use super::types::{GetOptions, GetReport, GetRequest, GotFile, Progress};
use super::{Error, Node, in_place};
use crate::storage::copies::Copy;
use crate::storage::hash::FileStamp;
use crate::storage::partial::{Placing, make_parents, output_path, sync_made};

/// Files of one recursive download that are fetched at a time.
const FILES_AT_A_TIME: usize = 8;
/// Most names in one recursive download: bounds the list that is kept.
const MAX_FILES: usize = 1_000_000;

/// A recursive download.
struct Folder<'a> {
    prefix: Option<Name>,
    output: &'a Path,
    options: Arc<GetOptions>,
    record: Arc<Record>,
    patience: Patience,
    control: &'a Control,
}

impl Node {
    pub(super) async fn get_files(
        self,
        request: GetRequest,
        options: GetOptions,
        control: Control,
    ) -> Result<GetReport, Error> {
        let inner = self.inner.clone();
        let unsynced = !options.syncs(&inner.config.fetch) && !options.fleeting;
        let output = request.output.clone();
        let report = self.get_all(request, options, control).await;
        if unsynced {
            record::settle_later(&inner.config, output);
        }
        report
    }

    async fn get_all(self, request: GetRequest, options: GetOptions, control: Control) -> Result<GetReport, Error> {
        let lease = self.inner.standings.lease().max(self.inner.config.lease.lease);
        let patience = Patience::new(&options, lease);
        if request.recursive {
            return self.get_below(request, options, patience, control).await;
        }
        let begin = Instant::now();
        let found = self.find(&request.name, &patience, &control).await?;
        control.progress.send_modify(|progress| {
            progress.total_bytes = found.entry.size;
            progress.total_files = 1;
            progress.current = found.entry.name.to_string();
        });
        let (output, name) = (request.output, found.entry.name.clone());
        let place = tokio::task::spawn_blocking(move || single_place(&output, &name));
        let (path, made) = place.await.map_err(|_| Error::Bug)??;
        let got = self.get_single(found, &path, &options, &patience, begin, &control).await;
        let (is_there, syncs) = (got.is_ok(), options.syncs(&self.inner.config.fetch));
        let tidying = tokio::task::spawn_blocking(move || match is_there {
            true if syncs => sync_made(&made),
            true => Ok(()),
            false => {
                // Unless something else is in them: what has come so far, say.
                made.iter().rev().for_each(|path| drop(std::fs::remove_dir(path)));
                Ok(())
            }
        });
        tidying.await.map_err(|_| Error::Bug)??;
        Ok(GetReport { files: vec![got?], ..GetReport::default() })
    }

    /// Looks a name up; what nobody has yet is waited for if the user wants it.
    async fn find(&self, name: &str, patience: &Patience, control: &Control) -> Result<Checked, Error> {
        loop {
            let error = match self.inner.questions.lookup(name).await {
                Ok(found) => {
                    say(control, None);
                    patience.on_found();
                    return Ok(found);
                }
                Err(error) => error,
            };
            if let (Error::Name { .. }, Some(folder)) = (&error, name.strip_suffix('/')) {
                return Err(self.explain_folder(folder, error).await);
            }
            let what = match &error {
                Error::NotFound { name } => format!("nobody has {name:?} yet"),
                error => error.describe(),
            };
            self.wait_for(error, &what, patience, control).await?;
        }
    }

    /// One file by itself. With `update` one that is there is left or replaced, as in a folder.
    async fn get_single(
        &self,
        found: Checked,
        path: &Path,
        options: &GetOptions,
        patience: &Patience,
        begin: Instant,
        control: &Control,
    ) -> Result<GotFile, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let rest = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let (Some(rest), false) = (rest, options.fleeting) else {
            // What is not remembered is not replaced, either, and what is taken away at once need not be on disk.
            let sync = !options.fleeting;
            return self
                .fetch(found, path.to_owned(), None, sync, options, patience, begin, control)
                .await
                .map(|got| got.0);
        };
        let record = self.record(folder, Some(rest.clone()), options.update, options).await?;
        let mut file = Small { entry: found.entry.clone(), rest: rest.clone(), over: None };
        if options.update {
            let network = &self.inner.config.network;
            let looked = in_place::split(vec![file.clone()], folder, &record, options, network, control).await?;
            record::remember(&record, looked.news).await;
            if let Some(there) = looked.there.into_iter().next() {
                return Ok(there);
            }
            if let Some(kept) = looked.kept.into_iter().next() {
                return Err(Error::Kept { path: kept.path, reason: kept.reason });
            }
            file = looked.missing.into_iter().next().unwrap_or(file);
            record::remember(&record, before(&record, std::slice::from_ref(&file))).await;
        }
        record::expect(&record, [record.expected_of(&file.entry, &rest, options)]).await;
        let sync = record.syncs();
        let result = self.fetch(found, path.to_owned(), file.over, sync, options, patience, begin, control).await;
        if let Ok((_, stamp)) = &result {
            record::ended(&record, record.copy(&file.entry, &rest, *stamp)).await;
        }
        record::give_up(&record).await;
        result.map(|(file, _)| file)
    }

    async fn record(
        &self,
        folder: &Path,
        only: Option<String>,
        makes: bool,
        options: &GetOptions,
    ) -> Result<Arc<Record>, Error> {
        let (config, folder) = (self.inner.config.clone(), folder.to_owned());
        let syncs = options.syncs(&config.fetch);
        let begin = move || Record::begin(&config, &folder, only.as_deref(), makes, syncs);
        let opening = tokio::task::spawn_blocking(begin);
        Ok(Arc::new(opening.await.map_err(|_| Error::Bug)?))
    }

    /// Downloads every name below a prefix; a file that fails is reported, and the others go on.
    async fn get_below(
        &self,
        request: GetRequest,
        options: GetOptions,
        patience: Patience,
        control: Control,
    ) -> Result<GetReport, Error> {
        let prefix = match request.name.as_str() {
            "" | "/" | "." => None,
            text => Some(parse_name(text.strip_suffix('/').unwrap_or(text))?),
        };
        let names = self.find_below(&request.name, prefix.as_ref(), &patience, &control).await?;
        for entry in names.values() {
            add_total(&control.progress, entry.size);
        }
        let output = request.output;
        let (making, syncs) = (output.clone(), options.syncs(&self.inner.config.fetch));
        // Where it cannot be made, each file says so.
        let make =
            move || make_parents(&making.join("file")).and_then(|made| if syncs { sync_made(&made) } else { Ok(()) });
        let _ = tokio::task::spawn_blocking(make).await;
        let record = self.record(&output, None, true, &options).await?;
        let (top, below) = (output.clone(), prefix.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let alike = alike::find(&top, below.as_ref(), &names);
            (names, alike)
        });
        let (names, alike) = looking.await.map_err(|_| Error::Bug)?;
        control.progress.send_modify(|progress| progress.done_files += alike.len() as u64);
        let folder =
            Folder { prefix, output: &output, options: Arc::new(options), record, patience, control: &control };
        let begin = Instant::now();
        let mut places = Cow::Borrowed(&names);
        alike.iter().for_each(|file| drop(places.to_mut().remove(&file.name)));
        let report = self.get_folder(&folder, &places).await;
        record::give_up(&folder.record).await;
        let mut report = report?;
        report.failed.extend(alike);
        if *control.requested.borrow() == ControlRequest::Cancel {
            return Err(Error::Cancelled);
        }
        if folder.options.delete {
            self.tidy(&folder, names, &mut report).await?;
        }
        record::end(&folder.record).await;
        tracing::debug!(files = report.files.len(), elapsed = ?begin.elapsed(), "folder downloaded");
        report.files.sort_by(|a, b| a.name.cmp(&b.name));
        report.failed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(report)
    }

    /// What there is below a prefix; what nobody has yet is waited for if the user wants it.
    async fn find_below(
        &self,
        text: &str,
        prefix: Option<&Name>,
        patience: &Patience,
        control: &Control,
    ) -> Result<BTreeMap<Name, Entry>, Error> {
        loop {
            let error = match self.names_below(prefix).await {
                Ok(names) if !names.is_empty() => {
                    say(control, None);
                    patience.on_found();
                    return Ok(names);
                }
                Ok(_) => Error::NothingBelow { prefix: shorten(text) },
                Err(error) => error,
            };
            let what = match &error {
                Error::NothingBelow { prefix } => format!("nobody has anything below {prefix:?} yet"),
                error => error.describe(),
            };
            self.wait_for(error, &what, patience, control).await?;
        }
    }

    /// Waits a moment for what nobody has yet, if the user wants that; else it is an error that says what there is instead.
    async fn wait_for(&self, error: Error, what: &str, patience: &Patience, control: &Control) -> Result<(), Error> {
        if patience.is_wanted() && is_away(&error) && patience.pause(control, what).await? {
            return Ok(());
        }
        Err(self.explain(error).await)
    }

    async fn get_folder(&self, folder: &Folder<'_>, names: &BTreeMap<Name, Entry>) -> Result<GetReport, Error> {
        let Folder { prefix, output, options, record, control, .. } = folder;
        let rest = |name: &Name| rest_of(name, prefix.as_ref());
        let files = names.values().map(|entry| Small { rest: rest(&entry.name), entry: entry.clone(), over: None });
        let network = &self.inner.config.network;
        let looked = in_place::split(files.collect(), output, record, options, network, control).await?;
        record::remember(record, [looked.news, before(record, &looked.missing)].concat()).await;
        record::expect(record, looked.missing.iter().map(|file| record.expected_of(&file.entry, &file.rest, options)))
            .await;
        let mut report = GetReport { files: looked.there, kept: looked.kept, ..GetReport::default() };
        let there = report.files.len();
        control.progress.send_modify(|progress| progress.done_files += report.kept.len() as u64);
        let (small, mut left) = by_owner(looked.missing);
        for (owner, files) in small {
            left.extend(self.get_all_small(owner, files, folder, &mut report).await?);
        }
        let mut results = stream::iter(left)
            .map(|file| async move {
                let result = self.get_one_below(&file, folder).await;
                (file.entry.name, result)
            })
            .buffer_unordered(FILES_AT_A_TIME);
        while let Some((name, result)) = results.next().await {
            report.add(name, result);
            control.progress.send_modify(|progress| progress.done_files += 1);
        }
        if record.syncs() {
            // Nobody knows what of an attempt that was cut off is on disk.
            let first = if record.was_cut_off() { 0 } else { there };
            report.sync_names(first, output).await?;
        }
        Ok(report)
    }

    /// Small files of one owner; those are left that it did not send well. If it goes away in the middle, it is waited for.
    async fn get_all_small(
        &self,
        owner: PeerId,
        mut files: Vec<Small>,
        folder: &Folder<'_>,
        report: &mut GetReport,
    ) -> Result<Vec<Small>, Error> {
        let Folder { output, options, record, control, patience, .. } = folder;
        let into = Place { output: Arc::new(output.to_path_buf()), record: record.clone(), options: options.clone() };
        loop {
            let Some(first) = files.first() else { return Ok(files) };
            // One lookup tells where the owner of all of them is.
            let found = self.inner.questions.lookup(first.entry.name.as_str()).await.ok();
            let holders = found.into_iter().flat_map(|found| found.holders);
            let at_owner = holders.into_iter().find(|holder| holder.peer == owner);
            let is_known = at_owner.is_some();
            let addresses = at_owner.map(|holder| holder.addresses).unwrap_or_default();
            let outcome = self.get_small(owner, addresses, files, &into, control).await;
            let came = !outcome.done.is_empty();
            files = outcome.left;
            for (file, result) in outcome.done {
                report.add(file.entry.name, result);
            }
            if files.is_empty() || *control.requested.borrow() == ControlRequest::Cancel {
                return Ok(files);
            }
            if came {
                patience.on_progress();
                say(control, None);
                continue;
            }
            // It is there, and does not send them: others may have them.
            if is_known && self.is_there(&owner) {
                return Ok(files);
            }
            if !patience.pause(control, &away(&owner)).await? {
                return Ok(files);
            }
        }
    }

    /// Whether a node answers on a connection that stands.
    fn is_there(&self, owner: &PeerId) -> bool {
        *owner == self.inner.net.local() || self.inner.net.last_data(owner).is_some()
    }

    /// One file of a folder. If its owner goes away, it is waited for.
    async fn get_one_below(&self, file: &Small, folder: &Folder<'_>) -> Result<GotFile, Error> {
        let Folder { output, options, record, control, patience, .. } = folder;
        let (begin, mut missed) = (Instant::now(), None);
        loop {
            let error = match self.try_one_below(file, folder, begin).await {
                Ok(((got, stamp), entry)) => {
                    patience.on_progress();
                    say(control, None);
                    record::remember(record, vec![record.copy(&entry, &file.rest, stamp)]).await;
                    return Ok(got);
                }
                Err(error) => error,
            };
            tracing::debug!(name = %file.entry.name, %error, output = %output.display(), wait = ?options.wait_seconds, "a file does not come");
            let since = *missed.get_or_insert_with(Instant::now);
            let there = self.is_there(&file.entry.owner);
            if !patience.may_come(&error, there, since) || !patience.pause(control, &away(&file.entry.owner)).await? {
                return Err(error);
            }
        }
    }

    /// The file as it is now, with what its name stands for by then.
    async fn try_one_below(&self, file: &Small, folder: &Folder<'_>, begin: Instant) -> Result<(Placed, Entry), Error> {
        let Folder { output, options, record, control, patience, .. } = folder;
        let found = self.inner.questions.lookup(file.entry.name.as_str()).await?;
        let entry = found.entry.clone();
        let (below, rest) = (output.to_path_buf(), file.rest.clone());
        let target = tokio::task::spawn_blocking(move || output_path(&below, rest.split('/')))
            .await
            .map_err(|_| Error::Bug)??;
        if entry.content != file.entry.content {
            record::expect(record, [record.expected_of(&entry, &file.rest, options)]).await;
        }
        let sync = record.syncs();
        let placed = self.fetch(found, target, file.over, sync, options, patience, begin, control).await?;
        Ok((placed, entry))
    }

    /// Every name below a prefix, and the prefix if it is a name itself. The index narrows them down by a glob.
    async fn names_below(&self, prefix: Option<&Name>) -> Result<BTreeMap<Name, Entry>, Error> {
        let query = prefix.map_or_else(String::new, glob_below);
        let entries = self.inner.questions.entries(&query, MAX_FILES + 1).await?.entries;
        if entries.len() > MAX_FILES {
            let prefix = shorten(prefix.map(Name::as_str).unwrap_or_default());
            return Err(Error::TooManyBelow { prefix, most: MAX_FILES });
        }
        let wanted = entries.into_iter().filter(|entry| prefix.is_none_or(|prefix| entry.name.is_below(prefix)));
        let mut names: BTreeMap<_, _> = wanted.map(|entry| (entry.name.clone(), entry)).collect();
        if let Some(prefix) = prefix {
            match self.inner.questions.lookup(prefix.as_str()).await {
                Ok(found) => {
                    names.insert(found.entry.name.clone(), found.entry);
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    #[allow(clippy::too_many_arguments)] // All of one download, from two callers.
    async fn fetch(
        &self,
        found: Checked,
        path: PathBuf,
        over: Option<FileStamp>,
        sync: bool,
        options: &GetOptions,
        patience: &Patience,
        begin: Instant,
        control: &Control,
    ) -> Result<Placed, Error> {
        let downloads = &self.inner.downloads;
        let _permit = downloads.permits.acquire().await.map_err(|_| Error::ShuttingDown)?;
        downloads.running.fetch_add(1, Ordering::Relaxed);
        let _running = Running(&downloads.running);
        let name = found.entry.name.clone();
        let attributes = options.preserve.then(|| found.entry.attributes(&self.inner.config.network)).flatten();
        let target = Target { path, placing: Placing { attributes, over }, fleeting: options.fleeting, sync };
        let Got { path, bytes, sources, stamp } =
            fetch::download(&self.inner, found, target, patience, control).await?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok((GotFile { name, path, bytes, seconds, sources, verified: true }, stamp))
    }
}

/// A file in place, as it was left.
type Placed = (GotFile, Option<FileStamp>);

/// What is written down before copies are replaced: after a crash either content is theirs.
fn before(record: &Record, files: &[Small]) -> Vec<Copy> {
    let replaced = files.iter().filter(|file| file.over.is_some());
    replaced.map(|file| record.copy(&file.entry, &file.rest, None)).collect()
}

fn add_total(progress: &watch::Sender<Progress>, size: u64) {
    progress.send_modify(|progress| {
        progress.total_files += 1;
        progress.total_bytes = progress.total_bytes.saturating_add(size);
    });
}

/// Counts a download until it ends, however it ends.
struct Running<'a>(&'a std::sync::atomic::AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a single file goes, and which folders were made for it, the outermost first. A folder that exists, or one that is
/// said by a slash at the end, takes the file under the last segment of its name.
fn single_place(output: &Path, name: &Name) -> Result<(PathBuf, Vec<PathBuf>), Error> {
    let text = output.as_os_str().as_encoded_bytes();
    let is_folder = text.ends_with(b"/") || text.ends_with(b"/.") || output.is_dir();
    let path = if is_folder { output.join(name.file_name()) } else { output.to_owned() };
    let made = make_parents(&path)?;
    Ok((path, made))
}

/// A query that every name below the prefix matches: white space, which would split the query, is left to
/// the asterisk, and so is what would make it too long.
fn glob_below(prefix: &Name) -> String {
    /// Room for the rest of the query; more than one segment, so that a cut prefix still has a '/'.
    const MOST: usize = MAX_QUERY_BYTES - 64;
    let plain = |char: char| if char.is_whitespace() { '*' } else { char };
    let text = prefix.as_str();
    let cut = text.floor_char_boundary(MOST);
    let end = if cut < text.len() { "*" } else { "/*" };
    text[..cut].chars().map(plain).chain(end.chars()).collect()
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::Pattern;

    use super::*;

    #[test]
    fn the_glob_of_a_prefix_matches_all_names_below_it() {
        for (prefix, name) in [
            ("photos", "photos/a.jpg"),
            ("photos/2024", "photos/2024/a.jpg"),
            ("my photos/summer", "my photos/summer/a.jpg"),
            ("a*b/c", "a*b/c/d"),
            ("Straße/x", "Straße/x/y"),
        ] {
            let (prefix, name) = (Name::parse(prefix).unwrap(), Name::parse(name).unwrap());
            assert!(Pattern::parse(&glob_below(&prefix)).unwrap().matches(&name), "{prefix} {name}");
        }
    }

    #[test]
    fn the_glob_of_a_long_prefix_is_cut() {
        let text = ["ü".repeat(120).as_str(); 4].join("/");
        let (prefix, name) = (Name::parse(&text).unwrap(), Name::parse(&format!("{text}/z")).unwrap());
        assert!(Pattern::parse(&glob_below(&prefix)).unwrap().matches(&name));
    }
}
