//! A node's account of itself for operators.

use std::{collections::BTreeSet, time::Duration};

use portolan_config::LimitId;
use portolan_geodns::RegionState;
use portolan_limits::{Key, KeyUsage, SlotDigest};
use portolan_model::{NodeName, Now, RegionId, Timestamp};
use portolan_routing::{EndpointRef, Health};

use super::Node;
use crate::{
    Counts, EndpointHealth, EndpointStatus, NodeStatus, PeerFacts, PeerNodeStatus, RaftStatus, RegionHealth,
    RegionStatus, Sight,
};

impl Node {
    /// The state of this node at this moment.
    pub fn status(&self, now: Now) -> NodeStatus {
        let raft = self.guard.raft().cloned().unwrap_or_default();
        let RaftStatus { leader, leader_is_live, is_leader, term, .. } = raft;
        let members = self.gossip.members();
        let peer =
            |(node, region): (&NodeName, &RegionId)| (node.clone(), self.peer_status(node, region, &members, now.mono));
        NodeStatus {
            node: self.config.name.clone(),
            region: self.config.region.clone(),
            revision: self.intent.revision,
            ready: self.ready,
            limits_active: self.limits_started && self.limits.limiter().active(),
            draining: self.view.draining,
            leader,
            leader_is_live,
            is_leader,
            term,
            eligible: self.eligible,
            regions: self
                .states
                .iter()
                .map(|(region, state)| (region.clone(), self.region_status(region, state)))
                .collect(),
            peers: self.config.peers.iter().map(peer).collect(),
            endpoints: self
                .compiled
                .board
                .endpoints(now.mono)
                .map(|endpoint| endpoint_status(&endpoint, now.mono))
                .collect(),
            limit_peers: self.limits.peers(now),
            limits: self.limits.overview(now),
            limit_views: self.limits.views(now),
            limit_waits: self.limits.waits(),
            limit_counts: self.limits.stats(),
            slot_digests: self.slot_digests(now),
            counts: self.counts(),
        }
    }

    /// What this node holds of the live slots of the keys that it owns.
    pub fn slot_digests(&self, now: Now) -> Vec<SlotDigest> {
        self.limits.slot_digests(now)
    }

    /// The slot that each limit is in, by this node's clock.
    pub fn current_slots(&self, now: Now) -> Vec<(LimitId, u64)> {
        self.limits.current_slots(now)
    }

    /// What is known here of one key of a limit, in its running slot. `None` for a limit that is not in force.
    pub fn key_usage(&self, limit: LimitId, key: Key, now: Now) -> Option<KeyUsage> {
        self.limits.explain(limit, key, now)
    }

    /// What is known of each of some counters; `None` for one of a limit that is not defined.
    pub fn counters(&self, counters: &[(LimitId, Key)], now: Now) -> Vec<Option<KeyUsage>> {
        counters.iter().map(|&(limit, key)| self.limits.explain(limit, key, now)).collect()
    }

    /// Time since any node of `region` was heard; since the start of this node for one never heard.
    pub fn silence_of(&self, region: &RegionId, now: Timestamp) -> Duration {
        match self.presence.sight(region, now) {
            Sight::Heard { age } | Sight::Silent { age } => age,
            Sight::Unknown => now.since(self.presence.started()),
        }
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        let gossip = self.gossip.stats();
        Counts {
            dropped: self.counts.dropped + gossip.dropped,
            facts_taken: gossip.facts_taken,
            renewed: gossip.renewed,
            ..self.counts
        }
    }

    fn region_status(&self, region: &RegionId, state: RegionState) -> RegionStatus {
        let state = match state {
            RegionState::Serving => RegionHealth::Serving,
            RegionState::Draining => RegionHealth::Draining,
            RegionState::Down => RegionHealth::Down,
            RegionState::DrainingDown => RegionHealth::DrainingDown,
        };
        RegionStatus { state, drain: self.intent.drains.get(region).map(|drain| drain.reason.clone()) }
    }

    fn peer_status(
        &self,
        node: &NodeName,
        region: &RegionId,
        members: &BTreeSet<&NodeName>,
        now: Timestamp,
    ) -> PeerNodeStatus {
        let facts = self.known.get(node).map(|known| PeerFacts {
            age: now.since(known.received),
            revision: known.facts.revision,
            ready: known.facts.ready,
            draining: known.facts.draining,
            endpoints_usable: known.facts.endpoints_usable,
            endpoints: known.facts.endpoints,
        });
        PeerNodeStatus {
            region: region.clone(),
            member: members.contains(node),
            heard: self.presence.heard(node).map(|heard| now.since(heard)),
            silent: self.is_silent(node, members, now),
            clock_offset_ms: self.heartbeats.get(node).map(|last| last.clock_offset_ms),
            facts,
        }
    }
}

fn endpoint_status(endpoint: &EndpointRef<'_>, now: Timestamp) -> EndpointStatus {
    let health = match endpoint.health {
        Health::Unknown => EndpointHealth::Unknown,
        Health::Healthy => EndpointHealth::Healthy,
        Health::Unhealthy => EndpointHealth::Unhealthy,
        Health::Ejected { until } => EndpointHealth::Ejected { remaining: until.since(now) },
    };
    EndpointStatus {
        service: endpoint.service.name.clone(),
        region: endpoint.region.clone(),
        address: endpoint.address.to_string(),
        health,
        in_flight: endpoint.in_flight,
    }
}
