//! openraft's calls to other members, over the transport. Decides the pace of retries and how an answer reads to
//! openraft; never what to send.
//!
//! Every failure is a network error that takes at least a moment: openraft sends again at once after one, and its own
//! back-off (for peers called unreachable) selects in an order that no seed fixes.

use std::{sync::Arc, time::Duration};

use openraft::{
    AsyncRuntime, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use portolan_model::MemberId;
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    liveness::Liveness,
    message::{ErasedTransport, MemberRequest, Request, Response, Unreachable},
    runtime::Runtime,
    types::{Member, TypeConfig},
};

/// Least time that a failed append takes.
const FAILURE_PACE: Duration = Duration::from_millis(100);

/// Makes a [`Peer`] per member.
pub struct Network {
    pub transport: Arc<dyn ErasedTransport>,
    pub liveness: Arc<Liveness>,
}

/// Another member.
pub struct Peer {
    id: u64,
    member: Member,
    transport: Arc<dyn ErasedTransport>,
    liveness: Arc<Liveness>,
}

#[derive(Debug, Error)]
enum CallError {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the node did nothing: {0}")]
    Unavailable(String),
    #[error("the answer is to another question")]
    Mismatched,
}

type Failure<E = openraft::error::Infallible> = RPCError<u64, Member, RaftError<u64, E>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer {
            id: target,
            member: node.clone(),
            transport: Arc::clone(&self.transport),
            liveness: Arc::clone(&self.liveness),
        }
    }
}

impl Peer {
    async fn call(&self, request: MemberRequest, option: &RPCOption) -> Result<Response, CallError> {
        let request = Request::ToMember(MemberId(self.id), request);
        Ok(self.transport.call(&self.member.name, request, option.hard_ttl()).await?)
    }
}

fn failure<E: std::error::Error>(error: &CallError) -> Failure<E> {
    RPCError::Network(NetworkError::new(error))
}

fn unexpected(response: Response) -> CallError {
    match response {
        Response::Unavailable { reason } => CallError::Unavailable(reason),
        _ => CallError::Mismatched,
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let (vote, sent) = (rpc.vote, Instant::now());
        let error = match self.call(MemberRequest::Append(rpc), &option).await {
            Ok(Response::Append(answer)) => {
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.liveness.acknowledged(self.id, vote, sent);
                }
                return Ok(answer);
            }
            Ok(other) => unexpected(other),
            Err(error) => error,
        };
        Runtime::sleep_until(sent + FAILURE_PACE.min(option.hard_ttl() / 2)).await;
        Err(failure(&error))
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        let segment = |offset| openraft::SnapshotSegmentId { id: rpc.meta.snapshot_id.clone(), offset };
        let mismatch = SnapshotMismatch { expect: segment(0), got: segment(rpc.offset) };
        match self.call(MemberRequest::InstallSnapshot(rpc), &option).await {
            Ok(Response::InstallSnapshot(answer)) => Ok(answer),
            Ok(Response::SnapshotMismatch) => {
                Err(RemoteError::new(self.id, RaftError::APIError(mismatch.into())).into())
            }
            Ok(other) => Err(failure(&unexpected(other))),
            Err(error) => Err(failure(&error)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        match self.call(MemberRequest::Vote(rpc), &option).await {
            Ok(Response::Vote(answer)) => Ok(answer),
            Ok(other) => Err(failure(&unexpected(other))),
            Err(error) => Err(failure(&error)),
        }
    }
}
