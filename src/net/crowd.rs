//! Who lately asked for which content, and passes on what it has. The next who asks is told, so that downloaders of the
//! same content find each other at once, master or not.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use swarmdex_protocols::ContentId;
use swarmdex_protocols::address::without_peer;
use swarmdex_protocols::fetch::Other;
use swarmdex_protocols::limits::{MAX_ADDRESS_BYTES, MAX_FETCH_OTHERS, MAX_OTHER_ADDRESSES};
use tokio::sync::mpsc;

/// Contents that are remembered, at most.
const MAX_CONTENTS: usize = 1024;
/// Peers of each content that are remembered, at most.
const MAX_PEERS: usize = 128;
/// For how long a peer is named after it asked.
const FRESH: Duration = Duration::from_secs(30);

/// Downloads that are told what others say they have.
const MAX_LISTENERS: usize = 1024;

/// What a peer says that it has of a content: the bytes of a set of chunks, unchecked.
pub(crate) type HaveUpdate = (PeerId, Vec<u8>);

/// A peer that passes on what it has.
struct Downloader {
    other: Other,
    at: Instant,
}

/// Who asked for what, the latest last.
#[derive(Default)]
pub(super) struct Crowd {
    contents: HashMap<ContentId, VecDeque<Downloader>>,
    /// When contents that nobody asks for any more were last forgotten.
    swept: Option<Instant>,
    listeners: HashMap<ContentId, mpsc::Sender<HaveUpdate>>,
}

impl Crowd {
    /// From here on `have_updates` is told who has what of a content, until nobody receives it any more.
    pub(super) fn listen(&mut self, content: ContentId, have_updates: mpsc::Sender<HaveUpdate>) {
        self.listeners.retain(|_, have_updates| !have_updates.is_closed());
        if self.listeners.len() < MAX_LISTENERS {
            self.listeners.insert(content, have_updates);
        }
    }

    /// A peer said along with a request what it has. It says so again: who is slow to listen misses some.
    pub(super) fn on_have_update(&self, content: &ContentId, peer: PeerId, have: Vec<u8>) {
        if !have.is_empty()
            && let Some(have_updates) = self.listeners.get(content)
        {
            let _ = have_updates.try_send((peer, have));
        }
    }

    /// Others who asked, at most [`MAX_FETCH_OTHERS`], those who have not been named for longest first; and remembers
    /// the asker if it tells where it listens.
    pub(super) fn on_have(
        &mut self,
        content: ContentId,
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        now: Instant,
    ) -> Vec<Other> {
        let stale = |asker: &Downloader| now.saturating_duration_since(asker.at) >= FRESH;
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= FRESH) {
            self.contents.retain(|_, askers| !askers.iter().all(stale));
            self.swept = Some(now);
        }
        if !self.contents.contains_key(&content) && self.contents.len() >= MAX_CONTENTS {
            return Vec::new();
        }
        let askers = self.contents.entry(content).or_default();
        askers.retain(|asker| !stale(asker) && asker.other.peer != peer);
        let others: Vec<_> = askers.iter().take(MAX_FETCH_OTHERS).map(|asker| asker.other.clone()).collect();
        // Of a large crowd the next one gets others.
        askers.rotate_left(others.len());
        let fits = |address: &Multiaddr| address.len() <= MAX_ADDRESS_BYTES;
        let addresses: Vec<_> =
            addresses.into_iter().map(without_peer).filter(fits).take(MAX_OTHER_ADDRESSES).collect();
        if !addresses.is_empty() {
            if askers.len() >= MAX_PEERS {
                askers.pop_front();
            }
            askers.push_back(Downloader { other: Other { peer, addresses }, at: now });
        } else if askers.is_empty() {
            self.contents.remove(&content);
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_share_are_named_to_the_others_for_a_while_and_bounded() {
        let mut crowd = Crowd::default();
        let begin = Instant::now();
        let (content, address): (_, Multiaddr) = (ContentId::of(b"x"), "/ip4/10.0.0.1/tcp/1".parse().unwrap());
        let (anna, ben) = (PeerId::random(), PeerId::random());
        assert!(crowd.on_have(content, anna, vec![address.clone(); 9], begin).is_empty());
        assert!(crowd.on_have(content, anna, vec![address.clone(); 9], begin).is_empty());
        let others = crowd.on_have(content, ben, Vec::new(), begin);
        assert_eq!(others, [Other { peer: anna, addresses: vec![address.clone(); MAX_OTHER_ADDRESSES] }]);
        assert!(crowd.on_have(content, ben, Vec::new(), begin + FRESH).is_empty());
        for _ in 0..1000 {
            let others = crowd.on_have(content, PeerId::random(), vec![address.clone()], begin);
            assert!(others.len() <= MAX_FETCH_OTHERS);
        }
        assert_eq!(crowd.contents[&content].len(), MAX_PEERS);
        for number in 0..2000u32 {
            crowd.on_have(ContentId::of(&number.to_be_bytes()), anna, vec![address.clone()], begin);
        }
        assert_eq!(crowd.contents.len(), MAX_CONTENTS);
        crowd.on_have(content, anna, vec![address], begin + 2 * FRESH);
        assert_eq!(crowd.contents.len(), 1, "nothing is left of those who ask no more");
    }

    #[test]
    fn words_reach_those_who_listen_and_are_bounded() {
        let mut crowd = Crowd::default();
        let (content, other, anna) = (ContentId::of(b"x"), ContentId::of(b"y"), PeerId::random());
        let (sender, mut have_updates) = mpsc::channel(2);
        crowd.listen(content, sender);
        for (about, have) in [(other, vec![1]), (content, Vec::new()), (content, vec![2])] {
            crowd.on_have_update(&about, anna, have);
        }
        (0..100).for_each(|_| crowd.on_have_update(&content, anna, vec![3]));
        assert_eq!(have_updates.try_recv(), Ok((anna, vec![2])));
        assert_eq!(have_updates.try_recv(), Ok((anna, vec![3])));
        assert!(have_updates.try_recv().is_err(), "no more than there is room for");
        drop(have_updates);
        let (sender, _words) = mpsc::channel(1);
        for number in 0..2000u32 {
            crowd.listen(ContentId::of(&number.to_be_bytes()), sender.clone());
        }
        assert_eq!(crowd.listeners.len(), MAX_LISTENERS);
    }
}
