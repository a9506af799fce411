//! Carries envelopes between the nodes of a cluster over one UDP port: QUIC with mutual TLS, ALPN `portolan/1`.
//!
//! Decides who may speak (nodes of this cluster that the node file names) and which way an envelope goes: a datagram
//! when it may and fits, else a stream of its own; a request is a stream in both directions. Never looks inside an
//! envelope beyond its version byte, and never lets one peer name itself: the sender is what the certificate says.
//!
//! Every node dials every peer and sends on the connections it dialled; what comes in over accepted ones is received.
//! So each direction heals on its own, and no rule is needed for which of two connections to keep.

mod accept;
mod gate;
mod link;
mod stats;
mod tls;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use portolan_model::{Name, NodeName, RegionId};
use quinn::Endpoint;
use rustls::RootCertStore;
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
};

pub use self::stats::{MeshStats, PeerStats, Refusal};
use self::{link::Link, stats::Counters};
use crate::{certificates::ReloadingPair, clock::Clock, identity::NodeIdentity};

/// Envelopes received and not yet taken by the node's loop. At the bound datagrams are dropped and counted, streams
/// wait. Each peer has a budget of bytes besides (`link`), so one of them cannot fill it with large envelopes.
const INBOX: usize = 4096;

/// What a mesh is made of.
pub struct MeshConfig {
    /// Name of the cluster, as certificates spell it.
    pub cluster: Name,
    /// Where to listen and to dial from; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// The peers to dial and to listen to. Without this node.
    pub peers: BTreeMap<NodeName, PeerAddress>,
    /// The node's own certificate and key.
    pub pair: Arc<ReloadingPair>,
    /// The CA of the cluster.
    pub roots: Arc<RootCertStore>,
    /// Measures how long ago a peer was heard.
    pub clock: Clock,
}

/// Where a peer is.
#[derive(Clone, Debug)]
pub struct PeerAddress {
    /// Its region; a certificate that says otherwise is refused.
    pub region: RegionId,
    /// Its mesh address.
    pub address: SocketAddr,
}

/// One envelope from a peer.
#[derive(Debug)]
pub struct Inbound {
    /// Who sent it, by its certificate.
    pub from: NodeIdentity,
    /// The envelope.
    pub envelope: Bytes,
    /// What it costs of its sender's budget, until it is dropped.
    _paid: OwnedSemaphorePermit,
}

/// How much an envelope is worth when the path is congested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A sign of life: others take this node for dead without it.
    Vital,
    /// Whatever is repeated or repaired later.
    Ordinary,
}

/// Answers requests of peers. An answer of `None` resets the stream.
pub type Answer = Arc<dyn Fn(NodeIdentity, Vec<u8>) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync>;

/// A running mesh; clones share it.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

/// State that the dialling, accepting and sending sides share.
struct Shared {
    endpoint: Endpoint,
    cluster: Name,
    links: BTreeMap<NodeName, Arc<Link>>,
    counters: Counters,
    clock: Clock,
}

/// Why a mesh does not start.
#[derive(Debug, Error)]
pub enum MeshError {
    /// The UDP port cannot be had.
    #[error("cannot listen for the mesh on UDP {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The CA or the node's certificate cannot be used for the mesh.
    #[error("the mesh certificates are not usable")]
    Tls(#[source] rustls::Error),
}

/// Why a request has no answer. The peer may or may not have acted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No peer of this name is known.
    #[error("the peer is not known")]
    UnknownPeer,
    /// There is no connection to the peer.
    #[error("the peer is not connected")]
    NotConnected,
    /// The connection broke, or the peer reset the stream.
    #[error("the connection to the peer broke")]
    Broken,
    /// No answer came in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The answer is of another version.
    #[error("the answer has another version")]
    UnknownVersion,
}

impl Mesh {
    /// Binds the port, starts to dial and to listen. Tasks run in `tasks` and end with it.
    pub fn start(
        config: MeshConfig,
        answer: Answer,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Self, mpsc::Receiver<Inbound>), MeshError> {
        let (inbox, inbound) = mpsc::channel(INBOX);
        let server = tls::server_config(&config).map_err(MeshError::Tls)?;
        let client = tls::client_config(&config).map_err(MeshError::Tls)?;
        let bind = |source| MeshError::Bind { address: config.bind, source };
        let mut endpoint = Endpoint::server(server, config.bind).map_err(bind)?;
        endpoint.set_default_client_config(client);
        let links = config.peers.into_iter().map(|(name, peer)| {
            let identity = NodeIdentity { region: peer.region, name: name.clone() };
            (name, Arc::new(Link::new(identity, peer.address)))
        });
        let shared = Arc::new(Shared {
            endpoint,
            cluster: config.cluster,
            links: links.collect(),
            counters: Counters::default(),
            clock: config.clock,
        });
        for link in shared.links.values() {
            link::spawn(Arc::clone(link), Arc::clone(&shared), tasks);
        }
        tasks.spawn(accept::run(Arc::clone(&shared), inbox, answer));
        Ok((Self { shared }, inbound))
    }

    /// The address the mesh listens on.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Sends an envelope as a datagram when it fits, else on a stream. Never waits; losses are counted.
    pub fn send_datagram(&self, to: &NodeName, envelope: Bytes, urgency: Urgency) {
        if let Some(link) = self.shared.links.get(to) {
            link.send_datagram(envelope, urgency, &self.shared.counters);
        }
    }

    /// Sends an envelope on a stream of its own: larger than a datagram, repeated by QUIC when lost. Never waits.
    pub fn send_stream(&self, to: &NodeName, envelope: Bytes) {
        if let Some(link) = self.shared.links.get(to) {
            link.send_stream(envelope, &self.shared.counters);
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&self, to: &NodeName, request: &[u8], timeout: Duration) -> Result<Vec<u8>, RequestError> {
        let link = self.shared.links.get(to).ok_or(RequestError::UnknownPeer)?;
        let answer = tokio::time::timeout(timeout, link.request(request)).await;
        answer.unwrap_or(Err(RequestError::Timeout))
    }

    /// Counts an envelope that its reader could not decode.
    pub fn count_malformed(&self) {
        self.shared.counters.refuse(Refusal::Malformed);
    }

    /// What was carried, lost and refused since start.
    pub fn stats(&self) -> MeshStats {
        let now = self.shared.clock.now().mono;
        self.shared.counters.snapshot(self.shared.links.iter().map(|(name, link)| (name.clone(), link.stats(now))))
    }

    /// Tells the peers that this node leaves, so that they need not wait for silence.
    pub async fn close(&self) {
        /// How long the goodbye may take: it is a courtesy.
        const GOODBYE: Duration = Duration::from_millis(500);
        self.shared.endpoint.close(0u32.into(), b"shutdown");
        // A peer that does not acknowledge in time notices by itself.
        let _ = tokio::time::timeout(GOODBYE, self.shared.endpoint.wait_idle()).await;
    }
}

/// The version byte leads every envelope (`portolan_model::codec`).
fn has_known_version(envelope: &[u8]) -> bool {
    envelope.first() == Some(&portolan_model::codec::VERSION)
}

#[cfg(test)]
mod tests;
