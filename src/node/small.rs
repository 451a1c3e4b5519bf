//! Many small files at a time: hundreds in one request, several requests under way, and each file verified and put in
//! place as one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use swarmdex_protocols::content::{Geometry, Outboard};
use swarmdex_protocols::fetch::{FetchRequest, FetchResponse, Header};
use swarmdex_protocols::limits::{MAX_FETCH_BODY, MAX_FETCH_FILES};
use swarmdex_protocols::{ContentId, Entry, Multiaddr, PeerId};

use super::fetch::ask;
use super::operation::{Control, ControlRequest};
use super::record::{self, Record};
use super::types::{GetOptions, GotFile};
use super::{Error, Inner, Node};
use crate::storage::durable::{begin_sync, sync_files};
use crate::storage::hash::FileStamp;
use crate::storage::holdings::Whole;
use crate::storage::partial::{PartialError, Placing, Unplaced, output_path};

/// Requests to one owner under way.
const REQUESTS: usize = 6;
/// Answers whose files are put in place, side by side with them: most of that is waiting for the disk.
const PLACINGS: usize = 6;
/// Files that are written and wait for the disk together, at most. They are open meanwhile.
const TOGETHER: usize = 64;

/// A file to fetch, and where it goes below the output folder.
#[derive(Debug, Clone)]
pub(super) struct Small {
    pub(super) entry: Entry,
    pub(super) rest: String,
    /// The file that it may take the place of.
    pub(super) over: Option<FileStamp>,
}

/// Whether a file goes with others in one request: it is one chunk, and not empty.
pub(super) fn is_small(entry: &Entry) -> bool {
    entry.size > 0 && Geometry::new(entry.size).is_ok_and(|geometry| geometry.chunks() == 1)
}

/// What became of files: those in place or refused by the disk, and those that the owner did not send well: they
/// are fetched one by one.
#[derive(Default)]
pub(super) struct BatchOutcome {
    pub(super) done: Vec<(Small, Result<GotFile, Error>)>,
    pub(super) left: Vec<Small>,
}

/// Where and how small files are put in place.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) output: Arc<PathBuf>,
    pub(super) record: Arc<Record>,
    pub(super) options: Arc<GetOptions>,
}

impl Node {
    /// Fetches small files of one owner.
    pub(super) async fn get_small(
        &self,
        owner: PeerId,
        addresses: Vec<Multiaddr>,
        files: Vec<Small>,
        into: &Place,
        control: &Control,
    ) -> BatchOutcome {
        let inner = &self.inner;
        let mut outcomes = stream::iter(batches(files))
            .map(|batch| {
                let (addresses, mut requested) = (addresses.clone(), control.requested.clone());
                async move {
                    // An operation that nobody holds any more is dropped as a whole.
                    if requested
                        .wait_for(|requested| *requested != ControlRequest::Pause)
                        .await
                        .is_ok_and(|requested| *requested == ControlRequest::Cancel)
                    {
                        return Err(batch);
                    }
                    fetch_batch(inner, owner, addresses, batch).await
                }
            })
            .buffer_unordered(REQUESTS)
            .map(|fetched| async move {
                match fetched {
                    Ok(fetched) => place_batch(inner, owner, fetched, into.clone()).await,
                    Err(left) => BatchOutcome { left, ..BatchOutcome::default() },
                }
            })
            .buffer_unordered(PLACINGS);
        let mut whole = BatchOutcome::default();
        while let Some(BatchOutcome { done, left }) = outcomes.next().await {
            let bytes = done.iter().filter_map(|(_, result)| result.as_ref().ok()).map(|file| file.bytes).sum::<u64>();
            control.progress.send_modify(|progress| {
                progress.done_bytes += bytes;
                progress.done_files += done.len() as u64;
            });
            whole.done.extend(done);
            whole.left.extend(left);
        }
        whole
    }
}

/// Files that fit one answer each time.
fn batches(files: Vec<Small>) -> Vec<Vec<Small>> {
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for file in files {
        if batch.len() >= MAX_FETCH_FILES || bytes + file.entry.size > MAX_FETCH_BODY as u64 {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += file.entry.size;
        batch.push(file);
    }
    batches.push(batch);
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// Files with the answer that has their bytes, and when they were asked for.
type Fetched = (Vec<Small>, FetchResponse, Instant);

/// Asks for files that fit one answer; an error has them back.
async fn fetch_batch(
    inner: &Inner,
    owner: PeerId,
    addresses: Vec<Multiaddr>,
    batch: Vec<Small>,
) -> Result<Fetched, Vec<Small>> {
    let begin = Instant::now();
    let contents: Vec<ContentId> = batch.iter().map(|file| file.entry.content).collect();
    let response = if owner == inner.net.local() {
        let library = inner.library.clone();
        tokio::task::spawn_blocking(move || library.files(&contents)).await.ok()
    } else {
        ask(&inner.net, owner, addresses, FetchRequest::Files(contents)).await.ok()
    };
    match response {
        Some(response) => Ok((batch, response, begin)),
        None => Err(batch),
    }
}

/// Verifies files, puts them in place, and remembers them.
async fn place_batch(inner: &Inner, owner: PeerId, fetched: Fetched, into: Place) -> BatchOutcome {
    let (batch, response, begin) = fetched;
    let record = into.record.clone();
    let together = TOGETHER.min(batch.len()).min(inner.downloads.unplaced.1);
    let room = inner.downloads.unplaced.0.clone().acquire_many_owned(together as u32).await;
    let Ok(room) = room else { return BatchOutcome { left: batch, ..BatchOutcome::default() } };
    let (library, kept) = (inner.library.clone(), batch.clone());
    let keeps = inner.config.fetch.reshare && !inner.config.transient;
    let (network, sync) = (inner.config.network.clone(), into.record.syncs());
    let placing = tokio::task::spawn_blocking(move || {
        let _room = room;
        let (mut outcome, mut copies) = (BatchOutcome::default(), Vec::new());
        let mut good = Vec::new();
        for (file, bytes) in split(batch, &response) {
            // What the owner sends wrongly others may have.
            match bytes.filter(|bytes| ContentId::of(bytes) == file.entry.content) {
                Some(bytes) => good.push((file, bytes)),
                None => outcome.left.push(file),
            }
        }
        let preserve = into.options.preserve;
        let placing = |file: &Small| Placing {
            attributes: preserve.then(|| file.entry.attributes(&network)).flatten(),
            over: file.over,
        };
        let mut folders = HashSet::new();
        let mut place = |files| place_all(&into.output, files, placing, sync, &mut folders);
        for (file, placed) in good.chunks(together).flat_map(&mut place) {
            let result = placed.map(|(path, stamp)| {
                copies.push(into.record.copy(&file.entry, &file.rest, stamp));
                // What is shared is served from there.
                let keeps = keeps && !library.shares.has(&file.entry.content);
                if let (true, Some(stamp), Ok(geometry)) = (keeps, stamp, Geometry::new(file.entry.size)) {
                    let outboard = Arc::new(Outboard::empty(geometry));
                    let whole = Whole { path: path.clone(), stamp, outboard };
                    library.holdings.complete(file.entry.content, geometry, whole);
                }
                GotFile {
                    name: file.entry.name.clone(),
                    path,
                    bytes: file.entry.size,
                    seconds: begin.elapsed().as_secs_f64(),
                    sources: vec![owner],
                    verified: true,
                }
            });
            outcome.done.push((file, result));
        }
        library.buffers.give(response.body);
        (outcome, copies)
    });
    let Ok((outcome, copies)) = placing.await else { return BatchOutcome { left: kept, ..BatchOutcome::default() } };
    record::remember(&record, copies).await;
    outcome
}

/// Each file with its bytes, if the answer has as many of them as it must.
fn split(batch: Vec<Small>, response: &FetchResponse) -> Vec<(Small, Option<&[u8]>)> {
    let sizes = match &response.header {
        Header::Files { sizes, .. } => sizes.as_slice(),
        _ => &[],
    };
    let (mut rest, mut sizes) = (response.body.as_slice(), sizes.iter().copied().collect::<VecDeque<_>>());
    let mut pieces = Vec::new();
    for file in batch {
        let size = sizes.pop_front().flatten().and_then(|size| usize::try_from(size).ok());
        let bytes = size.and_then(|size| rest.split_at_checked(size)).map(|(bytes, after)| {
            rest = after;
            bytes
        });
        let bytes = bytes.filter(|bytes| bytes.len() as u64 == file.entry.size);
        pieces.push((file, bytes));
    }
    pieces
}

/// A file in place, and as what.
type PlacedPath = (PathBuf, Option<FileStamp>);

/// Writes files, waits for the disk once for all of them if that is wanted, and puts each in place. Their names are waited for at the end
/// of the download.
fn place_all(
    output: &Path,
    files: &[(Small, &[u8])],
    placing: impl Fn(&Small) -> Placing,
    sync: bool,
    folders: &mut HashSet<PathBuf>,
) -> Vec<(Small, Result<PlacedPath, Error>)> {
    let written = files.iter().map(|(file, bytes)| {
        let target = target(output, &file.rest, folders)?;
        let unplaced = Unplaced::write(&target, bytes, &placing(file))?;
        if sync {
            // By the time that the last is written, the first is on its way.
            begin_sync(unplaced.file());
        }
        Ok(unplaced)
    });
    let written: Vec<Result<_, PartialError>> = written.collect();
    let open = || written.iter().flatten().map(Unplaced::file).cloned().collect();
    let mut synced = if sync { sync_files(open()) } else { Vec::new() }.into_iter();
    let mut place = |unplaced: Unplaced| {
        synced.next().unwrap_or(Ok(())).map_err(|error| unplaced.failure(error))?;
        let path = unplaced.target().to_owned();
        Ok((path, unplaced.place()?))
    };
    let placed: Vec<_> = written.into_iter().map(|written| written.and_then(&mut place)).collect();
    let outcome = |placed: (PathBuf, Option<std::fs::Metadata>)| {
        let (path, metadata) = placed;
        (std::path::absolute(&path).unwrap_or(path), metadata.map(|metadata| FileStamp::of(&metadata)))
    };
    let files = files.iter().map(|(file, _)| file.clone());
    files.zip(placed.into_iter().map(|placed| placed.map(outcome).map_err(Error::from))).collect()
}

/// Where a file goes; the folders on the way are made.
fn target(output: &Path, rest: &str, folders: &mut HashSet<PathBuf>) -> Result<PathBuf, PartialError> {
    Ok(match rest.rsplit_once('/') {
        // The folder was made and looked at for a file before.
        Some((folder, name)) if folders.contains(&output.join(folder)) => output.join(folder).join(name),
        folder => {
            let target = output_path(output, rest.split('/'))?;
            folders.insert(folder.map_or_else(|| output.to_owned(), |(folder, _)| output.join(folder)));
            target
        }
    })
}

/// Small files by owner; the others are left.
pub(super) fn by_owner(files: Vec<Small>) -> (BTreeMap<PeerId, Vec<Small>>, Vec<Small>) {
    let mut owners = BTreeMap::<_, Vec<_>>::new();
    let mut left = Vec::new();
    for file in files {
        if is_small(&file.entry) {
            owners.entry(file.entry.owner).or_default().push(file);
        } else {
            left.push(file);
        }
    }
    (owners, left)
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::{Name, Version};

    use super::*;

    fn files(sizes: impl IntoIterator<Item = u64>) -> Vec<Small> {
        let owner = PeerId::from_bytes(&[0, 1, 7]).unwrap();
        let file = |(number, size): (usize, u64)| {
            let (name, content) = (Name::parse(&format!("file {number}")).unwrap(), ContentId::of(b"x"));
            let entry = Entry { name, content, size, owner, version: Version(1), attributes: None };
            Small { entry, rest: number.to_string(), over: None }
        };
        sizes.into_iter().enumerate().map(file).collect()
    }

    #[test]
    fn every_file_is_in_one_request_and_every_request_fits() {
        const BODY: u64 = MAX_FETCH_BODY as u64;
        let most = MAX_FETCH_FILES;
        for (sizes, requests) in [
            (vec![], 0),
            (vec![1; most - 1], 1),
            (vec![1; most], 1),
            (vec![1; most + 1], 2),
            (vec![1; 3 * most], 3),
            (vec![1; 3 * most + 1], 4),
            (vec![BODY / 4; 12], 3),
            (vec![BODY / 4; 13], 4),
            (vec![BODY / 4 + 1; 12], 4),
            // A large one among small ones.
            ([vec![1; 100], vec![BODY], vec![1; 100]].concat(), 3),
        ] {
            let batches = batches(files(sizes.clone()));
            assert_eq!(batches.len(), requests, "{} files of {:?} bytes", sizes.len(), sizes.first());
            for batch in &batches {
                assert!(!batch.is_empty() && batch.len() <= most);
                assert!(batch.iter().map(|file| file.entry.size).sum::<u64>() <= BODY);
            }
            let rest: Vec<_> = batches.concat().into_iter().map(|file| file.rest).collect();
            assert_eq!(rest, (0..sizes.len()).map(|number| number.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_answer_that_ends_early_or_lacks_some_leaves_those_alone() {
        let batch = files([2, 3, 4, 5, 6]);
        let sizes = vec![Some(2), None, Some(4), Some(9)];
        let response = FetchResponse { header: Header::Files { bytes: 15, sizes }, body: b"aaccccddddddddd".to_vec() };
        let pieces: Vec<_> = split(batch, &response).into_iter().map(|(_, bytes)| bytes.map(<[u8]>::to_vec)).collect();
        assert_eq!(pieces, [Some(b"aa".to_vec()), None, Some(b"cccc".to_vec()), None, None]);
    }
}
