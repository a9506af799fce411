//! Steady load from clients that keep to their rate whatever the answers are, and a count of what was admitted per slot.
//!
//! Open loop: a slow gateway does not slow the clients. At most [`MAX_OPEN`] requests of a target are open; what is due
//! beyond that is skipped and counted, so that an overloaded test machine is seen and not mistaken for refusals.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use tokio::task::JoinHandle;

use crate::{Client, Host};

/// Open requests per target.
const MAX_OPEN: usize = 2000;

/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(5);

/// Connections per target.
const CONNECTIONS: usize = 2;

/// Where load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Names the samples; usually the region.
    pub name: String,
    /// Where the gateway is.
    pub address: SocketAddr,
    /// What is asked for.
    pub path: String,
    /// Bearer token, if any.
    pub token: Option<String>,
    /// Requests per second.
    pub rate: u32,
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Of the target.
    pub name: String,
    /// When it was sent, from the start of the load.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// The status, or the reason why there is none.
    pub outcome: Result<u16, String>,
    /// Slots the request was counted in, by limit.
    pub slots: Vec<(String, u64)>,
}

/// 2xx answers per limit and slot.
pub type Admissions = BTreeMap<(String, u64), u64>;

/// All that happened under a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Every request, in no order.
    pub samples: Vec<Sample>,
    /// Requests that were due and not sent: the test machine was too slow.
    pub skipped: usize,
}

impl Report {
    /// Counts the 2xx answers per slot, as the clients saw them.
    pub fn admissions(&self) -> Admissions {
        let mut counts = Admissions::new();
        for sample in self.samples.iter().filter(|sample| matches!(sample.outcome, Ok(200..=299))) {
            for slot in &sample.slots {
                *counts.entry(slot.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// The samples of one target.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The samples that got none of `expected`.
    pub fn other_than(&self, expected: &[u16]) -> Vec<&Sample> {
        self.samples.iter().filter(|s| !s.outcome.as_ref().is_ok_and(|status| expected.contains(status))).collect()
    }

    /// Number of samples by target and outcome, for messages.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
        for sample in &self.samples {
            let outcome = sample.outcome.as_ref().map_or_else(Clone::clone, u16::to_string);
            *counts.entry((&sample.name, outcome)).or_default() += 1;
        }
        let mut lines: Vec<String> = counts.iter().map(|((name, what), n)| format!("{name} {what}: {n}")).collect();
        lines.push(format!("skipped: {}", self.skipped));
        lines.join("\n")
    }
}

/// A load that runs until it is stopped.
pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    started: Instant,
    stop: AtomicBool,
    report: Mutex<Report>,
    open: AtomicUsize,
}

impl Load {
    /// Starts one stream of requests per target.
    pub fn start(host: &Host, targets: Vec<Target>) -> Self {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            report: Mutex::new(Report::default()),
            open: AtomicUsize::new(0),
        });
        let tasks = targets
            .into_iter()
            .map(|target| tokio::spawn(drive(Arc::clone(&shared), host.clone(), Arc::new(target))))
            .collect();
        Self { shared, tasks }
    }

    /// Time since the load began; samples carry the same clock.
    pub fn elapsed(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Stops sending, waits for the last answers and returns everything seen.
    pub async fn stop(self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            let _ = task.await;
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.shared.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        std::mem::take(&mut *self.shared.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How often a request that was not processed is sent again: a drained node retires each new connection at once.
const RESENT: usize = 3;

/// A connection that is opened again when it is gone.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Option<Client>>);

impl Slot {
    async fn client(&self, host: &Host, address: SocketAddr) -> anyhow::Result<Client> {
        let mut held = self.0.lock().await;
        if let Some(shared) = held.as_ref().filter(|client| !client.is_closed()).and_then(Client::share) {
            return Ok(shared);
        }
        let client = host.h2(address).await?;
        let shared = client.share().expect("HTTP/2 connections are shared");
        *held = Some(client);
        Ok(shared)
    }
}

async fn drive(shared: Arc<Shared>, host: Host, target: Arc<Target>) {
    let slots: Arc<Vec<Slot>> = Arc::new((0..CONNECTIONS).map(|_| Slot::default()).collect());
    let open = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let mut sent: u64 = 0;
    let mut ticks = tokio::time::interval(TICK);
    while !shared.stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        let due = started.elapsed().as_micros() * u128::from(target.rate) / 1_000_000;
        while u128::from(sent) < due {
            sent += 1;
            if open.load(Ordering::SeqCst) >= MAX_OPEN {
                shared.report.lock().unwrap_or_else(PoisonError::into_inner).skipped += 1;
                continue;
            }
            open.fetch_add(1, Ordering::SeqCst);
            shared.open.fetch_add(1, Ordering::SeqCst);
            let (shared, host, target) = (Arc::clone(&shared), host.clone(), Arc::clone(&target));
            let (slots, open) = (Arc::clone(&slots), Arc::clone(&open));
            tokio::spawn(async move {
                let slot = &slots[usize::try_from(sent).unwrap_or(0) % CONNECTIONS];
                let sample = one(&shared, &host, &target, slot).await;
                shared.report.lock().unwrap_or_else(PoisonError::into_inner).samples.push(sample);
                open.fetch_sub(1, Ordering::SeqCst);
                shared.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

async fn one(shared: &Shared, host: &Host, target: &Target, slot: &Slot) -> Sample {
    let began = Instant::now();
    let exchange = async || {
        let mut request = Request::get("/");
        if let Some(token) = &target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut client = slot.client(host, target.address).await?;
        client.send(request, &target.path, Bytes::new()).await
    };
    let mut answer = exchange().await;
    for _ in 0..RESENT {
        if !answer.as_ref().is_err_and(was_not_processed) {
            break;
        }
        answer = exchange().await;
    }
    Sample {
        name: target.name.clone(),
        at: began.duration_since(shared.started),
        took: began.elapsed(),
        slots: answer.as_ref().map(|answer| slots(&answer.headers)).unwrap_or_default(),
        outcome: answer.map(|answer| answer.status.as_u16()).map_err(|error| format!("{error:#}")),
    }
}

/// Whether the request provably was not processed, so that every client sends it again on another connection (RFC 9113
/// §6.8): a GOAWAY without an error met it, which h2 says in words alone, or it had not left when the connection ended.
fn was_not_processed(error: &anyhow::Error) -> bool {
    let unsent = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
    };
    error.chain().any(unsent) || format!("{error:#}").contains("not a result of an error")
}

/// Reads `Portolan-Slot: LIMIT;id=ID;slot=SLOT, …`. A limit that came back with another window has another id.
fn slots(headers: &HeaderMap) -> Vec<(String, u64)> {
    let values = headers.get_all("portolan-slot").iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .filter_map(|item| {
            let (limit, slot) = item.trim().rsplit_once(";slot=")?;
            Some((limit.to_owned(), slot.parse().ok()?))
        })
        .collect()
}
