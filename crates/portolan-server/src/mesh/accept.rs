//! Takes connections that peers dial, and what they send on them.
//!
//! Decides who is let in: a node of this cluster, in the region where the node file puts it. Everything else is
//! closed and counted. Never holds more than a few connections per peer: a newer one pushes out the oldest. Never holds
//! more than a budget of bytes of one peer, and never lets a flood from forged addresses keep peers out (see `gate`).

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portolan_model::{Name, codec::MAX_LEN};
use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    Answer, Inbound, Refusal, Shared,
    gate::{Entry, Gate},
    has_known_version,
    link::Link,
    stats::bump,
};
use crate::{
    identity::{Identity, NodeIdentity},
    throttle::Throttle,
};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Connections kept per peer: the live one and those it has not yet noticed to be dead.
const MAX_PER_PEER: usize = 4;

/// Longest envelope on a one-way stream, in bytes: gossip about a full cluster fits. Requests may have `MAX_LEN`.
const MAX_ONE_WAY: usize = 256 << 10;

/// What an envelope costs of a budget besides its bytes: the task and the buffers that hold it.
const OVERHEAD: u32 = 4 << 10;

/// Lines about refused peers: strangers choose how many there are.
static REFUSED: Throttle = Throttle::new(Duration::from_secs(10));

/// How long a stream may take to arrive in full.
const READ_STREAM: Duration = Duration::from_secs(10);

/// How long an answer may take: the longest deadline of any request (an apply forwarded to the leader).
const ANSWER: Duration = Duration::from_secs(30);

/// QUIC close code towards a peer that is not known here.
const UNKNOWN_PEER: u32 = 3;

/// QUIC close code of a connection that a newer one from the same peer pushes out.
const PUSHED_OUT: u32 = 4;

/// TLS alerts by which a handshake says why it failed (RFC 8446 §6.2), as QUIC crypto errors (RFC 9001 §4.8).
const CRYPTO_ERROR: u64 = 0x100;
const NO_APPLICATION_PROTOCOL: u64 = CRYPTO_ERROR + 120;
const CERTIFICATE_ALERTS: [u64; 9] = [
    CRYPTO_ERROR + 42,
    CRYPTO_ERROR + 43,
    CRYPTO_ERROR + 44,
    CRYPTO_ERROR + 45,
    CRYPTO_ERROR + 46,
    CRYPTO_ERROR + 48,
    CRYPTO_ERROR + 49,
    CRYPTO_ERROR + 51,
    CRYPTO_ERROR + 116,
];

/// Accepts until the endpoint closes.
pub(super) async fn run(shared: Arc<Shared>, inbox: mpsc::Sender<Inbound>, answer: Answer) {
    let gate = Gate::new(shared.links.values().map(|link| link.address.ip()));
    let mut connections: JoinSet<()> = JoinSet::new();
    let mut established: JoinSet<Option<(Arc<Link>, Connection)>> = JoinSet::new();
    let mut kept: Vec<(Arc<Link>, VecDeque<Connection>)> =
        shared.links.values().map(|link| (Arc::clone(link), VecDeque::new())).collect();
    loop {
        tokio::select! {
            biased;
            Some(result) = established.join_next() => {
                let Ok(Some((link, connection))) = result else { continue };
                keep(&mut kept, &link, &connection);
                link.note_knock();
                let receiver =
                    Receiver { link, shared: Arc::clone(&shared), inbox: inbox.clone(), answer: Arc::clone(&answer) };
                connections.spawn(receiver.run(connection));
            }
            incoming = shared.endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                let validated = incoming.remote_address_validated();
                match gate.enter(incoming.remote_address().ip(), validated) {
                    Entry::Handshake(permit) => {
                        established.spawn(handshake(incoming, permit, Arc::clone(&shared)));
                    }
                    // Fails for an address that has shown a token, which is never asked for another.
                    Entry::ShowAddress => drop(incoming.retry()),
                    Entry::Full => {
                        shared.counters.refuse(Refusal::Overload);
                        incoming.refuse();
                    }
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Who the other end of a connection is; `None` when its certificate names no node of `cluster`.
pub(super) fn identity_of(connection: &Connection, cluster: &Name) -> Option<NodeIdentity> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match Identity::of_certificate(chain.first()?, cluster) {
        Ok(Identity::Node(node)) => Some(node),
        _ => None,
    }
}

async fn handshake(
    incoming: Incoming,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared>,
) -> Option<(Arc<Link>, Connection)> {
    let address = incoming.remote_address();
    let outcome = match incoming.accept() {
        Ok(connecting) => timeout(HANDSHAKE, connecting).await.unwrap_or(Err(ConnectionError::TimedOut)),
        Err(error) => Err(error),
    };
    drop(permit);
    let connection = match outcome {
        Ok(connection) => connection,
        Err(error) => {
            let refusal = refusal_of(&error);
            shared.counters.refuse(refusal);
            match refusal {
                Refusal::Certificate | Refusal::Version => {
                    if let Some(held_back) = REFUSED.admit(Instant::now()) {
                        warn!(%address, %error, ?refusal, held_back, "mesh peer refused");
                    }
                }
                _ => debug!(%address, %error, "mesh handshake failed"),
            }
            return None;
        }
    };
    let identity = identity_of(&connection, &shared.cluster);
    let link = identity.as_ref().and_then(|node| shared.links.get(&node.name));
    match link.filter(|link| Some(&link.peer) == identity.as_ref()) {
        Some(link) => Some((Arc::clone(link), connection)),
        None => {
            if let Some(held_back) = REFUSED.admit(Instant::now()) {
                warn!(%address, ?identity, held_back, "mesh peer refused: the node file does not name it");
            }
            shared.counters.refuse(Refusal::UnknownPeer);
            connection.close(UNKNOWN_PEER.into(), b"not known here");
            None
        }
    }
}

fn refusal_of(error: &ConnectionError) -> Refusal {
    let code = match error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        ConnectionError::VersionMismatch => return Refusal::Version,
        _ => return Refusal::Handshake,
    };
    match code {
        NO_APPLICATION_PROTOCOL => Refusal::Version,
        code if CERTIFICATE_ALERTS.contains(&code) => Refusal::Certificate,
        _ => Refusal::Handshake,
    }
}

fn keep(kept: &mut [(Arc<Link>, VecDeque<Connection>)], link: &Arc<Link>, connection: &Connection) {
    let (_, connections) =
        kept.iter_mut().find(|(known, _)| Arc::ptr_eq(known, link)).expect("every link has its place");
    connections.retain(|connection| connection.close_reason().is_none());
    if connections.len() >= MAX_PER_PEER
        && let Some(oldest) = connections.pop_front()
    {
        oldest.close(PUSHED_OUT.into(), b"too many connections");
    }
    connections.push_back(connection.clone());
}

/// Receives from one connection.
struct Receiver {
    link: Arc<Link>,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inbound>,
    answer: Answer,
}

impl Receiver {
    async fn run(self, connection: Connection) {
        let receiver = Arc::new(self);
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                datagram = connection.read_datagram() => match datagram {
                    Ok(envelope) => receiver.take_datagram(envelope),
                    Err(_) => return,
                },
                stream = afford(&receiver.link.inbox_budget, connection.accept_uni()) => match stream {
                    Ok((stream, paid)) => drop(streams.spawn(Arc::clone(&receiver).take_stream(stream, paid))),
                    Err(_) => return,
                },
                stream = afford(&receiver.link.request_budget, connection.accept_bi()) => match stream {
                    Ok(((send, receive), paid)) => {
                        streams.spawn(Arc::clone(&receiver).take_request(send, receive, paid));
                    }
                    Err(_) => return,
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }

    fn take_datagram(&self, envelope: Bytes) {
        if !self.admits(&envelope) {
            return;
        }
        let cost = OVERHEAD + cost_of(envelope.len());
        let taken = Arc::clone(&self.link.inbox_budget)
            .try_acquire_many_owned(cost)
            .is_ok_and(|paid| self.inbox.try_send(self.inbound(envelope, paid)).is_ok());
        if !taken {
            self.shared.counters.refuse(Refusal::Overload);
        }
    }

    async fn take_stream(self: Arc<Self>, mut stream: RecvStream, mut paid: OwnedSemaphorePermit) {
        if let Some(envelope) = self.read(&mut stream, MAX_ONE_WAY, &mut paid).await {
            // Fails only when the node's loop has ended.
            let _ = self.inbox.send(self.inbound(envelope.into(), paid)).await;
        }
    }

    /// What the request cost is given back with the answer, so a peer cannot pile up work either.
    async fn take_request(
        self: Arc<Self>,
        mut send: SendStream,
        mut receive: RecvStream,
        mut paid: OwnedSemaphorePermit,
    ) {
        let Some(request) = self.read(&mut receive, MAX_LEN, &mut paid).await else {
            // Dropped without a reset the stream would end well and read as an empty answer.
            let _ = send.reset(0u32.into());
            return;
        };
        let answer = (self.answer)(self.link.peer.clone(), request);
        if let Ok(Some(answer)) = timeout(ANSWER, answer).await
            && send.write_all(&answer).await.is_ok()
        {
            // The peer may have given up on the answer; it then counts a timeout.
            let _ = send.finish();
        } else {
            let _ = send.reset(0u32.into());
        }
    }

    async fn read(&self, stream: &mut RecvStream, max: usize, paid: &mut OwnedSemaphorePermit) -> Option<Vec<u8>> {
        match timeout(READ_STREAM, read_paid(stream, max, paid)).await {
            Ok(Some(envelope)) => self.admits(&envelope).then_some(envelope),
            _ => {
                self.shared.counters.refuse(Refusal::Stream);
                None
            }
        }
    }

    fn admits(&self, envelope: &[u8]) -> bool {
        if !has_known_version(envelope) {
            self.shared.counters.refuse(Refusal::Version);
            return false;
        }
        bump(&self.shared.counters.received);
        self.link.note_heard(self.shared.clock.now().mono);
        true
    }

    fn inbound(&self, envelope: Bytes, paid: OwnedSemaphorePermit) -> Inbound {
        Inbound { from: self.link.peer.clone(), envelope, _paid: paid }
    }
}

/// Takes the next stream once the budget has room for one; until then it waits, and with it the peer.
async fn afford<T>(
    budget: &Arc<Semaphore>,
    stream: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<(T, OwnedSemaphorePermit), ConnectionError> {
    let paid = Arc::clone(budget).acquire_many_owned(OVERHEAD).await.expect("a budget is never closed");
    Ok((stream.await?, paid))
}

/// Reads to the end, paying for bytes before more are read. `None` when the stream breaks or is longer than `max`.
async fn read_paid(stream: &mut RecvStream, max: usize, paid: &mut OwnedSemaphorePermit) -> Option<Vec<u8>> {
    /// Bytes taken at once.
    const CHUNK: usize = 64 << 10;
    let mut envelope = Vec::new();
    while let Some(chunk) = stream.read_chunk(CHUNK, true).await.ok()? {
        if envelope.len() + chunk.bytes.len() > max {
            return None;
        }
        let budget = Arc::clone(paid.semaphore());
        let more = budget.acquire_many_owned(cost_of(chunk.bytes.len())).await.expect("a budget is never closed");
        paid.merge(more);
        envelope.extend_from_slice(&chunk.bytes);
    }
    Some(envelope)
}

fn cost_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
