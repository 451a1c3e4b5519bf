//! Incoming chunks: those that begin to arrive, of a content that is passed on while it comes. They are announced to
//! others, which may ask for them before they are here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::locks::lock;

/// Chunks of one download that are announced while they are on their way; more are announced when they are here.
const MAX_INCOMING: usize = 64;

/// The chunks of one download that are on their way.
#[derive(Debug)]
pub(crate) struct Incoming {
    state: Mutex<IncomingState>,
    begun: Notify,
    /// Notified whenever a chunk is no longer on its way.
    settled: Arc<Notify>,
}

#[derive(Debug, Default)]
struct IncomingState {
    chunks: BTreeSet<u64>,
    /// Those that began to arrive since [`Incoming::begun`] last said so.
    news: Vec<u64>,
}

impl Incoming {
    /// No chunks yet; `settled` is notified whenever one is no longer on its way.
    pub(super) fn new(settled: Arc<Notify>) -> Self {
        Self { state: Mutex::default(), begun: Notify::new(), settled }
    }

    /// Chunk `index` begins to arrive. Nothing if it is known to, or too many are on their way.
    pub(super) fn begin(self: &Arc<Self>, index: u64) -> Option<IncomingGuard> {
        let mut state = lock(&self.state);
        if state.chunks.len() >= MAX_INCOMING || !state.chunks.insert(index) {
            return None;
        }
        state.news.push(index);
        self.begun.notify_one();
        Some(IncomingGuard { incoming: Some(self.clone()), index })
    }

    /// Chunk `index` is here, or does not come.
    pub(crate) fn end(&self, index: u64) {
        let mut state = lock(&self.state);
        state.news.retain(|other| *other != index);
        if state.chunks.remove(&index) {
            self.settled.notify_one();
        }
    }

    /// Waits until some begin to arrive: which. Cancel safe.
    pub(crate) async fn begun(&self) -> Vec<u64> {
        self.begun.notified().await;
        std::mem::take(&mut lock(&self.state).news)
    }

    /// Whether chunk `index` is on its way.
    pub(super) fn contains(&self, index: u64) -> bool {
        lock(&self.state).chunks.contains(&index)
    }

    /// All that are on their way.
    pub(super) fn chunks(&self) -> BTreeSet<u64> {
        lock(&self.state).chunks.clone()
    }
}

/// A chunk that is on its way. Dropped, it does not come.
#[derive(Debug)]
pub(crate) struct IncomingGuard {
    incoming: Option<Arc<Incoming>>,
    index: u64,
}

impl IncomingGuard {
    /// It came. Until it is verified and written, or found to be wrong, it is still on its way; whoever has it then
    /// calls [`super::content::Content::settle`].
    pub(crate) fn came(mut self) {
        self.incoming = None;
    }
}

impl Drop for IncomingGuard {
    fn drop(&mut self) {
        if let Some(incoming) = &self.incoming {
            incoming.end(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_chunk_is_on_its_way_until_it_settled_or_is_given_up() {
        let settled = Arc::<Notify>::default();
        let incoming = Arc::new(Incoming::new(settled.clone()));
        let (came, lost) = (incoming.begin(7).unwrap(), incoming.begin(8).unwrap());
        assert!(incoming.begin(7).is_none(), "it is known to come");
        assert_eq!(incoming.begun().now_or_never(), Some(vec![7, 8]));
        assert_eq!(incoming.begun().now_or_never(), None);
        came.came();
        assert_eq!(incoming.chunks(), [7, 8].into());
        assert!(settled.notified().now_or_never().is_none());
        drop(lost);
        assert!(settled.notified().now_or_never().is_some());
        assert!(incoming.contains(7) && !incoming.contains(8));
        incoming.end(7);
        assert!(settled.notified().now_or_never().is_some());
        assert!(incoming.chunks().is_empty());
    }

    #[test]
    fn chunks_on_their_way_are_bounded() {
        let incoming = Arc::new(Incoming::new(Arc::default()));
        let expected: Vec<_> = (0..1000).filter_map(|index| incoming.begin(index)).collect();
        assert_eq!((expected.len(), incoming.chunks().len()), (MAX_INCOMING, MAX_INCOMING));
        drop(expected);
        // Nobody is told of what is over.
        assert_eq!(incoming.begun().now_or_never(), Some(Vec::new()));
    }
}
