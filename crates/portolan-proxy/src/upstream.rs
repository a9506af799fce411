//! Connections to endpoints and one attempt over one of them. A worker keeps its idle connections to itself: no lock.
//!
//! Never decides whether to try again; says how far an attempt got. A connection goes back to the pool only after the
//! response's body has ended, and the one used last is taken first, so that the others can age out.

use std::{cell::RefCell, collections::BTreeMap, fmt, io, rc::Rc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use portolan_config::EndpointAddress;
use portolan_routing::{EndpointId, InFlight, Outcome, Sent};
use tokio::{net::TcpStream, task::spawn_local, time::timeout};

use crate::{
    body::AttemptBody,
    metrics::{AttemptEnd, Event},
    worker::{Prepared, Worker},
};

/// Idle connections kept per endpoint and worker; the oldest beyond it are closed.
const MAX_IDLE: usize = 256;

/// Ticks after which an idle connection is closed: 30 s, below the keep-alive time of most servers.
const MAX_IDLE_TICKS: u64 = 300;

type Sender = http1::SendRequest<AttemptBody>;

/// Idle connections of one worker.
#[derive(Default)]
pub(crate) struct Pool(RefCell<BTreeMap<EndpointId, Vec<Idle>>>);

struct Idle {
    sender: Sender,
    since: u64,
}

impl Pool {
    /// The connection used last that is still open.
    fn take(&self, endpoint: EndpointId) -> Option<Sender> {
        let mut pool = self.0.borrow_mut();
        let idle = pool.get_mut(&endpoint)?;
        std::iter::from_fn(|| idle.pop()).map(|idle| idle.sender).find(|sender| !sender.is_closed())
    }

    fn put(&self, endpoint: EndpointId, sender: Sender, tick: u64) {
        if sender.is_closed() {
            return;
        }
        let mut pool = self.0.borrow_mut();
        let idle = pool.entry(endpoint).or_default();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { sender, since: tick });
    }

    /// Closes all idle connections to an endpoint that broke one: it has probably closed the others too.
    fn forget(&self, endpoint: EndpointId) {
        self.0.borrow_mut().remove(&endpoint);
    }

    /// Closes connections that were idle for too long.
    pub fn prune(&self, tick: u64) {
        self.0.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since + MAX_IDLE_TICKS > tick);
            !idle.is_empty()
        });
    }
}

/// A connection in use by one exchange. Dropped without being given back, it is closed.
pub struct Lease {
    worker: Rc<Worker>,
    prepared: Rc<Prepared>,
    endpoint: EndpointId,
    sender: Sender,
    reused: bool,
    _in_flight: InFlight,
}

impl Lease {
    /// Puts the connection back into its pool.
    pub fn give_back(self) {
        self.worker.pool.put(self.endpoint, self.sender, self.worker.tick());
    }

    /// Counts that the response broke off.
    pub fn broke(&self) {
        self.worker.pool.forget(self.endpoint);
        self.prepared.view.board.record(self.endpoint, Outcome::Reset, self.worker.now().mono);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// How an attempt failed.
pub(crate) struct AttemptFailure {
    pub end: AttemptEnd,
    pub sent: Sent,
    /// Whether the endpoint itself may be sound: a pooled connection can have been closed while it was idle.
    pub stale: bool,
}

/// Where and how long an attempt is made.
pub(crate) struct Attempt<'a> {
    pub endpoint: EndpointId,
    pub address: &'a EndpointAddress,
    pub connect_timeout: Duration,
    pub time_left: Duration,
}

/// Makes one attempt and records its outcome for the choice of endpoints.
pub(crate) async fn attempt(
    worker: &Rc<Worker>,
    prepared: &Rc<Prepared>,
    attempt: &Attempt<'_>,
    request: Request<AttemptBody>,
) -> Result<(Response<Incoming>, Lease), AttemptFailure> {
    let result = exchange(worker, prepared, attempt, request).await;
    let board = &prepared.view.board;
    let (end, outcome) = match &result {
        Ok((response, _)) if response.status().is_server_error() => (AttemptEnd::Status5xx, Some(Outcome::Status5xx)),
        Ok(_) => (AttemptEnd::Success, Some(Outcome::Success)),
        Err(failure) if failure.stale => (failure.end, None),
        Err(failure) => (
            failure.end,
            match failure.end {
                AttemptEnd::ConnectFailed => Some(Outcome::ConnectFailed),
                AttemptEnd::Timeout => Some(Outcome::Timeout),
                _ => Some(Outcome::Reset),
            },
        ),
    };
    worker.shard.count_attempt(end);
    if let Some(outcome) = outcome {
        board.record(attempt.endpoint, outcome, worker.now().mono);
    }
    result
}

async fn exchange(
    worker: &Rc<Worker>,
    prepared: &Rc<Prepared>,
    attempt: &Attempt<'_>,
    request: Request<AttemptBody>,
) -> Result<(Response<Incoming>, Lease), AttemptFailure> {
    let in_flight = prepared.view.board.begin(attempt.endpoint);
    let (sender, reused) = ready_sender(worker, attempt).await?;
    let (worker, prepared) = (Rc::clone(worker), Rc::clone(prepared));
    let endpoint = attempt.endpoint;
    let mut lease = Lease { worker, prepared, endpoint, sender, reused, _in_flight: in_flight };
    match timeout(attempt.time_left, lease.sender.try_send_request(request)).await {
        Ok(Ok(response)) => Ok((response, lease)),
        Ok(Err(error)) => {
            let sent = if error.message().is_some() { Sent::NotSent } else { Sent::Sent };
            if lease.reused {
                lease.worker.pool.forget(endpoint);
            }
            Err(AttemptFailure { end: AttemptEnd::Reset, sent, stale: lease.reused })
        }
        Err(_) => Err(AttemptFailure { end: AttemptEnd::Timeout, sent: Sent::Sent, stale: false }),
    }
}

/// A pooled connection that takes a request now, or a new one.
async fn ready_sender(worker: &Rc<Worker>, attempt: &Attempt<'_>) -> Result<(Sender, bool), AttemptFailure> {
    while let Some(mut sender) = worker.pool.take(attempt.endpoint) {
        if sender.is_ready() || sender.ready().await.is_ok() {
            worker.shard.count(Event::UpstreamReused);
            return Ok((sender, true));
        }
    }
    let failed = |_| AttemptFailure { end: AttemptEnd::ConnectFailed, sent: Sent::NotSent, stale: false };
    let within = attempt.connect_timeout.min(attempt.time_left);
    let sender = timeout(within, connect(attempt.address))
        .await
        .map_err(|_| failed(()))
        .and_then(|connected| connected.map_err(|_| failed(())))?;
    worker.shard.count(Event::UpstreamOpened);
    Ok((sender, false))
}

async fn connect(address: &EndpointAddress) -> io::Result<Sender> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    spawn_local(async move {
        // What goes wrong on it reaches the exchange that uses it.
        let _ = connection.await;
    });
    Ok(sender)
}
