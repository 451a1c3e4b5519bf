//! Hashing many files at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::scan::Candidate;
use super::{HashProgress, HashResult, OnProgress, ShareError, lock};
use crate::storage::hash::{self, HashError, Hashed};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Files at least so long are hashed by all threads together, shorter ones by one thread each.
const LARGE_FILE: u64 = 64 << 20;

/// Hashes files, long ones with all threads together, the others side by side; tells progress meanwhile, and
/// hands each hash to `keep` as soon as it is known. The results are in the order of the candidates.
pub(super) fn hash_candidates(
    candidates: &[Candidate],
    threads: usize,
    progress: OnProgress<'_>,
    cancel: &AtomicBool,
    keep: &(dyn Fn(&Candidate, &Hashed) -> Result<(), ShareError> + Sync),
) -> Vec<HashResult> {
    let total = HashProgress {
        total_bytes: candidates.iter().map(|candidate| candidate.stamp.len).fold(0, u64::saturating_add),
        total_files: candidates.len() as u64,
        ..HashProgress::default()
    };
    let (bytes, files, next) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let results: Mutex<Vec<Option<HashResult>>> = Mutex::new(candidates.iter().map(|_| None).collect());
    let hash = |index: usize, threads: usize| {
        let Some(candidate) = candidates.get(index) else { return };
        let result = if cancel.load(Ordering::Relaxed) {
            Err(HashError::Cancelled)
        } else {
            hash::hash_file(&candidate.path, threads, &bytes, cancel)
        };
        files.fetch_add(1, Ordering::Relaxed);
        let result = result.map_err(ShareError::from).and_then(|hashed| {
            keep(candidate, &hashed)?;
            Ok((hashed.content, hashed.stamp))
        });
        if let Some(place) = lock(&results).get_mut(index) {
            *place = Some(result);
        }
    };
    let large = |index: usize| candidates.get(index).is_some_and(|candidate| candidate.stamp.len >= LARGE_FILE);
    let (finished, ended) = sync_channel::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let finished = finished;
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        loop {
                            let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                            if index >= candidates.len() {
                                return;
                            }
                            if !large(index) {
                                hash(index, 1);
                            }
                        }
                    });
                }
            });
            (0..candidates.len()).filter(|index| large(*index)).for_each(|index| hash(index, threads));
            drop(finished);
        });
        // Ends when the sender is gone.
        while ended.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let (done_bytes, done_files) = (bytes.load(Ordering::Relaxed), files.load(Ordering::Relaxed));
            progress(HashProgress { done_bytes, done_files, ..total });
        }
    });
    progress(HashProgress { done_bytes: total.total_bytes, done_files: total.total_files, ..total });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| result.unwrap_or(Err(HashError::Cancelled.into()))).collect()
}
