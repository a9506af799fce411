//! One client connection over TCP: TLS, choice of protocol, and its end by drain, stop, idleness or the client.
//!
//! Never sees a request: hyper hands those to [`request::serve`]. HTTP/1.1 is read through [`Guarded`].

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::{
    body::{Body as _, Incoming},
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_local,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    body::ClientBody,
    framing::HeadLimits,
    guard::{Exchange, GuardLimits, Guarded},
    metrics::{Event, Protocol},
    request::{self, Peer},
    worker::{Phase, Worker, ticks_of},
};

/// Streams a client may have open on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Flow control windows of HTTP/2: what a client may send before a request body is read.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Time without an answer to a ping after which an HTTP/2 connection is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client may leave a response unread before its connection is dead (RFC 5482).
const MAX_UNREAD: Duration = Duration::from_secs(60);

/// Largest response data kept per HTTP/2 stream until the client takes it.
const SEND_BUFFER: usize = 256 << 10;

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, acceptor: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(MAX_UNREAD));
    let Some(acceptor) = acceptor else {
        serve_http1(worker, stream, peer, "http").await;
        return;
    };
    let within = worker.prepared().listener().handshake_timeout;
    let Ok(Ok(stream)) = timeout(within, acceptor.accept(stream)).await else {
        worker.shard.count(Event::HandshakeFailed);
        return;
    };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => serve_http2(worker, stream, peer).await,
        _ => serve_http1(worker, stream, peer, "https").await,
    }
}

async fn serve_http1<S>(worker: Rc<Worker>, stream: S, peer: SocketAddr, scheme: &'static str)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let exchange = Rc::new(Exchange::default());
    let prepared = worker.prepared();
    let listener = prepared.listener();
    let bytes = usize::try_from(listener.max_header_bytes.0).unwrap_or(usize::MAX);
    let limits = GuardLimits {
        head: HeadLimits { bytes, fields: listener.max_headers },
        header_timeout: listener.header_timeout,
        idle_timeout: listener.idle_timeout,
    };
    let mut builder = http1::Builder::new();
    // The guard keeps the limits; hyper's own must not be tighter, or it would answer in its stead.
    builder.max_buf_size(bytes.saturating_add(16 << 10).max(64 << 10));
    if listener.max_headers > 100 {
        builder.max_headers(listener.max_headers);
    }
    drop(prepared);
    let io = TokioIo::new(Guarded::new(stream, limits, Rc::clone(&exchange)));
    let service = service(&worker, Peer::new(peer.ip(), scheme, Protocol::Http1, exchange));
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut phases = Phases::new(&worker);
    poll_fn(|cx| {
        if phases.reached(cx, Phase::Stopping) {
            connection.as_mut().graceful_shutdown();
        }
        // What goes wrong on a connection concerns its client alone.
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}

async fn serve_http2<S>(worker: Rc<Worker>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let exchange = Rc::new(Exchange::default());
    let prepared = worker.prepared();
    let (max_header, idle) = (prepared.listener().max_header_bytes.0, prepared.listener().idle_timeout);
    let header_timeout = prepared.listener().header_timeout;
    drop(prepared);
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(max_header).unwrap_or(u32::MAX))
        .keep_alive_interval(idle)
        .keep_alive_timeout(PING_TIMEOUT);
    let service = service(&worker, Peer::new(peer.ip(), "https", Protocol::Http2, Rc::clone(&exchange)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut phases = Phases::new(&worker);
    // The first request has to come as soon as over HTTP/1.1.
    let mut idleness = pin!(sleep(header_timeout));
    let served_before = Cell::new(0);
    let mut told = false;
    poll_fn(|cx| {
        let stopping = phases.reached(cx, Phase::Stopping);
        // A client that comes while the region drains gets an answer before it is told to go.
        let draining = phases.reached(cx, Phase::Draining) && exchange.served.get() > 0;
        let mut is_idle = false;
        if idleness.as_mut().poll(cx).is_ready() {
            let served = exchange.served.get();
            is_idle = served_before.replace(served) == served && exchange.active.get() == 0;
            // What a client leaves unread, or does not end after it was told to go, is not kept for it.
            if (is_idle && told) || exchange.unread_since().is_some_and(|since| since + ticks_of(idle) <= worker.tick())
            {
                return Poll::Ready(());
            }
            idleness.as_mut().reset(Instant::now() + if is_idle { header_timeout } else { idle });
            let _ = idleness.as_mut().poll(cx);
        }
        if (stopping || draining || is_idle) && !told {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx).map(drop)
    })
    .await;
}

/// Hands requests of one connection to the request function.
fn service(
    worker: &Rc<Worker>,
    peer: Peer,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = http::Response<crate::body::ReplyBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<http::Response<crate::body::ReplyBody>, Infallible>> + 'static,
> {
    let (worker, peer) = (Rc::clone(worker), Rc::new(peer));
    service_fn(move |request: Request<Incoming>| {
        let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
        async move {
            let request =
                request.map(|body| if body.is_end_stream() { ClientBody::Empty } else { ClientBody::Hyper(body) });
            Ok(request::serve(&worker, &peer, request).await)
        }
    })
}

/// Wakes a connection when its worker's phase changes, at no cost while it does not.
pub(crate) struct Phases<'a> {
    worker: &'a Worker,
    changed: Pin<Box<tokio::sync::futures::Notified<'a>>>,
    registered: bool,
}

impl<'a> Phases<'a> {
    pub fn new(worker: &'a Worker) -> Self {
        Self { worker, changed: Box::pin(worker.phase_changed()), registered: false }
    }

    /// Whether the worker has reached `phase`; registers the task to be woken when it changes.
    pub fn reached(&mut self, cx: &mut Context<'_>, phase: Phase) -> bool {
        // A connection is polled by one task, so registering once suffices.
        if !self.registered || self.worker.phase() != Phase::Serving {
            while let Poll::Ready(()) = self.changed.as_mut().poll(cx) {
                self.changed.set(self.worker.phase_changed());
            }
            self.registered = true;
        }
        self.worker.phase() >= phase
    }
}

/// Runs the tasks of an HTTP/2 connection on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
