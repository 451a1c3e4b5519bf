//! A node looks for others with its identity where it is itself found in the DHT, and knocks where it does not listen.

use std::time::{Duration, Instant};

use futures::StreamExt;
use swarmdex_protocols::address::{is_dialable, is_tcp, preferred};
use swarmdex_protocols::index::{IndexRequest, IndexResponse};
use swarmdex_protocols::{Multiaddr, RecordKey};

use super::context::Context;
use super::life::Phase;
use super::twins::MAX_STRANGE;
use super::types::MasterState;
use crate::clock::sleep_until;
use crate::state::publish::What;
use crate::state::reign::gives_way;

/// How soon after the start the DHT is asked first; the pause doubles.
const FIRST_CHECK: Duration = Duration::from_secs(1);
/// Addresses that are knocked at in one check, at most.
const MAX_KNOCKS: usize = 4;
/// How long each check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// Of two twins that find each other, the one with the lesser address knocks in every check, and the other in one of
/// this many. Two that knock at each other all the time cannot be told from one that reaches itself.
const SELDOM: u32 = 4;
/// Checks of a member in the time in which records are published once: its master notices by itself.
const CHECKS_OF_MEMBER: u32 = 1;
/// Checks of a master in that time.
const CHECKS_OF_MASTER: u32 = 4;
/// Checks, in that time, of a node that has lost its master.
const CHECKS_ALONE: u32 = 20;
/// A member's first is due after this part of that time: many that start at once have other things to ask.
const FIRST_OF_MEMBER: u32 = 4;

/// Looks for twins until the node stops.
pub(super) struct Lookout {
    pub(super) context: Context,
}

impl Lookout {
    pub(super) async fn run(mut self) {
        let phase = self.context.phase.clone();
        Phase::limit(&phase, self.watch()).await;
    }

    async fn watch(&mut self) {
        let mut met = self.context.net.twins();
        let begin = Instant::now();
        let (mut pause, mut next) = (FIRST_CHECK, begin + FIRST_CHECK);
        let (mut number, mut master) = (0_u32, self.context.master.clone());
        loop {
            tokio::select! {
                changed = met.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let address = met.borrow_and_update().clone();
                    address.iter().for_each(|address| self.context.twins.on_met(address));
                    self.find_master(address.into_iter().collect()).await;
                }
                addresses = self.context.twins.heard_at(), if self.is_master() => self.find_master(addresses).await,
                // Who notices by itself is gone.
                changed = master.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if matches!(*master.borrow_and_update(), MasterState::Unreachable { .. }) {
                        next = next.min(Instant::now() + (self.context.config.dht.republish / CHECKS_ALONE).mul_f64(rand::random_range(1.0..1.5)));
                    }
                }
                () = sleep_until(Some(next)) => {
                    let early = begin.elapsed() < self.context.config.dht.republish / FIRST_OF_MEMBER;
                    if !(early && matches!(*self.context.master.borrow(), MasterState::Joined { .. })) {
                        // The network may not answer at all.
                        let _ = tokio::time::timeout(CHECK_TIMEOUT, self.check(number)).await;
                        number = number.wrapping_add(1);
                    }
                    let checks = match *self.context.master.borrow() {
                        MasterState::Joined { .. } => CHECKS_OF_MEMBER,
                        MasterState::Own | MasterState::Unknown => CHECKS_OF_MASTER,
                        MasterState::Unreachable { .. } => CHECKS_ALONE,
                    };
                    pause = (pause * 2).min((self.context.config.dht.republish / checks).max(FIRST_CHECK));
                    // Two that knock in step might miss each other for ever.
                    next = Instant::now() + pause.mul_f64(rand::random_range(1.0..1.5));
                }
            }
        }
    }

    /// Knocks where this node is found and does not listen. What comes of it is told by the network's loop.
    async fn check(&self, number: u32) {
        let local = self.context.net.local();
        let own = self.context.net.listen().borrow().clone();
        let mut strange: Vec<Multiaddr> = Vec::new();
        let key = RecordKey::node(self.context.network(), &local);
        {
            let mut found = std::pin::pin!(self.context.mirror.providers(key).await);
            while let Some(provider) = found.next().await {
                if provider.peer != local {
                    continue;
                }
                let unknown = |address: &Multiaddr| is_dialable(address) && !own.contains(address);
                for address in provider.addresses.into_iter().filter(unknown) {
                    if strange.len() < MAX_STRANGE && !strange.contains(&address) {
                        strange.push(address);
                    }
                }
            }
        }
        if strange.is_empty() {
            return;
        }
        // Nodes know the addresses of who published last. Two that publish in step would leave one of them in the dark.
        if !self.context.config.transient && !self.context.twins.is_refused() {
            self.context.mirror.store(vec![(key, What::Provide)]).await;
        }
        if self.is_master() {
            // It is asked as by a stranger, which nobody takes for a meeting.
            return self.find_master(strange).await;
        }
        if !(number.is_multiple_of(SELDOM) || is_lesser(&own, &strange)) {
            return;
        }
        let knocks = to_knock_at(strange).into_iter().map(|address| {
            let connecting = self.context.net.connect(None, vec![address.clone()]);
            async move {
                // Nobody there, or somebody else: the address is an old one of this node.
                let outcome = connecting.await;
                tracing::debug!(%address, ?outcome, "knocked where this node is said to be");
            }
        });
        futures::future::join_all(knocks).await;
    }
}

impl Lookout {
    fn is_master(&self) -> bool {
        matches!(*self.context.master.borrow(), MasterState::Own)
    }

    /// Sees whether another master with this one's key is at one of these addresses, and which of the two gives way.
    async fn find_master(&self, addresses: Vec<Multiaddr>) {
        if addresses.is_empty() || !self.is_master() {
            return;
        }
        let asking = to_knock_at(addresses).into_iter().map(|address| async {
            let followed = self.context.net.twin_at(address.clone()).await;
            (address, followed.and_then(|followed| followed.reign))
        });
        for (address, reign) in futures::future::join_all(asking).await {
            // Nobody there, or this node itself by a detour.
            let Some(theirs) = reign.filter(|theirs| theirs.run != self.context.net.run()) else { continue };
            self.context.twins.on_met(&address);
            let Ok(IndexResponse::Master(own)) =
                self.context.net.index(self.context.net.local(), IndexRequest::Master).await
            else {
                return;
            };
            if own.reign.is_some_and(|own| gives_way(&own, &theirs)) {
                let reason = format!(
                    "another master runs with this one's key, at {address}, and its index is the newer: this one grants nothing any more; stop it, and start it again only where the other does not run (with a copy of the other's data directory nothing is lost)"
                );
                self.context.twins.on_gave_way(&reason);
                self.context.net.give_way(reason).await;
            }
        }
    }
}

/// Over TCP where that is possible: whoever is gone is then known to be at once, and not only after the time that a
/// connection over QUIC may take.
fn to_knock_at(addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let mut addresses = preferred(addresses, is_tcp);
    addresses.truncate(MAX_KNOCKS);
    addresses
}

/// Whether the least of this node's addresses comes before the least of the others.
fn is_lesser(own: &[Multiaddr], strange: &[Multiaddr]) -> bool {
    let least = |addresses: &[Multiaddr]| addresses.iter().map(Multiaddr::to_vec).min();
    least(own) < least(strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_twins_one_is_the_lesser() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Multiaddr>>();
        let one = parse(&["/ip4/10.0.0.1/udp/9/quic-v1", "/ip4/10.0.0.1/tcp/5", "/ip4/10.0.0.1/tcp/7"]);
        let other = parse(&["/ip4/10.0.0.1/tcp/6", "/ip4/10.0.0.1/udp/1/quic-v1"]);
        assert!(is_lesser(&one, &other) && !is_lesser(&other, &one));
    }

    #[test]
    fn knocks_are_few_and_over_tcp_if_possible() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Multiaddr>>();
        let quic = parse(&["/ip4/10.0.0.1/udp/9/quic-v1", "/ip6/::1/udp/9/quic-v1"]);
        let tcp = parse(&["/ip4/10.0.0.1/tcp/9", "/ip6/::1/tcp/9"]);
        assert_eq!(to_knock_at([&quic[..], &tcp[..]].concat()), tcp);
        assert_eq!(to_knock_at(quic.clone()), quic);
        let many = (1..20).map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()).collect();
        assert_eq!(to_knock_at(many).len(), MAX_KNOCKS);
    }
}
