//! Certificates as libp2p's TLS has them: one, signed by itself, with the node's key and its signature in an extension.
//! Source: <https://github.com/libp2p/specs/blob/master/tls/tls.md>.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::locks::lock;
use libp2p::PeerId;
use libp2p::tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// Certificates that are remembered, 150 bytes each; all are forgotten when there are more.
const MAX_VERIFIED: usize = 4096;
/// How long. A node makes its certificate when it starts.
const VERIFIED_FOR: Duration = Duration::from_secs(60 * 60);

/// Believes whoever proves a key. Which key it has to be, the swarm checks: it knows whom it dialled.
///
/// Two signatures say that a certificate is sound, and whose it is: they are checked when it is first seen. That the other end has
/// its key is proved anew by a signature in each handshake.
#[derive(Debug)]
pub(super) struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    verified: Mutex<Verified>,
}

/// Whose certificates are, by their BLAKE3 hashes.
#[derive(Debug, Default)]
struct Verified(HashMap<[u8; 32], (PeerId, Instant)>);

impl Verified {
    fn get(&self, hash: &[u8; 32], now: Instant) -> Option<PeerId> {
        let fresh = |(_, since): &&(PeerId, Instant)| now.saturating_duration_since(*since) < VERIFIED_FOR;
        self.0.get(hash).filter(fresh).map(|(peer, _)| *peer)
    }

    fn insert(&mut self, hash: [u8; 32], peer: PeerId, now: Instant) {
        if self.0.len() >= MAX_VERIFIED {
            self.0.clear();
        }
        self.0.insert(hash, (peer, now));
    }
}

impl Verifier {
    pub(super) fn new() -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { algorithms, verified: Mutex::default() }
    }

    fn verified(&self) -> MutexGuard<'_, Verified> {
        // It is changed in single steps: a panic leaves nothing half-changed.
        lock(&self.verified)
    }

    /// Whose a certificate is.
    ///
    /// # Errors
    ///
    /// It is not sound.
    pub(super) fn peer_of(&self, certificate: &CertificateDer<'_>) -> Result<PeerId, Error> {
        let (hash, now) = (*blake3::hash(certificate).as_bytes(), Instant::now());
        let known = self.verified().get(&hash, now);
        if let Some(peer) = known {
            return Ok(peer);
        }
        let peer = parse(certificate)?.peer_id();
        self.verified().insert(hash, peer, now);
        Ok(peer)
    }

    fn check(&self, certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("more than one certificate".to_owned()));
        }
        self.peer_of(certificate).map(|_| ())
    }

    /// Whether the other end has the key of its certificate, which was checked before.
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // rustls knows no certificate with a critical extension, as libp2p's may be.
        if let Ok(valid) = rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms) {
            return Ok(valid);
        }
        parse(certificate)?
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'a>) -> Result<certificate::P2pCertificate<'a>, Error> {
    certificate::parse(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// TLS 1.2 is not spoken.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".to_owned()))
}

/// What nodes sign their handshakes with: ECDSA and Ed25519; RSA for those that have nothing else.
fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA512,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA256,
    ]
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_remembered_for_a_while_and_not_without_end() {
        let (mut verified, now, peer) = (Verified::default(), Instant::now(), PeerId::random());
        verified.insert([7; 32], peer, now);
        assert_eq!(verified.get(&[7; 32], now), Some(peer));
        assert_eq!((verified.get(&[8; 32], now), verified.get(&[7; 32], now + VERIFIED_FOR)), (None, None));
        for number in 0..3 * MAX_VERIFIED {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            verified.insert(hash, peer, now);
            assert!(verified.0.len() <= MAX_VERIFIED);
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_and_not_remembered() {
        let verifier = Verifier::new();
        let certificate = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01, 0x00]);
        assert!(verifier.peer_of(&certificate).is_err() && verifier.verified().0.is_empty());
        assert!(verifier.check(&certificate, std::slice::from_ref(&certificate)).is_err());
    }
}
