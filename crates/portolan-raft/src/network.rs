//! openraft's calls to other members, over the transport. Decides the pace of retries and how an answer reads to
//! openraft; never what to send.
//!
//! openraft gives every append one heartbeat interval. Entries that take longer on a narrow path are sent once and go on
//! underway while openraft asks again; heartbeats go beside them, so that the leader is heard.
//!
//! Every failure is a network error that takes at least a moment: openraft sends again at once after one, and its own
//! back-off (for peers called unreachable) selects in an order that no seed fixes.

use std::{sync::Arc, time::Duration};

use openraft::{
    AsyncRuntime, EntryPayload, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use portolan_config::{Change, Command};
use portolan_model::MemberId;
use thiserror::Error;
use tokio::{sync::oneshot, task::AbortHandle, time::Instant};

use crate::{
    liveness::Liveness,
    message::{ErasedTransport, MemberRequest, Request, Response, Unreachable},
    runtime::Runtime,
    types::{Entry, LogId, Member, TypeConfig, Vote},
};

/// Least time that a failed append takes.
const FAILURE_PACE: Duration = Duration::from_millis(100);
/// Bytes of documents beyond which an append may take longer than a heartbeat interval.
const BULK_BYTES: usize = 32 << 10;
/// The narrowest path that entries are sent over, in bytes per second.
const BULK_RATE: usize = 128 << 10;
/// Longest deadline of an append.
const BULK_DEADLINE: Duration = Duration::from_secs(10);

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
    underway: Option<Underway>,
}

/// An append with much in it, sent and not answered yet.
struct Underway {
    vote: Vote,
    before: Option<LogId>,
    last: Option<LogId>,
    sent: Instant,
    answer: oneshot::Receiver<Result<Response, Unreachable>>,
    task: AbortHandle,
}

impl Underway {
    /// Whether what `rpc` asks for is underway, or the beginning of it.
    fn begins(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> bool {
        self.vote == rpc.vote && self.before == rpc.prev_log_id && self.last <= last_of(rpc)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.task.abort();
    }
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
            underway: None,
        }
    }
}

impl Peer {
    async fn call(&self, request: MemberRequest, option: &RPCOption) -> Result<Response, CallError> {
        let request = Request::ToMember(MemberId(self.id), request);
        Ok(self.transport.call(&self.member.name, request, option.hard_ttl()).await?)
    }

    /// Sends `rpc` in a task of its own, which outlives openraft's patience.
    fn send_apart(&self, rpc: AppendEntriesRequest<TypeConfig>, deadline: Duration) -> Underway {
        let (vote, before, last, sent) = (rpc.vote, rpc.prev_log_id, last_of(&rpc), Instant::now());
        let (transport, target) = (Arc::clone(&self.transport), self.member.name.clone());
        let request = Request::ToMember(MemberId(self.id), MemberRequest::Append(rpc));
        let (answered, answer) = oneshot::channel();
        let call = async move {
            let outcome = transport.call(&target, request, deadline).await;
            // Nobody waits any more when the leader has changed.
            let _ = answered.send(outcome);
        };
        Underway { vote, before, last, sent, answer, task: tokio::spawn(call).abort_handle() }
    }

    /// Waits for entries that are underway, which are sent unless they are; with heartbeats beside them from the second
    /// question on. Dropped by openraft at its deadline, and asked again.
    async fn append_bulk(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        bytes: usize,
        option: &RPCOption,
    ) -> Result<Response, CallError> {
        let last = last_of(&rpc);
        let heartbeat = match &self.underway {
            Some(underway) if underway.begins(&rpc) => Some(AppendEntriesRequest { entries: Vec::new(), ..rpc }),
            _ => {
                let needed = Duration::from_millis((bytes * 1000 / BULK_RATE) as u64);
                let deadline = BULK_DEADLINE.min(option.hard_ttl() + needed);
                self.underway = Some(self.send_apart(rpc, deadline));
                None
            }
        };
        // Dropped, and with it aborted, together with this future.
        let mut beating = heartbeat.map(|heartbeat| self.send_apart(heartbeat, option.hard_ttl()));
        let underway = self.underway.as_mut().expect("set above");
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut underway.answer => break outcome,
                heard = async { (&mut beating.as_mut().expect("checked below").answer).await }, if beating.is_some() => {
                    if let (Some(beat), Ok(Ok(Response::Append(AppendEntriesResponse::Success)))) = (beating.take(), heard) {
                        self.liveness.acknowledged(self.id, beat.vote, beat.sent);
                    }
                }
            }
        };
        let sent = underway.last;
        self.underway = None;
        match outcome {
            Ok(Ok(Response::Append(AppendEntriesResponse::Success))) if sent != last => {
                Ok(Response::Append(AppendEntriesResponse::PartialSuccess(sent)))
            }
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(CallError::Mismatched),
        }
    }
}

/// The last entry of an append, or the one before it.
fn last_of(rpc: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id)
}

/// Bytes of the documents in an append.
fn bulk_of(rpc: &AppendEntriesRequest<TypeConfig>) -> usize {
    let bytes = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(Command { change: Change::Apply { bundle, .. }, .. }) => {
            bundle.document.text.len() + bundle.attachments.values().map(String::len).sum::<usize>()
        }
        _ => 0,
    };
    rpc.entries.iter().map(bytes).sum()
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
        let bulk = bulk_of(&rpc);
        let answered = if bulk > BULK_BYTES {
            self.append_bulk(rpc, bulk, &option).await
        } else {
            self.call(MemberRequest::Append(rpc), &option).await
        };
        let error = match answered {
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
