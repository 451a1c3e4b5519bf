//! Packets of libp2p's mDNS; source: <https://github.com/libp2p/specs/blob/master/discovery/mdns.md>.

use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{PTR, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// What nodes are asked for by.
const SERVICE: &str = "_p2p._udp.local.";
/// What an address in a text begins with, and the longest text of DNS.
const KEY: &str = "dnsaddr=";
const MAX_TEXT: usize = 255;
/// Addresses in a packet that fits into one of Ethernet, and those that are taken from one.
const MAX_ANSWERED: usize = 5;
const MAX_TAKEN: usize = 32;
/// How long others may believe what they were told, at most: whatever the sender says.
const LONGEST: Duration = Duration::from_secs(900);

/// A node as it says where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LanAddress {
    pub(super) peer: PeerId,
    /// Without its peer id.
    pub(super) address: Multiaddr,
    /// For how long that counts; nothing if it does not any more.
    pub(super) lives: Duration,
}

/// A packet that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// Who is there?
    Query,
    /// Somebody says so.
    Addresses(Vec<LanAddress>),
}

/// The question who is there.
pub(super) fn query() -> Option<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(SERVICE).ok()?, RecordType::PTR));
    message.to_vec().ok()
}

/// What this node answers, in as many packets as it takes. `name` is one label that others do not use.
pub(super) fn answers(local: PeerId, name: &str, addresses: &[Multiaddr], lives: Duration) -> Vec<Vec<u8>> {
    let packet = |addresses: &[Multiaddr]| {
        let (service, seconds) = (Name::from_ascii(SERVICE).ok()?, u32::try_from(lives.as_secs()).unwrap_or(u32::MAX));
        let own = service.prepend_label(name).ok()?;
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.authoritative = true;
        message.add_answer(Record::from_rdata(service, seconds, RData::PTR(PTR(own.clone()))));
        for address in addresses {
            let text = format!("{KEY}{}", address.clone().with(Protocol::P2p(local)));
            if text.len() <= MAX_TEXT {
                message.add_additional(Record::from_rdata(own.clone(), seconds, RData::TXT(TXT::new(vec![text]))));
            }
        }
        message.to_vec().ok()
    };
    addresses.chunks(MAX_ANSWERED).filter_map(packet).collect()
}

/// Reads what came; `None` if it is not of interest, or makes no sense.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let message = Message::from_vec(bytes).ok()?;
    if !message.queries.is_empty() {
        let asked = message.queries.iter().any(|query| query.name().to_ascii().eq_ignore_ascii_case(SERVICE));
        return asked.then_some(Packet::Query);
    }
    let is_of_service = |record: &&Record| record.name.to_ascii().eq_ignore_ascii_case(SERVICE);
    let names: Vec<_> = message
        .answers
        .iter()
        .filter(is_of_service)
        .filter_map(|record| if let RData::PTR(name) = &record.data { Some(&name.0) } else { None })
        .take(MAX_TAKEN)
        .collect();
    let told = message.additionals.iter().filter(|record| names.contains(&&record.name)).filter_map(|record| {
        let RData::TXT(text) = &record.data else { return None };
        let text = std::str::from_utf8(text.txt_data.first()?).ok()?;
        let mut address = text.strip_prefix(KEY)?.parse::<Multiaddr>().ok()?;
        let Some(Protocol::P2p(peer)) = address.pop() else { return None };
        Some(LanAddress { peer, address, lives: Duration::from_secs(record.ttl.into()).min(LONGEST) })
    });
    Some(Packet::Addresses(told.take(MAX_TAKEN).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_told_is_read_back() {
        let peer = PeerId::random();
        let address = |number: usize| format!("/ip6/fd00::{number:x}/tcp/4747").parse::<Multiaddr>().unwrap();
        for count in [0, 1, MAX_ANSWERED, MAX_ANSWERED + 1, 4 * MAX_ANSWERED] {
            let addresses: Vec<_> = (0..count).map(address).collect();
            let lives = Duration::from_secs(360);
            let mut all = Vec::new();
            for packet in answers(peer, "abc", &addresses, lives) {
                assert!(packet.len() <= 1200, "{}", packet.len());
                let Some(Packet::Addresses(told)) = parse(&packet) else { panic!() };
                all.extend(told);
            }
            let told = addresses.into_iter().map(|address| LanAddress { peer, address, lives });
            assert_eq!(all, told.collect::<Vec<_>>());
        }
        assert_eq!(parse(&query().unwrap()), Some(Packet::Query));
    }

    #[test]
    fn a_time_to_live_is_bounded_and_what_is_no_address_is_left_out() {
        let peer = PeerId::random();
        let packets = answers(peer, "abc", &["/ip6/fd00::1/tcp/1".parse().unwrap()], Duration::MAX);
        let Some(Packet::Addresses(told)) = parse(&packets[0]) else { panic!() };
        assert_eq!(told[0].lives, LONGEST);
        let own = Name::from_ascii("abc._p2p._udp.local.").unwrap();
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_answer(Record::from_rdata(Name::from_ascii(SERVICE).unwrap(), 60, RData::PTR(PTR(own.clone()))));
        for text in ["", "dnsaddr=", "dnsaddr=/ip6/fd00::1/tcp/1", "other=1", "dnsaddr=nothing"] {
            message.add_additional(Record::from_rdata(own.clone(), 60, RData::TXT(TXT::new(vec![text.to_owned()]))));
        }
        assert_eq!(parse(&message.to_vec().unwrap()), Some(Packet::Addresses(Vec::new())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
        }

        #[test]
        fn a_packet_that_was_damaged_is_read_without_harm(at in 0..200usize, byte: u8, cut in 0..200usize) {
            let mut packet = answers(PeerId::random(), "abc", &["/ip6/fd00::1/tcp/1".parse().unwrap()], LONGEST).remove(0);
            let at = at % packet.len();
            packet[at] = byte;
            packet.truncate(packet.len().min(cut + 1));
            parse(&packet);
        }
    }
}
