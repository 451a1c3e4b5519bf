//! Addresses in messages: what does not work for a node is neither told to it nor believed of it.
//!
//! The rule is [`works`]. Builds from before it tell more than they should; what they say is cut when it comes.

use std::sync::{Arc, Mutex, MutexGuard};

use libp2p::{Multiaddr, PeerId, kad};
use swarmdex_protocols::address::works;
use swarmdex_protocols::codec::DecodeError;
use swarmdex_protocols::fetch::Header;
use swarmdex_protocols::mirror::Provider;
use swarmdex_protocols::{fetch, index, mirror};

use crate::locks::lock;
use crate::state::quota::Counts;

/// Which connected nodes are on this host: those with connections over loopback, and how many. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Here(Arc<Mutex<Counts<PeerId>>>);

impl Here {
    /// Whether a node is connected, and on this host.
    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.lock().of(peer) > 0
    }

    /// A connection over loopback stands.
    pub(super) fn on_connected(&self, peer: PeerId) {
        self.lock().add(peer, 1);
    }

    /// It ended.
    pub(super) fn on_closed(&self, peer: &PeerId) {
        self.lock().remove(peer);
    }

    fn lock(&self) -> MutexGuard<'_, Counts<PeerId>> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.0)
    }
}

/// A message with addresses in it.
pub(super) trait Addressed {
    /// Calls `each` for every list of them.
    fn addresses(&mut self, each: impl FnMut(&mut Vec<Multiaddr>));

    /// Leaves those that work between this node and the one that the message comes from or goes to, which is on the same host if `here`.
    fn only_working(mut self, here: bool) -> Self
    where
        Self: Sized,
    {
        self.addresses(|addresses| addresses.retain(|address| works(address, here)));
        self
    }
}

fn of_providers(providers: &mut [Provider], each: impl FnMut(&mut Vec<Multiaddr>)) {
    providers.iter_mut().map(|provider| &mut provider.addresses).for_each(each);
}

impl Addressed for index::IndexRequest {
    fn addresses(&mut self, mut each: impl FnMut(&mut Vec<Multiaddr>)) {
        match self {
            Self::Join(join) => each(&mut join.addresses),
            Self::Connect(connect) => each(&mut connect.addresses),
            _ => {}
        }
    }
}

impl Addressed for index::IndexResponse {
    fn addresses(&mut self, mut each: impl FnMut(&mut Vec<Multiaddr>)) {
        match self {
            Self::Found(found) => found.holders.iter_mut().map(|member| &mut member.addresses).for_each(each),
            Self::Members(members) => members.iter_mut().map(|member| &mut member.addresses).for_each(each),
            Self::Master(followed) => each(&mut followed.addresses),
            _ => {}
        }
    }
}

impl Addressed for mirror::MirrorRequest {
    fn addresses(&mut self, mut each: impl FnMut(&mut Vec<Multiaddr>)) {
        if let Self::Store(store) = self {
            each(&mut store.addresses);
        }
    }
}

impl Addressed for mirror::MirrorResponse {
    fn addresses(&mut self, each: impl FnMut(&mut Vec<Multiaddr>)) {
        match self {
            Self::Providers(providers) => of_providers(providers, each),
            Self::Found(found) => of_providers(&mut found.closer, each),
            Self::Part(stock) => of_providers(&mut stock.nodes, each),
            _ => {}
        }
    }
}

impl Addressed for fetch::FetchRequest {
    fn addresses(&mut self, mut each: impl FnMut(&mut Vec<Multiaddr>)) {
        if let Self::Have(have) = self {
            each(&mut have.addresses);
        }
    }
}

impl Addressed for fetch::FetchResponse {
    fn addresses(&mut self, each: impl FnMut(&mut Vec<Multiaddr>)) {
        if let Header::Have { others, .. } = &mut self.header {
            others.iter_mut().map(|other| &mut other.addresses).for_each(each);
        }
    }
}

impl<M: Addressed> Addressed for Result<M, DecodeError> {
    fn addresses(&mut self, each: impl FnMut(&mut Vec<Multiaddr>)) {
        if let Ok(message) = self {
            message.addresses(each);
        }
    }
}

impl Addressed for kad::Event {
    /// Those of a node that is found under a key, as it says, and of nodes closest to one, as others say.
    fn addresses(&mut self, mut each: impl FnMut(&mut Vec<Multiaddr>)) {
        use kad::{GetClosestPeersError, GetClosestPeersOk, InboundRequest, QueryResult};
        match self {
            Self::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                each(&mut record.addresses);
            }
            Self::OutboundQueryProgressed { result: QueryResult::GetClosestPeers(result), .. } => {
                let (Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. })) = result;
                peers.iter_mut().map(|peer| &mut peer.addrs).for_each(each);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use swarmdex_protocols::fetch::{FetchResponse, Other};

    use super::*;

    #[test]
    fn loopback_addresses_stay_between_nodes_of_one_host() {
        let addresses = || ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"].map(|text| text.parse().unwrap()).to_vec();
        let others = vec![Other { peer: PeerId::random(), addresses: addresses() }; 2];
        let response = FetchResponse::bare(Header::Have { bytes: 0, whole: true, others, sending: false });
        assert_eq!(response.clone().only_working(true), response);
        let Header::Have { others, .. } = response.only_working(false).header else { panic!() };
        assert!(others.iter().all(|other| other.addresses == addresses()[1..]));
        let store = mirror::MirrorRequest::Store(mirror::Store { addresses: addresses(), ..mirror::Store::default() });
        let mirror::MirrorRequest::Store(store) = store.only_working(false) else { panic!() };
        assert_eq!(store.addresses, addresses()[1..]);
        let providers = vec![Provider { peer: PeerId::random(), addresses: addresses() }];
        let mirror::MirrorResponse::Providers(providers) =
            mirror::MirrorResponse::Providers(providers).only_working(false)
        else {
            panic!()
        };
        assert_eq!(providers[0].addresses, addresses()[1..]);
    }
}
