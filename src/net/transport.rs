//! Connections over TCP: TLS 1.3 as libp2p specifies it, with the cipher that the processor is fastest at. Buffers
//! above and below make large reads and writes of many small ones.
//!
//! `libp2p::tls` speaks the same protocol, but prefers ChaCha20 wherever it runs. It writes each frame of the muxer by
//! itself, and reads 4 KiB at a time. About half of the processor time of a download went there. Handshake,
//! certificates and the meaning of a peer id are rustls's and libp2p's own.

mod ahead;
mod coalesce;
mod muxer;
mod pace;
mod port;
mod records;
mod socket;
mod verify;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ahead::Ahead;
use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, Version};
use libp2p::core::{Negotiated, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, tcp, tls, yamux};
use muxer::{Mux, Muxer};
pub(super) use port::AnyPort;
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::{IpAddr, ServerName};
use verify::Verifier;

use super::gate::Door;

/// Id and application protocol of libp2p's TLS; source: <https://github.com/libp2p/specs/blob/master/tls/tls.md>.
const PROTOCOL: &str = "/tls/1.0.0";
const ALPN: &[u8] = b"libp2p";
/// Ciphertext that waits for the socket, in bytes: two records. What is ready to be encrypted waits above, as long as it may.
const MAX_UNSENT: usize = 32 << 10;

/// Why a connection is not encrypted.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// The certificate of this node could not be made.
    #[error("the certificate for encrypted connections could not be made")]
    Certificate(#[from] tls::certificate::GenError),
    /// rustls does not take the settings.
    #[error("TLS could not be set up")]
    Setup(#[from] rustls::Error),
    /// The handshake failed.
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    /// The other node has no valid certificate.
    #[error("the other node's certificate is not valid")]
    Peer,
}

/// TCP, encrypted, with `muxer` on top. The gate of `door` stands above it.
pub(super) fn tcp(
    keypair: &Keypair,
    muxer: yamux::Config,
    door: Door,
) -> Result<
    impl Transport<Output = (PeerId, Connection), Dial: Send, ListenerUpgrade: Send, Error: Send + Sync> + Unpin + use<>,
    TlsError,
> {
    let transport = AnyPort::new(tcp::Config::new().nodelay(true)).behind(door);
    let ahead = transport.map(|socket, _| Ahead::new(socket));
    Ok(ahead.upgrade(Version::V1Lazy).authenticate(Tls::new(keypair)?).multiplex(Mux(muxer)))
}

/// What carries the streams of a connection over TCP.
pub(super) type Connection = Muxer<Negotiated<TlsStream<Negotiated<Ahead<tcp::tokio::TcpStream>>>>>;

/// The upgrade of a connection to an encrypted one.
#[derive(Clone)]
struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    verifier: Arc<Verifier>,
}

impl Tls {
    /// Makes the certificate that proves `keypair`.
    fn new(keypair: &Keypair) -> Result<Self, TlsError> {
        let versions = &[&rustls::version::TLS13];
        let (server_side, client_side) = (tls::make_server_config(keypair)?, tls::make_client_config(keypair, None)?);
        let verifier = Arc::new(Verifier::new());
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(server_side.cert_resolver);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its key anew.
        server.send_tls13_tickets = 0;
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(client_side.client_auth_cert_resolver);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;
        Ok(Self { server: Arc::new(server), client: Arc::new(client), verifier })
    }
}

/// AES first where the processor has instructions for it: 2 to 4 times as fast as ChaCha20 there, and slow elsewhere.
fn provider() -> CryptoProvider {
    let (aes128, aes256) = if has_wide_aes() {
        (ring::cipher_suite::TLS13_AES_128_GCM_SHA256, ring::cipher_suite::TLS13_AES_256_GCM_SHA384)
    } else {
        (aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384)
    };
    let mut suites = vec![aes128, aes256, aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    if !has_aes() {
        suites.rotate_right(1);
    }
    CryptoProvider { cipher_suites: suites, ..aws_lc_rs::default_provider() }
}

/// Whether the processor encrypts two blocks at a time, and not four. Two are what ring makes use of (6.6 GB/s and not 3.3
/// on an AMD EPYC of the third generation); four are what AWS-LC does.
fn has_wide_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("vaes")
        && std::arch::is_x86_feature_detected!("vpclmulqdq")
        && std::arch::is_x86_feature_detected!("avx2")
        && !std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            let accepted = TlsAcceptor::from(self.server).accept(socket).await;
            finish(accepted.map_err(TlsError::Handshake)?.into(), &self.verifier)
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Tls {
    type Output = (PeerId, TlsStream<C>);
    type Error = TlsError;
    type Future = BoxFuture<'static, Result<Self::Output, TlsError>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        async move {
            // A node is known by its key, not by a name; an address as name is not sent.
            let nobody = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
            let connected = TlsConnector::from(self.client).connect(nobody, socket).await;
            finish(connected.map_err(TlsError::Handshake)?.into(), &self.verifier)
        }
        .boxed()
    }
}

fn finish<C>(mut stream: TlsStream<C>, verifier: &Verifier) -> Result<(PeerId, TlsStream<C>), TlsError> {
    match &mut stream {
        TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(MAX_UNSENT)),
        TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(MAX_UNSENT)),
    }
    let Some([certificate]) = stream.get_ref().1.peer_certificates() else { return Err(TlsError::Peer) };
    let peer = verifier.peer_of(certificate).map_err(|_| TlsError::Peer)?;
    Ok((peer, stream))
}
