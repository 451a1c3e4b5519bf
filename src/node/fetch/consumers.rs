//! What the engine of a content and those who use it tell each other, and which contents are being fetched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use swarmdex_protocols::ContentId;
use swarmdex_protocols::content::Geometry;
use tokio::sync::{Notify, Semaphore, watch};

use super::turns::Turns;
use crate::locks::lock;
use crate::node::Error;
use crate::state::fetch::Wanted;
use crate::storage::cache::Cache;
use crate::storage::content::Content;
use crate::storage::holdings::Whole;
use crate::storage::partial::PartialError;

/// Readers that a node has open at a time. Each may have a cache, which takes a descriptor out of the reserve for files.
pub(in crate::node) const MAX_READERS: usize = 64;

/// Why an engine fetches no more.
#[derive(Debug, Clone)]
pub(super) enum FetchEnd {
    /// Another has taken its place, or nobody wanted anything: who still does looks again.
    Moved,
    /// The content is in a file.
    Placed(Whole),
    /// It could not be fetched.
    Failed(Arc<Error>),
}

/// What an engine says to readers.
#[derive(Debug, Default)]
pub(super) struct FetchStatus {
    /// Runs that were written: it changes with each.
    pub(super) written: u64,
    /// Set once.
    pub(super) end: Option<FetchEnd>,
}

/// What is wanted of an engine.
#[derive(Debug)]
struct Wants {
    wanted: Wanted,
    /// Whether it fetches into a file, and so does not end with its last reader.
    into_file: bool,
    stopped: bool,
    /// The number of the last reader.
    last: u64,
}

/// A content that is being fetched: between one engine and those who use it.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) content: ContentId,
    wants: Arc<Mutex<Wants>>,
    /// Told whenever something else is wanted. The engine alone waits for it.
    changed: Notify,
    /// Let go at the end, whoever still holds this: the next download of the content waits for that.
    store: Mutex<Option<Arc<dyn Content>>>,
    status: watch::Sender<FetchStatus>,
}

impl Fetch {
    fn new(content: ContentId, wants: Arc<Mutex<Wants>>, store: Arc<dyn Content>) -> Arc<Self> {
        let (changed, store) = (Notify::new(), Mutex::new(Some(store)));
        Arc::new(Self { content, wants, changed, store, status: watch::Sender::new(FetchStatus::default()) })
    }

    /// Of a download into a file, which wants all of it.
    pub(super) fn into_file(content: ContentId, store: Arc<dyn Content>) -> Arc<Self> {
        let wants = Wants { wanted: Wanted::whole(), into_file: true, stopped: false, last: 0 };
        Self::new(content, Arc::new(Mutex::new(wants)), store)
    }

    /// For readers alone: what comes is kept in a cache in `folder`. Blocks on the disk.
    pub(super) fn for_readers(
        content: ContentId,
        geometry: Geometry,
        folder: &Path,
    ) -> Result<Arc<Self>, PartialError> {
        let wants = Wants { wanted: Wanted::default(), into_file: false, stopped: false, last: 0 };
        let wants = Arc::new(Mutex::new(wants));
        let keeping = wants.clone();
        let cache = Cache::new(folder, geometry, move |index| lock(&keeping).wanted.contains(index))?;
        Ok(Self::new(content, wants, Arc::new(cache)))
    }

    /// One more reader, which wants nothing yet; `None` if this has come to its end.
    pub(super) fn attach(self: &Arc<Self>) -> Option<Attached> {
        let mut wants = lock(&self.wants);
        if wants.stopped {
            return None;
        }
        wants.last += 1;
        let reader = wants.last;
        wants.wanted.read(reader, 0..0);
        Some(Attached { fetch: self.clone(), reader })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Wants) -> T) -> T {
        let changed = change(&mut lock(&self.wants));
        self.changed.notify_one();
        changed
    }

    /// From here on all of it is wanted, or what readers want alone.
    pub(super) fn set_whole(&self, whole: bool) {
        self.change(|wants| wants.wanted.set_whole(whole));
    }

    /// Lets the engine end.
    pub(super) fn stop(&self) {
        self.change(|wants| wants.stopped = true);
    }

    /// Whether the engine is to end.
    pub(super) fn is_stopped(&self) -> bool {
        lock(&self.wants).stopped
    }

    /// What is wanted; `None` once the engine is to end.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let wants = lock(&self.wants);
        (!wants.stopped).then(|| wants.wanted.clone())
    }

    /// How many readers there are.
    pub(super) fn readers(&self) -> usize {
        lock(&self.wants).wanted.readers()
    }

    /// Whether it fetches into a file.
    pub(super) fn is_into_file(&self) -> bool {
        lock(&self.wants).into_file
    }

    /// Waits until something else is wanted. For the engine alone. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Where the chunks are, until the end.
    pub(super) fn store(&self) -> Option<Arc<dyn Content>> {
        lock(&self.store).clone()
    }

    /// Whether a chunk is there.
    pub(super) fn contains(&self, index: u64) -> bool {
        self.store().is_some_and(|store| store.contains(index))
    }

    /// Something was written.
    pub(super) fn on_written(&self) {
        self.status.send_modify(|status| status.written += 1);
    }

    /// What the engine says.
    pub(super) fn status(&self) -> watch::Receiver<FetchStatus> {
        self.status.subscribe()
    }

    /// This is over.
    fn close(&self, end: FetchEnd) {
        self.stop();
        lock(&self.store).take();
        self.status.send_modify(|status| {
            status.end.get_or_insert(end);
        });
    }
}

/// A reader's part in a fetch. With the last one a fetch ends that is into no file.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) fetch: Arc<Fetch>,
    reader: u64,
}

impl Attached {
    /// The reader wants these chunks and no others.
    pub(super) fn read(&self, chunks: Range<u64>) {
        self.fetch.change(|wants| wants.wanted.read(self.reader, chunks));
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.fetch.change(|wants| {
            wants.wanted.leave(self.reader);
            wants.stopped |= !wants.into_file && wants.wanted.readers() == 0;
        });
    }
}

/// What is being fetched, one engine for each content.
#[derive(Debug)]
pub(in crate::node) struct Fetches {
    /// As many as engines; those that ended go with the next.
    engines: Mutex<HashMap<ContentId, Weak<Fetch>>>,
    /// Downloads of one content into files take turns.
    pub(super) turns: Turns,
    /// Readers that may be opened.
    pub(super) readers: Arc<Semaphore>,
}

impl Default for Fetches {
    fn default() -> Self {
        let readers = Arc::new(Semaphore::new(MAX_READERS));
        Self { engines: Mutex::default(), turns: Turns::default(), readers }
    }
}

impl Fetches {
    /// From here on `fetch` is the one of its content. The one that was before is told to end; its readers look again, and find this.
    pub(super) fn take_over(&self, fetch: &Arc<Fetch>) -> Option<Arc<Fetch>> {
        let before =
            lock(&self.engines).insert(fetch.content, Arc::downgrade(fetch)).and_then(|before| before.upgrade());
        before.inspect(|before| before.stop())
    }

    /// Joins whoever fetches a content.
    pub(super) fn join(&self, content: &ContentId) -> Option<Attached> {
        let fetch = lock(&self.engines).get(content).and_then(Weak::upgrade)?;
        fetch.attach()
    }

    /// Joins whoever fetches a content, or lets `fetch` be that; whether it is, and needs an engine. `None` if that has ended.
    pub(super) fn join_or_begin(&self, fetch: &Arc<Fetch>) -> Option<(Attached, bool)> {
        let mut engines = lock(&self.engines);
        engines.retain(|_, fetch| fetch.strong_count() > 0);
        if let Some(attached) = engines.get(&fetch.content).and_then(Weak::upgrade).and_then(|fetch| fetch.attach()) {
            return Some((attached, false));
        }
        let attached = fetch.attach()?;
        engines.insert(fetch.content, Arc::downgrade(fetch));
        Some((attached, true))
    }

    fn leave(&self, fetch: &Arc<Fetch>) {
        if let Entry::Occupied(entry) = lock(&self.engines).entry(fetch.content)
            && entry.get().as_ptr() == Arc::as_ptr(fetch)
        {
            entry.remove();
        }
    }
}

/// Ends a fetch when it is dropped, however that comes about.
pub(super) struct Ending<'a> {
    fetches: &'a Fetches,
    fetch: Arc<Fetch>,
    /// What those who use it are told.
    pub(super) end: FetchEnd,
}

impl<'a> Ending<'a> {
    /// With this `end` unless another is set.
    pub(super) fn new(fetches: &'a Fetches, fetch: Arc<Fetch>, end: FetchEnd) -> Self {
        Self { fetches, fetch, end }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.fetches.leave(&self.fetch);
        self.fetch.close(std::mem::replace(&mut self.end, FetchEnd::Moved));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tempfile::TempDir;

    use super::*;

    fn fetch(folder: &TempDir) -> Arc<Fetch> {
        let geometry = Geometry::new(100 << 20).unwrap();
        Fetch::for_readers(ContentId::of(b"x"), geometry, folder.path()).unwrap()
    }

    #[test]
    fn readers_of_one_content_share_a_fetch_which_ends_with_the_last() {
        let (folder, fetches) = (TempDir::new().unwrap(), Fetches::default());
        let first = fetch(&folder);
        assert!(fetches.join(&first.content).is_none());
        let (one, begun) = fetches.join_or_begin(&first).unwrap();
        assert!(begun);
        let (two, begun) = fetches.join_or_begin(&fetch(&folder)).unwrap();
        assert!(!begun && Arc::ptr_eq(&two.fetch, &first));
        one.read(3..5);
        two.read(70..71);
        assert!(first.changed().now_or_never().is_some(), "the engine hears of it");
        let wanted = first.wanted().unwrap();
        assert_eq!((wanted.urgent().collect::<Vec<_>>(), first.readers()), (vec![3, 70, 4], 2));
        drop(one);
        assert!(!first.wanted().unwrap().contains(3));
        drop(two);
        assert!(first.wanted().is_none() && first.attach().is_none());
        // Whoever comes now begins another.
        let (_, begun) = fetches.join_or_begin(&fetch(&folder)).unwrap();
        assert!(begun);
    }

    #[test]
    fn a_download_into_a_file_takes_the_place_of_readers_and_goes_on_without_them() {
        let (folder, fetches) = (TempDir::new().unwrap(), Fetches::default());
        let (reading, placing) = (fetch(&folder), fetch(&folder));
        let (_reader, _) = fetches.join_or_begin(&reading).unwrap();
        let placing = Fetch::into_file(placing.content, placing.store().unwrap());
        let before = fetches.take_over(&placing).unwrap();
        assert!(Arc::ptr_eq(&before, &reading) && reading.wanted().is_none());
        // The end of the one before does not take the other away.
        drop(Ending::new(&fetches, reading.clone(), FetchEnd::Moved));
        assert!(matches!(reading.status().borrow().end, Some(FetchEnd::Moved)) && reading.store().is_none());
        let joined = fetches.join(&placing.content).unwrap();
        assert!(Arc::ptr_eq(&joined.fetch, &placing));
        drop(joined);
        assert!(placing.wanted().is_some_and(|wanted| wanted.is_whole()));
        placing.set_whole(false);
        assert!(placing.wanted().is_some_and(|wanted| !wanted.contains(0)));
        drop(Ending::new(&fetches, placing.clone(), FetchEnd::Moved));
        assert!(fetches.join(&placing.content).is_none() && placing.wanted().is_none());
    }

    #[test]
    fn what_ended_is_not_remembered() {
        let (folder, fetches) = (TempDir::new().unwrap(), Fetches::default());
        for number in 0..10u8 {
            let geometry = Geometry::new(1).unwrap();
            let fetch = Fetch::for_readers(ContentId::of(&[number]), geometry, folder.path()).unwrap();
            drop(fetches.join_or_begin(&fetch).unwrap());
        }
        assert_eq!(lock(&fetches.engines).len(), 1);
    }
}
