//! A node that lost its snapshot, but neither log nor vote, fetches the applied state of any peer before Raft starts.
//!
//! Its member id stays: it forgot nothing that it had acknowledged. The fetched state must reach at least to where the
//! log was purged; entries that it covers are purged by openraft at the start.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use openraft::AsyncRuntime;
use portolan_model::NodeName;

use crate::{
    machine,
    message::{Request, Response},
    raft::{Inner, SNAPSHOT_PIECE},
    runtime::Runtime,
    saved_snapshot::SavedSnapshot,
};

/// Pause between two rounds over all peers.
const PACE: Duration = Duration::from_secs(1);
/// Deadline of one piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest state that is taken from a peer, in bytes.
const MAX_STATE: u64 = 64 << 20;

/// A state that is being handed out piece by piece.
pub struct Served {
    id: String,
    bytes: Arc<[u8]>,
}

impl Inner {
    /// Asks peers in turn until one has a state that is late enough, and starts Raft with it.
    pub async fn recover_snapshot(self: Arc<Self>) {
        tracing::warn!("the snapshot is lost; a peer's state is being fetched");
        loop {
            for peer in self.peers() {
                let Some(snapshot) = self.fetch_state(&peer).await else { continue };
                if snapshot.meta.last_log_id < self.store.log().purged {
                    continue;
                }
                if let Err(error) = machine::State::read(&snapshot, &self.config.regions) {
                    tracing::error!(%peer, %error, "a fetched snapshot cannot be read");
                    continue;
                }
                if let Err(error) = self.store.save_snapshot(snapshot).await {
                    tracing::error!(%error, "a fetched snapshot cannot be saved");
                    continue;
                }
                match self.start_core().await {
                    Ok(()) => return,
                    Err(error) => tracing::error!(%error, "Raft does not start"),
                }
            }
            Runtime::sleep(PACE).await;
        }
    }

    /// The other founding nodes.
    pub fn peers(&self) -> Vec<NodeName> {
        self.config.bootstrap.iter().filter(|name| **name != self.config.me).cloned().collect()
    }

    async fn fetch_state(&self, peer: &NodeName) -> Option<SavedSnapshot> {
        let (mut bytes, mut of) = (Vec::new(), None);
        loop {
            let request = Request::FetchSnapshot { offset: bytes.len() as u64, id: of.clone() };
            let answer = self.transport.call(peer, request, PIECE_TIMEOUT).await;
            let Ok(Response::SnapshotPiece { id, len, bytes: piece }) = answer else { return None };
            let same = of.as_ref().is_none_or(|of| *of == id);
            let fits = len <= MAX_STATE && (bytes.len() + piece.len()) as u64 <= len;
            if !same || !fits || piece.is_empty() {
                return None;
            }
            of = Some(id);
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 == len {
                return SavedSnapshot::from_bytes(&bytes);
            }
        }
    }

    /// Answers [`Request::FetchSnapshot`]. One state is kept for further pieces; a second fetcher begins anew.
    pub fn serve_state(&self, offset: u64, id: Option<String>) -> Response {
        let unavailable = |reason: &str| Response::Unavailable { reason: reason.to_owned() };
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if id.is_none() {
            let state = self.state();
            if state.applied.is_none() {
                return unavailable("nothing is applied here");
            }
            let Ok(snapshot) = machine::snapshot_of(&state) else { return unavailable("the state does not encode") };
            *served = Some(Served { id: snapshot.meta.snapshot_id.clone(), bytes: snapshot.to_bytes().into() });
        }
        let Some(of) = served.as_ref().filter(|of| id.as_ref().is_none_or(|id| *id == of.id)) else {
            return unavailable("this state is not kept any more");
        };
        let len = of.bytes.len() as u64;
        let start = offset.min(len) as usize;
        let end = offset.saturating_add(SNAPSHOT_PIECE).min(len) as usize;
        Response::SnapshotPiece { id: of.id.clone(), len, bytes: of.bytes[start..end].to_vec() }
    }
}
