//! From a name, or a prefix of names, to files in place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::{StreamExt, stream};
use swarmdex_protocols::Name;
use swarmdex_protocols::limits::MAX_QUERY_BYTES;
use tokio::sync::watch;

use super::download::{self, Got};
use super::lookup::{Checked, parse_name};
use super::operation::Reins;
use super::types::{FailedFile, GetReport, GetRequest, GotFile, Progress};
use super::{Error, Node, shorten};
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
        let (prefix, output, reins) = (&prefix, &request.output, &reins);
        let mut results = stream::iter(names)
            .map(|name| async move {
                let result = self.get_one_below(&name, prefix.as_ref(), output, reins).await;
                (name, result)
            })
            .buffer_unordered(FILES_AT_A_TIME);
        let mut report = GetReport { files: Vec::new(), failed: Vec::new() };
        while let Some((name, result)) = results.next().await {
            match result {
                Ok(file) => report.files.push(file),
                Err(error) => report.failed.push(FailedFile { name, kind: error.kind(), message: error.describe() }),
            }
            progress.send_modify(|progress| progress.done_files += 1);
        }
        report.files.sort_by(|a, b| a.name.cmp(&b.name));
        report.failed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(report)
    }

    async fn get_one_below(
        &self,
        name: &Name,
        prefix: Option<&Name>,
        output: &Path,
        reins: &Reins,
    ) -> Result<GotFile, Error> {
        let begin = Instant::now();
        let found = self.inner.questions.lookup(name.as_str()).await?;
        // A file that is named like the prefix itself goes into the folder under its own last segment.
        let rest = match prefix {
            Some(prefix) => name.strip_prefix(prefix).unwrap_or(name.file_name()).to_owned(),
            None => name.as_str().to_owned(),
        };
        let folder = output.to_owned();
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
    ) -> Result<BTreeSet<Name>, Error> {
        let query = prefix.map_or_else(String::new, glob_below);
        let mut names = BTreeSet::new();
        for entry in self.inner.questions.entries(&query, MAX_FILES).await? {
            let wanted = prefix.is_none_or(|prefix| entry.name.is_below(prefix));
            if wanted && names.insert(entry.name) {
                add_total(progress, entry.size);
            }
        }
        if let Some(prefix) = prefix {
            match self.inner.questions.lookup(prefix.as_str()).await {
                Ok(found) => {
                    add_total(progress, found.entry.size);
                    names.insert(found.entry.name);
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
