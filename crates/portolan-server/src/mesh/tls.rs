//! Builds the QUIC settings of the mesh: mutual TLS 1.3 with ALPN `portolan/1`, and timers short enough that a cut
//! shows within seconds. Decides nothing at run time.

use std::{sync::Arc, time::Duration};

use quinn::{
    ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{Error, crypto::aws_lc_rs, version::TLS13};

use super::MeshConfig;
use crate::verifier::{Admits, ClusterVerifier};

/// Version of what is spoken on the mesh; raised with `portolan_model::codec::VERSION`.
pub(super) const ALPN: &[u8] = b"portolan/1";

/// Pings on an otherwise silent connection: each one is acknowledged, which is what shows that the peer lives.
const KEEP_ALIVE: Duration = Duration::from_millis(300);

/// A connection without a packet for this long is gone. Long enough for eight lost keep-alives.
const IDLE_TIMEOUT_MS: u32 = 2500;

/// Streams of each kind that a peer may have open at once; more wait at the peer.
const MAX_STREAMS: u32 = 128;

/// Bytes that a peer may have sent on a connection's streams and that were not read yet: two of the longest envelopes.
const RECEIVE_WINDOW: u32 = 8 << 20;

/// First packets that wait to be looked at; the loop takes each at once, so this is about a scheduling delay.
const MAX_INCOMING: usize = 256;

/// Bytes that follow a first packet and wait with it: what a client may send before it hears an answer.
const INCOMING_BUFFER: u64 = 16 << 10;

/// Bytes of datagrams that wait for the congestion window; beyond it quinn drops the oldest.
pub(super) const DATAGRAM_BUFFER: usize = 256 << 10;

/// Settings for what peers dial.
pub(super) fn server_config(config: &MeshConfig) -> Result<ServerConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(config)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(&config.pair) as _);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| Error::General(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(transport())
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(MAX_INCOMING as u64 * INCOMING_BUFFER);
    Ok(server)
}

/// Settings for what this node dials.
pub(super) fn client_config(config: &MeshConfig) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(config)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::clone(&config.pair) as _);
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| Error::General(error.to_string()))?;
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(transport());
    Ok(client)
}

fn verifier(config: &MeshConfig) -> Result<Arc<ClusterVerifier>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    ClusterVerifier::new(config.cluster.clone(), Admits::Nodes, Arc::clone(&config.roots), provider)
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .receive_window(RECEIVE_WINDOW.into())
        .max_concurrent_uni_streams(MAX_STREAMS.into())
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER));
    Arc::new(transport)
}
