//! One worker: a thread with its own runtime, listeners, upstream connections and counters.
//!
//! Decides when connections are told to go: while the region drains they are served on, when the process stops they get
//! a grace period. Never touches another worker's state.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use portolan_config::Listener;
use portolan_model::{Name, NodeName, Now};
use portolan_node::View;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener as TokioListener, TcpStream},
    sync::{Notify, watch},
    task::{LocalSet, spawn_local},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    access_log::AccessLog,
    admission::Waiting,
    auth::Verifier,
    client_limit::{ClientLimit, Verdict},
    connection,
    decision::LimitCell,
    http3,
    metrics::{Event, Metrics, RouteCell, Shard},
    places::{Full, Places},
    proxy::Clock,
    trace::SpanTracer,
    upstream::Pool,
};

/// Client connections of the whole node; beyond it new ones are closed at once.
pub(crate) const MAX_CONNECTIONS: usize = 16_384;

/// Of these, connections of one client address.
pub(crate) const MAX_PER_CLIENT: u32 = 2048;

/// How often a worker looks for a drain, a stop, and idle upstream connections.
const TICK: Duration = Duration::from_millis(100);

/// How long requests may go on after the process was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Pause after the system refused to accept, for example because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A time in ticks of a worker's clock.
pub(crate) fn ticks_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}

/// What all workers share; nothing in it is locked on the request path.
pub(crate) struct Shared {
    pub node: NodeName,
    pub view: Arc<ArcSwap<View>>,
    pub clock: Clock,
    pub tls: Arc<ServerConfig>,
    pub quic: quinn::ServerConfig,
    pub https_port: Option<u16>,
    pub client_limit: ClientLimit,
    pub metrics: Metrics,
    pub access_log: AccessLog,
    pub tracer: Option<SpanTracer>,
    pub limits_moved: Notify,
    pub limits_wanted: Notify,
    pub places: Places,
}

/// The sockets of one worker.
#[derive(Default)]
pub(crate) struct Listeners {
    pub https: Option<TcpListener>,
    pub http: Option<TcpListener>,
    pub quic: Option<UdpSocket>,
}

/// How far a worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serving.
    Serving,
    /// The region drains: clients are told to go and served while they stay.
    Draining,
    /// The process stops.
    Stopping,
}

/// State of one worker.
pub(crate) struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub shard: Arc<Shard>,
    pub pool: Pool,
    pub waiting: Waiting,
    view: RefCell<Cache<Arc<ArcSwap<View>>, Arc<View>>>,
    prepared: RefCell<Rc<Prepared>>,
    random: RefCell<StdRng>,
    tick: Cell<u64>,
    phase: Cell<Phase>,
    phase_changed: Notify,
}

/// A view with what the data path derives from it, once per view.
pub(crate) struct Prepared {
    pub view: Arc<View>,
    /// The `Alt-Svc` field of responses over TCP.
    pub alt_svc: Option<HeaderValue>,
    verifiers: BTreeMap<Name, Rc<Verifier>>,
    routes: RefCell<BTreeMap<Name, Arc<RouteCell>>>,
    limits: RefCell<BTreeMap<Name, Arc<LimitCell>>>,
}

impl Prepared {
    fn new(view: Arc<View>, previous: Option<&Self>, https_port: Option<u16>) -> Self {
        let verifiers = view.intent.snapshot.auth.iter().map(|(name, auth)| {
            let kept = previous.and_then(|previous| previous.verifiers.get(name)).filter(|kept| kept.is_for(auth));
            (name.clone(), kept.map_or_else(|| Rc::new(Verifier::new(Arc::clone(auth))), Rc::clone))
        });
        let alt_svc = https_port.map(|port| match view.draining {
            true => HeaderValue::from_static("clear"),
            false => HeaderValue::from_str(&format!("h3=\":{port}\"; ma=86400")).expect("a port is digits"),
        });
        Self { verifiers: verifiers.collect(), alt_svc, routes: RefCell::default(), limits: RefCell::default(), view }
    }

    pub fn listener(&self) -> &Listener {
        &self.view.intent.snapshot.listener
    }

    pub fn verifier(&self, name: &Name) -> Option<&Rc<Verifier>> {
        self.verifiers.get(name)
    }

    pub fn route_cell(&self, name: &Name, shard: &Shard) -> Arc<RouteCell> {
        if let Some(cell) = self.routes.borrow().get(name) {
            return Arc::clone(cell);
        }
        let cell = shard.route(name);
        self.routes.borrow_mut().insert(name.clone(), Arc::clone(&cell));
        cell
    }

    pub fn limit_cell(&self, name: &Name, shard: &Shard) -> Arc<LimitCell> {
        if let Some(cell) = self.limits.borrow().get(name) {
            return Arc::clone(cell);
        }
        let cell = shard.limit(name);
        self.limits.borrow_mut().insert(name.clone(), Arc::clone(&cell));
        cell
    }
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Self {
        let mut view = Cache::new(Arc::clone(&shared.view));
        let first = Arc::clone(view.load());
        let prepared = Prepared::new(first, None, shared.https_port);
        Self {
            index,
            shard: Arc::clone(shared.metrics.shard(index)),
            pool: Pool::default(),
            waiting: Waiting::default(),
            view: RefCell::new(view),
            prepared: RefCell::new(Rc::new(prepared)),
            random: RefCell::new(StdRng::from_rng(&mut rand::rng())),
            tick: Cell::new(0),
            phase: Cell::new(Phase::Serving),
            phase_changed: Notify::new(),
            shared,
        }
    }

    pub fn now(&self) -> Now {
        (self.shared.clock)()
    }

    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Ticks since the start; a coarse clock that costs nothing to read.
    pub fn tick(&self) -> u64 {
        self.tick.get()
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn is_leaving(&self) -> bool {
        self.phase.get() == Phase::Stopping
    }

    /// Resolves when the phase has changed after the call.
    pub fn phase_changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.phase_changed.notified()
    }

    /// The newest view, prepared.
    pub fn prepared(&self) -> Rc<Prepared> {
        let mut cache = self.view.borrow_mut();
        let newest = cache.load();
        let mut prepared = self.prepared.borrow_mut();
        if !Arc::ptr_eq(newest, &prepared.view) {
            *prepared = Rc::new(Prepared::new(Arc::clone(newest), Some(&prepared), self.shared.https_port));
        }
        Rc::clone(&prepared)
    }

    fn enter(&self, phase: Phase) {
        if self.phase.replace(phase) != phase {
            self.phase_changed.notify_waiters();
        }
    }

    /// Counts a connection in; `None` when the node or its client has as many as it may have.
    pub fn open_connection(self: &Rc<Self>, client: IpAddr) -> Option<OpenConnection> {
        if let Err(full) = self.shared.places.enter(client) {
            self.shard.count(match full {
                Full::Node => Event::ConnectionOverflow,
                Full::Client => Event::ClientOverflow,
            });
            return None;
        }
        self.shard.count(Event::ConnectionOpened);
        Some(OpenConnection(Rc::clone(self), client))
    }

    /// Whether a connection from this address may cost a handshake.
    pub fn admits_connection(&self, peer: SocketAddr) -> bool {
        let rate = self.prepared().listener().client_limit;
        let allowed = self.shared.client_limit.admit(peer.ip(), rate, self.now().mono) == Verdict::Allow;
        if !allowed {
            self.shard.count(Event::ConnectionLimited);
        }
        allowed
    }
}

/// A counted client connection.
pub(crate) struct OpenConnection(Rc<Worker>, IpAddr);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.shared.places.leave(self.1);
        self.0.shard.count(Event::ConnectionClosed);
    }
}

/// Runs a worker on this thread until it is told to stop and its connections have ended.
pub(crate) fn run(index: usize, shared: Arc<Shared>, listeners: Listeners, stopping: watch::Receiver<bool>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, worker = index, "cannot start the runtime of a worker");
            return;
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        let worker = Rc::new(Worker::new(index, shared));
        if let Err(error) = serve(&worker, listeners, stopping).await {
            tracing::error!(%error, worker = index, "a worker cannot use its sockets");
        }
    });
}

async fn serve(worker: &Rc<Worker>, listeners: Listeners, mut stopping: watch::Receiver<bool>) -> std::io::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::clone(&worker.shared.tls));
    let mut accepting = Vec::new();
    if let Some(listener) = listeners.https {
        let listener = TokioListener::from_std(listener)?;
        accepting.push(spawn_local(accept(Rc::clone(worker), listener, Some(acceptor))));
    }
    if let Some(listener) = listeners.http {
        let listener = TokioListener::from_std(listener)?;
        accepting.push(spawn_local(accept(Rc::clone(worker), listener, None)));
    }
    let quic = listeners.quic.map(|socket| http3::endpoint(worker, socket)).transpose()?;
    if let Some(endpoint) = &quic {
        accepting.push(spawn_local(http3::accept(Rc::clone(worker), endpoint.clone())));
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            // An error means that the handle was dropped: stop as well.
            changed = stopping.changed() => if changed.is_err() || *stopping.borrow() { break },
            _ = ticks.tick() => on_tick(worker),
        }
    }
    worker.enter(Phase::Stopping);
    for task in accepting {
        task.abort();
    }
    let gone = async {
        while worker.shared.places.total() > 0 {
            sleep(TICK / 4).await;
        }
    };
    let _ = timeout(GRACE, gone).await;
    if let Some(endpoint) = quic {
        http3::close(&endpoint).await;
    }
    Ok(())
}

fn on_tick(worker: &Worker) {
    let tick = worker.tick.get() + 1;
    worker.tick.set(tick);
    if tick.is_multiple_of(50) {
        worker.pool.prune(tick);
    }
    let draining = worker.prepared().view.draining;
    worker.enter(if draining { Phase::Draining } else { Phase::Serving });
}

async fn accept(worker: Rc<Worker>, listener: TokioListener, acceptor: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(&worker, stream, peer, acceptor.clone()),
            Err(error) => {
                tracing::debug!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, acceptor: Option<TlsAcceptor>) {
    if !worker.admits_connection(peer) {
        return;
    }
    let Some(open) = worker.open_connection(peer.ip()) else { return };
    let worker = Rc::clone(worker);
    spawn_local(async move {
        connection::serve(worker, stream, peer, acceptor).await;
        drop(open);
    });
}
