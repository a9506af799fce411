//! Counts what the mesh carried, lost and refused. Labels are fixed words, never chosen by a peer.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use portolan_model::NodeName;

/// Why something from outside was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The certificate is not of this cluster's CA, or names no node of it.
    Certificate,
    /// The peer speaks another version: its ALPN or the envelope says so.
    Version,
    /// A node of this cluster that the node file does not name, or names in another region.
    UnknownPeer,
    /// The handshake failed otherwise.
    Handshake,
    /// The envelope does not decode.
    Malformed,
    /// The stream is longer than an envelope may be, or broke.
    Stream,
    /// More came than the node took: a datagram was dropped.
    Overload,
}

/// Every refusal with its label.
const REFUSALS: [(Refusal, &str); 7] = [
    (Refusal::Certificate, "certificate"),
    (Refusal::Version, "version"),
    (Refusal::UnknownPeer, "unknown_peer"),
    (Refusal::Handshake, "handshake"),
    (Refusal::Malformed, "malformed"),
    (Refusal::Stream, "stream"),
    (Refusal::Overload, "overload"),
];

/// Counters that only rise.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) sent_datagrams: AtomicU64,
    pub(super) sent_streams: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) dropped_unconnected: AtomicU64,
    pub(super) dropped_full: AtomicU64,
    pub(super) dials: AtomicU64,
    pub(super) dials_failed: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
}

/// A reading of the mesh's counters.
#[derive(Clone, Debug, Default)]
pub struct MeshStats {
    /// Envelopes sent as datagrams.
    pub sent_datagrams: u64,
    /// Envelopes sent on streams.
    pub sent_streams: u64,
    /// Envelopes received.
    pub received: u64,
    /// Envelopes not sent, since no connection stood.
    pub dropped_unconnected: u64,
    /// Envelopes not sent, or dropped for newer ones, since a queue was full.
    pub dropped_full: u64,
    /// Connection attempts.
    pub dials: u64,
    /// Connection attempts that failed.
    pub dials_failed: u64,
    /// What was not taken, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Each peer's connection.
    pub peers: BTreeMap<NodeName, PeerStats>,
}

/// One peer's connection.
#[derive(Clone, Debug, Default)]
pub struct PeerStats {
    /// Whether a dialled connection stands.
    pub connected: bool,
    /// Round trip as QUIC estimates it.
    pub rtt: Option<Duration>,
    /// Time since an envelope came from it; `None` when none did yet.
    pub heard_age: Option<Duration>,
}

impl Counters {
    pub(super) fn refuse(&self, refusal: Refusal) {
        let index = REFUSALS.iter().position(|(known, _)| *known == refusal).expect("every refusal is listed");
        self.refused[index].fetch_add(1, Relaxed);
    }

    pub(super) fn snapshot(&self, peers: impl Iterator<Item = (NodeName, PeerStats)>) -> MeshStats {
        let refused = REFUSALS.iter().zip(&self.refused);
        MeshStats {
            sent_datagrams: self.sent_datagrams.load(Relaxed),
            sent_streams: self.sent_streams.load(Relaxed),
            received: self.received.load(Relaxed),
            dropped_unconnected: self.dropped_unconnected.load(Relaxed),
            dropped_full: self.dropped_full.load(Relaxed),
            dials: self.dials.load(Relaxed),
            dials_failed: self.dials_failed.load(Relaxed),
            refused: refused.map(|((_, label), count)| (*label, count.load(Relaxed))).collect(),
            peers: peers.collect(),
        }
    }
}

/// Adds one.
pub(super) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
