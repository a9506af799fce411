//! What a node tells operators of itself. Built on demand, never on the request path.

use std::{collections::BTreeMap, time::Duration};

use portolan_limits::{LimitUsage, PeerStatus, PeerView, SlotDigest};
use portolan_model::{MemberId, Name, NodeName, RegionId, Revision};
use serde::{Deserialize, Serialize};

/// The state of one node at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The revision it runs.
    pub revision: Revision,
    /// Whether it can serve.
    pub ready: bool,
    /// Whether its limits may admit.
    pub limits_active: bool,
    /// Whether its region is being drained.
    pub draining: bool,
    /// The leader, as far as it knows.
    pub leader: Option<MemberId>,
    /// Whether it hears from the leader, or is it.
    pub leader_is_live: bool,
    /// Whether it leads.
    pub is_leader: bool,
    /// Its term.
    pub term: u64,
    /// Whether it may stand for election.
    pub eligible: bool,
    /// Every region, by name.
    pub regions: BTreeMap<RegionId, RegionStatus>,
    /// Every other node, by name.
    pub peers: BTreeMap<NodeName, PeerNodeStatus>,
    /// Every endpoint.
    pub endpoints: Vec<EndpointStatus>,
    /// Other regions as the limits see them.
    pub limit_peers: Vec<PeerStatus>,
    /// Every limit with its use.
    pub limits: Vec<LimitUsage>,
    /// How old the view of each other region is, and how many loans to it are on their way.
    pub limit_views: Vec<PeerView>,
    /// What the limits wait for and no clock ends.
    pub limit_waits: portolan_limits::Waits,
    /// Counts of the limits since the start.
    pub limit_counts: portolan_limits::Stats,
    /// Digests of live slots: equal on nodes that have heard the same.
    pub slot_digests: Vec<SlotDigest>,
    /// Counts since the start.
    pub counts: Counts,
}

/// One region as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Its state.
    pub state: RegionHealth,
    /// Why it is drained, if it is.
    pub drain: Option<String>,
}

/// A region's state in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionHealth {
    /// Alive and open.
    Serving,
    /// Alive and drained.
    Draining,
    /// Gone.
    Down,
    /// Gone and drained.
    DrainingDown,
}

/// Another node as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerNodeStatus {
    /// Its region.
    pub region: RegionId,
    /// Whether the membership protocol holds it for alive.
    pub member: bool,
    /// Time since it was heard; `None` for never.
    pub heard: Option<Duration>,
    /// Whether nothing has been heard of it for longer than a second, be it since the start of this node.
    pub silent: bool,
    /// Its clock less ours when its last heartbeat came, so less the way it took, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// What it published last; `None` for nothing.
    pub facts: Option<PeerFacts>,
}

/// What another node published last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFacts {
    /// Time since it arrived.
    pub age: Duration,
    /// The revision it runs.
    pub revision: Revision,
    /// Whether it can serve.
    pub ready: bool,
    /// Whether it has seen the order to drain its region.
    pub draining: bool,
    /// Endpoints it holds for usable.
    pub endpoints_usable: u32,
    /// Endpoints it knows.
    pub endpoints: u32,
}

/// One endpoint as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The service.
    pub service: Name,
    /// The region it stands in.
    pub region: RegionId,
    /// Where it listens.
    pub address: String,
    /// Its health.
    pub health: EndpointHealth,
    /// Requests under way from this node.
    pub in_flight: u32,
}

/// An endpoint's health in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointHealth {
    /// No probe has ended yet.
    Unknown,
    /// Probes succeed.
    Healthy,
    /// Probes fail.
    Unhealthy,
    /// Requests failed.
    Ejected {
        /// Time until it is used again.
        remaining: Duration,
    },
}

/// Counts since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages taken.
    pub messages: u64,
    /// Messages refused.
    pub refused: u64,
    /// Messages dropped because the driver did not send them in time.
    pub dropped: u64,
    /// Facts taken because they were newer.
    pub facts_taken: u64,
    /// Times the node had to take a further life in the membership protocol.
    pub renewed: u64,
}
