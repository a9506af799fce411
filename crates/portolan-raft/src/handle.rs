//! Answers to other nodes. Decides what a node says while it cannot take part, and what a follower with a full disk does
//! with entries. Never forwards a request: a proposal makes one hop.

use std::{sync::Arc, time::Duration};

use openraft::{
    AsyncRuntime,
    error::{InstallSnapshotError, RaftError},
    raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest},
};
use portolan_model::{MemberId, NodeName, codec};
use tokio::time::Instant;

use crate::{
    message::{MemberRequest, Request, Response},
    raft::{Inner, Raft},
    runtime::Runtime,
    types::{Core, TypeConfig},
};

/// Longest time that a node works on a request; its senders wait less.
const DEADLINE: Duration = Duration::from_secs(10);
/// Largest snapshot that is taken from a leader, in bytes.
const MAX_SNAPSHOT: u64 = 64 << 20;

impl Raft {
    /// Answers `request` of the node that the transport authenticated as `from`.
    pub async fn handle(&self, from: &NodeName, request: Request) -> Response {
        if let Request::Propose(command) = request {
            if let Some(speaker) = command.change.speaker().filter(|speaker| *speaker != from) {
                return unavailable(format!("`{from}` may not speak for `{speaker}`"));
            }
            // Keeps its deadline itself: to give up on it is not to say that nothing was done.
            return self.inner.propose_here(command, Instant::now() + DEADLINE).await;
        }
        match Runtime::timeout(DEADLINE, self.inner.answer(from, request)).await {
            Ok(response) => response,
            Err(_) => unavailable("no answer in time"),
        }
    }
}

fn unavailable(reason: impl ToString) -> Response {
    Response::Unavailable { reason: reason.to_string() }
}

impl Inner {
    async fn answer(self: &Arc<Self>, from: &NodeName, request: Request) -> Response {
        match request {
            Request::Identify => Response::Identity {
                id: self.store.member(),
                member: self.me(),
                pristine: self.store.is_pristine(),
                regions: self.config.regions.ids().to_vec(),
            },
            Request::FetchSnapshot { offset, id } => self.serve_state(offset, id),
            Request::Propose(_) => unavailable("a proposal is answered elsewhere"),
            Request::Join { id, member, regions } if member.name == *from => match self.other_regions(&regions) {
                Some(reason) => unavailable(reason),
                None => self.admit(id, member).await,
            },
            Request::Join { member, .. } => unavailable(format!("`{from}` may not join as `{}`", member.name)),
            Request::ToMember(to, request) => self.answer_member(from, to, request).await,
        }
    }

    /// Answers if `to` is this node's present member id.
    async fn answer_member(&self, from: &NodeName, to: MemberId, request: MemberRequest) -> Response {
        if to != self.store.member() {
            return unavailable(format!("this node is member {}, not {to}", self.store.member()));
        }
        let speaker = match &request {
            MemberRequest::Append(rpc) => rpc.vote.leader_id.node_id,
            MemberRequest::InstallSnapshot(rpc) => rpc.vote.leader_id.node_id,
            MemberRequest::Vote(rpc) => rpc.vote.leader_id.node_id,
        };
        let core = match self.core_for(from, speaker) {
            Ok(core) => core,
            Err(reason) => return unavailable(reason),
        };
        match request {
            MemberRequest::Append(rpc) => self.append(core, rpc).await,
            MemberRequest::InstallSnapshot(rpc) => self.install(core, rpc).await,
            MemberRequest::Vote(rpc) => core.vote(rpc).await.map_or_else(unavailable, Response::Vote),
        }
    }

    /// The core, if Raft runs here and `from` may speak for the member `id`.
    fn core_for(&self, from: &NodeName, id: u64) -> Result<&Core, String> {
        let core = self.core().ok_or("Raft has not started")?;
        let metrics = core.metrics();
        let metrics = metrics.borrow();
        match metrics.membership_config.membership().get_node(&id) {
            Some(member) if member.name != *from => {
                Err(format!("member {} is `{}`, not `{from}`", MemberId(id), member.name))
            }
            _ => Ok(core),
        }
    }

    /// A follower without space takes the heartbeat and not the entries, so that Raft is never stuck in a write: it
    /// still hears its leader and votes, and takes the entries when there is space.
    async fn append(&self, core: &Core, mut rpc: AppendEntriesRequest<TypeConfig>) -> Response {
        let len = if rpc.entries.is_empty() { 0 } else { codec::encode(&rpc.entries).map_or(0, |bytes| bytes.len()) };
        let refused = !rpc.entries.is_empty() && self.store.shortage(len).is_some();
        if refused {
            rpc.entries.clear();
        }
        let (vote, before) = (rpc.vote, rpc.prev_log_id);
        match core.append_entries(rpc).await {
            Err(error) => unavailable(error),
            Ok(answer @ AppendEntriesResponse::HigherVote(_)) => Response::Append(answer),
            Ok(answer) => {
                self.liveness.heard(vote, Instant::now());
                if refused && answer.is_success() {
                    // The leader sends the rest at once; this sets its pace.
                    Runtime::sleep(self.config.timing.heartbeat / 4).await;
                    // Of nothing a leader cannot take note: openraft demands that what matches is an entry.
                    return match before {
                        Some(_) => Response::Append(AppendEntriesResponse::PartialSuccess(before)),
                        None => unavailable("no space for the first entries"),
                    };
                }
                Response::Append(answer)
            }
        }
    }

    async fn install(&self, core: &Core, rpc: InstallSnapshotRequest<TypeConfig>) -> Response {
        if rpc.offset.saturating_add(rpc.data.len() as u64) > MAX_SNAPSHOT {
            return unavailable("the snapshot is too long");
        }
        let vote = rpc.vote;
        match core.install_snapshot(rpc).await {
            Ok(answer) => {
                self.liveness.heard(vote, Instant::now());
                Response::InstallSnapshot(answer)
            }
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(_))) => Response::SnapshotMismatch,
            Err(error) => unavailable(error),
        }
    }
}
