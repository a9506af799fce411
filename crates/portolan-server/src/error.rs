//! Why a node does not start. Each variant names the file, port or part at fault.

use std::{io, net::SocketAddr, path::PathBuf};

use portolan_config::Faults;
use thiserror::Error;

use crate::{certificates::CertificateError, mesh::MeshError};

/// Why a node does not start or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// A port is taken, or the address is not this machine's. Nothing was started.
    #[error("cannot listen for {listener} on {address}")]
    Listen {
        /// What would have listened: `dns over UDP`, `admin`…
        listener: &'static str,
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The mesh does not start.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// A certificate, key or CA file cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate of the node names somebody else than the node file.
    #[error("`{path}` is the certificate of {found}, not of node {wanted} of cluster {cluster}")]
    WrongIdentity {
        /// The certificate file.
        path: PathBuf,
        /// Whom it names.
        found: String,
        /// Whom the node file names.
        wanted: String,
        /// The cluster of the node file.
        cluster: String,
    },
    /// A file or directory of the node cannot be used.
    #[error("cannot use `{path}`")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The region files have faults.
    #[error("the region files have faults")]
    Regions(#[source] Faults),
    /// The region files do not name a region that the node file needs.
    #[error("the region files have no region `{region}`")]
    UnknownRegion {
        /// The region of this node or of a peer.
        region: String,
    },
    /// A part that must run for ever has ended.
    #[error("{part} ended: {reason}")]
    Ended {
        /// The part.
        part: &'static str,
        /// Why, as far as known.
        reason: String,
    },
    /// TLS settings cannot be built.
    #[error("TLS cannot be set up for {listener}")]
    Tls {
        /// For whom.
        listener: &'static str,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
    /// The data path does not start.
    #[error(transparent)]
    Proxy(#[from] portolan_proxy::StartError),
    /// The server certificates cannot be used.
    #[error(transparent)]
    ServerCertificate(#[from] portolan_proxy::CertificateError),
    /// Raft's data cannot be used.
    #[error("cannot use Raft's data in `{path}`")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: portolan_raft::StoreError,
    },
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] portolan_raft::StartError),
    /// The collector's address cannot be used.
    #[error("cannot export spans to `{endpoint}`: {reason}")]
    Telemetry {
        /// What the node file says.
        endpoint: String,
        /// What is wrong.
        reason: String,
    },
}
