//! Composes one node out of its parts, and takes it down in order. Holds no policy.
//!
//! Order matters in one way: Raft gives the last good intent from disk before the data path opens its port, so a node
//! serves at once with no peer reachable.

use std::{
    collections::BTreeMap,
    future::Future,
    io::Write,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwap;
use portolan_config::{AccessLog, NodeFile};
use portolan_geodns::Query;
use portolan_model::NodeName;
use portolan_node::{Node, NodeConfig, View};
use portolan_proxy::{LogSink, Proxy, ProxyConfig};
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinError, JoinHandle, JoinSet},
};
use tracing::info;

use crate::{
    admin::{self, AdminState},
    clock::Clock,
    dns::{DnsCounters, DnsSockets},
    error::Error,
    files::{NodeFiles, follow_files},
    lenders::Lenders,
    marks_file::MarksFiles,
    mesh::{Mesh, MeshConfig, PeerAddress},
    metrics::Metrics,
    node_loop::NodeLoop,
    nofile,
    probes::Prober,
    questions::{Inbox, NodeQueries, Recent},
    raft_link::{self, MeshTransport, RaftSlot},
    raft_thread::RaftThread,
    recovery::recover,
    telemetry::Telemetry,
};

/// How often readiness is looked at while the node starts.
const READY_POLL: Duration = Duration::from_millis(20);

/// Runs a node until `shutdown` resolves. Relative paths of the node file are taken from `base_dir`.
///
/// Prints one line of JSON to standard output when the node can serve. Must be called on a Tokio runtime with I/O and
/// time; requests are served by threads of their own.
pub async fn run(node: NodeFile, base_dir: &Path, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut running = Running::start(&node, base_dir).await?;
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = &mut running.driver => Err(Error::Ended { part: "the node's loop", reason: format!("{ended:?}") }),
        panic = first_panic(&mut running.tasks) => {
            Err(Error::Ended { part: "a task of the control plane", reason: panic.to_string() })
        }
    };
    info!("shutting down");
    running.stop().await;
    outcome
}

/// A node with everything that belongs to it. Dropping it stops all but the data path at once.
struct Running {
    proxy: Arc<Proxy>,
    driver: JoinHandle<()>,
    raft: RaftThread,
    mesh: Mesh,
    tasks: JoinSet<()>,
    telemetry: Option<Telemetry>,
}

impl Running {
    async fn start(node: &NodeFile, base_dir: &Path) -> Result<Self, Error> {
        let clock = Clock::start();
        nofile::raise();
        let files = NodeFiles::read(node, base_dir)?;
        let mut tasks = JoinSet::new();
        let sockets = Sockets { dns: DnsSockets::bind(node.listen.dns)?, admin: admin::bind(node.listen.admin).await? };

        let slot = RaftSlot::default();
        let mesh_config = mesh_config(node, &files, clock);
        let (mesh, inbound) = Mesh::start(mesh_config, raft_link::answer(Arc::clone(&slot)), &mut tasks)?;
        let thread = RaftThread::start(node, &files, MeshTransport::new(mesh.clone()), clock).await?;
        // After the data directory was locked: another process may be writing its marks.
        let marks = MarksFiles::open(&files.data)?;
        let raft = thread.raft.clone();
        // Empty until here: it is set once.
        let _ = slot.set(raft.clone());

        let mut intent = raft.intent();
        let core = Node::new(node_config(node, &files), intent.borrow_and_update().clone(), clock.now());
        let view = Arc::new(ArcSwap::new(core.view()));
        let spans_lost = Arc::default();
        let telemetry = start_telemetry(node, &files, &spans_lost)?;
        let proxy = Arc::new(start_proxy(node, base_dir, &files, &view, clock, telemetry.as_ref())?);

        let (queries, questions) = NodeQueries::new();
        let (started, start) = oneshot::channel();
        let wall = move || clock.now().wall;
        tasks.spawn(recover(marks.found.clone(), raft.joined(), raft.store().clone(), wall, started));
        let (prober, outcomes) = Prober::new();
        let (marks, durable) = marks.start()?;
        let dns_counters = Arc::new(DnsCounters::default());
        let (lenders, lender_news) = Lenders::new(node.cluster.clone(), node.region.clone(), clock);
        let admin = AdminState {
            me: files.me.clone(),
            clock,
            regions: Arc::clone(&files.regions),
            view: Arc::clone(&view),
            raft: raft.clone(),
            node: queries,
            lenders: lenders.stats(),
            proxy: proxy.metrics().clone(),
            mesh: mesh.clone(),
            metrics: Metrics::new(&proxy, Arc::clone(&dns_counters), prober.skipped(), spans_lost, lenders.stats()),
        };
        tasks.spawn(announce(Arc::clone(&view), ready_line(node, &proxy, &mesh, &sockets)));
        sockets.serve(node, files, admin, dns_counters, &mut tasks)?;
        let (mesh_out, proxy_in) = (mesh.clone(), Arc::clone(&proxy));
        let node_loop = NodeLoop {
            node: core,
            clock,
            mesh: mesh_out,
            inbox: Inbox::new(inbound, questions),
            status: Recent::default(),
            raft,
            intent,
            start,
            marks,
            durable,
            prober,
            outcomes,
            view,
            proxy: proxy_in,
            lenders,
            lender_news,
        };
        Ok(Self { proxy, driver: tokio::spawn(node_loop.run()), raft: thread, mesh, tasks, telemetry })
    }

    /// Requests first, since they need everything else; then the control plane, which tells its peers.
    async fn stop(mut self) {
        self.proxy.shutdown().await;
        self.driver.abort();
        // Aborted, unless it had ended by itself.
        let _ = self.driver.await;
        self.raft.stop().await;
        self.mesh.close().await;
        self.tasks.shutdown().await;
        if let Some(telemetry) = self.telemetry {
            let _ = tokio::task::spawn_blocking(move || telemetry.stop()).await;
        }
    }
}

/// Resolves when a task panicked: better a restart than a node that is deaf in one ear. Some tasks end well.
async fn first_panic(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => return error,
            None => std::future::pending().await,
        }
    }
}

/// Bound, and not served yet.
struct Sockets {
    dns: DnsSockets,
    admin: TcpListener,
}

impl Sockets {
    fn serve(
        self,
        node: &NodeFile,
        files: NodeFiles,
        admin: AdminState,
        dns_counters: Arc<DnsCounters>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), Error> {
        let view = Arc::clone(&admin.view);
        let resolve = move |query: &Query<'_>| {
            let view = view.load();
            view.dns.answer(query, &view.states)
        };
        self.dns.serve(Arc::new(resolve), dns_counters, tasks);
        let acceptor = admin::acceptor(node.cluster.clone(), Arc::clone(&files.pair), files.roots)?;
        tasks.spawn(admin::serve(self.admin, acceptor, node.cluster.clone(), Arc::new(admin)));
        tasks.spawn(follow_files(files.pair, files.server));
        Ok(())
    }
}

fn mesh_config(node: &NodeFile, files: &NodeFiles, clock: Clock) -> MeshConfig {
    let peers = node
        .peers
        .iter()
        .filter(|(name, _)| **name != node.node)
        .map(|(name, peer)| (name.clone(), PeerAddress { region: peer.region.clone(), address: peer.address }));
    MeshConfig {
        cluster: node.cluster.clone(),
        bind: node.listen.mesh,
        peers: peers.collect(),
        pair: Arc::clone(&files.pair),
        roots: Arc::clone(&files.roots),
        clock,
    }
}

fn node_config(node: &NodeFile, files: &NodeFiles) -> NodeConfig {
    let peers: BTreeMap<NodeName, _> =
        node.peers.iter().map(|(name, peer)| (name.clone(), peer.region.clone())).collect();
    NodeConfig {
        name: node.node.clone(),
        region: node.region.clone(),
        regions: Arc::clone(&files.regions),
        peers,
        hash_key: files.hash_key,
        seed: rand::random(),
    }
}

fn start_telemetry(node: &NodeFile, files: &NodeFiles, lost: &Arc<AtomicU64>) -> Result<Option<Telemetry>, Error> {
    let start = |endpoint| Telemetry::start(endpoint, &files.me, Arc::clone(lost));
    node.otlp.as_deref().map(start).transpose()
}

fn start_proxy(
    node: &NodeFile,
    base_dir: &Path,
    files: &NodeFiles,
    view: &Arc<ArcSwap<View>>,
    clock: Clock,
    telemetry: Option<&Telemetry>,
) -> Result<Proxy, Error> {
    let access_log = match &node.access_log {
        AccessLog::Off => LogSink::Off,
        AccessLog::Stdout => LogSink::Stdout,
        AccessLog::File(path) => LogSink::File(base_dir.join(path)),
    };
    let config = ProxyConfig {
        https: Some(node.listen.https),
        http: node.listen.http,
        workers: node.workers,
        node: node.node.clone(),
        region: node.region.clone(),
        access_log,
        tracer: telemetry.map(Telemetry::tracer),
    };
    let now = Arc::new(move || clock.now());
    Ok(portolan_proxy::start(config, Arc::clone(view), Arc::clone(&files.server.store), now)?)
}

fn ready_line(node: &NodeFile, proxy: &Proxy, mesh: &Mesh, sockets: &Sockets) -> serde_json::Value {
    serde_json::json!({
        "ready": true,
        "node": node.node,
        "region": node.region,
        "https": proxy.https_addr(),
        "dns": sockets.dns.local_address().ok(),
        "admin": sockets.admin.local_addr().ok(),
        "mesh": mesh.local_address().ok(),
    })
}

/// Prints the line once the node can serve.
async fn announce(view: Arc<ArcSwap<View>>, line: serde_json::Value) {
    while !view.load().ready {
        tokio::time::sleep(READY_POLL).await;
    }
    let mut stdout = std::io::stdout().lock();
    // Nobody may be reading; the node serves all the same.
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
