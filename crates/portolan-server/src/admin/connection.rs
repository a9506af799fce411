//! Connections of the admin API: TLS with an optional client certificate, HTTP/1.1 and HTTP/2, bounded in number and time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use portolan_model::Name;
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::{AdminState, Caller, router};
use crate::{
    certificates::ReloadingPair,
    error::Error,
    identity::Identity,
    verifier::{Admits, ClusterVerifier},
};

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// How long TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a request's head may take, and an idle connection stays open.
const HEAD: Duration = Duration::from_secs(30);

/// Longest life of a connection: operators and scrapers dial again.
const LIFETIME: Duration = Duration::from_secs(600);

/// Pause after `accept` failed, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until dropped.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, cluster: Name, state: Arc<AdminState>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let router = router(state);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let (tls, cluster, router) = (tls.clone(), cluster.clone(), router.clone());
                connections.spawn(async move {
                    let conversation = converse(stream, address, tls, cluster, router);
                    if timeout(LIFETIME, conversation).await.is_err() {
                        debug!(%address, "admin connection ended after its longest life");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "the admin API cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// TLS settings of the admin API: the node's own certificate, and operators of the cluster let in by theirs.
pub fn acceptor(cluster: Name, pair: Arc<ReloadingPair>, roots: Arc<RootCertStore>) -> Result<TlsAcceptor, Error> {
    let failed = |source| Error::Tls { listener: "the admin API", source };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = ClusterVerifier::new(cluster, Admits::OperatorsOrAnonymous, roots, Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(verifier.map_err(failed)?)
        .with_cert_resolver(pair);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn converse(stream: TcpStream, address: SocketAddr, tls: TlsAcceptor, cluster: Name, router: Router) {
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%address, %error, "admin handshake failed"),
        Err(_) => return debug!(%address, "admin handshake took too long"),
    };
    let caller = Caller { operator: operator(&stream, &cluster), address };
    // Outermost, so that it replaces anything a client might hope to smuggle in.
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD).max_concurrent_streams(32);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!(%address, %error, "admin connection failed");
    }
}

/// The name in a certificate that the handshake has verified.
fn operator(stream: &TlsStream<TcpStream>, cluster: &Name) -> Option<String> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    match Identity::of_certificate(certificate, cluster) {
        Ok(Identity::Operator(name)) => Some(name),
        _ => None,
    }
}
