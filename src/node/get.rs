//! From a name, or a prefix of names, to files in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::{StreamExt, stream};
use swarmdex_protocols::limits::MAX_QUERY_BYTES;
use swarmdex_protocols::{Entry, Name};
use tokio::sync::watch;

use super::download::{self, Got};
use super::lookup::{Checked, parse_name};
use super::operation::{Reins, Wish};
use super::small::{Small, by_owner};
use super::types::{FailedFile, GetReport, GetRequest, GotFile, Progress};
use super::{Error, Node, in_place, shorten};
use crate::storage::partial::output_path;

/// Files of one recursive download that are fetched at a time.
const FILES_AT_A_TIME: usize = 8;
/// Most names in one recursive download: bounds the list that is kept.
const MAX_FILES: usize = 1_000_000;

impl Node {
    pub(super) async fn get_files(self, request: GetRequest, reins: Reins) -> Result<GetReport, Error> {
        if request.recursive {
            return self.get_below(request, reins).await;
        }
        let progress = &reins.progress;
        let begin = Instant::now();
        let found = self.inner.questions.lookup(&request.name).await?;
        let target = single_target(&request.output, &found.entry.name);
        progress.send_modify(|progress| {
            progress.total_bytes = found.entry.size;
            progress.total_files = 1;
            progress.current = found.entry.name.to_string();
        });
        let file = self.fetch(found, target, begin, &reins).await?;
        Ok(GetReport { files: vec![file], failed: Vec::new() })
    }

    /// Downloads every name below a prefix; a file that fails is reported, and the others go on.
    async fn get_below(&self, request: GetRequest, reins: Reins) -> Result<GetReport, Error> {
        let progress = &reins.progress;
        let prefix = match request.name.as_str() {
            "" | "/" | "." => None,
            text => Some(parse_name(text.strip_suffix('/').unwrap_or(text))?),
        };
        let names = self.names_below(prefix.as_ref(), progress).await?;
        if names.is_empty() {
            return Err(Error::NothingBelow { prefix: shorten(&request.name) });
        }
        let begin = Instant::now();
        let (prefix, output, reins) = (&prefix, &request.output, &reins);
        let files = names.into_values().map(|entry| Small { rest: rest_of(&entry.name, prefix.as_ref()), entry });
        let (files, missing) = in_place::split(files.collect(), output, reins).await?;
        let mut report = GetReport { files, failed: Vec::new() };
        let (small, mut left) = by_owner(missing);
        for (owner, files) in small {
            // One lookup tells where the owner of all of them is.
            let holders = match self.inner.questions.lookup(files[0].entry.name.as_str()).await {
                Ok(found) => found.holders,
                Err(_) => Vec::new(),
            };
            let addresses = holders.into_iter().find(|holder| holder.peer == owner).map(|holder| holder.addresses);
            let outcome = self.get_small(owner, addresses.unwrap_or_default(), files, output.clone(), reins).await;
            left.extend(outcome.left);
            for (file, result) in outcome.done {
                report.add(file.entry.name, result);
            }
        }
        let mut results = stream::iter(left)
            .map(|file| async move {
                let result = self.get_one_below(&file, output, reins).await;
                (file.entry.name, result)
            })
            .buffer_unordered(FILES_AT_A_TIME);
        while let Some((name, result)) = results.next().await {
            report.add(name, result);
            progress.send_modify(|progress| progress.done_files += 1);
        }
        if *reins.wish.borrow() == Wish::Cancel {
            return Err(Error::Cancelled);
        }
        tracing::debug!(files = report.files.len(), elapsed = ?begin.elapsed(), "folder downloaded");
        report.files.sort_by(|a, b| a.name.cmp(&b.name));
        report.failed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(report)
    }

    async fn get_one_below(&self, file: &Small, output: &Path, reins: &Reins) -> Result<GotFile, Error> {
        let begin = Instant::now();
        let found = self.inner.questions.lookup(file.entry.name.as_str()).await?;
        let (folder, rest) = (output.to_owned(), file.rest.clone());
        let target = tokio::task::spawn_blocking(move || output_path(&folder, rest.split('/')))
            .await
            .map_err(|_| Error::Bug)??;
        self.fetch(found, target, begin, reins).await
    }

    /// Every name below a prefix, and the prefix if it is a name itself. The index narrows them down by a glob.
    async fn names_below(
        &self,
        prefix: Option<&Name>,
        progress: &watch::Sender<Progress>,
    ) -> Result<BTreeMap<Name, Entry>, Error> {
        let query = prefix.map_or_else(String::new, glob_below);
        let mut names = BTreeMap::new();
        let entries = self.inner.questions.entries(&query, MAX_FILES + 1).await?.entries;
        if entries.len() > MAX_FILES {
            let prefix = shorten(prefix.map(Name::as_str).unwrap_or_default());
            return Err(Error::TooManyBelow { prefix, most: MAX_FILES });
        }
        for entry in entries {
            let wanted = prefix.is_none_or(|prefix| entry.name.is_below(prefix));
            let size = entry.size;
            if wanted && names.insert(entry.name.clone(), entry).is_none() {
                add_total(progress, size);
            }
        }
        if let Some(prefix) = prefix {
            match self.inner.questions.lookup(prefix.as_str()).await {
                Ok(found) => {
                    add_total(progress, found.entry.size);
                    names.insert(found.entry.name.clone(), found.entry);
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    async fn fetch(&self, found: Checked, target: PathBuf, begin: Instant, reins: &Reins) -> Result<GotFile, Error> {
        let downloads = &self.inner.downloads;
        let _permit = downloads.permits.acquire().await.map_err(|_| Error::ShuttingDown)?;
        downloads.running.fetch_add(1, Ordering::Relaxed);
        let _running = Running(&downloads.running);
        let name = found.entry.name.clone();
        let Got { path, bytes, sources } = {
            let Reins { progress, wish } = reins;
            download::download(&self.inner, found, target, progress, wish.clone()).await?
        };
        Ok(GotFile { name, path, bytes, seconds: begin.elapsed().as_secs_f64(), sources, verified: true })
    }
}

/// Where a file goes below the output folder. One that is named like the prefix itself goes under its own last segment.
fn rest_of(name: &Name, prefix: Option<&Name>) -> String {
    match prefix {
        Some(prefix) => name.strip_prefix(prefix).unwrap_or(name.file_name()).to_owned(),
        None => name.as_str().to_owned(),
    }
}

impl GetReport {
    fn add(&mut self, name: Name, result: Result<GotFile, Error>) {
        match result {
            Ok(file) => self.files.push(file),
            Err(error) => self.failed.push(FailedFile { name, kind: error.kind(), message: error.describe() }),
        }
    }
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

/// A folder that exists takes the file under the last segment of its name.
fn single_target(output: &Path, name: &Name) -> PathBuf {
    if output.is_dir() { output.join(name.file_name()) } else { output.to_owned() }
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
