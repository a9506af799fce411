//! Composes one node out of its parts, and takes it down in order. Holds no policy.
//!
//! Order matters in one way: Raft gives the last good intent from disk before the data path opens its port, so a node
//! serves at once with no peer reachable.

use std::{
    collections::BTreeMap,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use portolan_config::{AccessLog, NodeFile};
use portolan_limits::{Found, Recovery};
use portolan_model::NodeName;
use portolan_node::{Node, NodeConfig, View};
use portolan_proxy::{LogSink, Proxy, ProxyConfig};
use portolan_raft::{Raft, RaftConfig, Store};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use crate::{
    admin::{self, AdminState},
    certificates::follow_files,
    clock::Clock,
    dns::{DnsCounters, DnsSockets},
    error::Error,
    files::{NodeFiles, ServerCertificates},
    marks_file::MarksFiles,
    mesh::{Mesh, MeshConfig, PeerAddress},
    metrics::Metrics,
    node_loop::{NodeLoop, NodeQueries},
    probes::Prober,
    raft_link::{self, MeshTransport, RaftSlot},
    telemetry::Telemetry,
};

/// Folder of Raft's files in the data directory.
const RAFT_FOLDER: &str = "raft";

/// How often the server certificates' files are looked at.
const CERTIFICATES_POLL: Duration = Duration::from_secs(1);

/// How often readiness is looked at while the node starts.
const READY_POLL: Duration = Duration::from_millis(20);

/// Runs a node until `shutdown` resolves. Relative paths of the node file are taken from `base_dir`.
///
/// Prints one line of JSON to standard output when the node can serve. Must be called on a Tokio runtime with I/O and
/// time; requests are served by threads of their own.
pub async fn run(node: NodeFile, base_dir: &Path, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let clock = Clock::start();
    let files = NodeFiles::read(&node, base_dir)?;
    let mut tasks = JoinSet::new();
    let dns = DnsSockets::bind(node.listen.dns)?;
    let admin_listener = admin::bind(node.listen.admin).await?;

    let raft_slot: RaftSlot = Arc::new(OnceLock::new());
    let (mesh, inbound) =
        Mesh::start(mesh_config(&node, &files, clock), raft_link::answer(raft_slot.clone()), &mut tasks)?;
    let marks = MarksFiles::open(&files.data)?;
    let newcomer = !files.data.join(RAFT_FOLDER).exists();
    let running_raft = start_raft(&node, &files, MeshTransport::new(mesh.clone()), clock).await?;
    let raft = running_raft.raft.clone();
    let _ = raft_slot.set(raft.clone());

    let mut intent = raft.intent();
    let core = Node::new(node_config(&node, &files), intent.borrow_and_update().clone(), clock.now());
    let view = Arc::new(ArcSwap::new(core.view()));
    let telemetry = node.otlp.as_deref().map(|endpoint| Telemetry::start(endpoint, &files.me)).transpose()?;
    let proxy = Arc::new(start_proxy(&node, base_dir, &files, &view, clock, telemetry.as_ref())?);

    let (queries, questions) = NodeQueries::new();
    let dns_counters = Arc::new(DnsCounters::default());
    let (recovery, recovered) = oneshot::channel();
    tasks.spawn(recover(marks.found.clone(), newcomer, raft.joined(), recovery));
    let (prober, outcomes) = Prober::new();
    let (marks, durable) = marks.start()?;
    let admin_state = Arc::new(AdminState {
        me: files.me.clone(),
        clock,
        regions: Arc::clone(&files.regions),
        view: Arc::clone(&view),
        raft: raft.clone(),
        node: queries,
        mesh: mesh.clone(),
        metrics: Metrics::new(proxy.metrics().clone(), Arc::clone(&dns_counters), prober.skipped()),
    });
    let acceptor = admin::acceptor(node.cluster.clone(), Arc::clone(&files.pair), Arc::clone(&files.roots))?;
    let ready = ready_line(&node, &proxy, &mesh, &dns, &admin_listener);
    let answered = Arc::clone(&view);
    dns.serve(
        Arc::new(move |query| {
            let view = answered.load();
            view.dns.answer(query, &view.states)
        }),
        dns_counters,
        &mut tasks,
    );
    tasks.spawn(admin::serve(admin_listener, acceptor, node.cluster.clone(), admin_state));
    tasks.spawn(follow_files(vec![Arc::clone(&files.pair)]));
    tasks.spawn(follow_server_certificates(files.server));
    tasks.spawn(announce(Arc::clone(&view), ready));
    let node_loop = NodeLoop {
        node: core,
        clock,
        mesh: mesh.clone(),
        inbound,
        raft: raft.clone(),
        intent,
        recovery: recovered,
        marks,
        durable,
        prober,
        outcomes,
        view,
        proxy: Arc::clone(&proxy),
        questions,
    };
    let mut driver = tokio::spawn(node_loop.run());

    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = &mut driver => Err(Error::Ended { part: "the node's loop", reason: format!("{ended:?}") }),
    };
    info!("shutting down");
    stop(proxy, driver, tasks, running_raft, mesh, telemetry).await;
    outcome
}

/// Requests first, since they need everything else; then the control plane, which tells its peers.
async fn stop(
    proxy: Arc<Proxy>,
    driver: tokio::task::JoinHandle<()>,
    mut tasks: JoinSet<()>,
    raft: RunningRaft,
    mesh: Mesh,
    telemetry: Option<Telemetry>,
) {
    proxy.shutdown().await;
    driver.abort();
    // Aborted, unless it had ended by itself.
    let _ = driver.await;
    raft.stop().await;
    mesh.close().await;
    tasks.shutdown().await;
    if let Some(telemetry) = telemetry {
        let _ = tokio::task::spawn_blocking(move || telemetry.stop()).await;
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

/// Raft on its thread, which ends when this is dropped.
struct RunningRaft {
    raft: Raft,
    alive: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl RunningRaft {
    async fn stop(self) {
        self.raft.shutdown().await;
        drop((self.raft, self.alive));
        // An error says that the thread has panicked: ended in either case.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// Raft has a thread of its own: its heartbeats must not wait behind anything else the node does.
async fn start_raft(
    node: &NodeFile,
    files: &NodeFiles,
    transport: MeshTransport,
    clock: Clock,
) -> Result<RunningRaft, Error> {
    let path = files.data.join(RAFT_FOLDER);
    let store = Store::open_directory(&path).map_err(|source| Error::Store { path: path.clone(), source })?;
    for damage in store.damage() {
        warn!(file = ?damage.file, kept_as = damage.kept_as, reason = damage.reason, "a damaged file of Raft was set aside");
    }
    let config = RaftConfig::new(
        node.node.clone(),
        node.region.clone(),
        node.bootstrap.clone(),
        Arc::clone(&files.regions),
        Arc::new(move || clock.now().wall),
    );
    let failed = |source| Error::File { path: PathBuf::from("the thread of Raft"), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (started, raft) = oneshot::channel();
    let (alive, stopped) = oneshot::channel();
    let body = move || {
        runtime.block_on(async move {
            match Raft::start(config, store, transport).await {
                Ok(raft) => {
                    if started.send(Ok(raft)).is_ok() {
                        // Resolves with an error, when the node drops its end: the tasks of Raft live until then.
                        let _ = stopped.await;
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    };
    let thread = thread::Builder::new().name(RAFT_FOLDER.to_owned()).spawn(body).map_err(failed)?;
    match raft.await {
        Ok(raft) => Ok(RunningRaft { raft: raft?, alive, thread }),
        Err(_) => Err(Error::Ended { part: "Raft", reason: "its thread has ended".to_owned() }),
    }
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
        access_log,
        tracer: telemetry.map(Telemetry::tracer),
    };
    let now = Arc::new(move || clock.now());
    Ok(portolan_proxy::start(config, Arc::clone(view), Arc::clone(&files.server.store), now)?)
}

/// Tells the limits what the process before this one may have spent. Without marks the region's full share is there
/// only if the region never existed: the cluster says so, and Raft's data, which marks are never older than, is new.
async fn recover(
    found: Found,
    newcomer: bool,
    mut joined: watch::Receiver<Option<u64>>,
    recovery: oneshot::Sender<Recovery>,
) {
    let recovered = match found {
        Found::Marks(marks) => Recovery::Marks(marks),
        Found::Damaged { .. } => Recovery::Lost,
        Found::Nothing if !newcomer => Recovery::Lost,
        Found::Nothing => match joined.wait_for(Option::is_some).await.map(|incarnation| *incarnation) {
            Ok(Some(1)) => Recovery::FirstStart,
            _ => Recovery::Lost,
        },
    };
    if recovered == Recovery::Lost {
        warn!("the limits' marks are lost: limits refuse in slots that may have been spent");
    }
    // Fails when the node's loop has ended.
    let _ = recovery.send(recovered);
}

async fn follow_server_certificates(mut server: ServerCertificates) {
    loop {
        tokio::time::sleep(CERTIFICATES_POLL).await;
        let looked = tokio::task::spawn_blocking(move || {
            server.follow();
            server
        });
        server = match looked.await {
            Ok(server) => server,
            Err(_) => return,
        };
    }
}

fn ready_line(
    node: &NodeFile,
    proxy: &Proxy,
    mesh: &Mesh,
    dns: &DnsSockets,
    admin: &tokio::net::TcpListener,
) -> serde_json::Value {
    serde_json::json!({
        "ready": true,
        "node": node.node,
        "region": node.region,
        "https": proxy.https_addr(),
        "dns": dns.local_address().ok(),
        "admin": admin.local_addr().ok(),
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
