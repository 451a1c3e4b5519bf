//! Content ids, geometry, proofs and certificates.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use swarmdex_protocols::address::is_dialable;
use swarmdex_protocols::content::{Geometry, Outboard, Proof, chunk_value, verify_chunk};
use swarmdex_protocols::fetch;
use swarmdex_protocols::index::ShareDigest;
use swarmdex_protocols::limits::MAX_FILE_BYTES;
use swarmdex_protocols::statement::{CERTIFICATE_LIFETIME_MS, CLOCK_TOLERANCE_MS, Invalid, key_of};
use swarmdex_protocols::{Certificate, ContentId, Entry, Keypair, Name, Network, PeerId, Version};

const CHUNK: u64 = 256 << 10;

fn noise(length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn build(bytes: &[u8]) -> (Geometry, Outboard, ContentId) {
    let geometry = Geometry::new(bytes.len() as u64).unwrap();
    let values = bytes.chunks(CHUNK as usize).enumerate();
    let values = values.map(|(index, chunk)| chunk_value(&geometry, index as u64, chunk)).collect();
    let (outboard, content) = Outboard::build(geometry, values).unwrap();
    (geometry, outboard, content)
}

fn chunk(bytes: &[u8], index: u64) -> &[u8] {
    bytes.chunks(CHUNK as usize).nth(index as usize).unwrap()
}

#[test]
fn every_chunk_of_every_shape_of_tree_is_verified_alone() {
    for chunks in 2..=20 {
        for tail in [1, 1025, CHUNK] {
            let bytes = noise((chunks - 1) * CHUNK + tail);
            let (geometry, outboard, content) = build(&bytes);
            assert_eq!(content, ContentId::of(&bytes), "the plain hash, {chunks} chunks");
            assert_eq!(geometry.chunks(), chunks);
            assert_eq!(outboard.as_bytes().len() as u64, 32 * Outboard::node_count(&geometry));
            assert_eq!(outboard.leaf_bytes().len() as u64, 32 * chunks);
            assert_eq!(Outboard::from_bytes(geometry, outboard.as_bytes()), Some(outboard.clone()));
            for index in 0..chunks {
                let proof = outboard.proof(index).unwrap();
                verify_chunk(&content, &geometry, index, chunk(&bytes, index), &proof).unwrap();
            }
            assert_eq!(outboard.proof(chunks), None);
        }
    }
}

#[test]
fn nothing_else_is_taken_for_a_chunk() {
    let bytes = noise(5 * CHUNK + 99);
    let (geometry, outboard, content) = build(&bytes);
    let proof = |index| outboard.proof(index).unwrap();
    let verify = |index, bytes: &[u8], proof: &Proof| verify_chunk(&content, &geometry, index, bytes, proof).is_ok();
    let mut flipped = chunk(&bytes, 2).to_vec();
    flipped[1000] ^= 1;
    assert!(verify(2, chunk(&bytes, 2), &proof(2)));
    assert!(!verify(2, &flipped, &proof(2)), "a flipped bit");
    assert!(!verify(3, chunk(&bytes, 2), &proof(2)), "another index");
    assert!(!verify(2, chunk(&bytes, 3), &proof(3)), "another chunk with its own proof");
    assert!(!verify(2, chunk(&bytes, 2), &proof(3)), "another proof");
    assert!(!verify(2, &chunk(&bytes, 2)[1..], &proof(2)), "too short");
    assert!(!verify(u64::MAX, chunk(&bytes, 2), &proof(2)), "far beyond the end");
    let siblings = proof(2).siblings().to_vec();
    assert!(!verify(2, chunk(&bytes, 2), &Proof::new(siblings[1..].to_vec())), "a proof too short");
    let long = [&siblings[..], &[[0; 32]]].concat();
    assert!(!verify(2, chunk(&bytes, 2), &Proof::new(long)), "a proof too long");
    // Inner nodes are no chunks: a file made of two chaining values is not this one.
    let other = Geometry::new(64).unwrap();
    assert!(verify_chunk(&content, &other, 0, &[0; 64], &Proof::default()).is_err());
}

#[test]
fn small_files_are_one_chunk_and_empty_ones_too() {
    for length in [0, 1, 1024, CHUNK] {
        let bytes = noise(length);
        let geometry = Geometry::new(length).unwrap();
        assert_eq!(geometry.chunks(), 1);
        let content = ContentId::of(&bytes);
        verify_chunk(&content, &geometry, 0, &bytes, &Proof::default()).unwrap();
        assert!(verify_chunk(&content, &geometry, 0, &bytes, &Proof::new(vec![[0; 32]])).is_err());
        assert!(verify_chunk(&ContentId::of(b"?"), &geometry, 0, &bytes, &Proof::default()).is_err());
        assert_eq!(Outboard::empty(geometry).proof(0), Some(Proof::default()));
    }
    // What b3sum prints for nothing.
    let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(ContentId::of(b"").to_string(), empty);
    assert_eq!(empty.parse(), Ok(ContentId::of(b"")));
    assert!("xyz".parse::<ContentId>().is_err());
}

#[test]
fn chunks_grow_with_the_file_and_never_over_a_response() {
    let chunk_bytes = |size| Geometry::new(size).unwrap().chunk_bytes();
    assert_eq!([0, 1, 4 << 30].map(chunk_bytes), [CHUNK; 3]);
    assert_eq!(chunk_bytes((4 << 30) + 1), 2 * CHUNK);
    assert_eq!([(8 << 30) + 1, 16 << 30, 1 << 40, MAX_FILE_BYTES].map(chunk_bytes), [4 * CHUNK; 4]);
    assert!(Geometry::new(MAX_FILE_BYTES + 1).is_err() && Geometry::new(u64::MAX).is_err());
}

proptest! {
    #[test]
    fn geometry_never_panics_and_covers_the_file(size in 0..=MAX_FILE_BYTES, index in any::<u64>(), first in any::<u64>(), count in any::<u32>()) {
        let geometry = Geometry::new(size).unwrap();
        let last = geometry.chunks() - 1;
        prop_assert_eq!(geometry.offset(last) + geometry.len(last), size);
        prop_assert!(geometry.chunk_bytes().is_power_of_two() && geometry.chunks_per_response() >= 1);
        if index > last {
            prop_assert_eq!(geometry.len(index), 0);
        }
        let request = fetch::ChunkRun { content: ContentId::of(b""), first, count };
        if let Ok(range) = request.range(&geometry) {
            prop_assert!(range.end <= size && range.end - range.start <= 1 << 20);
        }
    }

    #[test]
    fn a_share_digest_knows_no_order(mut entries in prop::collection::vec((".{0,10}", any::<[u8; 32]>(), any::<u64>(), any::<u64>()), 0..20), cut in any::<prop::sample::Index>()) {
        let digest = |entries: &[(String, [u8; 32], u64, u64)]| {
            let mut digest = ShareDigest::empty();
            entries.iter().for_each(|(name, content, size, version)| digest.toggle(name, &ContentId::from_bytes(*content), *size, Version(*version)));
            digest
        };
        let before = digest(&entries);
        if !entries.is_empty() {
            let at = cut.index(entries.len());
            entries.rotate_left(at);
            prop_assert_eq!(digest(&entries), before);
            entries.pop();
            prop_assert_ne!(digest(&entries), before);
        }
    }
}

#[test]
fn versions_rise_whatever_the_clock_does() {
    let mut version = Version::default();
    for unix_ms in [1_800_000_000_000, 1_800_000_000_000, 5, 1_900_000_000_000, 0, u64::MAX] {
        let next = version.next(unix_ms);
        assert!(next > version);
        version = next;
    }
    // Doubles hold every version until 2248.
    assert!(Version::default().next(8_796_000_000_000).0 < 1 << 53);
}

fn certificate(unix_ms: u64) -> (Certificate, Keypair, Network) {
    let master = Keypair::generate_ed25519();
    let network = Network::parse("lab").unwrap();
    let name = Name::parse("a/b").unwrap();
    let entry = Entry {
        name,
        content: ContentId::of(b"x"),
        size: 1,
        owner: PeerId::random(),
        version: Version(5),
        attributes: None,
    };
    (Certificate::sign(entry, &network, &master, unix_ms).unwrap(), master, network)
}

#[test]
fn a_certificate_holds_for_just_what_was_signed() {
    const NOW: u64 = 1_800_000_000_000;
    let (good, master, network) = certificate(NOW);
    let verify = |certificate: &Certificate| certificate.verify(&network, &master.public(), NOW);
    verify(&good).unwrap();
    let mut forged = vec![good.clone(); 8];
    forged[0].entry.name = Name::parse("a/c").unwrap();
    forged[1].entry.content = ContentId::of(b"y");
    forged[2].entry.size = 2;
    forged[3].entry.owner = PeerId::random();
    forged[4].entry.version = Version(6);
    forged[5].seal.issued_ms -= 1;
    forged[6].seal.expires_ms -= 1;
    forged[7].seal.signature[0] ^= 1;
    for (number, certificate) in forged.iter().enumerate() {
        let expected = if number == 5 { Invalid::Dates } else { Invalid::Signature };
        assert_eq!(verify(certificate), Err(expected), "field {number}");
    }
    let other = Network::parse("other").unwrap();
    assert_eq!(good.verify(&other, &master.public(), NOW), Err(Invalid::Signature));
    let stranger = Keypair::generate_ed25519();
    assert_eq!(good.verify(&network, &stranger.public(), NOW), Err(Invalid::Signature));
    assert_eq!(key_of(&master.public().to_peer_id()), Some(master.public()));
}

#[test]
fn a_certificate_has_its_time() {
    const NOW: u64 = 1_800_000_000_000;
    let (good, master, network) = certificate(NOW);
    let at = |unix_ms| good.verify(&network, &master.public(), unix_ms);
    assert_eq!(at(NOW + CERTIFICATE_LIFETIME_MS), Ok(()));
    assert_eq!(at(NOW + CERTIFICATE_LIFETIME_MS + CLOCK_TOLERANCE_MS + 1), Err(Invalid::Expired));
    assert_eq!(at(NOW - CLOCK_TOLERANCE_MS), Ok(()));
    assert_eq!(at(NOW - CLOCK_TOLERANCE_MS - 1), Err(Invalid::Dates));
    let mut eternal = good.clone();
    eternal.seal.expires_ms = u64::MAX;
    assert_eq!(eternal.verify(&network, &master.public(), NOW), Err(Invalid::Dates));
    eternal.seal.expires_ms = 0;
    assert_eq!(eternal.verify(&network, &master.public(), NOW), Err(Invalid::Dates));
}

#[test]
fn addresses_are_those_that_a_node_can_be_reached_at() {
    let id = PeerId::random();
    for good in [
        "/ip4/10.0.0.1/tcp/1",
        "/ip6/::1/udp/9/quic-v1",
        "/dns4/example.org/tcp/80",
        &format!("/ip4/1.2.3.4/tcp/1/p2p/{id}"),
    ] {
        assert!(is_dialable(&good.parse().unwrap()), "{good}");
    }
    let long = format!("/dns4/{}/tcp/1", "a".repeat(500));
    for bad in [
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/255.255.255.255/tcp/1",
        "/ip4/10.0.0.1/tcp/0",
        "/ip4/10.0.0.1/udp/53",
        "/ip4/10.0.0.1",
        "/memory/5",
        "/ip4/10.0.0.1/tcp/1/ws",
        "/unix/tmp",
        &long,
        &format!("/ip4/10.0.0.1/tcp/1/p2p/{id}/p2p-circuit"),
    ] {
        assert!(!is_dialable(&bad.parse().unwrap()), "{bad}");
    }
}
