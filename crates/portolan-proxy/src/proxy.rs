//! Starts the data path and stops it: binds every socket before the first thread, so that a taken port is an error here.
//!
//! Never reads a clock or a file: the server passes the clock, the view and the certificates in.

use std::{fmt, io, net::SocketAddr, sync::Arc, thread};

use arc_swap::ArcSwap;
use portolan_model::{HashKey, NodeName, Now, RegionId};
use portolan_node::View;
use thiserror::Error;
use tokio::sync::{Mutex, Notify, mpsc, watch};

use crate::{
    access_log::{AccessLog, LogSink},
    client_limit::ClientLimit,
    http3,
    listen::{self, Transport},
    metrics::Metrics,
    places::Places,
    tls::{CertificateStore, TCP_PROTOCOLS, server_config},
    trace::SpanTracer,
    worker::{self, Listeners, MAX_CONNECTIONS, MAX_PER_CLIENT, Shared},
};

/// Reads both clocks. Called a few times per request, so it should be cheap.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// What the data path needs to know before the first request.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// TLS over TCP and, on the same port number, QUIC over UDP. Port 0 takes a free one.
    pub https: Option<SocketAddr>,
    /// Clear text HTTP/1.1, for a balancer in front that ends TLS itself.
    pub http: Option<SocketAddr>,
    /// Threads that serve requests; at least 1.
    pub workers: usize,
    /// This node, for the access log.
    pub node: NodeName,
    /// Its region, for metrics.
    pub region: RegionId,
    /// Where finished requests are written.
    pub access_log: LogSink,
    /// Starts a span per request; `None` costs nothing.
    pub tracer: Option<SpanTracer>,
}

/// Why the data path did not start; nothing is left behind.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket cannot be bound.
    #[error("cannot listen on {transport} {address}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// Which transport.
        transport: Transport,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The access log cannot be opened.
    #[error("cannot open the access log")]
    AccessLog(#[source] io::Error),
    /// A worker thread cannot be started.
    #[error("cannot start a worker thread")]
    Thread(#[source] io::Error),
}

/// The running data path. Dropping it stops it like [`Proxy::shutdown`], without waiting.
pub struct Proxy {
    https: Option<SocketAddr>,
    http: Option<SocketAddr>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    stopped: Mutex<mpsc::Receiver<()>>,
}

/// Binds the listeners and starts the workers.
pub fn start(
    config: ProxyConfig,
    view: Arc<ArcSwap<View>>,
    certificates: Arc<ArcSwap<CertificateStore>>,
    clock: Clock,
) -> Result<Proxy, StartError> {
    let workers = config.workers.max(1);
    let tls = Arc::new(server_config(&certificates, &TCP_PROTOCOLS).map_err(StartError::Tls)?);
    let quic = http3::server_config(&certificates).map_err(StartError::Tls)?;
    let bound = listen::bind(config.https, config.http, workers)?;
    let access_log = AccessLog::open(&config.access_log).map_err(StartError::AccessLog)?;
    let shared = Arc::new(Shared {
        node: config.node,
        view,
        clock,
        tls,
        quic,
        https_port: bound.https.map(|address| address.port()),
        client_limit: ClientLimit::new(HashKey::new(rand::random())),
        metrics: Metrics::new(workers, config.region),
        access_log,
        tracer: config.tracer,
        limits_moved: Notify::new(),
        limits_wanted: Notify::new(),
        places: Places::new(MAX_CONNECTIONS, MAX_PER_CLIENT),
    });
    let (stop, stopping) = watch::channel(false);
    let (done, stopped) = mpsc::channel(1);
    for (index, listeners) in bound.listeners.into_iter().enumerate() {
        let (shared, stopping, done) = (Arc::clone(&shared), stopping.clone(), done.clone());
        spawn(index, shared, listeners, stopping, done).map_err(StartError::Thread)?;
    }
    Ok(Proxy { https: bound.https, http: bound.http, shared, stop, stopped: Mutex::new(stopped) })
}

fn spawn(
    index: usize,
    shared: Arc<Shared>,
    listeners: Listeners,
    stopping: watch::Receiver<bool>,
    done: mpsc::Sender<()>,
) -> io::Result<()> {
    let run = move || {
        worker::run(index, shared, listeners, stopping);
        drop(done);
    };
    thread::Builder::new().name(format!("worker-{index}")).spawn(run).map(|_| ())
}

impl Proxy {
    /// Where TLS and QUIC are served.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Where clear text is served.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The counters of the data path.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Tells requests that wait for their limits to ask again: a mark is on disk, or rights have come.
    pub fn notify_limits(&self) {
        self.shared.limits_moved.notify_waiters();
    }

    /// Resolves when a request wants more than is there: a durable mark, a chunk of the owner, a loan. The node is then
    /// to be driven at once. A wish uttered while nobody waits is kept.
    pub async fn limits_wanted(&self) {
        self.shared.limits_wanted.notified().await;
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.shared.places.total()
    }

    /// Stops accepting, tells clients to go, and returns when requests have finished or the grace period is over.
    pub async fn shutdown(&self) {
        let _ = self.stop.send(true);
        // Closed once every worker has dropped its end.
        let _ = self.stopped.lock().await.recv().await;
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("https", &self.https).field("http", &self.http).finish_non_exhaustive()
    }
}
