//! What can be put into the replicated log, and what comes of it. Facts that a rule needs are frozen into the command by
//! its proposer: applying one reads nothing but the state and the command.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_model::{MemberId, Name, NodeName, RegionId, Revision, WallTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Bundle;

/// A change of the cluster's intent, as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// When it was proposed.
    pub at: WallTime,
    /// What is to change.
    pub change: Change,
}

/// What a command changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Put a document in force.
    Apply {
        /// The document and the files it names.
        bundle: Bundle,
        /// The operator, from the certificate.
        author: String,
        /// Refused unless this revision is in force; `None` skips the check.
        expected: Option<Revision>,
    },
    /// Put the document of an earlier revision in force, as a new revision.
    Rollback {
        /// The earlier revision.
        to: Revision,
        /// The operator.
        author: String,
    },
    /// Take a region out of service.
    Drain {
        /// The region.
        region: RegionId,
        /// Why.
        reason: String,
        /// The operator.
        author: String,
        /// Healthy regions as the proposer saw them.
        serving: Vec<RegionId>,
    },
    /// End a drain.
    Restore {
        /// The region.
        region: RegionId,
        /// The operator.
        author: String,
    },
    /// A node has become a Raft member.
    Join {
        /// The node.
        node: NodeName,
        /// The region it serves.
        region: RegionId,
        /// Its member id.
        member: MemberId,
    },
    /// Nodes of a region fell silent or came back. Proposed by the leader.
    Roster {
        /// The region.
        region: RegionId,
        /// Refused unless the region's roster has this epoch.
        expected: u64,
        /// The nodes that their neighbours hear, as the proposer knew at that time.
        present: Vec<NodeName>,
    },
    /// A node knows of every change of splits up to this one, and from now on heeds them. Proposed by that node.
    Acknowledge {
        /// The node.
        node: NodeName,
        /// The number of the newest change it knows of.
        change: u64,
    },
    /// A node holds every shard that a roster gives it, so whoever held one before spends no more. Proposed by that node.
    TakeOver {
        /// The node.
        node: NodeName,
        /// The epoch of its region's roster.
        epoch: u64,
    },
    /// Split a limit by demand. Proposed by the leader; the demand is frozen in the entry.
    Weigh {
        /// The limit.
        limit: Name,
        /// Units asked of each region.
        demand: BTreeMap<RegionId, u64>,
    },
    /// Take the steps that splits can take by now. Proposed by the leader when one is due and nothing else comes.
    Settle,
    /// Renew the leases of regions on limits that reclaim, and let those lapse that are over. Proposed by the leader.
    Renew {
        /// The regions that the proposer hears, and that hear it.
        regions: BTreeSet<RegionId>,
    },
    /// Give the shares of a region to the others: the operator vouches that it is dead.
    FenceLimits {
        /// The region.
        region: RegionId,
        /// Why.
        reason: String,
        /// The operator.
        author: String,
    },
    /// Give a fenced region its shares back.
    UnfenceLimits {
        /// The region.
        region: RegionId,
        /// The operator.
        author: String,
    },
}

impl Change {
    /// The command that proposes this at a time.
    pub const fn at(self, at: WallTime) -> Command {
        Command { at, change: self }
    }

    /// The node that alone can say this, of commands that speak for one.
    pub const fn speaker(&self) -> Option<&NodeName> {
        match self {
            Self::Join { node, .. } | Self::Acknowledge { node, .. } | Self::TakeOver { node, .. } => Some(node),
            _ => None,
        }
    }

    /// The node that vouches by this for slots before the command's time: it has touched none that begins much later, and
    /// will not forget what it heeds.
    pub const fn vouches(&self) -> Option<&NodeName> {
        match self {
            Self::Acknowledge { node, .. } | Self::TakeOver { node, .. } => Some(node),
            _ => None,
        }
    }
}

/// What came of a command. The same on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// A new revision is in force.
    Accepted {
        /// Its number.
        revision: Revision,
    },
    /// The document in force is the same already.
    Unchanged {
        /// Its number.
        revision: Revision,
    },
    /// The region is draining.
    Drained,
    /// The region serves again.
    Restored,
    /// The node is known.
    Joined {
        /// How often the node has come without its past: 1 means that it never existed before.
        incarnation: u64,
    },
    /// The region's roster is as proposed.
    Listed {
        /// Its epoch.
        epoch: u64,
    },
    /// What the node knows is noted.
    Acknowledged,
    /// What the node holds is noted.
    TakenOver,
    /// The demand is weighed.
    Weighed,
    /// Splits have taken the steps that they could.
    Settled,
    /// Leases are renewed.
    Renewed,
    /// The region's shares go to the others.
    Fenced,
    /// The region gets its shares back.
    Unfenced,
    /// Nothing changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The document has faults.
    #[error("the document has faults:\n{0}")]
    Invalid(String),
    /// Another revision came first.
    #[error("revision {expected} was expected, {current} is in force; look at the difference and apply again")]
    StaleRevision {
        /// What the operator had seen.
        expected: Revision,
        /// What is in force.
        current: Revision,
    },
    /// No document is kept for this revision.
    #[error("no document is kept for revision {revision}; `portolan history` lists those that are")]
    UnknownRevision {
        /// The revision asked for.
        revision: Revision,
    },
    /// The cluster has no such region.
    #[error("the cluster has no region `{region}`")]
    UnknownRegion {
        /// The region asked for.
        region: RegionId,
    },
    /// No healthy region would be left.
    #[error("`{region}` is the last serving region; restore another one first")]
    LastServingRegion {
        /// The region asked for.
        region: RegionId,
    },
    /// There is no drain to end.
    #[error("`{region}` is not draining")]
    NotDrained {
        /// The region asked for.
        region: RegionId,
    },
    /// The drain is in force already.
    #[error("`{region}` is draining already, ordered by {author}: {reason}")]
    AlreadyDrained {
        /// The region asked for.
        region: RegionId,
        /// Who ordered it.
        author: String,
        /// Why.
        reason: String,
    },
    /// The node serves another region.
    #[error("`{node}` is a node of region `{holds}`; a node that moves to `{region}` needs a name of its own")]
    OtherRegion {
        /// The node that asked.
        node: NodeName,
        /// The region it wants to serve.
        region: RegionId,
        /// The region it serves.
        holds: RegionId,
    },
    /// The roster has changed since.
    #[error("epoch {expected} of the nodes of `{region}` was expected, {current} is in force")]
    StaleRoster {
        /// The region.
        region: RegionId,
        /// What the proposer had seen.
        expected: u64,
        /// What is in force.
        current: u64,
    },
    /// A node cannot be listed in a region that it does not serve.
    #[error("`{node}` is not a node of region `{region}`")]
    NotOfRegion {
        /// The node.
        node: NodeName,
        /// The region.
        region: RegionId,
    },
    /// A region keeps at least one node.
    #[error("no node of `{region}` would be left")]
    EmptyRoster {
        /// The region.
        region: RegionId,
    },
    /// The node is no member.
    #[error("`{node}` is no member of the cluster")]
    UnknownNode {
        /// The node.
        node: NodeName,
    },
    /// A node vouches for slots that are to come by the leader's clock.
    #[error("the clock of `{node}`, or what it has spent by an earlier one, is {ahead:?} ahead of the leader's")]
    ClockAhead {
        /// The node.
        node: NodeName,
        /// By how much.
        ahead: Duration,
    },
    /// No document in force asks for this split.
    #[error("limit `{limit}` is not split by demand")]
    NotByDemand {
        /// The limit.
        limit: Name,
    },
    /// The region is fenced already.
    #[error("the limits of `{region}` are fenced already, ordered by {author}")]
    AlreadyFenced {
        /// The region asked for.
        region: RegionId,
        /// Who ordered it.
        author: String,
    },
    /// There is no fence to lift.
    #[error("the limits of `{region}` are not fenced")]
    NotFenced {
        /// The region asked for.
        region: RegionId,
    },
    /// No region would be left to hold shares.
    #[error("`{region}` is the last region that holds shares of limits; unfence another one first")]
    LastHolder {
        /// The region asked for.
        region: RegionId,
    },
    /// A bound of the replicated state is reached.
    #[error("{what} has {len}, at most {max} are kept")]
    TooMuch {
        /// What is bounded.
        what: String,
        /// Its size.
        len: u64,
        /// The bound.
        max: u64,
    },
}
