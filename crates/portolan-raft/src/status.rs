//! What a node knows about the Raft cluster at this moment. Decides nothing; cheap enough to ask every 50 ms.

use std::time::Duration;

use openraft::ServerState;
use portolan_model::{MemberId, NodeName};
use serde::{Deserialize, Serialize};

use crate::types::Member;

/// A node's part in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Raft does not run: a lost snapshot is being fetched.
    #[default]
    Starting,
    /// Not a voter, or not a member at all.
    Learner,
    /// A voter that follows.
    Follower,
    /// A voter that stands for election.
    Candidate,
    /// The leader, at least in its own eyes.
    Leader,
    /// Raft has stopped, see [`Status::fault`].
    Stopped,
}

impl From<ServerState> for Role {
    fn from(state: ServerState) -> Self {
        match state {
            ServerState::Learner => Self::Learner,
            ServerState::Follower => Self::Follower,
            ServerState::Candidate => Self::Candidate,
            ServerState::Leader => Self::Leader,
            ServerState::Shutdown => Self::Stopped,
        }
    }
}

/// One reading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node's member id.
    pub member: MemberId,
    /// Its part.
    pub role: Role,
    /// The term it is in.
    pub term: u64,
    /// The leader of that term, if known.
    pub leader: Option<(MemberId, NodeName)>,
    /// A follower has heard the leader, or the leader was answered by a majority, within five heartbeats.
    pub leader_is_live: bool,
    /// Voters of the membership in force, in order of their names.
    pub voters: Vec<NodeName>,
    /// The membership is changing: two sets of voters must agree.
    pub changing: bool,
    /// Index of the last applied entry.
    pub last_applied: Option<u64>,
    /// Index of the last entry in the log.
    pub last_log: Option<u64>,
    /// Of a leader: time since a majority had answered it.
    pub since_quorum: Option<Duration>,
    /// Why new revisions are refused for want of space, if they are.
    pub disk_full: Option<String>,
    /// Why Raft has stopped, if it has. The node serves its last intent all the same.
    pub fault: Option<String>,
}

/// Who leads; changes seldom, so it can be awaited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Its leader, if known.
    pub leader: Option<(MemberId, NodeName)>,
}

type Metrics = openraft::RaftMetrics<u64, Member>;

/// The leader that metrics name, with the name its membership gives.
pub(crate) fn leader(metrics: &Metrics) -> Option<(MemberId, NodeName)> {
    let id = metrics.current_leader?;
    let member = metrics.membership_config.membership().get_node(&id)?;
    Some((MemberId(id), member.name.clone()))
}

/// Names of the voters, sorted.
pub(crate) fn voters(metrics: &Metrics) -> Vec<NodeName> {
    let membership = metrics.membership_config.membership();
    let mut names: Vec<NodeName> =
        membership.voter_ids().filter_map(|id| membership.get_node(&id)).map(|member| member.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// openraft's reason for having stopped.
pub(crate) fn fault(metrics: &Metrics) -> Option<String> {
    metrics.running_state.as_ref().err().map(ToString::to_string)
}

/// Who leads, from metrics.
pub(crate) fn leadership(metrics: &Metrics) -> Leadership {
    Leadership { term: metrics.current_term, leader: leader(metrics) }
}
