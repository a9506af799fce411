//! Draws chunks of limits from a Redis server, in the background: no request ever waits for it.
//!
//! Decides how soon an unreachable server is tried again. Never decides how much is wanted, who may spend it or when the
//! server counts as unreachable: that is the limits' business. An answer that comes too late is never used, so what it granted is waste,
//! not excess. A server that fails over may forget the last chunks it lent. Each region tells it what it was lent before
//! it is lent more, but one that asks no more never does: each failover may lend everything that the server holds again.

use std::{
    fmt,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use portolan_limits::{ANSWER_TIMEOUT, Granted, LenderHealth, LoanReply, LoanRequest};
use portolan_model::{MemberId, Name, RegionId, Timestamp, WallTime};
use redis::{AsyncConnectionConfig, Client, RedisResult, Script, aio::MultiplexedConnection};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::clock::Clock;

/// Chunks asked for at one time.
const MAX_IN_FLIGHT: usize = 64;

/// Chunks that wait to be asked for; beyond it they are refused at once.
const MAX_WAITING: usize = 1024;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits between attempts to connect: doubled from the first to the last, and drawn at random up to that.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);

/// How often an unreachable server that can be connected to is asked for a sign of life.
const PROBE_PERIOD: Duration = Duration::from_millis(400);

const LEND: &str = include_str!("lender/lend.lua");

/// On whose behalf chunks are asked for.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The cluster, so that several may share a server.
    pub cluster: Name,
    /// The member that founded it, since clusters may have one name and number their limits alike.
    pub founder: MemberId,
    /// The region.
    pub region: RegionId,
}

/// What the node's loop hears of a lender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LenderNews {
    /// A request has ended.
    Loan(LoanReply),
    /// Whether the lender is to be counted on has changed. What it is stands in its counters, since this word may come
    /// late, from a task that has been replaced.
    Judged,
}

/// Counts of one lender, for metrics.
#[derive(Debug, Default)]
pub struct LenderCounters {
    /// Requests that were answered in time.
    pub answered: AtomicU64,
    /// Requests that were not.
    pub failed: AtomicU64,
    /// Requests that were not sent: unreachable, or too many at one time.
    pub refused: AtomicU64,
    /// Units lent.
    pub lent: AtomicU64,
    /// Whether the lender is not to be counted on.
    pub unreachable: AtomicBool,
}

impl LenderCounters {
    /// Whether the lender can be counted on.
    pub fn is_reachable(&self) -> bool {
        !self.unreachable.load(Relaxed)
    }
}

/// A handle to the task that talks to one lender; the task ends with it.
#[derive(Debug)]
pub struct Lender {
    config: Arc<portolan_config::Lender>,
    requests: mpsc::Sender<LoanRequest>,
    counters: Arc<LenderCounters>,
}

impl Lender {
    /// Starts to talk to the server that `config` names. What comes of it is told on `news`. Must be called on a Tokio
    /// runtime.
    pub fn start(
        config: &Arc<portolan_config::Lender>,
        asker: &Asker,
        clock: Clock,
        news: mpsc::Sender<LenderNews>,
    ) -> RedisResult<Self> {
        let client = Client::open(config.redis.as_str())?;
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        let counters = Arc::<LenderCounters>::default();
        let link = Link {
            name: config.name.clone(),
            asker: asker.clone(),
            clock,
            waiting,
            news,
            counters: Arc::clone(&counters),
            health: LenderHealth::default(),
        };
        tokio::spawn(link.run(client));
        Ok(Self { config: Arc::clone(config), requests, counters })
    }

    /// As the document has it.
    pub fn config(&self) -> &Arc<portolan_config::Lender> {
        &self.config
    }

    /// Its counts.
    pub fn counters(&self) -> &Arc<LenderCounters> {
        &self.counters
    }

    /// Asks for a chunk; false when too many wait already. Never waits.
    pub fn ask(&self, request: LoanRequest) -> bool {
        let taken = self.requests.try_send(request).is_ok();
        if !taken {
            self.counters.refused.fetch_add(1, Relaxed);
        }
        taken
    }
}

/// The task's side.
struct Link {
    name: Name,
    asker: Asker,
    clock: Clock,
    waiting: mpsc::Receiver<LoanRequest>,
    news: mpsc::Sender<LenderNews>,
    counters: Arc<LenderCounters>,
    health: LenderHealth,
}

/// Why the task stopped lending over a connection.
enum Stopped {
    /// Nobody asks any more.
    Unwanted,
    /// The connection broke, or answers no more.
    Broken,
}

impl Link {
    /// Connects, lends, and connects again, until the handle is dropped.
    async fn run(mut self, client: Client) {
        let mut wait = FIRST_WAIT;
        loop {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(CONNECT_TIMEOUT))
                .set_response_timeout(Some(ANSWER_TIMEOUT));
            let connecting = client.get_multiplexed_async_connection_with_config(&config);
            match self.refusing_during(timeout(CONNECT_TIMEOUT, connecting)).await {
                None => return,
                Some(Ok(Ok(connection))) => match self.lend(connection).await {
                    Stopped::Unwanted => return,
                    Stopped::Broken if self.health.is_reachable() => wait = FIRST_WAIT,
                    Stopped::Broken => {}
                },
                Some(Err(_) | Ok(Err(_))) => self.count_failure().await,
            }
            let pause = wait.mul_f64(rand::random());
            wait = (wait * 2).min(LAST_WAIT);
            if self.refusing_during(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Refuses what is asked until `other` is done; `None` when nobody can ask any more.
    async fn refusing_during<F: Future>(&mut self, other: F) -> Option<F::Output> {
        tokio::pin!(other);
        loop {
            let refused = tokio::select! {
                biased;
                done = &mut other => return Some(done),
                asked = self.waiting.recv() => asked?,
            };
            self.refuse(refused).await;
        }
    }

    /// Lends over one connection for as long as it is of use, and tells the end of every request that it took.
    async fn lend(&mut self, connection: MultiplexedConnection) -> Stopped {
        let script = Script::new(LEND);
        let mut running = FuturesUnordered::new();
        let mut probe = Box::pin(sleep(Duration::ZERO));
        let stopped = loop {
            tokio::select! {
                biased;
                Some((request, answer)) = running.next(), if !running.is_empty() => {
                    if self.take(request, answer).await.is_break() {
                        break Stopped::Broken;
                    }
                }
                () = &mut probe, if !self.health.is_reachable() => {
                    if self.probe(&connection).await.is_break() {
                        break Stopped::Broken;
                    }
                    probe.set(sleep(PROBE_PERIOD));
                }
                asked = self.waiting.recv(), if running.len() < MAX_IN_FLIGHT => match asked {
                    None => break Stopped::Unwanted,
                    Some(request) if self.health.is_reachable() => {
                        running.push(ask(&script, connection.clone(), self.asker.clone(), request, self.clock.now().wall));
                    }
                    Some(request) => self.refuse(request).await,
                },
            }
        };
        // Each of them ends within its timeout.
        while let Some((request, answer)) = running.next().await {
            let _ = self.take(request, answer).await;
        }
        stopped
    }

    /// Asks an unreachable server for a sign of life; breaks when there is none.
    async fn probe(&mut self, connection: &MultiplexedConnection) -> ControlFlow<()> {
        let began = Instant::now();
        let answer = timeout(ANSWER_TIMEOUT, ping(connection.clone())).await;
        if !matches!(answer, Ok(Ok(()))) {
            self.count_failure().await;
            return ControlFlow::Break(());
        }
        self.count_answer(began.elapsed()).await;
        ControlFlow::Continue(())
    }

    /// Takes the end of a request; breaks when the connection is of no more use.
    async fn take(&mut self, request: LoanRequest, answer: Answer) -> ControlFlow<()> {
        match answer {
            Answer::Lent(granted, took) => {
                self.counters.answered.fetch_add(1, Relaxed);
                let lent = granted.held.saturating_sub(request.held).min(request.units);
                self.counters.lent.fetch_add(lent, Relaxed);
                self.count_answer(took).await;
                self.tell(LenderNews::Loan(request.ended(Some(granted)))).await;
                ControlFlow::Continue(())
            }
            Answer::Late | Answer::Broken => {
                self.counters.failed.fetch_add(1, Relaxed);
                self.count_failure().await;
                self.tell(LenderNews::Loan(request.ended(None))).await;
                let useless = matches!(answer, Answer::Broken) || !self.health.is_reachable();
                if useless { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
        }
    }

    async fn refuse(&mut self, request: LoanRequest) {
        self.counters.refused.fetch_add(1, Relaxed);
        self.tell(LenderNews::Loan(request.ended(None))).await;
    }

    async fn count_answer(&mut self, took: Duration) {
        let now = self.now();
        self.judge(|health| health.answered(took, now)).await;
    }

    async fn count_failure(&mut self) {
        let now = self.now();
        self.judge(|health| health.failed(now)).await;
    }

    /// Lets an outcome count, and tells when that changes what the lender is held for.
    async fn judge(&mut self, outcome: impl FnOnce(&mut LenderHealth)) {
        let before = self.health.is_reachable();
        outcome(&mut self.health);
        let reachable = self.health.is_reachable();
        if reachable == before {
            return;
        }
        self.counters.unreachable.store(!reachable, Relaxed);
        match reachable {
            true => info!(lender = %self.name, "the lender is reachable again"),
            false => warn!(lender = %self.name, "the lender is unreachable; limits go on with what they hold"),
        }
        self.tell(LenderNews::Judged).await;
    }

    /// Waits for the loop when it is behind; nothing but this task waits with it.
    async fn tell(&self, news: LenderNews) {
        // Fails when the loop has ended; then this task does, too.
        let _ = self.news.send(news).await;
    }

    fn now(&self) -> Timestamp {
        self.clock.now().mono
    }
}

/// How one request ended.
enum Answer {
    Lent(Granted, Duration),
    Late,
    Broken,
}

async fn ask(
    script: &Script,
    mut connection: MultiplexedConnection,
    asker: Asker,
    request: LoanRequest,
    now: WallTime,
) -> (LoanRequest, Answer) {
    let slot =
        format!("portolan:{}:{}:{}:{}:{}", asker.cluster, asker.founder, request.limit.0, request.slot, request.key);
    let lifetime = request.kept_for(now);
    let kept_until = request.slot_ends + request.kept_for(request.slot_ends);
    let mut call = script.prepare_invoke();
    call.key(slot)
        .arg(asker.region.as_str())
        .arg(request.sequence)
        .arg(request.held)
        .arg(request.units)
        .arg(request.quota)
        .arg(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX))
        .arg(kept_until.as_unix_millis())
        .arg(request.lent_from().as_unix_millis());
    let began = Instant::now();
    let answer = timeout(ANSWER_TIMEOUT, call.invoke_async::<(u64, u64, u64)>(&mut connection)).await;
    let answer = match answer {
        Ok(Ok((held, total, before))) => Answer::Lent(Granted { held, total, before }, began.elapsed()),
        Ok(Err(error)) if !error.is_timeout() => Answer::Broken,
        Ok(Err(_)) | Err(_) => Answer::Late,
    };
    (request, answer)
}

async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").query_async(&mut connection).await
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}
