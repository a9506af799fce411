//! Keeps the connection that this node dialled to one peer, and sends on it.
//!
//! Decides when the connection is stale (no packet for a second) and dials anew beside it, twice a second, until a
//! handshake completes: quinn's own retransmission backs off to many seconds, so fresh attempts find a healed path
//! sooner. Never queues for an absent peer: what the cores send is repeated by them, and stale news is worth nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use portolan_model::{Timestamp, codec::MAX_LEN};
use quinn::{Connection, ConnectionError, Endpoint};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tracing::{debug, info};

use super::{
    PeerStats, Refusal, RequestError, Shared, Urgency,
    accept::identity_of,
    has_known_version,
    stats::{Counters, bump},
    tls::DATAGRAM_BUFFER,
};
use crate::identity::NodeIdentity;

/// How often the connection is looked at.
const TICK: Duration = Duration::from_millis(100);

/// Without a packet for this long a connection is stale; three keep-alives are sent in it.
const STALE: Duration = Duration::from_secs(1);

/// Time between attempts to reach a peer whose connection is stale.
const REDIAL: Duration = Duration::from_millis(500);

/// How long an attempt may take; bounds the attempts under way to `ATTEMPT / REDIAL`.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Envelopes that wait for a stream of their own; at the bound new ones are dropped and counted.
const STREAM_QUEUE: usize = 256;

/// Bytes of one peer's envelopes between its connections and the node's loop; at the bound datagrams are dropped and
/// streams wait.
const INBOX_BYTES: usize = 8 << 20;

/// Bytes of one peer's requests that are read or answered at once; at the bound streams wait. Room for several of the
/// longest, since an apply that waits for a majority must not hold up heartbeats.
const REQUEST_BYTES: usize = 8 * MAX_LEN;

/// Part of the datagram buffer that only signs of life may fill: a burst of repair would else push them out, and the
/// peer would take this node for dead for being busy.
const VITAL_RESERVE: usize = DATAGRAM_BUFFER / 4;

/// How long one envelope may wait for stream credit.
const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// QUIC close code of a connection that a newer one replaces.
const REPLACED: u32 = 1;

/// QUIC close code towards a certificate that names another node than the one dialled.
const WRONG_PEER: u32 = 2;

/// The sending half of the relation to one peer.
pub(super) struct Link {
    pub(super) peer: NodeIdentity,
    pub(super) address: SocketAddr,
    /// Bytes of this peer's envelopes that may wait for the node's loop.
    pub(super) inbox_budget: Arc<Semaphore>,
    /// Bytes of this peer's requests that may be in work.
    pub(super) request_budget: Arc<Semaphore>,
    connection: watch::Sender<Option<Connection>>,
    streams: mpsc::Sender<Bytes>,
    queue: std::sync::Mutex<Option<mpsc::Receiver<Bytes>>>,
    knocked: Notify,
    heard: AtomicU64,
}

/// Starts the two tasks of a link. Once per link.
pub(super) fn spawn(link: Arc<Link>, shared: Arc<Shared>, tasks: &mut JoinSet<()>) {
    let queue = link.queue.lock().expect("no holder panics").take().expect("a link is spawned once");
    tasks.spawn(write_streams(Arc::clone(&link), Arc::clone(&shared), queue));
    tasks.spawn(keep_connected(link, shared));
}

impl Link {
    pub(super) fn new(peer: NodeIdentity, address: SocketAddr) -> Self {
        let (streams, queue) = mpsc::channel(STREAM_QUEUE);
        Self {
            peer,
            address,
            inbox_budget: Arc::new(Semaphore::new(INBOX_BYTES)),
            request_budget: Arc::new(Semaphore::new(REQUEST_BYTES)),
            connection: watch::Sender::new(None),
            streams,
            queue: std::sync::Mutex::new(Some(queue)),
            knocked: Notify::new(),
            heard: AtomicU64::new(0),
        }
    }

    /// Notes that the peer was heard.
    pub(super) fn note_heard(&self, now: Timestamp) {
        self.heard.fetch_max(now.as_nanos(), Relaxed);
    }

    /// Notes that the peer dialled this node: a path exists, so a stale connection is dialled anew at once.
    pub(super) fn note_knock(&self) {
        self.knocked.notify_one();
    }

    pub(super) fn send_datagram(&self, envelope: Bytes, urgency: Urgency, counters: &Counters) {
        let Some(connection) = self.connection() else { return bump(&counters.dropped_unconnected) };
        if connection.max_datagram_size().is_none_or(|max| envelope.len() > max) {
            return self.send_stream(envelope, counters);
        }
        let reserve = if urgency == Urgency::Vital { 0 } else { VITAL_RESERVE };
        if connection.datagram_send_buffer_space() < envelope.len() + reserve {
            bump(&counters.dropped_full);
            if urgency == Urgency::Ordinary {
                return;
            }
            // quinn drops the oldest for it: an older sign of life is worth less than a newer one.
        }
        match connection.send_datagram(envelope) {
            Ok(()) => bump(&counters.sent_datagrams),
            Err(_) => bump(&counters.dropped_unconnected),
        }
    }

    pub(super) fn send_stream(&self, envelope: Bytes, counters: &Counters) {
        if self.connection().is_none() {
            bump(&counters.dropped_unconnected);
        } else if self.streams.try_send(envelope).is_err() {
            bump(&counters.dropped_full);
        }
    }

    pub(super) async fn request(&self, request: &[u8]) -> Result<Vec<u8>, RequestError> {
        let connection = self.connection().ok_or(RequestError::NotConnected)?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|_| RequestError::Broken)?;
        send.write_all(request).await.map_err(|_| RequestError::Broken)?;
        send.finish().map_err(|_| RequestError::Broken)?;
        let answer = receive.read_to_end(MAX_LEN).await.map_err(|_| RequestError::Broken)?;
        if has_known_version(&answer) { Ok(answer) } else { Err(RequestError::UnknownVersion) }
    }

    pub(super) fn stats(&self, now: Timestamp) -> PeerStats {
        let connection = self.connection();
        let heard = Timestamp::from_nanos(self.heard.load(Relaxed));
        PeerStats {
            connected: connection.is_some(),
            rtt: connection.map(|connection| connection.rtt()),
            heard_age: (heard > Timestamp::ZERO).then(|| now.since(heard)),
        }
    }

    fn connection(&self) -> Option<Connection> {
        self.connection.borrow().as_ref().filter(|connection| connection.close_reason().is_none()).cloned()
    }
}

/// Watches the connection and dials while it is stale.
async fn keep_connected(link: Arc<Link>, shared: Arc<Shared>) {
    let mut attempts: JoinSet<Option<Connection>> = JoinSet::new();
    let mut pulse = Pulse::default();
    let mut last_dial: Option<Instant> = None;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let knocked = tokio::select! {
            biased;
            Some(result) = attempts.join_next() => {
                if let Ok(Some(connection)) = result {
                    attempts.shutdown().await;
                    replace(&link, connection);
                    pulse = Pulse::default();
                }
                false
            }
            () = link.knocked.notified() => true,
            _ = ticks.tick() => false,
        };
        let now = Instant::now();
        if !pulse.is_stale(link.connection().as_ref(), now) {
            continue;
        }
        let wait = if knocked { TICK } else { REDIAL };
        if last_dial.is_none_or(|at| now.duration_since(at) >= wait) {
            last_dial = Some(now);
            attempts.spawn(dial(shared.endpoint.clone(), Arc::clone(&link), Arc::clone(&shared)));
        }
    }
}

/// When the last sign of life was seen on a connection.
#[derive(Default)]
struct Pulse {
    packets: u64,
    changed: Option<Instant>,
}

impl Pulse {
    /// Whether nothing came over `connection` for [`STALE`]; no connection is stale at once.
    fn is_stale(&mut self, connection: Option<&Connection>, now: Instant) -> bool {
        let Some(connection) = connection else { return true };
        let packets = connection.stats().udp_rx.datagrams;
        if self.changed.is_none() || packets != self.packets {
            (self.packets, self.changed) = (packets, Some(now));
        }
        self.changed.is_some_and(|at| now.duration_since(at) >= STALE)
    }
}

async fn dial(endpoint: Endpoint, link: Arc<Link>, shared: Arc<Shared>) -> Option<Connection> {
    bump(&shared.counters.dials);
    let outcome = match endpoint.connect(link.address, link.peer.name.as_str()) {
        Ok(connecting) => timeout(ATTEMPT, connecting).await.unwrap_or(Err(ConnectionError::TimedOut)),
        Err(error) => {
            debug!(peer = %link.peer.name, %error, "cannot dial");
            bump(&shared.counters.dials_failed);
            return None;
        }
    };
    match outcome {
        Ok(connection) if identity_of(&connection, &shared.cluster).as_ref() == Some(&link.peer) => Some(connection),
        Ok(connection) => {
            connection.close(WRONG_PEER.into(), b"another node was expected here");
            shared.counters.refuse(Refusal::UnknownPeer);
            bump(&shared.counters.dials_failed);
            None
        }
        Err(error) => {
            debug!(peer = %link.peer.name, %error, "dial failed");
            bump(&shared.counters.dials_failed);
            None
        }
    }
}

fn replace(link: &Link, connection: Connection) {
    info!(peer = %link.peer.name, address = %link.address, "mesh connection stands");
    if let Some(old) = link.connection.send_replace(Some(connection)) {
        old.close(REPLACED.into(), b"replaced");
    }
}

/// Writes queued envelopes, each on its own stream, on whatever connection then stands.
async fn write_streams(link: Arc<Link>, shared: Arc<Shared>, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(envelope) = queue.recv().await {
        let Some(connection) = link.connection() else {
            bump(&shared.counters.dropped_unconnected);
            continue;
        };
        match timeout(STREAM_TIMEOUT, write_stream(&connection, &envelope)).await {
            Ok(Ok(())) => bump(&shared.counters.sent_streams),
            _ => bump(&shared.counters.dropped_unconnected),
        }
    }
}

async fn write_stream(connection: &Connection, envelope: &[u8]) -> Result<(), quinn::WriteError> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(envelope).await?;
    // Fails only when the stream was reset, which the write would have told.
    let _ = stream.finish();
    Ok(())
}
