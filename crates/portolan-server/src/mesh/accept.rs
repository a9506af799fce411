//! Takes connections that peers dial, and what they send on them.
//!
//! Decides who is let in: a node of this cluster, in the region where the node file puts it. Everything else is
//! closed and counted. Never holds more than a few connections per peer: a newer one pushes out the oldest.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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

use super::{Answer, Inbound, Refusal, Shared, has_known_version, link::Link, stats::bump};
use crate::identity::{Identity, NodeIdentity};

/// Handshakes under way at once; more are refused, which bounds what strangers can make this node compute.
const MAX_HANDSHAKES: usize = 64;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Connections kept per peer: the live one and those it has not yet noticed to be dead.
const MAX_PER_PEER: usize = 4;

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
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
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
                match Arc::clone(&handshakes).try_acquire_owned() {
                    Ok(permit) => drop(established.spawn(handshake(incoming, permit, Arc::clone(&shared)))),
                    Err(_) => {
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
                Refusal::Certificate | Refusal::Version => warn!(%address, %error, ?refusal, "mesh peer refused"),
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
            warn!(%address, ?identity, "mesh peer refused: the node file does not name it");
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
                stream = connection.accept_uni() => match stream {
                    Ok(stream) => drop(streams.spawn(Arc::clone(&receiver).take_stream(stream))),
                    Err(_) => return,
                },
                stream = connection.accept_bi() => match stream {
                    Ok((send, receive)) => drop(streams.spawn(Arc::clone(&receiver).take_request(send, receive))),
                    Err(_) => return,
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }

    fn take_datagram(&self, envelope: Bytes) {
        if self.admits(&envelope) && self.inbox.try_send(self.inbound(envelope)).is_err() {
            self.shared.counters.refuse(Refusal::Overload);
        }
    }

    async fn take_stream(self: Arc<Self>, mut stream: RecvStream) {
        if let Some(envelope) = self.read(&mut stream).await {
            // Fails only when the node's loop has ended.
            let _ = self.inbox.send(self.inbound(envelope.into())).await;
        }
    }

    async fn take_request(self: Arc<Self>, mut send: SendStream, mut receive: RecvStream) {
        let Some(request) = self.read(&mut receive).await else {
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

    async fn read(&self, stream: &mut RecvStream) -> Option<Vec<u8>> {
        match timeout(READ_STREAM, stream.read_to_end(MAX_LEN)).await {
            Ok(Ok(envelope)) => self.admits(&envelope).then_some(envelope),
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

    fn inbound(&self, envelope: Bytes) -> Inbound {
        Inbound { from: self.link.peer.clone(), envelope }
    }
}
