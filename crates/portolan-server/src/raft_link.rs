//! Raft over the mesh: requests out, requests in. Decides only whether a lost request may have arrived, which Raft must
//! know to tell a failed change from an uncertain one.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use portolan_model::{NodeName, codec};
use portolan_raft::{Raft, Request, Response, Transport, Unreachable};

use crate::mesh::{Answer, Mesh, RequestError};

/// Carries Raft's requests over the mesh.
#[derive(Clone)]
pub struct MeshTransport {
    mesh: Mesh,
}

impl MeshTransport {
    /// A transport over `mesh`.
    pub fn new(mesh: Mesh) -> Self {
        Self { mesh }
    }
}

impl Transport for MeshTransport {
    fn call(
        &self,
        target: &NodeName,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response, Unreachable>> + Send {
        let mesh = self.mesh.clone();
        let target = target.clone();
        async move {
            let envelope =
                codec::encode(&request).map_err(|error| Unreachable::NotSent { reason: error.to_string() })?;
            let answer = mesh.request(&target, &envelope, timeout).await.map_err(unreachable)?;
            codec::decode(&answer).map_err(|error| {
                mesh.count_malformed();
                Unreachable::NoAnswer { reason: error.to_string() }
            })
        }
    }
}

/// Where the mesh finds Raft: it is there only once it has started, and until then requests are not answered.
pub type RaftSlot = Arc<OnceLock<Raft>>;

/// Answers the requests of peers by Raft on this node.
pub fn answer(raft: RaftSlot) -> Answer {
    Arc::new(move |from, envelope| {
        let raft = raft.get().cloned();
        Box::pin(async move {
            let request: Request = codec::decode(&envelope).ok()?;
            let response = raft?.handle(&from.name, request).await;
            codec::encode(&response).ok()
        })
    })
}

fn unreachable(error: RequestError) -> Unreachable {
    let reason = error.to_string();
    match error {
        RequestError::UnknownPeer | RequestError::NotConnected => Unreachable::NotSent { reason },
        RequestError::Broken | RequestError::Timeout | RequestError::UnknownVersion => Unreachable::NoAnswer { reason },
    }
}
