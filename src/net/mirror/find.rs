//! One name, looked up with few questions: see `state::find`.

use futures::stream::FuturesUnordered;
use swarmdex_protocols::mirror::KeyFound;

use super::closest::SLOW;
use super::*;
use crate::net::dht::Counted;
use crate::state::find::Find;

/// How long all of it may take: Kademlia's own question is the sure one.
const PATIENCE: Duration = Duration::from_secs(2);

impl Mirror {
    /// What some of the nodes closest to a name say of it, checked; `None` unless enough of them have something to say.
    pub(crate) async fn find(&self, name: &Name) -> Option<Tally> {
        let authority = self.net.authority()?;
        let key = self.key(name);
        let known = self.net.known_closest(&key).await;
        let mut find = Find::new(position_of_key(&key), known.iter().map(|(peer, _)| (position_of_peer(peer), *peer)));
        let mut located: BTreeMap<_, _> = known.into_iter().collect();
        let (mut asking, mut tally) = (FuturesUnordered::new(), Tally::default());
        let end = tokio::time::Instant::now() + PATIENCE;
        while !find.has_enough() {
            while let Some(node) = find.next_node() {
                let addresses = located.get(&node).cloned().unwrap_or_default();
                asking.push(async move {
                    self.net.count(Counted::Lookup).await;
                    (node, self.ask(node, &addresses, MirrorRequest::Find(key)).await)
                });
            }
            if asking.is_empty() {
                return None;
            }
            let slow = tokio::time::sleep(SLOW);
            let (node, answer) = tokio::select! {
                Some(answer) = asking.next() => answer,
                () = slow => {
                    find.on_slow();
                    continue;
                }
                () = tokio::time::sleep_until(end) => return None,
            };
            let Ok(MirrorResponse::Found(KeyFound { statements, closer })) = answer else {
                find.on_failed(node);
                continue;
            };
            let ledger = checked(name, statements, &authority).filter(|ledger| !ledger.is_empty());
            let has = ledger.is_some();
            ledger.into_iter().for_each(|ledger| tally.add(&ledger, now().unix_ms));
            find.on_answer(node, has, self.named(closer, &mut located));
        }
        Some(tally)
    }
}
