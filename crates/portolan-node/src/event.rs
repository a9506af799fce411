//! What happened in a node, for logs, metrics and the driver's own duties.

use portolan_model::{MemberId, Name, NodeName, RegionId, WallTime};
use portolan_routing::{EndpointId, Health};

/// Something worth telling. The driver must act on [`Event::EligibleForElection`]; the others inform.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Whether Raft may stand for election from here on; it may not before the first such event.
    EligibleForElection(bool),
    /// A region is not to be named in DNS.
    RegionDown {
        /// The region.
        region: RegionId,
    },
    /// A region is well again.
    RegionUp {
        /// The region.
        region: RegionId,
    },
    /// A node has been silent for a second: time to dial it anew.
    PeerStale {
        /// The node.
        node: NodeName,
    },
    /// A node that was silent, or never heard, speaks.
    PeerFresh {
        /// The node.
        node: NodeName,
    },
    /// The membership protocol found a node alive.
    MemberUp {
        /// The node.
        node: NodeName,
    },
    /// The membership protocol agreed that a node is gone.
    MemberDown {
        /// The node.
        node: NodeName,
    },
    /// Probes or requests changed an endpoint's health.
    EndpointHealth {
        /// The endpoint.
        endpoint: EndpointId,
        /// Its health from here on.
        health: Health,
    },
    /// Another process joined under this node's name: this one spends nothing more, and should be stopped.
    Replaced {
        /// The member that took over.
        by: MemberId,
    },
    /// The lease of a region on a limit has lapsed: the others get its share of slots from some instant on.
    Reclaim {
        /// The limit.
        limit: Name,
        /// The region.
        region: RegionId,
        /// The instant.
        from: WallTime,
    },
    /// This node can, or can no longer, serve requests.
    Ready(bool),
    /// Something happened in the limits.
    Limits(portolan_limits::Event),
}
