//! One node's Raft: started from its store, asked by other nodes through [`Raft::handle`] and by its own node through
//! the rest. Decides nothing that the log does not; the rules on proposals, membership and recovery have modules of
//! their own. Never decides who may stand for election: its driver does, by [`Raft::set_eligible`].

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use portolan_config::{Intent, RegionMap};
use portolan_model::{MemberId, NodeName, RegionId, WallTime};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::{
    liveness::Liveness,
    machine::{Publish, State},
    message::{ErasedTransport, Transport},
    recovery::Served,
    start::StartError,
    status::{self, Leadership, Role, Status},
    store::Store,
    timing::Timing,
    types::{Core, Member},
};

/// Piece of a snapshot in one message, in bytes.
pub(crate) const SNAPSHOT_PIECE: u64 = 256 << 10;
/// Reads civil time for the entries that this node proposes itself.
pub type WallClock = Arc<dyn Fn() -> WallTime + Send + Sync>;

/// What a node is started with.
#[derive(Clone)]
pub struct RaftConfig {
    /// This node.
    pub me: NodeName,
    /// The region it serves.
    pub region: RegionId,
    /// The nodes that make the cluster up when it is founded, the same on all of them. The first one founds it. Later
    /// these are the nodes asked for a place in the membership.
    pub bootstrap: Vec<NodeName>,
    /// The regions of the cluster.
    pub regions: Arc<RegionMap>,
    /// Timeouts; [`Timing::for_rtt`] of the worst round trip.
    pub timing: Timing,
    /// The wall clock.
    pub clock: WallClock,
}

impl RaftConfig {
    /// With the timing that the regions' round trips ask for.
    pub fn new(
        me: NodeName,
        region: RegionId,
        bootstrap: Vec<NodeName>,
        regions: Arc<RegionMap>,
        clock: WallClock,
    ) -> Self {
        let timing = Timing::for_rtt(regions.worst_rtt());
        Self { me, region, bootstrap, regions, timing, clock }
    }
}

/// A handle; clones share the node.
#[derive(Clone)]
pub struct Raft {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: RaftConfig,
    pub store: Store,
    pub transport: Arc<dyn ErasedTransport>,
    pub liveness: Arc<Liveness>,
    /// Empty while a lost snapshot is fetched.
    pub core: OnceLock<Core>,
    pub publish: Publish,
    /// What the driver says.
    eligible: AtomicBool,
    /// This node founds the cluster: somebody has to stand before anybody can report.
    pub founding: AtomicBool,
    /// This leader hands over and takes no proposals.
    pub stepping_aside: AtomicBool,
    pub joined: watch::Sender<Option<u64>>,
    leadership: watch::Sender<Leadership>,
    /// One change of membership at a time.
    pub admission: Arc<tokio::sync::Mutex<()>>,
    /// Nodes that asked for a place, by member id.
    pub candidates: Mutex<BTreeMap<u64, Member>>,
    /// The state last handed to a node that had lost its snapshot.
    pub served: Mutex<Option<Served>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Raft {
    /// Starts from `store`. Returns at once with the last good intent; membership is sought in the background.
    ///
    /// This node does not stand for election before [`Raft::set_eligible`], except to found the cluster.
    pub async fn start(config: RaftConfig, store: Store, transport: impl Transport) -> Result<Self, StartError> {
        let empty = State::empty(Arc::clone(&config.regions));
        let publish =
            Publish { intent: watch::Sender::new(Arc::clone(&empty.intent)), state: watch::Sender::new(empty) };
        let inner = Arc::new(Inner {
            config,
            store,
            transport: Arc::new(transport),
            liveness: Arc::default(),
            core: OnceLock::new(),
            publish,
            eligible: AtomicBool::new(false),
            founding: AtomicBool::new(false),
            stepping_aside: AtomicBool::new(false),
            joined: watch::Sender::new(None),
            leadership: watch::Sender::default(),
            admission: Arc::default(),
            candidates: Mutex::default(),
            served: Mutex::default(),
            tasks: Mutex::default(),
        });
        inner.start_or_recover().await?;
        let raft = Self { inner };
        if raft.inner.core().is_none() {
            let inner = Arc::clone(&raft.inner);
            raft.inner.spawn(async move { inner.recover_snapshot().await });
        }
        let inner = Arc::clone(&raft.inner);
        raft.inner.spawn(async move { inner.seek_membership().await });
        let inner = Arc::clone(&raft.inner);
        raft.inner.spawn(async move { inner.keep_log_short().await });
        let inner = Arc::clone(&raft.inner);
        raft.inner.spawn(async move { inner.leave_joint_memberships().await });
        let inner = Arc::clone(&raft.inner);
        raft.inner.spawn(async move { inner.keep_seats_filled().await });
        Ok(raft)
    }

    /// This node's member id.
    pub fn member(&self) -> MemberId {
        self.inner.store.member()
    }

    /// The applied intent; right after a start the last one on disk.
    pub fn intent(&self) -> watch::Receiver<Arc<Intent>> {
        self.inner.publish.intent.subscribe()
    }

    /// This node's incarnation once it is a member and the cluster knows it.
    pub fn joined(&self) -> watch::Receiver<Option<u64>> {
        self.inner.joined.subscribe()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// The store, for its state of health.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Whether this node may stand for election. A driver allows it only while a majority of the voters reports no
    /// live leader; without that rule a node that was cut off deposes a healthy leader when it comes back.
    pub fn set_eligible(&self, eligible: bool) {
        self.inner.eligible.store(eligible, Ordering::Relaxed);
        self.inner.allow_election();
    }

    /// What this node knows at this moment.
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let (member, disk_full) = (self.member(), inner.store.shortage(0));
        let Some(core) = inner.core() else {
            return Status {
                member,
                role: Role::Starting,
                term: 0,
                leader: None,
                leader_is_live: false,
                voters: Vec::new(),
                changing: false,
                last_applied: None,
                last_log: None,
                since_quorum: None,
                disk_full,
                fault: None,
            };
        };
        let metrics = core.metrics();
        let metrics = metrics.borrow();
        let role = Role::from(metrics.state);
        let now = Instant::now();
        let since_quorum = if role == Role::Leader { inner.since_quorum(now) } else { None };
        let contact = if role == Role::Leader { since_quorum } else { inner.liveness.since_heard(metrics.vote, now) };
        Status {
            member,
            role: if metrics.running_state.is_err() { Role::Stopped } else { role },
            term: metrics.current_term,
            leader: status::leader(&metrics),
            leader_is_live: contact.is_some_and(|age| age <= inner.config.timing.live_for()),
            voters: status::voters(&metrics),
            changing: metrics.membership_config.membership().get_joint_config().len() > 1,
            last_applied: metrics.last_applied.map(|id| id.index),
            last_log: metrics.last_log_index,
            since_quorum,
            disk_full,
            fault: status::fault(&metrics),
        }
    }

    /// Stops. What was acknowledged is on disk already.
    pub async fn shutdown(&self) {
        for task in self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        if let Some(core) = self.inner.core() {
            // The error says that the core's task was aborted or had panicked: stopped in either case.
            let _ = core.shutdown().await;
        }
    }
}

impl fmt::Debug for Raft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft").field("me", &self.inner.config.me).finish_non_exhaustive()
    }
}

impl Inner {
    pub fn core(&self) -> Option<&Core> {
        self.core.get()
    }

    pub fn me(&self) -> Member {
        Member { name: self.config.me.clone(), region: self.config.region.clone() }
    }

    /// The present reading of the state machine.
    pub fn state(&self) -> State {
        self.publish.state.borrow().clone()
    }

    /// Runs `task` until it ends or the node is shut down.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    /// Tells openraft whether this node may stand.
    pub fn allow_election(&self) {
        if let Some(core) = self.core() {
            let allowed = self.eligible.load(Ordering::Relaxed) || self.founding.load(Ordering::Relaxed);
            core.runtime_config().elect(allowed && !self.stepping_aside.load(Ordering::Relaxed));
        }
    }

    /// As a leader: time since a majority of every configuration in force answered; `None` if not since the election.
    pub fn since_quorum(&self, now: Instant) -> Option<Duration> {
        let metrics = self.core()?.metrics();
        let metrics = metrics.borrow();
        let mut stalest = Duration::ZERO;
        for voters in metrics.membership_config.membership().get_joint_config() {
            let voters: Vec<u64> = voters.iter().copied().collect();
            stalest = stalest.max(self.liveness.since_quorum(metrics.id, metrics.vote, &voters, now)?);
        }
        Some(stalest)
    }

    /// Keeps [`Raft::leadership`] up to date, and ends the founder's privilege once there is a leader.
    pub async fn follow_leadership(self: Arc<Self>) {
        let Some(mut metrics) = self.core().map(Core::metrics) else { return };
        loop {
            let leadership = status::leadership(&metrics.borrow_and_update());
            if leadership.leader.is_some() && self.founding.swap(false, Ordering::Relaxed) {
                self.allow_election();
            }
            self.leadership.send_if_modified(|known| {
                let changed = *known != leadership;
                *known = leadership;
                changed
            });
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }
}
