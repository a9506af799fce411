//! HTTP/3: QUIC connections, their requests as ordinary ones, and their end.
//!
//! Never charges an address that has not proved itself: until a handshake is done its sender may be forged. Connection
//! ids start with the number of the worker, so that packets can be steered once several workers serve QUIC. A client is
//! told to go by GOAWAY, and the connection lives until its requests have ended (RFC 9114 §5.2).
//!
//! A client that leaves ends its requests. One that resets a single stream does not stop the request that was asked on
//! it, since the library does not tell: it goes on to the route's timeout and keeps its place among the connection's
//! streams until then.

use std::{
    future::poll_fn,
    io,
    net::UdpSocket,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::{Buf, Bytes};
use futures_util::future::select;
use h3::{
    error::Code,
    server::{RequestResolver, RequestStream},
};
use http::{HeaderMap, Method, Request, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use rand::Rng as _;
use tokio::{
    task::{JoinSet, spawn_local},
    time::{sleep, timeout},
};

use crate::{
    body::{BodyError, ClientBody, ReplyBody},
    connection::Phases,
    guard::Exchange,
    metrics::{Event, Protocol},
    request::{self, Peer},
    tls::{self, CertificateStore, QUIC_PROTOCOLS},
    worker::{Phase, Worker},
};

/// Requests a client may have open on one connection.
const MAX_STREAMS: u32 = 100;

/// Unidirectional streams a client may open: control, two for QPACK, and some it may grease with.
const MAX_UNI_STREAMS: u32 = 16;

/// Flow control windows: what a client may send before a request body is read.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Response data kept per connection until the client takes it.
const SEND_WINDOW: u64 = 1 << 20;

/// Longest silence of a connection.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Open connections beyond which a client must first prove its address (RFC 9000 §8.1.2).
const RETRY_FROM: usize = 1024;

/// Length of connection ids: the worker and 64 random bits.
const ID_LEN: usize = 9;

/// How long a connection that was told to go may be without requests before it is closed.
const LEAVE_AFTER: Duration = Duration::from_millis(500);

type H3Connection = h3::server::Connection<h3_quinn::Connection, Bytes>;
type Resolver = RequestResolver<h3_quinn::Connection, Bytes>;
type Receiver = RequestStream<h3_quinn::RecvStream, Bytes>;
type Sender = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;

/// The QUIC configuration of the listener.
pub(crate) fn server_config(
    certificates: &Arc<ArcSwap<CertificateStore>>,
) -> Result<quinn::ServerConfig, rustls::Error> {
    let tls = tls::server_config(certificates, &QUIC_PROTOCOLS)?;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(MAX_UNI_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(MAX_IDLE.try_into().expect("60 s fit a QUIC idle timeout")));
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Connection ids of one worker.
#[derive(Debug)]
struct WorkerIds(u8);

impl ConnectionIdGenerator for WorkerIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [self.0; ID_LEN];
        rand::rng().fill_bytes(&mut id[1..]);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Serves QUIC on `socket`. Runs on the worker's runtime, so it must be called there.
pub(crate) fn endpoint(worker: &Worker, socket: UdpSocket) -> io::Result<Endpoint> {
    let number = u8::try_from(worker.index).unwrap_or(u8::MAX);
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(WorkerIds(number)));
    Endpoint::new(config, Some(worker.shared.quic.clone()), socket, Arc::new(TokioRuntime))
}

/// Ends what is left of an endpoint and lets the last packets out.
pub(crate) async fn close(endpoint: &Endpoint) {
    endpoint.close(h3_no_error(), b"");
    let _ = timeout(LEAVE_AFTER, endpoint.wait_idle()).await;
}

fn h3_no_error() -> VarInt {
    // H3_NO_ERROR, RFC 9114 §8.1.
    VarInt::from_u32(0x100)
}

/// Accepts connections until the endpoint closes.
pub(crate) async fn accept(worker: Rc<Worker>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        if !incoming.remote_address_validated() && endpoint.open_connections() >= RETRY_FROM {
            // An error means that it was validated meanwhile; then the client tries again by itself.
            let _ = incoming.retry();
            continue;
        }
        if incoming.remote_address_validated() && !worker.admits_connection(incoming.remote_address()) {
            incoming.refuse();
            continue;
        }
        let Some(open) = worker.open_connection(incoming.remote_address().ip()) else {
            incoming.refuse();
            continue;
        };
        let worker = Rc::clone(&worker);
        spawn_local(async move {
            serve_connection(worker, incoming).await;
            drop(open);
        });
    }
}

async fn serve_connection(worker: Rc<Worker>, incoming: Incoming) {
    let (validated, within) = (incoming.remote_address_validated(), worker.prepared().listener().handshake_timeout);
    let handshake = async { incoming.accept()?.await };
    let Ok(Ok(connection)) = timeout(within, handshake).await else {
        worker.shard.count(Event::HandshakeFailed);
        return;
    };
    let address = connection.remote_address();
    if !validated && !worker.admits_connection(address) {
        connection.close(h3_no_error(), b"");
        return;
    }
    let max_header = worker.prepared().listener().max_header_bytes.0;
    let mut builder = h3::server::builder();
    builder.max_field_section_size(max_header);
    let built = timeout(within, builder.build(h3_quinn::Connection::new(connection.clone()))).await;
    let Ok(Ok(h3)) = built else { return };
    serve_requests(worker, h3, &connection).await;
}

/// What a connection waits for.
enum Next {
    Accepted(Option<Box<Resolver>>),
    StreamEnded,
    Leave,
    Idle,
    Closed,
}

/// Accepts requests until the client leaves, or was told to and has none left. Owns its streams: what of them is left
/// ends with the connection, together with what they ask of upstreams.
async fn serve_requests(worker: Rc<Worker>, mut h3: H3Connection, quic: &quinn::Connection) {
    let exchange = Rc::new(Exchange::default());
    let peer = Peer::new(quic.remote_address().ip(), "https", Protocol::Http3, Rc::clone(&exchange));
    let peer = Rc::new(peer);
    let idle = worker.prepared().listener().idle_timeout;
    let mut phases = Phases::new(&worker);
    let mut streams = JoinSet::new();
    let mut told = false;
    loop {
        let next = {
            let leave = poll_fn(|cx| {
                let draining = phases.reached(cx, Phase::Draining) && exchange.served.get() > 0;
                if draining || phases.reached(cx, Phase::Stopping) { Poll::Ready(()) } else { Poll::Pending }
            });
            tokio::select! {
                biased;
                () = leave, if !told => Next::Leave,
                _ = quic.closed() => Next::Closed,
                Some(_) = streams.join_next() => Next::StreamEnded,
                // Streams that a client resets cost until their request ends, so the library's count does not bound them.
                accepted = h3.accept(), if streams.len() < MAX_STREAMS as usize => {
                    Next::Accepted(accepted.ok().flatten().map(Box::new))
                }
                () = sleep(if told { LEAVE_AFTER } else { idle }), if streams.is_empty() => Next::Idle,
            }
        };
        match next {
            Next::Accepted(Some(resolver)) => {
                streams.spawn_local(serve_stream(Rc::clone(&worker), Rc::clone(&peer), *resolver));
            }
            Next::Accepted(None) | Next::Closed => return,
            Next::StreamEnded => {}
            Next::Idle if told => {
                // The last word: nothing beyond what was answered. Dropping the connection then closes it.
                let _ = h3.shutdown(0).await;
                taken(quic, idle).await;
                return;
            }
            Next::Leave | Next::Idle => {
                told = true;
                // Requests already on their way are still taken.
                let _ = h3.shutdown(MAX_STREAMS as usize).await;
            }
        }
    }
}

/// Waits while the client still takes what was sent, seen by its acknowledgements: closing throws away the rest.
async fn taken(quic: &quinn::Connection, at_most: Duration) {
    let acknowledged = || quic.stats().frame_rx.acks;
    let quiet = async {
        let mut before = acknowledged();
        loop {
            sleep(LEAVE_AFTER).await;
            let now = acknowledged();
            if now == before {
                return;
            }
            before = now;
        }
    };
    let _ = timeout(at_most, select(pin!(quiet), pin!(quic.closed()))).await;
}

async fn serve_stream(worker: Rc<Worker>, peer: Rc<Peer>, resolver: Resolver) {
    let within = worker.prepared().listener().header_timeout;
    // The library resets what is malformed and answers an oversized head with 431.
    let Ok(Ok((request, stream))) = timeout(within, resolver.resolve_request()).await else { return };
    let (sender, receiver) = stream.split();
    let Ok(Some(body)) = timeout(within, Http3Body::open(receiver, &request)).await else { return };
    let response = request::serve(&worker, &peer, request.map(|()| body)).await;
    let patience = worker.prepared().listener().idle_timeout;
    let _ = send(sender, response, patience).await;
}

/// Sends a response. A part of it that the client does not take within `patience` ends its stream.
async fn send(mut sender: Sender, response: http::Response<ReplyBody>, patience: Duration) -> Result<(), Unsent> {
    let (head, mut body) = response.into_parts();
    timeout(patience, sender.send_response(http::Response::from_parts(head, ()))).await??;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            sender.stop_stream(Code::H3_INTERNAL_ERROR);
            return Ok(());
        };
        let sent = match frame.into_data() {
            Ok(data) => timeout(patience, sender.send_data(data)).await,
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => timeout(patience, sender.send_trailers(trailers)).await,
                Err(_) => continue,
            },
        };
        if sent.is_err() {
            sender.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
        sent??;
        if body.is_end_stream() {
            break;
        }
    }
    Ok(sender.finish().await?)
}

/// Why a response did not reach its end.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("the stream broke")]
    Stream(#[from] h3::error::StreamError),
    #[error("the client takes nothing")]
    Unread(#[from] tokio::time::error::Elapsed),
}

/// A request body over HTTP/3. Checks the declared length, which the library does not (RFC 9114 §4.1.2).
pub struct Http3Body {
    receiver: Receiver,
    /// What was read ahead to see whether there is a body.
    first: Option<Bytes>,
    declared: Option<u64>,
    seen: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Data,
    Trailers,
    Ended,
}

impl Http3Body {
    /// The body of a request; `None` when the stream broke. Methods whose requests seldom have a body are read ahead,
    /// for otherwise every GET would reach its upstream with an empty chunked body.
    async fn open(receiver: Receiver, request: &Request<()>) -> Option<ClientBody> {
        let declared = declared_length(request.headers()).ok()?;
        let mut body = Box::new(Self { receiver, first: None, declared, seen: 0, stage: Stage::Data });
        let may_lack_body = matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
        if declared.is_none_or(|length| length == 0) && may_lack_body {
            match poll_fn(|cx| body.poll_data(cx)).await {
                Some(Ok(data)) => body.first = Some(data),
                Some(Err(_)) => return None,
                None => return Some(ClientBody::Empty),
            }
        } else if declared == Some(0) {
            return Some(ClientBody::Empty);
        }
        Some(ClientBody::Http3(body))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.stage == Stage::Data {
            if let Some(data) = ready!(self.poll_data(cx)) {
                return Poll::Ready(Some(data.map(Frame::data)));
            }
            self.stage = Stage::Trailers;
        }
        if self.stage == Stage::Trailers {
            let trailers = ready!(self.receiver.poll_recv_trailers(cx));
            self.stage = Stage::Ended;
            return match trailers {
                Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => Poll::Ready(None),
                Err(_) => Poll::Ready(Some(Err(BodyError::Client))),
            };
        }
        Poll::Ready(None)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let data = match ready!(self.receiver.poll_recv_data(cx)) {
            Ok(Some(mut data)) => data.copy_to_bytes(data.remaining()),
            Ok(None) if self.declared.is_some_and(|declared| declared != self.seen) => {
                return Poll::Ready(Some(Err(BodyError::Client)));
            }
            Ok(None) => return Poll::Ready(None),
            Err(_) => return Poll::Ready(Some(Err(BodyError::Client))),
        };
        self.seen += data.len() as u64;
        if self.declared.is_some_and(|declared| declared < self.seen) {
            return Poll::Ready(Some(Err(BodyError::Client)));
        }
        Poll::Ready(Some(Ok(data)))
    }

    pub(crate) fn is_end(&self) -> bool {
        self.stage == Stage::Ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.declared.map_or_else(SizeHint::new, |declared| {
            let ahead = self.first.as_ref().map_or(0, |first| first.len() as u64);
            SizeHint::with_exact((declared + ahead).saturating_sub(self.seen))
        })
    }
}

impl std::fmt::Debug for Http3Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http3Body").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// `Content-Length` when it is one number; a malformed or repeated one makes the request malformed.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, BodyError> {
    let mut fields = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(field) = fields.next() else { return Ok(None) };
    let digits = field.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok()).filter(|_| fields.next().is_none());
    length.map(Some).ok_or(BodyError::Client)
}
