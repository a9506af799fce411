//! Connections to endpoints and one attempt over one of them. A worker keeps its idle connections to itself: no lock.
//!
//! Never decides whether to try again; says how far an attempt got. A connection goes back to the pool only after the
//! response's body has ended, and the one used last is taken first, so that the others can age out.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use portolan_config::EndpointAddress;
use portolan_routing::{EndpointId, InFlight, Outcome, Sent};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::{AbortHandle, spawn_local},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    body::{AttemptBody, Upload},
    gather::poll_write_gathered,
    head,
    metrics::{AttemptEnd, Event},
    worker::{Prepared, Worker},
};

/// Idle connections kept per endpoint and worker; the oldest beyond it are closed.
const MAX_IDLE: usize = 256;

/// Ticks after which an idle connection is closed: 30 s, below the keep-alive time of most servers.
const MAX_IDLE_TICKS: u64 = 300;

type Sender = http1::SendRequest<AttemptBody>;

/// Longest wait for a pooled connection that is still finishing its last exchange; then another is used.
const READY_WAIT: Duration = Duration::from_millis(5);

/// Busy connections waited for by one attempt; then a new one is opened.
const MAX_READY_WAITS: usize = 2;

/// Ticks without a byte from an upstream, and none taken from it, after which its connection is closed: five minutes.
const MAX_SILENT_TICKS: u64 = 3000;

/// Connections of one worker.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<BTreeMap<EndpointId, Vec<Idle>>>,
    open: RefCell<Vec<Open>>,
}

/// A connection, idle or in use.
struct Open {
    last_read: Rc<Cell<u64>>,
    task: AbortHandle,
}

struct Idle {
    sender: Sender,
    since: u64,
}

impl Pool {
    /// The connection used last that is still open.
    fn take(&self, endpoint: EndpointId) -> Option<Idle> {
        let mut pool = self.idle.borrow_mut();
        let idle = pool.get_mut(&endpoint)?;
        std::iter::from_fn(|| idle.pop()).find(|idle| !idle.sender.is_closed())
    }

    fn put(&self, endpoint: EndpointId, sender: Sender, tick: u64) {
        if sender.is_closed() {
            return;
        }
        let mut pool = self.idle.borrow_mut();
        let idle = pool.entry(endpoint).or_default();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { sender, since: tick });
    }

    /// Closes all idle connections to an endpoint that broke one: it has probably closed the others too.
    fn forget(&self, endpoint: EndpointId) {
        self.idle.borrow_mut().remove(&endpoint);
    }

    /// Closes connections that were idle or silent for too long.
    pub fn prune(&self, tick: u64) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since + MAX_IDLE_TICKS > tick);
            !idle.is_empty()
        });
        self.open.borrow_mut().retain(|open| {
            if open.last_read.get() + MAX_SILENT_TICKS <= tick {
                open.task.abort();
            }
            !open.task.is_finished()
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
    upload: Option<Rc<Upload>>,
    _in_flight: InFlight,
}

impl Lease {
    /// Puts the connection back into its pool.
    pub fn give_back(self) {
        self.worker.pool.put(self.endpoint, self.sender, self.worker.tick());
    }

    /// Counts that the response broke off, unless the client's own body ended the exchange.
    pub fn broke(&self) {
        if self.upload.as_ref().is_some_and(|upload| upload.failure().is_some()) {
            return;
        }
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
    pub deadline: Instant,
}

/// Makes one attempt and records its outcome for the choice of endpoints: what the client caused is no outcome.
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
        Err(failure) if failure.stale || failure.end == AttemptEnd::Client => (failure.end, None),
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
    let (endpoint, upload) = (attempt.endpoint, request.body().0.clone());
    let mut lease = Lease { worker, prepared, endpoint, sender, reused, upload, _in_flight: in_flight };
    let answer = timeout_at(attempt.deadline, lease.sender.try_send_request(request)).await;
    match answer {
        Ok(Ok(response)) if response.status().is_informational() || !head::is_framed(response.headers()) => {
            Err(AttemptFailure { end: AttemptEnd::Reset, sent: Sent::Sent, stale: false })
        }
        Ok(Ok(response)) => Ok((response, lease)),
        _ if lease.upload.as_ref().is_some_and(|upload| upload.failed_exchange(answer.is_err())) => {
            Err(AttemptFailure { end: AttemptEnd::Client, sent: Sent::Sent, stale: false })
        }
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
    for _ in 0..MAX_READY_WAITS {
        let Some(mut idle) = worker.pool.take(attempt.endpoint) else { break };
        // It is busy when the upstream answered before it had read the whole request.
        if idle.sender.is_ready() || timeout(READY_WAIT, idle.sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
            worker.shard.count(Event::UpstreamReused);
            return Ok((idle.sender, true));
        }
    }
    let failed = |_| AttemptFailure { end: AttemptEnd::ConnectFailed, sent: Sent::NotSent, stale: false };
    let until = attempt.deadline.min(Instant::now() + attempt.connect_timeout);
    let connected = timeout_at(until, connect(worker, attempt.address)).await;
    let sender = connected.map_err(|_| failed(())).and_then(|connected| connected.map_err(|_| failed(())))?;
    worker.shard.count(Event::UpstreamOpened);
    Ok((sender, false))
}

async fn connect(worker: &Rc<Worker>, address: &EndpointAddress) -> io::Result<Sender> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let last_read = Rc::new(Cell::new(worker.tick()));
    let stream = Watched { stream, last_read: Rc::clone(&last_read), worker: Rc::clone(worker) };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let task = spawn_local(async move {
        // What goes wrong on it reaches the exchange that uses it.
        let _ = connection.await;
    });
    worker.pool.open.borrow_mut().push(Open { last_read, task: task.abort_handle() });
    Ok(sender)
}

/// A connection that notes when it was last read from.
struct Watched {
    stream: TcpStream,
    last_read: Rc<Cell<u64>>,
    worker: Rc<Worker>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.last_read.set(this.worker.tick());
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_gathered(&mut self.get_mut().stream, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
