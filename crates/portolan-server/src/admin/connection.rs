//! Connections of the admin API: TLS with an optional client certificate, HTTP/1.1 and HTTP/2, bounded in number and time.
//!
//! Three kinds of places, so that nobody without a certificate keeps operators or a balancer's checks out: handshakes
//! end within seconds, callers without a certificate have few places each and a short life, operators have their own.
//! At a bound the newest connection is closed at once; left in the kernel's queue it would keep others out there.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

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
    places::{Place, Places},
    verifier::{Admits, ClusterVerifier},
};

/// Handshakes under way.
const HANDSHAKES: usize = 128;

/// Connections without a certificate: health checks and scrapers.
const ANONYMOUS: usize = 128;

/// Connections of operators.
const OPERATORS: usize = 64;

/// Handshakes of one address, and connections without a certificate of one address.
const PER_ADDRESS: usize = 16;

/// How long TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a request's head may take, and an idle connection stays open.
const HEAD: Duration = Duration::from_secs(30);

/// Longest life of an operator's connection.
const OPERATOR_LIFE: Duration = Duration::from_secs(600);

/// Longest life of a connection without a certificate: a scraper dials again.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(30);

/// How long what is being answered may take when a connection's life is over.
const FAREWELL: Duration = Duration::from_secs(5);

/// Pause after `accept` failed, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until dropped.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, cluster: Name, state: Arc<AdminState>) {
    let door = Arc::new(Door {
        tls,
        cluster,
        router: router(state),
        handshakes: Places::new(HANDSHAKES, PER_ADDRESS),
        anonymous: Places::new(ANONYMOUS, PER_ADDRESS),
        operators: Places::new(OPERATORS, OPERATORS),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let Some(place) = door.handshakes.take(address.ip()) else { continue };
                    let door = Arc::clone(&door);
                    connections.spawn(async move { door.receive(stream, address, place).await });
                }
                Err(error) => {
                    debug!(%error, "the admin API cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// What every connection needs.
struct Door {
    tls: TlsAcceptor,
    cluster: Name,
    router: Router,
    handshakes: Places,
    anonymous: Places,
    operators: Places,
}

impl Door {
    async fn receive(&self, stream: TcpStream, address: SocketAddr, handshake: Place) {
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%address, %error, "admin handshake failed"),
            Err(_) => return debug!(%address, "admin handshake took too long"),
        };
        let caller = Caller { operator: operator(&stream, &self.cluster), address };
        let (places, life) = match caller.operator {
            Some(_) => (&self.operators, OPERATOR_LIFE),
            None => (&self.anonymous, ANONYMOUS_LIFE),
        };
        let Some(_place) = places.take(address.ip()) else {
            return debug!(%address, ?caller.operator, "too many admin connections");
        };
        drop(handshake);
        // Outermost, so that it replaces anything a client might hope to smuggle in.
        let router = self.router.clone().layer(Extension(caller));
        converse(stream, address, router, life).await;
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

/// Serves one connection; at the end of its life it takes no more requests, and what is under way has a little longer.
async fn converse(stream: TlsStream<TcpStream>, address: SocketAddr, router: Router, life: Duration) {
    let service = TowerToHyperService::new(router);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD).max_concurrent_streams(32);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(life, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
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
