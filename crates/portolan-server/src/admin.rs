//! The admin API over TLS. `/healthz`, `/readyz` and `/metrics` answer anybody who reaches the port; everything under
//! `/v1` needs an operator certificate of the cluster, whose name becomes the author of changes.
//!
//! Decides who may ask and what a request must look like. Changes go through Raft; nothing is edited in place here.

mod change;
mod connection;
mod explain;
mod limits;
mod problem;
mod read;
mod status;

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRequestParts},
    middleware,
    routing::{get, post},
};
use http::request::Parts;
use portolan_config::RegionMap;
use portolan_node::{NodeStatus, View};
use portolan_raft::Raft;
use tokio::net::TcpListener;

pub use self::connection::{acceptor, serve};
use self::problem::Failure;
use crate::{
    clock::Clock, error::Error, identity::NodeIdentity, lenders::LenderStats, mesh::Mesh, metrics::Metrics,
    questions::NodeQueries,
};

/// Largest request body, in bytes: a bundle as large as the log takes, with JSON's escapes.
const MAX_BODY: usize = 6 << 20;

/// What the admin API asks and shows. Shared by all connections.
pub struct AdminState {
    /// This node.
    pub me: NodeIdentity,
    /// Stamps changes.
    pub clock: Clock,
    /// Documents are checked against these regions before they are proposed.
    pub regions: Arc<RegionMap>,
    /// What the data path decides from.
    pub view: Arc<ArcSwap<View>>,
    /// Where changes go.
    pub raft: Raft,
    /// The node's loop.
    pub node: NodeQueries,
    /// Connections to peers.
    pub mesh: Mesh,
    /// Counts of lenders.
    pub lenders: LenderStats,
    /// Counts of the data path, and the names of keys it has seen.
    pub proxy: portolan_proxy::Metrics,
    /// What `/metrics` shows.
    pub metrics: Metrics,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The operator in the certificate; `None` without one.
    pub(crate) operator: Option<String>,
    /// Where the connection comes from.
    pub(crate) address: SocketAddr,
}

/// An operator: the only way to get at the name is a handler that asks for it, so no handler can forget the check.
pub(crate) struct Operator(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Caller>().and_then(|caller| caller.operator.clone());
        caller.map(Self).ok_or_else(Failure::no_operator)
    }
}

/// Binds the admin port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { listener: "the admin API", address, source })
}

/// All routes. Those under `/v1` are behind one check of the certificate, besides each handler's own need for a name.
fn router(state: Arc<AdminState>) -> Router {
    let operators = Router::new()
        .route("/v1/apply", post(change::apply))
        .route("/v1/rollback", post(change::rollback))
        .route("/v1/drain", post(change::drain))
        .route("/v1/restore", post(change::restore))
        .route("/v1/history", get(read::history))
        .route("/v1/status", get(read::status))
        .route("/v1/digests", get(read::digests))
        .route("/v1/explain", post(read::explain))
        .route("/v1/limits", get(limits::limits))
        .route("/v1/limits/explain", post(limits::explain))
        .route("/v1/limits/fence", post(change::fence))
        .route("/v1/limits/unfence", post(change::unfence))
        .layer(middleware::from_extractor::<Operator>());
    Router::new()
        .route("/healthz", get(read::healthz))
        .route("/readyz", get(read::readyz))
        .route("/metrics", get(read::metrics))
        .merge(operators)
        .fallback(|| async { Failure::not_found() })
        .method_not_allowed_fallback(|| async { Failure::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

impl AdminState {
    async fn node_status(&self) -> Result<Arc<NodeStatus>, Failure> {
        self.node.status().await.ok_or_else(|| Failure::unavailable("the node is shutting down"))
    }
}
