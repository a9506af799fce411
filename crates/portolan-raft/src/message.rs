//! What nodes say to each other about Raft, and the transport that carries it. Decides nothing; the mesh (or the
//! simulator) encodes, authenticates and delivers.

use std::{future::Future, pin::Pin, time::Duration};

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use portolan_config::{Applied, Command};
use portolan_model::{MemberId, NodeName, RegionId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{Member, TypeConfig};

/// A question to another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// From openraft, for one member: the node of that name may have become another member since, and must not answer
    /// for what the earlier one had acknowledged.
    ToMember(MemberId, MemberRequest),
    /// A command for the leader.
    Propose(Command),
    /// A node without a place in the membership asks the leader for one.
    Join {
        /// The id it has drawn.
        id: MemberId,
        /// What it is.
        member: Member,
        /// The cluster's regions as its region files name them.
        regions: Vec<RegionId>,
    },
    /// Who are you, and have you ever been part of a cluster? Asked before the first membership is made.
    Identify,
    /// A piece of the applied state, for a node that lost its snapshot but not its log.
    FetchSnapshot {
        /// Where the piece begins, in bytes.
        offset: u64,
        /// The state that earlier pieces were of; `None` asks for the latest.
        id: Option<String>,
    },
}

/// What openraft asks of another member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MemberRequest {
    /// Log entries or a heartbeat from the leader.
    Append(AppendEntriesRequest<TypeConfig>),
    /// A candidate asks for a vote.
    Vote(VoteRequest<u64>),
    /// A piece of a snapshot from the leader.
    InstallSnapshot(InstallSnapshotRequest<TypeConfig>),
}

/// The answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`MemberRequest::Append`].
    Append(AppendEntriesResponse<u64>),
    /// To [`MemberRequest::Vote`].
    Vote(VoteResponse<u64>),
    /// To [`MemberRequest::InstallSnapshot`].
    InstallSnapshot(InstallSnapshotResponse<u64>),
    /// To [`MemberRequest::InstallSnapshot`]: this piece does not follow; begin anew.
    SnapshotMismatch,
    /// To [`Request::Propose`]: committed and applied, or refused by the leader before that.
    Applied(Applied),
    /// To [`Request::Propose`]: it may or may not take effect.
    Uncertain,
    /// To [`Request::Propose`] and [`Request::Join`]: not appended here, since this node does not lead.
    NotLeader {
        /// Who does, as far as this node knows.
        leader: Option<NodeName>,
    },
    /// To [`Request::Propose`] and [`Request::Join`]: not appended, since the disk is full.
    DiskFull {
        /// What was looked at and what is missing.
        reason: String,
    },
    /// To [`Request::Join`]: the node is a voter.
    Joined,
    /// To [`Request::Identify`].
    Identity {
        /// The member id.
        id: MemberId,
        /// What the node is.
        member: Member,
        /// It has no log and no snapshot, and none was lost.
        pristine: bool,
        /// The cluster's regions as its region files name them.
        regions: Vec<RegionId>,
    },
    /// To [`Request::FetchSnapshot`].
    SnapshotPiece {
        /// The state that the piece is of.
        id: String,
        /// Length of the whole in bytes.
        len: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Nothing was done.
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// Why a call has no answer. The difference matters: a command that was sent may have been applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unreachable {
    /// Nothing has left this node.
    #[error("not sent: {reason}")]
    NotSent {
        /// Why.
        reason: String,
    },
    /// The request may have arrived.
    #[error("no answer: {reason}")]
    NoAnswer {
        /// Why.
        reason: String,
    },
}

/// Carries requests to other nodes. The receiver passes them to `Raft::handle` with the sender's authenticated name.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Asks `target` and waits for the answer, at most `timeout`. Dropping the future gives up waiting.
    fn call(
        &self,
        target: &NodeName,
        request: Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Response, Unreachable>> + Send;
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response, Unreachable>> + Send + 'a>>;

/// [`Transport`] behind a pointer, so that `Raft` has no type parameter.
pub(crate) trait ErasedTransport: Send + Sync + 'static {
    fn call<'a>(&'a self, target: &'a NodeName, request: Request, timeout: Duration) -> Answer<'a>;
}

impl<T: Transport> ErasedTransport for T {
    fn call<'a>(&'a self, target: &'a NodeName, request: Request, timeout: Duration) -> Answer<'a> {
        Box::pin(Transport::call(self, target, request, timeout))
    }
}
